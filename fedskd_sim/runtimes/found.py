"""A run that exists: find it by its folder, or by its name in a cluster, and look at it, stop it or join it."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fedskd_sim import clock
from fedskd_sim.errors import OutputNotWritable, RunUnreadable
from fedskd_sim.runtimes import folder as folders
from fedskd_sim.runtimes.base import Event, Order
from fedskd_sim.runtimes.processes import ProcessRuntime
from fedskd_sim.scenario import Loaded, load

if TYPE_CHECKING:
    from fedskd_sim.runtimes.kubernetes.runtime import KubernetesRuntime

STOP_S = 30.0
READ = ("records", "samples", "timings", "logs")


class Found(Protocol):
    """What can be asked of a run."""

    @property
    def loaded(self) -> Loaded:
        """The scenario."""

    def events(self) -> Iterator[Event]:
        """Yield what all members have logged so far, in the order of time."""

    def lines(self, member: str) -> Iterator[str]:
        """Yield a member's log."""

    def remarks(self) -> Iterator[str]:
        """Yield lines for people: whether it still runs, and what holds it up."""

    def stop(self) -> str:
        """End it, and say what was done."""


@dataclass(frozen=True)
class LocalRun:
    """A run of processes, known by its folder."""

    folder: Path
    loaded: Loaded
    place: dict[str, Any]

    def events(self) -> Iterator[Event]:
        """Read the logs of all members."""
        found = [event for file in self.folder.glob("logs/*.jsonl") for event in folders.Tail(file).events()]
        yield from sorted(found, key=lambda event: event["time"])

    def lines(self, member: str) -> Iterator[str]:
        """Read a member's log, and what its process has printed."""
        for suffix in ("jsonl", "err"):
            file = self.folder / "logs" / f"{member}.{suffix}"
            if file.is_file():
                yield from file.read_text(encoding="utf-8", errors="replace").splitlines()

    def remarks(self) -> Iterator[str]:
        """Say whether the launcher is alive."""
        if self.place.get("collected"):
            yield f"ended in the cluster as {self.place['release']!r}; its results are here"
            return
        yield f"running, process {self.place['pid']}" if self.alive else "not running any more"

    def stop(self) -> str:
        """Ask the launcher to stop, as Ctrl-C would."""
        if not self.alive:
            return "nothing to stop: it is not running any more"
        os.kill(int(self.place["pid"]), signal.SIGTERM)
        deadline = clock.now() + STOP_S
        while self.alive and clock.now() < deadline:
            clock.sleep(0.1)
        return f"still stopping after {STOP_S:g} s" if self.alive else "stopped"

    @property
    def alive(self) -> bool:
        """Whether its launcher runs."""
        return "pid" in self.place and folders.birth(int(self.place["pid"])) == self.place["born"]


@dataclass(frozen=True)
class ClusterRun:
    """A run in a cluster, known by its release."""

    runtime: KubernetesRuntime
    loaded: Loaded
    folder: Path | None

    def events(self) -> Iterator[Event]:
        """Read the logs of all pods."""
        from fedskd_sim.runtimes.kubernetes.books import once  # noqa: PLC0415 - only runs in clusters need the client

        with tempfile.TemporaryDirectory() as place:
            folders.subfolders(Path(place))
            once(self.runtime.reach, self.runtime.release, Path(place))
            found = [event for file in Path(place).glob("logs/*.jsonl") for event in folders.Tail(file).events()]
        yield from sorted(found, key=lambda event: event["time"])

    def lines(self, member: str) -> Iterator[str]:
        """Read the log of a member's pods, oldest first."""
        yield from self.runtime.log_of(member)

    def remarks(self) -> Iterator[str]:
        """Say how the pods and Jobs are."""
        yield from self.runtime.remarks()

    def stop(self) -> str:
        """Remove the release."""
        if not self.runtime.exists():
            return f"nothing to stop: there is no {self.runtime.release!r} in namespace {self.runtime.namespace!r}"
        if self.folder:
            with suppress(Exception):  # what it holds must be freed whether or not its records can be read
                refresh(self.folder)
        self.runtime.attach(None)
        self.runtime.stop()
        return f"removed {self.runtime.release!r} from namespace {self.runtime.namespace!r}"


def run(name: str, namespace: str, context: str) -> Found:
    """Find a run by its folder, or by its name in a cluster.

    Raises:
        RunUnreadable: the folder is no run folder.
        FedskdError: there is no such run in the cluster, or no cluster.

    """
    folder = Path(name)
    if folder.is_dir():
        place = _place(folder)
        loaded = load(folder / "scenario.yaml")
        if place.get("runtime") == "kubernetes" and not place.get("collected"):
            return ClusterRun(_runtime(place["release"], place["namespace"], place["context"]), loaded, folder)
        return LocalRun(folder, loaded, place)
    runtime = _runtime(name, namespace, context)
    return ClusterRun(runtime, _scenario_of(runtime), None)


def to_collect(name: str, out: Path | None, namespace: str, context: str) -> tuple[KubernetesRuntime, Order]:
    """Prepare to join a run in a cluster; what a folder of it has from before is replaced by what is read anew.

    Raises:
        RunUnreadable: the run is not in a cluster.
        OutputNotWritable: another process follows it into that folder.

    """
    seen = run(name, namespace, context)
    if not isinstance(seen, ClusterRun):
        raise RunUnreadable(f"{name} did not run in a cluster", fix="its results are in its folder: use 'fedskd-sim report'")
    if seen.folder:
        folder = seen.folder.resolve()
        with folders.held(folder):
            folders.subfolders(folder)
    else:
        folder = folders.make(seen.loaded, out, "kubernetes")
        folders.note_place(folder, seen.runtime.place)
    order = Order(seen.loaded, "", folder)
    seen.runtime.attach(order)
    return seen.runtime, order


@contextmanager
def to_resume(folder: Path, *, anyway: bool) -> Iterator[tuple[ProcessRuntime, Order]]:
    """Prepare to go on with a run of processes of which nothing runs any more, as the only process that does.

    Args:
        folder: its run folder.
        anyway: go on even where what the run began on differs from what is here.

    Raises:
        RunUnreadable: it is no such run, it still goes on, it has ended well, or its hospitals kept nothing.
        OutputNotWritable: another process goes on with it.

    """
    seen = run(str(folder), "default", "")
    if not isinstance(seen, LocalRun) or seen.place.get("runtime") != "processes":
        raise RunUnreadable(f"{folder} is no run of processes", fix="launch its scenario again")
    with folders.held(folder):
        if seen.alive:
            raise RunUnreadable(f"the run in {folder} still goes on", fix=f"see 'fedskd-sim status {folder}'")
        if any(event["event"] == "end" and event["code"] == 0 for event in seen.events()):
            raise RunUnreadable(f"the run in {folder} has ended well", fix=f"see 'fedskd-sim report {folder}'")
        if "run" not in seen.place or not seen.loaded.scenario.custody.enabled:
            text = f"the hospitals of the run in {folder} kept nothing to go on from"
            raise RunUnreadable(text, fix="launch its scenario again, with custody.enabled")
        data = seen.place.get("data")
        runtime = ProcessRuntime()
        runtime.prepare(seen.loaded)
        where = folder.resolve()
        folders.subfolders(where)
        yield runtime, Order(seen.loaded, seen.place["run"], where, Path(data) if data else None, resumed=True, anyway=anyway)


def refresh(folder: Path) -> None:
    """Read what a run in a cluster has logged so far, unless it was collected, or another process keeps the folder up to date.

    What was read before stays until there is more of it: pods, and their logs with them, do not last.
    """
    place = _place(folder)
    if place.get("runtime") != "kubernetes" or place.get("collected"):
        return
    try:
        with folders.held(folder):
            pass
    except OutputNotWritable:
        return
    from fedskd_sim.runtimes.kubernetes.books import once  # noqa: PLC0415 - only runs in clusters need the client

    runtime = _runtime(place["release"], place["namespace"], place["context"])
    with tempfile.TemporaryDirectory(prefix=".reading-", dir=folder) as made:
        draft = Path(made)
        folders.subfolders(draft)
        once(runtime.reach, runtime.release, draft)
        with suppress(OutputNotWritable), folders.held(folder):
            _replaced(folder, draft)


def _runtime(release: str, namespace: str, context: str) -> KubernetesRuntime:
    from fedskd_sim.runtimes.kubernetes.runtime import KubernetesRuntime  # noqa: PLC0415 - only runs in clusters need the client

    runtime = KubernetesRuntime(release, namespace, context)
    runtime.connect()
    return runtime


def _scenario_of(runtime: KubernetesRuntime) -> Loaded:
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "scenario.yaml"
        file.write_text(runtime.scenario(), encoding="utf-8")
        return load(file)


def _place(folder: Path) -> dict[str, Any]:
    if not (folder / "scenario.yaml").is_file():
        raise RunUnreadable(f"{folder} is not a run folder", fix="give the folder that 'fedskd-sim launch' named")
    file = folder / folders.PLACE
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _replaced(folder: Path, draft: Path) -> None:
    """Put every file that was read in the place of an older one that does not have more."""
    folders.subfolders(folder)
    for kind in READ:
        for file in (draft / kind).iterdir():
            older = folder / kind / file.name
            if not older.exists() or older.stat().st_size <= file.stat().st_size:
                file.replace(older)
