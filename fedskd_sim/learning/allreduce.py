"""A sum over all hospitals without a server: a ring all-reduce, reduce-scatter and then all-gather.

Every hospital's vector is cut into K chunks. Chunk k sets out at hospital k; at each of K-1 hops the host adds its own, then the
finished sum goes round. Every chunk is added up in one place, so that all hospitals end with the same bytes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from fedskd_sim.learning.weights import buffer_of, tensor_of
from fedskd_sim.messages import Spec, TensorSpec, Weights
from fedskd_sim.topology import Stop, Topology

SUM, WEIGHT = "sum", "weight"


class Total(NamedTuple):
    """The sum over all hospitals of their vectors (length,), and of their weights."""

    vector: Tensor
    weight: float


class RingSum:
    """One hospital's side of the sums, one at a time."""

    def __init__(self, topology: Topology, host: str, length: int) -> None:
        """Cut vectors of ``length`` numbers, float32, into as many chunks as there are hospitals."""
        self._topology, self._host = topology, host
        cuts = [length * index // topology.size for index in range(topology.size + 1)]
        self._spans = dict(zip(topology.hospitals, pairwise(cuts), strict=True))
        self._own = torch.empty(0)
        self._weight = 0.0
        self._done: dict[str, Total] = {}

    def form(self, chunk: str) -> Spec:
        """Say what the chunk of a hospital looks like on its way."""
        low, high = self._spans[chunk]
        return {SUM: TensorSpec("float32", (high - low,)), WEIGHT: TensorSpec("float64", (1,))}

    def begin(self, vector: Tensor, weight: float) -> Weights:
        """Start a sum with the own share, a vector (length,); gives the own chunk, which sets out."""
        self._own, self._weight, self._done = vector.float().cpu(), weight, {}
        return self._packed(self._share(self._host), weight)

    def visit(self, stop: Stop, arriving: Weights) -> Weights:
        """Add the own share to a chunk on its way, or keep one that is finished; gives what goes on."""
        if stop.kind == "reduce":
            total = tensor_of(arriving[SUM]) + self._share(stop.model)
            arriving = self._packed(total, float(tensor_of(arriving[WEIGHT])) + self._weight)
        if stop.kind == "gather" or stop.hop == self._topology.size - 1:
            self._done[stop.model] = Total(tensor_of(arriving[SUM]).clone(), float(tensor_of(arriving[WEIGHT])))
        return arriving

    @property
    def total(self) -> Total | None:
        """The sum, once all of it has come by."""
        if len(self._done) < self._topology.size:
            return None
        return Total(torch.cat([self._done[name].vector for name in self._topology.hospitals]), self._done[self._host].weight)

    def _share(self, chunk: str) -> Tensor:
        low, high = self._spans[chunk]
        return self._own[low:high]

    def _packed(self, total: Tensor, weight: float) -> Weights:
        return {SUM: buffer_of(total), WEIGHT: buffer_of(torch.tensor([weight], dtype=torch.float64))}
