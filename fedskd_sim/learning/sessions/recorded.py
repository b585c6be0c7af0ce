"""Sessions whose steps are recorded once for a pair of architectures and then replayed.

A recorded step reads and writes the same memory each time. So a pair has networks, optimisers and
a batch of its own: a session copies its models in, and at its end out again.

Only what happens on the device is replayed. A network that counts its calls, or draws random
numbers on the host, would always do as it did when its steps were recorded; so it is launched, and
a recording has to give what launched steps give, before it is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from itertools import cycle, islice
from typing import NamedTuple

import torch
from torch import Tensor, UntypedStorage, nn

from fedskd_sim.learning.data import Samples, as_input
from fedskd_sim.learning.sessions.compiled import Compile, as_written
from fedskd_sim.learning.sessions.graphs import Recorder
from fedskd_sim.learning.sessions.onhost import Reads, apart, held
from fedskd_sim.learning.sessions.session import SessionModels, TrainingJob, count_steps
from fedskd_sim.learning.sessions.steps import (
    Moment,
    Recordable,
    Seen,
    Setting,
    make_optimiser,
    set_rate,
    take,
)
from fedskd_sim.learning.sessions.teaching import Exchange

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
        self._read: dict[int, UntypedStorage] = {}
        self._on, self._training, self.remark = tools.on, job.training, ""
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
        self._setting = Setting(
            copies.by_role, optimisers, job.class_weights.clone(), job.training, self._teaching
        )
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
        moments = [*self._full(models, job)]
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
        if (
            self._compiled and kind not in self._worth
        ):  # else bytes would depend on earlier sessions
            recorded = None
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
        """Give what a few steps see and leave, from the same beginning each time, on the host: a
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
            set_rate(optimiser, self._training, moment)
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
