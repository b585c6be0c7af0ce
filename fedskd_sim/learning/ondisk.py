"""Samples that do not fit in memory: each is read once, into a file without a name on the
hospital's disk, and looked at through a map of it. Whatever takes samples from it takes the same as
from memory, and the system gives their memory to others when they need it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from errno import ENOSPC
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.errors import OutputNotWritable

AT_A_TIME = 64
"""Samples that are in memory at once while they are written."""
Rows = NDArray[np.integer[Any]]
Take = Callable[[Rows], NDArray[Any]]
"""Gives samples (n, ...) in the order of their rows (n,)."""
Wanted = TypeVar("Wanted")
Made = TypeVar("Made")


def in_memory(take: Take, rows: Rows) -> NDArray[Any]:
    """Read all samples at once."""
    return take(rows)


def on_disk(take: Take, rows: Rows) -> NDArray[Any]:
    """Read samples a few at a time into a file, and map it: as `in_memory`, a ``numpy.memmap``.

    The file is in the folder for temporary files, and gone when the map is, or the process.

    Raises:
        OutputNotWritable: the folder has no room for it.

    """
    first = take(rows[:1])
    shape = (len(rows), *first.shape[1:])
    size = len(rows) * first.nbytes
    with tempfile.TemporaryFile(prefix="fedskd-samples-") as file:
        with _room(shape, size):
            if shutil.disk_usage(tempfile.gettempdir()).free < size:
                raise OSError(ENOSPC, os.strerror(ENOSPC))
        for begin in range(0, len(rows), AT_A_TIME):
            part = np.ascontiguousarray(take(rows[begin : begin + AT_A_TIME]))
            with _room(shape, size):
                file.write(part.data)
        with _room(shape, size):
            file.flush()
        return np.memmap(file, first.dtype, "r+", shape=shape)


@contextmanager
def _room(shape: tuple[int, ...], size: int) -> Iterator[None]:
    """Explain why so many bytes cannot be had on the disk."""
    try:
        yield
    except OSError as error:
        text = (
            f"{shape[0]} samples take {size:,} bytes, and {tempfile.gettempdir()} cannot hold them"
        )
        fix = "set TMPDIR to a folder with room, or resources.samples to memory"
        raise OutputNotWritable(f"{text}: {error.strerror}", fix=fix) from error


def ahead(make: Callable[[Wanted], Made], wanted: Iterable[Wanted]) -> Iterator[Made]:
    """Make one thing after another, each by a thread while the one before it is in use."""
    made: Future[Made] | None = None
    with ThreadPoolExecutor(1) as reader:
        for one in wanted:
            before, made = made, reader.submit(make, one)
            if before is not None:
                yield before.result()
        if made is not None:
            yield made.result()
