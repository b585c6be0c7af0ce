"""The inner loop: one or two models train on one hospital's data, step by step, on identical batches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedskd_sim.learning.data import Samples, augmented, batch_count, batches
from fedskd_sim.learning.distill import SimilarityLoss, ramp
from fedskd_sim.records import Measure
from fedskd_sim.scenario import FedSKD


class NonFinite(Exception):
    """A loss, gradient or weight was not finite."""


class Course(NamedTuple):
    """What a session trains on and how: data, class weights (classes,), settings, passes, and its seed."""

    samples: Samples
    class_weights: Tensor
    config: FedSKD
    epochs: int
    seed: int


@dataclass
class Tally:
    """What a session has seen, as sums that add up."""

    samples: int = 0
    steps: int = 0
    sums: dict[str, Measure] = field(default_factory=dict)

    def add(self, name: str, value: float, weight: float) -> None:
        """Add ``value`` per unit of ``weight`` to a measurement."""
        self.sums[name] = self.sums.get(name, Measure(0.0, 0.0)).plus(Measure(value * weight, weight))


def train(models: Mapping[str, nn.Module], course: Course, similarity: SimilarityLoss | None = None) -> Tally:
    """Train one model, or a visitor and a resident that teach each other, for a session.

    Args:
        models: by the prefix of their measurements: '' for the visitor (or the only model), 'resident_' for the resident.
        course: data, settings and seed; the same seed gives the same batches and augmentations.
        similarity: the distillation term; None or all weights 0 is plain training.

    Raises:
        NonFinite: a loss, a gradient or a weight; the models are then of no use.

    """
    config = course.config
    torch.manual_seed(course.seed)
    draw = torch.Generator().manual_seed(course.seed)
    optimisers = [_optimiser(model, config) for model in models.values()]
    total = course.epochs * batch_count(len(course.samples.labels), config.batch_size)
    tally = Tally()
    for model in models.values():
        model.train()
    for _ in range(course.epochs):
        for batch in batches(course.samples, config.batch_size, draw):
            images = augmented(batch.images, draw) if config.augment else batch.images
            loss = _loss(models, Samples(images, batch.labels), course, (similarity, tally, total))
            _step(list(models.values()), optimisers, loss, _rate(config, tally.steps, total))
            tally.samples += len(batch.labels) * len(models)
            tally.steps += 1
    if not all(bool(parameter.isfinite().all()) for model in models.values() for parameter in model.parameters()):
        message = "a weight is not finite after the last step"
        raise NonFinite(message)
    return tally


def _loss(
    models: Mapping[str, nn.Module], batch: Samples, course: Course, rest: tuple[SimilarityLoss | None, Tally, int]
) -> Tensor:
    """Sum the cross-entropy of all models and, for a pair, the similarity term."""
    similarity, tally, total = rest
    outputs = {prefix: model(batch.images) for prefix, model in models.items()}
    losses = {prefix: cross_entropy(logits, batch.labels, course.class_weights) for prefix, (logits, _) in outputs.items()}
    loss = torch.stack(list(losses.values())).sum() if len(losses) > 1 else next(iter(losses.values()))
    if similarity is not None and len(outputs) > 1:
        visitor, resident = (taps for _, taps in outputs.values())
        term, levels = similarity(visitor, resident, ramp(tally.steps, total, course.config.similarity.ramp))
        loss = loss if term is None else loss + term
        for level, value in levels.items():
            tally.add(f"similarity_{level}", float(value), 1)
    for prefix, value in losses.items():
        tally.add(f"{prefix}loss", float(value.detach()), len(batch.labels))
    if not math.isfinite(float(loss.detach())):
        message = f"loss {float(loss.detach())} in step {tally.steps + 1} of {total}"
        raise NonFinite(message)
    return loss


def _step(models: Sequence[nn.Module], optimisers: Sequence[torch.optim.Optimizer], loss: Tensor, rate: float) -> None:
    for optimiser in optimisers:
        optimiser.zero_grad()
    loss.backward()
    for model, optimiser in zip(models, optimisers, strict=True):
        norm = nn.utils.clip_grad_norm_(model.parameters(), optimiser.defaults["clip"])
        if not math.isfinite(float(norm)):
            message = f"gradient norm {float(norm)}"
            raise NonFinite(message)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()


def _optimiser(model: nn.Module, config: FedSKD) -> torch.optim.Optimizer:
    settings = config.optimiser
    made = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    made.defaults["clip"] = settings.clip
    return made


def _rate(config: FedSKD, step: int, total: int) -> float:
    """Give the learning rate of a step: a linear rise over the first share of the session, then level."""
    settings = config.optimiser
    rise = settings.ramp * total
    return settings.learning_rate * min(1.0, (step + 1) / rise if rise else 1.0)
