"""Algorithms of a user's own: what a run has to know of them is asked of their class once, when a
scenario is launched or validated, and told to everybody who must not run their code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from pydantic import ValidationError, create_model

from fedskd_sim.errors import FedskdError, InvalidValue, Key, UnknownKey
from fedskd_sim.learning.base import Learner, LearnerContext
from fedskd_sim.learning.installed import ALGORITHM, fetch, names
from fedskd_sim.learning.offers import OWN, place_of
from fedskd_sim.learning.site import Site
from fedskd_sim.scenario import (
    AlgorithmKeys,
    Architecture,
    Asked,
    OwnAlgorithm,
    OwnCode,
    Resolved,
    nearest,
)

Told = tuple[dict[str, dict[str, Any]], list[FedskdError]]
"""What algorithms have said, by `Asked.text`, and what is wrong with them."""


def ask(code: OwnCode | None, algorithms: Iterable[Asked], size: int) -> Told:
    """Ask the classes of algorithms what a run has to know of them; runs their code.

    Args:
        code: what the scenario brings along.
        algorithms: as the scenario has them.
        size: how many hospitals train.

    """
    told, wrong = dict[str, dict[str, Any]](), list[FedskdError]()
    try:
        OWN.use(code)
    except FedskdError as error:
        return told, [error]
    for one in algorithms:
        try:
            learner = _class_of(str(one.given["name"]))
            found = list(_find_wrong_keys(learner, one))
            wrong += found
            if not found:
                told[one.text] = _resolve(learner, one, size).model_dump(mode="json")
        except FedskdError as error:
            error.key = error.key or (*one.key, "name")
            wrong.append(error)
    return told, wrong


def make(context: LearnerContext, algorithm: OwnAlgorithm) -> Learner:
    """Make the learner of an algorithm of the user's own, whose code is imported."""
    learner = _class_of(algorithm.name)
    given = algorithm.model_dump(mode="json", by_alias=True, exclude_unset=True)
    keys = _keys_of(learner, algorithm.name).model_validate(given, strict=False)
    made: Learner = learner(Site(context), keys)
    return made


def _class_of(name: str) -> Any:
    """Find the class that is offered under a name; raises InvalidValue."""
    if name not in names(ALGORITHM.group):
        known = names(ALGORITHM.group)
        there = f"{nearest(name, known, '')} there are {', '.join(known)}" if known else ""
        fix = there.lstrip() or "offer one by @algorithm in a file under code"
        raise InvalidValue(f"there is no algorithm {name!r}", fix=fix)
    learner: Any = fetch(ALGORITHM, name)
    keys = getattr(learner, "keys", None)
    if not isinstance(keys, type) or not issubclass(keys, AlgorithmKeys):
        text = f"{name!r} ({learner.__name__}) has no keys"
        fix = (
            "let it be a class on a base such as CirculatingLearner, keys a class on AlgorithmKeys"
        )
        raise InvalidValue(text, fix=fix)
    return learner


def _keys_of(learner: Any, name: str) -> type[AlgorithmKeys]:
    """Return the class of an algorithm's keys, which has its name."""
    called: Any = (Literal[name], ...)
    found: type[AlgorithmKeys] = create_model(
        learner.keys.__name__, __base__=learner.keys, name=called
    )
    return found


def _find_wrong_keys(learner: Any, one: Asked) -> Iterator[FedskdError]:
    """Find keys that the class of an algorithm does not have, or not with these values."""
    form = _keys_of(learner, str(one.given["name"]))
    try:
        form.model_validate(dict(one.given), strict=False)
    except ValidationError as error:
        known = [field.alias or name for name, field in form.model_fields.items()]
        for problem in error.errors(include_url=False):
            key: tuple[Key, ...] = (*one.key, *problem["loc"])
            if problem["type"] == "extra_forbidden":
                near = nearest(str(key[-1]), known, "remove it")
                fix = f"{near}; known here: {', '.join(known)}"
                yield UnknownKey(f"unknown key (value {problem['input']!r})", key=key, fix=fix)
            else:
                text = f"{problem['input']!r} cannot be used"
                yield InvalidValue(text, key=key, fix=problem["msg"])


def _resolve(learner: Any, one: Asked, size: int) -> Resolved:
    """Ask an algorithm with its keys for all that a run has to know; raises InvalidValue where it
    cannot say.
    """
    name = str(one.given["name"])
    try:
        keys = _keys_of(learner, name).model_validate(dict(one.given), strict=False)
        architecture = getattr(keys, "architecture", None)
        return Resolved(
            pattern=keys.pattern,
            warms_up=keys.warms_up,
            averages=keys.averages,
            keeps_models=keys.keeps_models,
            words=keys.words,
            work=float(keys.work(size)),
            keys=keys.model_dump(mode="json", by_alias=True),
            circulating=getattr(keys, "circulating", None),
            architecture=architecture if isinstance(architecture, Architecture) else None,
        )
    except (Exception, SystemExit) as error:
        text = f"the keys of {name!r} fail: {type(error).__name__}: {error}{place_of(error)}"
        raise InvalidValue(text, fix="repair them") from error
