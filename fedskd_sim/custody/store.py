"""One hospital's custody on disk: weights by digest, and commits that say which of them are what.

A commit is written after all weights that it names are safe, and its name appears in one step; so
whatever is cut, the last commit that was whole is still there. The folder holds
``commit-NNNNNNNN.json``, ``models/DIGEST`` and nothing that no kept commit names.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from fedskd_sim.custody.files import (
    length,
    pack_commit,
    pack_weights,
    read_commit,
    read_weights,
)
from fedskd_sim.errors import (
    DigestMismatch,
    FedskdError,
    OutputNotWritable,
    RunUnreadable,
    Where,
)
from fedskd_sim.messages import Weights
from fedskd_sim.wholefiles import DRAFT, PRIVATE, PRIVATE_FOLDER, settle, unwritable, write

LOCK = ".lock"
MODELS = "models"
KEPT = 2
_LOCKED = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW
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
            RunUnreadable: it is a link.

        """
        _check_no_link(folder)
        self.folder, self._keep = folder, keep
        self.damaged: list[FedskdError] = []
        """Commits newer than the last good one that are not whole, each with its reason."""
        self.safe: set[str] = set()
        """Digests of the weights that are on the disk."""
        self._sound: set[str] = set()
        """Those of which every bit was looked at, or written by this life."""
        self._lock = _locked(folder)
        self._good: dict[int, Commit] = {}
        self._found = sorted(self._numbers(), reverse=True)
        self._next = max(self._found, default=0) + 1
        self._look()
        self._secure()

    def latest(self) -> Commit | None:
        """Return the newest commit that is whole, its weights looked at bit by bit; None where
        nothing was ever committed.

        Raises:
            RunUnreadable, DigestMismatch: there are commits, and none is whole.

        """
        while self._good:
            number = max(self._good)
            bad: dict[str, FedskdError] = {}
            for digest in sorted(self._good[number].named - self._sound):
                try:
                    self.weights(digest)
                    self._sound.add(digest)
                except (RunUnreadable, DigestMismatch) as error:
                    bad[digest] = error
            if not bad:
                return self._good[number]
            self.damaged += bad.values()
            self.safe -= bad.keys()
            del self._good[number]
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
            write(self._place(digest), pack_weights(weights[digest]), PRIVATE)
        if fresh:
            settle(self.folder / MODELS)
            self.safe.update(fresh)
            self._sound.update(fresh)
        sizes = {digest: length(self._place(digest)) for digest in sorted(commit.named)}
        if -1 in sizes.values():
            raise OutputNotWritable(
                f"somebody else has removed files of {self.folder}",
                fix="leave a run's custody alone",
            )
        number, self._next = self._next, self._next + 1
        packed = pack_commit({"commit": commit._asdict(), "sizes": sizes})
        write(self._file(number), packed, PRIVATE)
        settle(self.folder)
        self._good[number] = commit

    def release_unneeded(self, spared: Collection[str] = ()) -> list[Path]:
        """List the files that no commit that is kept needs, nor ``spared`` names; from now on they
        do not count as safe.

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
            weights = (self.folder / MODELS).iterdir()
            return [
                *old,
                *self._drafts(),
                *(
                    file
                    for file in weights
                    if _DIGEST.fullmatch(file.name) and file.name not in self.safe
                ),
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
        found = self.folder.glob(f"*{DRAFT}"), (self.folder / MODELS).glob(f"*{DRAFT}")
        forms = (_NAME, _DIGEST)
        return [
            file
            for files, form in zip(found, forms, strict=True)
            for file in files
            if _ours(file, form)
        ]

    def _numbers(self) -> list[int]:
        names = (_NAME.fullmatch(file.name) for file in self.folder.iterdir())
        return [int(name[1]) for name in names if name]

    def _file(self, number: int) -> Path:
        return self.folder / f"commit-{number:08}.json"

    def _place(self, digest: str) -> Path:
        """Return the file of weights; raises RunUnreadable for a digest that is none, which could
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
        if self._good:  # else nothing tells that this is custody
            self.remove(self._drafts() if self.damaged else self.release_unneeded())


def _locked(folder: Path) -> TextIO:
    """Make a custody's folders, its owner's alone, and take the lock; raises OutputNotWritable."""
    try:
        folder.parent.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
        for place in (folder, folder / MODELS):
            place.mkdir(PRIVATE_FOLDER, exist_ok=True)
        lock = os.fdopen(os.open(folder / LOCK, _LOCKED, PRIVATE), "w", encoding="utf-8")
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        fix = "wait until that process has ended, or stop it"
        raise OutputNotWritable(
            f"another process writes {folder}, or it can have no lock", fix=fix
        ) from error
    return lock


def newest(folder: Path) -> Commit | None:
    """Read the newest commit that can be read, with no look at its weights; None where none can."""
    try:
        _check_no_link(folder)
        found = sorted(file for file in folder.iterdir() if _NAME.fullmatch(file.name))
    except (OSError, RunUnreadable):
        return None
    for file in reversed(found):
        with suppress(RunUnreadable, TypeError, ValueError, KeyError, AttributeError):
            return _commit(**read_commit(file)["commit"])
    return None


def check_readable(folder: Path) -> None:
    """Raise RunUnreadable, for the newest, where there are commits and none can be read: of another
    form or damaged.
    """
    found = sorted(file for file in folder.glob("commit-*") if _NAME.fullmatch(file.name))
    if found and newest(folder) is None:
        read_commit(found[-1])


def discard(folder: Path, identity: Mapping[str, str]) -> bool:
    """Remove a hospital's custody, and tell whether that is gone.

    Only commits and weights are removed, by their names, and only where a commit says that it is
    of this ``identity``: whoever forged a run folder decides nothing else. What a hospital made
    that never had anything to keep goes, too. The commits go last, as long as one is there the
    rest can be told to be custody.
    """
    try:
        _check_no_link(folder)
        models, inside = folder / MODELS, [file.name for file in folder.iterdir()]
        weights = [file for file in models.iterdir() if _ours(file, _DIGEST)]
    except (OSError, RunUnreadable):
        return False
    commits = [folder / name for name in inside if _NAME.fullmatch(name)]
    empty = {*inside} == {LOCK, MODELS} and not any(models.iterdir())
    said = getattr(newest(folder), "identity", {})
    if not empty and {**said, **identity} != said:
        return False
    with suppress(OSError):
        drafts = [folder / name for name in inside if _ours(folder / name, _NAME)]
        for file in (*weights, *drafts, *commits, folder / LOCK):
            if length(file) >= 0 and (file.name != LOCK or not length(file)):
                file.unlink(missing_ok=True)
        models.rmdir()
        folder.rmdir()
    return True


def _ours(file: Path, form: re.Pattern[str]) -> bool:
    """Return whether a file has the name of one of ours, or of the draft of one."""
    return bool(form.fullmatch(file.name.removesuffix(DRAFT)))


def _check_no_link(folder: Path) -> None:
    """Refuse custody that is elsewhere; raises RunUnreadable."""
    for place in (folder.parent, folder, folder / MODELS):
        if place.is_symlink():
            fix = "put the folder itself in its place"
            raise RunUnreadable(f"{place} is a link", fix=fix)


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
