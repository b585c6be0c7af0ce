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
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from fedskd_sim.learning.base import LearnerState
from fedskd_sim.learning.site import Site
from fedskd_sim.learning.weights import buffer_of, tensor_of, view
from fedskd_sim.messages import Weights
from fedskd_sim.scenario import Architecture

Value = TypeVar("Value")
KEPT, ALONE, MODEL, TENSORS, NUMBER = "kept", "tensor", "model", "tensors", "value"
_UNSET: Any = object()


class Kept(Generic[Value]):
    """An attribute that a hospital's next life has again: a model that `Site` has built, a tensor,
    a mapping of names to tensors, or what JSON can hold.

    Reading one that has neither a value nor a default raises AttributeError.
    """

    def __init__(self, default: Value = _UNSET) -> None:
        """Declare it, with what it is before it is set."""
        self._default, self._name = default, ""

    def __set_name__(self, owner: type, name: str) -> None:
        """Note what it is called."""
        self._name = name

    def __get__(self, instance: object, owner: type) -> Value:
        """Return the default, where no value was set."""
        if instance is None or self._default is _UNSET:
            raise AttributeError(f"{owner.__name__}.{self._name} has not been set yet")
        return self._default


class Keeping:
    """What has `Kept` attributes."""

    def keep(self, state: LearnerState) -> LearnerState:
        """Add the kept attributes to a state.

        Raises:
            TypeError: one is nothing that can be kept.

        """
        forms, groups = dict[str, Any](), dict[str, Weights | None]()
        for name in _names(type(self)):
            if name in vars(self):
                forms[name], groups[name] = self._pack(name, vars(self)[name])
        return state.plus({KEPT: forms}, groups) if forms else state

    def take_back(self, state: LearnerState, site: Site) -> None:
        """Set the kept attributes to what a state has of them."""
        for name, form in state.numbers.get(KEPT, {}).items():
            group = state.weights.get(name, {})
            value: Any = form.get(NUMBER)
            if MODEL in form:
                chosen = Architecture.model_validate_json(form[MODEL])
                value = site.build_around(chosen, group)
            elif TENSORS in form:
                device = torch.device(site.device)
                value = {key: tensor_of(one).clone().to(device) for key, one in group.items()}
                value = value[ALONE] if form[TENSORS] == ALONE else value
            setattr(self, name, value)

    def _pack(self, name: str, value: Any) -> tuple[dict[str, Any], Weights | None]:
        """Say what form an attribute has, and give its tensors."""
        if isinstance(value, nn.Module):
            site: Site = vars(self)["site"]
            built = site.recordings.known_as(value)
            if not built:
                text = f"{type(self).__name__}.{name} is a model that this site has not built"
                raise TypeError(f"{text}: build it with site.initialise or site.build_around")
            return {MODEL: built}, view(value)
        if isinstance(value, Tensor):
            return {TENSORS: ALONE}, {ALONE: buffer_of(value.detach().cpu())}
        if isinstance(value, Mapping) and all(isinstance(one, Tensor) for one in value.values()):
            return {TENSORS: ""}, {key: buffer_of(one.detach().cpu()) for key, one in value.items()}
        try:
            return {NUMBER: json.loads(json.dumps(value))}, None
        except (TypeError, ValueError) as error:
            text = f"{type(self).__name__}.{name} is {type(value).__name__}"
            raise TypeError(f"{text}: kept are models, tensors, and what JSON can hold") from error


def _names(owner: type) -> Iterator[str]:
    """List the kept attributes of a class and its bases."""
    for base in owner.__mro__:
        yield from (name for name, one in vars(base).items() if isinstance(one, Kept))
