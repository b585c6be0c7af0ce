"""Standard input, output and error as shells leave them: closed, or read by somebody who has
seen enough; and what may reach a terminal.

Names, reasons and samples of a run may be a stranger's. Whatever a command prints passes `Shown`,
or the console that `console` gives; nothing else writes to a terminal.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from fedskd_sim.scenario.syntax import escape_controls

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

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


class Shown:
    """A text stream on which control characters appear as they are escaped: none reaches the
    terminal behind it. Whatever else is asked of it is the stream's.
    """

    def __init__(self, plain: Any) -> None:
        """Stand before a stream, which is ``plain``."""
        self.plain = plain

    def write(self, text: str) -> int:
        """Write a text with its control characters escaped."""
        self.plain.write(escape_controls(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts one after the other."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        """Give what the stream has of that name."""
        return getattr(self.plain, name)


def console(*, stderr: bool = False) -> Console:
    """Make a console that moves and colours the terminal itself, and escapes what it shows."""
    from rich.console import Console  # noqa: PLC0415 - only who shows something pays for it
    from rich.segment import Segment  # noqa: PLC0415 - as above

    class Escaping(Console):
        """A console of which only its own control characters reach the terminal."""

        def render(self, *args: Any, **options: Any) -> Iterable[Segment]:
            """Render with the control characters of all texts escaped."""
            for one in super().render(*args, **options):
                yield one if one.control else Segment(escape_controls(one.text), one.style)

    stream = sys.stderr if stderr else sys.stdout
    return Escaping(file=getattr(stream, "plain", stream), stderr=stderr)


def settle() -> None:
    """Open what is closed, so that no file of a run takes its number, let readers leave (``| head
    -1``), and escape what is no text.
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
        shown = getattr(sys, name)
        if shown is not None and not isinstance(shown, Shown):
            setattr(sys, name, cast("Any", Shown(shown)))


def _unread(stream: io.TextIOBase | io.TextIOWrapper) -> io.TextIOWrapper:
    """Put such a stream in a stream's place. No buffer of bytes is between: it would keep its lock
    when the interpreter ends while a thread writes, and the interpreter would abort at that.
    """
    raw: Any = Unread(stream.fileno(), "w", closefd=False)
    raw.bears = stream is sys.__stderr__
    lines = stream.isatty() or stream is sys.__stderr__
    ascii_ = codecs.lookup(stream.encoding).name == "ascii"  # click would go around it for UTF-8
    encoding = "utf-8" if ascii_ else stream.encoding
    return io.TextIOWrapper(raw, encoding=encoding, errors=stream.errors, line_buffering=lines)
