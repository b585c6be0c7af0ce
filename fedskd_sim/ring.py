"""Who hosts whose model at each hop, who is next, when a model is home and when a run is over; pure.

What a round is depends on the algorithm's lap:

- circulation: all K models travel at once. At hop h = 1..V the traveller of home k is d places further on in the round's order of
  hospitals, d = ((r - 1) V + h - 1) mod (K - 1) + 1 in round r, so every host has exactly one visitor and nobody is at home; hop
  V + 1 brings everyone home. A full round has V = K - 1 visits, d = h: every model sees every other hospital once. A partial round
  has fewer, and goes on with others the next time. The order is the scenario's, or drawn anew for every round.
  If the schedule is sequential, hops are numbered the same, but only one model travels at a time: the first of the order makes its
  whole tour, then the second, and so on. A host therefore meets the models in the round's order, and its own sets out in its turn.
- reduction: chunk k of a sum sets out at hospital k. At hops 1..K-1 every host adds its share (reduce-scatter), at hops K..2K-2
  the finished chunk goes round (all-gather); together a ring all-reduce.
- none: nothing travels.

After the last round the models travel once more without training (the evaluation round), through the hospitals that are held out
too: with N hospitals in all, hops 1..N-1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal, Self

from fedskd_sim.scenario import Circulating, Lap, Scenario, Schedule
from fedskd_sim.seeds import seed

Kind = Literal["visit", "homecoming", "reduce", "gather", "evaluation"]


@dataclass(frozen=True, slots=True)
class Stop:
    """One model at one hospital in one hop of one round; ``round`` and ``hop`` count from 1."""

    round: int
    hop: int
    host: str
    model: str
    kind: Kind


FULL = Schedule()


@dataclass(frozen=True, slots=True)
class Ring:
    """The way of the hospitals' models, in the order of the scenario, for a number of training rounds."""

    hospitals: tuple[str, ...]
    """Those that train."""
    rounds: int
    lap: Lap = "circulation"
    schedule: Schedule = FULL
    seed: int = 0
    held_out: tuple[str, ...] = ()
    """Those that only evaluate; in the evaluation round they stand behind the others."""

    @classmethod
    def of(cls, scenario: Scenario) -> Self:
        """Give the ring of a scenario."""
        algorithm = scenario.algorithm
        schedule = algorithm.schedule if isinstance(algorithm, Circulating) else FULL
        return cls(scenario.members, algorithm.rounds, algorithm.lap, schedule, scenario.seed, scenario.held_out)

    @property
    def size(self) -> int:
        """K, the number of hospitals that train."""
        return len(self.hospitals)

    @property
    def evaluation_round(self) -> int:
        """The number of the round in which models travel without training."""
        return self.rounds + 1

    @property
    def visits(self) -> int:
        """V, the visits of a round of circulation."""
        return min(self.schedule.visits or self.size - 1, self.size - 1)

    def order(self, round_: int) -> tuple[str, ...]:
        """Give the order in which hospitals stand in a round."""
        if round_ > self.rounds:
            return self.hospitals + self.held_out
        if self.schedule.order == "fixed":
            return self.hospitals
        shuffled = list(self.hospitals)
        Random(seed(self.seed, "order", round_)).shuffle(shuffled)  # noqa: S311 - no secret
        return tuple(shuffled)

    def sender(self, stop: Stop) -> str:
        """Name the hospital from which a stop's model comes."""
        return stop.model if stop.hop == 1 else self.stop(stop.model, stop.round, stop.hop - 1).host

    def stop(self, model: str, round_: int, hop: int) -> Stop:
        """Say where ``model`` is at a hop and what happens there."""
        order = self.order(round_)
        host = order[(order.index(model) + self._distance(round_, hop)) % len(order)]
        return Stop(round_, hop, host, model, self._kind(round_, hop))

    def hops(self, round_: int) -> range:
        """Give the hops of a round; in the evaluation round travellers need not come home."""
        if round_ > self.rounds:
            return range(1, self.size + len(self.held_out))
        last = {"circulation": self.visits + 1, "reduction": 2 * self.size - 2, "none": 0}[self.lap]
        return range(1, last + 1)

    def stops(self, host: str) -> Iterator[Stop]:
        """List everything ``host`` will host, in order, to the end of the run."""
        for round_ in range(1, self.rounds + 2):
            order = self.order(round_)
            hops = self.hops(round_) if host in order else ()
            models = [order[(order.index(host) - self._distance(round_, hop)) % len(order)] for hop in hops]
            hosted = [self.stop(model, round_, hop) for model, hop in zip(models, hops, strict=True) if model not in self.held_out]
            yield from sorted(hosted, key=lambda stop: order.index(stop.model)) if self._one_by_one(round_) else hosted

    def sets_out(self, before: int, following: Stop) -> bool:
        """Tell whether a host's own model departs when one stop is done and another follows.

        Args:
            before: the round of the stop that is done; 0 after the warm-up.
            following: the host's next stop.

        """
        if self._one_by_one(following.round):
            return following.kind == "homecoming"
        return following.round > before

    def onward(self, stop: Stop) -> Stop | None:
        """Give the stop after this one, or None where the model stays (it is home, or the evaluation is over)."""
        return self.stop(stop.model, stop.round, stop.hop + 1) if stop.hop + 1 in self.hops(stop.round) else None

    def _one_by_one(self, round_: int) -> bool:
        return self.schedule.mode == "sequential" and round_ <= self.rounds

    def _kind(self, round_: int, hop: int) -> Kind:
        if round_ > self.rounds:
            return "evaluation"
        if self.lap == "reduction":
            return "reduce" if hop < self.size else "gather"
        return "homecoming" if hop == self.visits + 1 else "visit"

    def _distance(self, round_: int, hop: int) -> int:
        """Count the places between a model's home and its host."""
        if self.lap != "circulation" or round_ > self.rounds:
            return hop
        return 0 if hop == self.visits + 1 else ((round_ - 1) * self.visits + hop - 1) % (self.size - 1) + 1
