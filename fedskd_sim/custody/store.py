"""One hospital's custody on disk: weights by digest, and commits that say which of them are what.

A commit is written after all weights that it names are safe, and its name appears in one step; so
whatever is cut, the last commit that was whole is still there. The folder holds
``commit-NNNNNNNN.json``, ``models/DIGEST`` and nothing that no kept commit names.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from fedskd_sim.custody.files import (
    length,
    pack_commit,
    pack_weights,
    read_commit,
    read_weights,
)
from fedskd_sim.errors import OutputNotWritable, RunUnreadable, Where
from fedskd_sim.messages import Weights
from fedskd_sim.wholefiles import DRAFT, settle, unwritable, write

LOCK = ".lock"
MODELS = "models"
KEPT = 2
_NAME = re.compile(r"commit-([0-9]{8,18})\.json")
_DIGEST = re.compile(r"[0-9a-f]{32}")


class Commit(NamedTuple):
    """What is written at once after a step, so that a hospital that dies goes on from there and
    computes the same bytes.
    """

    identity: Mapping[str, str]
    """What must be the same when it goes on: scenario, versions, device; looked at by whoever
    resumes."""
    machine: Mapping[str, Any]
    """The state of the protocol's machine."""
    numbers: Mapping[str, Any]
    """The learner's numbers."""
    learner: Mapping[str, str]
    """The learner's groups of weights, by digest."""
    models: Mapping[str, str]
    """Models that wait or are on their way: number of the handle to digest."""
    records: int
    """Bytes of the hospital's records that belong to it."""
    lines: int
    """Lines of them."""

    @property
    def named(self) -> frozenset[str]:
        """Digests of all weights that this commit needs; files of others may be removed."""
        return frozenset((*self.learner.values(), *self.models.values()))


class Store:
    """The custody of one hospital; one process at a time has it. Its methods belong to one
    thread.
    """

    def __init__(self, folder: Path, keep: int = KEPT) -> None:
        """Make the folder or go on with what is in it; what a dead process did not finish is
        removed.

        Where commits are `damaged`, that is only its drafts: somebody may want to look at the rest
        until there is a new commit.

        Args:
            folder: the hospital's own, ``RUN/custody/NAME``.
            keep: so many commits stay.

        Raises:
            OutputNotWritable: it cannot be made or written, or another process has it.

        """
        self.folder, self._keep = folder, keep
        self.damaged: list[RunUnreadable] = []
        """Commits newer than the last good one that are not whole, each with its reason."""
        self.safe: set[str] = set()
        """Digests of the weights that are on the disk."""
        try:
            (folder / MODELS).mkdir(parents=True, exist_ok=True)
            self._lock = (folder / LOCK).open("w", encoding="utf-8")
        except OSError as error:
            raise unwritable(folder, error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            fix = "wait until that process has ended, or stop it"
            raise OutputNotWritable(
                f"another process writes {folder}, or it can have no lock", fix=fix
            ) from error
        self._good: dict[int, Commit] = {}
        self._found = sorted(self._numbers(), reverse=True)
        self._next = max(self._found, default=0) + 1
        self._look()
        self._secure()

    def latest(self) -> Commit | None:
        """Give the newest commit that is whole; None where nothing was ever committed.

        Raises:
            RunUnreadable: there are commits, and none is whole.

        """
        if self._good:
            return self._good[max(self._good)]
        if self._found:
            raise self.damaged[0]
        return None

    def weights(self, digest: str) -> Weights:
        """Read weights, and check them.

        Raises:
            RunUnreadable: they are not there or damaged.
            DigestMismatch: they are other weights than their name says.

        """
        return read_weights(self._place(digest), digest)

    def write(self, commit: Commit, weights: Mapping[str, Weights]) -> None:
        """Make a commit safe; when this returns, it survives a power cut. What it replaces stays
        until `release_unneeded` is removed.

        Args:
            commit: names its weights by digest.
            weights: those of them, by digest, that may not be `safe` yet; others are not looked at.

        Raises:
            OutputNotWritable: there is no room, or the folder cannot be written. The commit before
                this one still stands.
            ValueError: it cannot be written as it is.

        """
        fresh = sorted(commit.named - self.safe)
        for digest in fresh:
            write(self._place(digest), pack_weights(weights[digest]))
        if fresh:
            settle(self.folder / MODELS)
            self.safe.update(fresh)
        sizes = {digest: length(self._place(digest)) for digest in sorted(commit.named)}
        if -1 in sizes.values():
            raise OutputNotWritable(
                f"somebody else has removed files of {self.folder}",
                fix="leave a run's custody alone",
            )
        number, self._next = self._next, self._next + 1
        write(self._file(number), pack_commit({"commit": commit._asdict(), "sizes": sizes}))
        settle(self.folder)
        self._good[number] = commit

    def release_unneeded(self, spared: Collection[str] = ()) -> list[Path]:
        """Say which files no commit that is kept needs, nor ``spared`` names; from now on they do
        not count as safe.

        Raises:
            OutputNotWritable: the folder is gone.

        """
        for number in sorted(self._good)[: -self._keep]:
            del self._good[number]
        self.safe.intersection_update(
            {*spared, *(digest for commit in self._good.values() for digest in commit.named)}
        )
        try:
            old = [self._file(number) for number in self._numbers() if number not in self._good]
            return [
                *old,
                *self._drafts(),
                *(file for file in (self.folder / MODELS).iterdir() if file.name not in self.safe),
            ]
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def remove(self, files: Iterable[Path]) -> None:
        """Remove files; one that cannot be removed takes room and does no harm."""
        for file in files:
            with suppress(OSError):
                file.unlink()

    def close(self) -> None:
        """Release the folder's lock, so that the hospital's next life may open it."""
        self._lock.close()

    def _drafts(self) -> list[Path]:
        return [*self.folder.glob(f"*{DRAFT}"), *(self.folder / MODELS).glob(f"*{DRAFT}")]

    def _numbers(self) -> list[int]:
        names = (_NAME.fullmatch(file.name) for file in self.folder.iterdir())
        return [int(name[1]) for name in names if name]

    def _file(self, number: int) -> Path:
        return self.folder / f"commit-{number:08}.json"

    def _place(self, digest: str) -> Path:
        """Give the file of weights; raises RunUnreadable for a digest that is none, which could
        lead anywhere.
        """
        if not _DIGEST.fullmatch(digest):
            raise RunUnreadable(f"{digest[:80]!r} is no digest", where=Where(str(self.folder)))
        return self.folder / MODELS / digest

    def _look(self) -> None:
        """Find the commits to keep: the newest that are whole."""
        for number in self._found:
            if len(self._good) == self._keep:
                return
            try:
                self._good[number] = self._read(self._file(number))
            except RunUnreadable as error:
                self.damaged += [] if self._good else [error]

    def _read(self, file: Path) -> Commit:
        """Read a commit; raises RunUnreadable if it, or any weights that it names, is not whole."""
        values = read_commit(file)
        try:
            commit, sizes = _commit(**values["commit"]), values["sizes"]
            wrong = [
                digest for digest in commit.named if length(self._place(digest)) != sizes[digest]
            ]
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise RunUnreadable(
                "this is no commit: a field is missing or wrong", where=Where(str(file))
            ) from error
        if wrong:
            raise RunUnreadable(
                f"the weights {wrong[0]} that it names are missing or cut", where=Where(str(file))
            )
        return commit

    def _secure(self) -> None:
        """Make sure that the disk has what a dead process has left, and remove what it did not
        finish.
        """
        self.safe = {digest for commit in self._good.values() for digest in commit.named}
        for path in (*map(self._file, self._good), *map(self._place, sorted(self.safe))):
            settle(path)
        for folder in (
            self.folder / MODELS,
            self.folder,
            self.folder.parent,
            self.folder.parent.parent,
        ):
            settle(folder)
        self.remove(self._drafts() if self.damaged else self.release_unneeded())


def _commit(**values: Any) -> Commit:
    """Check the fields of a commit; raises TypeError or ValueError."""
    commit = Commit(**values)
    for part in commit[:5]:
        if not isinstance(part, dict):
            raise TypeError(part)
    words = (*commit.identity.values(), *commit.named)
    counts = (commit.records, commit.lines)
    if not all(isinstance(word, str) for word in words) or not all(
        type(count) is int and count >= 0 for count in counts
    ):
        raise TypeError(words)
    return commit
