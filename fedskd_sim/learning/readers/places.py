"""Where data are: the folder that was given, and the file in it."""

from __future__ import annotations

import os
from pathlib import Path

from fedskd_sim.errors import DataMissing, Key

ENVIRONMENT = "FEDSKD_DATA"
PART, SAMPLES, ATLAS = "part.json", "samples.npy", "atlas.npy"
PART_FILES = (SAMPLES, ATLAS, PART)
"""The files of a hospital's part (`fedskd_sim.learning.readers.parts`), in the order in which they
are written: a folder without the last one holds none."""


def find(file: str, folder: Path | None) -> Path:
    """Find a data file; DataMissing if no folder is known or the file is not in it."""
    found = _known(file, file, folder, ("data", "file")) / file
    if not found.is_file():
        state = "is a folder, not a file" if found.is_dir() else "is not there"
        raise DataMissing(f"{found} {state}", fix=_fix(file), key=("data", "file"))
    return found


def folder_of(reader: str, folder: Path | None) -> Path:
    """Find the data folder for a reader that looks for its files itself; DataMissing if it is not
    known or not there.
    """
    found = _known(reader, "its files", folder, ("data", "reader"))
    if not found.is_dir():
        raise DataMissing(f"{found} is no folder", fix=_fix("its files"), key=("data", "reader"))
    return found


def given(folder: Path | None) -> Path | None:
    """Return the folder that was given, or else the one that the environment names, if any."""
    named = os.environ.get(ENVIRONMENT)
    return folder or (Path(named).expanduser() if named else None)


def part_of(folder: Path | None, name: str) -> Path | None:
    """Find a hospital's part: in the data folder, or in a folder of the hospital's name there."""
    found = given(folder)
    places = (found / name, found) if found else ()
    return next((place for place in places if (place / PART).is_file()), None)


def _known(source: str, what: str, folder: Path | None, key: tuple[Key, ...]) -> Path:
    found = given(folder)
    if found is None:
        raise DataMissing(f"{source}: no data folder was given", fix=_fix(what), key=key)
    return found


def _fix(what: str) -> str:
    return f"give the folder that holds {what} with --data DIR or {ENVIRONMENT}"
