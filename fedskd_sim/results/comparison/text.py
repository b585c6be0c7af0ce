"""A comparison as plain text, and as an HTML page that needs nothing but itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from textwrap import wrap
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from fedskd_sim.observe.words import amount
from fedskd_sim.results.comparison import price, tables
from fedskd_sim.results.comparison.planning import describe
from fedskd_sim.results.comparison.statistics import LEVEL, MOST_SEEDS, Difference
from fedskd_sim.results.comparison.tables import (
    ALONE,
    COMPARED,
    MEMORY,
    SCORES,
    MethodRow,
    MethodTable,
)
from fedskd_sim.results.comparison.work import PLACE
from fedskd_sim.results.figures import templates
from fedskd_sim.results.notes import ADJUSTED, Basis, mean
from fedskd_sim.results.rows import GAP, Column, Table, percent
from fedskd_sim.results.svg import GHOST, MUTED, SERIES, Numbers, Plot
from fedskd_sim.results.text import TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


TEXT_WIDTH = 118
WIDE = 16
NAMES = {
    **TITLES,
    ADJUSTED: "balanced accuracy, adjusted",
    "retention": "home retention",
    "forgetting": "forgetting",
}
SMALLEST_P = 0.001


def format_difference(difference: Difference | None) -> tuple[str, str, str]:
    """Write a difference in points with its interval, the corrected p and the seeds that a claim
    takes; blank what is unknown.
    """
    if difference is None:
        return "", "", ""
    low, high, p, needed = difference.low, difference.high, difference.corrected, difference.needed
    if not math.isfinite(p):
        return f"{100 * difference.mean:+.1f}", "", ""
    seeds = f"{needed:.0f}" if math.isfinite(needed) else f">{MOST_SEEDS}"
    return (
        f"{100 * difference.mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
        _format_p(p) if p >= SMALLEST_P else f"<{SMALLEST_P}",
        seeds,
    )


def _format_p(p: float) -> str:
    """Write a p with as many digits as tell on which side of `LEVEL` it is."""
    texts = (f"{p:.{digits}f}" for digits in range(3, 17))
    return next((text for text in texts if (float(text) <= LEVEL) == (p <= LEVEL)), repr(p))


ABOUT = (
    "Differences in points to the twin, the same method without faults, with Student's 95 % "
    "interval; p is corrected for all differences of this table (Holm). AUC and balanced accuracy "
    "are the mean of own and others over the tests that both have, retention and forgetting means "
    "over the models of each; more forgetting is worse."
)


def faults_as_text(comparison: MethodTable) -> Iterator[str]:
    """Say what faults did to methods, and where they struck; nothing where there are none."""
    if not tables.faulty(comparison):
        return
    if (shown := effects(comparison)).rows:
        yield from ("", "what faults did", *wrap(ABOUT, TEXT_WIDTH), *shown.lines())
    sentences = (*tables.alone(comparison), *tables.again(comparison))
    yield from (line for sentence in sentences for line in wrap(sentence, TEXT_WIDTH))
    struck = tables.struck(comparison)
    if struck.rows:
        some = replace(struck, rows=struck.rows[: tables.MOST_STRUCK])
        yield from ("", "where faults struck", *some.lines())
        if len(struck.rows) > len(some.rows):
            yield f"and {len(struck.rows) - len(some.rows)} more: see compare.json"


def effects(comparison: MethodTable) -> Table:
    """Return what faults did, by method and measure."""
    labelled = {row.method.label: row for row in comparison.rows}
    twins = {label: tables.twin_of(comparison, row) for label, row in labelled.items()}
    rows = [
        (
            label,
            twin.method.label,
            NAMES[name],
            *map(mean, labelled[label].beside(twin, name, "mean")),
            *format_difference(found),
        )
        for (label, name), found in tables.effects(comparison).items()
        if (twin := twins[label])
    ]
    words = (Column(title, words=True) for title in ("method", "twin", "measure"))
    means = (Column(title, percent) for title in ("with", "without"))
    return Table((*words, *means, *map(Column, DIFFERENCE)), rows)


OFF_BUDGET = 0.05
HALF = 0.005
"""Half a percent: what is less rounds to 0 %."""
DIFFERENCE: Mapping[str, int] = MappingProxyType({"difference": 24, "p": 8, "seeds": 8})
"""Columns of a difference, and their room."""


def as_text(comparison: MethodTable, *, per_hospital: bool = False) -> str:
    """Write the tables; percentages with one decimal, differences in points."""
    lines = [
        line
        for sentence in (*disturbed(comparison), about(comparison), *comparison.notes)
        for line in wrap(sentence, TEXT_WIDTH)
    ]
    for metric in SCORES:
        if comparison.present(metric, "own"):
            lines += ["", NAMES[metric], *_scores(comparison, metric).lines()]
            sentences = (*_basis(comparison, metric), conclusion(comparison, metric, "mean"))
            lines += [line for sentence in sentences for line in wrap(sentence, TEXT_WIDTH)]
    for table in tables.of_labels(comparison):
        lines += ["", table.caption, *table.lines()]
    if price.audited(comparison):
        lines += ["", "the price in privacy", *wrap(price.about(comparison), TEXT_WIDTH)]
        lines += price.table(comparison).lines()
    lines += ["", *wrap(WORK, TEXT_WIDTH), *_costs(comparison).lines(), ""]
    for sentence in _described(comparison):
        lines += wrap(sentence, TEXT_WIDTH, subsequent_indent="    ")
    lines += faults_as_text(comparison)
    for table in _hospitals(comparison) if per_hospital else ():
        lines += ["", table.caption, *table.lines()]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def disturbed(comparison: MethodTable) -> Iterator[str]:
    """Say which methods are disturbed on purpose, and by what."""
    found: dict[str, list[str]] = {}
    for row in comparison.rows:
        if words := row.method.scenario.disturbed:
            found.setdefault(words, []).append(row.method.label)
    for words, labels in found.items():
        whose = "All methods" if len(labels) == len(comparison.rows) else ", ".join(labels)
        yield f"{words[0].upper()}{words[1:]} ({whose})."


def about(comparison: MethodTable) -> str:
    """Say what is compared."""
    seeds = ", ".join(map(str, comparison.seeds))
    scenario = comparison.rows[0].method.scenario
    return (
        f"{scenario.name}: {len(comparison.rows)} methods, paired over seeds {seeds}; "
        f"{scenario.instruments.evaluate_on} data in percent. Differences to "
        f"{comparison.control} are in points with Student's 95 % "
        "interval over seeds. p is corrected for all differences of its table (Holm); at most 0.05 "
        "counts as a difference. "
        "Seeds: how many find a difference of this size there with a power of 80 %. Blank: "
        "not enough seeds to test."
    )


def conclusion(comparison: MethodTable, metric: str, place: str) -> str:
    """Say which methods differ from the control beyond chance, and name the best only if it is
    ahead of all others.
    """
    claims = {
        label: found
        for (label, where), found in comparison.differences(metric).items()
        if where == place and found.claimed
    }
    ahead = [label for label, found in claims.items() if found.mean > 0]
    behind = [label for label, found in claims.items() if found.mean < 0]
    parts = [f"ahead of {comparison.control}: {', '.join(ahead)}"] if ahead else []
    parts += [f"behind {comparison.control}: {', '.join(behind)}"] if behind else []
    parts = parts or [f"no difference to {comparison.control} is beyond chance"]
    best = comparison.best(metric, place)
    parts.append(f"{best} is ahead of all others" if best else "no method is ahead of all others")
    where = "Mean of own and others" if place == "mean" else place.capitalize()
    return f"{where} ({NAMES[metric]}): {'; '.join(parts)}."


def off_budget(row: MethodRow) -> str:
    """Write by how much a method's runs miss the budget; blank if it rounds to nothing."""
    return f"{row.off:+.0%}" if abs(row.off) >= HALF else ""


def _scores(comparison: MethodTable, metric: str) -> Table:
    places = [place for place in COMPARED if comparison.present(metric, place)]
    differences = comparison.differences(metric)
    columns = [_methods(comparison), *(Column(place, percent, room=9) for place in ALONE)]
    for place in places:
        columns += [Column(place, percent, room=9)]
        columns += [Column(title, room=room) for title, room in DIFFERENCE.items()]
    rows = []
    for row in comparison.rows:
        label = row.method.label
        cells: list[Any] = [_named(row), *(row.mean(metric, place) for place in ALONE)]
        for place in places:
            found = (
                ("control", "", "")
                if label == comparison.control
                else format_difference(differences.get((label, place)))
            )
            cells += [row.mean(metric, place), *found]
        rows.append(cells)
    return Table(columns, rows)


def _methods(comparison: MethodTable) -> Column:
    width = max(len(_named(row)) for row in comparison.rows)
    return Column("method", words=True, room=width + GAP)


def _named(row: MethodRow) -> str:
    """Mark a method that is disturbed on purpose."""
    return f"{row.method.label}{' (disturbed)' if row.method.scenario.disturbed else ''}"


def _basis(comparison: MethodTable, metric: str) -> Iterator[str]:
    """Say what the means of a table rest on, and which differences miss some seeds."""
    scenario = comparison.rows[0].method.scenario
    for words, kind, place, names in (
        ("", "hospital", "own", scenario.members),
        (" of unseen hospitals", "of these", "unseen", scenario.held_out),
    ):
        if comparison.present(metric, place):
            samples, rarest = _fewest(comparison.basis(metric, names))
            yield f"Each seed tests on {samples} samples{words}." + (
                f" The smallest class at any {kind} has {rarest}: values there are uncertain."
                if rarest
                else ""
            )
    for (label, place), found in comparison.differences(metric).items():
        if found.seeds < len(comparison.seeds):
            yield (
                f"{label}, {place}: the difference is over {found.seeds} of "
                f"{len(comparison.seeds)} seeds; others lack a value."
            )


def _fewest(bases: Sequence[Basis]) -> tuple[str, str]:
    """Write how many test samples a seed has, and how many of the rarest class at the least;
    blank where that is not known.
    """
    counts = sorted({basis.samples for basis in bases})
    rarest = [basis.rarest for basis in bases if basis.rarest is not None]
    return " to ".join(map(str, counts[:1] + counts[1:][-1:])), str(min(rarest)) if len(
        rarest
    ) == len(bases) else ""


WORK = (
    "work and memory: passes over the training data per hospital, teachers' forward passes as a "
    "share of sample-gradients"
)


def _costs(comparison: MethodTable) -> Table:
    memory = [name for name in MEMORY if comparison.present(name, "mean")]
    shows: dict[str, Callable[[Any], str]] = {
        "passes": "{:g}".format,
        "off": str,
        "teacher": lambda share: f"{share:.0%}" if share else "",
        "bytes": amount,
        "seconds": "{:.0f}".format,
        **{NAMES[name]: percent for name in memory},
    }
    rows = [
        (
            _named(row),
            row.method.planned.passes,
            off_budget(row),
            row.cost("forwards") / row.cost("samples") if row.cost("samples") else 0.0,
            row.cost("bytes"),
            row.cost("seconds"),
            *(row.mean(name, "mean") for name in memory),
        )
        for row in comparison.rows
    ]
    columns = [Column(title, show, room=WIDE) for title, show in shows.items()]
    return Table((_methods(comparison), *columns), rows)


def _described(comparison: MethodTable) -> list[str]:
    return [f"{row.method.label}: {describe(row.method)}" for row in comparison.rows]


def _hospitals(comparison: MethodTable) -> Iterator[Table]:
    names = comparison.rows[0].method.scenario.members
    width = max(len(row.method.label) for row in comparison.rows) + GAP
    for metric in SCORES[:2]:
        for place in ALONE:
            sides = ([name] if place == "own" else set(names) - {name} for name in names)
            found = (_fewest(comparison.basis(metric, side)) for side in sides)
            cells = (f"{samples} ({rarest})" if rarest else samples for samples, rarest in found)
            shares = [
                (row.method.label, *(percent(row.hospital(metric, place, name)) for name in names))
                for row in comparison.rows
            ]
            columns = [Column(name[:14], room=WIDE) for name in names]
            yield Table(
                (Column("method", words=True, room=width), *columns),
                [("test samples", *cells), *shares],
                caption=f"{NAMES[metric]} of every hospital's model, {place}",
            )


TEMPLATE = "comparison/page.html.j2"
WIDTH = 10.0
ROW = 0.34


def as_html(
    comparison: MethodTable, links: Mapping[tuple[str, int], str] = MappingProxyType({})
) -> str:
    """Write the page; ``links`` lead to the reports of runs, by method and seed. Without them runs
    are where a comparison carries them out.
    """
    planned = {
        (row.method.label, seed): f"{PLACE.format(label=row.method.label, seed=seed)}/report.txt"
        for row in comparison.rows
        for seed in comparison.seeds
    }
    parts = [_part(comparison, one) for one in SCORES if comparison.present(one, "own")]
    page: str = (
        templates()
        .get_template(TEMPLATE)
        .render(
            about=about(comparison),
            disturbed=[*disturbed(comparison)],
            comparison=comparison,
            parts=parts,
            labels=tables.of_labels(comparison),
            price=_price(comparison) if price.audited(comparison) else None,
            faults=_faults(comparison) if tables.faulty(comparison) else None,
            links=planned | {**links},
            work=WORK,
            costs=_costs(comparison),
            described=_described(comparison),
            hospitals=[*_hospitals(comparison)],
        )
    )
    return page


def _part(comparison: MethodTable, metric: str) -> dict[str, Any]:
    """Return what the page says of a metric."""
    found = differences(comparison, metric)
    return {
        "title": NAMES[metric],
        "conclusion": conclusion(comparison, metric, "mean"),
        "levels": levels(comparison, metric).embedded(),
        "differences": found and found.embedded(),
        "table": _scores(comparison, metric),
        "basis": [*_basis(comparison, metric)],
    }


def _price(comparison: MethodTable) -> dict[str, Any]:
    """Return what the page says of privacy."""
    return {"about": price.about(comparison), "table": price.table(comparison)}


def _faults(comparison: MethodTable) -> dict[str, Any]:
    """Return what the page says of faults."""
    struck = tables.struck(comparison)
    return {
        "about": ABOUT,
        "effects": effects(comparison),
        "said": [*tables.alone(comparison), *tables.again(comparison)],
        "struck": replace(struck, rows=struck.rows[: tables.MOST_STRUCK]),
        "more": max(0, len(struck.rows) - tables.MOST_STRUCK),
    }


LEAST_SEEDS = 3
"""Of fewer no interval is drawn."""


def levels(comparison: MethodTable, metric: str) -> Plot:
    """Draw every method's own, others and ensemble value: a dot per seed, the dots of a seed joined
    from method to method, and of three seeds or more a bar at the mean.
    """
    places = [
        place
        for place in ("own", "others", "ensemble", "unseen")
        if comparison.present(metric, place)
    ]
    means = len(comparison.seeds) >= LEAST_SEEDS

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, place in enumerate(places):
            color, above = SERIES[number].light, 0.22 * (number - (len(places) - 1) / 2)
            rows = np.arange(len(comparison.rows)) + above
            found = 100 * np.array([row.series(metric, place) for row in comparison.rows])
            axes.plot(found, rows, ".-", lw=0.6, color=color, alpha=0.45, markersize=5)
            axes.plot([], [], "o", color=color, label=place)
            if means:
                middle = [100 * row.mean(metric, place) for row in comparison.rows]
                axes.plot(middle, rows, "|", color=color, markersize=9, markeredgewidth=2.2)
        _rows(axes, [row.method.label for row in comparison.rows])
        words = "; bar: mean" if means else ""
        axes.set_xlabel(f"{NAMES[metric]} in percent; joined dots: a seed{words}")
        figure.legend(loc="outside upper left", ncols=len(places))

    label = (
        f"{NAMES[metric]} of {len(comparison.rows)} methods: {', '.join(places)}, for every seed "
        "and on average."
    )
    numbers = (
        (row.method.label, place, seed, 100 * value)
        for row in comparison.rows
        for place in places
        for seed, value in zip(comparison.seeds, row.series(metric, place), strict=True)
    )
    size = (WIDTH, ROW * len(comparison.rows) + 1.0)
    columns = ("method", "place", "seed", f"{metric}_percent")
    return Plot(draw, size, f"levels-{metric}", label, lambda: Numbers(columns, numbers))


def differences(comparison: MethodTable, metric: str) -> Plot | None:
    """Draw the paired differences of the mean of own and others to the control: a dot per seed and,
    of three seeds or more, the mean with its interval, blue if beyond chance. None where there is
    no difference.
    """
    found = {
        label: difference
        for (label, place), difference in comparison.differences(metric).items()
        if place == "mean"
    }
    rows = [row.method.label for row in comparison.rows if row.method.label in found]
    if not rows:
        return None
    seeds = _seed_differences(comparison, metric, rows)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axvline(0, color=MUTED.light, linewidth=1)
        axes.plot(seeds, range(len(rows)), ".-", color=MUTED.light, alpha=0.6, lw=0.6, markersize=5)
        for index, label in enumerate(rows):
            if found[label].seeds >= LEAST_SEEDS:
                _interval(axes, index, found[label])
        _rows(axes, rows)
        words = "mean, 95 % interval; blue: beyond chance after correction; "
        axes.set_xlabel(
            f"difference to {comparison.control} in points: {words if means else ''}dots: seeds"
        )

    means = any(found[label].seeds >= LEAST_SEEDS for label in rows)
    label = f"Paired differences of {NAMES[metric]} to {comparison.control}, with their intervals."
    numbers = [
        (label, 100 * found[label].mean, 100 * found[label].low, 100 * found[label].high)
        for label in rows
    ]
    columns = ("method", "difference_points", "low", "high")
    size = (WIDTH, ROW * len(rows) + 0.7)
    return Plot(draw, size, f"differences-{metric}", label, lambda: Numbers(columns, numbers))


def _seed_differences(comparison: MethodTable, metric: str, labels: Sequence[str]) -> Any:
    """Return the difference of every method to the control at every seed, in points (M, S)."""
    rows = {row.method.label: row for row in comparison.rows}
    control = rows[comparison.control]
    both = (rows[label].beside(control, metric, "mean") for label in labels)
    return np.array([100 * (np.array(own) - np.array(theirs)) for own, theirs in both])


def _interval(axes: Axes, index: int, difference: Difference) -> None:
    ends = [100 * difference.low, 100 * difference.high]
    axes.plot(ends, [index, index], color=GHOST.light, linewidth=5, solid_capstyle="butt")
    colour = SERIES[0 if difference.claimed else 5].light
    axes.plot(100 * difference.mean, index, "o", color=colour, markersize=5.5)


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
