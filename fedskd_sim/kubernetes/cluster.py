"""The calls that the controller makes in its cluster: few, counted, repeated while the API
server is away.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from functools import partial
from threading import Event as Flag
from threading import Lock
from typing import Any, TypeVar

from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from fedskd_sim import clock
from fedskd_sim.errors import ClusterUnavailable, FedskdError, InvalidValue
from fedskd_sim.kubernetes.job_annotations import STARTED, TOOK_PART, Losses
from fedskd_sim.kubernetes.jobs import HOSPITAL
from fedskd_sim.kubernetes.pods import newest
from fedskd_sim.kubernetes.reasons import answer
from fedskd_sim.runtimes.supervisor import UID

AT_ONCE = 20
REPORTER = "fedskd-controller"
WATCH_S = 300
PATIENCE_S = 120.0
LONGEST_PAUSE_S = 5.0
AGAIN = (429, 500, 502, 503, 504)
MISSING, CONFLICT, INVALID = 404, 409, (400, 422)
AT_ONCE_S = 2.0
"""How long the server may take over an answer for which the run waits."""

OWNED: Mapping[str, tuple[Any, str]] = {
    "ConfigMap": (client.CoreV1Api, "config_map"),
    "Secret": (client.CoreV1Api, "secret"),
    "Service": (client.CoreV1Api, "service"),
    "ServiceAccount": (client.CoreV1Api, "service_account"),
    "Role": (client.RbacAuthorizationV1Api, "role"),
    "RoleBinding": (client.RbacAuthorizationV1Api, "role_binding"),
    "NetworkPolicy": (client.NetworkingV1Api, "network_policy"),
    "PodDisruptionBudget": (client.PolicyV1Api, "pod_disruption_budget"),
}
"""Of the kinds of which the chart makes something: the API, and what its methods call it."""
Result = TypeVar("Result")


@dataclass
class KubernetesApi:
    """The API of one namespace, limited to the objects of one run; safe to use from threads."""

    namespace: str
    selector: str
    calls: Counter[str] = field(default_factory=Counter)
    _lock: Lock = field(default_factory=Lock)
    _closed: Flag = field(default_factory=Flag)
    _watcher: Any = None
    """The watch that is open."""
    _core: Any = field(init=False)
    _batch: Any = field(init=False)

    def __post_init__(self) -> None:
        """Use the pod's own account."""
        config.load_incluster_config()  # type: ignore[no-untyped-call]
        settings = client.Configuration.get_default_copy()
        settings.connection_pool_maxsize = AT_ONCE + 4
        # one that the image or the pod knows leads out of the cluster, and the API server is inside
        settings.proxy = None
        api = client.ApiClient(settings)
        self._core, self._batch = client.CoreV1Api(api), client.BatchV1Api(api)
        hasty = copy(settings)
        hasty.retries = False
        self._now = client.CoreV1Api(client.ApiClient(hasty))

    def owner_uid(self, name: str) -> str:
        """Read the identity of the run's ConfigMap."""
        found = self._call(
            "get configmaps", lambda: self._core.read_namespaced_config_map(name, self.namespace)
        )
        return str(found.metadata.uid)

    def create(self, body: dict[str, Any]) -> bool:
        """Create a Job; gives whether it was made, and not there already."""
        try:
            self._call(
                "create jobs", lambda: self._batch.create_namespaced_job(self.namespace, body)
            )
        except ApiException as error:
            if error.status != CONFLICT:
                raise
            return False
        return True

    def annotate_pods(self, key: str, value: str) -> None:
        """Put an annotation on every pod of the run's hospitals that lacks it; what goes
        meanwhile, or may not be changed, stays as it is.
        """
        body = {"metadata": {"annotations": {key: value}}}
        for pod in self.pods_of(f"{self.selector},{HOSPITAL}"):
            if (pod.metadata.annotations or {}).get(key) != value:
                patch = partial(
                    self._core.patch_namespaced_pod, pod.metadata.name, self.namespace, body
                )
                with suppress(FedskdError, ApiException):
                    self._call("patch pods", patch, LONGEST_PAUSE_S)

    def release(self, job: str) -> None:
        """Release a suspended Job, so that its pod is made."""
        self._patch(job, {"spec": {"suspend": False}})

    def suspend(self, job: str) -> None:
        """Remove a Job's pods, and let no other be made."""
        self._patch(job, {"spec": {"suspend": True}})

    def mark_started(self, job: str, losses: Losses) -> Mapping[str, str]:
        """Note on the controller's Job that the run has started, with which pods and without whom,
        for a controller that may come later.

        Returns:
            The beginning of the identity of every hospital's pod. No two machines' clocks are
            compared to know a later one.

        """
        pods = {
            name: pod.metadata.uid[:UID]
            for name, pod in newest(self.pods_of(self.selector)).items()
        }
        notes = {STARTED: str(clock.unix()), TOOK_PART: json.dumps(pods), **losses.notes()}
        self._patch(job, {"metadata": {"annotations": notes}})
        return pods

    def mark_lost(self, job: str, losses: Losses) -> None:
        """Note on the controller's Job who is or was lost, and who is back."""
        self._patch(job, {"metadata": {"annotations": losses.notes()}})

    def remove(self, job: str) -> None:
        """Remove a Job, and with it its pods; one that is gone already is no error."""

        def remove() -> None:
            try:
                self._batch.delete_namespaced_job(
                    job, self.namespace, propagation_policy="Background"
                )
            except ApiException as error:
                if error.status != MISSING:
                    raise

        self._call("delete jobs", remove)

    def note(self, job: str, notes: Mapping[str, str | None], labels: Mapping[str, str]) -> None:
        """Note on the controller's Job how the run stands; None takes a note away."""
        self._patch(job, {"metadata": {"annotations": dict(notes), "labels": dict(labels)}})

    def tell(self, job: str, uid: str, reason: str, message: str, *, warning: bool) -> None:
        """Make an Event of the controller's Job, as ``kubectl describe`` shows them."""
        now = clock.stamp()
        about = {"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": uid}
        body = {
            "metadata": {"generateName": f"{job}."},
            "involvedObject": {**about, "namespace": self.namespace},
            "type": "Warning" if warning else "Normal", "reason": reason, "message": message,
            "source": {"component": REPORTER}, "reportingComponent": REPORTER,
            "reportingInstance": job, "firstTimestamp": now, "lastTimestamp": now, "count": 1,
        }  # fmt: skip
        make = partial(self._core.create_namespaced_event, self.namespace, body)
        self._call("create events", make, LONGEST_PAUSE_S)

    def own(self, kind: str, name: str, owner: str, uid: str) -> None:
        """Let an object go with a Job, which is its owner from now on."""
        reference = {"apiVersion": "batch/v1", "kind": "Job", "name": owner, "uid": uid}
        body = {"metadata": {"ownerReferences": [reference]}}
        group, method = OWNED[kind]
        api = group(self._core.api_client)
        patch = partial(getattr(api, f"patch_namespaced_{method}"), name, self.namespace, body)
        self._call(f"patch {method.replace('_', '')}s", patch)

    def jobs(self) -> list[Any]:
        """List the run's Jobs."""
        found = self._call(
            "list jobs",
            lambda: self._batch.list_namespaced_job(self.namespace, label_selector=self.selector),
        )
        return list(found.items)

    def pods_of(self, selector: str) -> list[Any]:
        """List pods once."""
        return list(
            self._call(
                "list pods",
                lambda: self._core.list_namespaced_pod(self.namespace, label_selector=selector),
            ).items
        )

    def pods_now(self, hospital: str) -> list[Any]:
        """List a hospital's pods as they are now; raises FedskdError, ApiException if the server
        does not answer at once.
        """
        found = self._call(
            "list pods",
            lambda: self._now.list_namespaced_pod(
                self.namespace,
                label_selector=f"{self.selector},{HOSPITAL}={hospital}",
                _request_timeout=AT_ONCE_S,
            ),
            0.0,
        )
        return list(found.items)

    def events(self) -> list[Any]:
        """List what the namespace has told of late."""
        found = self._call("list events", lambda: self._core.list_namespaced_event(self.namespace))
        return list(found.items)

    def pods(self) -> Iterator[tuple[str, Any]]:
        """Yield every change of the run's pods, with its kind (ADDED, MODIFIED, DELETED), until
        this is closed.

        Known pods that are missing after the watch had to begin afresh are yielded as DELETED.
        """
        known: dict[str, Any] = {}
        while not self._closed.is_set():
            listing = self._call("list pods", self._listing, PATIENCE_S * 30)
            present = {pod.metadata.uid: pod for pod in listing.items}
            for uid in [uid for uid in known if uid not in present]:
                yield "DELETED", known.pop(uid)
            known = present
            for pod in present.values():
                yield "MODIFIED", pod
            for kind, pod in self._watch(str(listing.metadata.resource_version)):
                known[pod.metadata.uid] = pod
                if kind == "DELETED":
                    del known[pod.metadata.uid]
                yield kind, pod

    def _listing(self) -> Any:
        return self._core.list_namespaced_pod(self.namespace, label_selector=self.selector)

    def _watch(self, version: str) -> Iterator[tuple[str, Any]]:
        """Watch until the server ends it, forgets the version, or is away."""
        self._count("watch pods")
        made: Any = watch.Watch  # untyped
        self._watcher = made()
        stream = self._watcher.stream(
            self._core.list_namespaced_pod, self.namespace, label_selector=self.selector,
            resource_version=version, timeout_seconds=WATCH_S, _request_timeout=(5, WATCH_S + 30),
        )  # fmt: skip
        try:
            for event in stream:
                if event["type"] == "ERROR" or self._closed.is_set():
                    return
                yield event["type"], event["object"]
        except (ApiException, HTTPError, OSError):
            self._closed.wait(1)

    def close(self) -> None:
        """End the watch of pods; everything else can still be asked."""
        self._closed.set()
        if self._watcher:
            self._watcher.stop()

    def _patch(self, job: str, body: dict[str, Any]) -> None:
        self._call(
            "patch jobs", lambda: self._batch.patch_namespaced_job(job, self.namespace, body)
        )

    def _count(self, verb: str) -> None:
        with self._lock:
            self.calls[verb] += 1

    def _call(
        self, verb: str, function: Callable[[], Result], patience: float = PATIENCE_S
    ) -> Result:
        """Call the API; repeat what is refused for the moment, until patience is over; a patch too
        that came between others' changes, for it says what is to be whatever they did.
        """
        deadline, pause = clock.now() + patience, 0.2
        while True:
            self._count(verb)
            try:
                return function()
            except ApiException as error:
                between = error.status == CONFLICT and verb.startswith("patch")
                if error.status == CONFLICT and not between:
                    raise
                if not (between or error.status in AGAIN) or clock.now() > deadline:
                    raise refusal(verb, error) from error
            except (HTTPError, OSError) as error:
                if clock.now() > deadline:
                    fix = (
                        "look at the cluster's API server, and at the network policy of the "
                        "namespace"
                    )
                    raise ClusterUnavailable(
                        f"the API server does not answer: {error}", fix=fix
                    ) from error
            clock.sleep(pause)
            pause = min(LONGEST_PAUSE_S, pause * 2)


def refusal(verb: str, error: ApiException) -> FedskdError:
    """Return an error that says in our words why the API server refused a call."""
    try:
        said = json.loads(error.body or "")["message"]
    except (ValueError, KeyError, TypeError):
        said = error.reason
    text = f"the API server refused to {verb}: {said}"
    row = answer("call", f"{error.status}: {said}")
    text = f"{row.told}: {text}" if row.told else text
    kind = InvalidValue if error.status in INVALID else ClusterUnavailable
    return kind(text, fix=row.fix)


def seconds(moment: Any) -> float:
    """Turn an API time (a datetime, or None) into UNIX seconds of the cluster's clock."""
    return moment.timestamp() if moment else 0.0
