"""Federated mutual learning (Shen et al. 2020): an own model of any architecture beside a small
common one.

In every session own model p and common model c train on the same batches, sg = stop-gradient, w the
scenario's weight:

    own:     CE(p) + w KL(sg c || p)
    common:  CE(c) + w KL(sg p || c)

Then the common models are averaged by `fedskd_sim.learning.algorithms.allreduce`, weighted by
training samples. The own model never leaves home before the evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from fedskd_sim.learning.algorithms.allreduce import RingSum
from fedskd_sim.learning.algorithms.fedavg import flat, floats_in, install_flat
from fedskd_sim.learning.algorithms.local import LocalLearner
from fedskd_sim.learning.base import LearnerContext, LearnerState, Session
from fedskd_sim.learning.networks.models import blueprint, parameter_count
from fedskd_sim.learning.sessions.session import SessionModels
from fedskd_sim.learning.sessions.steps import AddedLoss, Moment, TrainingStep, divergence
from fedskd_sim.learning.site import Site
from fedskd_sim.learning.weights import spec_of, view
from fedskd_sim.messages import Forms, Weights
from fedskd_sim.ring.topology import Stop
from fedskd_sim.scenario import FML, Architecture
from fedskd_sim.seeds import seed

COMMON = "common_"


class MutualLearner(LocalLearner):
    """One hospital's own model and its copy of the common one; what travels are chunks of the
    common one's sum.
    """

    def __init__(self, site: Site, config: FML) -> None:
        """Look up what own and common models look like; nothing is loaded or trained yet."""
        super().__init__(site)
        self._config = config
        self._architecture = config.architecture or _smallest(site)
        self._common: nn.Module
        length = floats_in(spec_of(blueprint(self._architecture, site.shape)))
        self._sum = RingSum(site.context.topology, site.name, length)
        self.expected: Mapping[str, Forms] = {
            name: (*forms, self._sum.form(name)) for name, forms in self.expected.items()
        }

    def warm_up(self) -> Session:
        """Train the own model alone, and draw the common one."""
        session = super().warm_up()
        common = seed(self.site.scenario.seed, "initial weights")
        self._common = self.site.initialise(self._architecture, common)
        return session

    def alone(self, round_: int) -> Session | None:
        """Train both models for a session."""
        self.site.settle()
        return self.run_session(
            round_,
            SessionModels({"": self.model, COMMON: self._common}),
            MutualTeaching(self._config.weight),
        )

    def depart(self, round_: int) -> Weights:
        """Begin the sum of the weighted common models; for the evaluation, give the own model."""
        if round_ > self._config.rounds:
            return super().depart(round_)
        samples = float(len(self.site.data.train.labels))
        return self._sum.begin(flat(self._common) * samples, samples)

    def visit(self, stop: Stop, arriving: Weights) -> Session:
        """Add the own share to a sum on its way, or take a finished one in."""
        self.site.settle()
        leaving = self._sum.visit(stop, arriving)
        total = self._sum.total
        if total is not None:
            install_flat(self._common, total.vector / total.weight)
        return Session(leaving, "passed")

    def state(self) -> LearnerState:
        """Return both models, and a sum that is under way."""
        return (
            super()
            .state()
            .plus({}, {"common": view(getattr(self, "_common", None)), **self._sum.groups()})
        )

    def restore(self, state: LearnerState) -> None:
        """Go on with both models and the sum that an earlier life of this hospital had."""
        super().restore(state)
        self._sum.restore(state.weights)
        if "common" in state.weights:
            self._common = self.site.build_around(self._architecture, state.weights["common"])


@dataclass(frozen=True, slots=True)
class MutualTeaching:
    """What own and common model learn from each other."""

    weight: float

    def __call__(self, step: TrainingStep) -> AddedLoss:
        """Compute both divergences of a step."""
        own, common = step.outputs[""], step.outputs[COMMON]
        from_common, from_own = divergence(common, own), divergence(own, common)
        parts: dict[str, Tensor] = {
            "mutual_kl": from_common.detach(),
            f"{COMMON}mutual_kl": from_own.detach(),
        }
        return AddedLoss(self.weight * (from_common + from_own), parts)

    def kind(self, moment: Moment) -> None:
        """Give None: every step runs the same operations, so that one recording serves all."""

    def tensors(self) -> Sequence[Tensor]:
        """List nothing: a step reads only what the models made of the batch."""
        return []

    def apart(self) -> MutualTeaching:
        """Return itself: it holds no tensors that a recorded step would need its own copies of."""
        return self


def _smallest(site: Site) -> Architecture:
    """Choose the architecture with the fewest parameters among the hospitals'; of equal ones the
    first.
    """
    known = [site.scenario.architecture(name) for name in site.scenario.members]
    return min(known, key=lambda architecture: parameter_count(blueprint(architecture, site.shape)))


def make(context: LearnerContext) -> MutualLearner:
    """Make the learner of one hospital; raises TypeError for a scenario of another algorithm."""
    if not isinstance(context.scenario.algorithm, FML):
        raise TypeError(context.scenario.algorithm.name)
    return MutualLearner(Site(context), context.scenario.algorithm)
