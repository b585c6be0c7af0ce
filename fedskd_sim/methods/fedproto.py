"""Prototypes instead of models (Tan et al. 2022): hospitals share the mean features of every class
and nothing else.

The features z of a sample are the channel means of its deep map, pooled to the same length for
every architecture. After every session each hospital takes the sums of z over its training samples
of each class, without augmentation; the ring adds up sums and numbers, and their quotient is the
class's prototype g_c, a mean over all samples of all hospitals. From the next session on

    loss = CE + w mean_i || z_i - g_(y_i) ||^2 / length(z),

the mean over the samples of a batch whose class has a prototype. Predictions are those of the
model's own classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedskd_sim import (
    AddedLoss,
    AllReduceLearner,
    Kept,
    Total,
    TrainingStep,
    channel_means,
)
from fedskd_sim.methods.keys import FedProto, FedTGP


class PrototypeLearner(AllReduceLearner):
    """One hospital's own model; what travels are chunks of the sums of features and of the
    numbers of samples.
    """

    keys = FedProto
    config: FedProto
    prototypes = Kept[Tensor | None](None)

    @property
    def length(self) -> int:
        """As many as the features of all classes, and a number of samples for each."""
        return self.site.shape.classes * (self.config.features + 1)

    def teaching(self, round_: int) -> PrototypeTeaching | None:  # noqa: ARG002 - it depends on the prototypes
        """Draw the features to the prototypes, once there are some."""
        if self.prototypes is None or not bool(self.prototypes.isfinite().all(dim=1).any()):
            return None
        return PrototypeTeaching(self.prototypes.to(self.site.device), self.config)

    def share(self, round_: int) -> Total:  # noqa: ARG002 - every round is alike
        """Return the sums of the features and the numbers of samples."""
        classes, length = self.site.shape.classes, self.config.features
        train = self.site.data.train
        sums = torch.zeros(classes, length, device=train.labels.device)
        for output, labels in self.site.outputs(self.model, train):
            one_hot = torch.nn.functional.one_hot(labels, classes).float()
            sums += one_hot.T @ channel_means(output.taps.deep, length)
        numbers = torch.bincount(train.labels, minlength=classes).float()
        return Total(torch.cat([sums.reshape(-1), numbers]), float(numbers.sum()))

    def take(self, total: Total) -> None:
        """Take the quotients for prototypes."""
        classes, features = self.site.shape.classes, self.config.features
        sums, numbers = total.vector.split([classes * features, classes])
        self.prototypes = sums.reshape(classes, features) / numbers[:, None]


@dataclass(frozen=True, slots=True)
class PrototypeTeaching:
    """Features are drawn to the prototypes (classes, length) of their classes; a class nobody has
    has none (0 / 0).
    """

    prototypes: Tensor
    config: FedProto | FedTGP

    def __call__(self, step: TrainingStep) -> AddedLoss:
        """Compute the mean squared distance over the batch's samples that have a prototype."""
        wanted = self.prototypes[step.batch.labels]
        known = wanted.isfinite().all(dim=1)
        found = channel_means(step.outputs[step.main].taps.deep, self.config.features)
        gap = torch.where(known[:, None], found - wanted, 0.0).square()
        value = gap.sum() / (known.sum() * self.config.features).clamp(min=1)
        return AddedLoss(self.config.weight * value, {"prototype": value.detach()})

    def kind(self, moment: object) -> None:
        """Give None: every step runs the same operations, so that one recording serves all."""

    def tensors(self) -> Sequence[Tensor]:
        """List the classes' prototypes, which a recorded step reads too."""
        return [self.prototypes]

    def apart(self) -> PrototypeTeaching:
        """Copy this with its prototypes, so that a recorded step has memory of its own."""
        return replace(self, prototypes=self.prototypes.clone())
