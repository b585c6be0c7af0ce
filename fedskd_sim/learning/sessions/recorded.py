"""Sessions whose steps are recorded once for a pair of architectures and then replayed.

A recorded step reads and writes the same memory each time. So a pair has networks, optimisers and
a batch of its own: a session copies its models in, and at its end out again. What a hospital has
recorded stays within what it may keep of its card's memory.

Only what happens on the device is replayed. A network that counts its calls, or draws random
numbers on the host, would always do as it did when its steps were recorded; so it is launched, and
a recording has to give what launched steps give, before it is used.

For a card, PyTorch's inductor compiles networks to fewer, larger kernels for the same formulas.
Only recorded steps are compiled, so that what compiling costs, up to two minutes for a large
network, is paid once for its architecture and size of batch, not in every session.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from functools import partial
from itertools import cycle, islice
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, UntypedStorage, nn

from fedskd_sim.errors import LibraryMissing
from fedskd_sim.learning.data import Samples, as_input
from fedskd_sim.learning.sessions.graphs import CudaGraphs, Reads, Recorder, apart, held
from fedskd_sim.learning.sessions.session import (
    Launched,
    SessionModels,
    Steps,
    TrainingJob,
    count_steps,
    make_optimiser,
    set_rate,
)
from fedskd_sim.learning.sessions.steps import (
    Exchange,
    Moment,
    Recordable,
    Seen,
    Setting,
    Teaching,
    take,
)
from fedskd_sim.scenario import Architecture, Training

Compile = Callable[[nn.Module], None]
"""Makes a network compute with compiled code from its next call on."""
MOST_VERSIONS = 256
"""Versions of a function that the compiler keeps: architectures, modes and sizes of batches have
one each, and past its own limit of 8 it goes on uncompiled without a word."""
MOST_OF_ALL = 1 << 20
"""... of whatever all networks have in common, those too that were given up."""


def compiler(training: Training) -> Compile | None:
    """Return what compiles networks, where a scenario asks for it.

    Raises:
        LibraryMissing: this PyTorch cannot leave out of it what is not worth it.

    """
    if not training.compile:
        return None
    if not hasattr(torch.compiler, "set_stance"):
        text = f"training.compile needs PyTorch 2.6 or newer, and this is {torch.__version__}"
        raise LibraryMissing(
            text,
            key=("training", "compile"),
            fix="update PyTorch, or write training.compile: false",
        )

    def compile_(network: nn.Module) -> None:
        from torch._dynamo import config as tracing  # noqa: PLC0415 - takes a second and 100 MB
        from torch._inductor import config as kernels  # noqa: PLC0415

        tracing.recompile_limit = MOST_VERSIONS
        tracing.accumulated_recompile_limit = MOST_OF_ALL
        kernels.deterministic = training.deterministic  # else a stopwatch chooses between them
        network.compile(dynamic=False)

    return compile_


def as_written() -> AbstractContextManager[object]:
    """Make compiled networks compute operation by operation: a step that is taken seldom is not
    worth compiling.
    """
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance


FEWEST = 4
"""Steps of one kind in a session that are worth recording: that takes about as long as eight."""
TRIED = 2
"""Steps in a row by which a recording is compared with launched ones."""
SEED = 0
"""Of what these draw; a session sets its own when it has begun."""


class Tools(NamedTuple):
    """What steps are recorded on, and what compiles their networks, if anything does."""

    on: Recorder
    compile: Compile | None = None


class RecordedPair:
    """The memory of one pair of architectures, and the kinds of steps recorded in it."""

    def __init__(
        self, models: SessionModels, job: TrainingJob, teaching: Recordable | None, tools: Tools
    ) -> None:
        """Copy networks and what is taught, and make room for a batch.

        Raises:
            RuntimeError, TypeError: a network cannot be copied.

        """
        before = tools.on.reserved()
        self._read: dict[int, UntypedStorage] = {}
        self._on, self._training, self.remark = tools.on, job.training, ""
        self._during = job.during
        self._teaching = None if teaching is None else teaching.apart()
        self._size = min(job.training.batch_size, len(job.samples.labels))
        first = slice(self._size)
        where = job.samples.labels.device
        self._images = as_input(job.samples.images[first], where).clone()
        self._labels = job.samples.labels[first].clone()
        self._clock = torch.zeros(2, dtype=torch.float64, device=self._labels.device)
        copies = SessionModels(
            {role: deepcopy(model) for role, model in models.by_role.items()}, models.every
        )
        optimisers = {
            role: make_optimiser(model, job.training, on_device=True)
            for role, model in copies.learners.items()
        }
        known = copies.by_role, optimisers, job.class_weights.clone(), job.training
        self._setting = Setting(*known, self._teaching, task=job.task)
        self._compiled = tools.compile is not None
        if tools.compile:
            for network in self._networks():
                tools.compile(network)
        self._recorded: dict[Hashable, Callable[[], Seen]] = {}
        self._worth: set[Hashable] = set()
        self._given: Mapping[str, nn.Module] = {}
        self.bytes = max(0, tools.on.reserved() - before)

    def prepare(self, models: SessionModels, job: TrainingJob, teaching: Recordable | None) -> None:
        """Record the kinds of steps of a session that are not yet, as far as it is worth it.

        Raises:
            RuntimeError: a step cannot be recorded, or would be another one when it is replayed.

        """
        self._during, moments = job.during, [*self._full(models, job)]
        counts = Counter(self._kind(moment) for moment in moments)
        examples = {self._kind(moment): moment for moment in moments}
        self._worth = {kind for kind in examples if counts[kind] >= FEWEST}
        if missing := [kind for kind in examples if kind in self._worth - self._recorded.keys()]:
            before = self._on.reserved()
            try:
                self.enter(models, teaching)
                for kind in missing:
                    self._recorded[kind] = self._record(examples[kind])
            finally:
                self.bytes += max(0, self._on.reserved() - before)

    @torch.no_grad()
    def enter(self, models: SessionModels, teaching: Recordable | None) -> None:
        """Become the given models at the beginning of a session."""
        self._given = models.by_role
        for role, model in models.by_role.items():
            _copy(self._setting.models[role], model)
        own, given = ([*one.tensors()] if one else [] for one in (self._teaching, teaching))
        if len(own) != len(given):
            raise ValueError(len(given))
        if own:
            torch._foreach_copy_(own, given)
        if moments := self._moments:
            torch._foreach_zero_(moments)

    def take(self, batch: Samples, moment: Moment) -> Seen:
        """Replay a step, or launch one that was not recorded on the same memory."""
        self._set(moment)
        kind = self._kind(moment)
        recorded = self._recorded.get(kind)
        # else bytes would depend on earlier sessions
        if self._compiled and kind not in self._worth:
            recorded = None
        if recorded is None or len(batch.labels) != self._size:
            with as_written() if self._compiled else nullcontext():
                return take(self._setting, batch, moment._replace(clock=self._clock))
        self._images.copy_(batch.images)
        self._labels.copy_(batch.labels)
        seen = recorded()
        return seen._replace(values=seen.values.clone())

    @torch.no_grad()
    def show(self) -> None:
        """Copy the models as they are now to those that were given."""
        for role, model in self._given.items():
            _copy(model, self._setting.models[role])

    def leave(self) -> None:
        """Hand the models back as they are now."""
        self.show()
        for role, model in self._given.items():
            model.train(self._setting.models[role].training)
        self._given = {}
        self._on.tidy()

    def _networks(self) -> Iterator[nn.Module]:
        yield from self._setting.models.values()
        if isinstance(self._teaching, Exchange) and self._teaching.past is not None:
            yield self._teaching.past

    def _record(self, moment: Moment) -> Callable[[], Seen]:
        """Record a step, and see that replaying it is taking it.

        Raises:
            RuntimeError: it cannot be recorded, or is another one when it is replayed.

        """
        self._set(moment)
        step = partial(self._watched, moment)
        with self._on.aside():
            step()  # optimisers have their memory now, networks are compiled
            kept, before = self._kept_by_networks(), self._held()
            earlier, self._read = self._read, {}
            step()
            gone = before.keys() - self._held().keys()
            begin = [one.to("cpu", copy=True) for one in self._state]
            torch.manual_seed(SEED)
            drawn = self._on.drawn()
            expected = self._try(step, begin)
        if self._on.drawn() != drawn:
            raise RuntimeError("a step draws random numbers on the host")
        if self._kept_by_networks() != kept:
            raise RuntimeError("a step changes what a network keeps outside of its state_dict")
        if gone & (before if self._compiled else self._read).keys():
            raise RuntimeError("a step reads what it puts another tensor in the place of")
        self._read |= earlier | self._held()
        replay = self._on.record(step)
        found = self._try(replay, begin)
        if self._training.deterministic and not all(map(_same, found, expected)):
            raise RuntimeError("replayed, a step gives other bytes than launched")
        return replay

    def _try(self, step: Callable[[], Seen], begin: list[Tensor]) -> list[Tensor]:
        """Return what a few steps see and leave, from the same beginning each time, on the host: a
        card may have no room for it.
        """
        with torch.no_grad():
            for one, value in zip(self._state, begin, strict=True):
                one.copy_(value)
        torch.manual_seed(SEED)
        seen = [step().values.to("cpu", copy=True) for _ in range(TRIED)]
        return [*seen, *(one.to("cpu", copy=True) for one in self._state)]

    @property
    def _moments(self) -> list[Tensor]:
        """What the optimisers remember from step to step."""
        states = [one.state.values() for one in self._setting.optimisers.values()]
        return [value for state in states for one in state for value in one.values()]

    @property
    def _state(self) -> list[Tensor]:
        """What steps change: weights, buffers and the optimisers' memory."""
        models = self._setting.models.values()
        return [*(one for model in models for one in model.state_dict().values()), *self._moments]

    def _set(self, moment: Moment) -> None:
        """Set learning rates and clock for a step."""
        for optimiser in self._setting.optimisers.values():
            set_rate(optimiser, self._training, moment, self._during)
        self._clock[0].fill_(moment.number)
        self._clock[1].fill_(moment.total)

    def _kept_by_networks(self) -> list[object]:
        return [apart(network) for network in self._networks()]

    def _held(self) -> dict[int, UntypedStorage]:
        found = (held(network) for network in self._networks())
        return {place: one for each in found for place, one in each.items()}

    def _watched(self, moment: Moment) -> Seen:
        """Take a step on the pair's own memory, and keep what it reads: a network may forget it,
        and a graph goes on reading.
        """
        batch = Samples(self._images, self._labels)
        with nullcontext() if self._compiled else Reads() as reads:
            seen = take(self._setting, batch, moment._replace(clock=self._clock))
        self._read |= reads.of_others() if reads else {}
        return seen

    def _full(self, models: SessionModels, job: TrainingJob) -> Iterator[Moment]:
        """List the steps of a session whose batches are whole."""
        total = count_steps(models, job)
        sizes = job.training.batch_sizes(len(job.samples.labels))
        for number, size in enumerate(islice(cycle(sizes), total)):
            if size == self._size:
                yield Moment(number, total, models.at(number))

    def _kind(self, moment: Moment) -> Hashable:
        taught = self._teaching.kind(moment) if self._teaching is not None else None
        return tuple(moment.roles.items()), taught


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _copy(to: nn.Module, source: nn.Module) -> None:
    """Copy all weights, by as few kernels as there can be."""
    own, theirs = to.state_dict(), source.state_dict()
    torch._foreach_copy_([*own.values()], [theirs[name] for name in own])


OF_THE_SHARE = 0.5
"""Of a hospital's share of a card, what its recorded steps keep where the scenario does not say."""
PASSING = "the card's memory did not suffice"
"""A reason that may be gone in the next session."""


def of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory did not suffice; compilers have errors of their own
    around it.
    """
    inner = error.__cause__ or getattr(error, "inner_exception", None)
    full = isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)
    return full or (isinstance(inner, BaseException) and of_memory(inner))


def of_a_card(error: BaseException) -> bool:
    """Return whether a card has failed, and not only refused to be recorded; older versions of
    PyTorch have no class of its own for it.
    """
    known = getattr(torch, "AcceleratorError", None)
    failed = isinstance(error, known) if known else str(error).startswith("CUDA error")
    return failed and "captur" not in str(error)


class Recordings:
    """The pairs of one hospital. When they would keep more memory than they may, all are given up,
    for their graphs share it, and what is needed is recorded anew.
    """

    def __init__(self, on: Recorder | None, limit: float, compile_: Compile | None = None) -> None:
        """Have none; without something to record ``on`` there never are any. ``limit`` is in
        bytes.
        """
        self._tools, self._limit = Tools(on, compile_) if on else None, limit
        self._refused = 0
        self._pairs: dict[Hashable, RecordedPair | str] = {}
        self._architectures: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()

    @classmethod
    def of(cls, device: str, training: Training, share: float) -> Recordings:
        """Record where steps run faster than a host can launch them: on CUDA. ``share`` is what the
        hospital has of its card, in bytes.
        """
        records, most = device.startswith("cuda") and training.recorded_steps, training.recorded_gib
        limit = OF_THE_SHARE * share if most is None else most * 2**30
        return cls(CudaGraphs(device), limit, compiler(training)) if records else cls(None, limit)

    def know(self, network: nn.Module, architecture: Architecture) -> nn.Module:
        """Note the architecture of a network, and give the network."""
        self._architectures[network] = architecture.model_dump_json()
        return network

    def known_as(self, network: nn.Module) -> str:
        """Return the architecture of a network, as JSON; '' where nobody has noted it."""
        return self._architectures.get(network, "")

    def begin(self, models: SessionModels, job: TrainingJob, teaching: Teaching | None) -> Steps:
        """Begin a session: on recorded steps, or on launched ones that say why.

        Raises:
            OutOfMemoryError, AcceleratorError: of PyTorch, where networks are compiled: launched
                steps would give other bytes.

        """
        if self._tools is None:
            return Launched(models, job, teaching)
        reason = self._unrecordable(models, job, teaching)
        if reason or not (teaching is None or isinstance(teaching, Recordable)):
            return Launched(models, job, teaching, f"steps launched: {reason}")
        pair = self._prepare(self._tools, models, job, teaching)
        if isinstance(pair, str):
            return Launched(models, job, teaching, pair)
        pair.enter(models, teaching)
        return pair

    def _unrecordable(
        self, models: SessionModels, job: TrainingJob, teaching: Teaching | None
    ) -> str:
        """Return why the steps of a session are not recorded, as far as that is known before."""
        if any(model not in self._architectures for model in models.by_role.values()):
            return "an unknown network"
        if teaching is not None and not isinstance(teaching, Recordable):
            return f"{type(teaching).__name__} cannot be recorded"
        if job.training.accumulate > 1:
            return "gradients are gathered over several"
        return "" if job.loss is None else f"{type(job.loss).__name__} cannot be recorded"

    def _prepare(
        self, tools: Tools, models: SessionModels, job: TrainingJob, teaching: Recordable | None
    ) -> RecordedPair | str:
        """Find or make a pair, or say why there is none."""
        key = self._key(models, job, teaching)
        if not isinstance(self._pairs.get(key), str):
            self._pairs[key] = self._ready(key, tools, models, job, teaching)
        if self._kept > self._limit:
            tools = self._give_up(tools)
            self._pairs[key] = self._ready(key, tools, models, job, teaching)
        found, kept = self._pairs[key], self._kept
        if kept > self._limit:
            self._give_up(tools)
        if kept > self._limit and isinstance(found, RecordedPair):
            text = (
                f"recorded they would keep {kept >> 20} MiB, more than training.recorded_gib or "
                f"half of the hospital's share of its card"
            )
            if tools.compile:
                raise torch.OutOfMemoryError(f"steps cannot be compiled: {text}")
            found = self._pairs[key] = f"steps launched: {text}"
        if isinstance(found, str) and found.endswith(PASSING):
            del self._pairs[key]
        return found

    def _ready(
        self,
        key: Hashable,
        tools: Tools,
        models: SessionModels,
        job: TrainingJob,
        teaching: Recordable | None,
    ) -> RecordedPair | str:
        """Make a pair that is not there yet and record what it lacks, compiled if it can be."""
        pair, problem, whole, kept = self._pairs.get(key), "", 0, 0
        try:
            if not isinstance(pair, RecordedPair):
                pair = RecordedPair(models, job, teaching, tools)
            pair.prepare(models, job, teaching)
        except (RuntimeError, TypeError) as error:
            full = of_memory(error)
            if tools.compile and (full or of_a_card(error)):
                raise
            # how much was free differs from run to run: not for a record
            said = PASSING if full else str(error).partition("\n")[0]
            whole, kept = tools.on.reserved(), pair.bytes if isinstance(pair, RecordedPair) else 0
            pair, problem = None, f"{type(error).__name__}: {said}"
        if pair is not None:
            return pair
        self._pairs.pop(key, None)  # ... and with its error it lets go of its memory, graphs stay
        self._refused += max(0, kept - (whole - tools.on.reserved()))
        if not tools.compile:
            return f"steps launched: {problem}"
        pair = self._ready(key, Tools(tools.on), models, job, teaching)
        if isinstance(pair, RecordedPair):
            pair.remark = f"steps recorded, but not compiled: {problem}"
        return pair

    def _key(
        self, models: SessionModels, job: TrainingJob, teaching: Recordable | None
    ) -> Hashable:
        """Name what sessions must have in common to take the same recorded steps."""
        names = tuple((role, self._architectures[model]) for role, model in models.by_role.items())
        taught = type(teaching).__name__, len(teaching.tensors()) if teaching else 0
        size = min(job.training.batch_size, len(job.samples.labels))
        return names, models.every, models.teaches, taught, size

    def _give_up(self, tools: Tools) -> Tools:
        """Discard all pairs, no longer at work; returns what to record on from now."""
        tools.on.reserved()
        self._refused = 0
        self._pairs = {key: pair for key, pair in self._pairs.items() if isinstance(pair, str)}
        self._tools = Tools(tools.on.afresh(), tools.compile)
        return self._tools

    @property
    def _kept(self) -> int:
        """The bytes that all pairs keep, and graphs of those that were refused."""
        pairs = (pair for pair in self._pairs.values() if isinstance(pair, RecordedPair))
        return self._refused + sum(pair.bytes for pair in pairs)
