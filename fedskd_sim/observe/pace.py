"""How many lines of progress are printed where they cannot replace each other."""

from __future__ import annotations

from dataclasses import dataclass

from fedskd_sim import clock

MOST = 1000
"""Lines that are printed as they come: a run that has more is followed by fewer."""
SELDOM_S = 1.0
"""Seconds between two lines from then on."""
FROM_NOW_ON = "from here on one line a second; the logs have all"


@dataclass
class Pace:
    """Counts the lines of a run."""

    printed: int = 0
    last: float = 0.0

    def next(self, line: str) -> list[str]:
        """Give what is to be printed where a line would be: it, nothing, or that many more will be
        left out.
        """
        now = clock.now()
        if self.printed > MOST and now - self.last < SELDOM_S:
            return []
        self.printed, self.last = self.printed + 1, now
        return [FROM_NOW_ON, line] if self.printed == MOST + 1 else [line]
