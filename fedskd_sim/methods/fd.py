"""Federated distillation (Jeong et al. 2018), also called FedDistill: hospitals share what their
models say of every class on average, and nothing else.

After every session hospital k takes the mean m_kc over its training samples of class c, without
augmentation. With H_c the hospitals that have the class, each learns from what the others say,

    o_kc = sum_(j in H_c, j != k) m_jc / |H_c without k|,

and from the next session on, with the mean over the samples of a batch whose class others have,

    probabilities:  loss = CE + w mean_i sum_c' -o_(k, y_i, c') log p_i(c')
    logits:         loss = CE + w mean_i || z_i - o_(k, y_i) ||^2 / classes.

The first is the paper's; the second, on logits z, is what public code has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedskd_sim import AddedLoss, AllReduceLearner, Kept, Total, TrainingStep
from fedskd_sim.methods.keys import FD


class ClassMeansLearner(AllReduceLearner):
    """One hospital's own model; what travels are chunks of the sums of class means."""

    keys = FD
    config: FD
    others = Kept[Tensor | None](None)
    """What the others say of every class (classes, classes); of one that none of them has, nothing
    that is a number."""
    shared = Kept[Tensor]()
    """The own share of the sum, which is taken from it again."""

    @property
    def length(self) -> int:
        """As many as the means of all classes, and for each class whether the hospital has it."""
        return self.site.shape.classes * (self.site.shape.classes + 1)

    def teaching(self, round_: int) -> ClassMeansTeaching | None:  # noqa: ARG002 - it depends on the means
        """Draw predictions to what the others say, once they have said something."""
        if self.others is None or not bool(self.others.isfinite().all(dim=1).any()):
            return None
        return ClassMeansTeaching(self.others.to(self.site.device), self.config)

    def share(self, round_: int) -> Total:  # noqa: ARG002 - every round is alike
        """Return the means of the classes, and which classes there are."""
        classes, train = self.site.shape.classes, self.site.data.train
        sums = torch.zeros(classes, classes, device=train.labels.device)
        for output, labels in self.site.outputs(self.model, train):
            said = output.logits if self.config.shares == "logits" else output.logits.softmax(1)
            sums += torch.nn.functional.one_hot(labels, classes).float().T @ said
        numbers = torch.bincount(train.labels, minlength=classes).float()
        means = sums / numbers.clamp(min=1)[:, None]
        self.shared = torch.cat([means.reshape(-1), (numbers > 0).float()]).cpu()
        return Total(self.shared, 1.0)

    def take(self, total: Total) -> None:
        """Take the means of the others' means."""
        classes = self.site.shape.classes
        sums, holders = (total.vector - self.shared).split([classes * classes, classes])
        self.others = sums.reshape(classes, classes) / holders[:, None]
        self.others[holders < 1] = torch.nan


@dataclass(frozen=True, slots=True)
class ClassMeansTeaching:
    """Predictions are drawn to what others say (classes, classes) of the samples' classes."""

    others: Tensor
    config: FD

    def __call__(self, step: TrainingStep) -> AddedLoss:
        """Compute the mean distance over the batch's samples whose class others know."""
        wanted = self.others[step.batch.labels]
        known = wanted.isfinite().all(dim=1)[:, None]
        logits = step.outputs[step.main].logits
        if self.config.shares == "logits":
            gaps = torch.where(known, logits - wanted, 0.0).square().mean(dim=1)
        else:
            gaps = -(torch.where(known, wanted, 0.0) * logits.log_softmax(1)).sum(dim=1)
        value = gaps.sum() / known.sum().clamp(min=1)
        return AddedLoss(self.config.weight * value, {"class_means": value.detach()})

    def kind(self, moment: object) -> None:
        """Give None: every step runs the same operations, so that one recording serves all."""

    def tensors(self) -> Sequence[Tensor]:
        """List what others say, which a recorded step reads too."""
        return [self.others]

    def apart(self) -> ClassMeansTeaching:
        """Copy this with its means, so that a recorded step has memory of its own."""
        return replace(self, others=self.others.clone())
