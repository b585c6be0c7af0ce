"""A run folder that grows, read on from where the last look ended; never a file outside it."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from fedskd_sim import clock
from fedskd_sim.errors import RunUnreadable
from fedskd_sim.observe import events, outcome
from fedskd_sim.observe.events import Logged
from fedskd_sim.observe.progress import LiveView
from fedskd_sim.records import Record, Timing
from fedskd_sim.records.files import parse_record, parse_timing
from fedskd_sim.results.account import AWAY, WAITS
from fedskd_sim.results.gathered import Gathered
from fedskd_sim.results.listing import GOING, state_of
from fedskd_sim.ring.topology import Topology
from fedskd_sim.runtimes import location
from fedskd_sim.runtimes.folder import check_ordinary
from fedskd_sim.scenario import load

CHUNK, TAIL = 1 << 18, 512
LAST_TIMINGS = 1 << 15
"""Bytes at the end of a file of timings that are read first: memory and transfers of now."""
MOST_TROUBLES = 60
LATELY = 60
HELD = ("unschedulable", "hopeless", "stuck", "failed")
"""How pods stand that hold up a run."""
"""Steps by which the pace is told."""


class FileChanged(Exception):
    """A file has no longer what was read of it: the run was resumed, or a collector has put the
    entries of a pod's longer life in their place. The folder is read anew.
    """


@dataclass
class GrowingFile:
    """A file of lines, read forward."""

    path: Path
    position: int = 0
    size: int = 0
    stuck: bool = False
    """A line of it cannot be read, so none behind it is."""
    tail: bytes = b""
    """The last bytes that were read."""

    def begin_at(self, last: int) -> None:
        """Leave out all but so many bytes at the end, and the line that they cut."""
        with _open(self.path) as stream:
            self.size = os.fstat(stream.fileno()).st_size
            if self.size > last:
                stream.seek(self.size - last)
                self.position = self.size - last + len(stream.readline())

    def lines(self) -> list[bytes]:
        """Return the next whole lines, of a chunk at most; raises FileChanged, OSError."""
        if self.stuck:
            return []
        with _open(self.path) as stream:
            self.size = os.fstat(stream.fileno()).st_size
            if self.size < self.position:
                raise FileChanged
            if self.size == self.position:
                return []
            stream.seek(self.position - len(self.tail))
            if stream.read(len(self.tail)) != self.tail:
                raise FileChanged
            chunk = stream.read(CHUNK)
        whole = chunk[: chunk.rfind(b"\n") + 1]
        if not whole and len(chunk) == CHUNK:  # no line is that long
            self.stuck = True
        self.position += len(whole)
        self.tail = whole[-TAIL:] or self.tail
        return whole.splitlines()


def _open(path: Path) -> BinaryIO:
    """Open an ordinary file of the run folder; raises OSError for a link, a pipe or the like."""
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    stream = os.fdopen(number, "rb")
    if not stat.S_ISREG(os.fstat(number).st_mode):
        stream.close()
        raise OSError(f"{path} is no ordinary file")
    return stream


@dataclass
class Whereabouts:
    """Where a model is: at a host, or on its way to another one."""

    host: str
    to: str = ""
    """Whither it is on its way, or where it waits for its turn; '' where it is at work or home."""
    waits: bool = False
    """It has arrived there and waits for its turn."""
    rank: tuple[int, int, int] = (0, 0, 0)
    """Round, hop, and how far in it: what is older does not count."""


@dataclass
class Trouble:
    """Something that went wrong, in the words of the log: when (UNIX seconds), whose, and what;
    ``wanted``: the scenario wanted it.
    """

    time: float
    host: str
    text: str
    wanted: bool = False

    def repeats(self, other: Trouble) -> bool:
        """Return whether it tells what has just been told."""
        same = (self.host, self.text) == (other.host, other.text)
        return same and self.time - other.time < 1


@dataclass
class RunReader:
    """What is known of a run by now; `look` takes in what is new.

    Raises:
        RunUnreadable: it is no run folder, or there is a link in it.
        ScenarioError: this version cannot read its scenario.

    """

    folder: Path
    version: int = 0
    """Counts the looks that found something new."""
    behind: float = 1.0
    """The share of the folder's bytes that is still unread."""

    def __post_init__(self) -> None:
        """Read the scenario."""
        location.read(self.folder)
        check_ordinary(self.folder)
        self.loaded = load(self.folder / "scenario.yaml")
        self.scenario = self.loaded.scenario
        self.topology = Topology.of(self.scenario)
        self.outcome = outcome.read(self.folder)
        self.state = ""
        self._forget()

    def _forget(self) -> None:
        names = self.topology.names
        self.view = LiveView.unseen(self.topology)
        self.gathered = Gathered.of(
            (), self.scenario.members, self.scenario.held_out, self.scenario.faults
        )
        self.models = {name: Whereabouts(name) for name in self.scenario.members}
        self.away: dict[str, str] = {}
        """Hospitals that are down, late or stand still, and why."""
        self.lost: set[str] = set()
        self.received = dict.fromkeys(names, 0)
        self.peaks = dict.fromkeys(names, 0)
        self.cards = dict.fromkeys(names, 0)
        self.troubles: deque[Trouble] = deque(maxlen=MOST_TROUBLES)
        self.began, self.last = 0.0, 0.0
        self.steps: deque[float] = deque(maxlen=LATELY)
        self._files: dict[Path, GrowingFile] = {}
        self._damaged: set[str] = set()
        self._known = {*names}

    @property
    def going(self) -> bool:
        """Return whether more may come."""
        return self.state in GOING

    def look(self, seconds: float) -> None:
        """Take in what is new, for so many seconds at most; raises RunUnreadable."""
        end = clock.now() + seconds
        try:
            self._read_on(end)
        except FileChanged:
            self._forget()
            self._read_on(end)
        sizes = sum(file.size for file in self._files.values())
        left = sum(file.size - file.position for file in self._files.values() if not file.stuck)
        self.behind = left / sizes if sizes and left > CHUNK else 0.0
        self.outcome = outcome.read(self.folder)
        state = state_of(self.folder, self.outcome)
        self.version += state != self.state
        self.state = state

    def _read_on(self, end: float) -> None:
        kinds: tuple[tuple[str, Callable[[list[bytes], str], None]], ...] = (
            ("logs", self._take_events),
            ("timings", self._take_timings),
            ("records", self._take_records),
        )
        for name, take in kinds:
            folder = self.folder / name
            if folder.is_symlink():
                raise RunUnreadable(f"{folder} is a link", fix="put a folder in its place")
            while clock.now() < end and self._round(folder, take):
                pass

    def _round(self, folder: Path, take: Callable[[list[bytes], str], None]) -> bool:
        """Read a chunk of every file of a folder; returns whether there was any."""
        found: list[tuple[GrowingFile, list[bytes]]] = []
        for path in sorted(folder.glob("*.jsonl")):
            file = self._files.get(path)
            try:
                if file is None:
                    file = self._files[path] = GrowingFile(path)
                    if folder.name == "timings":
                        file.begin_at(LAST_TIMINGS)
                if lines := file.lines():
                    found.append((file, lines))
            except OSError as error:
                self._damage(path, str(error.strerror or error))
        if folder.name == "logs":
            self._take_events([line for _, lines in found for line in lines], "")
        else:
            for file, lines in found:
                try:
                    take(lines, file.path.stem)
                except (ValueError, RunUnreadable) as error:
                    file.stuck = True
                    self._damage(file.path, f"damaged line: {str(error).splitlines()[0]}")
        self.version += bool(found)
        return bool(found)

    def _damage(self, path: Path, text: str) -> None:
        name = f"{path.parent.name}/{path.name}"
        if name not in self._damaged:
            self._damaged.add(name)
            self.version += 1
            self.troubles.append(Trouble(clock.unix(), path.stem, f"{name}: {text}"))

    def _take_records(self, lines: list[bytes], _: str) -> None:
        for line in lines:
            record = parse_record(line)
            self.gathered.add(record, self._known)
            self.received[record.host] += record.bytes
            if record.outcome == "rolled_back":
                self._note_undone(record)

    def _note_undone(self, record: Record) -> None:
        text = f"session with {record.model} rolled back, round {record.round}, hop {record.hop}"
        reason = f": {record.reason}" if record.reason else ""
        self.troubles.append(Trouble(self.last or clock.unix(), record.host, text + reason))

    def _take_timings(self, lines: list[bytes], host: str) -> None:
        for line in lines:
            timing = parse_timing(line)
            if host not in self.peaks or timing.host != host:
                raise ValueError(f"it is of {timing.host!r}")
            self.peaks[host] = max(self.peaks[host], timing.peak_bytes)
            self.cards[host] = max(self.cards[host], timing.device_bytes)
            if timing.what == "transfer":
                self._note_transfer(timing)

    def _note_transfer(self, timing: Timing) -> None:
        if timing.to in self._known:
            rank = (timing.round, timing.hop, 0)
            self._move(timing.model, Whereabouts(timing.host, timing.to, waits=True, rank=rank))

    def _move(self, model: str, where: Whereabouts) -> None:
        known = self.models.get(model)
        if known and where.rank >= known.rank:
            self.models[model] = where

    def _take_events(self, lines: list[bytes], _: str) -> None:
        told = sorted(
            (logged for line in lines if (logged := events.read(line))), key=lambda one: one.time
        )
        for logged in told:
            self.view(logged)
            self.began = min(self.began or logged.time, logged.time)
            self.last = max(self.last, logged.time)
            self._follow(logged)
            trouble = trouble_of(logged)
            if trouble and not (self.troubles and trouble.repeats(self.troubles[-1])):
                self.troubles.append(trouble)

    def _follow(self, logged: Logged) -> None:
        """Note where models are, and who is down."""
        host, what = logged.hospital, logged.what
        match what:
            case events.Arrived(round_, hop, model, kind) if kind not in ("reduce", "gather"):
                self._move(model, Whereabouts(host, rank=(round_, hop, 1)))
            case events.Finished(round_, hop, model):
                self.steps.append(logged.time)
                self._leave(host, model, round_, hop)
            case events.FaultEvent(fault) if fault in (*AWAY, *WAITS):
                self.away[host] = f"{fault.replace('_', ' ')}, on purpose"
            case events.Restarted(_, cause):
                self.away.setdefault(host, f"died: {cause}")
            case events.LostEvent(_, hospitals):
                self.lost |= {*hospitals}
                for name, place in self.models.items():
                    if place.to in hospitals:  # it stays where it is, until it is sent elsewhere
                        self.models[name] = replace(place, to="", waits=False)
            case events.BackEvent(_, hospital):
                self.lost.discard(hospital)
        if isinstance(what, events.WentOn | events.Arrived | events.Finished):
            self.away.pop(host, None)

    def _leave(self, host: str, model: str, round_: int, hop: int) -> None:
        """Note that a model is through at a host: it goes on, or stays at home."""
        circulates = self.topology.pattern == "circulation"
        if not self.topology.travels(model) or not (circulates or round_ > self.topology.rounds):
            return
        to = ""
        if round_ and hop in self.topology.hops(round_):
            onward = self.topology.onward(self.topology.stop(model, round_, hop))
            while onward and onward.host in self.lost:
                onward = self.topology.onward(onward)
            to = onward.host if onward else ""
        self._move(model, Whereabouts(host, to, rank=(round_, hop, 2)))


TROUBLES: Mapping[type, Callable[[Any], str]] = MappingProxyType(
    {
        events.Restarted: lambda one: f"started again, time {one.number} in a row: {one.cause}",
        events.ControllerDied: lambda one: f"died: {one.cause}; the models go on without it",
        events.Refused: lambda one: f"refused what {one.sender or 'somebody'} sent: {one.reason}",
        events.Error: lambda one: (
            f"exit code {one.code}: {one.message}" + (f"; fix: {one.fix}" if one.fix else "")
        ),
        events.FailedEvent: lambda one: f"failed with exit code {one.code}: {one.reason}",
        events.LostEvent: lambda one: f"the ring goes on without {', '.join(one.hospitals)}",
        events.BackEvent: lambda one: f"is back from round {one.round} on",
        events.Pod: lambda one: f"pod {one.standing}: {one.text}" if one.standing in HELD else "",
        events.Unpushed: lambda one: f"no metrics to {one.gateway}: {one.reason}",
        events.Blind: lambda one: f"no longer sees the pods: {one.reason}",
        events.EndEvent: lambda one: (
            f"the run has ended with exit code {one.code}: {one.reason}" if one.code else ""
        ),
        events.FaultEvent: lambda one: _of_fault(one),  # noqa: PLW0108 - it stands below
    }
)
"""How the lines of a log are put that are about something that went wrong; '' for one that is
not.
"""


def _of_fault(fault: events.FaultEvent) -> str:
    where = f", round {fault.round}, hop {fault.hop}" if fault.round else ""
    lasts = f", for {fault.lasts:g} s" if fault.lasts is not None else ""
    return f"{fault.what.replace('_', ' ')}, on purpose{where}{lasts}"


def trouble_of(logged: Logged) -> Trouble | None:
    """Put a line of a log into words, if it is about something that went wrong."""
    what = logged.what
    said = TROUBLES.get(type(what))
    text = said(what) if said else ""
    host = getattr(what, "hospital", "") or logged.hospital or "controller"
    return Trouble(logged.time, host, text, isinstance(what, events.FaultEvent)) if text else None
