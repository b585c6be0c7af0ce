"""From a file to a checked scenario, with file, line, value and fix in every error."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from fedskd_sim.errors import (
    DuplicateHospital,
    FedskdError,
    InvalidValue,
    Key,
    TooFewHospitals,
    UnknownKey,
)
from fedskd_sim.scenario.algorithms import Placebo
from fedskd_sim.scenario.document import Document, read
from fedskd_sim.scenario.schema import Scenario

LONGEST_SHOWN = 60
LAST_PORT = 65535


@dataclass(frozen=True)
class Loaded:
    """A scenario together with the file it came from."""

    scenario: Scenario
    document: Document

    def placed(self, error: FedskdError) -> FedskdError:
        """Give an error that names a scenario key the file and line of that key."""
        if error.where is None and error.key:
            error.where = self.document.locate(error.key)
        return error


def load(path: Path) -> Loaded:
    """Read and check a scenario file; nothing is started and no data is read.

    Raises:
        ScenarioError: the first problem, by line, with all others listed under it.

    """
    document = read(path)
    try:
        scenario = Scenario.model_validate_json(json.dumps(_filled_in(document.data)))
    except ValidationError as error:
        raise_all(document, _translated(document, error))
        raise
    loaded = Loaded(scenario, document)
    raise_all(document, _contradictions(scenario))
    return loaded


def raise_all(document: Document, problems: Iterable[FedskdError]) -> None:
    """Raise the problem that stands first in the file, with the others attached; do nothing if there is none.

    Raises:
        FedskdError: if there is any problem.

    """
    found: dict[tuple[int, str, str], FedskdError] = {}
    for problem in problems:
        if problem.where is None:
            problem.where = document.locate(problem.key)
        found.setdefault((problem.where.line or 0, str(problem.key), problem.message), problem)
    ordered = [found[place] for place in sorted(found)]
    if ordered:
        ordered[0].others = tuple(ordered[1:10])
        raise ordered[0]


def _filled_in(values: dict[str, Any]) -> dict[str, Any]:
    """Give every hospital the top level's data under its own keys, and bare architecture names their mapping."""
    if not isinstance(values.get("hospitals"), list):
        return values
    shared = values.get("data", {"name": "none"})
    return {**values, "hospitals": [_filled(hospital, shared) for hospital in values["hospitals"]]}


def _filled(hospital: Any, shared: Any) -> Any:
    if not isinstance(hospital, dict):
        return hospital
    own = hospital.get("data", {})
    merged = {**shared, **own} if isinstance(own, dict) and isinstance(shared, dict) else own
    architecture = hospital.get("architecture")
    named = {"architecture": {"name": architecture}} if isinstance(architecture, str) else {}
    return {**hospital, "data": merged, **named}


def _translated(document: Document, error: ValidationError) -> Iterator[FedskdError]:
    for problem in error.errors(include_url=False):
        if _inherited(document, problem["loc"]):
            continue
        key = _known_keys(document, problem["loc"])
        value = json.dumps(problem["input"])
        shown = value if len(value) <= LONGEST_SHOWN else value[: LONGEST_SHOWN - 3] + "..."
        if problem["type"] == "extra_forbidden":
            known = _fields_beside(key, document)
            yield UnknownKey(
                f"unknown key (value {shown})",
                key=key,
                fix=f"{nearest(str(key[-1]), known, 'remove it')}; known here: {', '.join(known)}",
            )
        elif problem["type"] == "missing":
            yield InvalidValue("this key is missing", key=key, fix=f"add '{key[-1]}: ...' here")
        elif problem["type"] == "union_tag_invalid":
            known = problem["ctx"]["expected_tags"].replace("'", "").split(", ")
            tag = problem["ctx"]["tag"]
            fix = nearest(tag, known, f"choose one of {', '.join(known)}")
            yield InvalidValue(f"there is no {key[-1]} {tag!r}", key=(*key, "name"), fix=fix)
        elif problem["type"] == "union_tag_not_found":
            yield InvalidValue("it does not say which one", key=key, fix="add 'name: ...' here")
        else:
            yield InvalidValue(f"{shown} cannot be used", key=key, fix=problem["msg"][0].lower() + problem["msg"][1:])


def nearest(name: str, known: Sequence[str], otherwise: str) -> str:
    """Suggest the known name nearest to a mistyped one, or say something else when none is near."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else otherwise


def _inherited(document: Document, loc: tuple[Key, ...]) -> bool:
    """Tell whether a problem of a hospital's data stands in the top level's data, where it is reported already."""
    match loc:
        case ("hospitals", int(index), "data", _, key, *_):
            return ("hospitals", index, "data", key) not in document.lines and ("data", key) in document.lines
        case ("hospitals", int(index), "data"):
            return ("hospitals", index, "data", "name") not in document.lines and ("data",) in document.lines
    return False


def _known_keys(document: Document, loc: tuple[Key, ...]) -> tuple[Key, ...]:
    """Drop the names of union members, which pydantic puts into locations and which are not in the file."""
    key: tuple[Key, ...] = ()
    for index, part in enumerate(loc):
        if (*key, part) in document.lines or index == len(loc) - 1:
            key = (*key, part)
    return key


def _fields_beside(key: tuple[Key, ...], document: Document) -> list[str]:
    """List the keys the schema knows at the place of an unknown one."""
    part: Any = Scenario
    data = document.data
    for step in key[:-1]:
        data = data[step]
        if isinstance(step, str) and isinstance(part, type) and issubclass(part, BaseModel):
            name = data.get("name", document.data.get("data", {}).get("name")) if isinstance(data, dict) else None
            part = _choose(part.model_fields[step].annotation, name) if step in part.model_fields else None
    if not (isinstance(part, type) and issubclass(part, BaseModel)):
        return []
    return [field.alias or name for name, field in part.model_fields.items()]


def _choose(annotation: Any, name: Any) -> Any:
    """Pick the schema class behind an annotation: the class itself, a tuple's item, or the union member called ``name``."""
    members = [annotation, *getattr(annotation, "__args__", ())]
    classes = [member for member in members if isinstance(member, type) and issubclass(member, BaseModel)]
    for candidate in classes:
        field = candidate.model_fields.get("name")
        if len(classes) == 1 or (field and name in getattr(field.annotation, "__args__", ())):
            return candidate
    return None


def _contradictions(scenario: Scenario) -> Iterator[FedskdError]:
    first = {name: scenario.names.index(name) for name in scenario.names}
    twice = [name for name, count in Counter(scenario.names).items() if count > 1]
    for index, name in enumerate(scenario.names):
        if name in twice and index != first[name]:
            message = f"{name!r} is already the name of hospital number {first[name] + 1}"
            yield DuplicateHospital(message, key=("hospitals", index, "name"), fix="give every hospital its own name")
        if name == "controller":
            yield InvalidValue("'controller' is reserved", key=("hospitals", index, "name"), fix="choose another name")
    if len(scenario.hospitals) < 2:  # noqa: PLR2004 - a ring is at least two
        message = f"only one hospital, {scenario.names[0]!r}" if scenario.names else "no hospitals"
        yield TooFewHospitals(message, key=("hospitals",), fix="a ring needs at least two hospitals: add one")
    algorithm = scenario.algorithm
    if isinstance(algorithm, Placebo) and algorithm.behaviour != "ok" and algorithm.culprit not in scenario.names:
        message = f"{algorithm.culprit!r} is not a hospital of this scenario"
        yield InvalidValue(message, key=("algorithm", "culprit"), fix=f"one of {', '.join(scenario.names)}")
    if scenario.network.plaintext and scenario.network.transport != "tcp":
        message = "true has no meaning with transport ipc"
        yield InvalidValue(message, key=("network", "plaintext"), fix="remove it, or set 'transport: tcp'")
    for base, key in ((scenario.network.port, "network"), (scenario.metrics.port, "metrics")):
        if base and base + len(scenario.hospitals) > LAST_PORT:
            message = f"{base} plus {len(scenario.hospitals)} hospitals is past port {LAST_PORT}"
            yield InvalidValue(message, key=(key, "port"), fix="choose a lower port, or 0 for any free ones")
