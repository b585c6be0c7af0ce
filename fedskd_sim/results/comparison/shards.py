"""A comparison in shards, for batch systems: each carries out every N-th run in a folder of its
own, and a join puts the runs of all of them into one folder. No server, and nothing is remembered
but what a shard notes of itself.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from fedskd_sim.errors import InvalidValue, OutputNotEmpty, OutputNotWritable, RunUnreadable, Where
from fedskd_sim.observe.words import counted, short_path
from fedskd_sim.results.comparison import origins
from fedskd_sim.results.comparison.planning import PlannedRun
from fedskd_sim.results.comparison.work import SHARD, Workshop, finished
from fedskd_sim.wholefiles import write_text

JOIN = Where("--join")
MOST_NAMED = 6


@dataclass(frozen=True, slots=True)
class Shard:
    """Which part of a comparison's runs: number ``number`` of ``of``, counted from 1."""

    number: int
    of: int

    def __str__(self) -> str:
        """Write it as ``--shard`` takes it."""
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str, runs: int) -> Shard:
        """Read what ``--shard`` was given; raises InvalidValue, also for more shards than there
        are ``runs``.
        """
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        if not found:
            fix = "give number and count, as in --shard 2/4"
            raise InvalidValue(f"{text!r} is no shard", fix=fix, where=Where("--shard"))
        shard = cls(int(found[1]), int(found[2]))
        if not 1 <= shard.number <= shard.of:
            fix = f"shards of {shard.of} are 1/{shard.of} to {shard.of}/{shard.of}"
            fix = fix if shard.of else "give 1/1 or more shards"
            raise InvalidValue(f"there is no shard {text}", fix=fix, where=Where("--shard"))
        if shard.of > runs:
            fix = f"give at most {counted(runs, 'shard')}, one for each run"
            text = f"{shard.of} shards are too many for {counted(runs, 'run')}"
            raise InvalidValue(text, fix=fix, where=Where("--shard"))
        return shard

    def runs(self, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
        """Return its own of all runs of a comparison."""
        return [*runs[self.number - 1 :: self.of]]


@dataclass(frozen=True, slots=True)
class ShardNote:
    """What a shard's folder says of itself: which it is, and of which comparison."""

    number: int
    of: int
    labels: tuple[str, ...]
    seeds: int
    runs: str
    """The SHA-256 of all runs' scenarios, keys with their default left out."""

    @classmethod
    def about(cls, shard: Shard, runs: Sequence[PlannedRun]) -> ShardNote:
        """Describe a shard of these runs, which are those of the whole comparison."""
        said = [run.scenario.model_dump(mode="json", exclude_defaults=True) for run in runs]
        labels = tuple(dict.fromkeys(run.label for run in runs))
        digest = sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        return cls(shard.number, shard.of, labels, len({run.index for run in runs}), digest)

    @property
    def shard(self) -> Shard:
        """The shard itself."""
        return Shard(self.number, self.of)

    def write(self, folder: Path) -> None:
        """Leave it in a shard's folder; raises OutputNotWritable."""
        write_text(folder / SHARD, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> ShardNote:
        """Read that of a folder; raises InvalidValue where it is none of a shard."""
        try:
            given = json.loads((folder / SHARD).read_text(encoding="utf-8"))
            found = cls(**{**given, "labels": tuple(given["labels"])})
            if 1 <= found.number <= found.of:
                return found
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            pass
        text = f"{short_path(folder)} is no folder of a shard"
        raise InvalidValue(text, fix="give what 'compare --shard' was given as --out", where=JOIN)

    @classmethod
    def check_free(cls, folder: Path, shard: Shard) -> None:
        """Raise OutputNotEmpty for a folder that holds another shard: its note would be lost."""
        with suppress(InvalidValue):
            held = cls.read(folder).shard
            if held != shard:
                text = f"{short_path(folder)} holds shard {held}"
                raise OutputNotEmpty(text, fix=f"give shard {shard} another --out")

    def differs(self, other: ShardNote) -> str:
        """Return in which way another shard is of another comparison than this one; '' for the
        same.
        """
        if self.labels != other.labels:
            return f"its methods are {', '.join(other.labels)}"
        if self.seeds != other.seeds:
            return f"it has {counted(other.seeds, 'seed')}"
        return "its scenario is another" if self.runs != other.runs else ""


def join(shop: Workshop, runs: Sequence[PlannedRun], folders: Iterable[Path]) -> None:
    """Copy the runs of all shards of a comparison into its folder; what it has is not copied again.

    Args:
        shop: has the folder.
        runs: all of the comparison.
        folders: those of the shards.

    Raises:
        InvalidValue: a folder is no shard's, or of another comparison, or some shard is missing.
        RunUnreadable: runs of a shard have not finished.
        OutputNotWritable: they cannot be copied.

    """
    found = _whole(runs, folders)
    missing = [*_unfinished(runs, found)]
    if missing:
        more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        text = f"{counted(len(missing), 'run')} of shards did not finish: "
        text += "; ".join(missing[:MOST_NAMED]) + more
        raise RunUnreadable(text, fix="give the same 'compare --shard' again: it goes on with them")
    for shard, folder in found.items():
        for run in shard.runs(runs):
            try:
                _copy(Workshop(folder, None, 1).folder(run), shop.folder(run))
            except OSError as error:
                text = f"{shop.out} cannot be written: {error.strerror or error}"
                raise OutputNotWritable(text, fix="make room, or give another --out") from error


def _whole(runs: Sequence[PlannedRun], folders: Iterable[Path]) -> dict[Shard, Path]:
    """Return the folder of every shard; raises InvalidValue unless each is there once."""
    found: dict[Shard, Path] = {}
    for folder in folders:
        note = ShardNote.read(folder)
        here = ShardNote.about(note.shard, runs)
        first = next(iter(found), note.shard)
        text = ""
        if words := here.differs(note):
            text = f"{short_path(folder)} is a shard of another comparison: {words}"
        elif note.of != first.of:
            text = f"{short_path(folder)} is shard {note.shard}, {short_path(found[first])} {first}"
        elif note.shard in found:
            both = f"{short_path(found[note.shard])} and {short_path(folder)}"
            text = f"{both} are both shard {note.shard}"
        if text:
            fix = (
                "give SCENARIO, --algorithms and --seeds as there, and the shards of one comparison"
            )
            raise InvalidValue(text, fix=fix, where=JOIN)
        found[note.shard] = folder
    count = next(iter(found)).of
    gone = [one for number in range(count) if (one := Shard(number + 1, count)) not in found]
    if gone:
        text = f"{counted(len(gone), 'shard')} missing: {', '.join(map(str, gone))}"
        fix = f"give a --join for each; 'compare ... --shard {gone[0]}' computes it"
        raise InvalidValue(text, fix=fix, where=JOIN)
    return found


def _unfinished(runs: Sequence[PlannedRun], found: dict[Shard, Path]) -> Iterator[str]:
    for shard, folder in found.items():
        for run in shard.runs(runs):
            if not finished(Workshop(folder, None, 1).folder(run)):
                yield f"{run.name}, of shard {shard}"


def _copy(whence: Path, to: Path) -> None:
    if finished(to):
        return
    part = to.with_name(f"{to.name}.part")
    for old in (part, to):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(whence, part)
    with suppress(FileNotFoundError):
        shutil.copy2(origins.file_of(whence), origins.file_of(to))
    part.rename(to)
