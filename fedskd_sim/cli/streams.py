"""Standard input, output and error as shells leave them: closed, or read by somebody who has
seen enough.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import Any

STANDARD = (0, 1, 2)


class Unread(io.FileIO):
    """A stream whose reader may leave: what is written after that is written to nobody, and
    whoever writes goes on.

    A file that cannot grow is told of once, by an exception; what its buffer still holds then is
    lost, or the interpreter would try again at its end and put its own exit code in place of the
    command's. Of errors themselves nobody can be told more.
    """

    words = "standard output"
    bears = False
    """Nothing that fails here is an error: it is where errors are written."""

    def write(self, data: Any, /) -> int:
        """Write all, as far as there is a reader; raises OSError once, where a disk is full."""
        left = memoryview(data).cast("B")
        size = left.nbytes
        try:
            while left:
                left = left[super().write(left) or 0 :]
        except BrokenPipeError:
            return size
        except OSError as error:
            if not self.bears:
                self.bears = True
                error.filename = self.words
                raise
        return size


def settle() -> None:
    """Open what is closed, so that no file of a run takes its number, and let readers leave (``|
    head -1``).
    """
    for number in STANDARD:
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(
                os.devnull, os.O_RDWR
            )  # takes the lowest free number, which is this one
            os.set_inheritable(opened, True)  # noqa: FBT003 - programs that are started need it as much
    for name, stream in (("stdout", sys.__stdout__), ("stderr", sys.__stderr__)):
        if stream is not None and getattr(sys, name) is stream:
            with suppress(OSError):
                stream.flush()
            setattr(sys, name, _unread(stream))


def _unread(stream: io.TextIOBase | io.TextIOWrapper) -> io.TextIOWrapper:
    """Put such a stream in a stream's place. No buffer of bytes is between: it would keep its lock
    when the interpreter ends while a thread writes, and the interpreter would abort at that.
    """
    raw: Any = Unread(stream.fileno(), "w", closefd=False)
    raw.bears = stream is sys.__stderr__
    lines = stream.isatty() or stream is sys.__stderr__
    return io.TextIOWrapper(
        raw, encoding=stream.encoding, errors=stream.errors, line_buffering=lines
    )
