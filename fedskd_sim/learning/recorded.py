"""Sessions whose steps are recorded once for a pair of architectures and then replayed.

A recorded step reads and writes the same memory each time. So a pair has networks, optimisers and
a batch of its own: a session copies its models in, and at its end out again.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from itertools import cycle, islice
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import nn

from fedskd_sim.learning.compiled import Compile, as_written, compiler
from fedskd_sim.learning.data import Samples, as_input
from fedskd_sim.learning.devices import share_of_card
from fedskd_sim.learning.graphs import CudaGraphs, Recorder
from fedskd_sim.learning.session import Launched, SessionModels, Steps, TrainingJob, count_steps
from fedskd_sim.learning.steps import (
    Moment,
    Recordable,
    Seen,
    Setting,
    Teaching,
    make_optimiser,
    set_rate,
    take,
)
from fedskd_sim.learning.teaching import Exchange
from fedskd_sim.scenario import Architecture, Scenario

FEWEST = 4
"""Steps of one kind in a session that are worth recording: that runs the step about as often."""


RECORDED_ON_CARD = 0.5
"""Of a hospital's share of a card, what its recorded steps keep where the scenario does not say."""


class Tools(NamedTuple):
    """What steps are recorded on, and what compiles their networks, if anything does."""

    on: Recorder
    compile: Compile | None = None


class Pair:
    """The memory of one pair of architectures, and the kinds of steps recorded in it."""

    def __init__(
        self, models: SessionModels, job: TrainingJob, teaching: Recordable | None, tools: Tools
    ) -> None:
        """Copy networks and what is taught, and make room for a batch.

        Raises:
            RuntimeError, TypeError: a network cannot be copied.

        """
        before = tools.on.reserved()
        self._on, self._training, self.remark = tools.on, job.training, ""
        self._teaching = None if teaching is None else teaching.apart()
        self._size = min(job.training.batch_size, len(job.samples.labels))
        first = slice(self._size)
        self._images = torch.zeros_like(as_input(job.samples.images[first]))
        self._labels = torch.zeros_like(job.samples.labels[first])
        self._clock = torch.zeros(2, dtype=torch.float64, device=self._labels.device)
        copies = SessionModels(
            {role: deepcopy(model) for role, model in models.by_role.items()}, models.every
        )
        optimisers = {
            role: make_optimiser(model, job.training, on_device=True)
            for role, model in copies.learners.items()
        }
        self._setting = Setting(
            copies.by_role, optimisers, job.class_weights.clone(), job.training, self._teaching
        )
        self._compiled = tools.compile is not None
        if tools.compile:
            for network in self._networks():
                tools.compile(network)
        self._recorded: dict[Hashable, Callable[[], Seen]] = {}
        self._given: Mapping[str, nn.Module] = {}
        self.bytes = tools.on.reserved() - before

    def prepare(self, models: SessionModels, job: TrainingJob) -> None:
        """Record the kinds of steps of a session that are not yet, as far as it is worth it.

        Raises:
            RuntimeError: a step cannot be recorded.

        """
        moments = [*self._full(models, job)]
        counts = Counter(self._kind(moment) for moment in moments)
        examples = {self._kind(moment): moment for moment in moments}
        missing = [
            kind for kind in examples if counts[kind] >= FEWEST and kind not in self._recorded
        ]
        if missing:
            before = self._on.reserved()
            for kind in missing:
                self._recorded[kind] = self._on.record(partial(self._run, examples[kind]))
            self.bytes += self._on.reserved() - before

    @torch.no_grad()
    def enter(self, models: SessionModels, teaching: Recordable | None) -> None:
        """Become the given models at the beginning of a session."""
        self._given = models.by_role
        for role, model in models.by_role.items():
            _copy(self._setting.models[role], model)
        own = [*self._teaching.tensors()] if self._teaching is not None else []
        if teaching is not None and own:
            torch._foreach_copy_(own, [*teaching.tensors()])
        states = [one.state.values() for one in self._setting.optimisers.values()]
        if moments := [value for state in states for one in state for value in one.values()]:
            torch._foreach_zero_(moments)

    def take(self, batch: Samples, moment: Moment) -> Seen:
        """Replay a step, or launch one that was not recorded on the same memory."""
        for optimiser in self._setting.optimisers.values():
            set_rate(optimiser, self._training, moment)
        self._clock[0].fill_(moment.number)
        self._clock[1].fill_(moment.total)
        recorded = self._recorded.get(self._kind(moment))
        if recorded is None or len(batch.labels) != self._size:
            with as_written() if self._compiled else nullcontext():
                return take(self._setting, batch, moment._replace(clock=self._clock))
        self._images.copy_(batch.images)
        self._labels.copy_(batch.labels)
        seen = recorded()
        return seen._replace(values=seen.values.clone())

    @torch.no_grad()
    def leave(self) -> None:
        """Give the models back as they are now."""
        for role, model in self._given.items():
            _copy(model, self._setting.models[role])
            model.train(self._setting.models[role].training)
        self._given = {}
        self._on.tidy()

    def _networks(self) -> Iterator[nn.Module]:
        yield from self._setting.models.values()
        if isinstance(self._teaching, Exchange) and self._teaching.past is not None:
            yield self._teaching.past

    def _run(self, moment: Moment) -> Seen:
        """Take a step on the pair's own memory."""
        batch = Samples(self._images, self._labels)
        return take(self._setting, batch, moment._replace(clock=self._clock))

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


class Recordings:
    """The pairs of one hospital, the least used of which give way when they keep more memory than
    they may.
    """

    def __init__(self, on: Recorder | None, limit: float, compile_: Compile | None = None) -> None:
        """Have none; without something to record ``on`` there never are any. ``limit`` is in
        bytes.
        """
        self._tools, self._limit = Tools(on, compile_) if on else None, limit
        self._pairs: OrderedDict[Hashable, Pair | str] = OrderedDict()
        self._architectures: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()

    @classmethod
    def of(cls, device: str, scenario: Scenario) -> Recordings:
        """Record where steps run faster than a host can launch them: on CUDA."""
        training = scenario.training
        records, most = device.startswith("cuda") and training.recorded_steps, training.recorded_gib
        share = RECORDED_ON_CARD * share_of_card(scenario, device)
        limit = share if most is None else most * 2**30
        return cls(CudaGraphs(device) if records else None, limit, compiler(training))

    def know(self, network: nn.Module, architecture: Architecture) -> nn.Module:
        """Note the architecture of a network, and give the network."""
        self._architectures[network] = architecture.model_dump_json()
        return network

    def begin(self, models: SessionModels, job: TrainingJob, teaching: Teaching | None) -> Steps:
        """Begin a session: on recorded steps, or on launched ones that say why."""
        if self._tools is None:
            return Launched(models, job, teaching)
        if any(model not in self._architectures for model in models.by_role.values()):
            return Launched(models, job, teaching, "steps launched: an unknown network")
        if teaching is not None and not isinstance(teaching, Recordable):
            text = f"steps launched: {type(teaching).__name__} cannot be recorded"
            return Launched(models, job, teaching, text)
        pair = self._prepare(self._tools, models, job, teaching)
        if isinstance(pair, str):
            return Launched(models, job, teaching, pair)
        pair.enter(models, teaching)
        return pair

    def _prepare(
        self, tools: Tools, models: SessionModels, job: TrainingJob, teaching: Recordable | None
    ) -> Pair | str:
        """Find or make a pair, compiled if it can be, or say why there is none."""
        names = tuple((role, self._architectures[model]) for role, model in models.by_role.items())
        key = (names, models.every, models.teaches, type(teaching).__name__)
        pair = self._pairs.pop(key, None)
        problem = ""
        try:
            pair = _ready(pair, models, job, teaching, tools)
        except (RuntimeError, TypeError) as error:
            problem = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            pair = f"steps launched: {problem}"
        if problem and tools.compile:  # not before its error has let go of the pair's memory
            pair = self._prepare(Tools(tools.on), models, job, teaching)
            if isinstance(pair, Pair):
                pair.remark = f"steps recorded, but not compiled: {problem}"
        if isinstance(pair, Pair) and pair.bytes > self._limit:
            pair = (
                f"steps launched: recorded they would keep {pair.bytes >> 20} MiB, more than "
                f"training.recorded_gib"
            )
        self._pairs[key] = pair
        self._give_way()
        return pair

    def _give_way(self) -> None:
        while sum(pair.bytes for pair in self._made()) > self._limit:
            oldest = next(key for key, pair in self._pairs.items() if isinstance(pair, Pair))
            del self._pairs[oldest]

    def _made(self) -> list[Pair]:
        return [pair for pair in self._pairs.values() if isinstance(pair, Pair)]


def _ready(
    pair: Pair | str | None,
    models: SessionModels,
    job: TrainingJob,
    teaching: Recordable | None,
    tools: Tools,
) -> Pair | str:
    """Make a pair that is not there yet, and record what it lacks; raises as `Pair`."""
    if pair is None:
        pair = Pair(models, job, teaching, tools)
    if isinstance(pair, Pair):
        pair.prepare(models, job)
    return pair


def _copy(to: nn.Module, source: nn.Module) -> None:
    """Copy all weights, by as few kernels as there can be."""
    own, theirs = to.state_dict(), source.state_dict()
    torch._foreach_copy_([*own.values()], [theirs[name] for name in own])
