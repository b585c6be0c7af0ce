"""Bad weather from one seed: messages are lost, repeated, delayed and overtake each other,
hospitals die before any effect.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

from fedskd_sim.messages import CONTROLLER
from fedskd_sim.protocol.effects import Effect


class Cut(NamedTuple):
    """A time in which hospitals are cut off from the controller, or from everybody."""

    begin: float
    end: float
    names: frozenset[str]
    way: str
    """``up``: their words do not reach the controller, ``down``: its words do not reach them,
    ``both``, or ``all``: nor does anything pass between them and others."""

    def parts(self, sender: str, to: str, at: float) -> bool:
        """Tell whether nothing passes from one member to another at a moment."""
        if not self.begin <= at < self.end:
            return False
        if to == CONTROLLER:
            return sender in self.names and self.way != "down"
        if sender == CONTROLLER:
            return to in self.names and self.way != "up"
        return self.way == "all" and (sender in self.names) != (to in self.names)


@dataclass
class Storm:
    """Weather of which the same seed makes the same; ``deaths`` is the chance to die before an
    effect.
    """

    seed: int
    deaths: float = 0.01
    lost: float = 0.1
    repeated: float = 0.1
    delay: float = 0.5
    """Mean of the exponentially distributed delay of a message, in seconds."""
    disk_s: float = 0.2
    """Mean of the exponentially distributed seconds that a disk takes."""
    persists: bool = True
    away: float | None = None
    unheard: float = 0.0
    """Share of words to the controller that never arrive; the same share arrives twice."""
    late: float = 0.0
    """Mean of the exponentially distributed delay of such a word, in seconds: they overtake each
    other."""
    cuts: tuple[Cut, ...] = ()
    killed: int = 0
    """How many deaths there have been."""
    _draw: Random = field(init=False)
    _spoken: Random = field(init=False)

    def __post_init__(self) -> None:
        """Begin the draws of the seed, which decide all that this weather does."""
        self._draw, self._spoken = Random(self.seed), Random(f"words {self.seed}")

    def copies(self, sender: str, to: str) -> Iterator[float]:  # noqa: ARG002 - all links are alike
        """Give the delay in seconds of every copy of a message that arrives."""
        fair = 1 - self.lost - self.repeated
        for _ in range(self._draw.choices((0, 1, 2), (self.lost, fair, self.repeated))[0]):
            yield self._draw.expovariate(1 / self.delay)

    def words(self, sender: str) -> Iterator[float]:  # noqa: ARG002 - all hospitals are alike
        """Give the delay of every copy of a word to the controller that arrives."""
        shares = (self.unheard, 1 - 2 * self.unheard, self.unheard)
        for _ in range(self._spoken.choices((0, 1, 2), shares)[0]):
            yield self._spoken.expovariate(1 / self.late) if self.late else 0.0

    def parts(self, sender: str, to: str, at: float) -> bool:
        """Tell whether nothing passes from one member to another at a moment."""
        return any(cut.parts(sender, to, at) for cut in self.cuts)

    def kills(self, name: str, effect: Effect) -> bool:  # noqa: ARG002 - all hospitals are alike
        """Tell whether a hospital dies before an effect."""
        dies = self._draw.random() < self.deaths
        self.killed += dies
        return dies

    def disk(self) -> float:
        """Give the seconds that a disk takes: what others may rely on waits for it, and a death
        comes before it or after.
        """
        return self._draw.expovariate(1 / self.disk_s)


@dataclass
class OneDeath:
    """Fair weather in which one hospital dies once, before its effect ``number`` (from 1);
    without a name it counts effects.
    """

    name: str = ""
    number: int = 0
    disk_s: float = 0.0
    persists: bool = True
    away: float | None = None
    """How many seconds it stays away; None: as long as a restart takes."""
    effects: dict[str, int] = field(default_factory=dict)

    def copies(self, sender: str, to: str) -> Iterator[float]:  # noqa: ARG002 - nothing is lost
        """Give the delay of a message."""
        yield 0.05

    def words(self, sender: str) -> Iterator[float]:  # noqa: ARG002 - nor is a word
        """Give the delay of a word to the controller."""
        yield 0.0

    def parts(self, sender: str, to: str, at: float) -> bool:  # noqa: ARG002 - nobody is cut off
        """Tell whether nothing passes from one member to another."""
        return False

    def kills(self, name: str, effect: Effect) -> bool:  # noqa: ARG002 - effects are counted, whatever they are
        """Tell whether a hospital dies before an effect."""
        self.effects[name] = self.effects.get(name, 0) + 1
        return (name, self.effects[name]) == (self.name, self.number)

    def disk(self) -> float:
        """Give the seconds that a disk takes."""
        return self.disk_s
