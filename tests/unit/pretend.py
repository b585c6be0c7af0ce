"""A card that is not there: tensors in the host's memory that pass for a card's, and the rules by
which a card refuses what mixes both kinds, and by which the host waits for what it reads.

It computes as a CPU does. It shows where tensors would lie, not what a card makes of them.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace
from typing import Any, Self

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.utils import clip_grad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CARD, HOST = torch.device("cuda", 0), torch.device("cpu")
MEMORY = 80 << 30
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "bincount")
"""Operations of which the host needs the result, or its shape, before it goes on."""
BY_INDEX = ("index", "index_put", "index_put_", "_index_put_impl_")


def tensors_in(anything: Any) -> list[Tensor]:
    """List the tensors in arguments or results."""
    return [one for one in tree_leaves(anything) if isinstance(one, Tensor)]


class Card(TorchDispatchMode):
    """Knows which memory is the card's, sees to it that operations stay there, and counts for what
    the host waits.
    """

    def __init__(self) -> None:
        """Have no memory in use."""
        super().__init__()
        self._there: dict[int, StorageWeakRef] = {}
        self._asked, self._stack = _Asked(self), ExitStack()
        self.makes = False
        """What is made meanwhile out of nothing is the card's."""
        self.waits: Counter[str] = Counter()

    def __enter__(self) -> Self:
        """Be there, with all that PyTorch tells of a card."""
        super().__enter__()
        patches = self._stack.enter_context(pytest.MonkeyPatch.context())
        for name, answer in {
            "is_available": True,
            "device_count": 1,
            "get_device_name": "a card that is not there",
            "get_device_properties": SimpleNamespace(total_memory=MEMORY, major=9, minor=0),
            "mem_get_info": (MEMORY, MEMORY),
            "init": None,
        }.items():
            patches.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
        stream = SimpleNamespace(is_capturing=lambda: False)
        if hasattr(torch, "accelerator"):  # PyTorch 2.6
            patches.setattr(torch.accelerator, "current_stream", lambda: stream)
        patches.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        for where in (clip_grad, torch.optim.Optimizer):  # C++ does not ask
            grouped = where._group_tensors_by_device_and_dtype
            answer = partial(self._group, grouped)
            patches.setattr(where, "_group_tensors_by_device_and_dtype", staticmethod(answer))
        self._stack.enter_context(self._asked)
        return self

    def __exit__(self, *caught: object) -> None:
        """Be gone."""
        self._stack.close()
        super().__exit__(*caught)

    def _group(self, grouped: Any, tensors: Any, **kwargs: Any) -> Any:
        where = CARD if self.has(tensors[0][0]) else HOST
        return {(where, key[1]): found for key, found in grouped(tensors, **kwargs).items()}

    def has(self, tensor: Tensor) -> bool:
        """Tell whether a tensor lies there."""
        known = self._there.get(tensor.untyped_storage()._cdata)
        return known is not None and not known.expired()

    def take(self, found: Any) -> Any:
        """Let what was made pass for the card's."""
        for one in tensors_in(found):
            storage = one.untyped_storage()
            self._there[storage._cdata] = StorageWeakRef(storage)
        return found

    def give(self, tensor: Tensor) -> Tensor:
        """Let what was copied pass for the host's."""
        del self._there[tensor.untyped_storage()._cdata]
        return tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Carry an operation out where its tensors lie; refuse it where they do not lie together,
        but for single numbers, which may be the host's.
        """
        del types
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        given = tensors_in((args, kwargs))
        there = [one for one in given if self.has(one)]
        if name == "copy_":
            self.waits["reads"] += bool(there) and not self.has(args[0])
            return func(*args, **kwargs)
        if there:
            strangers = [one for one in given if not self.has(one) and one.ndim]
            if strangers and not (name in BY_INDEX and self.has(args[0])):
                raise RuntimeError(f"{name}: expected all tensors to be on the same device")
            masks = name in BY_INDEX and any(
                one.dtype in (torch.bool, torch.uint8) for one in tensors_in(args[1])
            )
            self.waits[name] += name in WAITS or masks or bool(strangers)
        result = func(*args, **kwargs)
        if there or (self.makes and not given):
            self.take([one for one in tensors_in(result) if not self.has(one)])
        return result


class _Asked(TorchFunctionMode):
    """Answers where tensors lie, and takes to the card what is to go there, or to the host."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self._card = card

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        kwargs, card = kwargs or {}, self._card
        there = any(map(card.has, tensors_in((args, kwargs))))
        if func == Tensor.device.__get__ and there:
            return CARD
        if func == Tensor.is_cuda.__get__:
            return there
        if func in (Tensor.to, Tensor.cpu, Tensor.cuda):
            return self._bring({Tensor.cpu: HOST, Tensor.cuda: CARD}.get(func), *args, **kwargs)
        if func is Tensor.pin_memory:
            args[0].pinned = True
            return args[0]
        if func is Tensor.backward:
            return self._back(*args)
        if func is Tensor.numpy and there:
            raise TypeError("cannot convert a tensor on a card to numpy")
        card.waits["reads"] += func is Tensor.tolist and there
        made = torch.device(kwargs.get("device") or HOST).type == "cuda"
        kwargs |= {"device": HOST} if made else {}
        before, card.makes = card.makes, card.makes or there
        try:
            found = func(*args, **kwargs)
        finally:
            card.makes = before
        return card.take(found) if made or (func is Tensor.__deepcopy__ and there) else found

    def _back(self, loss: Tensor) -> None:
        """Go back from a loss; PyTorch takes this mode out for what is called through it."""
        ones = torch.ones_like(loss)
        with self:
            _engine_run_backward(
                (loss,), (ones,), False, False, (), allow_unreachable=True, accumulate_grad=True
            )

    def _bring(self, where: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Do what `Tensor.to` does."""
        there, flags = self._card.has(tensor), ["non_blocking", "copy"]
        for one in args:
            if isinstance(one, Tensor):
                where, kwargs["dtype"] = one.device, one.dtype
            elif isinstance(one, torch.dtype):
                kwargs["dtype"] = one
            elif isinstance(one, bool):
                kwargs[flags.pop(0)] = one
            elif one is not None:
                where = one
        where = kwargs.pop("device", where)
        to = torch.device(where) if where else None
        if to is None or to.type == (tensor.device.type if not there else "cuda"):
            return Tensor.to(tensor, **kwargs)
        if to.type == "meta" or tensor.is_meta:
            return Tensor.to(tensor, to, **kwargs)
        waits = not (kwargs.pop("non_blocking", False) and hasattr(tensor, "pinned"))
        self._card.waits["reads" if there else "writes"] += waits
        found = Tensor.to(tensor.detach(), **{**kwargs, "copy": True})
        return self._card.give(found) if there else self._card.take(found)
