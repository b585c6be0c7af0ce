"""What is known of one hospital while its run is shown."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

LOST = "lost"


@dataclass
class HospitalRow:
    """A hospital's line in the live table: what it does, where, and how far it is."""

    doing: str = "starting"
    place: tuple[int, int] | None = None
    """Round and hop."""
    accuracy: str = ""
    """The last one that was measured here, and of whose model."""
    device_bytes: int = 0
    """The most that its process has taken of a card's memory."""
    finished: int = 0
    before: int = 0
    """Steps of an earlier life that were not seen here."""
    total: int = 1
    light: int = 0
    """How many of all its steps only test or add up."""
    done: Counter[bool] = field(default_factory=Counter)
    """Steps that are done, by whether they are light."""
    timed: Counter[bool] = field(default_factory=Counter)
    """Steps whose begin was logged, by whether they are light."""
    seconds: dict[bool, float] = field(default_factory=lambda: {False: 0.0, True: 0.0})
    """What these steps have taken together."""
    began: float | None = None

    @property
    def behind_it(self) -> int:
        """How many of its steps are done, here and in earlier lives."""
        return min(self.total, self.before + self.finished)

    @property
    def lost(self) -> bool:
        """Whether the ring goes on without it."""
        return self.doing == LOST

    def usual(self, *, light: bool) -> float:
        """Give the mean seconds of its steps; 0 where none was timed."""
        return self.seconds[light] / self.timed[light] if self.timed[light] else 0.0

    def lose(self) -> None:
        """Note that the hospital is lost: no more of its steps are waited for."""
        self.doing, self.total, self.light = LOST, max(1, self.behind_it), 0

    def come_back(self, left: int, light: int) -> None:
        """Note that the hospital is back, with so many steps to do, some of them light."""
        self.doing = "back"
        self.total, self.light = self.behind_it + left, self.done[True] + light

    def end_step(self, at: float, *, light: bool) -> None:
        """Note that a step has ended at a UNIX time."""
        self.finished += 1
        self.done[light] += 1
        if self.began is not None:
            self.timed[light] += 1
            self.seconds[light] += max(0.0, at - self.began)
        self.began = None
