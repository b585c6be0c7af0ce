"""Go on with a run of which nothing runs any more, where it was or at another place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedskd_sim.errors import RunExists, RunUnreadable
from fedskd_sim.observe import outcome
from fedskd_sim.runtimes import folder as folders
from fedskd_sim.runtimes import place as places
from fedskd_sim.runtimes.base import Order, Runtime
from fedskd_sim.runtimes.member import CUSTODY
from fedskd_sim.runtimes.place import Here, InCluster
from fedskd_sim.runtimes.processes import ProcessRuntime
from fedskd_sim.scenario import Loaded, load

if TYPE_CHECKING:
    from fedskd_sim.runtimes.kubernetes.runtime import KubernetesRuntime

Release = Callable[[InCluster | None], "KubernetesRuntime"]
"""Gives the cluster that the user has named, or else the one where the run was."""


@contextmanager
def to_resume(
    folder: Path, release: Release, *, on: str = "", data: Path | None = None, anyway: bool = False
) -> Iterator[tuple[Runtime, Order]]:
    """Prepare to go on with a run, as the only process that does.

    Args:
        folder: its run folder.
        release: the cluster, if one is needed.
        on: ``processes`` or ``kubernetes``; empty for where the run was.
        data: where data files are; None for where they were.
        anyway: go on even where what the run began on differs from what is here.

    Raises:
        RunUnreadable: it is no such run, it still goes on, it has ended well, or its hospitals kept
            nothing.
        OutputNotWritable: another process goes on with it.
        RunExists: it is still in its cluster.
        ClusterUnavailable, ChartNotInstallable, InvalidValue: the cluster cannot give or take it.

    """
    place = places.read(folder)
    loaded = load(folder / "scenario.yaml")
    if place is None or not place.run:
        raise RunUnreadable(
            f"{folder} holds no run that was launched from it", fix="launch its scenario again"
        )
    if isinstance(place, Here) and data is None and place.data:
        data = Path(place.data)
    order = Order(loaded, place.run, folder.resolve(), data, resumed=True, anyway=anyway)
    there, on = place if isinstance(place, InCluster) else None, on or place.runtime
    with folders.hold_lock(folder):
        _check(folder, place, loaded, moves=on != place.runtime)
        if there:
            _check_gone(there, folder)
        if on == "processes":
            yield _as_processes(order, release(there) if there else None), order
            return
        cluster = _in_a_cluster(order, there, release)
    yield cluster, order  # which holds the folder itself


def _as_processes(order: Order, was: KubernetesRuntime | None) -> Runtime:
    """Prepare processes of this machine, with what the hospitals kept in the cluster where they
    were.
    """
    if was:
        was.run, was.custody, was.keep = order.run, "out", False
        was.prepare(order.loaded)
        was.take_out(order)
    runtime = ProcessRuntime()
    runtime.prepare(order.loaded)
    return runtime


def _in_a_cluster(order: Order, there: InCluster | None, release: Release) -> Runtime:
    """Prepare a cluster, and let it bring in what the run folder holds of the hospitals: always
    where they were processes, and again where an earlier try did not bring it there.
    """
    cluster, kept = release(there), order.folder / CUSTODY
    here = all(any((kept / name).glob("commit-*")) for name in order.loaded.scenario.names)
    brought = there is None or (there.resumed and here)
    cluster.run, cluster.custody = order.run, "in" if brought else ""
    cluster.prepare(order.loaded)
    return cluster


def _check_gone(there: InCluster, folder: Path) -> None:
    """Refuse a run that is still in its cluster, under whichever name it is to go on."""
    from fedskd_sim.runtimes.kubernetes.runtime import KubernetesRuntime  # noqa: PLC0415 - the client takes its time

    was = KubernetesRuntime(there.release, there.namespace, there.context)
    was.connect()
    if was.exists():
        fix = f"fedskd-sim collect {folder} waits for its end, fedskd-sim stop {folder} removes it"
        raise RunExists(f"the run is still in its cluster, as {there.release!r}", fix=fix)


def _check(folder: Path, place: Here | InCluster, loaded: Loaded, *, moves: bool) -> None:
    """Refuse a run with which nobody can go on."""
    if isinstance(place, Here) and place.away:
        text = f"the run in {folder} was launched on {place.machine}, and may still go on there"
        raise RunUnreadable(text, fix="resume it there")
    if isinstance(place, Here) and place.process():
        raise RunUnreadable(
            f"the run in {folder} still goes on", fix=f"see 'fedskd-sim status {folder}'"
        )
    ended = outcome.read(folder)
    if ended and ended.state == "ended well":
        raise RunUnreadable(
            f"the run in {folder} has ended well", fix=f"see 'fedskd-sim report {folder}'"
        )
    if not loaded.scenario.custody.enabled:
        text = f"the hospitals of the run in {folder} kept nothing to go on from"
        raise RunUnreadable(text, fix="launch its scenario again, with custody.enabled true")
    if moves and loaded.scenario.custody.folder:
        text = (
            f"custody.folder of the run in {folder} is a place of one machine: "
            f"{loaded.scenario.custody.folder}"
        )
        raise RunUnreadable(
            text, fix="go on where it was; only what is kept in the run folder can move"
        )
