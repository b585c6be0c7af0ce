"""Model-contrastive federated learning, MOON (Li, He and Song 2021): FedAvg whose features are
drawn to the common model's and away from the own model's before it was averaged.

With z the features of a sample in a session, z_c those of the common model with which the session
began and z_o those of the model as the last session has left it, both frozen, T the temperature:

    loss = CE - w mean_i log( e^(cos(z, z_c) / T) / (e^(cos(z, z_c) / T) + e^(cos(z, z_o) / T)) ).

Features are the means over space of the deep map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, softplus

from fedskd_sim import (
    AddedLoss,
    AveragingLearner,
    Kept,
    Output,
    Total,
    TrainingStep,
    snapshot,
)
from fedskd_sim.methods.keys import MOON


class ContrastLearner(AveragingLearner):
    """One hospital's copy of the common model, and what it was before it was averaged."""

    keys = MOON
    config: MOON
    previous = Kept[nn.Module | None](None)

    def teaching(self, round_: int) -> ContrastTeaching | None:  # noqa: ARG002 - it depends on what there is
        """Contrast the common model with the previous one, once there is one."""
        if self.previous is None or not self.config.weight:
            return None
        common = self.site.build(self.site.name, snapshot(self.model)).eval()
        return ContrastTeaching(common, self.previous.eval(), self.config)

    def share(self, round_: int) -> Total:
        """Keep the model as it is, and return it."""
        self.previous = self.site.build(self.site.name, snapshot(self.model))
        return super().share(round_)


@dataclass(frozen=True, slots=True)
class ContrastTeaching:
    """Features are drawn to those of the common model and away from those of the previous one."""

    common: nn.Module
    previous: nn.Module
    config: MOON
    asked: ClassVar[int] = 2

    def __call__(self, step: TrainingStep) -> AddedLoss:
        """Compute the contrast, the mean over the batch."""
        own = _features(step.outputs[step.main])
        to_common, to_previous = (
            cosine_similarity(own, _features(step.ask(model)))
            for model in (self.common, self.previous)
        )
        value = softplus((to_previous - to_common) / self.config.temperature).mean()
        return AddedLoss(self.config.weight * value, {"contrast": value.detach()})


def _features(output: Output) -> Tensor:
    """Return the means over space of the deep map, (B, channels)."""
    return output.taps.deep.flatten(2).mean(dim=2).float()
