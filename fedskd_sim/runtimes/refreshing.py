"""What a run in a cluster has logged so far, read into its folder here."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fedskd_sim.errors import ClusterUnavailable, OutputNotWritable, RunUnreadable
from fedskd_sim.runtimes import folder as folders
from fedskd_sim.runtimes import place as places
from fedskd_sim.runtimes.place import InCluster

if TYPE_CHECKING:
    from fedskd_sim.runtimes.kubernetes.runtime import KubernetesRuntime

READ = ("records", "samples", "timings", "logs")


def connect(release: str, namespace: str, context: str) -> KubernetesRuntime:
    """Give a release's runtime; raises ClusterUnavailable."""
    from fedskd_sim.runtimes.kubernetes.runtime import KubernetesRuntime  # noqa: PLC0415 - only runs in clusters need the client

    runtime = KubernetesRuntime(release, namespace, context)
    runtime.connect()
    return runtime


def refresh(folder: Path) -> list[str]:
    """Read what a run in a cluster has logged so far, unless it was collected, or another process
    keeps the folder up to date.

    What was read before stays until there is more of it: pods, and their logs with them, do not
    last.

    Returns:
        For people, what could not be read.

    """
    try:
        place = places.read(folder)
    except RunUnreadable:  # what is in the folder can be reported without knowing where the run was
        return []
    if not isinstance(place, InCluster) or place.collected:
        return []
    try:
        with folders.hold_lock(folder):
            pass
    except OutputNotWritable:
        return []
    try:
        return _read(folder, place)
    except ClusterUnavailable as error:
        return [f"{error.message}; what was read before is shown"]


def _read(folder: Path, place: InCluster) -> list[str]:
    from fedskd_sim.runtimes.kubernetes.log_collector import once  # noqa: PLC0415 - only runs in clusters need the client
    from fedskd_sim.runtimes.kubernetes.reach import translate_errors  # noqa: PLC0415

    runtime = connect(place.release, place.namespace, place.context)
    with tempfile.TemporaryDirectory(prefix=".reading-", dir=folder) as made:
        draft = Path(made)
        folders.subfolders(draft)
        with translate_errors():
            unread = once(runtime.reach, runtime.release, draft, goes_on=place.resumed)
        with suppress(OutputNotWritable), folders.hold_lock(folder):
            _replace_older(folder, draft)
    return unread


def _replace_older(folder: Path, draft: Path) -> None:
    """Put every file that was read in the place of an older one that does not have more."""
    folders.subfolders(folder)
    for kind in READ:
        for file in (draft / kind).iterdir():
            older = folder / kind / file.name
            if not older.exists() or older.stat().st_size <= file.stat().st_size:
                file.replace(older)
