"""What of a wrong scenario is right: what the schema refuses is left out, or has a stand-in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from pydantic import ValidationError

from fedskd_sim.errors import Key
from fedskd_sim.scenario.own import OwnCode
from fedskd_sim.scenario.schema import Scenario

KeyPath = tuple[Key, ...]
MOST_TURNS = 20
LEARNED_FROM = ("name", "data", "architecture")
DECIDING = frozenset(
    {
        ("algorithm", "similarity"),
        ("algorithm", "lock"),
        ("algorithm", "architecture"),
        ("data", "file"),
        ("data", "space"),
    }
)
"""Keys whose defaults would mislead later checks: what they stand in is left out with them."""


class ValidParts(NamedTuple):
    """A scenario in which what is wrong was left out or has a stand-in, and what that was."""

    scenario: Scenario
    left_out: frozenset[KeyPath] = frozenset()
    code: OwnCode | None = None
    """What the scenario brings along."""

    def lacks(self, *key: Key) -> bool:
        """Return whether a key's value, what it stands in or what stands in it is none of the
        file.
        """
        return any(
            place[: len(key)] == key or key[: len(place)] == place for place in self.left_out
        )

    @property
    def doubtful(self) -> frozenset[int]:
        """The hospitals, counted from 0, of which it is not known what they learn from, or with
        which architecture.
        """
        if self.lacks("seed"):
            return frozenset(range(len(self.scenario.hospitals)))
        known = range(len(self.scenario.hospitals))
        return frozenset(
            index
            for index in known
            if any(self.lacks("hospitals", index, key) for key in LEARNED_FROM)
        )


def sound(
    values: Mapping[str, Any], error: ValidationError, faults: Iterable[KeyPath] = ()
) -> ValidParts | None:
    """Leave out what the schema refuses until it accepts the rest; None if that does not come to an
    end.

    Args:
        values: the scenario as plain data, hospitals with all of their data's keys.
        error: what the schema has against them.
        faults: keys whose values are known to be wrong already, and for which the schema blames
            others, too: it is asked again without them.

    """
    rest = json.loads(json.dumps(values))
    left_out = {place for fault in faults if (place := _leave_out(rest, fault))}
    problems = [] if left_out else error.errors(include_url=False)
    for _ in range(MOST_TURNS):
        for problem in problems:
            put = _stand_in if problem["type"] == "missing" else _leave_out
            left_out.add(put(rest, problem["loc"]))
        try:
            return ValidParts(Scenario.model_validate_json(json.dumps(rest)), frozenset(left_out))
        except ValidationError as again:
            problems = again.errors(include_url=False)
    return None


def _leave_out(values: Any, place: KeyPath) -> KeyPath:
    """Take the value at a place out, or what it stands in where only that makes sense; gives the
    place of what was taken.
    """
    key = _existing(values, place)
    size = next(
        (index + 1 for index, pair in enumerate(pairwise(key)) if pair in DECIDING), len(key)
    )
    key = key[:size]
    while key:
        *outer, last = key
        parent = _inside(values, outer)
        if isinstance(parent, dict):
            parent.pop(last, None)
            return key
        if outer == ["hospitals"]:
            parent[last] = {}
            return key
        key = tuple(outer)  # of a list without one item nothing is known
    return key


def _stand_in(values: Any, place: KeyPath) -> KeyPath:
    """Put something in the place of a key that is missing and needed, or leave out what needs
    it.
    """
    key: Any = (*_existing(values, place[:-1]), place[-1])
    stand_in: Any
    match key:
        case ("name",):
            stand_in = "unnamed"
        case ("hospitals",):
            stand_in = []
        case ("algorithm",):
            stand_in = {"name": "local"}
        case ("hospitals", int(index), "name"):
            stand_in = f"hospital-{index}"
        case ("hospitals", int(), "architecture"):
            stand_in = "cnn-plain"
        case _:
            return _leave_out(values, key[:-1])
    _inside(values, key[:-1])[key[-1]] = stand_in
    return tuple(key)


def _existing(values: Any, place: KeyPath) -> KeyPath:
    """Drop from a place what pydantic puts into it and the file has not: the names of union
    members.
    """
    key: KeyPath = ()
    for part in place:
        there = (
            part in values
            if isinstance(values, dict)
            else isinstance(values, list) and part in range(len(values))
        )
        if there:
            key, values = (*key, part), values[part]
    return key


def _inside(values: Any, place: Iterable[Key]) -> Any:
    for part in place:
        values = values[part]
    return values
