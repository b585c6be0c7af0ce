"""What the pods of a run log while somebody watches: every line once, where reading all logs anew
at each look costs more the longer a run takes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fedskd_sim import clock
from fedskd_sim.observe.events import Logged
from fedskd_sim.runtimes import folder as folders
from fedskd_sim.runtimes.kubernetes.log_collector import LogCollector
from fedskd_sim.runtimes.kubernetes.reach import Reach, translate_errors

QUIET_S = 0.3
"""When nothing has come for so long all is read that was there."""
FIRST_S, LONGEST_S = 3.0, 1.0
"""The first look, and any other, takes no longer: members at work are never quiet, and what has not
come by then is seen at the next."""


@dataclass
class LogFollower:
    """Follows a release's pods into a folder that goes with it; see `LogCollector`."""

    reach: Reach
    release: str
    _folder: tempfile.TemporaryDirectory[str] = field(default_factory=tempfile.TemporaryDirectory)
    _collector: LogCollector = field(init=False)
    _patience: float = FIRST_S

    def __post_init__(self) -> None:
        """Follow nothing yet."""
        folders.subfolders(Path(self._folder.name))
        self._collector = LogCollector(self.reach, Path(self._folder.name))

    def news(self) -> Iterator[Logged]:
        """Yield what has been logged since the last call, of every pod in its order; raises
        ClusterUnavailable.
        """
        with translate_errors():
            self._collector.follow(self.reach.pods(self.release))
        begun = looked = clock.now()
        patience, self._patience = self._patience, LONGEST_S
        while looked < begun + patience:
            some = [*self._collector.events(QUIET_S)]
            yield from sorted(some, key=lambda logged: logged.time)
            before, looked = looked, clock.now()
            if not some and looked >= before + QUIET_S:
                break

    def close(self) -> None:
        """Stop following, and remove what was written meanwhile."""
        self._collector.close()
        self._folder.cleanup()
