"""Networks that wait for models on their way here, so that what arrives is written straight into a network's memory.

Building a ResNet-18 takes longer than its transfer between two processes of one machine (27 and 17 ms): so it is done before, while
the model trains elsewhere. What comes otherwise than expected finds plain memory, and its network is built then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fedskd_sim.messages import Weights, plain_room

Build = Callable[[str], tuple[Any, Weights]]
"""Gives the network of a hospital's model, without values, and the memory of its tensors; or None and no memory."""


@dataclass
class _Berth:
    network: Any
    memory: dict[str, memoryview]
    given: dict[str, memoryview] = field(default_factory=dict)


class Berths:
    """`prepare` and `take` belong to the thread that trains, `room` to the one that receives."""

    def __init__(self) -> None:
        """Have none, until somebody knows how to build networks."""
        self.build: Build | None = None
        self._berths: dict[str, _Berth] = {}

    def prepare(self, model: str) -> None:
        """Make a network ready for a model that comes next; one that stands ready stays."""
        held = self._berths.get(model)
        if self.build is None or (held and not held.given):
            return
        network, weights = self.build(model)
        if network is not None:
            memory = {name: buffer.data for name, buffer in weights.items() if isinstance(buffer.data, memoryview)}
            self._berths[model] = _Berth(network, memory)

    def room(self, model: str, tensor: str, size: int) -> memoryview:
        """Give memory for a tensor that arrives: once that of the network which waits for it."""
        berth = self._berths.get(model)
        found = berth.memory.pop(tensor, None) if berth else None
        if berth is None or found is None or len(found) != size:
            return plain_room(model, tensor, size)
        berth.given[tensor] = found
        return found

    def drop(self, model: str) -> None:
        """Forget the network of a model that has arrived and needs none."""
        self._berths.pop(model, None)

    def take(self, model: str, weights: Weights) -> Any | None:
        """Give the network in whose memory exactly these weights have arrived; None if there is none."""
        berth = self._berths.pop(model, None)
        if berth is None or berth.memory:
            return None
        apart = any(len(buffer.data) and buffer.data is not berth.given.get(name) for name, buffer in weights.items())
        return None if apart else berth.network
