"""Decentralised federated mutual learning, DFML (Khalil et al. 2024): a model visits a hospital,
trains there beside the resident, and both go on as they are then; supervision and teaching take
turns from round to round.

With models p and q at a stop, sg = stop-gradient, n_c the host's training samples of class c of n,
and z the logits of p,

    loss = (1 - a) WSM(p) + a KL(sg q || p),    WSM = CE of z_c + log(n_c / n),

and the same for q. In round r, counted from 1, of cycles of C rounds

    a = peak / 2 (1 - cos(2 pi (r - 1) / C)),

and what a hospital tests is its model after the last round in which a was highest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fedskd_sim import AddedLoss, CirculatingLearner, Kept, Stop, TrainingStep, snapshot
from fedskd_sim.methods.defkt import RESIDENT
from fedskd_sim.methods.fml import MutualTeaching
from fedskd_sim.methods.keys import DFML

FEWEST = 1e-12
"""The share of a class that a host does not have."""


class CycleLearner(CirculatingLearner):
    """One hospital's model, and what it was when teaching had most weight."""

    keys = DFML
    config: DFML
    peak = Kept[nn.Module | None](None)
    """None until then, and in the round itself, where that is the model at home."""
    peaked = Kept[int](0)
    """The round in which it was that."""

    @property
    def tested(self) -> nn.Module:
        """The model of the last peak, once there was one."""
        return self.home if self.peak is None else self.peak

    def teaching(self, stop: Stop, arriving: object) -> CycleTeaching:  # noqa: ARG002 - nothing of it is kept
        """Weigh supervision and teaching as the round has it."""
        self._note_peak(stop.round)
        classes, labels = self.site.shape.classes, self.site.data.train.labels
        shares = torch.bincount(labels, minlength=classes) / len(labels)
        prior = shares.clamp(min=FEWEST).log().to(self.site.device)
        return CycleTeaching(self.config.weight_in(stop.round), prior)

    def depart(self, round_: int) -> Mapping[str, Any]:
        """Set out, and keep the model before that, if the round before was a peak."""
        self._note_peak(round_)
        return super().depart(round_)

    def _note_peak(self, round_: int) -> None:
        """Keep the model as it is when something first happens in a round after a peak."""
        if round_ > self.peaked > 0 and self.peak is None:
            self.peak = self.site.build(self.site.name, snapshot(self.home))
        if self.peaked < round_ <= self.config.rounds and self.config.is_peak(round_):
            self.peak, self.peaked = None, round_


@dataclass(frozen=True, slots=True)
class CycleTeaching:
    """Two models learn the labels with weight 1 - a, and each other's predictions with weight a."""

    weight: float
    """a."""
    prior: Tensor
    """The logarithm of the share of every class at the host (classes,)."""

    def supervised(self, step: TrainingStep, role: str) -> Tensor:
        """Return the cross-entropy of a softmax that is weighted by the host's classes."""
        logits = step.logits(role) + self.prior
        return (1 - self.weight) * step.task.loss(logits, step.labels, step.class_weights)

    def __call__(self, step: TrainingStep) -> AddedLoss:
        """Compute both divergences of a step."""
        return MutualTeaching(self.weight, RESIDENT)(step)
