"""The seal of a run that has ended well: ``seal.json`` in its folder, the SHA-256 of every file of
its results.

Records say of every model with which digest it came and went, and nothing of their own measures. So
the launcher notes at the end of a run what its files are. Whoever can change the files can change
the seal as well: against that it is signed, with a key of one's own and the tools that sign files
(docs/reliability.md).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from fedskd_sim.errors import ChainBroken, RunUnreadable, Where
from fedskd_sim.records import NO_OTHER_KEYS
from fedskd_sim.wholefiles import write_text

FILE = "seal.json"
SEALED = (
    "scenario.yaml",
    "environment.json",
    "records/*",
    "weights/*",
    "samples/*",
    "predictions/*",
)
"""What a run has learned and from what; reports are made from it again at any time, and logs may go
on after the end."""
FIX = "this is not what the run ended with: restore the file from a copy, or run the scenario again"


@dataclass(frozen=True, slots=True)
class Seal:
    """What a run has ended with."""

    __pydantic_config__ = NO_OTHER_KEYS
    files: dict[str, str]
    """SHA-256 in hexadecimal digits, by path in the run folder."""
    version: Literal[1] = 1


Found = tuple[tuple[int, int], ChainBroken]
"""A break, and when in the run it lies: round and hop."""
_FORM: TypeAdapter[Seal] = TypeAdapter(Seal)


def seal(run: Path) -> Seal:
    """Note what the files of a run are; an earlier seal is replaced.

    Raises:
        OutputNotWritable: the folder cannot be written.

    """
    made = Seal({str(file.relative_to(run)): _sum(file) for file in _files(run)})
    write_text(run / FILE, json.dumps(asdict(made), indent=1) + "\n")
    return made


def read(run: Path) -> Seal | None:
    """Read the seal of a run; None where there is none. Raises RunUnreadable for a damaged one."""
    file = run / FILE
    try:
        return _FORM.validate_json(file.read_bytes(), strict=True) if file.exists() else None
    except (OSError, ValidationError) as error:
        where = Where(str(file))
        raise RunUnreadable("this is no seal of a run", fix=FIX, where=where) from error


def breaks(run: Path, sealed: Seal) -> Iterator[ChainBroken]:
    """Compare every file with the seal, in the order of their names."""
    there = {str(file.relative_to(run)): file for file in _files(run)}
    for name in sorted({*there, *sealed.files}):
        where = Where(str(run / name))
        if name not in there:
            yield ChainBroken("missing: the run was sealed with this file", fix=FIX, where=where)
        elif name not in sealed.files:
            yield ChainBroken("foreign: the run was sealed without this file", fix=FIX, where=where)
        elif _sum(there[name]) != sealed.files[name]:
            yield ChainBroken(
                "altered: the run was sealed with other bytes in it", fix=FIX, where=where
            )


def keep_changed(breaks: list[Found], unlike: list[ChainBroken]) -> list[Found]:
    """Keep to the files that are not as they were sealed.

    Where two records contradict each other, the seal knows which of them was changed.
    """
    files = {error.where.file for error in unlike if error.where}
    kept = [one for one in breaks if one[1].where and one[1].where.file in files]
    return kept or [((0, 0), error) for error in unlike] or breaks


def _files(run: Path) -> list[Path]:
    return sorted(file for pattern in SEALED for file in run.glob(pattern) if file.is_file())


def _sum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
