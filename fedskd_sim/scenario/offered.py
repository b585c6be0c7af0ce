"""Algorithms whose keys an installed package offers, as this one does for those in
``fedskd_sim.methods``: an entry point in the group ``fedskd_sim.keys`` names a subclass of
`AlgorithmKeys` in a module that does not import PyTorch.

Everybody can then read a scenario with such an algorithm, a controller and `report` too, and
editors know its keys. Without it the learner's class is asked when a run is launched.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fedskd_sim.errors import FedskdError, InvalidValue
from fedskd_sim.scenario.circulation import AlgorithmKeys
from fedskd_sim.scenario.explain import find_wrong_keys
from fedskd_sim.scenario.own import (
    KEYS,
    NAMES,
    Asked,
    OwnAlgorithm,
    Resolved,
    keys_of,
    offered_names,
)
from fedskd_sim.scenario.packages import offers
from fedskd_sim.scenario.schema import Scenario

Told = tuple[dict[str, dict[str, Any]], list[FedskdError], list[Asked]]
"""What algorithms have said, by `Asked.text`; what is wrong with them; and those of which nobody
knows anything yet.
"""


def keys_offered(name: str) -> type[AlgorithmKeys] | None:
    """Return the class of an algorithm's keys; None where no package offers it.

    Raises:
        InvalidValue: two packages offer it, it cannot be imported, or it is no such class.

    """
    known = offers(KEYS, name) if name not in NAMES else []
    if not known:
        return None
    origin = " and ".join(sorted(offer.value for offer in known))
    if len(known) > 1:
        raise InvalidValue(f"{name!r} is offered by {origin}", fix="remove one of these packages")
    try:
        found = known[0].load()
    except Exception as error:
        text = (
            f"the keys of {name!r}, {origin}, cannot be imported: {type(error).__name__}: {error}"
        )
        raise InvalidValue(text, fix="repair that package") from error
    if not isinstance(found, type) or not issubclass(found, AlgorithmKeys):
        text = f"the keys of {name!r}, {origin}, are {type(found).__name__}"
        raise InvalidValue(text, fix="let it be a class on AlgorithmKeys")
    return found


def ask_packages(algorithms: Iterable[Asked], size: int) -> Told:
    """Ask the keys that packages offer what a run has to know of algorithms.

    Args:
        algorithms: as the scenario has them.
        size: how many hospitals train.

    """
    told, wrong, unknown = dict[str, dict[str, Any]](), list[FedskdError](), list[Asked]()
    for one in algorithms:
        try:
            base = keys_offered(str(one.given["name"]))
            if base is None:
                unknown.append(one)
                continue
            keys = keys_of(base, one)
            found = list(find_wrong_keys(keys, one))
            wrong += found
            if not found:
                told[one.text] = Resolved.of(keys, one, size).model_dump(mode="json")
        except FedskdError as error:
            error.key = error.key or (*one.key, "name")
            wrong.append(error)
    return told, wrong, unknown


def default_of(name: str, size: int) -> OwnAlgorithm | None:
    """Return an algorithm whose keys a package offers, with its defaults, among ``size`` hospitals
    that train; None where none does. Raises as `keys_offered`.
    """
    one = Asked(("algorithm",), {"name": name})
    told, wrong, _ = ask_packages([one], size)
    for error in wrong:
        raise error
    if not told:
        return None
    return OwnAlgorithm.model_validate_json(json.dumps({"name": name, "resolved": told[one.text]}))


def json_schema(more: Mapping[str, type[AlgorithmKeys]] | None = None) -> dict[str, Any]:
    """Write the JSON Schema of scenarios, with the algorithms whose keys packages offer, and
    ``more`` by their names.
    """
    schema = Scenario.model_json_schema(by_alias=True)
    known = {name: found for name in offered_names() if (found := keys_offered(name))} | dict(
        more or {}
    )
    parts = schema["$defs"]
    for name, base in known.items():
        form = keys_of(base, Asked(("algorithm",), {"name": name}))
        part = form.model_json_schema(by_alias=True)
        for inner, text in part.pop("$defs", {}).items():
            parts.setdefault(inner, text)
        title = base.__name__ if base.__name__ not in parts else f"{base.__name__}-{name}"
        parts[title] = part | {"title": title}
        for choices in _algorithms_in(schema):
            choices.insert(-1, {"$ref": f"#/$defs/{title}"})
    taken = parts["OwnAlgorithm"]["properties"]["name"]["not"]
    taken["enum"] = sorted({*taken["enum"], *known})
    return schema


def _algorithms_in(schema: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Yield the lists in which a schema has every algorithm."""
    yield schema["properties"]["algorithm"]["oneOf"]
    for one in schema["$defs"]["Variant"]["properties"]["algorithm"]["anyOf"]:
        if "oneOf" in one:
            yield one["oneOf"]
