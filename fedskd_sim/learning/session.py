"""The inner loop: models train on one hospital's data, step by step, on identical batches.

A session spends a budget of sample-gradients: a step costs the samples of its batch once for every
model that trains in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedskd_sim.learning.data import Samples, augment, batch_sizes, batches
from fedskd_sim.learning.distill import Taps
from fedskd_sim.records import Measure
from fedskd_sim.scenario import Training

ROUNDING = 1e-6
Precision = Literal["fp32", "bf16"]


class NonFinite(Exception):
    """A loss, gradient or weight was not finite."""


class TrainingJob(NamedTuple):
    """What a session trains on and how: data, class weights (classes,), settings,
    sample-gradients to spend, and its seed.
    """

    samples: Samples
    class_weights: Tensor
    training: Training
    budget: float
    seed: int


class Output(NamedTuple):
    """What a model made of a batch: logits (B, classes) and its maps."""

    logits: Tensor
    taps: Taps


class TrainingStep(NamedTuple):
    """One step of a session's ``total``: the batch as all models see it, what each made of it,
    and in which precision.
    """

    batch: Samples
    outputs: Mapping[str, Output]
    number: int
    total: int
    precision: Precision = "fp32"


class AddedLoss(NamedTuple):
    """What is added to the cross-entropies, a scalar (None: nothing), and what the log shows of
    it.
    """

    total: Tensor | None
    parts: Mapping[str, Tensor]


Teaching = Callable[[TrainingStep], AddedLoss]


class SessionModels(NamedTuple):
    """Who is in a session, by the prefix of their measurements: '' is the visitor, or the only
    model; 'resident_' the resident.
    """

    by_role: Mapping[str, nn.Module]
    every: int = 1
    """The resident trains in every n-th step; 0: never."""
    teaches: bool = False
    """The resident is asked in the steps in which it does not train."""

    def at(self, step: int) -> dict[str, bool]:
        """Tell who takes part in a step (counted from 0), and whether it trains."""
        trains = self.every > 0 and (step + 1) % self.every == 0
        return {
            name: not name or trains for name in self.by_role if not name or trains or self.teaches
        }


@dataclass
class RunningSums:
    """What a session has seen, as sums that add up; ``samples`` are sample-gradients,
    ``forwards`` passes of teachers.
    """

    samples: int = 0
    forwards: int = 0
    steps: int = 0
    measures: dict[str, Measure] = field(default_factory=dict)

    def add(self, name: str, value: float, weight: float) -> None:
        """Add ``value`` per unit of ``weight`` to a measurement."""
        self.measures[name] = self.measures.get(name, Measure(0.0, 0.0)).plus(
            Measure(value * weight, weight)
        )


def train(models: SessionModels, job: TrainingJob, teaching: Teaching | None = None) -> RunningSums:
    """Train one model, or a visitor beside a resident, until the next step would overdraw the
    budget.

    Args:
        models: the models.
        job: data, settings, budget and seed; the same seed gives the same batches and
            augmentations.
        teaching: what is added to the cross-entropies; None is plain training.

    Raises:
        NonFinite: a loss, a gradient or a weight; the models are then of no use.

    """
    torch.manual_seed(job.seed)
    draw = torch.Generator().manual_seed(job.seed)
    learners = {name: model for name, model in models.by_role.items() if not name or models.every}
    optimisers = {name: _optimiser(model, job.training) for name, model in learners.items()}
    sizes = batch_sizes(len(job.samples.labels), job.training.batch_size)
    total = steps_within(job.budget, sizes, models)
    sums = RunningSums()
    for batch in _endless(job, draw, total):
        roles = models.at(sums.steps)
        images = augment(batch.images, draw) if job.training.augment else batch.images
        precision = job.training.precision
        outputs = {
            name: _output(models.by_role[name], images, precision, trains=trains)
            for name, trains in roles.items()
        }
        trained = [name for name, trains in roles.items() if trains]
        step = TrainingStep(Samples(images, batch.labels), outputs, sums.steps, total, precision)
        loss = _loss(step, trained, (job, teaching, sums))
        rate = _rate(job.training, sums.steps, total)
        _step(
            [models.by_role[name] for name in trained],
            [optimisers[name] for name in trained],
            loss,
            rate,
        )
        sums.samples += len(batch.labels) * len(trained)
        sums.forwards += len(batch.labels) * (len(roles) - len(trained))
        sums.steps += 1
    if not all(
        bool(parameter.isfinite().all())
        for model in learners.values()
        for parameter in model.parameters()
    ):
        message = "a weight is not finite after the last step"
        raise NonFinite(message)
    return sums


def steps_within(budget: float, sizes: Sequence[int], models: SessionModels) -> int:
    """Count the steps that a budget of sample-gradients pays for, with batches of these sizes
    over and over.
    """
    steps, left = 0, budget + ROUNDING
    for size in cycle(sizes):
        left -= size * sum(models.at(steps).values())
        if left < 0:
            break
        steps += 1
    return steps


def _endless(job: TrainingJob, draw: torch.Generator, count: int) -> Iterator[Samples]:
    """Yield mini-batches, epoch after epoch, each shuffled anew."""
    given = 0
    while given < count:
        for batch in batches(job.samples, job.training.batch_size, draw):
            if given == count:
                return
            given += 1
            yield batch


def answer(model: nn.Module, images: Tensor, precision: Precision) -> Output:
    """Ask a model; its maps may be bfloat16, its logits are fp32."""
    if precision == "fp32":
        return Output(*model(images))
    with torch.autocast(images.device.type, dtype=torch.bfloat16):
        logits, taps = model(images)
    return Output(logits.float(), taps)


def _output(model: nn.Module, images: Tensor, precision: Precision, *, trains: bool) -> Output:
    if model.training != trains:
        model.train(trains)
    with torch.set_grad_enabled(trains):
        return answer(model, images, precision)


def _loss(
    step: TrainingStep,
    trained: Sequence[str],
    rest: tuple[TrainingJob, Teaching | None, RunningSums],
) -> Tensor:
    """Sum the cross-entropies of those who train and what teaching adds."""
    job, teaching, sums = rest
    labels = step.batch.labels
    losses = {
        name: cross_entropy(step.outputs[name].logits, labels, job.class_weights)
        for name in trained
    }
    loss = (
        torch.stack(list(losses.values())).sum() if len(losses) > 1 else next(iter(losses.values()))
    )
    if teaching is not None:
        total, parts = teaching(step)
        loss = loss if total is None else loss + total
        for name, value in parts.items():
            sums.add(name, float(value), 1)
    for name, value in losses.items():
        sums.add(f"{name}loss", float(value.detach()), len(labels))
    if not math.isfinite(float(loss.detach())):
        message = f"loss {float(loss.detach())} in step {sums.steps + 1}"
        raise NonFinite(message)
    return loss


def _step(
    models: Sequence[nn.Module],
    optimisers: Sequence[torch.optim.Optimizer],
    loss: Tensor,
    rate: float,
) -> None:
    loss.backward()
    for model, optimiser in zip(models, optimisers, strict=True):
        norm = nn.utils.clip_grad_norm_(model.parameters(), optimiser.defaults["clip"])
        if not math.isfinite(float(norm)):
            message = f"gradient norm {float(norm)}"
            raise NonFinite(message)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        optimiser.zero_grad()  # now, not before the next step: its activations need the memory


def _optimiser(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    settings = training.optimiser
    model.zero_grad()  # a session that was rolled back may have left some
    made = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    made.defaults["clip"] = settings.clip
    return made


def _rate(training: Training, step: int, total: int) -> float:
    """Give the learning rate of a step: a linear rise over the first share of the session, then
    level.
    """
    settings = training.optimiser
    rise = settings.ramp * total
    return settings.learning_rate * min(1.0, (step + 1) / rise if rise else 1.0)
