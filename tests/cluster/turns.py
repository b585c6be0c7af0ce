"""Tests of several processes in one cluster: they run beside each other, but for those that disturb
all of it.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__)


@dataclass(frozen=True)
class Turns:
    """Locks on this file and its folder, which the processes of one checkout have in common and
    lose when they die.
    """

    _gate: int = field(default_factory=lambda: os.open(HERE, os.O_RDONLY))
    _room: int = field(default_factory=lambda: os.open(HERE.parent, os.O_RDONLY))

    def enter(self, *, alone: bool) -> None:
        """Wait until the cluster is free for a test, or for one that must be alone there; whoever
        waits lets nobody in before.
        """
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        finally:
            fcntl.flock(self._gate, fcntl.LOCK_UN)

    def share(self) -> None:
        """Let others in again."""
        fcntl.flock(self._room, fcntl.LOCK_SH)

    def leave(self) -> None:
        """Be in the cluster no more."""
        fcntl.flock(self._room, fcntl.LOCK_UN)
