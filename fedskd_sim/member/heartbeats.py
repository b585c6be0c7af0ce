"""Who has given a sign of life, and when: whoever has not for too long is lost."""

from __future__ import annotations

from collections.abc import Callable, Collection


class Heartbeats:
    """The last sign of life of every hospital, on the clock ``now`` (seconds)."""

    def __init__(self, limit: float, now: Callable[[], float]) -> None:
        """Bear a silence of up to ``limit`` seconds."""
        self._limit, self._now = limit, now
        self._heard: dict[str, float] = {}

    def hear(self, *names: str) -> None:
        """Note that hospitals live."""
        self._heard |= dict.fromkeys(names, self._now())

    def silent(self, but: Collection[str]) -> list[str]:
        """List who was heard once, and then not for too long."""
        since = self._now() - self._limit
        return [name for name, last in self._heard.items() if last < since and name not in but]
