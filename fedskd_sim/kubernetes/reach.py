"""What the launcher does in a cluster with the rights of its user: look at a release's pods and at
their place in a queue of Kueue, follow logs, fetch results, and bring what hospitals go on from to
the pods of a release that waits for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from kubernetes.stream import stream
from urllib3.exceptions import HTTPError
from websocket import WebSocketException

from fedskd_sim import clock
from fedskd_sim.errors import ClusterUnavailable, InvalidValue, RunUnreadable
from fedskd_sim.kubernetes.helm import RIGHTS
from fedskd_sim.kubernetes.jobs import KUEUE, RUN
from fedskd_sim.kubernetes.plan import Plan
from fedskd_sim.kubernetes.pods import FETCH, finding, newest
from fedskd_sim.messages import CONTROLLER
from fedskd_sim.runtimes import handover
from fedskd_sim.runtimes.handover import PLACED, unpack
from fedskd_sim.runtimes.member import CUSTODY

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
EXEC_S = 300
FORBIDDEN, MISSING = (401, 403), 404
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
        if isinstance(error, ApiException) and error.status in FORBIDDEN:
            text = f"the cluster forbids it: {_words(error)}"
            raise ClusterUnavailable(text, fix=RIGHTS) from error
        reason = error.reason if isinstance(error, ApiException) else error
        fix = "check KUBECONFIG, --context and the network, and try again"
        raise ClusterUnavailable(f"the cluster does not answer: {reason}", fix=fix) from error


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
            self._ask(lambda: self._core.read_namespace(self.namespace, _request_timeout=ASK_S))
        except ApiException as error:
            if error.status == MISSING:
                fix = f"kubectl create namespace {self.namespace}"
                raise ClusterUnavailable(
                    f"there is no namespace {self.namespace!r}", fix=fix
                ) from None
        except Unreachable as error:
            raise ClusterUnavailable(
                f"the cluster does not answer: {error}",
                fix="check KUBECONFIG, --context and the network",
            ) from None
        try:
            self.jobs("none")
        except ApiException as error:
            text = f"the namespace {self.namespace!r} is forbidden: {_words(error)}"
            fix = f"{RIGHTS}, or choose another --namespace"
            raise ClusterUnavailable(text, fix=fix) from None

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
        asked = {"field_selector": wanted, "_request_timeout": ASK_S}
        try:
            found = self._ask(lambda: self._core.list_namespaced_event(self.namespace, **asked))
        except ApiException:
            return ""
        return str(found.items[-1].message) if found.items else ""

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
                return list(self._ask(partial(wanted, _request_timeout=ASK_S))["items"])
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
        return self._ask(
            lambda: self._core.read_namespaced_pod_log(
                pod,
                self.namespace,
                container=container,
                follow=follow,
                _preload_content=False,
                _request_timeout=FOLLOW_S,
            )
        )

    def fetch(self, pod: str, hospital: str, folder: Path) -> None:
        """Bring all that a holding hospital has of weights, predictions, records and timings into a
        folder. Nothing is there in part; the hospital still holds.

        Raises:
            Unreachable: the connection broke, or what came was not whole.

        """
        _unpack(self._run(pod, ["fedskd-sim", "results", RUN]), pod, hospital, folder)

    def let_go(self, pod: str) -> None:
        """Dismiss a holding hospital; raises Unreachable, ApiException."""
        self._run(pod, ["fedskd-sim", "results", RUN, "--fetched"])

    def take(self, pod: str, hospital: str, folder: Path) -> None:
        """Bring what a hospital goes on from out of its pod into a run folder, in place of what is
        there; then it is nowhere else.

        Raises:
            Unreachable: the connection broke, or what came was not whole.
            RunUnreadable: its pod has nothing.

        """
        text = self._run(pod, ["fedskd-sim", "results", RUN, "--kept", hospital])
        if not text.strip() and any((folder / CUSTODY / hospital).glob("commit-*")):
            return  # taken before, and removed there
        if not text.strip():
            fix = "give --values with the claims on which the run kept it"
            raise RunUnreadable(
                f"the pod of {hospital!r} has nothing from which it could go on", fix=fix
            )
        _unpack(text, pod, hospital, folder)
        self._run(pod, ["fedskd-sim", "results", RUN, "--taken", hospital])

    def bring(self, pod: str, lines: Iterable[str]) -> None:
        """Bring what a hospital goes on from (`fedskd_sim.runtimes.handover.pack`) into its
        pod; raises Unreachable.
        """
        if PLACED not in self._run(pod, ["fedskd-sim", "place", RUN], lines):
            raise Unreachable(f"what was brought to {pod} did not arrive")

    def _run(self, pod: str, command: list[str], given: Iterable[str] = ()) -> str:
        """Carry out a command in a hospital's pod; gives what it prints."""
        # one of its own: a stream changes its client
        api: Any = client.CoreV1Api(client.ApiClient(self._settings))
        opened: Any = stream
        asked = {
            "container": "hospital",
            "command": command,
            "stdout": True,
            "stderr": False,
            "stdin": bool(given),
            "tty": False,
        }

        def whole() -> str:
            connection = opened(
                api.connect_get_namespaced_pod_exec,
                pod,
                self.namespace,
                _preload_content=False,
                **asked,
            )
            with closing(connection):
                for line in given:
                    connection.write_stdin(line + "\n")
                connection.run_forever(timeout=EXEC_S)
                return str(connection.read_all())

        return self._ask(whole)

    def _list(self, function: Callable[..., Any], release: str) -> list[Any]:
        selector = f"app.kubernetes.io/name=fedskd-sim,app.kubernetes.io/instance={release}"
        found = self._ask(
            lambda: function(self.namespace, label_selector=selector, _request_timeout=ASK_S)
        )
        return list(found.items)

    def _ask(self, function: Callable[[], Result]) -> Result:
        try:
            return function()
        except ApiException as error:
            if error.status in (0, None) or error.status >= 500:  # noqa: PLR2004 - the server's own trouble
                raise Unreachable(str(error.reason)) from error
            raise
        except (HTTPError, OSError, WebSocketException) as error:
            raise Unreachable(str(error)) from error


def _words(error: ApiException) -> str:
    """Return the API server's own words, which name the right that is missing."""
    try:
        return str(json.loads(error.body or "")["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)


def _unpack(text: str, pod: str, hospital: str, folder: Path) -> None:
    try:
        unpack(text.splitlines(), folder, hospital)
    except ValueError as error:
        raise Unreachable(f"what came from {pod}: {error}") from error


TRIES = 5


def pod_of(reach: Reach, release: str, name: str) -> str:
    """Find a hospital's running pod; raises LookupError, Unreachable, ApiException."""
    pod = newest(reach.pods(release)).get(name)
    if pod is None or pod.status.phase != "Running":
        raise LookupError(f"{name!r} has left already")
    return str(pod.metadata.name)


def retry(action: Callable[[], None]) -> str:
    """Do something with a pod, again after a broken connection; gives what was in the way at
    last, or nothing.
    """
    for attempt in range(TRIES):
        try:
            action()
        except (Unreachable, ApiException, LookupError) as error:
            trouble = str(error)
            clock.sleep(attempt)
        else:
            return ""
    return trouble


def bring(reach: Reach, release: str, folder: Path, name: str) -> None:
    """Bring what a hospital goes on from out of a run folder into its pod.

    Raises:
        RunUnreadable: the run folder has nothing of it.
        ClusterUnavailable: it did not arrive.

    """
    lines = list(handover.pack(handover.list_kept(folder, name)))
    trouble = retry(lambda: reach.bring(pod_of(reach, release, name), lines))
    if trouble:
        text = f"what {name!r} goes on from could not be brought into its pod: {trouble}"
        raise ClusterUnavailable(text, fix="fedskd-sim resume RUN once more")


def check_kept(plan: Plan, names: Iterable[str]) -> None:
    """Refuse to take custody out of pods that would find none; raises InvalidValue."""
    without = [name for name in names if not plan.custody(name)]
    if without:
        text = (
            f"without claims the pods of {', '.join(without)} have nothing from which they could "
            "go on"
        )
        fix = "give the --values with which the run was launched: hospitals.defaults.custody.claim"
        raise InvalidValue(text, fix=fix)


def take(reach: Reach, folder: Path, pods: list[Any], wanted: set[str]) -> set[str]:
    """Take what the wanted hospitals go on from out of those of their pods that run, into a run
    folder.

    Returns:
        Whose is in the folder.

    Raises:
        RunUnreadable: a pod has nothing.

    """
    taken = set()
    for name, pod in newest(pods).items():
        if name in wanted and pod.status.phase == "Running":
            try:
                reach.take(pod.metadata.name, name, folder)
            except (Unreachable, ApiException):
                continue
            taken.add(name)
    return taken
