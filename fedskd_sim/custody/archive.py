"""Sessions that a run keeps so that anybody can execute them again: what the hospital's learner was
before a session, what arrived, and what left, each set of weights by its digest.

A hospital's folder ``RUN/hops/NAME`` holds ``KIND-ROUND-HOP-MODEL.json``, one for each kept session
(in the form of a commit, with a checksum), and a file of weights for each digest that one of them
names. Which sessions are kept is drawn: every session of the hospital has a rank from the
scenario's seed, and where the room does not suffice for all those of the lowest ranks stay. So they
are spread over the whole run, nobody need know beforehand how large a session is, and a hospital
that died keeps the same ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from fedskd_sim.custody.files import pack_commit, pack_weights, read_commit, read_weights
from fedskd_sim.errors import DigestMismatch, RunUnreadable, Where
from fedskd_sim.messages import Weights, digest, freeze, size, spec, write_table
from fedskd_sim.seeds import seed
from fedskd_sim.wholefiles import DRAFT, PRIVATE, PRIVATE_FOLDER, settle, unwritable, write

FOLDER = "hops"
SESSIONS = ("warm_up", "alone", "visit", "homecoming")
"""The kinds of records that tell of a session; the others pass sums on, or test."""
DATA = "data"
"""Among that with which a session was computed: the digest of the hospital's data."""
GIB = 1 << 30
ENTRY_BYTES = 4096
"""What is counted for a session beside its weights."""
_DIGEST = re.compile(r"[0-9a-f]{32}")


class SessionKey(NamedTuple):
    """Which session of a run it is; its record has the same marks."""

    kind: str
    round: int
    hop: int
    host: str
    model: str

    def __str__(self) -> str:
        """Describe it in words."""
        of = "" if self.kind in ("warm_up", "alone") else f" of the model of {self.model!r}"
        return f"the {self.kind}{of} at {self.host!r}, round {self.round} hop {self.hop}"


class ArchivedSession(NamedTuple):
    """A session that can be executed again; all weights by digest."""

    key: SessionKey
    made: Mapping[str, str]
    """With what it was computed: versions, device, code, and the digest of the data."""
    numbers: Mapping[str, Any]
    """The learner's numbers before it."""
    state: Mapping[str, str]
    """The learner's groups of weights before it."""
    arrived: str
    """The model that came; empty where none did."""
    left: str
    """The weights that it gave."""
    size: int
    """Bytes that are counted for it."""

    @property
    def named(self) -> frozenset[str]:
        """Digests of all its weights."""
        return frozenset({*self.state.values(), self.arrived, self.left} - {""})


class SessionStart(NamedTuple):
    """What a session begins with; its weights may be views."""

    key: SessionKey
    numbers: Mapping[str, Any]
    state: Mapping[str, Weights]
    arrived: Weights | None

    @property
    def groups(self) -> list[Weights]:
        """All its weights."""
        return [*self.state.values(), *([self.arrived] if self.arrived else [])]


class SessionWatch(Protocol):
    """Whoever sees the sessions of a hospital pass by."""

    def begin(self, start: SessionStart) -> SessionStart | None:
        """See how a session begins; gives what `keep` is told at its end, None for nothing."""

    def keep(self, start: SessionStart, left: Weights) -> None:
        """See the weights that a session gave, which may change afterwards."""


class SessionArchive:
    """What one hospital keeps of its sessions; it belongs to the thread that trains."""

    def __init__(self, folder: Path, limit: int, seed_: int, made: Mapping[str, str]) -> None:
        """Make the folder, or go on with what an earlier life of the hospital has kept; what that
        did not finish is removed.

        Args:
            folder: the hospital's own, ``RUN/hops/NAME``.
            limit: so many bytes may be kept.
            seed_: the scenario's, from which is drawn which sessions stay.
            made: with what is computed; the data's digest comes by `note_data`.

        Raises:
            OutputNotWritable: it cannot be made or read.

        """
        self.folder, self.limit, self._seed, self._made = folder, limit, seed_, dict(made)
        try:
            folder.parent.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
            folder.mkdir(PRIVATE_FOLDER, exist_ok=True)
            self._kept = {one.key: one for one in self._whole()}
            self._clear()
        except OSError as error:
            raise unwritable(folder, error) from error

    def note_data(self, data: str) -> None:
        """Hear the digest of the hospital's data, once it is loaded."""
        self._made[DATA] = data

    def begin(self, start: SessionStart) -> SessionStart | None:
        """Copy what a session is about to change; None where it will not be kept anyway."""
        if self._outdone(start.key, sum(map(_bytes_of, start.groups))) is None:
            return None
        held = {name: freeze(group) for name, group in start.state.items()}
        return start._replace(state=held, arrived=start.arrived and freeze(start.arrived))

    def keep(self, start: SessionStart, left: Weights) -> None:
        """Write a session that has ended, in place of those that are outdone by its rank.

        Raises:
            OutputNotWritable: there is no room, or the folder cannot be written.

        """
        groups = [*start.groups, left]
        total = ENTRY_BYTES + sum(map(_bytes_of, groups))
        outdone = self._outdone(start.key, total)
        if outdone is None:
            return
        marks = {id(group): digest(group) for group in groups}
        entry = ArchivedSession(
            start.key,
            dict(self._made),
            start.numbers,
            {name: marks[id(group)] for name, group in start.state.items()},
            marks[id(start.arrived)] if start.arrived else "",
            marks[id(left)],
            total,
        )
        self._remove([*outdone, *({start.key} & self._kept.keys())])
        for group in groups:
            file = self.folder / marks[id(group)]
            if not file.is_file():
                write(file, pack_weights(group), PRIVATE)
        write(_file(self.folder, start.key), pack_commit(entry._asdict()), PRIVATE)
        settle(self.folder)
        self._kept[start.key] = entry

    def _remove(self, keys: list[SessionKey]) -> None:
        """Remove kept sessions, and what only they name; raises OutputNotWritable."""
        try:
            for key in keys:
                _file(self.folder, key).unlink(missing_ok=True)
                del self._kept[key]
            if keys:
                self._clear()
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def _outdone(self, key: SessionKey, total: int) -> list[SessionKey] | None:
        """Choose the sessions that go so that one of so many bytes has room; None where it has
        none.
        """
        others = {other: one.size for other, one in self._kept.items() if other != key}
        free, gone = self.limit - sum(others.values()), list[SessionKey]()
        for other in sorted(others, key=self._rank, reverse=True):
            if free >= total or self._rank(other) < self._rank(key):
                break
            gone.append(other)
            free += others[other]
        return gone if free >= total else None

    def _rank(self, key: SessionKey) -> int:
        return seed(self._seed, "kept sessions", *key)

    def _whole(self) -> Iterator[ArchivedSession]:
        """Yield the sessions of which all is there; what a death has cut is done again."""
        for file in sorted(self.folder.glob("*.json")):
            with suppress(RunUnreadable):
                one = _read(file)
                if all((self.folder / mark).is_file() for mark in one.named):
                    yield one

    def _clear(self) -> None:
        """Remove what no kept session names: by its name it is one of ours."""
        names = {_file(self.folder, key).name for key in self._kept}
        named = {mark for one in self._kept.values() for mark in one.named}
        for file in list(self.folder.iterdir()):
            name = file.name.removesuffix(DRAFT)
            ours = name.endswith(".json") or _DIGEST.fullmatch(name)
            if ours and file.name not in names | named:
                file.unlink()


def archived(run: Path, host: str) -> list[ArchivedSession]:
    """List the sessions that a hospital of a run has kept, in the order of their names.

    Raises:
        RunUnreadable: one cannot be read, or is that of another hospital.

    """
    return [_read(file) for file in sorted((run / FOLDER / host).glob("*.json"))]


def archived_weights(run: Path, host: str, mark: str) -> Weights:
    """Read weights of a kept session by their digest.

    Raises:
        RunUnreadable, DigestMismatch: they are missing, damaged, or others.

    """
    file = run / FOLDER / host / mark
    try:
        return read_weights(file, mark)
    except (RunUnreadable, DigestMismatch) as error:
        raise type(error)(error.message, fix=_FIX, where=Where(str(file))) from error


_FIX = "restore hops/ of the run folder from a copy, or remove the session's JSON file from it"


def _bytes_of(weights: Weights) -> int:
    """Count the bytes of a file of weights."""
    return size(weights) + len(write_table(spec(weights))) + 12


def _file(folder: Path, key: SessionKey) -> Path:
    return folder / f"{key.kind}-{key.round}-{key.hop}-{key.model}.json"


def _read(file: Path) -> ArchivedSession:
    """Read a kept session as if a stranger had written it; raises RunUnreadable."""
    try:
        values = read_commit(file)
    except RunUnreadable as error:
        raise RunUnreadable(error.message, fix=_FIX, where=Where(str(file))) from error
    try:
        one = _parsed(**values)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise _damaged(file, "a field is missing or wrong") from error
    if one.key.host != file.parent.name or _file(file.parent, one.key) != file:
        raise _damaged(file, "it is another session than its name says")
    return one


def _parsed(key: Any, **values: Any) -> ArchivedSession:
    """Check the fields of a kept session; raises TypeError or ValueError."""
    one = ArchivedSession(SessionKey(*key), **values)
    words = (*one.made.items(), *one.state.items(), (one.arrived, one.left), one.key[3:])
    counts = one.key.round, one.key.hop, one.size
    if not isinstance(one.numbers, dict) or not all(
        isinstance(word, str) for pair in words for word in pair
    ):
        raise TypeError(words)
    if not all(type(count) is int and count >= 0 for count in counts):
        raise TypeError(counts)
    if not all(map(_DIGEST.fullmatch, one.named)) or one.key.kind not in SESSIONS:
        raise ValueError(one.key)
    return one


def _damaged(file: Path, why: str) -> RunUnreadable:
    return RunUnreadable(f"this is no kept session: {why}", fix=_FIX, where=Where(str(file)))
