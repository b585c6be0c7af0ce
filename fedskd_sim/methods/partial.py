"""Averaging of a part of the model: the rest stays at home.

    shared      what is averaged                            known as
    body        all but the head                            FedPer (Arivazhagan et al. 2019)
    head        the head alone                              LG-FedAvg (Liang et al. 2020)
    all-but-norm  all but the normalisations                FedBN (Li et al. 2021)

The head is the last module with as many rows as there are classes. With ``alternate`` the first
half of a session's steps trains what stays at home and the second half what is shared: with the
body shared FedRep (Collins et al. 2021).
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from functools import cached_property

from fedskd_sim import AddedLoss, AveragingLearner, Total, TrainingStep, flat, install_flat
from fedskd_sim.methods.keys import Partial


class PartialLearner(AveragingLearner):
    """One hospital's copy of the model, of which a part is common."""

    keys = Partial
    config: Partial

    @cached_property
    def _shared(self) -> frozenset[str]:
        """The tensors that are averaged, by their names in the ``state_dict``."""
        architecture = self.site.scenario.architecture(self.site.name)
        if self.config.shared == "head":
            return self.site.part(architecture, "head")
        part = self.site.part(architecture, "head" if self.config.shared == "body" else "norm")
        return frozenset(self.site.specs()[self.site.name]) - part

    @property
    def length(self) -> int:
        """As many numbers as the common part has, but its integers."""
        return self.site.floats(self.site.scenario.architecture(self.site.name), names=self._shared)

    def teaching(self, round_: int) -> AlternatingTeaching | None:  # noqa: ARG002 - every round is alike
        """Let the parts take turns, where the scenario wants it."""
        return AlternatingTeaching(self._shared) if self.config.alternate else None

    def share(self, round_: int) -> Total:  # noqa: ARG002 - every round is alike
        """Return the common part, weighted by the training samples."""
        samples = float(len(self.site.data.train.labels))
        return Total(flat(self.model, names=self._shared) * samples, samples)

    def take(self, total: Total) -> None:
        """Let the common part become the mean."""
        travel = self.site.scenario.architecture(self.site.name).buffers == "travel"
        mean = total.vector / total.weight
        install_flat(self.model, mean, buffers=travel, names=self._shared)
        self.changed()


@dataclass(frozen=True, slots=True)
class AlternatingTeaching:
    """What stays at home trains in the first half of the steps, what is shared in the second."""

    shared: Container[str]

    def __call__(self, step: TrainingStep) -> AddedLoss:  # noqa: ARG002 - nothing is taught
        """Add nothing."""
        return AddedLoss(None, {})

    def before_step(self, step: TrainingStep, role: str) -> None:
        """Take the gradients of the part whose turn it is not, so that it stays as it is."""
        first = 2 * step.moment.number < step.moment.total
        for name, parameter in step.models[role].named_parameters():
            if (name in self.shared) == first:
                parameter.grad = None
