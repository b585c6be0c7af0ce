"""Reading one ``.npz``: every way in which such a file can be wrong is an error that names it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.datasets.refusals import check_once, corrupt

KINDS = "biufU"
DENSEST = 1100
"""By so much can the compression of an archive shrink a file at most, and a little more."""


@contextmanager
def open_archive(path: Path, needed: Sequence[str]) -> Iterator[Any]:
    """Open an archive that must have some arrays; raises DataCorrupt."""
    try:
        stream = path.open("rb")
    except OSError as error:
        raise corrupt(f"{path} cannot be opened: {error.strerror}") from error
    with stream:
        try:
            arrays = np.load(stream, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise TypeError("it is one array and no archive of arrays")  # noqa: TRY301 - one more way to be unreadable
            there = {*arrays.files}
            missing = [name for name in needed if name not in there]
        except Exception as error:  # a damaged archive may raise anything
            raise corrupt(f"{path} cannot be read: {error}") from error
        if missing:
            raise corrupt(f"{path} lacks {', '.join(missing)}")
        yield arrays


def array(arrays: Any, name: str) -> NDArray[Any]:
    """Read an array; raises DataCorrupt."""
    shape(arrays, name)
    try:
        found: NDArray[Any] = arrays[name]
        if found.dtype.kind == "U":
            found.tolist()  # where a number stands for no character
    except Exception as error:  # as above
        raise corrupt(f"array {name} cannot be read: {error}") from error
    return found


def shape(arrays: Any, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read an array's shape and type from its header alone, which must promise no more than the
    file can hold.

    Raises:
        DataCorrupt: it cannot be read, holds no plain numbers or texts, or is longer or shorter
            than it says.

    """
    try:
        member = arrays.zip.getinfo(f"{name}.npy")
        with arrays.zip.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            found, _, dtype = header(stream)
            begin = stream.tell()
        size = begin + math.prod(found) * dtype.itemsize
    except Exception as error:  # as above
        raise corrupt(f"array {name} cannot be read: {error}") from error
    if dtype.kind not in KINDS or min(found, default=0) < 0:
        raise corrupt(f"array {name} has shape {found} of {dtype}, no plain numbers or texts")
    if size != member.file_size or size > DENSEST * os.fstat(arrays.zip.fp.fileno()).st_size:
        raise corrupt(f"array {name} says that it has {size} bytes, which the file does not hold")
    return tuple(found), dtype


def numbers(arrays: Any, name: str, rows: int, asks: str) -> NDArray[Any]:
    """Read one whole number per row, which must be an index into ``NAME_names`` where there is
    such an array.
    """
    found = array(arrays, name)
    if found.shape != (rows,) or found.dtype.kind not in "iu":
        raise corrupt(
            f"{name} has shape {found.shape} of {found.dtype}, not ({rows},) of whole numbers as "
            f"{asks} asks for"
        )
    if f"{name}_names" in arrays:
        count = len(_named(arrays, name))
        if found.size and not 0 <= found.min() <= found.max() < count:
            raise corrupt(
                f"{name} goes from {found.min()} to {found.max()}, but {name}_names has {count} "
                "names"
            )
    return found


def names(arrays: Any, name: str) -> tuple[str, ...]:
    """Read the names of a numbered thing; raises DataCorrupt if two are one, in whatever
    letters, or one cannot be printed.
    """
    found = tuple(map(str, _named(arrays, name)))
    for entry in found:
        if not entry.isprintable():
            raise corrupt(f"{name}_names has {entry!r}, which cannot be printed")
    check_once(f"{name}_names", [{"name": entry} for entry in found], "name")
    return found


def _named(arrays: Any, name: str) -> NDArray[Any]:
    """Read the row of names of a numbered thing; raises DataCorrupt if it is none."""
    found = array(arrays, f"{name}_names")
    if found.ndim != 1:
        raise corrupt(f"{name}_names has shape {found.shape}, not one name after the other")
    return found
