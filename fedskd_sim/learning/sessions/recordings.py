"""What a hospital has recorded, within what it may keep of its card's memory."""

from __future__ import annotations

from collections.abc import Hashable
from weakref import WeakKeyDictionary

import torch
from torch import nn

from fedskd_sim.learning.sessions.compiled import Compile, compiler
from fedskd_sim.learning.sessions.graphs import CudaGraphs, Recorder
from fedskd_sim.learning.sessions.recorded import Pair, Tools
from fedskd_sim.learning.sessions.session import Launched, SessionModels, Steps, TrainingJob
from fedskd_sim.learning.sessions.steps import Recordable, Teaching
from fedskd_sim.scenario import Architecture, Training

OF_THE_SHARE = 0.5
"""Of a hospital's share of a card, what its recorded steps keep where the scenario does not say."""
PASSING = "the card's memory did not suffice"
"""A reason that may be gone in the next session."""


def of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory did not suffice; compilers have errors of their own
    around it.
    """
    inner = error.__cause__ or getattr(error, "inner_exception", None)
    full = isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)
    return full or (isinstance(inner, BaseException) and of_memory(inner))


def of_a_card(error: BaseException) -> bool:
    """Tell whether a card has failed, and not only refused to be recorded; older versions of
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
        self._pairs: dict[Hashable, Pair | str] = {}
        self._architectures: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()

    @classmethod
    def of(cls, device: str, training: Training, share: float) -> Recordings:
        """Record where steps run faster than a host can launch them: on CUDA. ``share`` is what the
        hospital has of its card, in bytes.
        """
        records, most = device.startswith("cuda") and training.recorded_steps, training.recorded_gib
        limit = OF_THE_SHARE * share if most is None else most * 2**30
        return cls(CudaGraphs(device) if records else None, limit, compiler(training))

    def know(self, network: nn.Module, architecture: Architecture) -> nn.Module:
        """Note the architecture of a network, and give the network."""
        self._architectures[network] = architecture.model_dump_json()
        return network

    def begin(self, models: SessionModels, job: TrainingJob, teaching: Teaching | None) -> Steps:
        """Begin a session: on recorded steps, or on launched ones that say why.

        Raises:
            OutOfMemoryError, AcceleratorError: of PyTorch, where networks are compiled: launched
                steps would give other bytes.

        """
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
        if kept > self._limit and isinstance(found, Pair):
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
    ) -> Pair | str:
        """Make a pair that is not there yet and record what it lacks, compiled if it can be."""
        pair, problem, whole, kept = self._pairs.get(key), "", 0, 0
        try:
            if not isinstance(pair, Pair):
                pair = Pair(models, job, teaching, tools)
            pair.prepare(models, job, teaching)
        except (RuntimeError, TypeError) as error:
            full = of_memory(error)
            if tools.compile and (full or of_a_card(error)):
                raise
            # how much was free differs from run to run: not for a record
            said = PASSING if full else str(error).partition("\n")[0]
            whole, kept = tools.on.reserved(), pair.bytes if isinstance(pair, Pair) else 0
            pair, problem = None, f"{type(error).__name__}: {said}"
        if pair is not None:
            return pair
        self._pairs.pop(key, None)  # ... and with its error it lets go of its memory, graphs stay
        self._refused += max(0, kept - (whole - tools.on.reserved()))
        if not tools.compile:
            return f"steps launched: {problem}"
        pair = self._ready(key, Tools(tools.on), models, job, teaching)
        if isinstance(pair, Pair):
            pair.remark = f"steps recorded, but not compiled: {problem}"
        return pair

    def _key(
        self, models: SessionModels, job: TrainingJob, teaching: Recordable | None
    ) -> Hashable:
        """Say what sessions must have in common to take the same recorded steps."""
        names = tuple((role, self._architectures[model]) for role, model in models.by_role.items())
        taught = type(teaching).__name__, len(teaching.tensors()) if teaching else 0
        size = min(job.training.batch_size, len(job.samples.labels))
        return names, models.every, models.teaches, taught, size

    def _give_up(self, tools: Tools) -> Tools:
        """Give up all pairs, when they are no longer at work; gives what to record on from now."""
        tools.on.reserved()
        self._refused = 0
        self._pairs = {key: pair for key, pair in self._pairs.items() if isinstance(pair, str)}
        self._tools = Tools(tools.on.afresh(), tools.compile)
        return self._tools

    @property
    def _kept(self) -> int:
        """The bytes that all pairs keep, and graphs of those that were refused."""
        pairs = (pair for pair in self._pairs.values() if isinstance(pair, Pair))
        return self._refused + sum(pair.bytes for pair in pairs)
