"""From the records of many runs to one table: scores, what they cost, and paired differences to the
control; and what faults did, each method with faults against its twin without them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fedskd_sim.learning.task import AUC_OF
from fedskd_sim.privacy.attacks import AttackResult
from fedskd_sim.records import Record
from fedskd_sim.records.files import read_counts, read_records, read_timings
from fedskd_sim.results.account import STRUCK, Absence, Troubles
from fedskd_sim.results.comparison.planning import Method
from fedskd_sim.results.comparison.statistics import Difference, best, compare_paired, correct
from fedskd_sim.results.gathered import Gathered
from fedskd_sim.results.memory import MemoryPart, average, remembered
from fedskd_sim.results.notes import ADJUSTED, Basis, bases, mean, rarest_classes, together
from fedskd_sim.results.rows import Column, Table, digits, percent

SCORES = ("auc", "balanced_accuracy", ADJUSTED)
ALONE = ("own", "others")
"""The places at which each hospital has a value of its own."""
PLACES = ("own", "others", "mean", "ensemble", "unseen")
COMPARED = ("mean", "ensemble", "unseen")
"""The places at which a metric's table shows differences to the control."""
MEMORY = ("retention", "forgetting")
K = TypeVar("K")
Test = tuple[str, str, str, str]
"""A metric, where it counts (``inside``, ``ensemble`` or ``unseen``), whose model, whose data."""


@dataclass(frozen=True, slots=True)
class Score:
    """What one run gives: values by (metric, place) and, per hospital, by (metric, place,
    hospital); costs by name.

    ``bases`` has, by metric, what every hospital with a value of it tests models on, those that
    were held out too.
    """

    values: Mapping[tuple[str, str], float]
    hospitals: Mapping[tuple[str, str, str], float]
    costs: Mapping[str, float]
    bases: Mapping[str, Mapping[str, Basis]]
    struck: tuple[Absence, ...] = ()
    """What struck its hospitals; read only where faults were wanted."""
    tests: Mapping[Test, float] = field(default_factory=dict)
    """The values of all tests that it has, of which ``values`` are means."""
    memory: Mapping[MemoryPart, float] = field(default_factory=dict)
    """... and of what models forget and keep."""
    read: Mapping[str, int] = field(default_factory=dict)
    """The training samples of every hospital that told of them."""


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One method over all seeds; a missing value is NaN."""

    method: Method
    scores: Sequence[Score]
    audits: Sequence[Mapping[str, AttackResult]] = ()
    """What every attacker can tell from the audited run of a seed."""

    def series(self, metric: str, place: str) -> list[float]:
        """Return a value per seed."""
        return [score.values.get((metric, place), math.nan) for score in self.scores]

    def mean(self, metric: str, place: str) -> float:
        """Return the mean over seeds."""
        return mean(self.series(metric, place))

    @property
    def off(self) -> float:
        """The mean share by which runs miss the budget, by their own records."""
        names = self.method.scenario.members
        return mean(
            self.method.off(
                round(score.costs["samples"]),
                [score.read[name] for name in names] if {*names} <= {*score.read} else [],
            )
            for score in self.scores
        )

    def cost(self, name: str) -> float:
        """Return the mean cost of a run."""
        return mean(score.costs.get(name, math.nan) for score in self.scores)

    def hospital(self, metric: str, place: str, name: str) -> float:
        """Return the mean over seeds for one hospital."""
        return mean(self.hospital_series(metric, place, name))

    def hospital_series(self, metric: str, place: str, name: str) -> list[float]:
        """Return a value per seed for one hospital."""
        return [score.hospitals.get((metric, place, name), math.nan) for score in self.scores]

    def beside(self, other: MethodRow, metric: str, place: str) -> tuple[list[float], list[float]]:
        """Return a value per seed of this method and of another one, over the tests that both have:
        where a run lost a hospital, a mean over fewer hospitals is not one over all of them.
        """
        pairs = [
            _beside(*both, metric, place) for both in zip(self.scores, other.scores, strict=True)
        ]
        return [own for own, _ in pairs], [theirs for _, theirs in pairs]

    def versus(self, other: MethodRow, metric: str, place: str) -> Difference:
        """Compare this method with another one over the tests that both have."""
        return compare_paired(*self.beside(other, metric, place))


@dataclass(frozen=True, slots=True)
class MethodTable:
    """All methods, the control among them; ``seeds`` are those that every method has finished."""

    rows: tuple[MethodRow, ...]
    control: str
    seeds: tuple[int, ...]
    notes: tuple[str, ...]

    def differences(self, metric: str) -> dict[tuple[str, str], Difference]:
        """Compare every method with the control, by (label, place), corrected for all that a
        metric's table shows.
        """
        control = next(row for row in self.rows if row.method.label == self.control)
        found = {
            (row.method.label, place): row.versus(control, metric, place)
            for place in COMPARED
            for row in self.rows
            if row is not control
        }
        shown = {key: difference for key, difference in found.items() if difference.seeds}
        return dict(zip(shown, correct(shown.values()), strict=True))

    def basis(self, metric: str, names: Collection[str]) -> list[Basis]:
        """Tell on what a mean over some hospitals rests, for every seed; it is the same for all
        methods but those that lost hospitals.
        """
        known = [
            {name: basis for score in scores for name, basis in score.bases[metric].items()}
            for scores in zip(*(row.scores for row in self.rows), strict=True)
        ]
        return [
            together(basis for name, basis in found.items() if name in names) for found in known
        ]

    @property
    def labels(self) -> list[str]:
        """The labels whose AUC was measured, where samples have several: names of measures."""
        scores = (score for row in self.rows for score in row.scores)
        found = {name for score in scores for name, _ in score.values if name.startswith(AUC_OF)}
        return sorted(found)

    def best(self, metric: str, place: str) -> str:
        """Name the method that is ahead of all others, of the control by the table's own claim;
        empty if there is none.
        """
        labelled = {row.method.label: row for row in self.rows}
        first = best(
            {label: row.series(metric, place) for label, row in labelled.items()},
            lambda one, other: labelled[one].versus(labelled[other], metric, place),
        )
        to_control = [
            difference.claimed
            for (label, where), difference in self.differences(metric).items()
            if where == place and first in (label, self.control)
        ]
        return first if to_control and all(to_control) else ""

    def present(self, metric: str, place: str) -> bool:
        """Return whether any method has a value."""
        return any(math.isfinite(value) for row in self.rows for value in row.series(metric, place))


LABEL, ROOM = 18, 16


def of_labels(comparison: MethodTable) -> list[Table]:
    """Return the AUC of each label as a table, where samples have several; else none."""
    first = Column("label", words=True, room=LABEL, most=LABEL)
    columns = [Column(row.method.label, percent, room=ROOM) for row in comparison.rows]
    rows = [
        (name.removeprefix(AUC_OF), *(row.mean(name, "mean") for row in comparison.rows))
        for name in comparison.labels
    ]
    caption = "AUC of each label, mean of own and others, in percent"
    return [Table((first, *columns), rows, caption=caption)] if rows else []


def score(
    folder: Path, names: tuple[str, ...], held_out: tuple[str, ...], *, faulty: bool = False
) -> Score:
    """Read the values of one run, and if it is ``faulty`` what struck it; raises RunUnreadable."""
    records = read_records(folder)
    Gathered.of(records, names, held_out)  # refuses those of other hospitals
    tests = _tests(records, held_out)
    values = {
        (metric, place): _value(tests, metric, place) for metric in SCORES for place in PLACES
    }
    hospitals = {
        (metric, place, name): value
        for metric in SCORES
        for name, both in _of_models(tests, metric, names).items()
        for place, value in zip(("own", "others"), both, strict=True)
    }
    labels = {metric for metric, *_ in tests if metric.startswith(AUC_OF)}
    values |= {(name, "mean"): _value(tests, name, "mean") for name in labels}
    memory = remembered(records)
    values |= {(name, "mean"): _kept(memory, name) for name in MEMORY}
    rarest = rarest_classes(folder)
    return Score(
        values,
        hospitals,
        _costs(folder, records),
        {metric: bases(records, rarest, metric) for metric in SCORES},
        Troubles.of(folder, (*names, *held_out), simulated=True).absences if faulty else (),
        tests,
        memory,
        {one.host: sum(one.used["train"].values()) for one in read_counts(folder)},
    )


def _beside(one: Score, other: Score, metric: str, place: str) -> tuple[float, float]:
    if metric in MEMORY and one.memory.keys() != other.memory.keys():
        own, theirs = _of_both(one.memory, other.memory, lambda found: _kept(found, metric))
    elif metric not in MEMORY and one.tests.keys() != other.tests.keys():
        own, theirs = _of_both(one.tests, other.tests, lambda found: _value(found, metric, place))
    else:
        own, theirs = (score.values.get((metric, place), math.nan) for score in (one, other))
    return own, theirs


def _of_both(
    one: Mapping[K, float], other: Mapping[K, float], average: Callable[[Mapping[K, float]], float]
) -> list[float]:
    """Average two runs over what both have."""
    both = one.keys() & other.keys()
    return [average({key: found[key] for key in both}) for found in (one, other)]


def _kept(memory: Mapping[MemoryPart, float], name: str) -> float:
    found = average(memory, name)
    return math.nan if found is None else found


def _tests(records: Sequence[Record], held_out: tuple[str, ...]) -> dict[Test, float]:
    """Return all values of tests that there are; the last record of a test counts."""
    found = {
        (metric, _counts_as(record, held_out), record.model, record.host): record.measures[
            metric
        ].mean
        for record in records
        if record.kind in ("evaluation", "ensemble")
        for metric in record.measures
        if metric in SCORES or metric.startswith(AUC_OF)
    }
    return {test: value for test, value in found.items() if math.isfinite(value)}


def _counts_as(record: Record, held_out: tuple[str, ...]) -> str:
    if record.kind == "ensemble":
        return "ensemble"
    return "unseen" if record.host in held_out else "inside"


def _value(tests: Mapping[Test, float], metric: str, place: str) -> float:
    """Average tests of a metric at a place; NaN where there are none."""
    if place == "mean":
        return (_value(tests, metric, "own") + _value(tests, metric, "others")) / 2
    if place in ("own", "others"):
        models = {model for found, where, model, _ in tests if (found, where) == (metric, "inside")}
        both = _of_models(tests, metric, models).values()
        return mean(own if place == "own" else others for own, others in both)
    return mean(value for test, value in tests.items() if test[:2] == (metric, place))


def _of_models(
    tests: Mapping[Test, float], metric: str, names: Iterable[str]
) -> dict[str, tuple[float, float]]:
    """Return what hospitals' models have at home and, on average, at the others that train."""
    cells: dict[str, dict[str, float]] = {name: {} for name in names}
    for (found, where, model, host), value in tests.items():
        if (found, where) == (metric, "inside") and model in cells:
            cells[model][host] = value
    return {
        model: (
            hosts.get(model, math.nan),
            mean(value for host, value in hosts.items() if host != model),
        )
        for model, hosts in cells.items()
    }


def _costs(folder: Path, records: Sequence[Record]) -> dict[str, float]:
    timings = read_timings(folder)
    spans = [timing for timing in timings if timing.what in ("warm_up", "session")]
    times = Counter[tuple[str, str, str, int, int]]()
    for one in timings:
        if one.what in ("session", "transfer"):
            times[one.what, one.host, one.model, one.round, one.hop] += max(1, one.attempts)
    return {
        "samples": float(sum(record.samples for record in records)),
        "forwards": sum(
            record.measures["forwards"].sum for record in records if "forwards" in record.measures
        ),
        "bytes": float(sum(record.bytes for record in records)),
        "seconds": sum(timing.end - timing.start for timing in spans),
        "again": float(times.total() - len(times)),
    }


MOST_STRUCK = 40
TwinKey = tuple[str, str]
"""A label and a measure."""


def faulty(comparison: MethodTable) -> list[MethodRow]:
    """Return the methods that were meant to have faults."""
    return [row for row in comparison.rows if row.method.scenario.faults]


def twin_of(comparison: MethodTable, row: MethodRow) -> MethodRow | None:
    """Find the same method without faults among what is compared."""
    calm = row.method.scenario.model_copy(update={"faults": ()})
    return next((other for other in comparison.rows if other.method.scenario == calm), None)


def measures_of(comparison: MethodTable) -> list[str]:
    """Return the measures that a method and its twin are compared by: those of predictions, over
    own and others, and those of memory.
    """
    return [name for name in (*SCORES, *MEMORY) if comparison.present(name, "mean")]


def effects(comparison: MethodTable) -> Mapping[TwinKey, Difference]:
    """Compare methods with their twins, by label and measure, corrected for all of them
    together.
    """
    found = {
        (row.method.label, name): row.versus(twin, name, "mean")
        for row in faulty(comparison)
        if (twin := twin_of(comparison, row))
        for name in measures_of(comparison)
    }
    shown = {key: difference for key, difference in found.items() if difference.seeds}
    return dict(zip(shown, correct(shown.values()), strict=True))


def alone(comparison: MethodTable) -> Iterator[str]:
    """Say of which methods it cannot be said what their faults did."""
    for row in faulty(comparison):
        if twin_of(comparison, row) is None:
            yield (
                f"What its faults did to {row.method.label} cannot be said: the same method "
                "without them is not among what is compared."
            )


def again(comparison: MethodTable) -> Iterator[str]:
    """Say how often models were sent or trained again."""
    for row in faulty(comparison):
        if row.cost("again") > 0:
            yield (
                f"{row.method.label}: in a run {digits(row.cost('again'))} times, on average, a "
                "model was sent or a session done once more."
            )


def struck(comparison: MethodTable, rows: Sequence[MethodRow] | None = None) -> Table:
    """Return where faults struck, those of all methods or of some. A fault that is drawn strikes
    elsewhere under another seed.
    """
    columns = (Column("method", words=True), Column("seed", key="seed"), *STRUCK)
    return Table(
        (*columns, Column("seconds", digits, key="seconds")),
        [
            (row.method.label, seed, one.host, one.what, one.round, one.hop, one.seconds)
            for row in (faulty(comparison) if rows is None else rows)
            for seed, score in zip(comparison.seeds, row.scores, strict=True)
            for one in score.struck
        ],
    )


def faults_as_plain(comparison: MethodTable, row: MethodRow) -> dict[str, Any] | None:
    """Return what is known of a method's faults; None for one without faults."""
    if not row.method.scenario.faults:
        return None
    twin = twin_of(comparison, row)
    return {
        "words": row.method.scenario.faults_in_words,
        "twin": twin.method.label if twin else None,
        "differences": {
            name: asdict(found)
            for (label, name), found in effects(comparison).items()
            if label == row.method.label
        },
        "again": row.cost("again"),
        "struck": struck(comparison, [row]).values(),
    }
