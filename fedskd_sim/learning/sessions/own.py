"""Losses of a user's own, as a file beside the scenario or a package offers them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fedskd_sim.errors import FedskdError, InvalidValue, Key
from fedskd_sim.learning.hooks import misspelt
from fedskd_sim.learning.installed import (
    LOSS,
    fetch,
    fill_in,
    names,
    options_of,
    wrong_options,
)
from fedskd_sim.learning.offers import NEEDS_ONE_LABEL, REPLACES
from fedskd_sim.learning.sessions.steps import AddedLoss, Loss, TrainingStep
from fedskd_sim.scenario import AlgorithmKeys, OwnAlgorithm, nearest


class FunctionLoss(Loss):
    """A loss that is one function: of a step, whose value is added, or of a step and a role, whose
    value stands in the place of the cross-entropy.
    """

    def __init__(
        self, function: Callable[..., Any], options: Mapping[str, Any], *, replaces: bool
    ) -> None:
        """Take the function and its options."""
        self._function, self._options, self._replaces = function, options, replaces
        written = getattr(function, "__code__", None)
        line = f" ({Path(written.co_filename).name}:{written.co_firstlineno})" if written else ""
        self.place = f"{function.__name__}{line}"

    @property
    def called(self) -> str:
        """The function's name."""
        return self._function.__name__

    def supervised(self, step: TrainingStep, role: str) -> Tensor:
        """Ask the function if it replaces the cross-entropy."""
        if not self._replaces:
            return super().supervised(step, role)
        found: Tensor = self._function(step, role, **self._options)
        return found

    def added(self, step: TrainingStep) -> AddedLoss | Tensor | None:
        """Ask the function if it adds to it."""
        if self._replaces:
            return None
        found: AddedLoss | Tensor = self._function(step, **self._options)
        if found is None:
            raise TypeError(f"{self.place} has to give a scalar, not None (is a return missing?)")
        return found


def loss_of(algorithm: AlgorithmKeys | OwnAlgorithm) -> Loss | None:
    """Make the loss of the user's own that an algorithm names; None where it names none.

    Raises:
        InvalidValue: nobody offers it, it is no loss, or it has no such option.

    """
    if not algorithm.loss:
        return None
    for wrong in find_wrong_loss(algorithm):
        raise wrong
    found = fetch(LOSS, algorithm.loss)
    given = fill_in(options_of(found), algorithm.options)
    if isinstance(found, type):
        made: Loss = found(**given)
        return made
    return FunctionLoss(found, given, replaces=getattr(found, REPLACES, False))


def needs_one_label(algorithm: AlgorithmKeys | OwnAlgorithm) -> bool:
    """Return whether the loss of an algorithm is offered as one for one class per sample."""
    if not algorithm.loss or any(find_wrong_loss(algorithm)):
        return False
    return bool(getattr(fetch(LOSS, algorithm.loss), NEEDS_ONE_LABEL, False))


def find_wrong_loss(
    algorithm: AlgorithmKeys | OwnAlgorithm, under: tuple[Key, ...] = ("algorithm",)
) -> Iterator[FedskdError]:
    """Find what is wrong with the loss that an algorithm names, and with its options."""
    if not algorithm.loss:
        return
    key, known = (*under, "loss"), names(LOSS.group)
    if algorithm.loss not in known:
        there = f"{nearest(algorithm.loss, known, '')} there are {', '.join(known)}"
        fix = there.lstrip() if known else "offer one by @loss in a file under code"
        yield InvalidValue(f"there is no loss {algorithm.loss!r}", key=key, fix=fix)
        return
    try:
        found = fetch(LOSS, algorithm.loss)
        _check_class(algorithm.loss, found)
        yield from wrong_options(algorithm.loss, options_of(found), algorithm.options, under)
    except FedskdError as error:
        error.key = error.key or key
        yield error


def _check_class(name: str, found: Any) -> None:
    """Raise InvalidValue for a class that is no loss, or overrides nothing of one."""
    if not isinstance(found, type):
        return
    if not issubclass(found, Loss):
        text = f"{name!r} ({found.__name__}) is a class, and none on Loss"
        raise InvalidValue(text, fix=f"write class {found.__name__}(Loss)")
    for wrong in misspelt(found, Loss):
        raise wrong
    hooks = [hook for hook in vars(Loss) if not hook.startswith("_") and hook != "called"]
    if all(getattr(found, hook) is getattr(Loss, hook) for hook in hooks):
        text = f"{name!r} ({found.__name__}) overrides no method of Loss, and changes nothing"
        raise InvalidValue(text, fix=f"write one of {', '.join(hooks)}")
