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
from dis import get_instructions
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from fedskd_sim.learning.base import LearnerState
from fedskd_sim.learning.weights import buffer_of, tensor_of, view
from fedskd_sim.messages import Weights
from fedskd_sim.scenario import Architecture

Value = TypeVar("Value")
KEPT, ALONE, MODEL, TENSORS, NUMBER = "kept", "tensor", "model", "tensors", "value"
STORE = "STORE_ATTR"
_UNSET: Any = object()


class ModelBuilder(Protocol):
    """What builds kept models again; see `fedskd_sim.learning.site.Site`."""

    device: str

    def build_around(self, architecture: Architecture, weights: Weights) -> nn.Module:
        """Build an architecture around weights."""


class Kept(Generic[Value]):
    """An attribute of a learner or a `Loss` that survives the death of its process. It may hold a
    model that `Site` has built, a tensor, a mapping of names to tensors, or what JSON can hold.

    Use it for everything that one call sets and another reads. A plain attribute is lost when a
    process dies, and the resumed run then ends with other bytes. Each hospital has its own copy of
    the default, which may be changed in place.

    Raises:
        AttributeError: it is read before it has a value, and has no default.
        TypeError: the default cannot be copied, or the value cannot be kept.

    >>> class Method:
    ...     rounds = Kept[int](0)
    >>> method = Method()
    >>> method.rounds += 1
    >>> method.rounds, Method().rounds
    (1, 0)

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

    def take_back(self, state: LearnerState, site: ModelBuilder) -> None:
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


def take_back(holder: object, state: LearnerState, site: ModelBuilder, under: str = "") -> None:
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
    """Describe the form of an attribute, and take out its tensors."""
    what = f"{type(holder).__name__}.{name}"
    if isinstance(value, nn.Module):
        site = vars(holder).get("site")
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


def forgotten(before: object, after: object) -> list[str]:
    """Name the attributes that code of the user's own has set on a learner or a loss, and that its
    next life does not have: set behind `__init__`, and not kept.
    """
    kept, old, new = {*_names(type(before))}, vars(before), vars(after)
    return [
        f"{type(before).__name__}.{name}"
        for name in sorted(_set_by(type(before)))
        if name in old and name not in kept and _form(old[name]) != _form(new.get(name, _UNSET))
    ]


def _set_by(owner: type) -> set[str]:
    """List the attributes that methods of classes other than the bases here set."""
    theirs = [one for one in owner.__mro__ if not one.__module__.startswith("fedskd_sim.learning")]
    codes = [
        code
        for one in theirs
        for function in vars(one).values()
        if (code := getattr(function, "__code__", None))
    ]
    return {one.argval for code in codes for one in get_instructions(code) if one.opname == STORE}


def _form(value: Any) -> Any:
    """Return something by which two values are the same, as far as that is easily told."""
    if isinstance(value, Tensor):
        return str(value.dtype), (*value.shape,), value.detach().cpu().tolist()
    if isinstance(value, Mapping):
        return {key: _form(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_form(one) for one in value]
    return repr(value) if isinstance(value, int | float | str | None) else type(value).__name__


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
