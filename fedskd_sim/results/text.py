"""A summary as plain text for a terminal, and how numbers are written everywhere in a report."""

from __future__ import annotations

import math
from collections.abc import Iterator
from textwrap import wrap

from fedskd_sim.learning.task import ONE_LABEL
from fedskd_sim.observe.words import amount, short
from fedskd_sim.results import samples
from fedskd_sim.results.notes import together
from fedskd_sim.results.patients import as_lines
from fedskd_sim.results.tables import METRICS, Matrix, Summary

TITLES = ONE_LABEL.titles
RESTS = (
    "Tested on: how many test samples a value rests on and, in brackets where it is known, how "
    "many of them the class has that is "
    "rarest at one hospital."
)
WIDTH = 100
NAME = 22
ARCHITECTURE = 13
"""So much of its name is shown before a hospital's gets more."""
MOST_ROWS = 40
"""Hospitals of a matrix that a terminal shows."""
CELL = 7
PAIR = 13


def as_text(summary: Summary, *, whole: bool = True) -> str:
    """Write a summary in lines of at most 100 columns, percentages with one decimal, missing
    values blank; if not ``whole`` then without the matrix of many hospitals, which fills pages.
    """
    words = (*_disturbed(summary), headline(summary), *summary.notes)
    lines = [line for sentence in words for line in wrap(sentence, WIDTH)]
    lines += ["", *_table(summary), ""]
    if whole or len(summary.hospitals) <= MOST_ROWS:
        lines += _matrix(summary, summary.headline)
    else:
        lines += [
            f"The matrix of {len(summary.hospitals)} hospitals is in report.txt and the page."
        ]
    lines += ["", *as_lines(summary.patients)] if summary.patients else []
    lines += [
        "",
        *(
            part
            for line in samples.lines(summary.samples)
            for part in wrap(line, WIDTH, subsequent_indent="    ")
        ),
    ]
    return "\n".join(line.rstrip() for line in lines).rstrip("\n") + "\n"


def _disturbed(summary: Summary) -> Iterator[str]:
    if summary.disturbed:
        yield f"{summary.disturbed[0].upper()}{summary.disturbed[1:]}."


def headline(summary: Summary) -> str:
    """Say in one line what ran and how much it did."""
    counts, seed = summary.counts, "" if summary.seed is None else f" (seed {summary.seed})"
    name = f"{summary.scenario or 'no records'}{seed}: {len(summary.hospitals)} hospitals"
    return (
        f"{name}, {counts.hops:,} hops, {amount(counts.bytes)} moved, {counts.samples:,} samples "
        "trained on."
    )


def percent(share: float) -> str:
    """Write a share in [0, 1] as a percentage without the sign; nothing for a missing value."""
    return f"{100 * share:.1f}" if math.isfinite(share) else ""


def _table(summary: Summary) -> Iterator[str]:
    head, *counts, whole = _counts(summary)
    rooms = [max(PAIR, len(TITLES[metric])) for metric in METRICS]
    left = WIDTH - sum(rooms) - 2 * len(rooms) - len(head) - 4
    names, kinds = (
        max(map(len, words))
        for words in ((*summary.hospitals, "hospital"), (*summary.architectures, "architecture"))
    )
    kind = min(kinds, max(ARCHITECTURE, left - min(names, NAME)), left - len("hospital"))
    width = min(names, NAME, left - kind)
    yield "Test data of the own hospital and, on average, of the others, in percent."
    yield ""
    titles = "".join(
        f"  {TITLES[metric]:>{room}}" for metric, room in zip(METRICS, rooms, strict=True)
    )
    yield " " * (width + kind + 2) + titles + f"  {'tested on':>{len(head)}}"
    pairs = "".join(_pair(("own", "others"), room) for room in rooms)
    yield f"{'hospital':<{width}}  {short('architecture', kind):<{kind}}{pairs}  {head}"
    for index, (name, architecture, count) in enumerate(
        zip(summary.hospitals, summary.architectures, counts, strict=True)
    ):
        cells = (
            (percent(matrix.own(index)), percent(matrix.others(index)))
            for matrix in summary.matrices.values()
        )
        yield (
            f"{short(name, width):<{width}}  {short(architecture, kind):<{kind}}"
            + "".join(map(_pair, cells, rooms))
            + f"  {count}"
        )
    means = (
        (percent(matrix.personalization), percent(matrix.generalization))
        for matrix in summary.matrices.values()
    )
    yield f"{'mean':<{width}}  {'':<{kind}}" + "".join(map(_pair, means, rooms)) + f"  {whole}"
    yield ""
    yield from wrap(RESTS, WIDTH)


def _pair(pair: tuple[str, str], room: int) -> str:
    return f"  {pair[0]:>{room - 8}}  {pair[1]:>6}"


def _counts(summary: Summary) -> list[str]:
    """Write how many samples own and others rest on: the heads, every hospital, all."""
    whole = str(together(summary.bases))
    rows = [
        ("own", "others"),
        *((str(own), str(others)) for own, others in summary.rests),
        (whole, whole),
    ]
    own, others = (max(len(row[side]) for row in rows) for side in (0, 1))
    return [f"{row[0]:>{own}}  {row[1]:>{others}}" for row in rows]


def _matrix(summary: Summary, metric: str) -> Iterator[str]:
    """Write a matrix with numbered columns, in as many blocks of columns as the width asks for."""
    matrix: Matrix = summary.matrices[metric]
    labels = [
        f"{number:>2} {short(name, NAME)}" for number, name in enumerate(summary.hospitals, 1)
    ]
    width = max(map(len, labels))
    blocks = -(-len(labels) * CELL // (WIDTH - width))
    block = -(-len(labels) // blocks)
    yield (
        f"{TITLES[metric].capitalize()} in percent; row: model of this hospital, column: test data "
        "of that number."
    )
    for first in range(0, len(labels), block):
        columns = range(first, min(first + block, len(labels)))
        yield ""
        yield " " * width + "".join(f"{column + 1:>{CELL}}" for column in columns)
        for label, row in zip(labels, matrix.values, strict=True):
            yield f"{label:<{width}}" + "".join(
                f"{percent(row[column]):>{CELL}}" for column in columns
            )
        yield f"{'samples':<{width}}" + "".join(
            f"{summary.bases[column].samples:>{CELL}}" for column in columns
        )
        if any(summary.bases[column].rarest for column in columns):
            # blank where it is not known
            fewest = (summary.bases[column].rarest or "" for column in columns)
            yield f"{'rarest class':<{width}}" + "".join(f"{rarest:>{CELL}}" for rarest in fewest)
