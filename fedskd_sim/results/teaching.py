"""What was taught: how near the similarities of visitor and resident came along the way, what each
stop changed at both, and what travellers keep and forget; from the records' measures alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from fedskd_sim.results.charts import MOST_LINES, Cells, Chart, heat, lines
from fedskd_sim.results.gathered import LEVELS, Way
from fedskd_sim.results.rows import Column, Table
from fedskd_sim.results.svg import Drawn, ink_of, look_of
from fedskd_sim.results.tables import Summary

Floats = NDArray[np.float64]
MOST_COLUMNS = 48
"""Stops up to which a map has a column for each; a longer run has one for each round."""
STOP, ROUND = "stop", "round"


@dataclass(frozen=True)
class Stops:
    """All sessions of a run as arrays (N,), in the order of hosts and, at each, of stops.

    ``model`` and ``host`` are places in the ring; ``after`` is the accuracy of the host's own model
    after the session, ``change`` what the session changed of it; NaN where it is not known.
    """

    model: NDArray[np.int64]
    host: NDArray[np.int64]
    stop: NDArray[np.int64]
    round: NDArray[np.int64]
    home: NDArray[np.bool_]
    accuracy: Floats
    after: Floats
    change: Floats
    drift: Floats
    levels: Mapping[str, Floats]
    """By level: the mean distance of the visitor's similarity from the resident's."""

    @classmethod
    def of(cls, ways: Mapping[str, Way], hospitals: Sequence[str]) -> Stops:
        """Take the ways of all models."""
        order = {name: place for place, name in enumerate(hospitals)}
        named = [(order[name], way) for name, way in ways.items()]

        def column(name: str) -> NDArray[Any]:
            return np.concatenate([way.column(name) for _, way in named] or [np.empty(0)])

        model = np.concatenate(
            [np.full(len(way), place) for place, way in named] or [np.empty(0, int)]
        )
        host = np.concatenate([way.places(order) for _, way in named] or [np.empty(0, int)])
        stop, home = column("stop").astype(np.int64), column("home").astype(bool)
        accuracy, resident = column("accuracy"), column("resident").astype(float)
        after = np.where(np.isfinite(resident), resident, np.where(home, accuracy, np.nan))
        by = np.lexsort((stop, host))
        same = np.append(False, np.diff(host[by]) == 0)
        change = np.where(same, after[by] - np.append(np.nan, after[by][:-1]), np.nan)
        return cls(
            model[by], host[by], stop[by], column("round")[by].astype(np.int64), home[by],
            accuracy[by], after[by], change, column("drift")[by],
            {level: column(level)[by].astype(float) for level in LEVELS},
        )  # fmt: skip

    def grid(self, rows: NDArray[np.int64], values: Floats, size: tuple[int, int]) -> Floats:
        """Average values by row and column, (R, C); NaN where there is none.

        Args:
            rows: (N,), the row of each session.
            values: (N,).
            size: R, and the stops of a round.

        """
        at = self.columns(size[1])
        wide = int(at.max(initial=-1)) + 1
        known = np.isfinite(values) & (rows >= 0)
        cell = rows[known] * wide + at[known]
        total = np.bincount(cell, values[known], size[0] * wide)
        count = np.bincount(cell, minlength=size[0] * wide)
        with np.errstate(invalid="ignore"):
            return (total / count).reshape(size[0], wide)

    def columns(self, size: int) -> NDArray[np.int64]:
        """Return the column of each session: its stop, or its round where there are many stops."""
        return self.stop if self.by_stop(size) else self.round

    def by_stop(self, size: int) -> bool:
        """Return whether a map has a column for each stop."""
        return size > 0 and int(self.stop.max(initial=0)) < MOST_COLUMNS


class Picture(NamedTuple):
    """A drawing and its title; ``wide`` where it needs a row of its own."""

    title: str
    svg: str
    wide: bool = False


@dataclass(frozen=True)
class Taught:
    """What a page shows of what was taught; empty parts where nothing is known."""

    levels: tuple[Picture, ...]
    """The distance at every level that was compared, over the stops."""
    changes: tuple[Picture, ...]
    """What stops changed at residents and travellers."""
    models: Table | None
    """What every traveller keeps and forgets."""
    legend: str
    """Which line is whose."""

    @property
    def anything(self) -> bool:
        """Return whether there is anything to show."""
        return bool(self.levels or self.changes or self.models)


def taught(summary: Summary) -> Taught:
    """Draw what is known of a run."""
    stops = Stops.of(summary.ways, summary.hospitals)
    return Taught(
        tuple(_levels(summary, stops)),
        tuple(_changes(summary, stops)),
        _models(summary),
        _safe(legend(summary.hospitals)),
    )


def over_stops(summary: Summary, field: str, chart: Chart) -> str:
    """Draw a measure of every model over its stops; '' where it was not measured."""
    return lines(
        chart._replace(x="round", round=len(summary.hospitals)),
        {
            name: (way.column(STOP).astype(float), way.column(field).astype(float))
            for name, way in summary.ways.items()
        },
    )


def each_model(summary: Summary, field: str) -> str:
    """Draw a share of every session as a map of models and stops, or rounds, the models with the
    largest newest value first; '' where it was not measured.
    """
    stops, size = Stops.of(summary.ways, summary.hospitals), len(summary.hospitals)
    found = stops.grid(stops.model, getattr(stops, field), (size, size))
    if not np.isfinite(found).any():
        return ""
    with warnings.catch_warnings(action="ignore"):  # a model without any value
        last = np.nan_to_num(np.nanmean(found[:, -max(1, found.shape[1] // 4) :], axis=1))
    order = np.argsort(-last, kind="stable")
    names, along = labels(stops, size)
    rows = [summary.hospitals[place] for place in order]
    return heat(Cells(f"{field} of each model", rows, names, along, "%", 100), found[order])


def legend(names: Sequence[str]) -> str:
    """Draw which line is whose; '' for so many that none is drawn by itself."""
    if len(names) > MOST_LINES:
        return ""
    wide, parts, x = 620, [], 0.0
    y = 10
    for number, name in enumerate(names):
        room = 44 + 6.6 * len(name)
        if x + room > wide:
            x, y = 0.0, y + 18
        colour, dashes = look_of(number)
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        parts.append(
            f'<line x1="{x:g}" x2="{x + 24:g}" y1="{y}" y2="{y}" stroke="{ink_of(colour)}" '
            f'stroke-width="2"{dashed}/><text x="{x + 29:g}" y="{y + 4}">{escape(name)}</text>'
        )
        x += room
    return (
        f'<svg class="chart" viewBox="0 0 {wide} {y + 10}" style="max-width:{wide}px" role="img" '
        f'aria-label="Lines: {escape(", ".join(names))}">{"".join(parts)}</svg>'
    )


def labels(stops: Stops, size: int) -> tuple[list[str], str]:
    """Name the columns of a map, and say what they are."""
    last = int(stops.columns(size).max(initial=-1))
    if not stops.by_stop(size):
        return [str(number) for number in range(last + 1)], "round (0: warm-up)"
    names = ["0", *(f"{1 + (n - 1) // size}.{1 + (n - 1) % size}" for n in range(1, last + 1))]
    return names, "round.hop (0: warm-up)"


def at_hosts(summary: Summary, stops: Stops, title: str, values: Floats, *, signed: bool) -> str:
    """Draw a map of hosts and stops, or rounds, of shares in percent."""
    size = len(summary.hospitals)
    names, along = labels(stops, size)
    found = stops.grid(stops.host, values, (size, size))
    if found.shape[1] > 1 and not np.isfinite(found[:, 0]).any():  # nothing in the warm-up
        names, found = names[1:], found[:, 1:]
    unit = "points" if signed else "%"
    cells = Cells(title, summary.hospitals, names, along, unit, 100, signed)
    return heat(cells, found)


def _levels(summary: Summary, stops: Stops) -> list[Picture]:
    found = [
        Picture(f"{level} level", _safe(drawn))
        for level in LEVELS
        if (drawn := over_stops(summary, level, Chart(f"{level} level", "", "distance")))
    ]
    if len(summary.hospitals) > MOST_LINES:
        size = len(summary.hospitals)
        names, along = labels(stops, size)
        for level in LEVELS:
            grid = stops.grid(stops.model, stops.levels[level], (size, size))
            title = f"{level} level, each model"
            drawn = heat(Cells(title, summary.hospitals, names, along, "distance"), grid)
            if drawn:
                found.append(Picture(title, _safe(drawn), wide=True))
    return found


def _changes(summary: Summary, stops: Stops) -> list[Picture]:
    away = ~stops.home
    gap = np.where(away, stops.accuracy - stops.after, np.nan)
    drift = np.where(away, stops.drift, np.nan)
    shown = [
        ("resident: change of accuracy", stops.change, True),
        ("visitor minus resident: accuracy after the stop", gap, True),
        ("visitor: relative change of parameters", drift, False),
    ]
    found = [
        Picture(title, _safe(drawn), wide=True)
        for title, values, signed in shown
        if away.any() and (drawn := at_hosts(summary, stops, title, values, signed=signed))
    ]
    if gains := _gains(summary, stops):
        found.insert(0, Picture("visitor: gain of balanced accuracy", _safe(gains), wide=True))
    return found


def _safe(drawn: str) -> str:
    """Return what a template takes as it is."""
    return drawn if isinstance(drawn, Drawn) else Markup(drawn)  # noqa: S704 - made here, names escaped


def _gains(summary: Summary, stops: Stops) -> str:
    """Draw what each visit made of the visitor at its host, which only probes measure."""
    size = len(summary.hospitals)
    order = {name: place for place, name in enumerate(summary.hospitals)}
    gains = {
        (order[host], size * (round_ - 1) + hop): value
        for (_, round_, hop, host), value in summary.memory.gains.items()
        if host in order
    }
    if not gains:
        return ""
    values = np.array(
        [
            gains.get((host, stop), math.nan)
            for host, stop in zip(stops.host, stops.stop, strict=True)
        ]
    )
    title = "visitor: gain of balanced accuracy"
    return at_hosts(summary, stops, title, np.where(stops.home, np.nan, values), signed=True)


def _models(summary: Summary) -> Table | None:
    found = summary.memory.models
    if not found:
        return None
    forgets = any(one.forgetting is not None for one in found.values())
    columns = [
        Column("model", words=True),
        Column("kept at home after a round", _points),
        *([Column("forgotten elsewhere", _points)] if forgets else []),
    ]
    rows = [
        (name, one.retention, *([one.forgetting] if forgets else []))
        for name in summary.hospitals
        if (one := found.get(name))
    ]
    return Table(columns, rows)


def _points(value: float | None) -> str:
    return "" if value is None else f"{100 * value:+.1f}"
