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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedskd_sim.learning.algorithms.allreduce import RingSum
from fedskd_sim.learning.algorithms.local import LocalLearner
from fedskd_sim.learning.base import LearnerContext, LearnerState, Session
from fedskd_sim.learning.data import Samples, as_input
from fedskd_sim.learning.distillation.arrangements import average
from fedskd_sim.learning.evaluate import BATCH
from fedskd_sim.learning.sessions.session import SessionModels
from fedskd_sim.learning.sessions.steps import AddedLoss, Moment, TrainingStep
from fedskd_sim.learning.site import Site
from fedskd_sim.learning.weights import buffer_of, tensor_of
from fedskd_sim.messages import Forms, Weights
from fedskd_sim.ring.topology import Stop
from fedskd_sim.scenario import FedProto

PROTOTYPES = "prototypes"


class PrototypeLearner(LocalLearner):
    """One hospital's own model; what travels are chunks of the sums of features and of the
    numbers of samples.
    """

    def __init__(self, site: Site, config: FedProto) -> None:
        """Look up what travels; nothing is loaded or trained yet."""
        super().__init__(site)
        self._config = config
        self._sum = RingSum(
            site.context.topology, site.name, site.shape.classes * (config.features + 1)
        )
        self.expected: Mapping[str, Forms] = {
            name: (*forms, self._sum.form(name)) for name, forms in self.expected.items()
        }
        self._prototypes: Weights = {}

    def alone(self, round_: int) -> Session | None:
        """Train for a session, drawn to the prototypes once there are some."""
        self.site.settle()
        known = (
            tensor_of(self._prototypes[PROTOTYPES]).to(self.site.device)
            if self._prototypes
            else None
        )
        return self.run_session(
            round_,
            SessionModels({"": self.model}),
            None
            if known is None or not bool(known.isfinite().all(dim=1).any())
            else PrototypeTeaching(known, self._config),
        )

    def depart(self, round_: int) -> Weights:
        """Begin the sum of the features; for the evaluation, give the own model."""
        if round_ > self._config.rounds:
            return super().depart(round_)
        self.site.settle()
        sums, numbers = class_sums(
            self.model, self.site.data.train, (self.site.shape.classes, self._config.features)
        )
        return self._sum.begin(torch.cat([sums.reshape(-1), numbers]), float(numbers.sum()))

    def visit(self, stop: Stop, arriving: Weights) -> Session:
        """Add the own share to a sum on its way, or take a finished one in."""
        self.site.settle()
        leaving = self._sum.visit(stop, arriving)
        total = self._sum.total
        if total is not None:
            classes, features = self.site.shape.classes, self._config.features
            sums, numbers = total.vector.split([classes * features, classes])
            self._prototypes = {
                PROTOTYPES: buffer_of(sums.reshape(classes, features) / numbers[:, None])
            }
        return Session(leaving, "passed")

    def state(self) -> LearnerState:
        """Return the own model, the prototypes bit for bit, and a sum that is under way."""
        return super().state().plus({}, {PROTOTYPES: self._prototypes, **self._sum.groups()})

    def restore(self, state: LearnerState) -> None:
        """Go on with the model, prototypes and sum that an earlier life of this hospital had."""
        super().restore(state)
        self._sum.restore(state.weights)
        self._prototypes = state.weights.get(PROTOTYPES, {})


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


def make(context: LearnerContext) -> PrototypeLearner:
    """Make the learner of one hospital; raises TypeError for a scenario of another algorithm."""
    if not isinstance(context.scenario.algorithm, FedProto):
        raise TypeError(context.scenario.algorithm.name)
    return PrototypeLearner(Site(context), context.scenario.algorithm)
