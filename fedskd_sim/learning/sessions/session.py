"""The inner loop: models train on one hospital's data, step by step, on identical batches.

A session spends a budget of sample-gradients: a step costs the samples of its batch once for every
model that trains in it. What the steps saw is read from the device once, at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import unwrap
from itertools import cycle
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from fedskd_sim.learning.data import Samples, augment, batches
from fedskd_sim.learning.networks.trainable import groups_of
from fedskd_sim.learning.sessions.steps import (
    Asking,
    Loss,
    Moment,
    Seen,
    Setting,
    Teaching,
    name_of,
    take,
)
from fedskd_sim.learning.sessions.watched import Watched
from fedskd_sim.learning.task import ONE_LABEL, PredictionTask
from fedskd_sim.records import Measure
from fedskd_sim.scenario import Training
from fedskd_sim.scenario.training import Optimiser

ROUNDING = 1e-6
"""Sample-gradients by which a budget may fall short and still pay for a step: one that is a product
of fractions comes out a little less than the whole number it stands for."""


RunShare = tuple[float, float]
"""The shares of a run that are done before and after a session."""


class AdamW(torch.optim.AdamW):
    """PyTorch's AdamW without its compiler: the methods that a session calls are wrapped in others
    that import it, over a second and 100 MB for every process, to say what it must leave alone.
    """

    add_param_group = unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = unwrap(torch.optim.AdamW.zero_grad)
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))


class Adam(torch.optim.Adam):
    """PyTorch's Adam, likewise."""

    add_param_group = unwrap(torch.optim.Adam.add_param_group)
    zero_grad = unwrap(torch.optim.Adam.zero_grad)
    step = torch.no_grad()(unwrap(torch.optim.Adam.step))


class SGD(torch.optim.SGD):
    """PyTorch's SGD, likewise."""

    add_param_group = unwrap(torch.optim.SGD.add_param_group)
    zero_grad = unwrap(torch.optim.SGD.zero_grad)
    step = torch.no_grad()(unwrap(torch.optim.SGD.step))


def make_optimiser(
    model: nn.Module, training: Training, *, on_device: bool
) -> torch.optim.Optimizer:
    """Make the optimiser of a session; ``on_device``: in one kernel, its learning rate a tensor, so
    that its steps can be recorded.
    """
    settings = training.optimiser
    model.zero_grad()  # a session that was rolled back may have left some
    where = next(model.parameters()).device
    made = _make(settings, groups_of(model, settings.learning_rate), where, fused=on_device)
    made.defaults["clip"] = settings.clip
    if on_device:  # not before: a tensor would be read back, to see whether it is positive
        for group in made.param_groups:
            group["lr"] = torch.tensor(settings.learning_rate, device=where)
    return made


def _make(
    settings: Optimiser, groups: list[dict[str, Any]], where: torch.device, *, fused: bool
) -> torch.optim.Optimizer:
    own: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    own["fused"] = True if fused else None
    if settings.name == "sgd":
        return SGD(groups, **own, momentum=settings.momentum, nesterov=settings.nesterov)
    own |= {"betas": settings.betas, "eps": settings.epsilon}
    own["capturable"] = fused and where.type == "cuda"
    return AdamW(groups, **own) if settings.name == "adamw" else Adam(groups, **own)


def set_rate(
    optimiser: torch.optim.Optimizer, training: Training, moment: Moment, during: RunShare
) -> None:
    """Set the learning rate of a step: `rate_at` times the factor of each group."""
    rate = rate_at(training, moment.number, moment.total, during)
    for group in optimiser.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate * group["factor"])
        else:
            group["lr"] = rate * group["factor"]


def rate_at(training: Training, number: int, total: int, during: RunShare) -> float:
    """Return the learning rate of a session's step: a linear rise over the first share of the
    session, times what the schedule says.

    >>> from fedskd_sim.scenario.training import Optimiser, RateSchedule
    >>> cosine = RateSchedule(name="cosine", over="run")
    >>> training = Training(optimiser=Optimiser(learning_rate=0.1, ramp=0.0, schedule=cosine))
    >>> rate_at(training, 0, 10, (0.5, 0.75))
    0.05

    Args:
        training: the settings.
        number: the step, counted from 0.
        total: the steps of the session.
        during: the shares of the run that are done before and after the session.

    """
    settings = training.optimiser
    rise, done = settings.ramp * total, number / total
    if settings.schedule.over == "run":
        begin, end = during
        done = begin + (end - begin) * done
    rate = settings.learning_rate * min(1.0, (number + 1) / rise if rise else 1.0)
    return rate * settings.schedule.at(done)


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
    loss: Loss | None = None
    """A loss of the user's own."""
    task: PredictionTask = ONE_LABEL
    """What models are asked."""
    during: RunShare = (0.0, 0.0)
    """The shares of the run that are done before and after it."""
    validation: Samples | None = None
    """On what it is seen whether the session is to end early; None: it is not."""


class SessionModels(NamedTuple):
    """The models of a session, by role."""

    by_role: Mapping[str, nn.Module]
    """Models by role, such as ``visitor`` and ``resident``. The first one is the visitor, or the
    model that trains alone. Records have its measures without a prefix, and those of any other
    with its role in front, as ``resident_loss``."""
    every: int = 1
    """All but the first train in every n-th step; 0: never."""
    teaches: bool = False
    """They are also asked in the steps in which they do not train."""

    @property
    def main(self) -> str:
        """The role of the first model."""
        return next(iter(self.by_role))

    def at(self, step: int) -> dict[str, bool]:
        """Return the roles that take part in a step (counted from 0), each with whether it
        trains.
        """
        trains = self.every > 0 and (step + 1) % self.every == 0
        return {
            name: name == self.main or trains
            for name in self.by_role
            if name == self.main or trains or self.teaches
        }

    def moment(self, number: int, total: int, accumulate: int = 1) -> Moment:
        """Return step ``number`` of ``total``, of a session in which ``accumulate`` mini-batches
        make one step of the optimiser.
        """
        roles = self.at(number)
        if accumulate == 1:
            return Moment(number, total, roles)
        gathered = {
            name: _gathered(number, total, 1 if name == self.main else self.every, accumulate)
            for name, trains in roles.items()
            if trains
        }
        return Moment(number, total, roles, gathered=gathered)

    @property
    def learners(self) -> dict[str, nn.Module]:
        """The models that train in some step, by role."""
        return {
            name: model for name, model in self.by_role.items() if name == self.main or self.every
        }


def _gathered(number: int, total: int, every: int, accumulate: int) -> int:
    """Return how many mini-batches are in the gradient with which a model that trains in every n-th
    step is changed after a step; 0: it is not changed yet.
    """
    had, last = (number + 1) // every, total // every
    found = (had - 1) % accumulate + 1
    return found if found == accumulate or had == last else 0


@dataclass
class RunningSums:
    """What a session has seen, as sums that add up; ``samples`` are sample-gradients,
    ``forwards`` passes of teachers, a frozen past among them, ``remark`` says how its steps were
    taken if not as usual.
    """

    samples: int = 0
    forwards: int = 0
    steps: int = 0
    measures: dict[str, Measure] = field(default_factory=dict)
    remark: str = ""
    early: bool = False
    """It ended before its budget was spent."""

    @property
    def measured(self) -> dict[str, Measure]:
        """All measures, the passes of teachers among them if there were any."""
        work = {"forwards": Measure(float(self.forwards), 1.0)} if self.forwards else {}
        return {**self.measures, **work}

    def count(self, samples: int, roles: Mapping[str, bool], asked: int) -> None:
        """Count a step on so many samples, in which frozen models are asked, too."""
        trained = sum(roles.values())
        self.samples += samples * trained
        self.forwards += samples * (len(roles) - trained + asked)
        self.steps += 1

    def add(self, name: str, value: float, weight: float) -> None:
        """Add ``value`` per unit of ``weight`` to a measurement."""
        self.measures[name] = self.measures.get(name, Measure(0.0, 0.0)).plus(
            Measure(value * weight, weight)
        )


class Steps(Protocol):
    """How the steps of one session are taken."""

    remark: str

    def take(self, batch: Samples, moment: Moment) -> Seen:
        """Take a step; nothing is read back to the host."""

    def show(self) -> None:
        """Copy what has been learned so far to the models that were given."""

    def leave(self) -> None:
        """Leave what was learned in the models that were given."""


class Launched:
    """Steps whose operations are launched one by one, on the given models themselves."""

    def __init__(
        self,
        models: SessionModels,
        job: TrainingJob,
        teaching: Teaching | None,
        remark: str = "",
        *,
        on_device: bool | None = None,
    ) -> None:
        """Make the optimisers anew, of the kind that ``on_device`` says; None: as the device has
        them.
        """
        self.remark, self._training, self._during = remark, job.training, job.during
        if on_device is None:
            on_device = job.class_weights.device.type != "cpu"
        optimisers = {
            name: make_optimiser(model, job.training, on_device=on_device)
            for name, model in models.learners.items()
        }
        known = models.by_role, optimisers, job.class_weights, job.training
        self._setting = Setting(*known, teaching, job.loss, job.task)

    def take(self, batch: Samples, moment: Moment) -> Seen:
        """Take a step at once."""
        for optimiser in self._setting.optimisers.values():
            set_rate(optimiser, self._training, moment, self._during)
        return take(self._setting, batch, moment)

    def show(self) -> None:
        """Do nothing: it is there already."""

    leave = show


Begin = Callable[[SessionModels, TrainingJob, Teaching | None], Steps]


def train(
    models: SessionModels,
    job: TrainingJob,
    teaching: Teaching | None = None,
    begin: Begin = Launched,
) -> RunningSums:
    """Train one model, or a visitor beside a resident, until the next step would overdraw the
    budget.

    Args:
        models: the models.
        job: data, settings, budget and seed; the same seed gives the same batches and
            augmentations.
        teaching: what is added to the cross-entropies; None is plain training.
        begin: says how steps are taken.

    Raises:
        NonFinite: a loss, a gradient or a weight; the models are then of no use.

    """
    total = count_steps(models, job)
    steps = begin(models, job, teaching)
    torch.manual_seed(job.seed)
    draw = torch.Generator().manual_seed(job.seed)
    sums, seen = RunningSums(remark=steps.remark), list[tuple[Seen, int]]()
    asked = teaching.asked if isinstance(teaching, Asking) else 0
    watched = _watched(models, job) if job.training.patience else None
    for batch in _endless(job, draw, total):
        images = augment(batch.images, draw) if job.training.augment else batch.images
        moment = models.moment(sums.steps, total, job.training.accumulate)
        seen.append((steps.take(Samples(images, batch.labels), moment), len(batch.labels)))
        sums.count(len(batch.labels), moment.roles, asked)
        if watched and _ends(watched, steps, sums, total):
            break
    steps.leave()
    with _named(job.loss):
        _read(seen, models.learners.values(), sums)
    if watched:
        _settle(watched, sums)
    return sums


def _watched(models: SessionModels, job: TrainingJob) -> Watched | None:
    """Watch a session that may end early, if there is something to measure on."""
    if job.validation is None or not len(job.validation.labels):
        return None
    sizes = job.training.batch_sizes(len(job.samples.labels))
    steps = len(sizes[: job.training.batches])
    return Watched(models.learners, job.validation, job.task, job.training.patience or 0, steps)


def _ends(watched: Watched, steps: Steps, sums: RunningSums, total: int) -> bool:
    """Measure who trains where a pass is over, and return whether the session ends early."""
    if watched.measures_after(sums.steps, total):
        steps.show()
        sums.early = watched.ends() and sums.steps < total
    return sums.early


def _settle(watched: Watched, sums: RunningSums) -> None:
    """Make the models what they were after their best passes, and add what is recorded of it."""
    told = (sums.remark, watched.settle(early=sums.early))
    sums.remark = "; ".join(part for part in told if part)
    sums.measures |= watched.measures()


@contextmanager
def _named(loss: Loss | None) -> Iterator[None]:
    """Name a loss of the user's own where something is not finite with it."""
    try:
        yield
    except NonFinite as error:
        if loss is None:
            raise
        message = f"{error}, with the loss {name_of(loss)}"
        raise NonFinite(message) from error


def count_steps(models: SessionModels, job: TrainingJob) -> int:
    """Count the steps of a session."""
    return steps_within(job.budget, job.training.batch_sizes(len(job.samples.labels)), models)


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


def _read(
    seen: Sequence[tuple[Seen, int]], learners: Iterable[nn.Module], sums: RunningSums
) -> None:
    """Read what all steps saw, with their samples, and add it up; raises NonFinite for the first
    that was not finite.
    """
    sound = torch.stack(
        [part.isfinite().all() for model in learners for part in model.parameters()]
    )
    rows = [one.values for one, _ in seen]
    values = iter(torch.cat([*rows, sound.all().reshape(1).to(torch.float32)]).tolist())
    for number, (one, samples) in enumerate(seen, 1):
        for name in one.parts:
            sums.add(name, next(values), 1)
        for name in one.trained:
            sums.add(f"{name}loss", next(values), samples)
        _check(next(values), f"loss %s in step {number}")
        for _ in range(one.changed):
            _check(next(values), "gradient norm %s")
    if not next(values):
        message = "a weight is not finite after the last step"
        raise NonFinite(message)


def _check(value: float, words: str) -> None:
    if not math.isfinite(value):
        raise NonFinite(words % value)
