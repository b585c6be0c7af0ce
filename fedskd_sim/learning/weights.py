"""Sets of tensors that travel: to buffers and back, without a copy where memory allows, two of them
together, and as safetensors files for people; how far a session has moved them, whether their
numbers are numbers, and how they are made wrong on purpose.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import chain
from math import prod
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fedskd_sim.learning.base import Measures
from fedskd_sim.messages import Buffer, Spec, TensorSpec, Weights
from fedskd_sim.records import Measure
from fedskd_sim.wholefiles import drafted, settle

FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})
_DTYPES = {
    name: getattr(torch, name)
    for name in (
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
    )
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_VIEWS: WeakKeyDictionary[nn.Module, tuple[list[int], Weights]] = WeakKeyDictionary()
"""The views of models whose tensors are views, not copies, and where those tensors lie (their
memory cannot be anybody else's)."""
_SHOWN: WeakKeyDictionary[nn.Module, tuple[list[int], Weights]] = WeakKeyDictionary()
"""The views of models that `view` gave last, and how often each of their tensors had been written
to by then."""


def export(model: nn.Module) -> Weights:
    """Return a model's parameters and buffers by name, in the form in which weights travel. On a
    CPU they share memory with the model, so that later training shows in them; `snapshot` copies.
    """
    # kept while the tensors stay in place: making the views of a ResNet-18 takes 0.9 ms of a hop
    places = [tensor.data_ptr() for tensor in chain(model.parameters(), model.buffers())]
    kept = _VIEWS.get(model)
    if kept and kept[0] == places:
        return kept[1]
    state = model.state_dict()
    views = {name: buffer_of(tensor) for name, tensor in _on_host(state).items()}
    if all(tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in state.values()):
        _VIEWS[model] = places, views
    return views


def view(model: nn.Module | None) -> Weights | None:
    """View a model's weights like `export`; what is the same object as before has not changed
    since, as PyTorch counts writes.
    """
    if model is None:
        return None
    writes = [tensor._version for tensor in chain(model.parameters(), model.buffers())]  # noqa: SLF001 - autograd's notes name it
    kept = _SHOWN.get(model)
    if kept is None or kept[0] != writes:
        kept = _SHOWN[model] = writes, dict(export(model))
    return kept[1]


def snapshot(model: nn.Module) -> Weights:
    """Return a copy of a model's weights, to go back to them later by `install`.

    >>> model = nn.Linear(2, 1)
    >>> before = snapshot(model)
    >>> _ = nn.init.zeros_(model.weight)
    >>> snapshot(model) == before
    False
    >>> install(model, before)
    >>> snapshot(model) == before
    True

    """
    copies = _on_host(model.state_dict(), copy=True)
    return {name: buffer_of(tensor) for name, tensor in copies.items()}


@torch.no_grad()
def install(model: nn.Module, weights: Weights) -> None:
    """Copy weights into a model, bit for bit. Names and shapes of what arrives at a learner have
    been checked.

    Raises:
        KeyError: ``weights`` lacks a tensor of the model.

    """
    for name, tensor in model.state_dict().items():
        tensor.copy_(tensor_of(weights[name]))


def buffers_of(model: nn.Module) -> Weights:
    """Copy what a model holds beside its parameters and takes along, such as running statistics."""
    beside = {name for name, _ in model.named_buffers()}
    return {name: copy for name, copy in snapshot(model).items() if name in beside}


@torch.no_grad()
def install_some(model: nn.Module, weights: Weights) -> None:
    """Copy weights of some of a model's tensors into it."""
    held = model.state_dict()
    for name, buffer in weights.items():
        held[name].copy_(tensor_of(buffer))


def tensor_of(buffer: Buffer) -> Tensor:
    """View a buffer as a CPU tensor, or copy one that is read-only; do not write to it."""
    if not len(buffer.data):
        return torch.empty(buffer.shape, dtype=_DTYPES[buffer.dtype])
    # all of PyTorch's memory can be written to
    data = bytearray(buffer.data) if memoryview(buffer.data).readonly else buffer.data
    return torch.frombuffer(data, dtype=_DTYPES[buffer.dtype]).reshape(buffer.shape)


def spec_of(model: nn.Module) -> Spec:
    """Describe a model's tensors; works on the meta device."""
    return {
        name: TensorSpec(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        for name, tensor in model.state_dict().items()
    }


def save(weights: Weights, file: Path, about: Mapping[str, str]) -> None:
    """Write weights as a safetensors file whose metadata has one key, ``fedskd_sim``: JSON, so
    that the bytes are reproducible. It survives a power cut: with it custody ends.
    """
    tensors = {name: tensor_of(buffer).clone() for name, buffer in weights.items()}
    with drafted(file, lasting=True) as draft:
        save_file(tensors, draft, {"fedskd_sim": json.dumps(about, sort_keys=True)})
    settle(file.parent)


@torch.no_grad()
def _on_host(state: Mapping[str, Tensor], *, copy: bool = False) -> Mapping[str, Tensor]:
    """Copy what lies on a device to the host, all of one type at once: every copy waits for the
    device. What lies here stays as it is, or is copied too.
    """
    found, alike = dict(state), dict[torch.dtype, list[str]]()
    for name, tensor in state.items():
        if tensor.device.type != "cpu":
            alike.setdefault(tensor.dtype, []).append(name)
        elif copy:
            found[name] = tensor.clone()
    for names in alike.values():
        row = torch.cat([state[name].flatten() for name in names]).cpu()
        pieces = row.split([state[name].numel() for name in names])
        found |= {
            name: piece.view(state[name].shape) for name, piece in zip(names, pieces, strict=True)
        }
    return found


def buffer_of(tensor: Tensor) -> Buffer:
    """View a tensor's memory as a buffer; copies only from a device or a strided layout."""
    here = tensor.detach().cpu().contiguous()
    if not here.numel():
        data: memoryview | bytes = b""
    elif here.dtype is torch.bfloat16:  # NumPy has none
        data = memoryview(here.reshape(-1).view(torch.uint8).numpy().data)
    else:
        data = memoryview(here.numpy().data).cast("B")
    return Buffer(_NAMES[tensor.dtype], tuple(tensor.shape), data)


def drift(before: Weights, after: Weights, name: str = "drift") -> Measures:
    """Return the Euclidean change of the float tensors as a sum and, as its weight, their norm
    before: the mean is relative.
    """
    moved = length = 0.0
    for key, now in after.items():
        if now.dtype in FLOATS:
            old = tensor_of(before[key]).double()
            moved += float((tensor_of(now).double() - old).square().sum())
            length += float(old.square().sum())
    return {name: Measure(moved**0.5, length**0.5 or 1.0)}


HALVES = {"float16": 0x7C00, "bfloat16": 0x7F80}
"""The bits of the exponent: all of them are set in what is infinite or not a number."""


def finite(dtype: str, data: memoryview) -> bool:
    """Return whether a tensor has neither infinite values nor NaN; whole numbers never have.

    The sum of squares tells nearly always, and once through the cache; only where it overflows
    every number is looked at.

    Args:
        dtype: element type as `fedskd_sim.messages.Buffer` names it.
        data: the tensor's bytes.

    """
    if dtype in HALVES:
        bits = np.frombuffer(data, np.uint16) & HALVES[dtype]
        return not bool((bits == HALVES[dtype]).any())
    if dtype not in ("float32", "float64"):
        return True
    values = np.frombuffer(data, dtype)
    with np.errstate(all="ignore"):
        return bool(np.isfinite(np.dot(values, values)) or np.isfinite(values).all())


def join(weights: Weights, prefix: str, other: Weights) -> Weights:
    """Put a second set of weights behind the first, its names prefixed."""
    return {**weights, **{prefix + name: buffer for name, buffer in other.items()}}


def split(weights: Weights, prefix: str) -> tuple[Weights, Weights]:
    """Undo `join`; the second set is empty where there is none."""
    first = {name: buffer for name, buffer in weights.items() if not name.startswith(prefix)}
    return first, {
        name.removeprefix(prefix): buffer
        for name, buffer in weights.items()
        if name.startswith(prefix)
    }


def copy_of(weights: Weights) -> Weights:
    """Copy weights that live in a model or in a received message."""
    return {name: buffer._replace(data=bytearray(buffer.data)) for name, buffer in weights.items()}


POISONED = ("float64", "float32", "float16")


def poison(weights: Weights, factor: float | None) -> Weights:
    """Return a copy of weights times a factor, or without one with not a number everywhere.

    Whole numbers and bfloat16, which numpy does not know, stay as they are. What no longer fits its
    type becomes infinite.
    """
    return {name: _poison(buffer, factor) for name, buffer in weights.items()}


def _poison(buffer: Buffer, factor: float | None) -> Buffer:
    if buffer.dtype not in POISONED:
        return buffer
    values = np.frombuffer(buffer.data, buffer.dtype)
    with np.errstate(over="ignore"):
        wrong = values * values.dtype.type(np.nan if factor is None else factor)
    return buffer._replace(data=wrong.tobytes())


def floats_in(spec: Spec) -> int:
    """Count the float numbers of a model."""
    return sum(prod(shape) for dtype, shape in spec.values() if dtype in FLOATS)
