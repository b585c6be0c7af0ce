"""From a file to a checked scenario, with file, line, value and fix in every error."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedskd_sim.errors import (
    DuplicateHospital,
    FedskdError,
    InvalidValue,
    TooFewHospitals,
    UnknownKey,
)
from fedskd_sim.scenario.document import Document, read
from fedskd_sim.scenario.edit import edited
from fedskd_sim.scenario.explain import nearest, translated
from fedskd_sim.scenario.partition import contradictions
from fedskd_sim.scenario.references import Placebo
from fedskd_sim.scenario.schema import Scenario
from fedskd_sim.scenario.volumes import spaces_differ

LAST_PORT = 65535


@dataclass(frozen=True)
class Loaded:
    """A scenario together with the file it came from."""

    scenario: Scenario
    document: Document

    def placed(self, error: FedskdError) -> FedskdError:
        """Give an error that names a scenario key the file and line of that key."""
        if error.where is None and error.key:
            error.where, error.key = (
                self.document.locate(error.key),
                self.document.written(error.key),
            )
        return error


def load(path: Path, changes: Iterable[str] = ()) -> Loaded:
    """Read and check a scenario file; nothing is started and no data is read.

    Args:
        path: the file.
        changes: what to change before it is checked, such as ``training.epochs=3``
            (`fedskd_sim.scenario.edit`).

    Raises:
        ScenarioError: the first problem, by line, with all others listed under it.

    """
    document = edited(read(path), changes)
    try:
        scenario = Scenario.model_validate_json(json.dumps(_filled_in(document.data)))
    except ValidationError as error:
        raise_all(document, translated(document, error))
        raise
    loaded = Loaded(scenario, document)
    raise_all(document, _contradictions(scenario, document))
    return loaded


def raise_all(document: Document, problems: Iterable[FedskdError]) -> None:
    """Raise the problem that stands first in the file, with the others attached; do nothing if
    there is none.

    Raises:
        FedskdError: if there is any problem.

    """
    found: dict[tuple[int, bool, str, str], FedskdError] = {}
    for problem in problems:
        if problem.where is None:
            problem.where, problem.key = document.locate(problem.key), document.written(problem.key)
        known = not isinstance(
            problem, UnknownKey
        )  # a misspelt key first: it may be why another is missing
        found.setdefault(
            (problem.where.line or 0, known, str(problem.key), problem.message), problem
        )
    ordered = [found[place] for place in sorted(found)]
    if ordered:
        ordered[0].others = tuple(ordered[1:10])
        raise ordered[0]


def _filled_in(values: dict[str, Any]) -> dict[str, Any]:
    """Give every hospital the top level's data under its own keys."""
    if not isinstance(values.get("hospitals"), list):
        return values
    shared = values.get("data", {"name": "none"})
    return {**values, "hospitals": [_filled(hospital, shared) for hospital in values["hospitals"]]}


def _filled(hospital: Any, shared: Any) -> Any:
    if not isinstance(hospital, dict):
        return hospital
    own = hospital.get("data", {})
    same = (
        isinstance(own, dict)
        and isinstance(shared, dict)
        and own.get("name", shared.get("name")) == shared.get("name")
    )
    return {**hospital, "data": _merged(shared, own) if same else own}


def _merged(shared: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Put a hospital's keys over the shared ones; a partition is merged key by key, so that a
    hospital need only name its part.
    """
    cuts = shared.get("partition"), own.get("partition")
    inner = (
        {"partition": {**cuts[0], **cuts[1]}}
        if isinstance(cuts[0], dict) and isinstance(cuts[1], dict)
        else {}
    )
    return {**shared, **own, **inner}


def _contradictions(scenario: Scenario, document: Document) -> Iterator[FedskdError]:
    for index, name in enumerate(scenario.names):
        first = scenario.names.index(name)
        if index != first:
            message = (
                f"{name!r} is already the name of the hospital in line "
                f"{document.locate(('hospitals', first)).line}"
            )
            yield DuplicateHospital(
                message, key=("hospitals", index, "name"), fix="give every hospital its own name"
            )
        if name == "controller":
            yield InvalidValue(
                "'controller' is reserved",
                key=("hospitals", index, "name"),
                fix="choose another name",
            )
    if len(scenario.members) < 2:  # noqa: PLR2004 - a ring is at least two
        message = (
            f"only one hospital that trains, {scenario.members[0]!r}"
            if scenario.members
            else "no hospitals that train"
        )
        yield TooFewHospitals(
            message, key=("hospitals",), fix="a ring needs at least two hospitals: add one"
        )
    algorithm = scenario.algorithm
    if (
        isinstance(algorithm, Placebo)
        and algorithm.behaviour != "ok"
        and algorithm.culprit not in scenario.names
    ):
        given = (
            f"{algorithm.culprit!r} is not a hospital of this scenario"
            if algorithm.culprit
            else "this key is missing"
        )
        message = given + f", and behaviour {algorithm.behaviour!r} needs one"
        fix = nearest(
            algorithm.culprit, scenario.names, f"choose one of {', '.join(scenario.names)}"
        )
        yield InvalidValue(message, key=("algorithm", "culprit"), fix=fix)
    if scenario.network.plaintext and scenario.network.transport != "tcp":
        message = "true has no meaning with transport ipc"
        yield InvalidValue(
            message, key=("network", "plaintext"), fix="remove it, or set 'transport: tcp'"
        )
    yield from contradictions([(hospital.name, hospital.data) for hospital in scenario.hospitals])
    yield from spaces_differ(scenario.hospitals)
    for base, key in ((scenario.network.port, "network"), (scenario.metrics.port, "metrics")):
        if base and base + len(scenario.hospitals) > LAST_PORT:
            message = f"{base} plus {len(scenario.hospitals)} hospitals is past port {LAST_PORT}"
            yield InvalidValue(
                message, key=(key, "port"), fix="choose a lower port, or 0 for any free ones"
            )
