"""What visitor and resident learn from each other, and a visitor from its own past, in one step.

With visitor v, resident l and the frozen copy v0 of the visitor on arrival, sg = stop-gradient, D
the distances of `fedskd_sim.learning.distillation.distill` and KL(q || p) the mean over the batch
of sum_c q_c (log q_c - log p_c):

    visitor:   CE(v) + ramp (D(F_v, sg F_l) + kappa KL(sg p_l || p_v))
                     + D(F_v, F_v0) + kappa_0 KL(p_v0 || p_v)
    resident:  CE(l) + ramp (D(sg F_v, F_l) + kappa KL(sg p_v || p_l)), in steps in which it trains
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from fedskd_sim.learning.distillation.distill import SimilarityLoss, ramp, scale
from fedskd_sim.learning.sessions.steps import AddedLoss, Moment, Output, TrainingStep, answer


@dataclass(frozen=True, slots=True)
class Exchange:
    """The terms of a visit beside the cross-entropies."""

    similarity: SimilarityLoss
    mutual_kl: float
    rise: float
    """Share of the session over which the weights of the exchange rise from 0."""
    past: nn.Module | None = None
    """The visitor as it arrived, frozen and in evaluation mode; None: nothing holds it."""
    self_similarity: SimilarityLoss | None = None
    self_distillation_kl: float = 0.0

    def __call__(self, step: TrainingStep) -> AddedLoss:
        """Compute the terms of a step."""
        parts: dict[str, Tensor] = {}
        total = [*self._exchange(step, parts), *self._self_distilled(step, parts)]
        return AddedLoss(torch.stack(total).sum() if total else None, parts)

    @property
    def asked(self) -> int:
        """One frozen model where the visitor is held to what it was: the visitor as it arrived."""
        return int(self.past is not None)

    def kind(self, moment: Moment) -> bool:
        """Tell whether anything is exchanged yet."""
        return ramp(moment.number, moment.total, self.rise) > 0

    def tensors(self) -> Sequence[Tensor]:
        """List the tensors of the visitor as it arrived."""
        return [] if self.past is None else [*self.past.state_dict().values()]

    def apart(self) -> Exchange:
        """Copy the visitor as it arrived."""
        return replace(self, past=deepcopy(self.past))

    def _exchange(self, step: TrainingStep, parts: dict[str, Tensor]) -> list[Tensor]:
        visitor, resident = step.outputs[""], step.outputs.get("resident_")
        if resident is None or not self.kind(step.moment):
            return []
        factor = step.rise(self.rise)
        found, levels = self.similarity(visitor.taps, resident.taps, factor)
        parts.update({f"similarity_{level}": value for level, value in levels.items()})
        total = [] if found is None else [found]
        if self.mutual_kl:
            value = divergence(resident, visitor)
            parts["mutual_kl"] = value.detach()
            total.append(scale(value, factor * self.mutual_kl))
            if resident.logits.requires_grad:
                total.append(scale(divergence(visitor, resident), factor * self.mutual_kl))
        return total

    def _self_distilled(self, step: TrainingStep, parts: dict[str, Tensor]) -> list[Tensor]:
        if self.past is None:
            return []
        visitor = step.outputs[""]
        with torch.no_grad():
            past = answer(self.past, step.batch.images, step.precision)
        total = []
        if self.self_similarity is not None:
            found, levels = self.self_similarity(visitor.taps, past.taps)
            parts.update({f"self_distillation_{level}": value for level, value in levels.items()})
            total = [] if found is None else [found]
        if self.self_distillation_kl:
            value = divergence(past, visitor)
            parts["self_distillation_kl"] = value.detach()
            total.append(self.self_distillation_kl * value)
        return total


def divergence(teacher: Output, student: Output) -> Tensor:
    """Give KL(sg teacher || student) of the predictions, the mean over the batch, natural
    logarithm, temperature 1.
    """
    given = log_softmax(teacher.logits.detach(), dim=1)
    return kl_div(log_softmax(student.logits, dim=1), given, reduction="batchmean", log_target=True)
