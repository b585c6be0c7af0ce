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
from torch import Tensor, nn

from fedskd_sim.learning.algorithms.allreduce import AllReduceLearner, Total
from fedskd_sim.learning.algorithms.kept import Kept
from fedskd_sim.learning.data import Samples, as_input
from fedskd_sim.learning.distillation.arrangements import average
from fedskd_sim.learning.evaluate import BATCH
from fedskd_sim.learning.sessions.steps import AddedLoss, Moment, TrainingStep
from fedskd_sim.scenario import FedProto


class PrototypeLearner(AllReduceLearner):
    """One hospital's own model; what travels are chunks of the sums of features and of the
    numbers of samples.
    """

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
        size = (self.site.shape.classes, self.config.features)
        sums, numbers = class_sums(self.model, self.site.data.train, size)
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
    config: FedProto

    def __call__(self, step: TrainingStep) -> AddedLoss:
        """Compute the mean squared distance over the batch's samples that have a prototype."""
        wanted = self.prototypes[step.batch.labels]
        known = wanted.isfinite().all(dim=1)
        found = features_of(step.outputs[""].taps.deep, self.config.features)
        gap = torch.where(known[:, None], found - wanted, 0.0).square()
        value = gap.sum() / (known.sum() * self.config.features).clamp(min=1)
        return AddedLoss(self.config.weight * value, {"prototype": value.detach()})

    def kind(self, moment: Moment) -> None:
        """Give None: every step runs the same operations, so that one recording serves all."""

    def tensors(self) -> Sequence[Tensor]:
        """List the classes' prototypes, which a recorded step reads too."""
        return [self.prototypes]

    def apart(self) -> PrototypeTeaching:
        """Copy this with its prototypes, so that a recorded step has memory of its own."""
        return replace(self, prototypes=self.prototypes.clone())


def features_of(deep: Tensor, length: int) -> Tensor:
    """Return the features (B, length) of deep maps (B, C, ...): channel means over space,
    neighbouring channels pooled.
    """
    return average(deep.flatten(2).mean(dim=2).unsqueeze(1), (length,)).squeeze(1)


@torch.no_grad()
def class_sums(model: nn.Module, samples: Samples, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Sum the features of every class, the model in evaluation mode; it is left in the mode it was
    in.

    Args:
        model: gives logits and taps.
        samples: what to sum over.
        size: number of classes, length of the features.

    Returns:
        Sums (classes, length) and numbers of samples (classes,), float32.

    """
    before = model.training
    model.eval()
    classes, length = size
    sums = torch.zeros(classes, length, device=samples.labels.device)
    for images, labels in zip(
        samples.images.split(BATCH), samples.labels.split(BATCH), strict=True
    ):
        one_hot = torch.nn.functional.one_hot(labels, classes).float()
        sums += one_hot.T @ features_of(model(as_input(images, labels.device))[1].deep, length)
    model.train(before)
    return sums, torch.bincount(samples.labels, minlength=classes).float()
