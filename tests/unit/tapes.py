"""What a CUDA graph is on a card, on a CPU: every operation of a piece of work is noted with its
memory, and replaying carries out these and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fedskd_sim.learning.sessions.graphs import storages

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero")
"""Operations that no graph may have, since the host waits for what comes of them."""


class Tape(TorchDispatchMode):
    """Notes what reaches the device while work runs, and does it again."""

    def __init__(self) -> None:
        """Have noted nothing."""
        super().__init__()
        self.noted: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Carry out and note; refuse what waits."""
        del types
        if func.overloadpacket.__name__ in WAITS:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        result = func(*args, **(kwargs or {}))
        self.noted.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def play(self) -> None:
        """Carry out everything that was noted, its results where they lay."""
        for func, args, kwargs, result in self.noted:
            again = func(*args, **kwargs)
            for kept, new in zip(_of(result), _of(again), strict=True):
                if kept.data_ptr() != new.data_ptr():
                    kept.copy_(new)

    def read(self) -> list[StorageWeakRef]:
        """Give the memory that was read without having been made here, and whether it lives."""
        made = {place for *_, result in self.noted for place in storages(result)}
        read = {
            place: StorageWeakRef(one)
            for _, args, kwargs, _ in self.noted
            for place, one in storages((args, kwargs)).items()
        }
        return [there for place, there in read.items() if place not in made]


def _of(anything: Any) -> list[Tensor]:
    return [one for one in tree_leaves(anything) if isinstance(one, Tensor)]


class Tapes:
    """Records work as CUDA graphs do; random numbers are the device's, which here is the host."""

    def record(self, act: Callable[[], Any]) -> Callable[[], Any]:
        """Note the work's operations, and give what carries them out."""
        with Tape() as tape:
            result = act()

        def replay() -> Any:
            tape.play()
            return result

        return replay

    def aside(self) -> AbstractContextManager[object]:
        """Do nothing: there is one place."""
        return nullcontext()

    def drawn(self) -> Hashable:
        """Tell of none: a tape draws again."""
        return None

    def reserved(self) -> int:
        """Count nothing: memory is not a device's."""
        return 0

    def tidy(self) -> None:
        """Do nothing."""

    def afresh(self) -> Self:
        """Give itself: it holds nothing."""
        return self
