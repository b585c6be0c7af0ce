"""A run that exists: find it by its folder, or by its name in a cluster, whose logs are read into
its folder here, and look at it, stop it or join it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fedskd_sim import clock
from fedskd_sim.errors import (
    ClusterUnavailable,
    OutputNotEmpty,
    OutputNotWritable,
    RunUnreadable,
)
from fedskd_sim.found import run_folders
from fedskd_sim.observe import outcome as outcomes
from fedskd_sim.observe.events import Logged
from fedskd_sim.observe.words import short_path
from fedskd_sim.records.files import no_run, torn
from fedskd_sim.runtimes import folder as folders
from fedskd_sim.runtimes import location
from fedskd_sim.runtimes.folder import Logs, custody_of
from fedskd_sim.runtimes.location import Here, InCluster
from fedskd_sim.scenario import Loaded, load, nearest

if TYPE_CHECKING:
    from fedskd_sim.kubernetes.log_collector import LogFollower
    from fedskd_sim.kubernetes.runtime import KubernetesRuntime
    from fedskd_sim.runtimes.base import Order


READ = ("records", "samples", "timings", "logs")


def connect(release: str, namespace: str, context: str) -> KubernetesRuntime:
    """Return a release's runtime; raises ClusterUnavailable."""
    from fedskd_sim.kubernetes.runtime import KubernetesRuntime  # noqa: PLC0415 - only runs in clusters need the client

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
        place = location.read(folder)
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
    from fedskd_sim.kubernetes.log_collector import once  # noqa: PLC0415 - only runs in clusters need the client
    from fedskd_sim.kubernetes.reach import translate_errors  # noqa: PLC0415

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


STOP_S = 30.0
OF_A_RUN = ("scenario.yaml", "environment.json", "records", "logs")
"""What every run folder has."""


class FoundRun(Protocol):
    """What can be asked of a run."""

    @property
    def loaded(self) -> Loaded:
        """The scenario."""

    def events(self) -> Iterator[Logged]:
        """Yield what all members have logged so far, in the order of time."""

    def news(self) -> Iterator[Logged]:
        """Yield what has been logged since this was last asked, at first all."""

    @property
    def going(self) -> bool:
        """Whether it still goes on, as far as can be seen from here."""

    def lines(self, member: str, *, follow: bool) -> Iterator[str]:
        """Yield a member's log; with ``follow`` also what comes, as long as the run goes on."""

    def remarks(self) -> Iterator[str]:
        """Yield lines for people: whether it still runs, and what holds it up."""

    def stop(self) -> str:
        """End it, and say what was done."""

    def close(self) -> None:
        """Release what `news` needed."""


@dataclass(frozen=True)
class LocalRun:
    """A run of processes, known by its folder."""

    folder: Path
    loaded: Loaded
    logs: Logs

    @property
    def place(self) -> Here | InCluster | None:
        """Where it is, as noted by now: a launcher may just have come so far."""
        return location.read(self.folder)

    def events(self) -> Iterator[Logged]:
        """Read the logs of all members."""
        return Logs(self.folder).news()

    def news(self) -> Iterator[Logged]:
        """Read what has been added to the logs."""
        return self.logs.news()

    @property
    def going(self) -> bool:
        """Whether its launcher is alive here."""
        return isinstance(self.place, Here) and self.place.process(self.folder) is not None

    def lines(self, member: str, *, follow: bool) -> Iterator[str]:
        """Read a member's log, and what its process has printed."""
        log = self.folder / "logs" / f"{member}.jsonl"
        if follow:
            yield from folders.follow_lines(log, lambda: self.going)
        elif log.is_file():
            with log.open(encoding="utf-8", errors="replace") as stream:
                yield from (line.rstrip("\n") for line in stream)
        printed = log.with_suffix(".err")
        if printed.is_file():
            yield from printed.read_text(encoding="utf-8", errors="replace").splitlines()

    def remarks(self) -> Iterator[str]:
        """Return whether the launcher is alive, and which files a death has cut."""
        yield from _disturbed(self.loaded)
        place, going = self.place, self.going  # first: a launcher that has ended has said how
        ended = outcomes.read(self.folder)
        match place:
            case _ if ended and ended.state != "going":
                yield from _describe_end(ended)
                if isinstance(place, InCluster):
                    yield f"it was in the cluster as {place.release!r}; its results are here"
            case InCluster(release):
                yield f"ended in the cluster as {release!r}; its results are here"
            case Here(pid, machine=machine) if place.away:
                yield f"launched on {machine} as process {pid}; ask there whether it still runs"
            case Here(pid) if going:
                yield f"running, process {pid}"
            case _:
                yield "not running any more, and nobody has noted how it ended"
                from fedskd_sim.runtimes.base import verdict  # noqa: PLC0415 - what has ended is known without
                from fedskd_sim.runtimes.supervisor import error_of, first_error  # noqa: PLC0415

                told = (one for logged in self.events() if (one := error_of(logged)))
                error = verdict(first_error(told))
                if error:
                    yield f"{error.culprit} has logged, exit code {error.exit_code}: {error}"
        if place is None or (isinstance(place, Here) and not place.away and not going):
            for file in torn(self.folder):
                yield f"the last line of {file} has no end, and is left out"
            run = place.run if place else ""
            if run and custody_of(self.loaded.scenario, run, self.folder).is_dir():
                yield f"'fedskd-sim resume {self.folder}' goes on with it"

    def stop(self) -> str:
        """Ask the launcher to stop, as Ctrl-C would."""
        place = self.place
        if isinstance(place, Here) and place.away:
            return f"not stopped: it was launched on {place.machine}, stop it there"
        if not (isinstance(place, Here) and place.process(self.folder)):
            return "nothing to stop: it is not running any more"
        ended = place.terminate(self.folder, STOP_S)
        return "stopped" if ended else f"still stopping after {STOP_S:g} s"

    def close(self) -> None:
        """Do nothing: no file is left open."""


@dataclass(frozen=True)
class ClusterRun:
    """A run in a cluster, known by its release."""

    runtime: KubernetesRuntime
    loaded: Loaded
    folder: Path | None
    unread: list[str] = field(default_factory=list)
    """Of which pods `events` could not read the log."""
    _following: list[LogFollower] = field(default_factory=list)
    """What `news` comes from, once it was asked."""

    def events(self) -> Iterator[Logged]:
        """Read the logs of all pods; raises ClusterUnavailable."""
        from fedskd_sim.kubernetes.log_collector import once  # noqa: PLC0415 - only runs in clusters need the client
        from fedskd_sim.kubernetes.reach import translate_errors  # noqa: PLC0415

        with tempfile.TemporaryDirectory() as place:
            folders.subfolders(Path(place))
            with translate_errors():
                self.unread[:] = once(self.runtime.reach, self.runtime.release, Path(place))
            yield from Logs(Path(place)).news()

    def news(self) -> Iterator[Logged]:
        """Follow the logs of all pods from now on; raises ClusterUnavailable."""
        from fedskd_sim.kubernetes.log_collector import LogFollower  # noqa: PLC0415 - as above

        if not self._following:
            self._following.append(LogFollower(self.runtime.reach, self.runtime.release))
        yield from self._following[0].news()

    @property
    def going(self) -> bool:
        """Whether its controller has not ended."""
        return self.runtime.goes_on()

    def lines(self, member: str, *, follow: bool) -> Iterator[str]:
        """Read the log of a member's pods, oldest first."""
        yield from self.runtime.log_of(member, follow=follow)

    def remarks(self) -> Iterator[str]:
        """Return how the pods and Jobs are, and whose words are missing."""
        yield from _disturbed(self.loaded)
        yield from self.runtime.remarks()
        yield from self.unread

    def stop(self) -> str:
        """Remove the release."""
        if not self.runtime.exists():
            return (
                f"nothing to stop: there is no {self.runtime.release!r} in namespace "
                f"{self.runtime.namespace!r}"
            )
        if self.folder:
            # what it holds must be freed whether or not its records can be read
            with suppress(Exception):
                refresh(self.folder)
        from fedskd_sim.runtimes.base import Order  # noqa: PLC0415 - only who stops or joins a run needs it

        self.runtime.attach(Order(self.loaded, "", self.folder) if self.folder else None)
        self.runtime.stop()
        return f"removed {self.runtime.release!r} from namespace {self.runtime.namespace!r}"

    def close(self) -> None:
        """Stop following."""
        while self._following:
            self._following.pop().close()


def run(name: str, namespace: str, context: str) -> FoundRun:
    """Find a run by its folder, or by its name in a cluster.

    Raises:
        RunUnreadable: the folder is no run folder.
        FedskdError: there is no such run in the cluster, or no cluster.

    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        place = location.read(folder)
        loaded = load(folder / "scenario.yaml")
        if isinstance(place, InCluster) and not place.collected:
            return ClusterRun(
                connect(place.release, place.namespace, place.context), loaded, folder
            )
        return LocalRun(folder, loaded, Logs(folder))
    runtime = _find_release(name, namespace, context)
    return ClusterRun(runtime, _scenario_of(runtime), None)


def removable(folder: Path) -> tuple[int, int]:
    """Count the files and bytes of a run folder that may be removed.

    Raises:
        RunUnreadable: it is no run folder, or a link to one.
        OutputNotEmpty: the run is going, here, on another machine or in a cluster.
        OutputNotWritable: another process writes into it.

    """
    if folder.is_symlink() or not all((folder / name).exists() for name in OF_A_RUN):
        raise no_run(folder)
    place = location.read(folder)
    ended = outcomes.read(folder)
    here = isinstance(place, Here) and not place.away
    going = here and isinstance(place, Here) and place.process(folder) is not None
    if not here and place is not None and (ended is None or ended.state == "going"):
        going = True
    if isinstance(place, InCluster) and not place.collected:
        going = True
    if going:
        text = f"{short_path(folder)} is a run that is going, as far as is known"
        raise OutputNotEmpty(text, fix=f"'fedskd-sim stop {short_path(folder)}' first")
    with folders.hold_lock(folder):
        found = [one for one in folder.rglob("*") if one.is_file() or one.is_symlink()]
    return len(found), sum(one.lstat().st_size for one in found)


def remove(folder: Path) -> None:
    """Remove a run folder, and no file that it leads to elsewhere; raises as `removable`."""
    removable(folder)
    try:
        shutil.rmtree(folder)
    except OSError as error:
        text = f"{folder} cannot be removed: {error.strerror}"
        raise OutputNotWritable(text, fix="remove what is left of it by hand") from error


def to_collect(
    name: str, out: Path | None, namespace: str, context: str
) -> tuple[KubernetesRuntime, Order]:
    """Prepare to join a run in a cluster; what a folder of it has from before is replaced by what
    is read anew.

    Raises:
        RunUnreadable: the run is not in a cluster.
        OutputNotWritable: another process follows it into that folder.

    """
    seen = run(name, namespace, context)
    if not isinstance(seen, ClusterRun):
        raise RunUnreadable(
            f"{name} did not run in a cluster",
            fix="its results are in its folder: use 'fedskd-sim report'",
        )
    if seen.folder:
        folder = seen.folder.resolve()
        with folders.hold_lock(folder):
            folders.subfolders(folder)
    else:
        folder = folders.make(seen.loaded, out, "kubernetes")
        location.note(folder, seen.runtime.place)
    place = location.read(folder)
    if isinstance(place, InCluster):
        seen.runtime.run, seen.runtime.resumed = place.run, place.resumed
    from fedskd_sim.runtimes.base import Order  # noqa: PLC0415 - as above

    order = Order(seen.loaded, "", folder, resumed=seen.runtime.resumed)
    seen.runtime.attach(order)
    return seen.runtime, order


def _find_release(name: str, namespace: str, context: str) -> KubernetesRuntime:
    """Find a cluster that may have a run of a name; without one, the name can only have been
    meant for a folder.
    """
    why = "a name there has only letters, digits and hyphens"
    if name.replace("-", "").isalnum():
        try:
            return connect(name, namespace, context)
        except ClusterUnavailable as error:
            if namespace or context:
                raise
            why = error.message
    near = nearest(
        name,
        [str(place) for place in run_folders()],
        "give the folder that 'fedskd-sim launch' named",
    )
    raise RunUnreadable(
        f"there is no run folder {name!r}, and no run of that name in a cluster: {why}", fix=near
    )


def _scenario_of(runtime: KubernetesRuntime) -> Loaded:
    with tempfile.TemporaryDirectory() as place:
        for name, text in runtime.given().items():
            (Path(place) / name).write_text(text, encoding="utf-8")
        return load(Path(place) / "scenario.yaml")


def _disturbed(loaded: Loaded) -> Iterator[str]:
    if loaded.scenario.disturbed:
        yield loaded.scenario.disturbed


def _describe_end(ended: outcomes.Outcome) -> Iterator[str]:
    """Return how a run ended, as its launcher has noted it."""
    yield f"{ended.words}, at {clock.stamp(ended.ended)}" + (
        f": {ended.reason}" if ended.reason else ""
    )
    if ended.fix:
        yield f"  fix: {ended.fix}"
