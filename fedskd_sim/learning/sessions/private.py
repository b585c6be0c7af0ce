"""Private sessions: steps whose gradient is a noised sum over patients, each of whom adds at most
so much (DP-SGD, Abadi et al. 2016).

In a step with units drawn by coins of their own (Poisson sampling at the rate q of n units) and g_u
the gradient of the whole loss of all samples of unit u, what the optimiser gets is

    (sum_u g_u min(1, clip / ||g_u||) + clip * noise * N(0, I)) / (q n).

The loss of a sample is what an ordinary step computes, teachings included, of a batch of that
sample alone: nothing that compares patients can come in. A gradient that is not finite counts as 0.
Where visitor and resident both train in a step, each draws units of its own and takes a query of
its own, the other being its teacher.

Coins and noise come from SHAKE-256 over the session's key: PyTorch's generator on a CPU has 32 bits
of seed, which anybody could try out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from fedskd_sim.errors import InvalidValue
from fedskd_sim.learning.data import Samples, as_input, augment
from fedskd_sim.learning.sessions.session import (
    NonFinite,
    RunningSums,
    SessionModels,
    TrainingJob,
    make_optimiser,
    set_rate,
)
from fedskd_sim.learning.sessions.steps import (
    PLAIN,
    Asking,
    Correcting,
    Moment,
    Output,
    Outputs,
    Supervising,
    Teaching,
    TrainingStep,
    answer,
    change,
    name_of,
    taught,
)
from fedskd_sim.privacy import accountant
from fedskd_sim.privacy.accountant import StepCount
from fedskd_sim.scenario import Training

KEY_BYTES = 32
CHUNK_BYTES = 1 << 28
"""Gradients of so many bytes are held at once, one a sample."""
MOST_AT_ONCE = 64
Gradients = Mapping[str, Tensor]


class Units(NamedTuple):
    """Whose privacy is kept: for each training sample the number of its unit, and the number of
    units.
    """

    of: Tensor
    number: int

    @classmethod
    def find(cls, samples: Samples, unit: str) -> Units | None:
        """Number the units of training samples; None: nobody knows whose they are."""
        if unit == "sample":
            return cls(torch.arange(len(samples.labels)), len(samples.labels))
        if not samples.subjects:
            return None
        _, of = torch.tensor(samples.subjects).unique(return_inverse=True)
        return cls(of, int(of.max()) + 1)


class Guard(NamedTuple):
    """What makes a session private: its units, the rule of the accountant, the clip, and the key
    from which its coins and noise follow.
    """

    units: Units
    rule: accountant.Rule
    clip: float
    key: bytes


class Draws:
    """Coins and noise of one session: a stream that nobody can foretell without its key."""

    def __init__(self, key: bytes) -> None:
        """Begin the stream of a key."""
        self._key, self._count = key, 0

    def _words(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        self._count += 1
        stream = hashlib.shake_256(self._key + self._count.to_bytes(8, "big"))
        return np.frombuffer(stream.digest(8 * count), dtype="<u8")

    def uniform(self, count: int) -> Tensor:
        """Draw numbers in [0, 1), float64 (count,)."""
        return torch.from_numpy((self._words(count) >> np.uint64(11)) * 2.0**-53)

    def normal(self, count: int) -> Tensor:
        """Draw standard normal numbers, float64 (count,), by Box and Muller's transform."""
        half = (count + 1) // 2
        first, second = 1 - self.uniform(half), self.uniform(half)
        radius = (-2 * first.log()).sqrt()
        angle = 2 * math.pi * second
        return torch.cat([radius * angle.cos(), radius * angle.sin()])[:count]

    def seed(self) -> int:
        """Draw a seed for what needs a generator of PyTorch: augmentation and dropout."""
        return int(self._words(1)[0]) >> 1


def session_key(secret: bytes, job: TrainingJob, models: SessionModels) -> bytes:
    """Return the key of a session: a function of the hospital's, of which session it is (the seed
    of the job names model, round and hop), and of the weights with which it begins.

    The same session after a death is the same. One that differs in anything has other noise: two
    answers with one noise would give away their difference.
    """
    found = hashlib.blake2b(key=secret, digest_size=KEY_BYTES)
    found.update(job.seed.to_bytes(8, "big"))
    for role, model in models.by_role.items():
        found.update(f"\x1f{role}\x1f".encode())
        for name, tensor in model.state_dict().items():
            found.update(f"{name}\x1f".encode())
            found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.digest()


def count_steps(models: SessionModels, job: TrainingJob, rule: accountant.Rule) -> StepCount:
    """Count the steps and queries of a session by what its job may spend."""
    every = models.every if len(models.by_role) > 1 else 0
    return accountant.session(job.budget, rule.rate * len(job.samples.labels), every)


def train(
    models: SessionModels,
    job: TrainingJob,
    teaching: Teaching | None,
    guard: Guard,
    planned: StepCount,
) -> RunningSums:
    """Train as `fedskd_sim.learning.sessions.session.train`, with as many private steps as
    `count_steps` planned; gives what may be recorded: no losses, and the samples that were
    expected.

    Raises:
        NonFinite: a weight; the models are then of no use.
        TypeError: a teaching that changes gradients.

    """
    taught_by: object = teaching
    if isinstance(taught_by, Correcting):
        text = f"{name_of(taught_by)} changes gradients, and no private session can tell how"
        raise TypeError(text)
    draws = Draws(guard.key)
    torch.manual_seed(draws.seed())
    flips = torch.Generator().manual_seed(draws.seed())
    optimisers = {
        role: make_optimiser(model, job.training, on_device=False)
        for role, model in models.learners.items()
    }
    for number in range(planned.steps):
        moment = models.moment(number, planned.steps)
        for role in moment.changed:
            batch, owners = _draw(job, guard, draws, flips)
            asked = _Sample(models.by_role, role, moment, job, teaching)
            summed = clipped_sum(asked, batch, owners, guard.clip)
            _noise(models.by_role[role], summed, draws, guard)
        for role in moment.changed:
            set_rate(optimisers[role], job.training, moment, job.during)
            change(models.by_role[role], optimisers[role])
    _check_finite(models)
    cost = guard.rule.rate * len(job.samples.labels)
    return _sums(models, planned, cost, teaching)


def _check_finite(models: SessionModels) -> None:
    """Raise NonFinite if a weight of a model is not."""
    for role, model in models.learners.items():
        if not all(part.isfinite().all() for part in model.parameters()):
            text = f"a weight of the {role} is not finite after the last step"
            raise NonFinite(text)


def _sums(
    models: SessionModels, planned: StepCount, cost: float, teaching: Teaching | None
) -> RunningSums:
    """Count samples as they were expected: how many were drawn is not noised."""
    asked = teaching.asked if isinstance(teaching, Asking) else 0
    others = len(models.by_role) - 1 if models.teaches else 0
    forwards = round(planned.queries * cost * (others + asked))
    return RunningSums(round(planned.queries * cost), forwards, planned.steps)


def _draw(
    job: TrainingJob, guard: Guard, draws: Draws, flips: torch.Generator
) -> tuple[Samples, Tensor]:
    """Draw units, each by its own coin; gives all of their samples, unit by unit, and for each the
    number of its unit.
    """
    coins = draws.uniform(guard.units.number) < guard.rule.rate
    rows = coins[guard.units.of].nonzero().flatten()
    owners = guard.units.of[rows]
    order = owners.argsort(stable=True)
    rows, owners = rows[order], owners[order]
    where = job.samples.labels.device
    images = as_input(job.samples.images[rows.to(job.samples.images.device)], where)
    images = augment(images, flips) if job.training.augment and len(rows) else images
    return Samples(images, job.samples.labels[rows.to(where)]), owners


class _Sample(nn.Module):
    """The loss of one sample as a module around the model that is changed, so that its parameters
    can be handed in; all other models are asked, and learn nothing.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        role: str,
        moment: Moment,
        job: TrainingJob,
        teaching: Teaching | None,
    ) -> None:
        super().__init__()
        self.model, self._role = models[role], role
        self._models, self._job, self._teaching = dict(models), job, teaching
        roles = {name: name == role for name in moment.roles}
        self._moment = moment._replace(roles=roles, gathered=None)
        for name in roles:
            models[name].train(name == role)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The parameters that train, under the names that `functional_call` knows."""
        return {name: one.detach() for name, one in self.named_parameters() if one.requires_grad}

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        """Return the loss of a sample (C, H, W) and its label ()."""
        batch, precision = Samples(image[None], label[None]), self._job.training.precision
        outputs = Outputs((name, self._output(name, batch)) for name in self._moment.roles)
        known = self._models, self._job.class_weights, self._job.task
        step = TrainingStep(batch, outputs, self._moment, precision, *known)
        judge = self._teaching if isinstance(self._teaching, Supervising) else PLAIN
        loss = judge.supervised(step, self._role)
        added = taught(self._teaching, step).total if self._teaching is not None else None
        return loss if added is None else loss + added

    def _output(self, name: str, batch: Samples) -> Output:
        how = self._job.training.precision, self._job.task
        if name == self._role:
            return answer(self.model, batch.images, *how)
        with torch.no_grad():
            return answer(self._models[name], batch.images, *how)


def each_gradient(asked: nn.Module, weights: Gradients, batch: Samples) -> dict[str, Tensor]:
    """Return the gradient of every sample's loss, each (samples, *shape of the parameter)."""

    def loss(given: Gradients, image: Tensor, label: Tensor) -> Tensor:
        found: Tensor = functional_call(asked, dict(given), (image, label))
        return found

    one = vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")
    with _attention_by_parts():
        found: dict[str, Tensor] = one(weights, batch.images, batch.labels)
    return found


@contextmanager
def _attention_by_parts() -> Iterator[None]:
    """Keep attention from kernels that take one sample at a time, and say so in a warning."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def clipped_sum(asked: _Sample, batch: Samples, owners: Tensor, clip: float) -> dict[str, Tensor]:
    """Return the sum over units of their gradients, each clipped to a norm of ``clip``; a gradient
    that is not finite is 0. No sum is larger than ``clip`` times the number of units.

    Args:
        asked: the loss of a sample.
        batch: the samples of the units that were drawn, unit by unit.
        owners: the unit of each sample (N,), in ascending order.
        clip: the largest norm.

    """
    weights = asked.weights
    total = {name: torch.zeros_like(one) for name, one in weights.items()}
    size = sum(one.numel() * one.element_size() for one in weights.values())
    for part in _portions(owners, max(1, min(MOST_AT_ONCE, CHUNK_BYTES // size))):
        some = Samples(batch.images[part], batch.labels[part])
        each = each_gradient(asked, weights, some)
        _, own = owners[part].unique_consecutive(return_inverse=True)
        if (count := int(own[-1]) + 1) < len(own):
            own = own.to(some.labels.device)
            each = {
                name: one.new_zeros(count, *one.shape[1:]).index_add(0, own, one)
                for name, one in each.items()
            }
        squares = torch.stack([one.flatten(1).square().sum(1) for one in each.values()]).sum(0)
        finite = squares.isfinite()
        shares = (clip / squares[finite].sqrt().clamp_min(1e-30)).clamp_max(1.0)
        for name, one in each.items():
            total[name] += torch.tensordot(shares, one[finite], dims=1)
    return total


def _portions(owners: Tensor, most: int) -> Iterator[slice]:
    """Yield slices of about ``most`` samples at most, none of which parts a unit."""
    counts = owners.unique_consecutive(return_counts=True)[1].tolist()
    begin = end = 0
    for count in counts:
        if end > begin and end + count - begin > most:
            yield slice(begin, end)
            begin = end
        end += count
    if end > begin:
        yield slice(begin, end)


def _noise(model: nn.Module, summed: Gradients, draws: Draws, guard: Guard) -> None:
    """Set a model's gradient to the noised sum over the expected number of units."""
    spread = guard.rule.noise * guard.clip
    for name, one in model.named_parameters():
        if one.requires_grad:
            found = summed[f"model.{name}"]
            if spread:
                drawn = draws.normal(one.numel()).reshape(one.shape) * spread
                found = found + drawn.to(one.dtype).to(one.device)
            one.grad = found / (guard.rule.rate * guard.rule.units)


def refuse_batch_statistics(network: nn.Module, *, renewed: bool) -> None:
    """Refuse a network in which a normalisation computes from the batch, or whose running
    statistics are renewed from training data.

    Raises:
        InvalidValue: it names the layer.

    """
    network.train()
    for hook in [*network._forward_pre_hooks.values()]:  # noqa: SLF001 - what is frozen rests by one
        hook(network, ())
    for name, module in network.named_modules():
        batched = isinstance(module, nn.modules.batchnorm._BatchNorm)  # noqa: SLF001 - has no other name
        if batched and (module.training or renewed):
            how = "is renewed from all of them" if not module.training else "mixes those of a batch"
            text = f"{name} ({type(module).__name__}) {how}, and patients are to be private"
            fix = "choose options: {norm: group} or {norm: layer}, or train a part without it"
            raise InvalidValue(text, fix=fix)


def refuse_mixing(network: nn.Module, samples: Tensor) -> None:
    """Refuse a network whose answer for one patient changes with another, or that has no gradient
    for a single one. ``samples`` are two.

    Raises:
        InvalidValue: it says which.

    """
    other = torch.cat([samples[:1], 2 * samples[1:] + 1])
    network.train()
    found = []
    for images in (samples, other):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(1)
            logits, taps = network(images)
        found.append([logits[0], *(one[0] for one in taps)])
    if not all(torch.allclose(one, two, atol=1e-5) for one, two in zip(*found, strict=True)):
        text = "what it says of one patient changes with another in the batch, and patients are to"
        fix = "compute nothing across a batch, or leave the hospital without privacy"
        raise InvalidValue(f"{text} be private", fix=fix)
    labels = torch.zeros(2, dtype=torch.int64)
    job = TrainingJob(Samples(samples, labels), torch.ones(logits.shape[1]), Training(), 0, 0)
    asked = _Sample({"own": network}, "own", Moment(0, 1, {"own": True}), job, None)
    try:
        with torch.random.fork_rng(devices=[]):
            each_gradient(asked, asked.weights, job.samples)
    except Exception as error:  # a stranger's code may raise anything
        text = f"it has no gradient for a single patient: {str(error).splitlines()[0]}"
        fix = "change no buffers in forward, and no tensor in place"
        raise InvalidValue(text, fix=fix) from error
