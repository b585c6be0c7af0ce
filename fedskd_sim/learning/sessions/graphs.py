"""Work that is recorded once and replayed, as a CUDA graph, and what a replay would miss: which
memory the work reads that is not its own, and what a network keeps where no replay reaches it.

This is all of recorded steps that differs on CUDA. Tests have a twin for a CPU, which notes every
operation with its memory and carries out these and nothing else.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar, Protocol, Self, TypeVar
from warnings import catch_warnings, filterwarnings
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor, UntypedStorage, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WARM_UPS = 2
"""How often work runs before it is recorded, and once more, as PyTorch's notes on CUDA graphs ask:
libraries choose their kernels and make their workspaces meanwhile."""
STREAMS = 32
"""How many PyTorch has for a device."""
MUCH = 1 << 30
"""Bytes that are worth giving back: that takes about a millisecond, and taking them again more."""
Result = TypeVar("Result")


class Recorder(Protocol):
    """Records work whose operations, memory and shapes never change."""

    def record(self, act: Callable[[], Result]) -> Callable[[], Result]:
        """Run work, and give what runs it again; its results lie where they lay, and are lost when
        anything recorded here runs again.

        Raises:
            RuntimeError: it cannot be recorded.

        """

    def aside(self) -> AbstractContextManager[object]:
        """Launch work where it would be recorded."""

    def drawn(self) -> Hashable:
        """Return how far random numbers have got that are drawn where nothing is recorded."""

    def reserved(self) -> int:
        """Count the bytes in use on the device; waits for it."""

    def tidy(self) -> None:
        """Free what steps that are not recorded have left of memory, if it is much."""

    def afresh(self) -> Self:
        """Free the memory of what nobody holds any more, and return one that is empty."""


class CudaGraphs:
    """Graphs on one CUDA device that share one pool of memory: they never run at the same time.

    They die together, those too that nobody uses: up to PyTorch 2.14 the end of one takes memory
    for products of matrices from all others that were captured on its stream.
    """

    _all: ClassVar[WeakSet[CudaGraphs]] = WeakSet()

    def __init__(self, device: str, aside: torch.cuda.Stream | None = None) -> None:
        """Take a device, and the stream to capture on; nothing happens on it yet."""
        where = torch.device(device)
        self.device = torch.device(where.type, where.index or 0)
        self.stream = aside
        self._pool: Any = None
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self.kept = 0
        self._all.add(self)

    def record(self, act: Callable[[], Result]) -> Callable[[], Result]:
        """Warm up on another stream, capture the work there, and give what launches the graph.

        The host's other threads may go on using the device meanwhile.
        """
        with torch.cuda.device(self.device), _collected():
            torch.cuda.empty_cache()  # else what was launched keeps memory from the other stream
            with self.aside() as aside:
                for _ in range(WARM_UPS):
                    act()
                with _unwaiting():
                    act()
            here = torch.cuda.current_stream()
            before, graph, mode = self.reserved(), torch.cuda.CUDAGraph(), "thread_local"
            self._graphs.append(graph)
            pool, self._pool = self._pool, None  # one in which a capture has failed is of no use
            try:
                with torch.cuda.graph(graph, pool, stream=aside, capture_error_mode=mode):
                    result = act()
            finally:  # a capture that fails leaves its stream the current one
                torch.cuda.set_stream(here)
        self._pool = graph.pool()
        self.kept += self.reserved() - before

        def replay() -> Result:
            graph.replay()
            return result

        return replay

    @contextmanager
    def aside(self) -> Iterator[torch.cuda.Stream]:
        """Launch on the stream on which all is captured: memory that one graph has freed is
        another's only there, and gradients belong to the stream that a parameter was first used on.

        Raises:
            RuntimeError: others that are at work have all streams of the process.

        """
        with torch.cuda.device(self.device):
            if self.stream is None:
                self.stream = self._unused()
            here = torch.cuda.current_stream()
            self.stream.wait_stream(here)
            try:
                with torch.cuda.stream(self.stream):
                    yield self.stream
            finally:  # memory that was used there may be freed and used again now
                here.wait_stream(self.stream)

    def _unused(self) -> torch.cuda.Stream:
        """Find a stream that no other graphs were captured on: PyTorch has a few, and gives them
        again.
        """
        taken = [one.stream for one in self._all if one.device == self.device]
        for _ in range(STREAMS):
            if (stream := torch.cuda.Stream()) not in taken:
                return stream
        raise RuntimeError("too many hospitals of this process have recorded steps on this card")

    def drawn(self) -> Hashable:
        """Return the host's: Python's, NumPy's and PyTorch's."""
        numpys: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - others draw so
        words = [
            one.tobytes() if isinstance(one, np.ndarray) else one for one in tree_leaves(numpys)
        ]
        return random.getstate(), *words, torch.get_rng_state().numpy().tobytes()

    def reserved(self) -> int:
        """Count what PyTorch's allocator has taken from the device for this process and uses."""
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved(self.device)

    def tidy(self) -> None:
        """Empty PyTorch's cache where it is large: the other hospitals' memory is the same card's,
        and graphs, which keep theirs, cannot use what is outside it.
        """
        kept = sum(one.kept for one in self._all if one.device == self.device)
        taken = torch.cuda.memory_reserved(self.device) - kept
        if taken - torch.cuda.memory_allocated(self.device) > MUCH:
            torch.cuda.empty_cache()

    def afresh(self) -> Self:
        """Return graphs with a pool of their own; that of these is freed with the last of them."""
        self._graphs.clear()
        gc.collect()  # compiled networks lie in circles
        torch.cuda.empty_cache()
        return type(self)(str(self.device), self.stream)


@contextmanager
def _collected() -> Iterator[None]:
    """Collect what lies in circles, and nothing more until the end: a capture must not meet the
    end of what it does not know.
    """
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def _unwaiting() -> Iterator[None]:
    """Refuse, by a RuntimeError, what waits for the device: in a capture it would be refused too,
    and up to PyTorch 2.13 a capture that fails spoils what comes after it.
    """
    before = torch.cuda.get_sync_debug_mode()
    try:
        with catch_warnings():
            filterwarnings("ignore", "Synchronization debug mode")  # that it is a prototype
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


PLAIN = (bool, int, float, str, type(None))


class Reads(TorchDispatchMode):
    """Notes the memory of all operations that are carried out meanwhile."""

    def __init__(self) -> None:
        """Have noted none."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._read: dict[int, UntypedStorage] = {}
        self._made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Carry out and note."""
        del types
        result = func(*args, **(kwargs or {}))
        read = storages((args, kwargs))
        self._read |= {place: one for place, one in read.items() if place not in self._made}
        self._made |= storages(result).keys() - self._read.keys()
        return result

    def of_others(self) -> dict[int, UntypedStorage]:
        """Return the memory that was read and had not been made meanwhile, by address."""
        return self._read


def storages(anything: Any) -> dict[int, UntypedStorage]:
    """Return the memory of all tensors in something, by address."""
    tensors = (one for one in tree_leaves(anything) if isinstance(one, Tensor))
    found = (one.untyped_storage() for one in tensors)
    return {one.data_ptr(): one for one in found}


def held(network: nn.Module) -> dict[int, UntypedStorage]:
    """Return the memory of what its modules hold, by address: weights, buffers, other tensors."""
    return storages([vars(module) for module in network.modules()])


def apart(network: nn.Module) -> list[object]:
    """Return what a network keeps besides its state_dict, as far as it can be compared: plain
    attributes of its modules, and buffers that do not travel.
    """
    travels = network.state_dict().keys()
    return [
        *(
            (name, key, value)
            for name, module in network.named_modules()
            for key, value in vars(module).items()
            if isinstance(value, PLAIN)
        ),
        *(
            (name, buffer.flatten().tolist())
            for name, buffer in network.named_buffers()
            if name not in travels
        ),
    ]
