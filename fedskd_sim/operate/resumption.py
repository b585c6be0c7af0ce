"""Go on with a run of which nothing runs any more, where it was or at another place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fedskd_sim.custody import store
from fedskd_sim.custody.verify import verify
from fedskd_sim.errors import FedskdError, RunExists, RunUnreadable
from fedskd_sim.member.keeper import compare
from fedskd_sim.observe import outcome
from fedskd_sim.operate import trust
from fedskd_sim.operate.execution import HERE, Cluster
from fedskd_sim.records.ledger import RESTORE, check_count, check_length, records_of
from fedskd_sim.runtimes import folder as folders
from fedskd_sim.runtimes import location
from fedskd_sim.runtimes.base import Order, Runtime, Watch
from fedskd_sim.runtimes.folder import CUSTODY, custody_of
from fedskd_sim.runtimes.life import meaning
from fedskd_sim.runtimes.location import Here, InCluster, RunLocation
from fedskd_sim.runtimes.member import discard_custody
from fedskd_sim.runtimes.processes import ProcessRuntime
from fedskd_sim.scenario import Loaded, load

if TYPE_CHECKING:
    from fedskd_sim.kubernetes.runtime import KubernetesRuntime


@contextmanager
def to_resume(
    folder: Path,
    cluster: Cluster = HERE,
    *,
    on: str = "",
    data: Path | None = None,
    anyway: bool = False,
    trust_code: str = "",
) -> Iterator[tuple[Runtime, Order]]:
    """Prepare to go on with a run, as the only process that does. Nothing is opened for writing
    before all has been looked at: somebody may have given you the folder.

    Args:
        folder: its run folder.
        cluster: where it goes on; what is empty is as it was.
        on: ``processes`` or ``kubernetes``; empty for where the run was, as for ``data``.
        data: where data files are.
        anyway: go on even where what the run began on differs from what is here, on another
            machine, or from the beginning if all custody is gone.
        trust_code: the digest of somebody else's code in the folder, which may be run.

    Raises:
        RunUnreadable: it is no such run, brings code of somebody else's, still goes on, has ended
            well, or has kept nothing, or what does not belong to its records.
        CustodyForeign: its scenario is another.
        OutputNotWritable, RunExists: another process goes on with it, or its cluster has it.
        ClusterUnavailable, ChartNotInstallable, InvalidValue: the cluster cannot take it.

    """
    place, order = _read(folder, data, anyway=anyway)
    trust.check(order.loaded.code, folder, trust_code)
    there, on = place if isinstance(place, InCluster) else None, on or place.runtime
    with folders.hold_lock(folder):
        _check_end(order, there)
        whole = _is_whole(order)
        if whole or _check_custody(order, place, on) == "processes":
            yield _Whole(place) if whole else _as_processes(order, there, cluster), order
            return
        runtime = _in_a_cluster(order, there, _release(cluster, there))
    yield runtime, order  # which holds the folder itself


def _release(cluster: Cluster, was: InCluster | None) -> KubernetesRuntime:
    """Make the runtime of the cluster that is named, or else of the one where the run was."""
    from fedskd_sim.kubernetes.runtime import KubernetesRuntime  # noqa: PLC0415 - only who has a cluster pays for it

    before = Cluster(was.release, was.namespace, was.context) if was else HERE
    named = (
        cluster.name or before.name,
        cluster.namespace or before.namespace,
        cluster.context or before.context,
    )
    return KubernetesRuntime(*named, cluster.values, cluster.keep)


def _read(folder: Path, data: Path | None, *, anyway: bool) -> tuple[RunLocation, Order]:
    """Read where a run was, and what it is; refuse one that is none, or still goes on."""
    place = location.read(folder) or _told_by_custody(folder)
    loaded = load(folder / "scenario.yaml")
    if place is None or not place.run:
        why, how = (": it ran in memory", ", --on processes") if place else ("", "")
        text = f"{folder} holds no run that was launched from it{why}"
        raise RunUnreadable(text, fix=f"launch its scenario again{how}")
    if isinstance(place, Here):
        data = data or (Path(place.data) if place.data else None)
        _check_nobody_runs(folder, place, anyway=anyway)
    order = Order(loaded, place.run, folder.resolve(), data, resumed=True, anyway=anyway)
    return place, order


@dataclass(frozen=True)
class _Whole:
    """Where a run was of which all is there: nothing runs any more, and what is left to do is to
    prove, seal and report it.
    """

    place: RunLocation
    remark: str = ""

    def prepare(self, loaded: Loaded) -> None:
        """Do nothing."""

    def launch(self, order: Order) -> None:
        """Do nothing."""

    def wait(self, watch: Watch) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""


def _is_whole(order: Order) -> bool:
    """Return whether a run has left everything and no custody: it died before it was sealed."""
    run, scenario = order.folder, order.loaded.scenario
    if any(_committed(order).values()):
        return False
    files = [run / "weights" / f"{name}.safetensors" for name in scenario.members]
    if scenario.learns and not all(file.is_file() for file in files):
        return False
    try:
        found = verify(run, scenario, {}, scenario.names)
    except FedskdError:
        return False
    return not found.broken and found.records == found.expected


def _committed(order: Order) -> dict[str, store.Commit | None]:
    """Read the newest commit of every hospital, None where there is none that can be read."""
    home = custody_of(order.loaded.scenario, order.run, order.folder)
    return {name: store.newest(home / name) for name in order.loaded.scenario.names}


def _check_kept(order: Order) -> None:
    """Refuse records and custody that do not belong together, of any hospital, and what is of
    another run or scenario.
    """
    scenario, found = order.loaded.scenario, _committed(order)
    home = custody_of(scenario, order.run, order.folder)
    if not any(found.values()) and scenario.custody.folder:
        text = f"there is nothing of the run {order.run} in {home.parent}"
        raise RunUnreadable(text, fix=f"bring it {RESTORE}")
    or_else = "" if any(found.values()) else "; --anyway begins it anew in this one"
    for name, commit in found.items():
        bare = not commit and not any((home / name).glob("commit-*"))
        if bare and (any(found.values()) or not order.anyway):  # one is written before it is kept
            check_count(records_of(order.folder, name), int((home / name).is_dir()), or_else)
    for name, commit in found.items():
        if not commit:
            store.check_readable(home / name)
        else:
            now = {"run": order.run, "hospital": name, "scenario": meaning(scenario)}
            try:
                compare(home / name, commit.identity, now, anyway=order.anyway)
            except FedskdError as error:
                raise order.loaded.place_error(error) from None
            check_length(records_of(order.folder, name), commit.records)


def _told_by_custody(folder: Path) -> Here | None:
    """Return which run the custody in a folder is of, where its place is not noted; None where it
    does not say.
    """
    found = [store.newest(home) for home in folder.glob(f"{CUSTODY}/*") if home.is_dir()]
    runs = {commit.identity.get("run", "") for commit in found if commit}
    run = runs.pop() if len(runs) == 1 else ""
    known = re.fullmatch(location.RUN, run)
    return replace(Here.of_this_process(), run=run) if run and known else None


def _as_processes(order: Order, there: InCluster | None, cluster: Cluster) -> Runtime:
    """Prepare processes of this machine, with what the hospitals kept in the cluster where they
    were.
    """
    if there:
        was = _release(cluster, there)
        was.run, was.custody, was.keep = order.run, "out", False
        was.prepare(order.loaded)
        was.take_out(order)
    runtime = ProcessRuntime()
    runtime.prepare(order.loaded)
    return runtime


def _in_a_cluster(order: Order, there: InCluster | None, cluster: KubernetesRuntime) -> Runtime:
    """Prepare a cluster, and let it bring in what the run folder holds of the hospitals: always
    where they were processes, and again where an earlier try did not bring it there.
    """
    kept = order.folder / CUSTODY
    here = all(any((kept / name).glob("commit-*")) for name in order.loaded.scenario.names)
    brought = there is None or (there.resumed and here)
    cluster.run, cluster.custody = order.run, "in" if brought else ""
    cluster.prepare(order.loaded)
    return cluster


def _check_gone(there: InCluster, folder: Path) -> None:
    """Refuse a run that is still in its cluster, under whichever name it is to go on."""
    from fedskd_sim.kubernetes.runtime import KubernetesRuntime  # noqa: PLC0415 - the client takes its time

    was = KubernetesRuntime(there.release, there.namespace, there.context)
    was.connect()
    if was.exists():
        fix = f"fedskd-sim collect {folder} waits for its end, fedskd-sim stop {folder} removes it"
        raise RunExists(f"the run is still in its cluster, as {there.release!r}", fix=fix)


def _check_nobody_runs(folder: Path, place: Here, *, anyway: bool) -> None:
    """Refuse a run that still goes on, or may do so where this machine cannot see it."""
    if place.away and not anyway:
        text = f"the run in {folder} was launched on {place.machine}, and may still go on there"
        fix = "resume it there; if this is that machine, or nothing runs there, add --anyway"
        raise RunUnreadable(text, fix=fix)
    if place.process(folder):
        raise RunUnreadable(
            f"the run in {folder} still goes on", fix=f"see 'fedskd-sim status {folder}'"
        )


def _check_end(order: Order, there: InCluster | None) -> None:
    """Refuse a run that has ended well, of whose custody goes what a death has left, or that is
    still in its cluster.
    """
    ended = outcome.read(order.folder)
    if ended and ended.state == "ended well":
        discard_custody(order.loaded.scenario, order.run, order.folder)
        raise RunUnreadable(
            f"the run in {order.folder} has ended well",
            fix=f"see 'fedskd-sim report {order.folder}'",
        )
    if there:
        _check_gone(there, order.folder)


def _check_custody(order: Order, place: RunLocation, on: str) -> str:
    """Refuse a run whose hospitals keep nothing, or where it cannot be found; else its folder has
    all that a run writes into, and where it goes on is returned.
    """
    folder, loaded = order.folder, order.loaded
    if not loaded.scenario.custody.enabled:
        text = f"the hospitals of the run in {folder} kept nothing to go on from"
        raise RunUnreadable(text, fix="launch its scenario again, with custody.enabled true")
    if on != place.runtime and loaded.scenario.custody.folder:
        text = (
            f"custody.folder of the run in {folder} is a place of one machine: "
            f"{loaded.scenario.custody.folder}"
        )
        raise RunUnreadable(
            text, fix="go on where it was; only what is kept in the run folder can move"
        )
    if isinstance(place, Here):
        _check_kept(order)
    folders.subfolders(order.folder)
    return on
