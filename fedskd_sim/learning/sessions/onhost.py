"""What a replayed step would miss: which memory it reads that is not its own, and what a network
keeps where no replay reaches it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, UntypedStorage, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

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
        """Give the memory that was read and had not been made meanwhile, by address."""
        return self._read


def storages(anything: Any) -> dict[int, UntypedStorage]:
    """Give the memory of all tensors in something, by address."""
    tensors = (one for one in tree_leaves(anything) if isinstance(one, Tensor))
    found = (one.untyped_storage() for one in tensors)
    return {one.data_ptr(): one for one in found}


def held(network: nn.Module) -> dict[int, UntypedStorage]:
    """Give the memory of what its modules hold, by address: weights, buffers, other tensors."""
    return storages([vars(module) for module in network.modules()])


def apart(network: nn.Module) -> list[object]:
    """Give what a network keeps besides its state_dict, as far as it can be compared: plain
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
