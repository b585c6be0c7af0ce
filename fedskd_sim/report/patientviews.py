"""What is known of single patients as text for a terminal and as plain values for JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from fedskd_sim.observe.words import short
from fedskd_sim.report.patients import HostRows, PatientRow, Patients
from fedskd_sim.report.resampling import Interval

NAME = 18
CELL = 20
MOST_LINES = 24
TITLES = {"own": "own model", "others": "visitors"}
COLUMNS = (
    ("balanced accuracy", "own", "balanced_accuracy"),
    ("balanced accuracy", "others", "balanced_accuracy"), ("AUC", "own", "auc"),
)  # fmt: skip
Item = TypeVar("Item")


def thin(items: Sequence[Item], most: int) -> list[Item]:
    """Choose at most so many, evenly from first to last."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def format_share(found: Interval) -> str:
    """Write a share with its interval in percent: ``71.8 (64.1-78.9)``; nothing for a missing
    value.
    """
    if not math.isfinite(found.value):
        return ""
    limits = f" ({100 * found.low:.1f}-{100 * found.high:.1f})" if math.isfinite(found.low) else ""
    return f"{100 * found.value:.1f}{limits}"


def as_lines(patients: Patients) -> Iterator[str]:
    """Write hospitals and classes as two tables of at most 100 columns."""
    shown = thin(patients.hosts, MOST_LINES)
    part = (
        ""
        if len(shown) == len(patients.hosts)
        else f"; {len(shown)} of {len(patients.hosts)} hospitals"
    )
    yield (
        f"Single patients ({patients.split} data) in percent, with 95 % intervals over the "
        f"patients of each hospital{part}."
    )
    yield "Visitors: the mean over the models of the other hospitals, on the patients of this one."
    yield ""
    yield " " * (NAME + 20) + "".join(f"{title:>{CELL}}" for title, _, _ in COLUMNS)
    yield f"{'hospital':<{NAME}}  patients    rarest" + "".join(
        f"{TITLES[who]:>{CELL}}" for _, who, _ in COLUMNS
    )
    for host in shown:
        cells = "".join(f"{_cell(host, who, name):>{CELL}}" for _, who, name in COLUMNS)
        yield f"{short(host.name, NAME):<{NAME}}{host.patients:>10}{host.rarest:>10}{cells}"
    classes = thin(range(len(patients.classes)), MOST_LINES)
    part = (
        ""
        if len(classes) == len(patients.classes)
        else f"; {len(classes)} of {len(patients.classes)} classes"
    )
    yield ""
    yield f"Recall of each class over the patients of all hospitals in percent{part}."
    yield ""
    yield f"{'class':<{NAME}}  patients own model  visitors"
    for label in classes:
        count = sum(host.counts[label] for host in patients.hosts)
        shares = "".join(f"{_recall_of(patients, who, label):>10}" for who in ("own", "others"))
        yield f"{short(patients.classes[label], NAME):<{NAME}}{count:>10}{shares}"


def _cell(host: HostRows, who: str, name: str) -> str:
    row = host.row(who)
    return format_share(row.measures[name]) if row else ""


def _recall_of(patients: Patients, who: str, label: int) -> str:
    rows = [row for host in patients.hosts if (row := host.row(who))]
    total = sum(int(row.confusion[label].sum()) for row in rows)
    return (
        f"{100 * sum(int(row.confusion[label, label]) for row in rows) / total:.1f}"
        if total
        else ""
    )


def as_plain(patients: Patients) -> dict[str, Any]:
    """Give everything as plain values: shares in [0, 1], null for a missing one.

    Returns:
        ``split``, ``classes``; ``hosts``: each with ``name``, ``patients`` (test samples of
        every class), ``subjects`` (whom these are of), ``unanswered`` (models) and ``rows``; a
        row: ``who`` (own, others, ensemble, visitor), ``models``, ``accuracy``,
        ``balanced_accuracy``, ``auc`` (value, low, high), ``recall`` (the same for every class),
        ``class_auc``, ``confusion`` (row: class, column: decision), ``calibration`` (``error``, and
        by bins ``counts``, ``confidence``, ``right``), ``roc`` (by class ``false_positive``,
        ``true_positive``).

    """
    hosts = [
        {
            "name": host.name,
            "patients": list(host.counts),
            "subjects": host.subjects,
            "unanswered": list(host.unanswered),
            "rows": [_row(row, patients.classes) for row in host.rows],
        }
        for host in patients.hosts
    ]
    return {"split": patients.split, "classes": list(patients.classes), "hosts": hosts}


def _row(row: PatientRow, classes: Sequence[str]) -> dict[str, Any]:
    bins = row.calibration
    return {
        "who": row.who,
        "models": list(row.models),
        **{name: _values(found) for name, found in row.measures.items()},
        "recall": [_values(found) for found in row.recall],
        "class_auc": _values(row.areas),
        "confusion": row.confusion.tolist(),
        "calibration": {
            "error": bins.error,
            "counts": bins.counts.tolist(),
            "confidence": _values(bins.confidence),
            "right": _values(bins.right),
        },
        "roc": {
            classes[label]: {
                name: np.round(values, 6).tolist() for name, values in curve._asdict().items()
            }
            for label, curve in row.curves.items()
        },
    }


def _values(values: Any) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values]
