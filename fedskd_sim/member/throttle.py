"""How much of what comes without end is written down: the first few lines of everybody, then
ever fewer.
"""

from __future__ import annotations

from collections import Counter

FIRST = 16
"""So many are written down of everybody; later only those whose number is a power of two."""
SPEAKERS = 4096
"""So many are counted apart; where names cannot be trusted there is no end of them."""


class Throttle:
    """Counts what every speaker has said, and thins out what is written down of it."""

    def __init__(self) -> None:
        """Nobody has said anything yet."""
        self._counts: Counter[str] = Counter()

    def line(self, speaker: str, text: str) -> str | None:
        """Count something of a speaker; gives the text to write down, with its number where
        others were left out, or None.
        """
        who = speaker if speaker in self._counts or len(self._counts) < SPEAKERS else ""
        self._counts[who] += 1
        number = self._counts[who]
        if number <= FIRST:
            return text
        return None if number & (number - 1) else f"{text} (and so on: {number} by now)"
