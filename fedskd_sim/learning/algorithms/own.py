"""Algorithms of a user's own: what a run has to know of them is asked of their class once, when a
scenario is launched or validated, and told to everybody who must not run their code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from fedskd_sim.errors import FedskdError, InvalidValue
from fedskd_sim.learning.base import Learner, LearnerContext
from fedskd_sim.learning.hooks import misspelt
from fedskd_sim.learning.installed import ALGORITHM, fetch, names
from fedskd_sim.learning.offers import OWN, place_of
from fedskd_sim.learning.site import Site
from fedskd_sim.scenario import (
    AlgorithmKeys,
    Asked,
    OwnAlgorithm,
    OwnCode,
    Resolved,
    find_wrong_keys,
    keys_of,
    nearest,
)
from fedskd_sim.scenario.elsewhere import whereabouts

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
            keys = keys_of(learner.keys, one)
            found = list(find_wrong_keys(keys, one))
            wrong += found
            if not found:
                told[one.text] = _told(keys, one, size)
        except FedskdError as error:
            error.key = error.key or (*one.key, "name")
            wrong.append(error)
    return told, wrong


def all_keys() -> dict[str, type[AlgorithmKeys]]:
    """Return the keys of all algorithms that packages and the code in use offer, by their names.

    Raises:
        InvalidValue: one cannot be imported, or has no keys.

    """
    return {name: _class_of(name).keys for name in names(ALGORITHM.group)}


def make(context: LearnerContext, algorithm: OwnAlgorithm) -> Learner:
    """Make the learner of an algorithm of the user's own, whose code is imported."""
    learner = _class_of(algorithm.name)
    given = algorithm.model_dump(mode="json", by_alias=True, exclude_unset=True)
    keys = keys_of(learner.keys, Asked(("algorithm",), given))
    made: Learner = learner(Site(context), keys.model_validate_json(json.dumps(given)))
    expected: Any = getattr(made, "expected", None)
    if not isinstance(expected, Mapping) or not all(
        isinstance(forms, tuple | list) and all(isinstance(form, Mapping) for form in forms)
        for forms in expected.values()
    ):
        text = f"{learner.__name__}.expected has to be a mapping of names to lists of forms"
        found = "it is missing" if expected is None else f"not {type(expected).__name__}"
        fix = "write self.expected = {name: (spec,) for name, spec in site.specs().items()}"
        raise InvalidValue(f"{text}: {found}", fix=fix, key=("algorithm", "name"))
    return made


def _told(keys: type[AlgorithmKeys], one: Asked, size: int) -> dict[str, Any]:
    """Ask the keys of an algorithm for all that a run has to know; raises InvalidValue where they
    cannot say.
    """
    try:
        return Resolved.of(keys, one, size).model_dump(mode="json")
    except (Exception, SystemExit) as error:
        text = f"the keys of {one.given['name']!r} fail: {type(error).__name__}: {error}"
        raise InvalidValue(f"{text}{place_of(error)}", fix="repair them") from error


def _class_of(name: str) -> Any:
    """Find the class that is offered under a name; raises InvalidValue."""
    if name not in names(ALGORITHM.group):
        known = names(ALGORITHM.group)
        there = f"{nearest(name, known, '')} there are {', '.join(known)}" if known else ""
        fix = whereabouts(name) or there.lstrip() or "offer one by @algorithm in a file under code"
        raise InvalidValue(f"there is no algorithm {name!r}", fix=fix)
    learner: Any = fetch(ALGORITHM, name)
    keys = getattr(learner, "keys", None)
    if not isinstance(keys, type) or not issubclass(keys, AlgorithmKeys):
        text = f"{name!r} ({learner.__name__}) has no keys"
        fix = (
            "let it be a class on a base such as CirculatingLearner, keys a class on AlgorithmKeys"
        )
        raise InvalidValue(text, fix=fix)
    for given, room, otherwise in (
        (learner, "fedskd_sim.learning", Learner),
        (keys, "fedskd_sim.scenario", AlgorithmKeys),
    ):
        ours = [one for one in given.__mro__ if one.__module__.startswith(room)]
        for wrong in misspelt(given, *(ours[:1] or [otherwise])):
            raise wrong
    return learner
