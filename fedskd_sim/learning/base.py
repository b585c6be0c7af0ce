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
from fedskd_sim.records import Measure, PrivateNumber, SampleCounts, StepOutcome
from fedskd_sim.ring.topology import Stop, Topology
from fedskd_sim.scenario import OwnCode, Scenario

Measures = Mapping[str, Measure]


@dataclass(frozen=True, slots=True)
class Session:
    """The result of one session."""

    weights: Weights
    """The weights that go on: a visitor's after a visit, the home model's after a homecoming."""
    outcome: StepOutcome = "trained"
    """trained; rolled_back: something was not finite, and every model is as before; passed: nothing
    was trained, as for a sum on its way; evaluated: a model was only tested."""
    reason: str = ""
    """Why it was rolled back, what reconciliation did, or after the warm-up what of the data was
    masked."""
    samples: int = 0
    """Sample-gradients: every sample of every batch, once for each model that trained on it."""
    steps: int = 0
    """Mini-batches that it trained on."""
    measures: Measures = field(default_factory=dict)
    """What it measured, as sums and weights by name."""
    returned: Weights | None = None
    """After a homecoming: the traveller as its session left it, before reconciliation."""
    early: bool = False
    """It ended before its budget was spent. The rest of the budget is not spent later."""
    private: Mapping[PrivateNumber, int | float | None] = field(default_factory=dict)
    """Of a private hospital: what the record says of it, see `fedskd_sim.records.Record`."""
    training: float = field(default=0.0, compare=False)
    """Seconds of it that went by in mini-batches, and so grow with the budget; 0: not known."""


class LearnerState(NamedTuple):
    """What a learner must remember between two steps, to continue after a death as if there had
    been none.

    Leave out what seeds and the scenario give anew: data, orders, optimisers. A model is kept by
    its ``state_dict``; anything else that it holds is lost.
    """

    numbers: Mapping[str, Any]
    """Values that JSON can hold, by name; floats are kept exactly."""
    weights: Mapping[str, Weights]
    """Groups of tensors, by name. ``home`` is the hospital's own model. Leave a group out if it is
    None or empty."""

    def plus(
        self, numbers: Mapping[str, Any], weights: Mapping[str, Weights | None]
    ) -> LearnerState:
        """Return a state with these numbers and groups too; groups that are None or empty are left
        out.
        """
        held = {name: group for name, group in weights.items() if group}
        return LearnerState({**self.numbers, **numbers}, {**self.weights, **held})


NOTHING = LearnerState(MappingProxyType({}), MappingProxyType({}))


class Learner(Protocol):
    """One hospital's side of an algorithm: what a run asks of it, step by step.

    Every method is called in the hospital's own process, one at a time, in this order:

    1. `warm_up`
    2. in every round `alone`, `depart`, a `visit` for each model that comes, and `homecome`;
       `assess` follows each session
    3. at the end `evaluate`, once for each model, and `ensemble`

    After each call the run keeps `state`. If the process dies, the next one continues with
    `restore`. A base (`LocalLearner`, `CirculatingLearner`, `AllReduceLearner`, `AveragingLearner`,
    `GossipLearner`) has all of these; a class without a base defines every one of them. An
    exception from any of them ends the run with its message.
    """

    @property
    def expected(self) -> Mapping[str, Forms]:
        """The forms that travelling tensors may have, by hospital; a form gives names, shapes and
        types. Anything else that arrives is refused.
        """

    def warm_up(self) -> Session:
        """Load the data and train the own model alone, before the first round."""

    def alone(self, round_: int) -> Session | None:
        """Train the own model before the departures of a round (counted from 1). Return None if the
        algorithm does not train then.
        """

    def depart(self, round_: int) -> Weights:
        """Return the weights with which the own traveller departs in a round, be it for training or
        for the evaluation.
        """

    def visit(self, stop: Stop, arriving: Weights) -> Session:
        """Train with a visitor, or add to a sum. The session's ``weights`` travel on; leave them
        unchanged until the next call.

        The learner owns ``arriving``, here and in `homecome`: it may build the visitor's model in
        that memory.
        """

    def homecome(self, stop: Stop, arriving: Weights) -> Session:
        """Train with the own traveller that has returned, and reconcile it with the resident. The
        session's ``weights`` are the home model's.
        """

    def assess(self) -> Measures:
        """Measure the models of the last session on the host's validation data, and the visitor's
        drift.
        """

    def evaluate(self, model: str, arriving: Weights | None) -> Measures:
        """Measure a model on the host's test data. ``model`` names its hospital, ``arriving`` are
        its weights; None stands for the own home model.
        """

    def ensemble(self) -> Measures | None:
        """Measure all finished models together on the host's test data. Return None if the hospital
        does not keep them.
        """

    def results(self) -> Mapping[str, Weights]:
        """Return the final weights, by the suffix of their file: the home model under '', a second
        model under a name such as ``traveller``.
        """

    def state(self) -> LearnerState:
        """Return what must outlive a death. The run calls this between two steps, in the thread
        that takes them.

        Buffers may be views of memory that the next step changes; the run copies them before. A
        group that is the same object as last time is taken as unchanged.
        """

    def restore(self, state: LearnerState) -> None:
        """Continue from a state that an earlier learner returned. The run calls this first of all,
        on a fresh learner.

        It never writes to the state's buffers, and may keep them. The state of a learner that has
        not warmed up changes nothing. Data are loaded when they are first needed.
        """


@dataclass(frozen=True, slots=True)
class LearnerContext:
    """What a learner is made from.

    The scenario, its hospital's name, the folder with data files, whether it is alone in its
    process and on its machine's card, where models that arrive can live, the run's topology, how to
    let seconds pass, who is told what was read of its data (how much when it is counted, and its
    digest once it is loaded, where anybody wants that), and the run folder, in which instruments
    write; None: they write nothing.
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
    folder: Path | None = None

    @property
    def topology(self) -> Topology:
        """The run's topology, made anew where nobody has handed it down."""
        return self.given or Topology.of(self.scenario)
