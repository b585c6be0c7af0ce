"""Attributes of a learner that outlive a death of its hospital: declared in its class, and packed
for custody by the base.

    class Ditto(AveragingLearner):
        personal = Kept[nn.Module]()
        control = Kept[Mapping[str, Tensor]]({})
        visits = Kept[int](0)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from fedskd_sim.learning.base import LearnerState
from fedskd_sim.learning.weights import buffer_of, tensor_of, view
from fedskd_sim.messages import Weights
from fedskd_sim.scenario import Architecture

if TYPE_CHECKING:
    from fedskd_sim.learning.site import Site

Value = TypeVar("Value")
KEPT, ALONE, MODEL, TENSORS, NUMBER = "kept", "tensor", "model", "tensors", "value"
_UNSET: Any = object()


class Kept(Generic[Value]):
    """An attribute that a hospital's next life has again: a model that `Site` has built, a tensor,
    a mapping of names to tensors, or what JSON can hold.

    Every hospital has a copy of the default of its own, which may be changed in place. Reading one
    that has neither a value nor a default raises AttributeError.
    """

    def __init__(self, default: Value = _UNSET) -> None:
        """Declare it, with what it is before it is set; raises TypeError for a default that cannot
        be copied.
        """
        self._default, self._name = _copy(default), ""

    def __set_name__(self, owner: type, name: str) -> None:
        """Note what it is called."""
        self._name = name

    def __get__(self, instance: object, owner: type) -> Value:
        """Set it to a copy of the default, where no value was set, and return that."""
        if instance is None or self._default is _UNSET:
            raise AttributeError(f"{owner.__name__}.{self._name} has not been set yet")
        value = _copy(self._default)
        setattr(instance, self._name, value)
        return value


def _copy(default: Value) -> Value:
    try:
        return default if default is _UNSET else deepcopy(default)
    except Exception as error:
        text = f"the default of Kept is {type(default).__name__}, which cannot be copied"
        fix = "begin with None, or without a default, and set it in warm_up"
        raise TypeError(f"{text} ({error}): {fix}") from error


class Keeping:
    """What has `Kept` attributes."""

    def keep(self, state: LearnerState) -> LearnerState:
        """Add the kept attributes to a state.

        Raises:
            TypeError: one is nothing that can be kept.

        """
        return keep(self, state)

    def take_back(self, state: LearnerState, site: Site) -> None:
        """Set the kept attributes to what a state has of them."""
        take_back(self, state, site)


def keep(holder: object, state: LearnerState, under: str = "") -> LearnerState:
    """Add the kept attributes of an object to a state, their names behind ``under``; raises
    TypeError for one that cannot be kept.
    """
    forms, groups = dict[str, Any](), dict[str, Weights | None]()
    for name in _names(type(holder)):
        if name in vars(holder):
            forms[name], groups[under + name] = _pack(holder, name, vars(holder)[name])
    return state.plus({under + KEPT: forms}, groups) if forms else state


def take_back(holder: object, state: LearnerState, site: Site, under: str = "") -> None:
    """Set the kept attributes of an object to what a state has of them, as `keep` has put them
    there.
    """
    for name, form in state.numbers.get(under + KEPT, {}).items():
        group = state.weights.get(under + name, {})
        value: Any = form.get(NUMBER)
        if MODEL in form:
            chosen = Architecture.model_validate_json(form[MODEL])
            value = site.build_around(chosen, group)
        elif TENSORS in form:
            device = torch.device(site.device)
            value = {key: tensor_of(one).clone().to(device) for key, one in group.items()}
            value = value[ALONE] if form[TENSORS] == ALONE else value
        setattr(holder, name, value)


def _pack(holder: object, name: str, value: Any) -> tuple[dict[str, Any], Weights | None]:
    """Say what form an attribute has, and give its tensors."""
    what = f"{type(holder).__name__}.{name}"
    if isinstance(value, nn.Module):
        site: Site | None = vars(holder).get("site")
        built = site.recordings.known_as(value) if site else None
        if not built:
            text = f"{what} is a model that this site has not built"
            raise TypeError(f"{text}: build it with site.initialise or site.build_around")
        return {MODEL: built}, view(value)
    if isinstance(value, Tensor):
        return {TENSORS: ALONE}, {ALONE: buffer_of(value.detach().cpu())}
    if strange := [key for key in _keys(value) if not isinstance(key, str)]:
        text = f"{what} has the key {strange[0]!r}, which would come back as a text"
        raise TypeError(f"{text}: write str({strange[0]!r})")
    if isinstance(value, Mapping) and all(isinstance(one, Tensor) for one in value.values()):
        return {TENSORS: ""}, {key: buffer_of(one.detach().cpu()) for key, one in value.items()}
    try:
        return {NUMBER: json.loads(json.dumps(value))}, None
    except (TypeError, ValueError) as error:
        text = f"{what} is {type(value).__name__}"
        raise TypeError(f"{text}: kept are models, tensors, and what JSON can hold") from error


def _keys(value: Any) -> Iterator[Any]:
    """Yield the keys of all mappings in a value."""
    if isinstance(value, Mapping):
        yield from value
    inner = value.values() if isinstance(value, Mapping) else value
    for one in inner if isinstance(value, Mapping | list | tuple) else ():
        yield from _keys(one)


def _names(owner: type) -> Iterator[str]:
    """List the kept attributes of a class and its bases."""
    for base in owner.__mro__:
        yield from (name for name, one in vars(base).items() if isinstance(one, Kept))
