"""Who hosts whose model at each hop, who is next, when a model is home and when a run is over; pure.

What a round is depends on the algorithm's lap:

- circulation: all K models travel at once. At hop h = 1..K-1 the traveller of home k is at host (k + h) mod K, so every host has
  exactly one visitor and every model sees every other hospital once a round; hop K brings everyone home.
- reduction: chunk k of a sum sets out at hospital k. At hops 1..K-1 every host adds its share (reduce-scatter), at hops K..2K-2
  the finished chunk goes round (all-gather); together a ring all-reduce.
- none: nothing travels.

After the last round the models travel once more without training (the evaluation round, hops 1..K-1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

from fedskd_sim.scenario import Lap, Scenario

Kind = Literal["visit", "homecoming", "reduce", "gather", "evaluation"]


@dataclass(frozen=True, slots=True)
class Stop:
    """One model at one hospital in one hop of one round; ``round`` and ``hop`` count from 1."""

    round: int
    hop: int
    host: str
    model: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Ring:
    """The way of the hospitals' models, in the order of the scenario, for a number of training rounds."""

    hospitals: tuple[str, ...]
    rounds: int
    lap: Lap = "circulation"

    @classmethod
    def of(cls, scenario: Scenario) -> Self:
        """Give the ring of a scenario."""
        return cls(scenario.names, scenario.algorithm.rounds, scenario.algorithm.lap)

    @property
    def size(self) -> int:
        """K, the number of hospitals."""
        return len(self.hospitals)

    @property
    def evaluation_round(self) -> int:
        """The number of the round in which models travel without training."""
        return self.rounds + 1

    def successor(self, host: str) -> str:
        """Name the hospital that receives whatever leaves ``host``."""
        return self.hospitals[(self.hospitals.index(host) + 1) % self.size]

    def predecessor(self, host: str) -> str:
        """Name the hospital from which every visitor of ``host`` comes."""
        return self.hospitals[self.hospitals.index(host) - 1]

    def stop(self, model: str, round_: int, hop: int) -> Stop:
        """Say where ``model`` is at a hop and what happens there."""
        host = self.hospitals[(self.hospitals.index(model) + hop) % self.size]
        return Stop(round_, hop, host, model, self._kind(round_, hop))

    def hops(self, round_: int) -> range:
        """Give the hops of a round; in the evaluation round travellers need not come home."""
        if round_ > self.rounds:
            return range(1, self.size)
        last = {"circulation": self.size, "reduction": 2 * self.size - 2, "none": 0}[self.lap]
        return range(1, last + 1)

    def stops(self, host: str) -> Iterator[Stop]:
        """List everything ``host`` will host, in order, to the end of the run."""
        index = self.hospitals.index(host)
        for round_ in range(1, self.rounds + 2):
            for hop in self.hops(round_):
                yield self.stop(self.hospitals[(index - hop) % self.size], round_, hop)

    def onward(self, stop: Stop) -> Stop | None:
        """Give the stop after this one, or None where the model stays (it is home, or the evaluation is over)."""
        return self.stop(stop.model, stop.round, stop.hop + 1) if stop.hop + 1 in self.hops(stop.round) else None

    def _kind(self, round_: int, hop: int) -> Kind:
        if round_ > self.rounds:
            return "evaluation"
        if self.lap == "reduction":
            return "reduce" if hop < self.size else "gather"
        return "homecoming" if hop == self.size else "visit"
