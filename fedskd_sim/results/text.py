"""A summary as plain text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from textwrap import wrap

from fedskd_sim.learning.task import ONE_LABEL
from fedskd_sim.observe.words import amount, short
from fedskd_sim.results import samples
from fedskd_sim.results.notes import together
from fedskd_sim.results.patients import as_lines
from fedskd_sim.results.rows import GAP, Column, Table, percent
from fedskd_sim.results.tables import Summary

TITLES = ONE_LABEL.titles
RESTS = (
    "Tested on: how many test samples a value rests on and, in brackets where it is known, how "
    "many of them the class has that is "
    "rarest at one hospital."
)
WIDTH, LEAST_WIDTH = 100, 80
"""Columns of report.txt, and the fewest for which tables are made."""
NAME = 22
ARCHITECTURE = 13
"""So much of its name is shown before a hospital's gets more."""
SHORTEST = 8
"""Letters of an architecture below which its column is left out."""
MOST_ROWS = 40
"""Hospitals of a matrix that a terminal shows."""
MOST_BUSY = 8
"""Hospitals of which the terminal says how busy they were."""
CELL = OWN = 7
OTHERS = 8
TESTED = "tested on"


def as_text(summary: Summary, *, whole: bool = True, width: int = WIDTH) -> str:
    """Write a summary in lines of at most ``width`` columns, as far as its tables are not wider,
    percentages with one decimal, missing values blank; if not ``whole`` then without the matrix of
    many hospitals, which fills pages, and with the pace, which no other run has.
    """
    words = (*_disturbed(summary), headline(summary), *summary.notes)
    lines = [line for sentence in words for line in wrap(sentence, width)]
    lines += ["", *_table(summary, width), ""]
    if whole or len(summary.hospitals) <= MOST_ROWS:
        lines += _matrix(summary, summary.headline, width)
    else:
        lines += [
            f"The matrix of {len(summary.hospitals)} hospitals is in report.txt and the page."
        ]
    if summary.patients:
        lines += ["", *(part for line in as_lines(summary.patients) for part in _fit(line, width))]
    lines += [
        "",
        *(
            part
            for line in samples.lines(summary.samples)
            for part in wrap(line, width, subsequent_indent="    ")
        ),
        *([] if whole else _pace(summary, width)),
    ]
    return "\n".join(line.rstrip() for line in lines).rstrip("\n") + "\n"


def _pace(summary: Summary, width: int) -> Iterator[str]:
    """Say how busy hospitals were, and what set the pace."""
    if summary.pace:
        busy = sorted(summary.pace.busy.items(), key=lambda one: -one[1])
        shown = [f"{name} {share:.0%}" for name, share in busy]
        if len(shown) > MOST_BUSY:
            shown[MOST_BUSY - 1 : -1] = ["..."]
        yield ""
        yield from wrap(f"busy: {', '.join(shown)} of the time; the rest they waited.", width)
        yield from wrap(summary.pace.words, width)


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


def measured(summary: Summary) -> Table:
    """Return what every model scores at home and, on average, elsewhere, and on how many samples
    that rests.
    """
    shares = [
        Column(side, percent, group=TITLES[metric], part=side == "own", room=room)
        for metric in summary.matrices
        for side, room in (("own", OWN), ("others", OTHERS))
    ]
    counts = [Column("own", group=TESTED, part=True), Column("others", group=TESTED)]
    named = (Column("hospital", words=True), Column("architecture", words=True))
    matrices = summary.matrices.values()
    rows = [
        (
            name,
            architecture,
            *(share for one in matrices for share in (one.own(model), one.others(model))),
            *rests,
        )
        for model, (name, architecture, rests) in enumerate(
            zip(summary.hospitals, summary.architectures, summary.rests, strict=True)
        )
    ]
    means = [
        percent(one) for each in matrices for one in (each.personalization, each.generalization)
    ]
    whole = str(together(summary.bases))
    return Table((*named, *shares, *counts), rows, [("mean", "", *means, whole, whole)])


def _fit(line: str, width: int) -> list[str]:
    """Wrap a sentence, and leave a row of a table as it is."""
    return wrap(line, width) if line.endswith(".") else [line]


def _table(summary: Summary, width: int) -> Iterator[str]:
    """Write the table of own and others; names and architectures share the room that is left."""
    table = measured(summary)
    names, kinds, *others = table.widths()
    left = max(width, LEAST_WIDTH) - sum(others) - GAP
    kind = min(kinds - GAP, max(ARCHITECTURE, left - min(names, NAME)), left - len("hospital"))
    first, second, *rest = table.columns
    named = (replace(first, most=min(names, NAME, left - kind)), replace(second, most=kind))
    shown = replace(table, columns=(*named, *rest))
    if kind < SHORTEST:  # on a narrow terminal names are worth more
        shown = table.some((0, *range(2, len(table.columns))))
    title = "Test data of the own hospital and, on average, of the others, in percent."
    yield from (*wrap(title, width), "", *shown.lines())
    yield ""
    yield from wrap(RESTS, width)


def _matrix(summary: Summary, metric: str, width: int) -> Iterator[str]:
    """Write a matrix with numbered columns, in as many blocks of columns as the width asks for."""
    places = range(len(summary.hospitals))
    labels = [f"{place + 1:>2} {short(summary.hospitals[place], NAME)}" for place in places]
    columns = [Column(str(place + 1), percent, room=CELL) for place in places]
    values = summary.matrices[metric].values
    foot = [("samples", *(str(basis.samples) for basis in summary.bases))]
    if any(basis.rarest for basis in summary.bases):
        # blank where it is not known
        foot += [("rarest class", *(str(basis.rarest or "") for basis in summary.bases))]
    rows = [(label, *row) for label, row in zip(labels, values, strict=True)]
    table = Table((Column("", words=True), *columns), rows, foot)
    blocks = -(-len(labels) * CELL // (max(width, LEAST_WIDTH) - table.widths()[0]))
    block = -(-len(labels) // blocks)
    yield from wrap(
        f"{TITLES[metric].capitalize()} in percent; row: model of this hospital, column: test data "
        "of that number.",
        width,
    )
    for first in range(1, len(labels) + 1, block):
        yield ""
        yield from table.some((0, *range(first, min(first + block, len(labels) + 1)))).lines()
