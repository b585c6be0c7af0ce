"""Private steps: what one patient can change, whatever the network and the losses."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

import pytest
import torch
from sessions import BATCH, COUNT, RESIDENT, SHAPE, make_exchange, make_job
from torch import Tensor, nn
from torch.nn.functional import normalize

from fedskd_sim.errors import InvalidValue
from fedskd_sim.learning.data import Samples
from fedskd_sim.learning.distillation.distill import SimilarityLoss
from fedskd_sim.learning.networks.contract import draw_samples
from fedskd_sim.learning.networks.models import REGISTRY, ImageShape, build, kind_of, minimum_input
from fedskd_sim.learning.networks.trainable import restrict
from fedskd_sim.learning.sessions import private
from fedskd_sim.learning.sessions.private import (
    Draws,
    Guard,
    Units,
    clipped_sum,
    each_gradient,
    refuse_batch_statistics,
    refuse_mixing,
    session_key,
)
from fedskd_sim.learning.sessions.session import SessionModels
from fedskd_sim.learning.sessions.steps import Exchange, Moment, Setting, Taps, take
from fedskd_sim.learning.weights import export
from fedskd_sim.messages import digest
from fedskd_sim.privacy.accountant import Rule
from fedskd_sim.scenario import Architecture, Similarity, Training

PLAIN = Architecture(name="cnn-plain", options={"width": 4})
ALONE = Moment(0, 1, {"own": True})
SMALL = [
    name
    for name in REGISTRY
    if name == "vit-tiny"
    or (name.startswith(("cnn-", "roi-", "tab-", "vol-")) and "r3d" not in name)
]
MANY = 1e9
"""A clip that clips nothing."""


def guard(units: int = COUNT, rate: float = 0.5, noise: float = 0.0, clip: float = 1.0) -> Guard:
    rule = Rule(units, rate, noise, 1e-3)
    return Guard(Units(torch.arange(units), units), rule, clip, b"k" * 32)


def run_all(models: SessionModels, job: Any, teaching: Any, how: Guard) -> tuple[Any, int]:
    """Train as many steps as the job pays for; gives also the queries."""
    planned = private.count_steps(models, job, how.rule)
    return private.train(models, job, teaching, how, planned), planned.queries


def still(network: nn.Module) -> nn.Module:
    """Switch off what draws, which a loop would draw otherwise."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


def asked(network: nn.Module, samples: Samples, teaching: Any = None, **more: Any) -> Any:
    job = make_job(**more)
    job = job._replace(samples=samples, class_weights=torch.ones(3))
    return private._Sample({"own": network}, "own", ALONE, job, teaching)


@pytest.mark.parametrize("name", SMALL)
def test_the_gradient_of_each_patient_is_that_of_a_loop(name: str) -> None:
    """On every small network that is shipped, to 1e-5 of its largest entry."""
    torch.manual_seed(1)
    chosen = Architecture(name=name)
    kind = kind_of(name)
    size = {"roi": 12, "table": 6}.get(kind) or max(16, minimum_input(chosen) or 0)
    shape = ImageShape(1 if kind == "volume" else 3, size, 3, kind)
    images = torch.cat([draw_samples(shape), -0.5 * draw_samples(shape)])[:3]
    samples = Samples(images, torch.tensor([0, 2, 1]))
    one = asked(still(build(chosen, shape, 1)), samples)
    each = each_gradient(one, one.weights, samples)
    for place in range(3):
        one.zero_grad()
        one(samples.images[place], samples.labels[place]).backward()
        for key, parameter in one.named_parameters():
            expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            scale = expected.abs().max().clamp_min(1e-3)
            assert (each[key][place] - expected).abs().max() <= 1e-5 * scale, key


def test_without_clipping_a_step_is_the_ordinary_one() -> None:
    """Pixel and region level, predictions and the own past included: a visitor's gradient is that
    of the mean, where every patient is drawn, nothing is clipped and nothing is noised.
    """
    visitor, resident = build(PLAIN, SHAPE, 1), build(RESIDENT, SHAPE, 2)
    similarity = SimilarityLoss.of(Similarity(batch=0), (3, 3))
    teaching = Exchange(similarity, 0.3, 0.5, deepcopy(visitor).eval(), similarity, 0.2)
    with torch.no_grad():  # else the past agrees, and says nothing
        for one in visitor.parameters():
            one.add_(0.01 * torch.randn(one.shape, generator=torch.Generator().manual_seed(3)))
    job = make_job()._replace(class_weights=torch.ones(3))
    moment = Moment(7, 10, {"visitor": True, "resident": False})
    models = {"visitor": visitor, "resident": resident}
    sample = private._Sample(models, "visitor", moment, job, teaching)
    found = clipped_sum(sample, job.samples, torch.arange(COUNT), MANY)

    class Seen(torch.optim.SGD):
        def step(self) -> None:  # type: ignore[override]
            for name, one in visitor.named_parameters():
                taken[name] = one.grad.clone()

    taken: dict[str, Tensor] = {}
    seen = Seen(visitor.parameters(), lr=0.1)
    seen.defaults["clip"] = MANY
    known = models, {"visitor": seen}, job.class_weights, job.training
    take(Setting(*known, teaching, None, job.task), job.samples, moment)
    for name, value in taken.items():
        assert torch.allclose(found[f"model.{name}"] / COUNT, value, rtol=1e-3, atol=1e-6), name


def total(found: dict[str, Tensor]) -> Tensor:
    return torch.cat([one.flatten() for one in found.values()])


def test_one_patient_changes_the_sum_by_the_clip_at_most() -> None:
    """Added or taken away, with all of its images at once, however large they are."""
    network = build(PLAIN, SHAPE, 1)
    images, clip = make_job().samples.images.clone(), 0.5
    images[4:9] *= 1000
    samples = Samples(images, make_job().samples.labels)
    owners = torch.arange(COUNT)
    owners[4:9] = 4  # one patient with five images
    with_it = clipped_sum(asked(network, samples), samples, owners, clip)
    rest = torch.cat([torch.arange(4), torch.arange(9, COUNT)])
    without = Samples(images[rest], samples.labels[rest])
    left = clipped_sum(asked(network, without), without, owners[rest], clip)
    assert 0.99 * clip <= (total(with_it) - total(left)).norm() <= clip * (1 + 1e-4)
    alone = clipped_sum(asked(network, samples), samples, torch.arange(COUNT), clip)
    assert (total(alone) - total(left)).norm() > 1.5 * clip  # five units would have added more


def test_the_batch_level_would_break_the_bound() -> None:
    """Where patients are compared with each other one patient moves the clipped shares of the
    others: by more than twice the clip, which is all that clipping claims. So the level is refused.
    """
    many, clip = 16, 1.0
    shape = ImageShape(1, 20, 2, "roi")
    visitor = build(Architecture(name="roi-mlp", options={"width": 32}), shape, 1).eval()
    resident = build(Architecture(name="roi-gcn"), shape, 2).eval()
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(many + 1, 20, 20, generator=draw)
    images = (images + images.mT) / 2

    def shares(batch: Tensor) -> Tensor:
        mine, theirs = visitor(batch)[1].deep.flatten(1), resident(batch)[1].deep.flatten(1)
        own, other = (normalize(one) @ normalize(one).T for one in (mine, theirs.detach()))
        apart = 1 - torch.eye(many)
        own, other = ((one - (one * apart).sum() / apart.sum()) * apart for one in (own, other))
        rows = -(own * other).sum(1) / (own.square().sum() * other.square().sum()).sqrt()
        found = [
            torch.autograd.grad(row, visitor.parameters(), retain_graph=True, allow_unused=True)
            for row in rows
        ]
        flat = [torch.cat([one.flatten() for one in part if one is not None]) for part in found]
        return torch.stack([one * clip / one.norm() for one in flat])

    other = images[:many].clone()
    other[0] = 4 * images[many]
    moved = shares(other)[1:].sum(0) - shares(images[:many])[1:].sum(0)
    assert moved.norm() > 2 * clip


def test_the_batch_level_says_nothing_of_a_patient_alone() -> None:
    """Nothing that compares patients can come into a private loss: it sees one patient."""
    network, past = build(PLAIN, SHAPE, 1), build(PLAIN, SHAPE, 2).eval()
    samples = make_job().samples
    found = []
    for weight in (0.0, 5.0):
        level = SimilarityLoss.of(Similarity(batch=weight, pixel=0, region=0), (3, 3))
        teaching = Exchange(level, 0.0, 0.0, past, level, 0.0)
        one = asked(network, samples, teaching)
        found.append(total(clipped_sum(one, samples, torch.arange(COUNT), 1.0)))
    assert torch.equal(*found)


def test_a_gradient_that_is_not_finite_is_zero() -> None:
    """One patient without a finite gradient leaves the sum of all others."""
    network = build(PLAIN, SHAPE, 1)
    samples = make_job().samples
    bad = Samples(samples.images.clone(), samples.labels)
    bad.images[3] = math.nan
    rest = torch.tensor([place for place in range(COUNT) if place != 3])
    good = Samples(samples.images[rest], samples.labels[rest])
    found = total(clipped_sum(asked(network, bad), bad, torch.arange(COUNT), 1.0))
    due = total(clipped_sum(asked(network, good), good, torch.arange(COUNT - 1), 1.0))
    assert torch.allclose(found, due, atol=1e-6)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum does not depend on how many gradients are held at once; no unit is parted."""
    network, samples = build(PLAIN, SHAPE, 1), make_job().samples
    owners = torch.arange(COUNT) // 3
    whole = total(clipped_sum(asked(network, samples), samples, owners, 0.1))
    monkeypatch.setattr(private, "MOST_AT_ONCE", 4)
    assert [part.stop - part.start for part in private._portions(owners, 4)] == [3] * (COUNT // 3)
    assert torch.allclose(
        whole, total(clipped_sum(asked(network, samples), samples, owners, 0.1)), atol=1e-6
    )


def own(seed: int) -> SessionModels:
    return SessionModels({"own": build(PLAIN, SHAPE, seed)})


def trained(key: bytes, models: SessionModels | None = None, **how: Any) -> tuple[str, Any]:
    models = models or own(1)
    job = make_job(class_weights="none")._replace(class_weights=torch.ones(3))
    sums, queries = run_all(models, job, None, guard(**how)._replace(key=key))
    return digest(export(models.by_role[models.main])), (sums, queries)


def test_a_session_is_a_function_of_its_key() -> None:
    """The same key gives the same bytes, another one others; without noise too, since units are
    drawn by it.
    """
    for noise in (0.0, 1.0):
        assert trained(b"a" * 32, noise=noise)[0] == trained(b"a" * 32, noise=noise)[0]
        assert trained(b"a" * 32, noise=noise)[0] != trained(b"b" * 32, noise=noise)[0]


def test_the_key_of_a_session_names_the_session_and_its_models() -> None:
    """Another session, another secret or other weights have another key; the same the same."""
    job, secret = make_job(), b"s" * 32
    known = session_key(secret, job, own(1))
    assert known == session_key(secret, job, own(1))
    assert known != session_key(b"t" * 32, job, own(1))
    assert known != session_key(secret, job._replace(seed=job.seed + 1), own(1))
    assert known != session_key(secret, job, own(2))


def test_nothing_of_patients_is_in_what_a_session_tells() -> None:
    """No loss, no part of one and no norm; samples are those expected, not those drawn."""
    sums, queries = trained(b"a" * 32, noise=1.0)[1]
    assert sums.measures == {}
    assert sums.steps == queries == 6  # three passes, half of all in a step
    assert sums.samples == 3 * COUNT


def test_two_models_that_train_take_two_queries() -> None:
    """In every second step the resident trains too, on units of its own; both change."""
    models = SessionModels(
        {"visitor": build(PLAIN, SHAPE, 1), "resident": build(PLAIN, SHAPE, 2)}, 2, teaches=True
    )
    before = {role: digest(export(one)) for role, one in models.by_role.items()}
    job = make_job(models=2)._replace(class_weights=torch.ones(3))
    teaching = make_exchange(models.by_role["visitor"])
    sums, queries = run_all(models, job, teaching, guard(noise=1.0))
    assert queries == sums.steps + sums.steps // 2
    assert all(digest(export(one)) != before[role] for role, one in models.by_role.items())


def test_a_query_without_a_unit_is_noise() -> None:
    """Where no coin falls, the step is taken all the same."""
    plain = own(1)
    before = digest(export(plain.by_role["own"]))
    job = make_job(augment=True)._replace(class_weights=torch.ones(3))
    nobody = Guard(Units(torch.arange(COUNT), COUNT), Rule(COUNT, 0.4, 1.0, 1e-3), 1.0, b"k" * 32)
    asked_ = private._Sample(plain.by_role, "own", ALONE, job, None)
    empty = Samples(job.samples.images[:0], job.samples.labels[:0])
    assert total(clipped_sum(asked_, empty, torch.arange(0), 1.0)).abs().sum() == 0
    run_all(plain, job, None, nobody)
    assert digest(export(plain.by_role["own"])) != before


def test_draws_are_what_they_are_called() -> None:
    """Uniform numbers have mean 1/2, normal ones mean 0, variance 1 and kurtosis 3; a stream goes
    on, and nothing is drawn twice.
    """
    draws = Draws(b"x" * 32)
    even, normal = draws.uniform(100_001), draws.normal(100_001)
    assert even.min() >= 0
    assert even.max() < 1
    assert abs(even.mean() - 0.5) < 0.005
    assert abs(normal.mean()) < 0.02
    assert abs(normal.var() - 1) < 0.02
    assert abs(normal.pow(4).mean() - 3) < 0.15
    assert not torch.equal(draws.normal(9), draws.normal(9))


def test_units_are_patients_where_they_are_known() -> None:
    """Each sample is of the unit of its patient; without patients nobody knows."""
    samples = Samples(torch.zeros(4, 1), torch.zeros(4), ("a", "b", "c", "d"), (7, 3, 7, 9))
    assert Units.find(samples, "patient").of.tolist() == [1, 0, 1, 2]  # type: ignore[union-attr]
    assert Units.find(samples, "patient").number == 3  # type: ignore[union-attr]
    assert Units.find(samples, "sample").number == 4  # type: ignore[union-attr]
    assert Units.find(samples._replace(subjects=()), "patient") is None


def test_batch_normalisation_is_refused_by_its_layer() -> None:
    """Where it computes from the batch; not where it is frozen, unless its statistics are renewed
    from the training data.
    """
    chosen = Architecture(name="cnn-plain", options={"norm": "batch"})
    with pytest.raises(InvalidValue, match=r"stem\.1 \(BatchNorm2d\)"):
        refuse_batch_statistics(build(chosen, SHAPE, 1), renewed=False)
    frozen = build(chosen, SHAPE, 1)
    restrict(frozen, chosen.model_copy(update={"trainable": "head"}), SHAPE.classes)
    refuse_batch_statistics(frozen, renewed=False)
    with pytest.raises(InvalidValue, match="renewed"):
        refuse_batch_statistics(frozen, renewed=True)
    refuse_batch_statistics(build(PLAIN, SHAPE, 1), renewed=True)


class Mixing(nn.Module):
    """Subtracts the mean patient, in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = build(PLAIN, SHAPE, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Taps]:
        logits, taps = self.inner(images)
        return (logits - logits.mean(0) if self.training else logits), taps


class Counting(Mixing):
    """Adds up what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, images: Tensor) -> tuple[Tensor, Taps]:
        logits, taps = self.inner(images)
        self.seen += logits.detach().sum(0)
        return logits, taps


def test_a_network_that_mixes_patients_is_refused() -> None:
    """One whose answer for a patient changes with another, though only in training; one that keeps
    what it saw; and not an honest one.
    """
    samples = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    refuse_mixing(build(PLAIN, SHAPE, 1), samples)
    refuse_mixing(build(RESIDENT, SHAPE, 1), samples)
    with pytest.raises(InvalidValue, match="changes with another"):
        refuse_mixing(Mixing(), samples)
    with pytest.raises(InvalidValue, match="no gradient for a single patient"):
        refuse_mixing(Counting(), samples)


def test_a_teaching_that_changes_gradients_is_refused() -> None:
    """Nobody knows with what it changes them."""

    class Changing:
        def __call__(self, step: Any) -> Any: ...

        def before_step(self, step: Any, role: str) -> None: ...

    with pytest.raises(TypeError, match="changes gradients"):
        run_all(own(1), make_job(), Changing(), guard())  # type: ignore[arg-type]


def test_settings_of_the_session_count() -> None:
    """The optimiser is the scenario's: another learning rate gives other bytes."""
    found = set()
    for rate in (1e-3, 1e-2):
        models = own(1)
        job = make_job()
        changed = job.training.optimiser.model_copy(update={"learning_rate": rate})
        training = Training(batch_size=BATCH, optimiser=changed)
        job = job._replace(training=training, class_weights=torch.ones(3))
        run_all(models, job, None, guard(noise=1.0))
        found.add(digest(export(models.by_role["own"])))
    assert len(found) == 2
