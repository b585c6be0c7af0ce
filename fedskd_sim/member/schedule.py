"""The faults of a hospital as its scenario has them: which strikes when, the same in real and in
simulated time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Self

from fedskd_sim.messages import Weights
from fedskd_sim.ring.program import Program, Step
from fedskd_sim.ring.topology import Topology
from fedskd_sim.scenario import Fault, Scenario
from fedskd_sim.seeds import seed

AT_ONCE = ("kill", "restart", "stop", "leave")
"""What strikes a hospital whatever it does; of the others those with a time wait for its next
step."""
FOR_EVER = float("inf")
StepPosition = tuple[int, int]
"""A round and a hop; hop 0 is the departure from home."""
Poison = Callable[[Weights, float | None], Weights]
"""Gives weights times a factor, or without one weights that are no numbers."""


def harmless(weights: Weights, factor: float | None) -> Weights:  # noqa: ARG001 - the signature of `Poison`
    """Leave weights as they are: those of a placebo are none."""
    return weights


@dataclass
class FaultSchedule:
    """The faults of one hospital that are still to come, by their number in the scenario, each with
    its round where it has one; and those that last.
    """

    left: dict[int, Fault]
    poison: Poison = harmless
    _slow: tuple[float, float] = (1.0, 0.0)
    """How many times as long steps take, and until when (seconds since the hospital came up)."""
    poisons: dict[int, float | None] = field(default_factory=dict)
    """Factors of those poisons that wait for the next departure."""
    departures: dict[StepPosition, dict[int, float | None]] = field(default_factory=dict)
    """... and of those that have met it. It is spoiled in the same way if it is made again."""
    note: Callable[[int, StepPosition], object] = lambda _index, _place: None
    """Told when a poison meets its departure."""

    @classmethod
    def of(
        cls, scenario: Scenario, topology: Topology, name: str, poison: Poison = harmless
    ) -> Self:
        """Take a hospital's faults from the scenario, and draw where those strike that do not say
        it.
        """
        return cls(
            {
                index: _placed(fault, index, scenario.seed, Program(topology, name))
                for index, fault in enumerate(scenario.faults)
                if fault.hospital == name
            },
            poison,
        )

    @property
    def late(self) -> float:
        """Seconds after which the hospital comes up."""
        return sum(fault.lasts or 0.0 for fault in self.left.values() if fault.what == "late")

    @property
    def timed(self) -> Mapping[int, Fault]:
        """Those that strike after a time, whatever the hospital does then."""
        return {
            index: fault
            for index, fault in self.left.items()
            if fault.after is not None and fault.what in AT_ONCE
        }

    def meet(self, step: Step, seconds: float) -> Iterator[tuple[int, Fault]]:
        """Yield what strikes before a step, so many seconds after it came up; each once."""
        for index, fault in list(self.left.items()):
            if _strikes(fault, step, seconds):
                self.strike(index, seconds)
                yield index, fault

    def strike(self, index: int, seconds: float) -> None:
        """Strike with a fault: it will not come again."""
        fault = self.left.pop(index)
        if fault.what == "slow":
            self.slow_down(fault.factor or 1.0, seconds + (fault.lasts or FOR_EVER))
        if fault.what == "poison":
            self.poisons[index] = fault.factor

    def slow_down(self, factor: float, until: float = FOR_EVER) -> None:
        """Make steps take so many times as long, until so many seconds after it came up."""
        self._slow = factor, until

    def come_up_again(self, later: float) -> None:
        """Count from a coming up that is so many seconds after the one before: who was slow then
        is so no longer than was wanted.
        """
        factor, until = self._slow
        self._slow = factor, until - later

    def slowness(self, seconds: float) -> float:
        """Return how many times as long a step takes."""
        factor, until = self._slow
        return factor if seconds < until else 1.0

    def spoiled(self, place: StepPosition, weights: Weights) -> Weights:
        """Return what leaves the hospital after a round and hop in place of these weights."""
        for index in self.poisons:
            self.note(index, place)
        if self.poisons:  # most departures meet none, and nothing is kept of them
            self.departures[place] = self.departures.get(place, {}) | self.poisons
            self.poisons.clear()
        for factor in self.departures.get(place, {}).values():
            weights = self.poison(weights, factor)
        return weights


def place_of(step: Step) -> StepPosition:
    """Return where a step is; one that is no stop has hop 0."""
    return step.round, step.stop.hop if step.stop else 0


def unmet(scenario: Scenario, topology: Topology) -> Iterator[tuple[int, str, str, str]]:
    """Find the faults of rounds and hops that never come, or with nothing left to poison: number,
    key, what is wrong, and the fix.
    """
    for index, fault in enumerate(scenario.faults):
        if fault.round is None or fault.hospital not in topology.names:
            continue
        program = Program(topology, fault.hospital)
        steps = [step for number in range(len(program)) if (step := program.at(number))]
        met = [number for number, step in enumerate(steps) if _strikes(fault, step, 0.0)]
        if not met:
            yield index, *_none_of(fault, [step for step in steps if step.round == fault.round])
        elif fault.what == "poison" and not any(map(_sends, steps[met[0] :])):
            text = f"no model leaves {fault.hospital!r} any more from there on"
            yield index, "round", text, "give an earlier round or hop"


def _none_of(fault: Fault, steps: Sequence[Step]) -> tuple[str, str, str]:
    """Return words for a fault that is at none of the steps of its round."""
    hops = sorted({step.stop.hop for step in steps if step.stop})
    if not steps:
        text = f"{fault.hospital!r} does nothing in round {fault.round}"
        return "round", text, "give another round, or 'after: ...' in place of it"
    text = f"{fault.hospital!r} hosts nothing at hop {fault.hop} of round {fault.round}"
    known = f"choose one of {', '.join(map(str, hops))}, or " if hops else ""
    return "hop", text, f"{known}leave it out: then it is the first step of the round"


def _sends(step: Step) -> bool:
    kind = step.stop.kind if step.stop else None
    return step.action == "depart" or kind not in (None, "homecoming", "evaluation")


def _placed(fault: Fault, index: int, number: int, program: Program) -> Fault:
    """Draw the round and hop of a fault that has neither those nor a time."""
    if fault.what == "late" or fault.round or fault.after is not None:
        return fault
    draw = Random(seed(number, "fault", index, fault.seed))  # noqa: S311 - no secret
    rounds = program.topology.rounds
    stops = [stop for stop in program.stops() if stop.round <= rounds or not program.member]
    if not stops:
        return fault.model_copy(update={"round": draw.randint(1, rounds)})
    chosen = draw.choice(stops)
    return fault.model_copy(update={"round": chosen.round, "hop": chosen.hop})


def _strikes(fault: Fault, step: Step, seconds: float) -> bool:
    if fault.what == "late":
        return False
    if fault.after is not None:
        return fault.what not in AT_ONCE and seconds >= fault.after
    hop = step.stop.hop if step.stop else None
    return step.round == fault.round and fault.hop in (None, hop)
