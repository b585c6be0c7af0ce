"""Networks that wait for models on their way here, so that what arrives is written straight into a
network's memory.

Building a ResNet-18 takes longer than its transfer between two processes of one machine (27 and 17
ms): so it is done before, while the model trains elsewhere. What comes otherwise than expected
finds plain memory, and its network is built then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fedskd_sim.messages import Weights, allocate_plain

Build = Callable[[str], tuple[Any, Weights]]
"""Gives the network of a hospital's model, without values, and the memory of its tensors; or None
and no memory."""


@dataclass
class _ReceiveBuffer:
    network: Any
    memory: dict[str, memoryview]
    given: dict[str, memoryview] = field(default_factory=dict)


class ReceiveBuffers:
    """`prepare` and `take` belong to the thread that trains, `allocate` to the one that
    receives.

    The two share a network's memory without a lock. It is safe because memory is given out once,
    by a single `dict.pop`, and a model is handed to the thread that trains through a queue after
    its last byte has been written: nobody writes what is being trained. Where the threads cross, as
    when a network is prepared anew while the model already arrives, the tensors lie in several
    places; `take` notices that and gives no network, which costs building one and mixes nothing.
    """

    def __init__(self) -> None:
        """Begin with fresh memory for whatever arrives: only the learner knows the networks, and
        sets ``build``.
        """
        self.build: Build | None = None
        self._buffers: dict[str, _ReceiveBuffer] = {}

    def prepare(self, model: str) -> None:
        """Make a network ready for a model that comes next; one that stands ready stays."""
        held = self._buffers.get(model)
        if self.build is None or (held and not held.given):
            return
        network, weights = self.build(model)
        if network is not None:
            memory = {
                name: buffer.data
                for name, buffer in weights.items()
                if isinstance(buffer.data, memoryview)
            }
            self._buffers[model] = _ReceiveBuffer(network, memory)

    def allocate(self, model: str, tensor: str, size: int) -> memoryview:
        """Return memory for a tensor that arrives: once that of the network which waits for it."""
        waiting = self._buffers.get(model)
        found = waiting.memory.pop(tensor, None) if waiting else None
        if waiting is None or found is None or len(found) != size:
            return allocate_plain(model, tensor, size)
        waiting.given[tensor] = found
        return found

    def drop(self, model: str) -> None:
        """Forget the network of a model that has arrived and needs none."""
        self._buffers.pop(model, None)

    def take(self, model: str, weights: Weights) -> Any | None:
        """Return the network in whose memory exactly these weights have arrived; None if there is
        none.
        """
        waiting = self._buffers.pop(model, None)
        if waiting is None or waiting.memory:
            return None
        apart = any(
            len(buffer.data) and buffer.data is not waiting.given.get(name)
            for name, buffer in weights.items()
        )
        return None if apart else waiting.network
