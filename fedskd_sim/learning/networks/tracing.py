"""Shapes without values: what PyTorch need not do on the meta device to know what an architecture
looks like.

There random draws, normalisations and some activations run through PyTorch's compiler, whose import
alone takes a second or two.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

FILLS: frozenset[Callable[..., Any]] = frozenset(
    {
        Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_, nn.init.normal_,
        nn.init.uniform_, nn.init.constant_, nn.init.trunc_normal_, nn.init.kaiming_normal_,
        nn.init.kaiming_uniform_, nn.init.xavier_normal_, nn.init.xavier_uniform_,
    }
)  # fmt: skip
"""What gives a tensor, its first argument, other values."""
KEEPS_SHAPE: frozenset[Callable[..., Any]] = frozenset(
    {
        functional.group_norm, functional.layer_norm, functional.batch_norm, functional.hardswish,
        functional.hardsigmoid, functional.silu, functional.relu, functional.gelu,
    }
)  # fmt: skip
"""What gives a tensor of the shape of its first argument, and is no operation that PyTorch's
counter counts."""


class Skipping(TorchFunctionMode):
    """Within it some functions give their first argument as it is."""

    def __init__(self, functions: Collection[Callable[..., Any]]) -> None:
        """Say which."""
        super().__init__()
        self._functions = functions

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] = MappingProxyType({}),
    ) -> Any:
        """Pass a function by, or call it."""
        del types
        return (
            (args[0] if args else kwargs["tensor"])
            if func in self._functions
            else func(*args, **kwargs)
        )


def without_values() -> Skipping:
    """Give no tensor a value, which on the meta device nothing can see."""
    return Skipping(FILLS)


def shapes_only() -> Skipping:
    """Leave out what changes no shape, either: for architectures of which that is known to fail
    with no input.
    """
    return Skipping(FILLS | KEEPS_SHAPE)
