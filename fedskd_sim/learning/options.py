"""Options of a function that a scenario names: its keyword-only arguments with their defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fedskd_sim.errors import InvalidValue, Key
from fedskd_sim.scenario import nearest

Bounds = tuple[int, int]


def options_of(function: Callable[..., Any]) -> dict[str, object]:
    """List the options of a function with their defaults."""
    return {
        parameter.name: parameter.default
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def wrong_options(
    name: str,
    known: Mapping[str, object],
    given: Mapping[str, object],
    key: tuple[Key, ...],
    bounds: Bounds | None = None,
) -> Iterator[InvalidValue]:
    """Check the names and the kinds of options.

    Args:
        name: what has them.
        known: its options with their defaults, each of whose kind a value has to be.
        given: the scenario's.
        key: of what has them, in the scenario.
        bounds: the smallest and the largest whole number; None for any.

    """
    for option, value in given.items():
        place = (*key, "options", option)
        if option not in known:
            there = f"{name} has the options {', '.join(known)}" if known else f"{name} has none"
            fix = f"{nearest(option, list(known), '')} {there}".lstrip()
            yield InvalidValue(f"{name} has no option {option!r}", key=place, fix=fix)
        elif type(value) is not type(known[option]) or (
            type(value) is int and bounds and not bounds[0] <= value <= bounds[1]
        ):
            shown = str(value).lower() if isinstance(value, bool) else repr(value)
            fix = f"give {_expectation(known[option], bounds)}"
            yield InvalidValue(f"{option} is {shown}", key=place, fix=fix)


def _expectation(default: object, bounds: Bounds | None) -> str:
    """Say what an option with such a default may be."""
    match default:
        case bool():
            return "true or false"
        case int():
            limits = f" from {bounds[0]} to {bounds[1]}" if bounds else ""
            return f"a whole number{limits}, like {default}"
        case float():
            return f"a number with a decimal point, like {default}"
        case "":
            return "a word"
    return f"a word, like {default!r}"
