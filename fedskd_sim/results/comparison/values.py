"""A comparison as plain values: what ``compare.json`` holds, and the tables of a paper."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from fedskd_sim.results.comparison import price, tables
from fedskd_sim.results.comparison.statistics import MOST_SEEDS, seed_mean
from fedskd_sim.results.comparison.tables import (
    ALONE,
    COMPARED,
    MEMORY,
    PLACES,
    SCORES,
    MethodRow,
    MethodTable,
)
from fedskd_sim.results.rows import plain


def as_json(comparison: MethodTable) -> dict[str, Any]:
    """Return a comparison as plain values; shares in [0, 1], null stands for a missing value.

    ``test_samples`` has for every measure what each hospital tests on, a number per seed; and how
    many of these the smallest class there has, at the least. ``hospitals`` has a value per seed of
    every hospital's model, ``means`` the mean over seeds with its own 95 % interval.
    ``audit`` has what attackers tell from the same runs with canaries; null where none was audited.
    Of a difference ``needed`` is null where no test is possible, and where more seeds are needed
    than are looked at: then ``needed_above`` is that number, and null otherwise.
    """
    found: dict[str, Any] = plain(
        {
            "scenario": comparison.rows[0].method.scenario.name,
            "control": comparison.control,
            "seeds": comparison.seeds,
            "notes": comparison.notes,
            "best": {
                metric: {place: comparison.best(metric, place) or None for place in COMPARED}
                for metric in SCORES
            },
            "test_samples": {metric: _test_samples(comparison, metric) for metric in SCORES},
            "methods": [_method(comparison, row) for row in comparison.rows],
        }
    )
    return found


def _method(comparison: MethodTable, row: MethodRow) -> dict[str, Any]:
    values = {metric: {place: row.series(metric, place) for place in PLACES} for metric in SCORES}
    single = (*MEMORY, *comparison.labels)
    values |= {name: {"mean": row.series(name, "mean")} for name in single}
    return {
        "label": row.method.label,
        "algorithm": row.method.scenario.algorithm.settings,
        "grid": dict(row.method.point),
        "passes": row.method.planned.passes,
        "budget": row.method.budget,
        "off": row.off,
        "costs": {name: row.cost(name) for name in ("samples", "forwards", "bytes", "seconds")},
        "disturbed": row.method.scenario.disturbed,
        "audit": price.as_plain(row),
        "faults": tables.faults_as_plain(comparison, row),
        "values": values,
        "means": {
            name: {place: seed_mean(series)._asdict() for place, series in places.items()}
            for name, places in values.items()
        },
        "hospitals": {metric: _hospitals(row, metric) for metric in SCORES},
        "differences": {metric: _differences(comparison, row, metric) for metric in SCORES},
    }


def _hospitals(row: MethodRow, metric: str) -> dict[str, dict[str, list[float]]]:
    return {
        place: {
            name: row.hospital_series(metric, place, name) for name in row.method.scenario.members
        }
        for place in ALONE
    }


def _test_samples(comparison: MethodTable, metric: str) -> dict[str, dict[str, Any]]:
    scenario = comparison.rows[0].method.scenario
    found = {
        name: comparison.basis(metric, [name]) for name in (*scenario.members, *scenario.held_out)
    }
    return {
        name: {
            "samples": [basis.samples for basis in bases],
            "smallest_class": min(
                (basis.rarest for basis in bases if basis.rarest is not None), default=None
            ),
        }
        for name, bases in found.items()
    }


def _differences(
    comparison: MethodTable, row: MethodRow, metric: str
) -> dict[str, dict[str, float | None]]:
    return {
        place: asdict(found)
        | {
            "needed": found.needed,
            "needed_above": MOST_SEEDS if math.isinf(found.needed) else None,
        }
        for (label, place), found in comparison.differences(metric).items()
        if label == row.method.label
    }
