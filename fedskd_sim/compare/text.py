"""A comparison as plain text and as plain values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict
from textwrap import wrap
from typing import Any

from fedskd_sim.compare.plan import described
from fedskd_sim.compare.statistics import Difference
from fedskd_sim.compare.tables import MEMORY, PLACES, SCORES, Comparison, Row
from fedskd_sim.report.notes import OFFSET
from fedskd_sim.report.text import TITLES, percent, size

WIDTH = 118
NAMES = {**TITLES, OFFSET: "balanced accuracy with offset", "retention": "home retention", "forgetting": "forgetting"}
OFF_BUDGET = 0.05


def as_text(comparison: Comparison, *, per_hospital: bool = False) -> str:
    """Write the tables; percentages with one decimal, differences in points."""
    lines = [line for sentence in (about(comparison), *comparison.notes) for line in wrap(sentence, WIDTH)]
    for metric in SCORES:
        if comparison.present(metric, "own"):
            lines += ["", *_table(comparison, metric)]
            lines += wrap(conclusion(comparison, metric, "mean"), WIDTH)
    lines += ["", *_costs(comparison)]
    if per_hospital:
        lines += ["", *_hospitals(comparison)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def about(comparison: Comparison) -> str:
    """Say what is compared."""
    seeds = ", ".join(map(str, comparison.seeds))
    scenario = comparison.rows[0].method.scenario
    return (
        f"{scenario.name}: {len(comparison.rows)} methods, paired over seeds {seeds}; "
        f"{scenario.instruments.evaluate_on} data in percent, differences to "
        f"{comparison.control} in points, mean ± standard error [95 % bootstrap interval over seeds]."
    )


def conclusion(comparison: Comparison, metric: str, place: str) -> str:
    """Name the best method only if the noise allows it."""
    best, *ties = comparison.best(metric, place) or ("nothing",)
    where = "own and others" if place == "mean" else place
    if ties:
        return f"{NAMES[metric]}, {where}: highest {best}; no difference beyond noise to {', '.join(ties)}."
    return f"{NAMES[metric]}, {where}: {best} is best, by more than twice the standard error."


def shown(difference: Difference) -> str:
    """Write a difference in points."""
    if not math.isfinite(difference.mean):
        return ""
    interval = f"[{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"
    return f"{100 * difference.mean:+.1f} ± {100 * difference.error:.1f} {interval}"


def off_budget(row: Row) -> str:
    """Tell by how much a method misses the budget, if that is more than a little."""
    share = row.method.planned.passes / row.method.budget - 1
    return f"{share:+.0%}" if abs(share) > OFF_BUDGET else ""


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Give a comparison as plain values; shares in [0, 1], null stands for a missing value."""
    return {
        "scenario": comparison.rows[0].method.scenario.name,
        "control": comparison.control,
        "seeds": list(comparison.seeds),
        "notes": list(comparison.notes),
        "best": {metric: {place: list(comparison.best(metric, place)) for place in PLACES} for metric in SCORES},
        "methods": [_plain(comparison, row) for row in comparison.rows],
    }


def _plain(comparison: Comparison, row: Row) -> dict[str, Any]:
    values: dict[str, dict[str, Any]] = {}
    differences: dict[str, dict[str, Any]] = {}
    for metric, place in [(metric, place) for metric in SCORES for place in PLACES] + [(name, "mean") for name in MEMORY]:
        values.setdefault(metric, {})[place] = [_value(value) for value in row.series(metric, place)]
        found = asdict(comparison.against(row, metric, place))
        differences.setdefault(metric, {})[place] = {name: _value(value) for name, value in found.items()}
    return {
        "label": row.method.label,
        "algorithm": row.method.scenario.algorithm.model_dump(mode="json"),
        "passes": row.method.planned.passes,
        "budget": row.method.budget,
        "costs": {name: row.cost(name) for name in ("samples", "forwards", "bytes", "seconds")},
        "values": values,
        "differences": differences,
    }


def _value(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _table(comparison: Comparison, metric: str) -> Iterator[str]:
    width = max(len(row.method.label) for row in comparison.rows) + 2
    more = [place for place in ("council", "unseen") if comparison.present(metric, place)]
    heads = ["own", "others", "mean", "mean: difference", *(head for place in more for head in (place, f"{place}: difference"))]
    yield NAMES[metric]
    yield f"{'method':<{width}}" + "".join(f"{head:>{_room(head)}}" for head in heads)
    for row in comparison.rows:
        cells = [percent(row.mean(metric, place)) for place in ("own", "others", "mean")]
        cells.append(_difference(comparison, row, metric, "mean"))
        for place in more:
            cells += [percent(row.mean(metric, place)), _difference(comparison, row, metric, place)]
        yield f"{row.method.label:<{width}}" + "".join(f"{cell:>{_room(head)}}" for cell, head in zip(cells, heads, strict=True))


def _room(head: str) -> int:
    return 27 if head.endswith("difference") else 9


def _difference(comparison: Comparison, row: Row, metric: str, place: str) -> str:
    return "control" if row.method.label == comparison.control else shown(comparison.against(row, metric, place))


def _costs(comparison: Comparison) -> Iterator[str]:
    width = max(len(row.method.label) for row in comparison.rows) + 2
    memory = [name for name in MEMORY if comparison.present(name, "mean")]
    heads = ["passes", "off", "teacher", "bytes", "seconds", *(NAMES[name] for name in memory)]
    yield "work and memory: passes over the training data per hospital, teachers' forward passes as a share of sample-gradients"
    yield f"{'method':<{width}}" + "".join(f"{head:>16}" for head in heads)
    for row in comparison.rows:
        teacher = row.cost("forwards") / row.cost("samples") if row.cost("samples") else 0.0
        cells = [f"{row.method.planned.passes:g}", off_budget(row), f"{teacher:.0%}" if teacher else ""]
        cells += [size(int(row.cost("bytes"))), f"{row.cost('seconds'):.0f}"]
        cells += [percent(row.mean(name, "mean")) for name in memory]
        yield f"{row.method.label:<{width}}" + "".join(f"{cell:>16}" for cell in cells)
    yield ""
    for row in comparison.rows:
        yield from wrap(f"{row.method.label}: {described(row.method.scenario.algorithm)}", WIDTH, subsequent_indent="    ")


def _hospitals(comparison: Comparison) -> Iterator[str]:
    names = comparison.rows[0].method.scenario.members
    width = max(len(row.method.label) for row in comparison.rows) + 2
    for metric in SCORES[:2]:
        for place in ("own", "others"):
            yield f"{NAMES[metric]} of every hospital's model, {place}"
            yield f"{'method':<{width}}" + "".join(f"{name[:14]:>16}" for name in names)
            for row in comparison.rows:
                cells = (percent(row.hospital(metric, place, name)) for name in names)
                yield f"{row.method.label:<{width}}" + "".join(f"{cell:>16}" for cell in cells)
            yield ""
