"""Plan the runs of a comparison: every method at the scenario's budget, every seed with its own
folds; pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from fedskd_sim.errors import InvalidValue, Where
from fedskd_sim.scenario import (
    BUILT_IN,
    Audit,
    Dataset,
    FedSKD,
    HospitalChange,
    OwnAlgorithm,
    Planned,
    Scenario,
    at_budget,
    default_of,
    nearest,
    offered_names,
    passes,
)
from fedskd_sim.scenario.elsewhere import whereabouts
from fedskd_sim.scenario.grid import points, words
from fedskd_sim.scenario.part import Part

FOLDS = 5
FOLD_KEYS = ("test_fold", "validation_fold")
FEWEST_SEEDS = 2


@dataclass(frozen=True, slots=True)
class Method:
    """A label of the comparison with its scenario, cut to the budget."""

    label: str
    planned: Planned
    budget: float
    share: float = 1.0
    """Its budget, in units of the scenario's."""
    given: Scenario | None = None
    """The scenario whose work is the budget."""
    point: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """The values of a point of a grid, by key; empty for what is none."""

    @property
    def scenario(self) -> Scenario:
        """The scenario, under its first seed."""
        return self.planned.scenario

    @property
    def text(self) -> str:
        """The scenario file of its first run (JSON is YAML)."""
        return _text(self.scenario)

    def off(self, done: int, samples: Sequence[int]) -> float:
        """Tell by which share a run misses the budget.

        Args:
            done: its sample-gradients, of all hospitals, from its records.
            samples: the training samples of every hospital; empty where that is not known, and
                then it is told of the plan.

        """
        if not samples or self.given is None or not self.budget:
            return self.planned.passes / self.budget - 1 if self.budget else 0.0
        return done / (self.share * passes(self.given, samples) * sum(samples)) - 1


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run: a method under one seed."""

    label: str
    index: int
    scenario: Scenario
    audited: bool = False
    """It has canaries, and its accuracies are not the method's."""

    @property
    def name(self) -> str:
        """Which run it is, in words."""
        name = f"{self.label}, seed {self.scenario.seed}"
        return f"{name}, with canaries" if self.audited else name

    @property
    def text(self) -> str:
        """The scenario file of the run (JSON is YAML)."""
        return _text(self.scenario)


def _text(scenario: Scenario) -> str:
    return json.dumps(scenario.model_dump(mode="json", by_alias=True), indent=1) + "\n"


def methods(scenario: Scenario, labels: Sequence[str], samples: Sequence[int] = ()) -> list[Method]:
    """Give every label its scenario at equal work.

    Args:
        scenario: what is compared, and whose work is the budget.
        labels: names of algorithms and variants.
        samples: the training samples of every hospital that trains; needed where `cut_short`.

    Raises:
        InvalidValue: an unknown label, or one that is given twice.

    """
    for error in find_bad_labels(scenario, labels):
        raise error
    return [_auditable(_method(scenario, label, samples)) for label in labels]


def _auditable(method: Method) -> Method:
    """Return a method without an audit where nothing of it can be audited."""
    if not method.scenario.audit or _has_models(method.scenario):
        return method
    bare = method.scenario.model_copy(update={"audit": None})
    return replace(method, planned=method.planned._replace(scenario=bare))


def _has_models(scenario: Scenario) -> bool:
    """Return whether hospitals have models that others see."""
    return scenario.learns and not scenario.pools


def cut_short(scenario: Scenario) -> bool:
    """Return whether ``training.batches`` makes some pass shorter than the training data, here or
    in a variant: equal work then depends on how many samples there are.
    """
    known = [variant.training for variant in scenario.variants.values()]
    return any(one and one.batches for one in (scenario.training, *known))


def find_bad_labels(scenario: Scenario, labels: Sequence[str]) -> Iterator[InvalidValue]:
    """Find labels that nothing has, or that are given twice."""
    known, where = choices(scenario), Where("--algorithms")
    for place, label in enumerate(labels):
        if label in labels[:place]:
            yield InvalidValue(
                f"{label!r} is given twice", fix="name every method once", where=where
            )
        elif label not in known:
            there = f"{nearest(label, known, '')} there are {', '.join(known)}".lstrip()
            fix = f"{whereabouts(label) or there}; others can be described under variants, "
            fix += "a sweep under grid"
            yield InvalidValue(f"there is no algorithm or variant {label!r}", fix=fix, where=where)


def choices(scenario: Scenario) -> list[str]:
    """Name what can be compared: the scenario's variants, the built-in algorithms, and those whose
    keys a package offers.
    """
    own = scenario.algorithm.name
    known = [*([own] if isinstance(scenario.algorithm, OwnAlgorithm) else []), *BUILT_IN]
    return [*dict.fromkeys([*scenario.variants, *known, *offered_names()])]


def without_canaries(scenario: Scenario) -> Scenario:
    """Return what accuracies are of: the scenario without an audit that changes training."""
    planted = scenario.audit and scenario.audit.canaries
    return scenario.model_copy(update={"audit": None}) if planted else scenario


def tasks(
    methods_: Sequence[Method], seeds: int, audit: Audit | None = None
) -> Iterator[PlannedRun]:
    """List all runs, seed by seed, so that every seed is complete as early as possible. An
    ``audit`` with canaries has runs of its own, one more for each.

    Run i has seed ``scenario.seed + i``, and where the data has folds, test and validation fold are
    moved on by i (modulo 5).

    Raises:
        InvalidValue: fewer than two seeds.

    """
    for error in too_few(seeds):
        raise error
    for index in range(seeds):
        for method in methods_:
            run = PlannedRun(method.label, index, _with_seed(method.scenario, index))
            yield run
            if audit and audit.canaries and _has_models(run.scenario):
                planted = run.scenario.model_copy(update={"audit": audit})
                yield replace(run, scenario=planted, audited=True)


def too_few(seeds: int) -> Iterator[InvalidValue]:
    """Refuse a number of seeds of which nothing can be said."""
    if seeds < FEWEST_SEEDS:
        fix = "give 2 or more: one seed has no spread, so nothing can be said"
        yield InvalidValue(f"{seeds} cannot be used", fix=fix, where=Where("--seeds"))


def _method(scenario: Scenario, label: str, samples: Sequence[int]) -> Method:
    bare = without_canaries(scenario).model_copy(update={"variants": {}, "grid": {}})
    budget = passes(scenario, samples)
    variant = scenario.variants.get(label)
    if variant is None:
        own = scenario.algorithm
        same = label == (
            own.preset if isinstance(own, FedSKD) and own.preset != "plain" else own.name
        )
        chosen = own if same else BUILT_IN.get(label) or default_of(label, len(scenario.members))
        if chosen is None:
            raise KeyError(label)
        planned = at_budget(bare, chosen, budget, samples)
        return Method(label, planned, budget, given=bare)
    given = {
        name: part
        for name in ("prediction", "training", "faults", "links")
        if (part := getattr(variant, name)) is not None
    }
    size = len(scenario.members)
    share = {"total": 1.0, "per_model": 1 / size, "single": float(size)}[variant.budget]
    given["hospitals"] = variant.of(scenario.hospitals)
    planned = at_budget(
        bare.model_copy(update=given),
        variant.algorithm or scenario.algorithm,
        share * budget,
        samples,
    )
    point = points(scenario.grid).get(label, {})
    return Method(label, planned, share * budget, share, bare, point)


def _with_seed(scenario: Scenario, index: int) -> Scenario:
    hospitals = tuple(
        hospital.model_copy(update={"data": _with_fold(hospital.data, index)})
        for hospital in scenario.hospitals
    )
    changed = {
        "seed": scenario.seed + index,
        "hospitals": hospitals,
        "data": _with_fold(scenario.data, index),
    }
    return scenario.model_copy(update=changed)


def _with_fold(dataset: Dataset, index: int) -> Dataset:
    folds = {
        key: (getattr(dataset, key) + index) % FOLDS for key in FOLD_KEYS if hasattr(dataset, key)
    }
    return dataset.model_copy(update=folds)


def describe(method: Method) -> str:
    """Write what a method is in one line: its point of a grid, its algorithm, what of its settings
    differs from the defaults, its faults and its links, and which hospitals are not as the scenario
    has them.
    """
    scenario = method.scenario
    given = scenario.algorithm.model_dump(mode="json", exclude_defaults=True)
    name = str(given.pop("name"))
    told = f"{words(method.point)}; " if method.point else ""
    told += name + (f" {json.dumps(given)}" if given else "")
    disturbed = {"faults": scenario.faults_in_words, "links": scenario.links_in_words}
    apart = disturbed | _other_hospitals(scenario, method.given or scenario)
    return told + "".join(f"; {key}: {words}" for key, words in apart.items() if words)


def _other_hospitals(scenario: Scenario, given: Scenario) -> dict[str, str]:
    """Say which hospitals have something else than in the scenario that is given, and in which
    order they stand if in another.
    """
    told = []
    for name in scenario.names:
        before, now = given.hospital(name), scenario.hospital(name)
        parts = [
            part.model_dump_json(exclude_defaults=True) if isinstance(part, Part) else str(part)
            for key in HospitalChange.model_fields
            if (part := getattr(now, key)) != getattr(before, key)
        ]
        told += [f"{name} {' '.join(parts)}"] if parts else []
    order = ", ".join(scenario.names) if scenario.names != given.names else ""
    return {"hospitals": ", ".join(told), "order": order}
