"""One structured line per event, bound to run and hospital; the launcher's live progress reads
the same lines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Event as Flag
from threading import Lock
from typing import Any, TextIO

from fedskd_sim import clock
from fedskd_sim.observe.events import Event, fields_of


@dataclass(frozen=True)
class EventLog:
    """Write events as JSON lines to a text stream, each with UNIX time in seconds and the bound
    fields; threads may share it.
    """

    stream: TextIO
    bound: Mapping[str, Any] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock, repr=False, compare=False, kw_only=True)
    over: Flag = field(default_factory=Flag, repr=False, compare=False, kw_only=True)

    def event(self, what: Event) -> None:
        """Write one line and flush it, so that a reader sees it at once."""
        line = {"time": round(clock.unix(), 6), **self.bound, **fields_of(what)}
        line = {
            name: _text(value) if isinstance(value, str) else value for name, value in line.items()
        }
        with self.lock:
            if not self.over.is_set():
                self.stream.write(json.dumps(line) + "\n")
                self.stream.flush()

    def close(self) -> None:
        """Write nothing more: threads may outlive the log, and none is in it when this returns."""
        with self.lock:
            self.over.set()


def _text(value: str) -> str:
    """Write a name of a file that is no text as one that is, so that whoever reads the line is
    not refused it.
    """
    return value.encode("utf-8", "replace").decode()
