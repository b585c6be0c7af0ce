"""The logs of a run's pods, followed and sorted into a run folder: events to logs, records to
records, the rest aside.

Every line is read once: reading all logs anew at each look costs more the longer a run takes. A
hospital whose pod is replaced begins again, and the entries of two lives must not mix. Before the
start no pod writes any, so that it does not matter how many there were; after it the life that has
written most is the one that took part. Its entries are the hospital's, whichever log is read first;
those of the others are in ``logs/NAME.aside``. A pod that goes on from what one before it kept is
of the same life (`LogCollector.join`).
"""

from __future__ import annotations

import json
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event as Flag
from threading import Thread
from typing import Any, TextIO

from kubernetes.client.exceptions import ApiException

from fedskd_sim import clock
from fedskd_sim.kubernetes.jobs import HOSPITAL
from fedskd_sim.kubernetes.pods import ENDED
from fedskd_sim.kubernetes.reach import MISSING, NO_LOG, Reach, Unreachable, translate_errors
from fedskd_sim.messages import CONTROLLER
from fedskd_sim.observe import events
from fedskd_sim.observe.events import Logged
from fedskd_sim.runtimes import folder as folders

AGAIN_S = 1.0
NEAR = 256
"""A line that is known stands at most so many lines behind the one before it."""
ENTRIES = ("records", "samples", "timings")


@dataclass
class LogCollector:
    """Follows every pod it is shown, once; `events` hands out what was read since the last call.

    A file that an earlier reading has left is written anew as soon as there is something to write
    to it, and not before.
    """

    reach: Reach
    folder: Path
    goes_on: bool = False
    """The folder has what the run left before it came here: the entries in its pods' logs are not
    all, and are left out."""
    _followed: dict[str, str] = field(default_factory=dict)
    _phases: dict[str, str] = field(default_factory=dict)
    _finished: set[str] = field(default_factory=set)
    _lines: SimpleQueue[tuple[str, str, str]] = field(default_factory=SimpleQueue)
    _files: dict[Path, TextIO] = field(default_factory=dict)
    _kept: dict[str, str] = field(default_factory=dict)
    """Whose entries are in the folder: the pod of every hospital's name."""
    _counts: Counter[str] = field(default_factory=Counter)
    _aside: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """The entries of the other pods, by pod: folder and line."""
    _went_on: set[str] = field(default_factory=set)
    """Pods that have gone on from what one before them kept."""
    _closed: Flag = field(default_factory=Flag)

    def follow(self, pods: list[Any]) -> None:
        """Begin to follow pods that are new and have a log."""
        for pod in sorted(pods, key=lambda pod: pod.metadata.creation_timestamp):
            uid, name = pod.metadata.uid, pod.metadata.labels.get(HOSPITAL, CONTROLLER)
            self._phases[uid] = pod.status.phase
            if uid not in self._followed and pod.status.phase not in ("Pending", "Unknown"):
                self.own(uid, name)
                Thread(target=self._read, args=(uid, name, pod.metadata.name), daemon=True).start()

    def own(self, uid: str, name: str) -> None:
        """Note whose pod this is; of a hospital's pods the oldest first."""
        self._followed.setdefault(uid, name)

    def events(self, patience: float) -> Iterator[Logged]:
        """Yield new events, and write everything that was read; waits up to ``patience`` seconds
        for the first.
        """
        while True:
            try:
                uid, name, line = self._lines.get(timeout=patience)
            except Empty:
                return
            patience = 0
            if event := self.sort(uid, name, line):
                yield event

    @property
    def complete(self) -> bool:
        """Return whether the logs of all pods that have ended have been read to their end."""
        ended = {uid for uid, phase in self._phases.items() if phase in ENDED}
        return ended <= self._finished and self._lines.empty()

    def join(self) -> None:
        """Put the entries of pods of one life together, in the order of the pods; what one has told
        and the next did again counts as that did it.
        """
        for name in sorted({self._followed[uid] for uid in self._went_on}):
            told = list[dict[tuple[str, ...], tuple[str, str]]]()
            for uid in [uid for uid, of in self._followed.items() if of == name]:
                if uid not in self._went_on or not told:
                    told.append({})
                told[-1] |= {_key(*entry): entry for entry in self._taken(uid, name)}
            longest = max(told, key=len)
            for life in told:
                for kind, line in life.values():
                    place = (
                        (kind, f"{name}.jsonl") if life is longest else ("logs", f"{name}.aside")
                    )
                    self._append(*place, line)
        self._went_on.clear()

    def _taken(self, uid: str, name: str) -> list[tuple[str, str]]:
        """Take the entries of a pod back from where they are."""
        if self._kept.get(name) != uid:
            return self._aside.pop(uid, [])
        del self._kept[name]
        return [(kind, line) for kind in ENTRIES for line in self._take_back(kind, name)]

    def close(self) -> None:
        """Stop following, write what belongs to no hospital's records, and close the files."""
        self._closed.set()
        for uid, entries in self._aside.items():
            for _, line in entries:
                self._append("logs", f"{self._followed[uid]}.aside", line)
        self._aside.clear()
        while self._files:
            self._files.popitem()[1].close()

    def _read(self, uid: str, name: str, pod: str) -> None:
        """Follow one pod to its end; after a broken connection the log is read anew, without
        what is known.
        """
        known = array("q")
        while not self._closed.is_set():
            try:
                for line in new_lines(known, self.reach.lines(pod, name, follow=True)):
                    self._lines.put((uid, name, line))
                if self._phases.get(uid) in ENDED:
                    break
            except ApiException as error:
                gone, ended = error.status == MISSING, self._phases.get(uid) in ENDED
                if gone or (error.status == NO_LOG and ended):
                    break
            except Unreachable:
                pass
            self._closed.wait(AGAIN_S)
        self._finished.add(uid)

    def sort(self, uid: str, name: str, line: str) -> Logged | None:
        """Write a line where it belongs, and return the event that it is."""
        logged = events.read(line)
        if logged is None:
            self._append("logs", f"{name}.err", line)
            return None
        if isinstance(logged.what, events.Entry) and logged.what.kind in ENTRIES:
            if not self.goes_on:
                self._enter(uid, name, (logged.what.kind, logged.what.line))
            return None
        self._append("logs", f"{name}.jsonl", line)
        if isinstance(logged.what, events.WentOn):
            self._went_on.add(uid)
        return logged

    def _enter(self, uid: str, name: str, entry: tuple[str, str]) -> None:
        """Write an entry if it is of the life that has written most so far (of equal ones, of
        the first), else put it aside.
        """
        kept = self._kept.setdefault(name, uid)
        if kept == uid:
            self._append(entry[0], f"{name}.jsonl", entry[1])
            self._counts[uid] += 1
            return
        self._aside.setdefault(uid, []).append(entry)
        self._counts[uid] += 1
        age = list(self._followed).index
        if (self._counts[uid], -age(uid)) > (self._counts[kept], -age(kept)):
            self._aside[kept] = [
                (kind, line) for kind in ENTRIES for line in self._take_back(kind, name)
            ]
            self._kept[name] = uid
            for kind, line in self._aside.pop(uid):
                self._append(kind, f"{name}.jsonl", line)

    def _take_back(self, kind: str, name: str) -> list[str]:
        """Take back what was written to a hospital's file."""
        path = self.folder / kind / f"{name}.jsonl"
        file = self._files.pop(path, None)
        if file is None:
            return []
        file.close()
        return path.read_text(encoding="utf-8").splitlines()

    def _append(self, folder: str, file: str, line: str) -> None:
        path = self.folder / folder / file
        if path not in self._files:
            self._files[path] = path.open("w", encoding="utf-8", buffering=1)
        self._files[path].write(line + "\n")


def new_lines(known: array[int], lines: Iterable[str]) -> Iterator[str]:
    """Yield what of a log that is read again is new, and note it in what is ``known``: the lines'
    hashes. A kubelet that has rotated the log gives it from a later line on, so that lines are
    known by what they say and by their order, not by their number.
    """
    at = -1
    for line in lines:
        mark = hash(line)
        try:
            at = known.index(mark, max(0, at), len(known) if at < 0 else at + NEAR) + 1
        except ValueError:
            known.append(mark)
            at = len(known) if at in (-1, len(known) - 1) else at
            yield line


def _key(kind: str, line: str) -> tuple[str, ...]:
    """Return what no two entries of one life share: a step has one record, however often it is
    done.
    """
    if kind != "records":
        return kind, line
    record = json.loads(line)
    return kind, *(str(record[part]) for part in ("kind", "round", "hop", "host", "model"))


def once(reach: Reach, release: str, folder: Path, *, goes_on: bool = False) -> list[str]:
    """Sort what all pods have logged so far into a folder, without following them.

    Returns:
        For people, of which pods the log could not be read, on a lost node, say; those of all
        others are there.

    Raises:
        Unreachable, ApiException: the pods cannot even be listed.

    """
    collector = LogCollector(reach, folder, goes_on)
    with closing(collector):
        unread = list(_read_all(reach, release, collector))
        collector.join()
        return unread


def _read_all(reach: Reach, release: str, collector: LogCollector) -> Iterator[str]:
    for pod in sorted(reach.pods(release), key=lambda pod: pod.metadata.creation_timestamp):
        name = pod.metadata.labels.get(HOSPITAL, CONTROLLER)
        if pod.status.phase not in ("Pending", "Unknown"):
            collector.own(pod.metadata.uid, name)
            try:
                for line in reach.lines(pod.metadata.name, name, follow=False):
                    collector.sort(pod.metadata.uid, name, line)
            except (Unreachable, ApiException) as error:  # of a lost node must not hide all others
                if isinstance(error, ApiException) and error.status == NO_LOG:
                    continue  # it never had one
                yield f"{name}: its log cannot be read now: {error}"


QUIET_S = 0.3
"""When nothing has come for so long all is read that was there."""
FIRST_S, LONGEST_S = 3.0, 1.0
"""The first look, and any other, takes no longer: members at work are never quiet, and what has not
come by then is seen at the next."""


@dataclass
class LogFollower:
    """Follows a release's pods into a folder that goes with it; see `LogCollector`."""

    reach: Reach
    release: str
    _folder: tempfile.TemporaryDirectory[str] = field(default_factory=tempfile.TemporaryDirectory)
    _collector: LogCollector = field(init=False)
    _patience: float = FIRST_S

    def __post_init__(self) -> None:
        """Follow nothing yet."""
        folders.subfolders(Path(self._folder.name))
        self._collector = LogCollector(self.reach, Path(self._folder.name))

    def news(self) -> Iterator[Logged]:
        """Yield what has been logged since the last call, of every pod in its order; raises
        ClusterUnavailable.
        """
        with translate_errors():
            self._collector.follow(self.reach.pods(self.release))
        begun = looked = clock.now()
        patience, self._patience = self._patience, LONGEST_S
        while looked < begun + patience:
            some = [*self._collector.events(QUIET_S)]
            yield from sorted(some, key=lambda logged: logged.time)
            before, looked = looked, clock.now()
            if not some and looked >= before + QUIET_S:
                break

    def close(self) -> None:
        """Stop following, and remove what was written meanwhile."""
        self._collector.close()
        self._folder.cleanup()
