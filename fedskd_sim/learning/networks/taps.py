"""Gives a network as it is the form of all others here, (logits, Taps): two of its modules are
tapped, and its own output is the logits, or has them.

All is done by hooks: the network stays what it is, with the names of its own ``state_dict``, so
files of its weights fit, and what is trained here can be loaded where the network comes from.
Where no taps are named, two are proposed from a trial pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from itertools import groupby
from math import log2, prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fedskd_sim.errors import InvalidValue, Key
from fedskd_sim.learning.distillation.distill import Taps
from fedskd_sim.learning.networks.maps import as_map, first_tensor, read
from fedskd_sim.learning.networks.shapes import ImageShape
from fedskd_sim.scenario import nearest

TAPS = ("mid", "deep")
DEEPEST = 2
"""How many dots more than another's the name of a module may have that is proposed."""
FEWEST_BLOCKS = 3
"""Modules of one kind in a row that are taken for the depth of a network."""


class Candidate(NamedTuple):
    """A module that was called in a trial pass: its name, what it gave behind the batch, and the
    map that this is, (C, *space).
    """

    name: str
    kind: str
    sizes: tuple[int, ...]
    map: tuple[int, ...]
    composed: bool = False
    """It has modules of its own, as a block or stage has."""

    @property
    def places(self) -> int:
        """How many places the map has."""
        return prod(self.map[1:])


class Wiring(NamedTuple):
    """How a network's outputs are read: the tapped modules, its entry of logits, and its input."""

    taps: tuple[str, str]
    output: str | int | None
    shape: ImageShape


def attach(network: nn.Module, wiring: Wiring) -> None:
    """Make a network return (logits, Taps).

    Raises:
        InvalidValue: it has no module of a tap's name; later, in its forward pass, that the
            outputs are not understood.

    """
    maps: dict[str, Any] = {}
    modules = dict(network.named_modules())
    for place, (tap, name) in enumerate(zip(TAPS, wiring.taps, strict=True)):
        if not name or name not in modules:
            near = nearest(name, [*modules][1:], "'fedskd-sim models' lists them")
            text = f"{type(network).__name__} has no module {name!r}"
            raise InvalidValue(text, key=("taps", place), fix=near)
        # no way back to the network: no cycle
        modules[name].register_forward_hook(partial(_keep, maps, tap))
    network.register_forward_hook(partial(_finish, maps, wiring))


def _keep(maps: dict[str, Any], tap: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
    maps[tap] = output


def _finish(
    maps: dict[str, Any], wiring: Wiring, module: nn.Module, _inputs: Any, output: Any
) -> tuple[Tensor, Taps]:
    """Make of a network's own output what all others give."""
    logits, found = logits_of(output, wiring.output, type(module).__name__), list[Tensor]()
    for place, (tap, name) in enumerate(zip(TAPS, wiring.taps, strict=True)):
        key: tuple[Key, ...] = ("taps", place)
        if tap not in maps:
            text = f"{name!r} is a module that forward does not call"
            raise InvalidValue(text, key=key, fix="name one that it calls")
        try:
            found.append(as_map(maps.pop(tap), wiring.shape))
        except TypeError as error:
            fix = "name a module that gives maps; 'fedskd-sim models' lists them"
            raise InvalidValue(f"{name!r} {error}", key=key, fix=fix) from error
    return logits, Taps(*found)


def logits_of(output: Any, which: str | int | None, network: str) -> Tensor:
    """Take the logits out of what a network gives: a tensor is them itself.

    Raises:
        InvalidValue: it gives several things, and it is not said which are the logits.

    """
    if isinstance(output, Tensor):
        return output
    entries = entries_of(output)
    found = entries.get(which) if which is not None else None
    if isinstance(which, int) and found is None:
        rows = [*output.values()] if isinstance(output, dict) else output
        several = isinstance(rows, tuple | list) and -len(rows) <= which < len(rows)
        found = rows[which] if several else None
    if isinstance(found, Tensor):
        return found
    said = ", ".join(f"{name}: {_described(value)}" for name, value in entries.items())
    text = f"{network} gives {type(output).__name__}{said and f' ({said})'}, and no tensor"
    if which is not None:
        text += f" {which!r}"
    raise InvalidValue(text, key=("output",), fix="say as 'output' which of it are the logits")


def entries_of(output: Any) -> dict[str | int, Any]:
    """List what an output consists of, by the names or numbers that it has."""
    if isinstance(output, dict):
        return dict(output)
    if is_dataclass(output) and not isinstance(output, type):
        return {one.name: getattr(output, one.name) for one in fields(output)}
    if isinstance(output, tuple | list):
        names: Iterable[str] = getattr(output, "_fields", ())
        return {**dict(enumerate(output)), **dict(zip(names, output, strict=False))}
    return {}


def _described(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def trace(network: nn.Module, shape: ImageShape) -> list[Candidate]:
    """Pass two blank samples through a network in evaluation, and list the modules that gave a
    map, in the order in which they were done.
    """
    found: dict[str, Candidate] = {}

    def note(name: str, module: nn.Module, _inputs: Any, output: Any) -> None:
        tensor = first_tensor(output)
        sizes = tuple(tensor.shape[1:]) if tensor is not None and tensor.ndim else ()
        if tensor is None or len(tensor) != len(batch) or not (seen := read(sizes, shape)):
            return
        found.pop(name, None)  # of several calls the last one counts
        kind = type(module).__name__
        found[name] = Candidate(
            name, kind, sizes, (seen.channels, *seen.grid), any(True for _ in module.children())
        )

    batch = torch.cat([shape.blank()] * 2)
    hooks = [
        module.register_forward_hook(partial(note, name))
        for name, module in network.named_modules() if name
    ]  # fmt: skip
    with torch.no_grad():
        network.eval()(batch)
    for hook in hooks:
        hook.remove()
    return [one for one in found.values() if one.places > 1]


def propose(candidates: Sequence[Candidate]) -> tuple[str, str]:
    """Choose two of the modules that gave maps, ``mid`` and ``deep``.

    Deep is the last map. Mid is the last one with about four times as many places along each axis,
    else twice as many, else more, of modules that have modules of their own, if there is one. Where
    all maps have one grid, it is the middle one of the longest row of blocks. Of modules with one
    grid those count whose names have the fewest dots, and none with much more: what is deep inside,
    as the heads of an attention, may only look like a map.

    Raises:
        InvalidValue: there is none.

    """
    if not candidates:
        text = "no module of it gives a map"
        raise InvalidValue(text, key=("taps",), fix="choose a network of images or volumes")
    deepest = min(one.name.count(".") for one in candidates) + DEEPEST
    candidates = [one for one in candidates if one.name.count(".") <= deepest]
    deep = _outermost(candidates, candidates[-1].places)
    axes = len(deep.map) - 1
    above = [one for one in candidates if one.places > deep.places]
    above = [one for one in above if one.composed] or above
    if not above:
        return _middle(candidates).name, deep.name

    def distance(places: int) -> tuple[float, int]:
        halvings = log2(places / deep.places) / axes
        return abs(halvings - 2), places

    return _outermost(above, min({one.places for one in above}, key=distance)).name, deep.name


def _outermost(candidates: Sequence[Candidate], places: int) -> Candidate:
    alike = [one for one in candidates if one.places == places]
    fewest = min(one.name.count(".") for one in alike)
    return [one for one in alike if one.name.count(".") == fewest][-1]


def _middle(candidates: Sequence[Candidate]) -> Candidate:
    """Choose the middle one of the longest row of blocks, else of all."""

    def row(one: Candidate) -> tuple[str, str, tuple[int, ...]]:
        return one.name.rpartition(".")[0], one.kind, one.map

    rows = [[*group] for _, group in groupby(sorted(candidates, key=row), key=row)]
    longest = max(rows, key=lambda each: (len(each), -each[0].name.count(".")))
    order = {one.name: place for place, one in enumerate(candidates)}
    if len(longest) < FEWEST_BLOCKS:
        longest = [*candidates]
    longest.sort(key=lambda one: order[one.name])
    return longest[(len(longest) - 1) // 2]
