"""What faults did to methods, and where they struck, as plain text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import wrap

from fedskd_sim.compare import twins
from fedskd_sim.compare.tables import Comparison
from fedskd_sim.compare.words import NAMES, WIDTH, format_difference
from fedskd_sim.report.notes import mean
from fedskd_sim.report.text import percent

ABOUT = (
    "Differences in points to the twin, the same method without faults, with Student's 95 % "
    "interval; p is corrected for all differences of this table (Holm). AUC and balanced accuracy "
    "are the mean of own and others over the tests that both have, retention and forgetting means "
    "over the models of each; more forgetting is worse."
)
HEAD = ("method", "twin", "measure", "with", "without", "difference", "p", "seeds")


def as_text(comparison: Comparison) -> Iterator[str]:
    """Say what faults did to methods, and where they struck; nothing where there are none."""
    if not twins.faulty(comparison):
        return
    if shown := list(rows(comparison)):
        yield from ("", "what faults did", *wrap(ABOUT, WIDTH), *_columns((HEAD, *shown)))
    sentences = (*twins.alone(comparison), *twins.again(comparison))
    yield from (line for sentence in sentences for line in wrap(sentence, WIDTH))
    if struck := twins.struck(comparison):
        some = struck[: twins.MOST_STRUCK]
        yield from ("", "where faults struck", *_columns((twins.HEAD, *some)))
        if len(struck) > len(some):
            yield f"and {len(struck) - len(some)} more: see compare.json"


def rows(comparison: Comparison) -> Iterator[tuple[str, ...]]:
    """Write what faults did, one row each under `HEAD`."""
    labelled = {row.method.label: row for row in comparison.rows}
    for (label, name), found in twins.effects(comparison).items():
        twin = twins.twin_of(comparison, labelled[label])
        if twin:
            means = map(percent, map(mean, labelled[label].beside(twin, name, "mean")))
            yield (label, twin.method.label, NAMES[name], *means, *format_difference(found))


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lay rows out, each column as wide as it needs to be."""
    wide = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    for row in rows:
        yield "".join(f"{cell:<{room}}" for cell, room in zip(row, wide, strict=True)).rstrip()
