"""A sum over all hospitals without a server: a ring all-reduce, reduce-scatter and then all-gather.

Every hospital's vector is cut into K chunks. Chunk k sets out at hospital k; at each of K-1 hops
the host adds its own, then the finished sum goes round. Every chunk is added up in one place, so
that all hospitals end with the same bytes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedskd_sim.learning.algorithms.local import LocalLearner
from fedskd_sim.learning.base import LearnerState, Session
from fedskd_sim.learning.site import Site
from fedskd_sim.learning.weights import buffer_of, tensor_of
from fedskd_sim.messages import Forms, Spec, TensorSpec, Weights
from fedskd_sim.ring.topology import Stop, Topology
from fedskd_sim.scenario import AlgorithmKeys, AllReduceKeys

SUM, WEIGHT = "sum", "weight"
SHARE, DONE = "share", "sum/"


class Total(NamedTuple):
    """A vector and a weight: a hospital's part of a sum, as `AllReduceLearner.share` returns it, or
    the sum over all hospitals, as `AllReduceLearner.take` gets it.

    >>> share = Total(torch.tensor([2.0, 4.0]) * 10, 10.0)  # a mean, weighted by ten samples
    >>> (share.vector / share.weight).tolist()
    [2.0, 4.0]

    """

    vector: Tensor
    """(length,); of a whole sum float32, on the CPU."""
    weight: float
    """Such as a number of samples."""


class RingSum:
    """One hospital's side of the sums, one at a time."""

    def __init__(self, topology: Topology, host: str, length: int) -> None:
        """Cut vectors of ``length`` numbers, float32, into as many chunks as there are
        hospitals.
        """
        self._topology, self._host = topology, host
        cuts = [length * index // topology.size for index in range(topology.size + 1)]
        self._spans = dict(zip(topology.hospitals, pairwise(cuts), strict=True))
        self._own: Weights = {}
        self._done: dict[str, Weights] = {}

    def form(self, chunk: str) -> Spec:
        """Return what the chunk of a hospital looks like on its way."""
        low, high = self._spans[chunk]
        return {SUM: TensorSpec("float32", (high - low,)), WEIGHT: TensorSpec("float64", (1,))}

    def begin(self, vector: Tensor, weight: float) -> Weights:
        """Start a sum with the own share, a vector (length,); gives the own chunk, which sets
        out.
        """
        self._own, self._done = _pack(vector.float().cpu(), weight), {}
        return _pack(self._share(self._host), weight)

    def visit(self, stop: Stop, arriving: Weights) -> Weights:
        """Add the own share to a chunk on its way, or keep one that is finished; gives what goes
        on.
        """
        if stop.kind == "reduce":
            total = tensor_of(arriving[SUM]) + self._share(stop.model)
            arriving = _pack(
                total, float(tensor_of(arriving[WEIGHT])) + float(tensor_of(self._own[WEIGHT]))
            )
        if stop.kind == "gather" or stop.hop == self._topology.size - 1:
            self._done[stop.model] = {
                name: buffer._replace(data=bytes(buffer.data)) for name, buffer in arriving.items()
            }
        return arriving

    @property
    def total(self) -> Total | None:
        """The sum over all hospitals and its weight, its chunks joined in ring order; None until
        all of them have come by, finished.
        """
        if len(self._done) < self._topology.size:
            return None
        vector = torch.cat([tensor_of(self._done[name][SUM]) for name in self._topology.hospitals])
        return Total(vector, float(tensor_of(self._done[self._host][WEIGHT])))

    def groups(self) -> Mapping[str, Weights]:
        """Return what a restart in the midst of a sum needs: the own share, and the chunks that
        are finished; then nothing.
        """
        if len(self._done) == self._topology.size:
            return {}
        return {SHARE: self._own, **{DONE + name: chunk for name, chunk in self._done.items()}}

    def restore(self, groups: Mapping[str, Weights]) -> None:
        """Take back what `groups` gave, which may be among others."""
        self._own = groups.get(SHARE, {})
        self._done = {
            name.removeprefix(DONE): chunk
            for name, chunk in groups.items()
            if name.startswith(DONE)
        }

    def _share(self, chunk: str) -> Tensor:
        low, high = self._spans[chunk]
        return tensor_of(self._own[SUM])[low:high]


def _pack(total: Tensor, weight: float) -> Weights:
    return {SUM: buffer_of(total), WEIGHT: buffer_of(torch.tensor([weight], dtype=torch.float64))}


class AllReduceLearner(LocalLearner, ABC):
    """Base of methods that add up a vector over all hospitals after every session. Models stay at
    home; chunks of the sum travel around the ring.

    Define `length`, `share` and `take`. To gather instead of add, give every hospital a slot of its
    own in the vector, with zeros elsewhere: the sum then holds what each one has. Their names are
    ``self.site.scenario.members``.
    """

    keys = AllReduceKeys

    def __init__(self, site: Site, config: AlgorithmKeys) -> None:
        """Look up what travels; nothing is loaded or trained yet."""
        super().__init__(site, config)
        if type(self.length) is not int or self.length < 0:
            text = f"{type(self).__name__}.length is {self.length!r}"
            raise TypeError(f"{text}: give how many numbers a vector has, an int")
        self._sum = RingSum(site.context.topology, site.name, self.length)
        self.expected: Mapping[str, Forms] = {
            name: (*forms, self._sum.form(name)) for name, forms in self.expected.items()
        }

    @property
    @abstractmethod
    def length(self) -> int:
        """The number of elements of the vector, the same at every hospital."""

    @abstractmethod
    def share(self, round_: int) -> Total:
        """Return this hospital's part of a round's sum: a float vector (length,), added up in
        float32, and a finite weight. Anything else raises TypeError or ValueError.
        """

    @abstractmethod
    def take(self, total: Total) -> None:
        """Use the sum over all hospitals and the sum of their weights, as for a mean. It is called
        once a round, as soon as the whole sum is here.
        """

    def depart(self, round_: int) -> Weights:
        """Begin the sum with `share` and return the own chunk; for the evaluation the own model."""
        if round_ > self.config.rounds:
            return super().depart(round_)
        self.site.settle()
        return self._sum.begin(*self._checked(self.share(round_)))

    def _checked(self, given: Any) -> Total:
        """Return the own share; raises TypeError or ValueError for what cannot be summed."""
        what = f"{type(self).__name__}.share"
        if not isinstance(given, tuple) or len(given) != len(Total._fields):
            found = "None (is a return missing?)" if given is None else type(given).__name__
            raise TypeError(f"{what} has to give Total(vector, weight), not {found}")
        vector, weight = given
        if not isinstance(vector, Tensor) or not vector.is_floating_point():
            found = str(vector.dtype) if isinstance(vector, Tensor) else type(vector).__name__
            raise TypeError(f"{what} has to give a vector of floats, a tensor, not {found}")
        if vector.ndim != 1:
            shape = (*vector.shape,)
            raise ValueError(f"{what} has to give a vector ({self.length},), not a tensor {shape}")
        if len(vector) != self.length:
            text = f"{what} gave {len(vector)} numbers, and its length is {self.length}"
            raise ValueError(text)
        if not isinstance(weight, int | float | Tensor) or not math.isfinite(weight):
            raise ValueError(f"{what} has to give a finite number as weight, not {weight!r}")
        return Total(vector, float(weight))

    def visit(self, stop: Stop, arriving: Weights) -> Session:
        """Add the own share to a chunk on its way, or keep a finished one; after the last call
        `take`.
        """
        self.site.settle()
        leaving = self._sum.visit(stop, arriving)
        if (total := self._sum.total) is not None:
            self.take(total)
        return Session(leaving, "passed")

    def state(self) -> LearnerState:
        """Return the own model, and a sum that is not complete yet."""
        return super().state().plus({}, self._sum.groups())

    def restore(self, state: LearnerState) -> None:
        """Continue with the model and the sum of a state."""
        super().restore(state)
        self._sum.restore(state.weights)
