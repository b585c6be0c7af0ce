"""The folders of a release's hospitals, as the launcher reaches them: in a hospital's pod, or on
its claim by a pod that only reads it. Results come home through here, and what hospitals go on from
is brought and taken.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from kubernetes.client.exceptions import ApiException

from fedskd_sim import clock
from fedskd_sim.errors import ClusterUnavailable, InvalidValue, RunUnreadable
from fedskd_sim.kubernetes.folder_pods import reader
from fedskd_sim.kubernetes.inspection import explained
from fedskd_sim.kubernetes.plan import FOLDER_PORT, PLAN, Plan
from fedskd_sim.kubernetes.pods import ENDED, newest
from fedskd_sim.kubernetes.reach import Reach, Unreachable
from fedskd_sim.runtimes import handover
from fedskd_sim.runtimes.folder import CUSTODY
from fedskd_sim.runtimes.handover import FolderClient
from fedskd_sim.runtimes.served import BOOKS, BROUGHT, list_kept, move
from fedskd_sim.scenario import Scenario

TRIES = 5
AT_ONCE = 4
"""From so many hospitals results come at a time."""
PATIENCE_S, SILENT_S = 60.0, 10.0
"""Seconds without a byte after which a try is given up, and one of who may be silent for ever."""
READER_S, ANSWER_S, LOOK_S = 180.0, 60.0, 0.5
"""So long a pod that reads a claim may take until it runs, and then until it answers."""


class Missing(NamedTuple):
    """What did not come home: of hospitals whose pod has left, without a claim, there is no more
    than its log has told; what others hold, they still have, and why it did not come stands with
    them.
    """

    left: Mapping[str, str] = MappingProxyType({})
    held: Mapping[str, str] = MappingProxyType({})


NONE = Missing()


@dataclass(frozen=True)
class PodFolders:
    """The folders of the hospitals of one release."""

    reach: Reach
    release: str
    tries: int = TRIES
    patience: float = PATIENCE_S

    @cached_property
    def _place(self) -> tuple[str, Plan, bytes]:
        """The identity of the run's ConfigMap, the plan in it, and the run's secret; raises
        LookupError, Unreachable, ApiException.
        """
        uid, data = self.reach.config(self.release)
        try:
            plan = Plan.parse(PLAN, data[PLAN])
        except InvalidValue as error:
            raise Unreachable(str(error)) from error
        return uid, plan, self.reach.secret(plan.secret)

    def fetch_all(
        self, scenario: Scenario, folder: Path, lost: Container[str] = (), *, claims: bool = True
    ) -> Missing:
        """Bring home what every hospital has recorded, learned and logged: a cluster keeps only so
        much log. What came in part goes on when this is called again.

        Args:
            scenario: of the run.
            folder: the run folder.
            lost: who may be silent for ever, and is asked once.
            claims: read the claim of a hospital whose pod has left.

        """
        left, silent, names = dict[str, str](), dict[str, str](), scenario.names

        def fetch(name: str) -> None:
            try:
                pod = self._pod_of(name)
            except LookupError as error:  # what has left does not come again
                if claims and self._place[1].custody(name):
                    self._read_claim(scenario, folder, name)
                else:
                    left[name] = str(error)
                return
            if name not in lost:
                self.fetch_from(pod, folder, name)
            elif why := retry(lambda: hasty.fetch_from(pod, folder, name), 1):
                silent[name] = why

        hasty = replace(self, patience=SILENT_S)

        def one(name: str) -> str:
            return retry(partial(fetch, name), self.tries)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            troubles = zip(names, pool.map(one, names), strict=True)
            held = silent | {name: why for name, why in troubles if why}
        _remove_if_empty(folder / BROUGHT)
        return Missing(left, held)

    def have_left(self, names: Iterable[str]) -> bool:
        """Return whether no hospital's pod runs and none has a claim, so that nothing more of them
        comes home; raises Unreachable, ApiException.
        """
        pods = newest(self.reach.pods(self.release)).values()
        if any(pod.status.phase == "Running" for pod in pods):
            return False
        try:
            plan = self._place[1]
        except LookupError:
            return True
        return not any(plan.custody(name) for name in names)

    def let_go(self, names: Iterable[str]) -> None:
        """Dismiss every hospital that holds what has come home; one that cannot be told leaves by
        itself.
        """
        for name in names:
            with suppress(Unreachable, ApiException, LookupError):
                self._ask(self._pod_of(name), name, lambda one: one.tell(handover.FETCHED_PATH))

    def bring(self, folder: Path, name: str) -> None:
        """Bring what a hospital goes on from out of a run folder into its pod.

        Raises:
            RunUnreadable: the run folder has nothing of it.
            ClusterUnavailable: it did not arrive.

        """
        kept = list_kept(folder, name)

        def brought() -> None:
            self._ask(self._pod_of(name), name, lambda one: one.bring(folder, kept))

        if trouble := retry(brought, self.tries):
            text = f"what {name!r} goes on from could not be brought into its pod: {trouble}"
            raise ClusterUnavailable(text, fix="fedskd-sim resume RUN once more")

    def take(self, folder: Path, pods: list[Any], wanted: set[str]) -> set[str]:
        """Take what the wanted hospitals go on from out of those of their pods that run, into a run
        folder, in place of what is there; then it is nowhere else.

        Returns:
            Whose is in the folder.

        Raises:
            RunUnreadable: a pod has nothing.

        """
        taken = set()
        for name, pod in newest(pods).items():
            if name in wanted and pod.status.phase == "Running":
                with suppress(Unreachable, ApiException):
                    self._take(pod.metadata.name, folder, name)
                    taken.add(name)
        _remove_if_empty(folder / BROUGHT)
        return taken

    def _take(self, pod: str, folder: Path, name: str) -> None:
        came = folder / BROUGHT / name
        try:
            self._ask(pod, name, lambda one: one.fetch(handover.KEPT_PATH, name, came))
        except LookupError:
            if any((folder / CUSTODY / name).glob("commit-*")):
                return  # taken before, and removed there
            fix = "give --values with the claims on which the run kept it"
            text = f"the pod of {name!r} has nothing from which it could go on"
            raise RunUnreadable(text, fix=fix) from None
        move(came, folder)
        self._ask(pod, name, lambda one: one.tell(handover.TAKEN_PATH))

    def fetch_from(self, pod: str, folder: Path, name: str) -> None:
        """Fetch what a hospital's folder has; its books and its log only where they have as much as
        its log has told: a pod that came after the start, from nothing, has not taken part.
        """
        came = folder / BROUGHT / name
        try:
            self._ask(pod, name, lambda one: one.fetch(handover.RESULTS_PATH, name, came))
        except LookupError as error:  # a file was there, and is no more
            raise Unreachable(str(error)) from error
        for file in (f"{kind}/{name}.jsonl" for kind in (*BOOKS, "logs")):
            if _lines(came / file) < _lines(folder / file):
                (came / file).unlink(missing_ok=True)
        move(came, folder)

    def _read_claim(self, scenario: Scenario, folder: Path, name: str) -> None:
        """Fetch what a hospital has left on its claim, by a pod that reads it."""
        uid, plan, _ = self._place
        body = reader(scenario, plan, name, uid)
        pod = body["metadata"]["name"]
        with suppress(ApiException):  # one that an interrupted try has left
            self.reach.remove_pod(pod)
        self.reach.make_pod(body)
        try:
            await_pod(self.reach, pod, READER_S)
            self._ask(pod, name, lambda one: one.await_answer(ANSWER_S))
            self.fetch_from(pod, folder, name)
        finally:
            with suppress(Unreachable, ApiException):
                self.reach.remove_pod(pod)

    def _pod_of(self, name: str) -> str:
        """Find a hospital's running pod; raises LookupError, Unreachable, ApiException."""
        pod = newest(self.reach.pods(self.release)).get(name)
        if pod is None or pod.status.phase != "Running":
            raise LookupError(f"{name!r} has left already")
        return str(pod.metadata.name)

    def _ask(self, pod: str, name: str, what: Callable[[FolderClient], object]) -> None:
        _, plan, secret = self._place
        client = FolderClient(
            partial(self.reach.connect, pod, FOLDER_PORT, self.patience),
            handover.token_of(secret, plan.run, name),
        )
        self.reach.ask(lambda: what(client))


def await_pod(reach: Reach, name: str, seconds: float) -> None:
    """Wait until a pod that serves a folder runs; raises Unreachable with what it shows, if it
    takes longer than so many seconds, or never will.
    """
    deadline = clock.now() + seconds
    while (pod := reach.pod(name)).status.phase != "Running":
        found = explained(reach, pod)
        hopeless = found.standing in ("hopeless", "failed") or pod.status.phase in ENDED
        if hopeless or clock.now() > deadline:
            raise Unreachable(f"the pod that was to serve it: {found.text}")
        clock.sleep(LOOK_S)


def retry(action: Callable[[], None], tries: int) -> str:
    """Do something with a pod, again after a broken connection; gives what was in the way at last,
    or nothing.
    """
    for attempt in range(tries):
        try:
            action()
        except (Unreachable, ApiException, LookupError) as error:
            trouble = str(error)
            clock.sleep(attempt)
        else:
            return ""
    return trouble


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # what came in part goes on with the next try
        folder.rmdir()


def _lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


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
