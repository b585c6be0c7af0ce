"""Which records a scenario's run leaves, in which order, and what their digests must be equal
to; known beforehand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from fedskd_sim.program import Program, Step
from fedskd_sim.records import Kind, Record
from fedskd_sim.scenario import FML, FedProto, Scenario
from fedskd_sim.topology import Topology

OUTCOMES: Mapping[str, tuple[str, ...]] = {
    "evaluation": ("evaluated",), "ensemble": ("evaluated",), "reduce": ("passed",),
    "gather": ("passed",)
}  # fmt: skip
TRAINING = ("trained", "rolled_back", "passed")
"""The outcomes of all other kinds."""


class Mark(NamedTuple):
    """What no two records of a run share."""

    round: int
    hop: int
    kind: Kind
    host: str
    model: str

    def __str__(self) -> str:
        """Say it in words."""
        return (
            f"the {self.kind.replace('_', '-')} of the model of {self.model!r} at {self.host!r}, "
            f"round {self.round} hop {self.hop}"
        )


def mark(record: Record) -> Mark:
    """Give the mark of a record."""
    return Mark(record.round, record.hop, record.kind, record.host, record.model)


@dataclass(frozen=True)
class Due:
    """The records of one hospital."""

    scenario: Scenario
    topology: Topology
    host: str

    @cached_property
    def program(self) -> Program:
        """What the hospital does."""
        return Program(self.topology, self.host)

    def marks(self) -> Iterator[tuple[Mark, int]]:
        """Give every record that is due, in order, with the step that leaves it."""
        found = ((self._mark(step), index) for index, step in self._program())
        return ((one, index) for one, index in found if one)

    def index(self, one: Mark) -> int | None:
        """Give the step that leaves a record; None where none does."""
        index = self.program.index_of_record(one.model, one.round, one.hop)
        step = None if index is None else self.program.at(index)
        return index if step is not None and self._mark(step) == one else None

    @cached_property
    def departures(self) -> dict[int, int]:
        """The step at which the own model sets out, by round."""
        return {step.round: index for index, step in self._program() if step.action == "depart"}

    def origin(self, round_: int) -> Mark | None:
        """Give the record whose digest is that of the own model as it sets out in a round; None
        where no record tells.

        A share of a sum, a model whose averaged weights go along, and a traveller that is kept
        apart from the home model have no such record, nor has the home model once it was trained
        beside a visitor.
        """
        before = self.program.at(self.departures[round_] - 1)
        last = round_ == self.topology.evaluation_round
        prediction, algorithm = self.scenario.prediction, self.scenario.algorithm
        if prediction.keeps_averaged or (
            last and (prediction.ensemble or prediction.model != "reconciled")
        ):
            return None
        if self.topology.pattern == "all_reduce":
            alone = Mark(round_ - 1, 0, "alone", self.host, self.host)
            return alone if last and isinstance(algorithm, FML | FedProto) else None
        if before is None or (apart(self.scenario) and round_ > 1):
            return None
        found = self._mark(before)
        return found if found and found.model == self.host else None

    def poisons(self, round_: int) -> bool:
        """Tell whether what leaves the hospital in a round may be poisoned, as the scenario wants
        it: no record then tells with which digest it left home.
        """
        return any(
            one.what == "poison" and one.hospital == self.host and (one.round or 0) <= round_
            for one in self.scenario.faults
        )

    def passes_on(self, record: Record) -> bool:
        """Tell whether a stop leaves what it hosts as it came."""
        honest = not self.poisons(record.round)
        return record.kind == "evaluation" or (record.kind == "gather" and honest)

    def _program(self) -> Iterator[tuple[int, Step]]:
        for index in range(len(self.program)):
            step = self.program.at(index)
            if step is not None:
                yield index, step

    def _mark(self, step: Step) -> Mark | None:
        """Give the mark of the record that a step leaves, if it leaves one."""
        match step.action:
            case "host" if step.stop:
                return Mark(step.round, step.stop.hop, step.stop.kind, self.host, step.stop.model)
            case "warm_up":
                return Mark(0, 0, "warm_up", self.host, self.host)
            case "alone":
                return Mark(step.round, 0, "alone", self.host, self.host)
            case "home":
                return Mark(step.round, 0, "evaluation", self.host, self.host)
            case "ensemble" if self.scenario.prediction.ensemble:
                return Mark(step.round, self.topology.behind, "ensemble", self.host, self.host)
        return None


def apart(scenario: Scenario) -> bool:
    """Tell whether a traveller is kept apart from the home model from its first homecoming on."""
    how = scenario.circulating
    if how is None:
        return False
    own = how.traveller_start == "own" and how.reconcile != "replace"
    return how.schedule.mode == "parallel" and (own or how.reconcile == "two_track")


def tests_traveller(scenario: Scenario) -> bool:
    """Tell whether the evaluation tests the traveller that is kept apart, not the home model."""
    how = scenario.circulating
    return apart(scenario) and how is not None and how.reconcile == "two_track"
