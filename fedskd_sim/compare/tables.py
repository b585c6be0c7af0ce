"""From the records of many runs to one table: scores, what they cost, and paired differences to
the control.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedskd_sim.compare.plan import Method
from fedskd_sim.compare.statistics import Difference, best, compare_paired, correct
from fedskd_sim.recordfiles import read_records, read_timings
from fedskd_sim.records import Record
from fedskd_sim.report.absences import Absence, Troubles
from fedskd_sim.report.basis import Basis, bases, rarest_classes, together
from fedskd_sim.report.memory import assess_memory
from fedskd_sim.report.notes import ADJUSTED, mean
from fedskd_sim.report.tables import summarise

SCORES = ("auc", "balanced_accuracy", ADJUSTED)
PLACES = ("own", "others", "mean", "ensemble", "unseen")
COMPARED = ("mean", "ensemble", "unseen")
"""The places at which a metric's table shows differences to the control."""
MEMORY = ("retention", "forgetting")


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


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One method over all seeds; a missing value is NaN."""

    method: Method
    scores: Sequence[Score]

    def series(self, metric: str, place: str) -> list[float]:
        """Give a value per seed."""
        return [score.values.get((metric, place), math.nan) for score in self.scores]

    def mean(self, metric: str, place: str) -> float:
        """Give the mean over seeds."""
        return mean(self.series(metric, place))

    def cost(self, name: str) -> float:
        """Give the mean cost of a run."""
        return mean(score.costs.get(name, math.nan) for score in self.scores)

    def hospital(self, metric: str, place: str, name: str) -> float:
        """Give the mean over seeds for one hospital."""
        return mean(score.hospitals.get((metric, place, name), math.nan) for score in self.scores)


@dataclass(frozen=True, slots=True)
class Comparison:
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
            (row.method.label, place): compare_paired(
                row.series(metric, place), control.series(metric, place)
            )
            for place in COMPARED
            for row in self.rows
            if row is not control
        }
        shown = {key: difference for key, difference in found.items() if difference.seeds}
        return dict(zip(shown, correct(shown.values()), strict=True))

    def basis(self, metric: str, names: Collection[str]) -> list[Basis]:
        """Tell on what a mean over some hospitals rests, for every seed; it is the same for all
        methods.
        """
        known = (score.bases[metric] for score in self.rows[0].scores)
        return [
            together(basis for name, basis in found.items() if name in names) for found in known
        ]

    def best(self, metric: str, place: str) -> str:
        """Name the method that is ahead of all others, of the control by the table's own claim;
        empty if there is none.
        """
        first = best({row.method.label: row.series(metric, place) for row in self.rows})
        to_control = [
            difference.claimed
            for (label, where), difference in self.differences(metric).items()
            if where == place and first in (label, self.control)
        ]
        return first if to_control and all(to_control) else ""

    def present(self, metric: str, place: str) -> bool:
        """Tell whether any method has a value."""
        return any(math.isfinite(value) for row in self.rows for value in row.series(metric, place))


def score(
    folder: Path, names: tuple[str, ...], held_out: tuple[str, ...], *, faulty: bool = False
) -> Score:
    """Read the values of one run, and if it is ``faulty`` what struck it; raises RunUnreadable."""
    records = read_records(folder)
    summary = summarise(records, names, held_out)
    values: dict[tuple[str, str], float] = {}
    hospitals: dict[tuple[str, str, str], float] = {}
    for metric in SCORES:
        cells = {
            (r.model, r.host): r.measures[metric].mean
            for r in _inside(records, held_out)
            if metric in r.measures
        }
        for name in names:
            hospitals[metric, "own", name] = cells.get((name, name), math.nan)
            hospitals[metric, "others", name] = mean(
                value for (model, host), value in cells.items() if name == model != host
            )
        for place in ("own", "others"):
            values[metric, place] = mean(hospitals[metric, place, name] for name in names)
        values[metric, "mean"] = (values[metric, "own"] + values[metric, "others"]) / 2
        values[metric, "ensemble"] = summary.ensemble.get(metric, math.nan)
        values[metric, "unseen"] = summary.unseen.get(metric, math.nan)
    memory = assess_memory(records)
    for name in MEMORY:
        found = getattr(memory, name)
        values[name, "mean"] = math.nan if found is None else found
    rarest = rarest_classes(folder)
    return Score(
        values,
        hospitals,
        _costs(folder, records),
        {metric: bases(records, rarest, metric) for metric in SCORES},
        Troubles.of(folder, (*names, *held_out), simulated=True).absences if faulty else (),
    )


def _inside(records: Sequence[Record], held_out: tuple[str, ...]) -> list[Record]:
    return [
        record for record in records if record.kind == "evaluation" and record.host not in held_out
    ]


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
