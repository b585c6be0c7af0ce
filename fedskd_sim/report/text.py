"""A summary as plain text for a terminal, and how numbers are written everywhere in a report."""

from __future__ import annotations

import math
from collections.abc import Iterator
from textwrap import wrap

from fedskd_sim.report.patientviews import as_lines
from fedskd_sim.report.tables import METRICS, Matrix, Summary

TITLES = {"balanced_accuracy": "balanced accuracy", "auc": "AUC", "accuracy": "accuracy"}
WIDTH = 100
NAME = 22
ARCHITECTURE = 19
CELL = 7


def as_text(summary: Summary) -> str:
    """Write a summary in lines of at most 100 columns, percentages with one decimal, missing values blank."""
    words = (headline(summary), *summary.notes)
    lines = [line for sentence in words for line in wrap(sentence, WIDTH)]
    lines += ["", *_table(summary), ""]
    lines += _matrix(summary, summary.headline)
    lines += ["", *as_lines(summary.patients)] if summary.patients else []
    return "\n".join(line.rstrip() for line in lines) + "\n"


def headline(summary: Summary) -> str:
    """Say in one line what ran and how much it did."""
    counts, seed = summary.counts, "" if summary.seed is None else f" (seed {summary.seed})"
    name = f"{summary.scenario or 'no records'}{seed}: {len(summary.hospitals)} hospitals"
    return f"{name}, {counts.hops:,} hops, {size(counts.bytes)} moved, {counts.samples:,} samples trained on."


def percent(share: float) -> str:
    """Write a share in [0, 1] as a percentage without the sign; nothing for a missing value."""
    return f"{100 * share:.1f}" if math.isfinite(share) else ""


def size(count: int) -> str:
    """Write a number of bytes with a decimal prefix."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:  # noqa: PLR2004 - three digits at most
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"


def short(name: str, length: int) -> str:
    """Cut a name in its middle, since hospitals of one kind differ at the end."""
    if len(name) <= length:
        return name
    head = (length - 1) // 2
    return f"{name[:head]}…{name[head + 1 - length :]}"


def _table(summary: Summary) -> Iterator[str]:
    width = max(len(short(name, NAME)) for name in (*summary.hospitals, "hospital"))
    kind = max(len(short(name, ARCHITECTURE)) for name in (*summary.architectures, "architecture"))
    yield "Test data of the own hospital and, on average, of the others, in percent."
    yield ""
    yield " " * (width + kind + 2) + "".join(f"  {TITLES[metric]:>{2 * CELL + 3}}" for metric in METRICS)
    pair = f"  {'own':>{CELL + 1}}  {'others':>{CELL}}"
    yield f"{'hospital':<{width}}  {'architecture':<{kind}}{pair * len(METRICS)}"
    for index, (name, architecture) in enumerate(zip(summary.hospitals, summary.architectures, strict=True)):
        pairs = ((matrix.own(index), matrix.others(index)) for matrix in summary.matrices.values())
        yield f"{short(name, NAME):<{width}}  {short(architecture, ARCHITECTURE):<{kind}}" + "".join(map(_pair, pairs))
    means = ((matrix.personalization, matrix.generalization) for matrix in summary.matrices.values())
    yield f"{'mean':<{width}}  {'':<{kind}}" + "".join(map(_pair, means))


def _pair(pair: tuple[float, float]) -> str:
    return f"  {percent(pair[0]):>{CELL + 1}}  {percent(pair[1]):>{CELL}}"


def _matrix(summary: Summary, metric: str) -> Iterator[str]:
    """Write a matrix with numbered columns, in as many blocks of columns as the width asks for."""
    matrix: Matrix = summary.matrices[metric]
    labels = [f"{number:>2} {short(name, NAME)}" for number, name in enumerate(summary.hospitals, 1)]
    width = max(map(len, labels))
    blocks = -(-len(labels) * CELL // (WIDTH - width))
    block = -(-len(labels) // blocks)
    yield f"{TITLES[metric].capitalize()} in percent; row: model of this hospital, column: test data of that number."
    for first in range(0, len(labels), block):
        columns = range(first, min(first + block, len(labels)))
        yield ""
        yield " " * width + "".join(f"{column + 1:>{CELL}}" for column in columns)
        for label, row in zip(labels, matrix.values, strict=True):
            yield f"{label:<{width}}" + "".join(f"{percent(row[column]):>{CELL}}" for column in columns)
