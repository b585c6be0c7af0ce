"""FedProx (Li et al. 2020): federated averaging whose sessions are held close to the common model.

With theta the parameters in a session and theta_0 those with which it began,

    loss = CE + mu / 2 || theta - theta_0 ||^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedskd_sim import AddedLoss, AveragingLearner, TrainingStep
from fedskd_sim.methods.keys import FedProx


class ProximalLearner(AveragingLearner):
    """One hospital's copy of the common model, which strays from it at a price."""

    keys = FedProx
    config: FedProx

    def teaching(self, round_: int) -> ProximalTeaching:  # noqa: ARG002 - every round is alike
        """Hold the model close to the common one."""
        return ProximalTeaching.of(self.config.mu, self.model)


@dataclass(frozen=True, slots=True)
class ProximalTeaching:
    """All parameters of a model are held close to the common one."""

    mu: float
    anchors: Sequence[Tensor]
    """The common model's parameters before the session."""
    role: str = ""
    """The model that is held."""

    @classmethod
    def of(cls, mu: float, model: nn.Module, role: str = "") -> ProximalTeaching:
        """Remember a model's parameters as the point from which the session must not stray."""
        return cls(mu, [parameter.detach().clone() for parameter in model.parameters()], role)

    def __call__(self, step: TrainingStep) -> AddedLoss:
        """Return mu/2 times the squared distance of the parameters from where the session began."""
        role = self.role or step.main
        pairs = zip(step.models[role].parameters(), self.anchors, strict=True)
        value = torch.stack([(now - before).square().sum() for now, before in pairs]).sum()
        name = f"{step.prefix(role)}proximal"
        return AddedLoss(self.mu / 2 * value, {name: value.detach()})

    def kind(self, moment: object) -> None:
        """Give None: every step runs the same operations, so that one recording serves all."""

    def tensors(self) -> Sequence[Tensor]:
        """List the parameters from which the distance is taken, which a recorded step reads too."""
        return self.anchors

    def apart(self) -> ProximalTeaching:
        """Copy this with its anchors, so that a recorded step has memory of its own."""
        return replace(self, anchors=[anchor.clone() for anchor in self.anchors])
