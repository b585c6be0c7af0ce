"""Steps of sessions: launched one by one, or recorded once and replayed; here on the twin that a
CPU has.
"""

from __future__ import annotations

import gc
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sessions import (
    BATCH,
    CASES,
    COUNT,
    LARGE,
    RESIDENT,
    SHAPE,
    VISITOR,
    Operations,
    alone,
    know,
    make_job,
    outcome,
)
from tapes import Tape, Tapes
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.functional import cross_entropy

from fedskd_sim.errors import LibraryMissing
from fedskd_sim.learning.data import Samples, as_input, augment, batches
from fedskd_sim.learning.networks.models import ImageShape, build
from fedskd_sim.learning.sessions.graphs import CudaGraphs
from fedskd_sim.learning.sessions.recorded import Recordings, compiler
from fedskd_sim.learning.sessions.session import (
    Launched,
    NonFinite,
    RunningSums,
    SessionModels,
    TrainingJob,
    train,
)
from fedskd_sim.learning.sessions.steps import (
    AddedLoss,
    Exchange,
    Moment,
    Output,
    Teaching,
    TrainingStep,
)
from fedskd_sim.learning.task import ONE_LABEL
from fedskd_sim.learning.weights import export
from fedskd_sim.messages import digest
from fedskd_sim.scenario import Architecture, Training
from fedskd_sim.scenario.training import Optimiser

COMPILES = pytest.mark.skipif(
    not hasattr(torch.compiler, "set_stance"), reason="compiled networks need PyTorch 2.6"
)


def read_each_step(
    models: SessionModels, job: TrainingJob, teaching: Teaching | None
) -> RunningSums:
    """Train as a loop would that looks at every number when it is there."""
    torch.manual_seed(job.seed)
    draw, sums, settings = torch.Generator().manual_seed(job.seed), RunningSums(), job.training
    optimisers = {
        role: torch.optim.AdamW(
            model.parameters(), settings.optimiser.learning_rate, weight_decay=0.01
        )
        for role, model in models.learners.items()
    }
    total = 18
    while sums.steps < total:
        for batch in batches(job.samples, BATCH, draw):
            roles = models.at(sums.steps)
            images = augment(batch.images, draw)
            outputs = {}
            for role, trains in roles.items():
                with torch.set_grad_enabled(trains):
                    outputs[role] = Output(*models.by_role[role].train(trains)(images), ONE_LABEL)
            moment = Moment(sums.steps, total, roles)
            step = TrainingStep(Samples(images, batch.labels), outputs, moment)
            losses = {
                role: cross_entropy(outputs[role].logits, batch.labels, job.class_weights)
                for role, trains in roles.items()
                if trains
            }
            added = teaching(step) if teaching else AddedLoss(None, {})
            loss = torch.stack([*losses.values()]).sum()
            loss = loss if added.total is None else loss + added.total
            for name, value in added.parts.items():
                sums.add(name, float(value), 1)
            for role, value in losses.items():
                sums.add(f"{step.prefix(role)}loss", float(value.detach()), len(batch.labels))
            if not math.isfinite(whole := float(loss.detach())):
                raise NonFinite(f"loss {whole} in step {sums.steps + 1}")
            loss.backward()
            rise = settings.optimiser.ramp * total
            for role in losses:
                norm = nn.utils.clip_grad_norm_(
                    models.by_role[role].parameters(), settings.optimiser.clip
                )
                if not math.isfinite(float(norm)):
                    raise NonFinite(f"gradient norm {float(norm)}")
                rate = settings.optimiser.learning_rate * min(1.0, (sums.steps + 1) / rise)
                optimisers[role].param_groups[0]["lr"] = rate
                optimisers[role].step()
                optimisers[role].zero_grad()
            sums.samples += len(batch.labels) * len(losses)
            asked = isinstance(teaching, Exchange)  # the visitor as it arrived
            sums.forwards += len(batch.labels) * (len(roles) - len(losses) + asked)
            sums.steps += 1
    return sums


@pytest.mark.parametrize("case", ["alone", "mutual training", "traveller first"])
def test_what_is_read_at_the_end_is_what_reading_each_step_gives(case: str) -> None:
    """Weights and sums are those of a loop that reads every loss when it is there, bit for bit."""
    found = []
    for way in (read_each_step, train):
        models, teaching = CASES[case](1)
        count = len(models.learners) if models.every else 1
        found.append(outcome(models, way(models, make_job(models=count), teaching)))
    assert found[0] == found[1]


@pytest.mark.parametrize("rate", [1e20, 1e37])
def test_the_first_step_that_is_not_finite_is_named_as_before(rate: float) -> None:
    """The words are those of a loop that stops there, whichever number it was."""
    words = []
    for way in (read_each_step, train):
        models, _ = alone(1)
        job = make_job(optimiser=Optimiser(learning_rate=rate, clip=1e30))
        with pytest.raises(NonFinite) as caught:
            way(models, job, None)
        words.append(str(caught.value))
    assert words[0] == words[1]


@pytest.mark.parametrize("case", CASES)
def test_recorded_steps_are_launched_ones_bit_for_bit(case: str) -> None:
    """Two sessions in a row on the same memory, with ragged batches and a rising factor, give the
    bytes of sessions launched on networks of their own; and nearly those of a CPU's optimiser.
    """
    recordings = Recordings(Tapes(), LARGE)
    for seed in (1, 7):
        job = make_job(seed, models=len(CASES[case](seed)[0].learners))
        results = []
        for begin in (partial(Launched, on_device=True), recordings.begin):
            models, teaching = CASES[case](seed)
            know(models, recordings)
            results.append(outcome(models, train(models, job, teaching, begin)))
        assert results[0] == results[1]
        models, teaching = CASES[case](seed)
        sums = train(models, job, teaching)
        assert sums.measures.keys() == results[0][1].keys()
        for name, measure in sums.measures.items():
            assert measure.mean == pytest.approx(results[0][1][name].mean, rel=1e-3, abs=1e-4), name


RUN = """
name: x
data: {name: synthetic-skin, samples: 60, image_size: 16}
training: {batch_size: 4, epochs: 2, warmup_epochs: 1}
algorithm: {name: fedskd, preset: traveller-first, rounds: 2}
prediction: {model: averaged, ensemble: true}
hospitals:
  - {name: a, architecture: {name: cnn-plain, options: {width: 8}}}
  - {name: b, architecture: {name: vit-tiny, options: {width: 16, depth: 2}}}
"""


def test_a_whole_run_of_recorded_steps_is_one_of_launched_steps(
    scenario_file: Callable, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All records and weights are equal byte for byte; a pair is recorded in each role once."""
    tapes, found = list[Tapes](), []

    def of(*_: object) -> Recordings:
        tapes.append(Counted())
        return Recordings(tapes[-1], LARGE)

    path = scenario_file(RUN)
    for name, way in (
        ("of", of),
        ("begin", lambda _, *given: Launched(*given, on_device=True)),
    ):
        monkeypatch.setattr(Recordings, name, way)
        where = run(path)
        kept = [*(where / "records").iterdir(), *(where / "weights").iterdir()]
        found.append({file.name: file.read_bytes() for file in sorted(kept)})
    assert found[0] == found[1]
    assert [one.recorded for one in tapes[:2]] == [3, 3]


class Counted(Tapes):
    """Counts what is recorded."""

    recorded = 0

    def record(self, act: Callable[[], Any]) -> Callable[[], Any]:
        """Count and record."""
        self.recorded += 1
        return super().record(act)


class Watching(Tapes):
    """Runs work again each time, and knows which memory of others it reads."""

    def __init__(self) -> None:
        """Know of none yet."""
        self.read: list[StorageWeakRef] = []

    def record(self, act: Callable[[], Any]) -> Callable[[], Any]:
        """Look at what work reads."""
        with Tape() as tape:
            act()
        self.read += tape.read()
        return act


@pytest.mark.parametrize("case", CASES)
def test_what_recorded_steps_read_lives_as_long_as_they_do(case: str) -> None:
    """A graph knows addresses only: nothing that it reads may be freed while it is kept."""
    on = Watching()
    recordings = Recordings(on, LARGE)
    models, teaching = CASES[case](1)
    know(models, recordings)
    assert not train(models, make_job(), teaching, recordings.begin).remark
    count = len([one for model in models.by_role.values() for one in model.parameters()])
    del models, teaching
    gc.collect()
    assert len(on.read) > count
    assert not [one for one in on.read if one.expired()]
    del recordings
    gc.collect()
    assert [one for one in on.read if one.expired()]


READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "item")
"""Operations whose result, or its size, the host has to know before it goes on."""


@pytest.mark.parametrize("case", CASES)
def test_no_step_waits_for_the_device(case: str) -> None:
    """However many steps a session has, nothing of them is read back before its end."""
    for epochs in (1, 3):
        models, teaching = CASES[case](1)
        job = make_job(epochs=epochs, models=len(models.learners))
        with Operations() as operations:
            train(models, job, teaching, partial(Launched, on_device=True))
        assert operations.seen["stack"] + operations.seen["cat"]
        assert {name: operations.seen[name] for name in READS if operations.seen[name]} == {}
    with Operations() as operations:
        float(torch.ones(3)[torch.tensor([True, False, True])].sum())
    assert operations.seen["_local_scalar_dense"]
    assert operations.seen["nonzero"]


class Broken(Tapes):
    """Cannot record anything."""

    def record(self, act: Callable[[], Any]) -> Callable[[], Any]:
        """Refuse."""
        del act
        raise RuntimeError("operation not permitted when stream is capturing\nand more")


class Hungry(Tapes):
    """Keeps 3 GiB for whatever is recorded, until all of it is given up."""

    def __init__(self) -> None:
        """Keep nothing yet."""
        self.kept = self.count = 0

    def record(self, act: Callable[[], Any]) -> Callable[[], Any]:
        """Keep more."""
        self.kept, self.count = self.kept + (3 << 30), self.count + 1
        return super().record(act)

    def afresh(self) -> Hungry:
        """Keep nothing."""
        self.kept = 0
        return self

    def reserved(self) -> int:
        """Tell."""
        return self.kept


@pytest.mark.parametrize(
    ("recordings", "words"),
    [
        (Recordings(Broken(), LARGE), "RuntimeError: operation not permitted when stream is capt"),
        (Recordings(Hungry(), LARGE), "3072 MiB, more than training.recorded_gib"),
        (Recordings(None, LARGE), ""),
    ],
)
def test_what_cannot_be_recorded_is_launched_and_says_why(
    recordings: Recordings, words: str
) -> None:
    """The session gives what launched steps give, each time, and the reason is one line."""
    for _ in range(2):
        models, _ = alone(1)
        know(models, recordings)
        sums = train(models, make_job(), None, recordings.begin)
        assert words in sums.remark
        assert bool(sums.remark) == bool(words)
        assert "\n" not in sums.remark
        other, _ = alone(1)
        assert outcome(other, train(other, make_job())) == outcome(models, sums)


def test_a_pytorch_that_is_too_old_to_compile_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for compiled networks is told which PyTorch has what they need."""
    monkeypatch.delattr(torch.compiler, "set_stance", raising=False)
    assert compiler(Training()) is None
    with pytest.raises(LibraryMissing, match=r"training\.compile needs PyTorch 2\.6") as caught:
        compiler(Training(compile=True))
    assert caught.value.key == ("training", "compile")


@COMPILES
@pytest.mark.slow
def test_only_steps_that_are_recorded_are_compiled() -> None:
    """Compiled by a backend that computes as written, a session gives the bytes of launched steps;
    nothing was compiled for the ragged batch.
    """
    sizes: list[int] = []

    def backend(graph: torch.fx.GraphModule, examples: list[torch.Tensor]) -> Callable[..., Any]:
        sizes.extend(one.shape[0] for one in examples if one.shape[1:] == (3, 16, 16))
        return graph.forward

    recordings = Recordings(
        Tapes(), LARGE, lambda network: network.compile(backend=backend, dynamic=False)
    )
    models, teaching = CASES["traveller first"](1)
    know(models, recordings)
    job = make_job(epochs=4)
    found = outcome(models, train(models, job, teaching, recordings.begin))
    models, teaching = CASES["traveller first"](1)
    launched = partial(Launched, on_device=True)
    assert found == outcome(models, train(models, job, teaching, launched))
    assert len(sizes) >= 2
    assert {*sizes} == {BATCH}
    few = make_job(epochs=1)  # too few of a kind to be worth it: as written, whatever was before
    results = []
    for begin in (recordings.begin, launched):
        models, teaching = CASES["traveller first"](2)
        know(models, recordings)
        results.append(outcome(models, train(models, few, teaching, begin)))
    assert results[0] == results[1]


def test_what_cannot_be_compiled_is_recorded_and_says_why() -> None:
    """Without a compiler there are recorded steps, and the remark is one line."""

    def broken(_: nn.Module) -> None:
        raise RuntimeError("Failed to find C compiler\nand more")

    recordings = Recordings(Tapes(), LARGE, broken)
    for _ in range(2):
        models, _ = alone(1)
        know(models, recordings)
        sums = train(models, make_job(), None, recordings.begin)
        words = "steps recorded, but not compiled: RuntimeError: Failed to find C compiler"
        assert sums.remark == words
        other, _ = alone(1)
        launched = partial(Launched, on_device=True)
        assert outcome(other, train(other, make_job(), None, launched)) == outcome(models, sums)


def test_teachings_and_networks_that_nobody_knows_are_launched() -> None:
    """Neither a function nor a network of unknown architecture is recorded, and the remark names
    it.
    """
    recordings = Recordings(Tapes(), LARGE)
    models, _ = alone(1)
    assert "unknown network" in train(models, make_job(), None, recordings.begin).remark
    know(models, recordings)
    teaching = lambda step: AddedLoss(step.logits().sum() * 0, {})  # noqa: E731 - what it is about
    assert "cannot be recorded" in train(models, make_job(), teaching, recordings.begin).remark


class OnHost(nn.Module):
    """A network whose forward passes depend on what happens on the host."""

    def __init__(self, draw: Callable[[], float]) -> None:
        """Take what gives a number that Python has."""
        super().__init__()
        self.inner, self.draw = build(RESIDENT, SHAPE, 1), draw

    def forward(self, images: torch.Tensor) -> Any:
        """Scale the images by it."""
        return self.inner(images * self.draw())


class Counting:
    """A number that grows whenever it is asked for."""

    value = 1.0

    def __call__(self) -> float:
        """Grow."""
        self.value += 0.01
        return self.value


class OnCards(Tapes):
    """What is drawn on the host is not drawn on the device."""

    drawn = CudaGraphs.drawn  # type: ignore[assignment]


def settled() -> float:
    """Give the same number each time."""
    return 1.25


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (settled, ""),
        (Counting(), "RuntimeError: replayed, a step gives other bytes than launched"),
        (random.random, "RuntimeError: a step draws random numbers on the host"),
        (
            lambda: float(np.random.rand(1)[0]),  # noqa: NPY002 - others draw so
            "RuntimeError: a step draws random numbers on the host",
        ),
        (lambda: float(torch.rand(1)), "RuntimeError: a step draws random numbers on the host"),
        (np.random.default_rng().random, "RuntimeError: replayed, a step gives other bytes"),
    ],
)
def test_what_happens_on_the_host_is_not_replayed(draw: Callable[[], float], words: str) -> None:
    """A network that a recording would change is launched, each time, and the record says why."""
    recordings = Recordings(OnCards(), LARGE)
    for _ in range(2):
        model = recordings.know(OnHost(draw), RESIDENT)
        sums = train(SessionModels({"own": model}), make_job(), None, recordings.begin)
        assert words in sums.remark
        assert bool(sums.remark) == bool(words)


class Keeping(nn.Module):
    """A network that keeps something outside of its state dict: how often it was called, and what
    it has made for a size of batch.
    """

    def __init__(self, *, counts: bool) -> None:
        """Keep a count, or a tensor."""
        super().__init__()
        self.inner, self.counts, self.calls = build(RESIDENT, SHAPE, 1), counts, 0
        self.made: torch.Tensor | None = None

    def forward(self, images: torch.Tensor) -> Any:
        """Scale the images by it."""
        if self.counts:
            self.calls += 1
            return self.inner(images if self.calls % 10 else images * 2)
        if self.made is None or len(self.made) != len(images):
            self.made = torch.full((len(images), 1, 1, 1), 1.5)
        return self.inner(images * self.made)


@pytest.mark.parametrize("settings", [{}, {"deterministic": False}])
def test_a_network_that_counts_is_launched_however_seldom_it_shows(settings: Any) -> None:
    """What steps change besides the state dict is seen, and not only what comes of it."""
    recordings = Recordings(OnCards(), LARGE)
    model = recordings.know(Keeping(counts=True), RESIDENT)
    job = make_job(**settings)
    remark = train(SessionModels({"own": model}), job, None, recordings.begin).remark
    assert "keeps outside of its state_dict" in remark


class Replacing(nn.Module):
    """A network that puts a tensor in the place of the one that it has read, or only keeps one."""

    def __init__(self, *, reads: bool, buffer: bool) -> None:
        """Have a running mean of the images, as a plain attribute or as a buffer."""
        super().__init__()
        self.inner, self.reads = build(RESIDENT, SHAPE, 1), reads
        mean = torch.zeros(1, 3, 16, 16)
        if buffer:
            self.register_buffer("mean", mean)
        else:
            self.mean = mean

    def forward(self, images: torch.Tensor) -> Any:
        """Take the mean off, where it is read."""
        found = self.inner(images - self.mean if self.reads else images)
        if self.training:
            old = self.mean if self.reads else 0.0
            self.mean = 0.9 * old + 0.1 * images.mean(0, keepdim=True)
        return found


@pytest.mark.parametrize("settings", [{}, {"deterministic": False}])
@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize(("reads", "buffer"), [(True, True), (True, False), (False, False)])
def test_a_network_that_replaces_what_it_reads_is_launched(
    *, reads: bool, buffer: bool, compiles: bool, settings: Any
) -> None:
    """A graph would go on reading the tensor that it knew, and the next state would go nowhere; one
    that nobody reads again does no harm.
    """
    recordings = Recordings(OnCards(), LARGE, (lambda _: None) if compiles else None)
    model = recordings.know(Replacing(reads=reads, buffer=buffer), RESIDENT)
    job = make_job(**settings)
    remark = train(SessionModels({"own": model}), job, None, recordings.begin).remark
    words = "RuntimeError: a step reads what it puts another tensor in the place of"
    if reads:
        assert remark == f"steps launched: {words}"
    else:
        expected = f"steps recorded, but not compiled: {words}" if compiles else ""
        assert remark == expected


def test_a_buffer_that_is_changed_in_place_is_recorded() -> None:
    """As the manual advises: the bytes are those of launched steps."""

    class Changing(Replacing):
        def forward(self, images: torch.Tensor) -> Any:
            found = self.inner(images - self.mean)
            if self.training:
                self.mean.mul_(0.9).add_(images.mean(0, keepdim=True), alpha=0.1)
            return found

    recordings, found = Recordings(OnCards(), LARGE), []
    for begin in (recordings.begin, partial(Launched, on_device=True)):
        models = SessionModels(
            {"own": recordings.know(Changing(reads=True, buffer=True), RESIDENT)}
        )
        sums = train(models, make_job(), None, begin)
        assert sums.remark == ""
        assert models.by_role["own"].mean.abs().sum() > 0
        found.append(outcome(models, sums))
    assert found[0] == found[1]


@pytest.mark.parametrize("compiles", [False, pytest.param(True, marks=COMPILES)])
def test_what_a_network_forgets_is_kept_for_its_graph(*, compiles: bool) -> None:
    """A ragged batch replaces a tensor that a graph goes on reading."""
    on = Watching()
    recordings = Recordings(on, LARGE, (lambda _: None) if compiles else None)
    model = recordings.know(Keeping(counts=False), RESIDENT)
    assert not train(SessionModels({"own": model}), make_job(), None, recordings.begin).remark
    gc.collect()
    assert on.read
    assert not [one for one in on.read if one.expired()]


class Crowded(Tapes):
    """Has no memory while others need it."""

    def __init__(self) -> None:
        """Be crowded."""
        self.crowded = True

    def record(self, act: Callable[[], Any]) -> Callable[[], Any]:
        """Refuse as a card does."""
        if self.crowded:
            raise torch.OutOfMemoryError("CUDA out of memory. Process 7 has 3.1 GiB in use")
        return super().record(act)


def test_a_shortage_that_passes_is_not_for_ever() -> None:
    """A session is launched, with no figure in its remark, and a later one is recorded."""
    on = Crowded()
    recordings, remarks = Recordings(on, LARGE), []
    for crowded in (True, False):
        on.crowded = crowded
        models, _ = alone(1)
        know(models, recordings)
        remarks.append(train(models, make_job(), None, recordings.begin).remark)
    assert remarks == [
        "steps launched: OutOfMemoryError: the card's memory did not suffice",
        "",
    ]


CardError = getattr(torch, "AcceleratorError", RuntimeError)  # older versions of PyTorch


class Refused(Tapes):
    """Cannot record, which PyTorch says by the class of a card's failure."""

    def record(self, act: Callable[[], Any]) -> Callable[[], Any]:
        """Refuse."""
        del act
        raise CardError("CUDA error: operation not permitted when stream is capturing")


def test_what_cannot_be_recorded_does_not_end_a_run_that_compiles() -> None:
    """It is launched, as without compiling; more memory than allowed ends it, for launched steps
    would give other bytes.
    """
    recordings = Recordings(Refused(), LARGE, lambda _: None)
    models, _ = alone(1)
    know(models, recordings)
    remark = train(models, make_job(), None, recordings.begin).remark
    assert remark.startswith(f"steps launched: {CardError.__name__}: CUDA error: operation not")
    recordings = Recordings(Hungry(), LARGE, lambda _: None)
    know(models, recordings)
    with pytest.raises(torch.OutOfMemoryError, match="3072 MiB, more than training"):
        train(models, make_job(), None, recordings.begin)


def test_kernels_that_differ_each_time_are_recorded_where_a_scenario_allows_them() -> None:
    """Without deterministic kernels a recording cannot be held to the bytes of launched steps."""
    recordings = Recordings(OnCards(), LARGE)
    model = recordings.know(OnHost(Counting()), RESIDENT)
    job = make_job(deterministic=False)
    assert not train(SessionModels({"own": model}), job, None, recordings.begin).remark


def test_dropout_draws_anew_in_every_replay() -> None:
    """A session of a network with dropout gives the bytes of launched steps."""
    shape, network = ImageShape(1, 8, 2, "roi"), Architecture(name="roi-mlp")
    draw = torch.Generator().manual_seed(0)
    samples = Samples(torch.randn(COUNT, 8, 8, generator=draw), torch.arange(COUNT) % 2)
    job = TrainingJob(samples, torch.ones(2), Training(batch_size=BATCH), 3 * COUNT, 5)
    recordings, found = Recordings(Tapes(), LARGE), []
    for begin in (partial(Launched, on_device=True), recordings.begin):
        models = SessionModels({"own": recordings.know(build(network, shape, 1), network)})
        sums = train(models, job, None, begin)
        assert sums.remark == ""
        found.append(outcome(models, sums))
    assert found[0] == found[1]
    assert any(isinstance(one, nn.Dropout) for one in models.by_role["own"].modules())


def test_all_pairs_give_way_when_they_keep_too_much() -> None:
    """What is kept stays within the limit; pairs that were given up are recorded anew, and give the
    bytes that they gave.
    """
    on, found = Hungry(), dict[int, set[str]]()
    recordings = Recordings(on, 7 * 2**30)
    kept = [(16, 3, 1), (8, 6, 2), (16, 6, 2), (4, 3, 4), (16, 6, 5), (8, 3, 7), (4, 6, 8)]
    for width, gib, count in kept:
        architecture = Architecture(name="cnn-plain", options={"width": width})
        model = recordings.know(build(architecture, SHAPE, 1), architecture)
        assert not train(SessionModels({"own": model}), make_job(), None, recordings.begin).remark
        assert (on.kept, on.count) == (gib << 30, count)
        found.setdefault(width, set()).add(digest(export(model)))
    assert [len(digests) for digests in found.values()] == [1, 1, 1]


def test_graphs_of_what_was_refused_count_until_all_are_given_up() -> None:
    """They cannot be freed alone: a later pair that finds no room beside them takes their place."""
    on = Hungry()
    recordings = Recordings(on, 4 * 2**30)
    for refused, count in ((True, 1), (False, 3), (True, 3)):  # what was refused stays so
        network = OnHost(Counting()) if refused else build(VISITOR, SHAPE, 1)
        model = recordings.know(network, RESIDENT if refused else VISITOR)
        remark = train(SessionModels({"own": model}), make_job(), None, recordings.begin).remark
        assert ("other bytes" in remark) == refused
        assert (on.kept, on.count) == (3 << 30, count)


def test_a_card_that_fails_while_networks_are_compiled_ends_the_session() -> None:
    """Launched steps would give other bytes than those of the same hospital in another run."""

    def full(_: nn.Module) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    recordings = Recordings(Tapes(), LARGE, full)
    models, _ = alone(1)
    know(models, recordings)
    with pytest.raises(torch.OutOfMemoryError):
        train(models, make_job(), None, recordings.begin)


def test_pixels_on_a_device_are_the_images_of_a_cpu() -> None:
    """A session on pixels that become images batch by batch ends with the same bytes."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (COUNT, 16, 16, 3), generator=draw, dtype=torch.uint8)
    found = []
    for images in (pixels, as_input(pixels)):
        job = make_job()
        job = job._replace(samples=job.samples._replace(images=images))
        models, _ = alone(1)
        found.append(outcome(models, train(models, job)))
    assert found[0] == found[1]


@pytest.mark.slow
def test_the_benchmark_of_a_card_is_skipped_without_one() -> None:
    """Where no device is seen it says so and ends well."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "card"],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "no CUDA device here, nothing measured" in done.stdout
