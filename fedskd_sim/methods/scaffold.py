"""SCAFFOLD (Karimireddy et al. 2020): FedAvg whose gradients are corrected for the drift of every
hospital to its own optimum.

Hospital k has a control c_k, and c is their mean, weighted as the models are. In a session of T
steps with gradients g_t, each step is taken along

    g_t - c_k + c,

and then c_k becomes (1 / T) sum_t g_t. With gradient descent of constant rate r from x to y that is
the paper's second option, c_k - c + (x - y) / (T r), T being all steps of the session; with another
optimiser the way from x to y does not tell the gradients, and they are added up as they come.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedskd_sim import AddedLoss, AveragingLearner, Kept, Total, TrainingStep
from fedskd_sim.methods.keys import Scaffold


class ControlLearner(AveragingLearner):
    """One hospital's copy of the common model, and its control."""

    keys = Scaffold
    control = Kept[Tensor | None](None)
    """The hospital's (parameters,), from its first session on."""
    mean_control = Kept[Tensor | None](None)
    """That of all, from the first mean on."""
    gathered = Kept[Tensor]()
    """The sum of the gradients of the last session, and its number of steps."""

    @property
    def _sizes(self) -> tuple[int, int]:
        """Return how many numbers the model has, and how many parameters."""
        architecture = self.site.scenario.architecture(self.site.name)
        return self.site.floats(architecture), self.site.parameters(architecture)

    @property
    def length(self) -> int:
        """As many numbers as model and control have."""
        return sum(self._sizes)

    def teaching(self, round_: int) -> ControlTeaching:  # noqa: ARG002 - it depends on the controls
        """Correct the gradients, and add them up."""
        self.gathered = torch.zeros(self._sizes[1] + 1, device=self.site.device)
        if self.control is None or self.mean_control is None:
            return ControlTeaching(self.gathered)
        return ControlTeaching(
            self.gathered, (self.mean_control - self.control).to(self.site.device)
        )

    def share(self, round_: int) -> Total:
        """Return the model and the new control, weighted by the training samples."""
        *sums, steps = self.gathered.cpu().split([self._sizes[1], 1])
        mean = sums[0] / steps
        if bool(mean.isfinite().all()):  # not of a session that was undone
            self.control = mean
        elif self.control is None:
            self.control = torch.zeros_like(mean)
        model, weight = super().share(round_)
        return Total(torch.cat([model.cpu(), self.control * weight]), weight)

    def take(self, total: Total) -> None:
        """Become the mean, and take the mean of the controls."""
        model, control = total.vector.split([*self._sizes])
        self.mean_control = control / total.weight
        super().take(Total(model, total.weight))


@dataclass(frozen=True, slots=True)
class ControlTeaching:
    """Gradients are added up as they come, and then corrected."""

    gathered: Tensor
    """Their sum and the number of steps, (parameters + 1,)."""
    correction: Tensor | None = None
    """What is added to them (parameters,)."""

    def __call__(self, step: TrainingStep) -> AddedLoss:  # noqa: ARG002 - nothing is taught
        """Add nothing to the loss."""
        return AddedLoss(None, {})

    def before_step(self, step: TrainingStep, role: str) -> None:
        """Add the gradients to the sum, and the correction to the gradients."""
        place = 0
        for parameter in step.models[role].parameters():
            here = slice(place, place := place + parameter.numel())
            if parameter.grad is not None:
                self.gathered[here] += parameter.grad.reshape(-1)
                if self.correction is not None:
                    parameter.grad += self.correction[here].view_as(parameter)
        self.gathered[-1] += 1
