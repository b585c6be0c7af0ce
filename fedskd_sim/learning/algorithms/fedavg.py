"""Federated averaging without a server: theta = sum_k (n_k / n) theta_k (McMahan et al. 2017) over
a ring all-reduce.

The float tensors of a hospital's model, times its number of training samples n_k, are its share of
the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn

from fedskd_sim.learning.algorithms.allreduce import AllReduceLearner, Total
from fedskd_sim.learning.base import Session
from fedskd_sim.learning.sessions.steps import AddedLoss, Moment, TrainingStep
from fedskd_sim.learning.weights import FLOATS, snapshot
from fedskd_sim.messages import Spec
from fedskd_sim.scenario import FedProx
from fedskd_sim.seeds import seed


class AveragingLearner(AllReduceLearner):
    """One hospital's copy of the common model; what travels are chunks of sums."""

    @property
    def length(self) -> int:
        """As many numbers as the common model has, but its integers."""
        return floats_in(next(iter(self.site.specs().values())))

    def warm_up(self) -> Session:
        """Load the data and draw the common initial model; nothing is trained."""
        self.site.settle()
        self.model = self.site.first(seed(self.site.scenario.seed, "initial weights"))
        return self.site.note_remarks(Session(snapshot(self.model)))

    def teaching(self, round_: int) -> ProximalTeaching | None:  # noqa: ARG002 - every round is alike
        """Hold the model close to the common one, where the scenario wants that."""
        mu = self.config.mu if isinstance(self.config, FedProx) else 0.0
        return ProximalTeaching.of(mu, self.model) if mu else None

    def session_seed(self, round_: int) -> int:
        """Draw the seed of a round's session."""
        return self.site.seed("session", round_)

    def share(self, round_: int) -> Total:  # noqa: ARG002 - every round is alike
        """Return the model, weighted by the training samples."""
        samples = float(len(self.site.data.train.labels))
        return Total(flat(self.model) * samples, samples)

    def take(self, total: Total) -> None:
        """Become the mean."""
        install_flat(self.model, total.vector / total.weight)
        self.changed()


@dataclass(frozen=True, slots=True)
class ProximalTeaching:
    """All parameters are held close to the common model: mu / 2 times the squared distance (Li
    et al. 2020).
    """

    mu: float
    anchors: Sequence[Tensor]
    """The common model's parameters before the session."""

    @classmethod
    def of(cls, mu: float, model: nn.Module) -> ProximalTeaching:
        """Remember a model's parameters as the point from which the session must not stray."""
        return cls(mu, [parameter.detach().clone() for parameter in model.parameters()])

    def __call__(self, step: TrainingStep) -> AddedLoss:
        """Return mu/2 times the squared distance of the parameters from where the session began (Li
        et al. 2020).
        """
        pairs = zip(step.models[""].parameters(), self.anchors, strict=True)
        value = torch.stack([(now - before).square().sum() for now, before in pairs]).sum()
        return AddedLoss(self.mu / 2 * value, {"proximal": value.detach()})

    def kind(self, moment: Moment) -> None:
        """Give None: every step runs the same operations, so that one recording serves all."""

    def tensors(self) -> Sequence[Tensor]:
        """List the parameters from which the distance is taken, which a recorded step reads too."""
        return self.anchors

    def apart(self) -> ProximalTeaching:
        """Copy this with its anchors, so that a recorded step has memory of its own."""
        return replace(self, anchors=[anchor.clone() for anchor in self.anchors])


def floats_in(spec: Spec) -> int:
    """Count the float numbers of a model."""
    return sum(prod(shape) for dtype, shape in spec.values() if dtype in FLOATS)


def flat(model: nn.Module) -> Tensor:
    """Return a model's float tensors in a row, (length,) float32, a copy."""
    return torch.cat([tensor.reshape(-1).float() for tensor in _floats(model)])


@torch.no_grad()
def install_flat(model: nn.Module, vector: Tensor) -> None:
    """Write the result of `flat` back into a model; integer tensors stay as they are."""
    for tensor, part in zip(
        _floats(model), vector.split([tensor.numel() for tensor in _floats(model)]), strict=True
    ):
        tensor.copy_(part.reshape(tensor.shape))


def _floats(model: nn.Module) -> list[Tensor]:
    return [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
