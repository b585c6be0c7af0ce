"""Optimisers, schedules, losses and the end of sessions that a scenario chooses: each is that of a
plain loop, launched and recorded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from sessions import BATCH, COUNT, RESIDENT, SHAPE, VISITOR, know, make_job, outcome
from tapes import Tapes
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax, one_hot

from fedskd_sim.learning.data import augment, batches
from fedskd_sim.learning.networks.models import build
from fedskd_sim.learning.sessions.recorded import Recordings
from fedskd_sim.learning.sessions.session import (
    Launched,
    NonFinite,
    SessionModels,
    TrainingJob,
    rate_at,
    train,
)
from fedskd_sim.learning.task import OneLabel
from fedskd_sim.learning.weights import export
from fedskd_sim.messages import digest
from fedskd_sim.scenario import Training
from fedskd_sim.scenario.training import Optimiser, RateSchedule

LR, PER_PASS, EPOCHS = 0.02, math.ceil(COUNT / BATCH), 3
TOTAL = EPOCHS * PER_PASS
Make = Callable[[Any], torch.optim.Optimizer]
OPTIMISERS: dict[str, tuple[dict[str, Any], Make]] = {
    "sgd": (
        {"name": "sgd", "weight_decay": 0.01},
        lambda given: torch.optim.SGD(given, LR, momentum=0.9, weight_decay=0.01),
    ),
    "plain sgd": (
        {"name": "sgd", "momentum": 0.0, "weight_decay": 0.0},
        lambda given: torch.optim.SGD(given, LR),
    ),
    "nesterov": (
        {"name": "sgd", "momentum": 0.5, "nesterov": True, "weight_decay": 0.0},
        lambda given: torch.optim.SGD(given, LR, momentum=0.5, nesterov=True),
    ),
    "adam": (
        {"name": "adam", "betas": (0.8, 0.9), "epsilon": 1e-3, "weight_decay": 0.1},
        lambda given: torch.optim.Adam(given, LR, (0.8, 0.9), 1e-3, 0.1),
    ),
    "adamw": (
        {"name": "adamw", "betas": (0.8, 0.9), "weight_decay": 0.1},
        lambda given: torch.optim.AdamW(given, LR, (0.8, 0.9), weight_decay=0.1),
    ),
}
Schedule = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]
SCHEDULES: dict[str, tuple[dict[str, Any], Schedule]] = {
    "cosine": (
        {"name": "cosine", "floor": 0.1},
        lambda one: torch.optim.lr_scheduler.CosineAnnealingLR(one, TOTAL, LR * 0.1),
    ),
    "step": (
        {"name": "step", "milestones": (1 / 3, 2 / 3), "factor": 0.3},
        lambda one: torch.optim.lr_scheduler.MultiStepLR(one, [PER_PASS, 2 * PER_PASS], 0.3),
    ),
}


def smoothed(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The cross-entropy with labels that are smoothed by 0.2, written out."""
    logs, classes = log_softmax(logits, 1), logits.shape[1]
    spread = -(0.2 / classes) * (logs * weights).sum(1)
    own = -0.8 * weights[labels] * logs.gather(1, labels[:, None])[:, 0]
    return (own + spread).sum() / weights[labels].sum()


def focal(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The focal loss with gamma 2, by the probabilities."""
    chances = (logits.softmax(1) * one_hot(labels, logits.shape[1])).sum(1)
    counted = weights[labels] / weights[labels].sum()
    return -(counted * (1 - chances).square() * chances.log()).sum()


LOSSES: dict[str, tuple[dict[str, float], Callable[..., torch.Tensor]]] = {
    "smoothing": ({"label_smoothing": 0.2}, smoothed),
    "focal": ({"focal": 2.0}, focal),
}


def loop(job: TrainingJob, model: nn.Module, make: Make, **options: Any) -> nn.Module:
    """Train as a few lines of PyTorch do."""
    loss_of = options.get("loss", cross_entropy)
    schedule, gathers = options.get("schedule"), options.get("gathers", 1)
    torch.manual_seed(job.seed)
    draw = torch.Generator().manual_seed(job.seed)
    optimiser, step = make(model.parameters()), 0
    rates = schedule(optimiser) if schedule else None
    for _ in range(EPOCHS):
        for batch in batches(job.samples, BATCH, draw):
            group = min(gathers, TOTAL - step // gathers * gathers)
            logits, _ = model.train()(augment(batch.images, draw))
            (loss_of(logits, batch.labels, job.class_weights) / group).backward()
            step += 1
            if step % gathers == 0 or step == TOTAL:
                nn.utils.clip_grad_norm_(model.parameters(), 2.0)
                optimiser.step()
                optimiser.zero_grad()
            if rates:
                rates.step()
    return model


def job_of(optimiser: dict[str, Any], **training: Any) -> TrainingJob:
    settings = Optimiser(learning_rate=LR, ramp=0.0, **optimiser)
    job = make_job(epochs=EPOCHS, optimiser=settings, **training)
    return job._replace(task=OneLabel(job.training))


def same(one: nn.Module, other: nn.Module) -> None:
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("which", OPTIMISERS)
def test_an_optimiser_is_that_of_a_plain_loop(which: str) -> None:
    """Weights after a session are those of PyTorch's own optimiser with these options."""
    options, make = OPTIMISERS[which]
    job, model = job_of(options), build(VISITOR, SHAPE, 1)
    wanted = loop(job, deepcopy(model), make)
    train(SessionModels({"own": model}), job)
    same(model, wanted)


@pytest.mark.parametrize("which", SCHEDULES)
def test_a_schedule_over_a_session_is_pytorchs(which: str) -> None:
    """Weights are those of a loop with PyTorch's scheduler."""
    options, schedule = SCHEDULES[which]
    job = job_of({"name": "sgd", "weight_decay": 0.0, "schedule": RateSchedule(**options)})
    model = build(VISITOR, SHAPE, 1)
    plain: Make = lambda given: torch.optim.SGD(given, LR, momentum=0.9)  # noqa: E731
    wanted = loop(job, deepcopy(model), plain, schedule=schedule)
    train(SessionModels({"own": model}), job)
    same(model, wanted)


@pytest.mark.parametrize("which", LOSSES)
def test_a_loss_is_that_of_its_formula(which: str) -> None:
    """Smoothed labels and the focal loss, with weights of classes, are their formulas."""
    options, formula = LOSSES[which]
    job, model = job_of({}, **options), build(VISITOR, SHAPE, 1)
    adamw: Make = lambda given: torch.optim.AdamW(given, LR, weight_decay=0.01)  # noqa: E731
    wanted = loop(job, deepcopy(model), adamw, loss=formula)
    train(SessionModels({"own": model}), job)
    same(model, wanted)


@pytest.mark.parametrize("gathers", [2, 4])
def test_gathered_gradients_are_their_mean(gathers: int) -> None:
    """So many mini-batches are one step of their mean gradient, the last of a session what is
    left.
    """
    job, model = job_of({"name": "sgd"}, accumulate=gathers), build(VISITOR, SHAPE, 1)
    wanted = loop(job, deepcopy(model), OPTIMISERS["sgd"][1], gathers=gathers)
    train(SessionModels({"own": model}), job)
    same(model, wanted)


def test_each_model_gathers_its_own_steps() -> None:
    """A resident that trains in every second step is changed after so many of its own."""
    models = SessionModels(dict.fromkeys(("visitor", "resident"), nn.Linear(1, 1)), 2, teaches=True)
    told = [models.moment(number, 7, 2) for number in range(7)]
    assert [one.changed for one in told] == [
        [], ["visitor"], [], ["visitor", "resident"], [], ["visitor", "resident"], ["visitor"],
    ]  # fmt: skip
    assert told[5].gathered == {"visitor": 2, "resident": 1}
    assert told[6].gathered == {"visitor": 1}


def test_a_schedule_over_a_run_goes_on_from_session_to_session() -> None:
    """The rates of sessions one after another are those of one long session; a repeated one has
    its own again.
    """
    settings = Optimiser(learning_rate=LR, ramp=0.0, schedule=RateSchedule(name="cosine"))
    whole = [rate_at(Training(optimiser=settings), step, 12, (0.0, 0.0)) for step in range(12)]
    over = settings.model_copy(update={"schedule": RateSchedule(name="cosine", over="run")})
    parts = [
        rate_at(Training(optimiser=over), step, 4, (part / 3, (part + 1) / 3))
        for part in range(3)
        for step in range(4)
    ]
    assert parts == pytest.approx(whole)


@pytest.mark.parametrize("which", [*OPTIMISERS, "cosine over a run"])
def test_recorded_steps_are_launched_ones_with_every_optimiser(which: str) -> None:
    """Weights and what sessions saw are the same bytes, in a second session too, which begins with
    an optimiser that remembers nothing.
    """
    schedule = RateSchedule(name="cosine", over="run")
    options = OPTIMISERS[which][0] if which in OPTIMISERS else {"schedule": schedule}
    job, found = job_of(options, patience=9), []
    job = job._replace(during=(0.25, 0.5), validation=job.samples)
    recordings = Recordings(Tapes(), math.inf)
    for begin in (recordings.begin, partial(Launched, on_device=True)):
        for seed in (1, 2):
            models = SessionModels({"own": build(VISITOR, SHAPE, seed)})
            know(models, recordings)
            sums = train(models, job, begin=begin)
            assert sums.remark == ""
            found.append(outcome(models, sums))
    assert found[:2] == found[2:]


def test_gathered_steps_are_launched_and_say_so() -> None:
    """The remark names why."""
    models, recordings = SessionModels({"own": build(VISITOR, SHAPE, 1)}), Recordings(Tapes(), 1e12)
    know(models, recordings)
    sums = train(models, job_of({}, accumulate=2), begin=recordings.begin)
    assert sums.remark == "steps launched: gradients are gathered over several"


def test_a_session_ends_when_nobody_gets_better() -> None:
    """With labels of validation data that training makes worse the session ends after its patience,
    and every model is what it was after its best pass.
    """
    job = job_of({}, patience=1)._replace(budget=2 * 8 * COUNT)
    odd = job.samples._replace(labels=(job.samples.labels + 1) % 3)
    models = {"visitor": build(VISITOR, SHAPE, 1), "resident": build(RESIDENT, SHAPE, 2)}
    whole = deepcopy(models)
    sums = train(SessionModels(models), job._replace(validation=odd))
    passes, best = (int(sums.measures[name].mean) for name in ("passes", "best_pass"))
    assert sums.early
    assert sums.remark == f"ended early, after {passes} passes"
    assert passes < 8
    assert best <= int(sums.measures["resident_best_pass"].mean) or best < passes
    assert sums.samples == 2 * passes * COUNT
    latest = max(best, int(sums.measures["resident_best_pass"].mean))
    assert passes == latest + 1
    # constant rates without a rise: a shorter session is the beginning of a longer one
    again = train(SessionModels(whole), job._replace(budget=2 * best * COUNT))
    assert not again.early
    assert digest(export(whole["visitor"])) == digest(export(models["visitor"]))


def test_a_loss_that_is_not_finite_still_undoes_a_session_that_may_end_early() -> None:
    """The error is that of the steps."""
    job = job_of({}, patience=1)
    job = job._replace(validation=job.samples)
    images = job.samples.images.clone()
    images[3] = math.nan
    with pytest.raises(NonFinite, match="loss nan"):
        train(
            SessionModels({"own": build(VISITOR, SHAPE, 1)}),
            job._replace(samples=job.samples._replace(images=images)),
        )
