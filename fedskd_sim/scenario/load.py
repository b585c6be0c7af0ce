"""From a file to a checked scenario, with file, line, value and fix in every error. What of a wrong
scenario is right is kept, so that everything else that is wrong with it is said at the same time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedskd_sim.errors import (
    DuplicateHospital,
    FedskdError,
    InvalidValue,
    Key,
    ScenarioSyntaxError,
    TooFewHospitals,
    UnknownKey,
    Where,
)
from fedskd_sim.scenario.datasets import NoData, spaces_differ
from fedskd_sim.scenario.document import MERGE, Document, parse, read
from fedskd_sim.scenario.edit import apply_changes
from fedskd_sim.scenario.explain import nearest, translate
from fedskd_sim.scenario.faultchecks import faulty, find_bad_links, unbearable
from fedskd_sim.scenario.grid import find_bad_grid
from fedskd_sim.scenario.idle import find_idle
from fedskd_sim.scenario.offered import ask_packages
from fedskd_sim.scenario.own import Answers, Asked, OwnCode, read_answers, read_code, to_ask
from fedskd_sim.scenario.part import Architecture, contradictions
from fedskd_sim.scenario.privacychecks import find_bad_privacy
from fedskd_sim.scenario.schema import Scenario
from fedskd_sim.scenario.training import Prediction
from fedskd_sim.scenario.valid import KeyPath, ValidParts, sound

LAST_PORT = 65535
AMOUNTS = ("noise", "target", "budget")
"""Keys of ``privacy`` that say how much noise there is, together."""


@dataclass(frozen=True)
class Loaded:
    """A scenario together with the file it came from."""

    scenario: Scenario
    document: Document
    code: OwnCode | None = None

    def place_error(self, error: FedskdError) -> FedskdError:
        """Return an error that names a scenario key the file and line of that key."""
        if error.where is None and error.key:
            error.where, error.key = (
                self.document.locate(error.key),
                self.document.key_in_file(error.key),
            )
        return error

    def changed(self, changes: Iterable[str]) -> Examined:
        """Change the scenario and examine it again."""
        return _examine(apply_changes(self.document, changes))

    @property
    def idle(self) -> dict[str, Where]:
        """Find every key that is given in vain: why it is, and where it stands."""
        document, told = self.document, dict[str, Where]()
        for key, why in find_idle(self.scenario):
            written = document.key_in_file(key)
            if key[-1] == "rounds" and written not in {*document.lines, *document.places}:
                continue  # a package's algorithm has filled it in
            told[f"{'.'.join(map(str, written))} has no effect: {why}"] = document.locate(key)
        return dict(sorted(told.items(), key=lambda one: one[1].line or 0))


@dataclass(frozen=True)
class Examined:
    """A scenario's file and everything that is wrong with it, as far as neither models nor data
    are needed to know it.
    """

    document: Document
    rest: ValidParts | None
    """What of it is right; None if nothing can be said."""
    problems: tuple[FedskdError, ...] = ()
    code: OwnCode | None = None
    """What it brings along."""
    asked: tuple[Asked, ...] = ()
    """Algorithms of which only their code can say more; ``rest`` has others in their place."""

    def answered(self, answers: Answers) -> Examined:
        """Examine it again with what the code has said of these algorithms."""
        known = {**self.document.answers, **answers}
        return _examine(replace(self.document, answers=known))

    def good(self, more: Iterable[FedskdError] = ()) -> Loaded:
        """Return the scenario if nothing is wrong with it.

        Raises:
            FedskdError: the first problem, by line, with all others listed under it.

        """
        raise_all(self.document, [*self.problems, *more])
        if self.rest is None:
            raise RuntimeError("the schema refuses it and says not why")
        if self.asked:
            name = self.asked[0].given["name"]
            text = f"only code can say what the algorithm {name!r} is, and it was not run"
            raise InvalidValue(text, fix="load it with fedskd_sim.load", key=self.asked[0].key)
        return Loaded(self.rest.scenario, self.document, self.code)


def load(path: Path, changes: Iterable[str] = ()) -> Loaded:
    """Read and check a scenario file; nothing is started and no data is read.

    >>> from fedskd_sim.scenario import scenarios
    >>> loaded = load(scenarios()["quickstart"], ["training.epochs=5"])
    >>> loaded.scenario.training.epochs
    5
    >>> try:
    ...     load(scenarios()["quickstart"], ["training.epochs=0"])
    ... except InvalidValue as error:
    ...     print(error)
    --set training.epochs: training.epochs: 0 cannot be used
      fix: give 1 or more

    Args:
        path: the file.
        changes: what to change before it is checked, such as ``training.epochs=3``
            (`fedskd_sim.scenario.edit`).

    Raises:
        ScenarioError: the first problem, by line, with all others listed under it.

    """
    return examine(path, changes).good()


def load_architecture(name: str, changes: Iterable[str] = ()) -> Architecture:
    """Read an architecture by its name, changed as `load` changes a scenario.

    >>> load_architecture("cnn-plain", ["options.width=8"]).options
    {'width': 8}

    Raises:
        ScenarioError: the first problem, with all others listed under it.

    """
    document = apply_changes(parse(name, json.dumps({"name": name})), changes)
    raise_all(document, document.faults)
    try:
        return Architecture.model_validate_json(json.dumps(document.data))
    except ValidationError as error:
        problems = translate(document, error)
        for one in problems:
            if isinstance(one, UnknownKey):
                one.fix = f"known here: {', '.join(Architecture.model_fields)}"
        raise_all(document, problems)
        raise


def examine(path: Path, changes: Iterable[str] = (), brought: OwnCode | None = None) -> Examined:
    """Read a scenario file as `load` does and find everything that is wrong with it; ``brought`` is
    code that comes beside it, in the place of what the file names.

    Raises:
        ScenarioSyntaxError: so little of it can be read that nothing else can be said.

    """
    return _examine(apply_changes(replace(read(path), brought=brought), changes))


def _examine(document: Document) -> Examined:
    problems: list[FedskdError] = [*document.faults]
    faults = {fault.key for fault in document.faults if fault.key[-1:] not in ((), (MERGE,))}
    own = to_ask(_fill_in(document.data), any_name=bool(document.brought))
    if own:
        kept = read_answers(Path(document.file).parent)
        document = replace(document, answers={**kept, **document.answers})
    new = [one for one in own if one.text not in document.answers]
    told, wrong, asked = ask_packages(new, _count_members(document.data))
    if told:
        document = replace(document, answers={**document.answers, **told})
    problems += wrong
    values = _with_answers(document, own)
    unsaid = frozenset(one.key for one in new if one.text not in told)
    code = None
    try:
        code = _code(document)
    except FedskdError as error:
        problems.append(error)
    try:
        found = Scenario.model_validate_json(json.dumps(values))
        rest: ValidParts | None = ValidParts(found, unsaid, code)
    except ValidationError as error:
        rest = sound(values, error, faults)
        rest = rest and rest._replace(left_out=rest.left_out | unsaid, code=code)
        known = faults | document.merged
        problems += [
            found
            for found in translate(document, error)
            if not any(document.key_in_file(found.key)[: len(key)] == key for key in known)
        ]
    problems += _contradictions(rest, document) if rest else ()
    return Examined(document, rest, tuple(problems), code, tuple(asked))


def _code(document: Document) -> OwnCode | None:
    """Read what a scenario brings along, if its ``code`` is a list of texts; raises as
    `read_code`.
    """
    if document.brought:
        given: OwnCode = document.brought
        return given
    entries = document.data.get("code")
    texts = isinstance(entries, list) and all(isinstance(one, str) for one in entries)
    return read_code(Path(document.file).parent, entries) if texts else None


def _count_members(values: Mapping[str, Any]) -> int:
    """Count the hospitals that train, as far as a scenario's values say so."""
    listed = values.get("hospitals")
    listed = listed if isinstance(listed, list) else []
    return sum(not (isinstance(one, dict) and one.get("held_out") is True) for one in listed)


def _with_answers(document: Document, own: Iterable[Asked]) -> dict[str, Any]:
    """Return a scenario's values with what is known of algorithms of the user's own, and another in
    the place of those of which nothing is.
    """
    values = _fill_in(document.data)
    for one in own:
        told = document.answers.get(one.text)
        default = {"rounds": told["keys"]["rounds"]} if told else {}
        said = {**default, **one.given, "resolved": told} if told else {"name": "local"}
        values = _put(values, one.key, said)
    return values


def _put(values: Any, key: KeyPath, value: Any) -> Any:
    """Copy a mapping with another value at a key."""
    if not key:
        return value
    return {**values, key[0]: _put(values[key[0]], key[1:], value)}


def raise_all(document: Document, problems: Iterable[FedskdError]) -> None:
    """Raise the problem that stands first in the file, with the others attached; do nothing if
    there is none.

    Raises:
        FedskdError: if there is any problem.

    """
    found: dict[tuple[bool, int, bool, str, str], FedskdError] = {}
    for problem in problems:
        if problem.where is None:
            problem.where, problem.key = (
                document.locate(problem.key),
                document.key_in_file(problem.key),
            )
        # a misspelt key first: it may be why another is missing
        known = not isinstance(problem, UnknownKey)
        form = not isinstance(problem, ScenarioSyntaxError)  # and before all what is no good YAML
        found.setdefault(
            (form, problem.where.line or 0, known, str(problem.key), problem.message), problem
        )
    ordered = [found[place] for place in sorted(found)]
    if ordered:
        ordered[0].others = tuple(ordered[1:])
        raise ordered[0]


def _fill_in(values: dict[str, Any]) -> dict[str, Any]:
    """Add the top level's data and privacy to every hospital's under its own keys."""
    if not isinstance(values.get("hospitals"), list):
        return values
    shared, usual = values.get("data", {"name": "none"}), values.get("privacy")
    filled = [_protect(_fill(hospital, shared), usual) for hospital in values["hospitals"]]
    return {**values, "hospitals": filled}


def _protect(hospital: Any, usual: Any) -> Any:
    """Add the usual privacy under a hospital's own; how much noise there is it has from one of the
    two alone.
    """
    if not isinstance(hospital, dict) or not isinstance(usual, dict):
        return hospital
    own = hospital.get("privacy", {})
    if not isinstance(own, dict):
        return hospital
    taken = AMOUNTS if own.keys() & {*AMOUNTS} else ()
    kept = {key: value for key, value in usual.items() if key not in taken}
    return {**hospital, "privacy": {**kept, **own}}


def _fill(hospital: Any, shared: Any) -> Any:
    if not isinstance(hospital, dict):
        return hospital
    own = hospital.get("data", {})
    same = (
        isinstance(own, dict)
        and isinstance(shared, dict)
        and own.get("name", shared.get("name")) == shared.get("name")
    )
    return {**hospital, "data": _merge(shared, own) if same else own}


def _merge(shared: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
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


def _contradictions(rest: ValidParts, document: Document) -> Iterator[FedskdError]:
    """Find what no single key has wrong; keys that were left out contradict nothing."""
    scenario = rest.scenario
    yield from _names(rest, document)
    if len(scenario.members) < 2 and ("hospitals",) not in rest.left_out:  # noqa: PLR2004 - a ring is at least two
        message = (
            f"only one hospital that trains, {scenario.members[0]!r}"
            if scenario.members
            else "no hospitals that train"
        )
        yield TooFewHospitals(
            message, key=("hospitals",), fix="a ring needs at least two hospitals: add one"
        )
    yield from _find_bad_disturbances(rest, document)
    if not rest.lacks("on_loss"):
        yield from unbearable(rest.scenario)
    yield from _idle(rest)
    yield from _find_bad_variants(rest)
    yield from _find_bad_training(rest)
    yield from find_bad_privacy(rest)
    yield from find_bad_grid(rest, document, lambda changed: _examine(changed).problems)
    known = [
        hospital.model_copy(update={"data": NoData()})
        if rest.lacks("hospitals", index, "data")
        else hospital
        for index, hospital in enumerate(scenario.hospitals)
    ]
    yield from contradictions([(hospital.name, hospital.data) for hospital in known])
    yield from spaces_differ(known)


def _unfit_for_audit(scenario: Scenario) -> Iterator[FedskdError]:
    """Find an algorithm of which an audit has nothing to say."""
    if not scenario.learns or scenario.pools:
        why = "puts all data into one place" if scenario.pools else "learns nothing"
        text = f"{scenario.algorithm.name!r} {why}: nothing can be audited"
        yield InvalidValue(text, key=("audit",), fix="remove it, or choose another algorithm")


def _idle(rest: ValidParts) -> Iterator[FedskdError]:
    """Find what has no meaning beside other keys, or no room."""
    scenario, network = rest.scenario, rest.scenario.network
    if network.plaintext and network.transport != "tcp" and not rest.lacks("network", "transport"):
        message = "true has no meaning with transport ipc"
        yield InvalidValue(
            message, key=("network", "plaintext"), fix="remove it, or set 'transport: tcp'"
        )
    predicts = scenario.prediction != Prediction() and not rest.lacks("prediction")
    if predicts and not scenario.learns and not rest.lacks("algorithm", "name"):
        message = f"{scenario.algorithm.name!r} learns nothing, and nothing can be predicted"
        yield InvalidValue(
            message, key=("prediction",), fix="remove it, or choose another algorithm"
        )
    if scenario.audit and not rest.lacks("audit") and not rest.lacks("algorithm", "name"):
        yield from _unfit_for_audit(scenario)
    stays = [one.buffers for one in map(scenario.architecture, scenario.members)]
    averages = scenario.prediction.keeps_averaged
    if averages and "stay" in stays and not rest.lacks("prediction"):
        message = f"{scenario.prediction.model!r} takes the buffers anew, which are to stay"
        fix = "choose model: reconciled, or let buffers travel"
        yield InvalidValue(message, key=("prediction", "model"), fix=fix)
    for base, key in ((network.port, "network"), (scenario.metrics.port, "metrics")):
        if base and base + len(scenario.hospitals) > LAST_PORT:
            message = f"{base} plus {len(scenario.hospitals)} hospitals is past port {LAST_PORT}"
            yield InvalidValue(
                message, key=(key, "port"), fix="choose a lower port, or 0 for any free ones"
            )


def _find_bad_training(rest: ValidParts) -> Iterator[FedskdError]:
    """Find options of optimiser, schedule and loss that go with none of their other values."""
    for scenario, outer in _with_variants(rest, "training"):
        training, under = scenario.training, (*outer, "training")
        optimiser = training.optimiser
        for one in optimiser.foreign_keys():
            key = (*under, "optimiser", *one.key.split("."))
            value: Any = optimiser
            for name in one.key.split("."):
                value = getattr(value, name)
            text = f"{value!r} cannot be used: {one.name} has no such option"
            fix = f"remove it, or choose the name {' or '.join(one.owners)} beside it"
            yield InvalidValue(text, key=key, fix=fix)
        if optimiser.name == "sgd" and optimiser.nesterov and not optimiser.momentum:
            text = "true cannot be used: the momentum is 0, and there is nothing to look along"
            key = (*under, "optimiser", "nesterov")
            yield InvalidValue(text, key=key, fix="set a momentum, such as 0.9, or remove it")
        if training.label_smoothing and training.focal:
            text = f"{training.focal:g} cannot be used beside a label_smoothing"
            fix = "choose one of the two losses: remove focal or label_smoothing"
            yield InvalidValue(text, key=(*under, "focal"), fix=fix)


def _find_bad_variants(rest: ValidParts) -> Iterator[FedskdError]:
    """Find variants that change hospitals which there are not, or leave some out of their order."""
    names = rest.scenario.names
    for label, variant in rest.scenario.variants.items():
        under = ("variants", label)
        for name in variant.hospitals or ():
            if name not in names:
                fix = nearest(name, names, f"name one of {', '.join(names)}")
                text = f"there is no hospital {name!r}"
                yield InvalidValue(text, key=(*under, "hospitals", name), fix=fix)
        if variant.order is not None and sorted(variant.order) != sorted(names):
            text = f"{', '.join(variant.order)} is no order of {', '.join(names)}"
            fix = "name every hospital once: others would train, and nothing could be paired"
            yield InvalidValue(text, key=(*under, "order"), fix=fix)


def _names(rest: ValidParts, document: Document) -> Iterator[FedskdError]:
    """Find names that two hospitals have, or none may have."""
    before: dict[str, int] = {}
    for index, name in enumerate(rest.scenario.names):
        if rest.lacks("hospitals", index, "name"):
            continue
        first = before.setdefault(name, index)
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


def _find_bad_disturbances(rest: ValidParts, document: Document) -> Iterator[FedskdError]:
    """Find what is wrong with the faults and links of the scenario and of its variants."""
    names = _written_names(rest.scenario, document)
    for disturbed, under in _with_variants(rest, "faults"):
        yield from faulty(disturbed, names, under)
    if not rest.lacks("timeouts"):
        for disturbed, under in _with_variants(rest, "links"):
            yield from find_bad_links(disturbed, names, under)


def _with_variants(rest: ValidParts, key: str) -> Iterator[tuple[Scenario, tuple[Key, ...]]]:
    """Yield the scenario, and it with a key of each variant that has it, and under what that
    stands; not where it is known to be wrong.
    """
    if not rest.lacks(key):
        yield rest.scenario, ()
    for label, variant in rest.scenario.variants.items():
        if (value := getattr(variant, key)) and not rest.lacks("variants", label):
            yield rest.scenario.model_copy(update={key: value}), ("variants", label)


def _written_names(scenario: Scenario, document: Document) -> list[str]:
    """List the hospitals; one whose own entry is wrong counts by the name that it has in the
    file.
    """
    listed = document.data.get("hospitals")
    listed = listed if isinstance(listed, list) else []
    names = [str(one["name"]) for one in listed if isinstance(one, dict) and "name" in one]
    return names or list(scenario.names)
