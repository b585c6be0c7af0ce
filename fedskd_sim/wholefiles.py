"""Files that are whole or not there: written beside their place, and given their name at the end.

What must survive a power cut waits for the disk, too: first the file, then its name in the folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from fedskd_sim.errors import OutputNotWritable
from fedskd_sim.exits import out_of_space

DRAFT = ".draft"
PRIVATE, PUBLIC = 0o600, 0o666
"""Modes of files: weights, and what was predicted of whom, are their owner's alone."""
PRIVATE_FOLDER = 0o700
DraftPart = bytes | bytearray | memoryview


@contextmanager
def drafted(file: Path, *, lasting: bool = False, mark: str = "") -> Iterator[Path]:
    """Yield a file to write to, which takes another's name once it is whole; what goes wrong before
    leaves the other as it was, and raises as it does.

    Args:
        file: whose name it takes.
        lasting: only once the disk has it; `settle` the folder afterwards.
        mark: tells it from the drafts of others who write the same file at once.

    """
    draft = file.with_name(f"{file.name}{mark}{DRAFT}")
    try:
        yield draft
        if lasting:
            _sync(draft)
        draft.replace(file)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise


def opened(file: Path, mode: int = PRIVATE) -> BinaryIO:
    """Open a file to write it anew, with a mode, of which the user's mask takes its part; a link in
    its place is not followed. Raises OSError.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    return os.fdopen(os.open(file, flags, mode), "wb")


def write(file: Path, parts: Iterable[DraftPart], mode: int = PUBLIC) -> None:
    """Write a file that lasts, once its folder is settled; raises OutputNotWritable, and what
    had the name before is untouched.
    """
    try:
        with drafted(file, lasting=True) as draft, opened(draft, mode) as stream:
            for part in parts:
                stream.write(part)
    except OSError as error:
        raise unwritable(file, error) from error


def write_text(file: Path, text: str) -> None:
    """Write a text that survives a power cut from now on; raises OutputNotWritable, and what had
    the name before is untouched.
    """
    write(file, [text.encode()])
    settle(file.parent)


def settle(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder; raises OutputNotWritable."""
    try:
        _sync(path)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> OutputNotWritable:
    """Return an error that says why something could not be written."""
    reason = (error.strerror or str(error)).lower()
    fix = (
        "make room where the run folder is, and go on from there"
        if out_of_space(error)
        else "give a run folder that you may write to"
    )
    return OutputNotWritable(f"{path} cannot be written: {reason}", fix=fix)


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
