"""Federated mutual learning (Shen et al. 2020): an own model of any architecture beside a small
common one.

In every session own model p and common model c train on the same batches, sg = stop-gradient, w the
scenario's weight:

    own:     CE(p) + w KL(sg c || p)
    common:  CE(c) + w KL(sg p || c)

Then the common models are averaged over the ring, weighted by training samples; the common one is
of the smallest architecture among the hospitals', of equal ones the first, unless the scenario
names another. The own model never leaves home before the evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from fedskd_sim import (
    AddedLoss,
    AllReduceLearner,
    Architecture,
    Kept,
    Session,
    Total,
    TrainingStep,
    divergence,
    flat,
    install_flat,
)
from fedskd_sim.methods.keys import FML

COMMON = "common"


class CommonModelLearner(AllReduceLearner):
    """One hospital's own model and its copy of the common one; what travels are chunks of the
    common one's sum.
    """

    keys = FML
    config: FML
    common = Kept[nn.Module]()

    @cached_property
    def _architecture(self) -> Architecture:
        known = [self.site.scenario.architecture(name) for name in self.site.scenario.members]
        return self.config.architecture or min(known, key=self.site.parameters)

    @property
    def length(self) -> int:
        """As many numbers as the common model has, but its integers."""
        return self.site.floats(self._architecture)

    def warm_up(self) -> Session:
        """Train the own model alone, and draw the common one."""
        session = super().warm_up()
        common = self.site.common_seed("initial weights")
        self.common = self.site.initialise(self._architecture, common)
        return session

    def companions(self) -> Mapping[str, nn.Module]:
        """Train the common model, too."""
        return {COMMON: self.common}

    def teaching(self, round_: int) -> MutualTeaching:  # noqa: ARG002 - every round is alike
        """Let both teach each other."""
        return MutualTeaching(self.config.weight)

    def share(self, round_: int) -> Total:  # noqa: ARG002 - every round is alike
        """Return the common model, weighted by the training samples."""
        samples = float(len(self.site.data.train.labels))
        return Total(flat(self.common) * samples, samples)

    def take(self, total: Total) -> None:
        """Let the common model become the mean."""
        travel = self._architecture.buffers == "travel"
        install_flat(self.common, total.vector / total.weight, buffers=travel)


@dataclass(frozen=True, slots=True)
class MutualTeaching:
    """What own model, or visitor, and a second model learn from each other."""

    weight: float
    role: str = COMMON
    """The second model."""

    def __call__(self, step: TrainingStep) -> AddedLoss:
        """Compute both divergences of a step."""
        own, other = step.outputs[step.main], step.outputs[self.role]
        from_other = divergence(other, own)
        from_own = divergence(own, other)
        parts: dict[str, Tensor] = {
            "mutual_kl": from_other.detach(),
            f"{step.prefix(self.role)}mutual_kl": from_own.detach(),
        }
        return AddedLoss(self.weight * (from_other + from_own), parts)

    def kind(self, moment: object) -> None:
        """Give None: every step runs the same operations, so that one recording serves all."""

    def tensors(self) -> Sequence[Tensor]:
        """List nothing: a step reads only what the models made of the batch."""
        return []

    def apart(self) -> MutualTeaching:
        """Return itself: it holds no tensors that a recorded step would need its own copies of."""
        return self
