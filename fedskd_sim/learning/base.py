"""The learning seam: what a hospital asks of its algorithm. Weights are opaque buffers on this
side of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from fedskd_sim import clock
from fedskd_sim.learning.receive_buffers import ReceiveBuffers
from fedskd_sim.messages import Forms, Weights
from fedskd_sim.records import Measure, SampleCounts, StepOutcome
from fedskd_sim.ring.topology import Stop, Topology
from fedskd_sim.scenario import OwnCode, Scenario

Measures = Mapping[str, Measure]


@dataclass(frozen=True, slots=True)
class Session:
    """What came of one session: the weights that go on, and what it took.

    ``reason`` says why it was rolled back, what reconciliation did, or after the warm-up what of
    the data was masked; ``returned`` is, after a homecoming, the traveller as its session left it,
    before reconciliation.
    """

    weights: Weights
    outcome: StepOutcome = "trained"
    reason: str = ""
    samples: int = 0
    steps: int = 0
    measures: Measures = field(default_factory=dict)
    returned: Weights | None = None
    early: bool = False
    """It ended before its budget was spent; what is left of that is nobody's."""


class LearnerState(NamedTuple):
    """What a learner must remember between two steps, to go on after a death as if there had been
    none.

    Not in it: what seeds and the scenario give anew (data, orders, optimisers), and what of a model
    is not in its ``state_dict``.
    """

    numbers: Mapping[str, Any]
    """What JSON can hold; floats are exact."""
    weights: Mapping[str, Weights]
    """Groups of tensors by name: ``home`` is the hospital's own model. A group that is not there is
    None, or empty."""

    def plus(
        self, numbers: Mapping[str, Any], weights: Mapping[str, Weights | None]
    ) -> LearnerState:
        """Add numbers and groups; groups that are None or empty are left out."""
        held = {name: group for name, group in weights.items() if group}
        return LearnerState({**self.numbers, **numbers}, {**self.weights, **held})


NOTHING = LearnerState(MappingProxyType({}), MappingProxyType({}))


class Learner(Protocol):
    """One hospital's side of an algorithm: what a run asks of it, step by step.

    Every method is called in the hospital's own process, one at a time, in the order of its
    program: `warm_up`; in every round `alone`, `depart`, a `visit` for each model that comes and
    `homecome`, each followed by `assess`; in the end `evaluate` and `ensemble`. Behind each of them
    `state` is kept, from which the next life goes on after a death. A method of your own begins
    from a base (`LocalLearner`, `CirculatingLearner`, `AllReduceLearner`, `AveragingLearner`),
    which has all of these; what one raises ends the run in its own words.
    """

    @property
    def expected(self) -> Mapping[str, Forms]:
        """What the tensors that travel for every hospital may look like, in any of these forms."""

    def warm_up(self) -> Session:
        """Load the data and train the own model alone, before the first round."""

    def alone(self, round_: int) -> Session | None:
        """Train the own model before a round's departures; None where the algorithm does not."""

    def depart(self, round_: int) -> Weights:
        """Return the weights with which the own traveller sets out in a round (training or
        evaluation).
        """

    def visit(self, stop: Stop, arriving: Weights) -> Session:
        """Train with a visitor, or add to a sum; the session's weights go on and stay unchanged
        until the next call.

        What arrived is the learner's: its memory may become the visitor's model. The same holds for
        `homecome`.
        """

    def homecome(self, stop: Stop, arriving: Weights) -> Session:
        """Train with the own traveller and reconcile; the session's weights are the home
        model's.
        """

    def assess(self) -> Measures:
        """Measure the models of the last session on the host's validation data, and the
        visitor's drift.
        """

    def evaluate(self, model: str, arriving: Weights | None) -> Measures:
        """Measure a model on the host's test data; None stands for the own home model."""

    def ensemble(self) -> Measures | None:
        """Measure all finished models together on the host's test data; None where a hospital
        does not keep them.
        """

    def results(self) -> Mapping[str, Weights]:
        """Return the final weights: the home model under '', a general twin under its suffix."""

    def state(self) -> LearnerState:
        """Return what must outlive a death; asked between two steps, by the thread that takes them.

        Buffers may be views of what the next step changes, so whoever keeps them copies them before
        that; ``bytes`` never change. A group that is the same object as last time has not changed
        since.
        """

    def restore(self, state: LearnerState) -> None:
        """Become the learner that gave a state: on one freshly made, before anything else, in place
        of what it has done.

        It never writes to the state's buffers, and may keep them. The state of a learner that has
        not warmed up leaves it fresh. Data is loaded when it is first needed.
        """


@dataclass(frozen=True, slots=True)
class LearnerContext:
    """What a learner is made from.

    The scenario, its hospital's name, the folder with data files, whether it is alone in its
    process and on its machine's card, where models that arrive can live, the run's topology, how to
    let seconds pass, and who is told what was read of its data: how much when it is counted, and
    once it is loaded its digest, where anybody wants that.
    """

    scenario: Scenario
    host: str
    data_folder: Path | None = None
    own_process: bool = False
    own_card: bool = False
    receive_buffers: ReceiveBuffers = field(default_factory=ReceiveBuffers)
    given: Topology | None = None
    pause: Callable[[float], None] = clock.sleep
    counted: Callable[[SampleCounts], None] = lambda _: None
    loaded: Callable[[str], None] | None = None
    code: OwnCode | None = None

    @property
    def topology(self) -> Topology:
        """The run's topology, made anew where nobody has handed it down."""
        return self.given or Topology.of(self.scenario)
