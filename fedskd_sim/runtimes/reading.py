"""The logs of a run folder as one story, read once however often somebody looks."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from itertools import islice
from pathlib import Path

from fedskd_sim.observe.events import Logged
from fedskd_sim.runtimes.folder import Tail

MOST_OPEN = 500
"""Files that are read at a time: systems allow 1,024 in all."""
BLOCK = 50
"""Lines for which a file is opened, where there are more files."""


class Logs:
    """The logs of all members of a run."""

    def __init__(self, folder: Path) -> None:
        """Take the run's folder; nothing is read yet."""
        self._folder = folder
        self._tails: dict[Path, Tail] = {}

    def news(self) -> Iterator[Logged]:
        """Yield what has been logged since the last call, in the order of time; side by side, so
        that the logs of a long run need no memory.
        """
        for file in sorted(self._folder.glob("logs/*.jsonl")):
            self._tails.setdefault(file, Tail(file))
        tails = [*self._tails.values()]
        told = map(_in_blocks, tails) if len(tails) > MOST_OPEN else [one.events() for one in tails]
        return merge(*told, key=lambda logged: logged.time)


def _in_blocks(tail: Tail) -> Iterator[Logged]:
    """Yield the same as a tail, which has no file open in between."""
    while block := [*islice(tail.events(), BLOCK)]:
        yield from block
