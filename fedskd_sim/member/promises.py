"""What a learner has promised to give, looked at where it gives it: an algorithm that forgets a
return value, or lets something else go on than the model it was asked for, is told of its method
here, and not of its neighbour's silence two minutes later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from fedskd_sim.learning.base import Learner, Measures, Session
from fedskd_sim.messages import Buffer, Forms, Weights
from fedskd_sim.records import Measure, StepOutcome


def session(learner: Learner, method: str, given: Any) -> Session:
    """Give back what a method gave; raises TypeError if it is no session that a record can tell
    of.
    """
    what = f"{type(learner).__name__}.{method}"
    if not isinstance(given, Session):
        raise TypeError(f"{what} has to give a Session, not {_kind(given)}")
    if given.outcome not in get_args(StepOutcome):
        known = ", ".join(get_args(StepOutcome))
        raise TypeError(f"{what}: the outcome of a Session is one of {known}, not {given.outcome}")
    if not isinstance(given.reason, str) or not all(
        type(count) is int for count in (given.samples, given.steps)
    ):
        raise TypeError(f"{what}: a Session's samples and steps are int, its reason is str")
    measures(learner, method, given.measures)
    weights(learner, method, given.weights, ())
    return given


def measures(learner: Learner, method: str, given: Any) -> Measures:
    """Give back what a method has measured; raises TypeError if these are no measures by name."""
    what = f"{type(learner).__name__}.{method}"
    if not isinstance(given, Mapping):
        raise TypeError(f"{what} has to give measures by name, not {_kind(given)}")
    for name, value in given.items():
        if not isinstance(name, str) or not isinstance(value, Measure):
            text = f"Measure(sum, weight), not {_kind(value)}"
            raise TypeError(f"{what}: what is measured as {name!r} has to be {text}")
    return given


def weights(learner: Learner, method: str, given: Any, forms: Forms) -> Weights:
    """Give back the weights that a method lets go on; raises TypeError if they are none, or have
    none of the ``forms`` in which others await them (none are given: any may be).
    """
    what = f"{type(learner).__name__}.{method}"
    if not isinstance(given, Mapping) or not all(isinstance(one, Buffer) for one in given.values()):
        raise TypeError(f"{what} has to give weights, named buffers, not {_kind(given)}")
    if forms and not any(_unlike(given, form) is None for form in forms):
        nearest = next((form for form in forms if form.keys() == given.keys()), forms[0])
        raise TypeError(
            f"{what} lets other weights go on than the model's: {_unlike(given, nearest)}"
        )
    return given


def together(session: Measures, assessed: Measures) -> Measures:
    """Put the measures of a record together; raises TypeError for a name that would be in it
    twice.
    """
    for name in session.keys() & assessed.keys():
        raise TypeError(f"both the session and assess() measure {name!r}: rename one of the two")
    return {**session, **assessed}


def _unlike(given: Weights, form: Mapping[str, Any]) -> str | None:
    """Say what of some weights is not as in a form."""
    for name, spec in form.items():
        if name not in given:
            return f"{name!r} is missing"
        found = given[name].dtype, tuple(given[name].shape)
        if found != tuple(spec):
            return f"{name!r} is {_shape(*found)}, not {_shape(*spec)}"
    more = [name for name in given if name not in form]
    return f"there is no {more[0]!r} in it" if more else None


def _shape(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} {tuple(shape)}"


def _kind(given: Any) -> str:
    """Name what was given instead."""
    return "None (is a return missing?)" if given is None else type(given).__name__
