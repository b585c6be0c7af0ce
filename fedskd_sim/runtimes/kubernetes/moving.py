"""What hospitals go on from, on its way between a run folder and the pods of a release that
waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kubernetes.client.exceptions import ApiException

from fedskd_sim import clock
from fedskd_sim.errors import ClusterUnavailable, InvalidValue
from fedskd_sim.runtimes import handover
from fedskd_sim.runtimes.kubernetes.plan import Plan
from fedskd_sim.runtimes.kubernetes.pods import newest
from fedskd_sim.runtimes.kubernetes.reach import Reach, Unreachable

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
