"""What the launcher asks of the API server with the rights of its user: a release's pods, their
place in a queue of Kueue, their logs, and connections to their ports.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection
from typing import Any, TypeVar

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError

from fedskd_sim.errors import ClusterUnavailable
from fedskd_sim.kubernetes import portforward
from fedskd_sim.kubernetes.jobs import KUEUE, RUN_KEY
from fedskd_sim.kubernetes.plan import PLAN
from fedskd_sim.kubernetes.pods import FETCH, finding, finished
from fedskd_sim.kubernetes.reasons import answer, claims_of
from fedskd_sim.messages import CONTROLLER

VERSIONS = ("v1beta2", "v1beta1")
QUEUE, GROUP = f"{KUEUE}/queue-name", f"{KUEUE}/pod-group-name"


def group_of(pods: Iterable[Any]) -> tuple[str, str] | None:
    """Name the queue and the group of pods (V1Pod) that wait in one; None where none does."""
    for pod in pods:
        worn = pod.metadata.labels or {}
        if GROUP in worn and finding(pod).standing == "queued":
            return worn[QUEUE], worn[GROUP]
    return None


def place(queue: str, group: str, workloads: Iterable[dict[str, Any]]) -> str:
    """Return at which place of its queue a group is, and why it is not admitted, from the
    namespace's Workloads; none: not known.

    A queue goes by priority, then by age; queues of other namespaces may share its quota, so being
    first is no promise.
    """
    waiting = [
        one
        for one in workloads
        if one["spec"].get("queueName") == queue and not _is(one, "QuotaReserved", "Finished")
    ]
    waiting.sort(
        key=lambda one: (-one["spec"].get("priority", 0), one["metadata"]["creationTimestamp"])
    )
    for number, one in enumerate(waiting, 1):
        if one["metadata"]["name"] == group:
            reasons = [
                condition["message"]
                for condition in _conditions(one)
                if condition["type"] == "QuotaReserved"
            ]
            return f"the ring is number {number} of {len(waiting)} in queue {queue!r}" + "".join(
                f": {text}" for text in reasons
            )
    return f"the ring waits in queue {queue!r}"


def _conditions(workload: dict[str, Any]) -> list[dict[str, Any]]:
    return list(workload.get("status", {}).get("conditions", ()))


def _is(workload: dict[str, Any], *types: str) -> bool:
    return any(one["type"] in types and one["status"] == "True" for one in _conditions(workload))


CONNECTIONS = 160
ASK_S = (5, 30)
FOLLOW_S = (5, 120)
UNKNOWN, MISSING = 401, 404
FORBIDDEN = (UNKNOWN, 403)
NO_LOG = 400
"""How the API server says that a container has never run, or that there is none of this name."""

Result = TypeVar("Result")


class Unreachable(Exception):
    """The API server did not answer this time."""


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn what the API server does not answer, or refuses, into the user's error; raises
    ClusterUnavailable.
    """
    try:
        yield
    except (Unreachable, ApiException) as error:
        raise refused(error) from error


def refused(error: Unreachable | ApiException) -> ClusterUnavailable:
    """Return why the cluster did not do what it was asked, and whose business that is."""
    words, said = str(error), ""
    if isinstance(error, ApiException):
        words = _words(error)
        said = f"{error.status}: {words}" if error.status in FORBIDDEN else ""
    row = answer("user", said)
    return ClusterUnavailable(f"{row.told}: {words}", fix=row.fix)


@dataclass
class Reach:
    """The API with the user's configuration; an empty namespace or context means the
    configuration's own.
    """

    namespace: str = ""
    context: str = ""
    _settings: Any = field(init=False)
    _core: Any = field(init=False)
    _batch: Any = field(init=False)

    def __post_init__(self) -> None:
        """Read the configuration; raises ClusterUnavailable if there is none, or not this
        context.
        """
        self._settings = client.Configuration()
        loader: Any = config  # untyped
        try:
            loader.load_kube_config(
                context=self.context or None, client_configuration=self._settings
            )
            contexts, active = loader.list_kube_config_contexts()
        except (ConfigException, OSError) as error:
            raise ClusterUnavailable(
                f"no cluster is configured: {error}", fix="set KUBECONFIG, or --context"
            ) from error
        chosen = next((one for one in contexts if one["name"] == self.context), active)
        self.namespace = self.namespace or chosen["context"].get("namespace") or "default"
        self._settings.connection_pool_maxsize = CONNECTIONS
        self._settings.retries = False
        api = client.ApiClient(self._settings)
        self._core, self._batch = client.CoreV1Api(api), client.BatchV1Api(api)

    def check(self) -> None:
        """Refuse a namespace that is missing or forbidden; raises ClusterUnavailable."""
        try:
            self.ask(lambda: self._core.read_namespace(self.namespace, _request_timeout=ASK_S))
        except ApiException as error:
            if error.status == MISSING:
                fix = f"kubectl create namespace {self.namespace}"
                raise ClusterUnavailable(
                    f"there is no namespace {self.namespace!r}", fix=fix
                ) from None
        except Unreachable as error:
            raise refused(error) from None
        try:
            self.jobs("none")
        except ApiException as error:
            found = refused(error)
            found.message += f" (namespace {self.namespace!r})"
            found.fix += ", or choose another --namespace" if error.status != UNKNOWN else ""
            raise found from None

    def jobs(self, release: str) -> list[Any]:
        """List a release's Jobs; raises Unreachable, ApiException."""
        return self._list(self._batch.list_namespaced_job, release)

    def pods(self, release: str) -> list[Any]:
        """List a release's pods; raises Unreachable, ApiException."""
        return self._list(self._core.list_namespaced_pod, release)

    def complaint(self, job: str) -> str:
        """Read why a Job's pod cannot be made, in the cluster's words; empty where nothing is
        said, or may not be read.
        """
        wanted = f"reason=FailedCreate,involvedObject.kind=Job,involvedObject.name={job}"
        found = self._events(self.namespace, wanted)
        return str(found[-1].message) if found else ""

    def events(self, pod: Any) -> list[Any]:
        """List what was told of a pod (V1Pod), of its claims and of its node, as far as the user
        may read it.
        """
        found = self._events(self.namespace, f"involvedObject.uid={pod.metadata.uid}")
        if claims_of(pod):
            found += self._events(self.namespace, "involvedObject.kind=PersistentVolumeClaim")
        if pod.spec.node_name:
            wanted = f"involvedObject.kind=Node,involvedObject.name={pod.spec.node_name}"
            found += self._events("default", wanted)
        return found

    def _events(self, namespace: str, wanted: str) -> list[Any]:
        asked = {"field_selector": wanted, "_request_timeout": ASK_S}
        try:
            found = self.ask(lambda: self._core.list_namespaced_event(namespace, **asked))
        except ApiException:
            return []
        return list(found.items)

    def workloads(self) -> list[dict[str, Any]]:
        """List what stands in the namespace's queues of Kueue; empty where that may not be read
        or is not there.
        """
        api: Any = client.CustomObjectsApi(client.ApiClient(self._settings))
        for version in VERSIONS:
            wanted = partial(
                api.list_namespaced_custom_object, KUEUE, version, self.namespace, "workloads"
            )
            with suppress(ApiException, Unreachable):
                return list(self.ask(partial(wanted, _request_timeout=ASK_S))["items"])
        return []

    def lines(self, pod: str, member: str, *, follow: bool) -> Iterator[str]:
        """Yield the lines of a member's log from its beginning, while they come; not of what runs
        beside it in its pod, but what failed to fetch its data in its place.

        Raises:
            Unreachable: the connection broke.
            ApiException: with `NO_LOG`, neither has ever run.

        """
        try:
            asked = self._log(pod, CONTROLLER if member == CONTROLLER else "hospital", follow)
        except ApiException as error:
            if error.status != NO_LOG or member == CONTROLLER:
                raise
            asked = self._log(pod, FETCH, follow)
        rest = b""
        with closing(asked):
            try:
                for chunk in asked.stream(1 << 16):
                    *whole, rest = (rest + chunk).split(b"\n")
                    yield from (line.decode(errors="replace") for line in whole)
            except (HTTPError, OSError) as error:
                raise Unreachable(str(error)) from error
        if rest:
            yield rest.decode(errors="replace")

    def _log(self, pod: str, container: str, follow: bool) -> Any:  # noqa: FBT001 - as the API has it
        return self.ask(
            lambda: self._core.read_namespaced_pod_log(
                pod,
                self.namespace,
                container=container,
                follow=follow,
                _preload_content=False,
                _request_timeout=FOLLOW_S,
            )
        )

    def connect(self, pod: str, port: int, patience: float) -> HTTPConnection:
        """Connect to a port of a pod (`portforward.connect`); raises ConnectionError."""
        return portforward.connect(self._settings, self.namespace, pod, port, patience)

    def config(self, release: str) -> tuple[str, dict[str, str]]:
        """Read the ConfigMap of a release's run: its identity, and its files by name.

        Raises:
            LookupError: there is none.
            Unreachable, ApiException: it cannot be read.

        """
        for one in self._list(self._core.list_namespaced_config_map, release):
            if PLAN in (one.data or {}):
                return str(one.metadata.uid), dict(one.data)
        raise LookupError(f"the release {release!r} has no run")

    def secret(self, name: str) -> bytes:
        """Read the run's secret; raises Unreachable, ApiException."""
        found = self.ask(
            lambda: self._core.read_namespaced_secret(name, self.namespace, _request_timeout=ASK_S)
        )
        return b64decode(found.data[RUN_KEY])

    def make_secret(self, name: str, data: dict[str, bytes], labels: Mapping[str, str]) -> str:
        """Make a secret and return its identity; raises Unreachable, ApiException."""
        shown = {key: b64encode(value).decode() for key, value in data.items()}
        body = {"metadata": {"name": name, "labels": dict(labels)}, "data": shown}
        made = self.ask(
            lambda: self._core.create_namespaced_secret(
                self.namespace, body, _request_timeout=ASK_S
            )
        )
        return str(made.metadata.uid)

    def remove_secret(self, name: str) -> None:
        """Remove a secret, if it is there; raises Unreachable, ApiException."""
        remove = self._core.delete_namespaced_secret
        try:
            self.ask(lambda: remove(name, self.namespace, _request_timeout=ASK_S))
        except ApiException as error:
            if error.status != MISSING:
                raise

    def claim(self, name: str) -> Any:
        """Read a claim; None where there is none. Raises Unreachable, ApiException."""
        read = self._core.read_namespaced_persistent_volume_claim
        try:
            return self.ask(lambda: read(name, self.namespace, _request_timeout=ASK_S))
        except ApiException as error:
            if error.status == MISSING:
                return None
            raise

    def user_of(self, claim: str) -> str:
        """Name a Job of the namespace that mounts a claim and has not ended, suspended or not;
        empty where none does. Raises Unreachable, ApiException.
        """
        listed = self._batch.list_namespaced_job
        for job in self.ask(lambda: listed(self.namespace, _request_timeout=ASK_S)).items:
            if claim in claims_of(job.spec.template) and not finished(job):
                return str(job.metadata.name)
        return ""

    def make_claim(self, body: dict[str, Any]) -> None:
        """Make a claim; raises Unreachable, ApiException."""
        self.ask(
            lambda: self._core.create_namespaced_persistent_volume_claim(
                self.namespace, body, _request_timeout=ASK_S
            )
        )

    def pod(self, name: str) -> Any:
        """Read a pod; raises Unreachable, ApiException."""
        return self.ask(
            lambda: self._core.read_namespaced_pod(name, self.namespace, _request_timeout=ASK_S)
        )

    def make_pod(self, body: dict[str, Any]) -> None:
        """Make a pod; raises Unreachable, ApiException."""
        self.ask(
            lambda: self._core.create_namespaced_pod(self.namespace, body, _request_timeout=ASK_S)
        )

    def remove_pod(self, name: str) -> None:
        """Remove a pod at once; raises Unreachable, ApiException."""
        self.ask(
            lambda: self._core.delete_namespaced_pod(
                name, self.namespace, grace_period_seconds=0, _request_timeout=ASK_S
            )
        )

    def _list(self, function: Callable[..., Any], release: str) -> list[Any]:
        selector = f"app.kubernetes.io/name=fedskd-sim,app.kubernetes.io/instance={release}"
        found = self.ask(
            lambda: function(self.namespace, label_selector=selector, _request_timeout=ASK_S)
        )
        return list(found.items)

    def ask(self, function: Callable[[], Result]) -> Result:
        """Do something that needs the API server; raises Unreachable, ApiException."""
        try:
            return function()
        except ApiException as error:
            if error.status in (0, None) or error.status >= 500:  # noqa: PLR2004 - the server's own trouble
                raise Unreachable(str(error.reason)) from error
            raise
        except (HTTPError, OSError) as error:
            raise Unreachable(str(error)) from error


def _words(error: ApiException) -> str:
    """Return the API server's own words, which name the right that is missing."""
    try:
        return str(json.loads(error.body or "")["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)
