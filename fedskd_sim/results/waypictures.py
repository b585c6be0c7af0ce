"""Accuracy and drift of the models along their ways; of long ways some stops, and of many models
some, are drawn and said to be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.observe.words import short
from fedskd_sim.results.gathered import Way
from fedskd_sim.results.patients import thin
from fedskd_sim.results.svg import (
    DASHES,
    GHOST,
    INK,
    MARKERS,
    MUTED,
    NAME,
    RULE,
    SERIES,
    WIDTH,
    Numbers,
    Plot,
    mark,
)
from fedskd_sim.results.tables import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
MOST_OVERLAID = 6
MOST_TIPS = 200
"""Points of which each says its value."""
MOST_OVERLAID_STOPS = 60
LEAST_HEIGHT = 1.0
MOST_ROUND_TICKS = {False: 12, True: 5}
"""In one large picture, and in each of many small ones."""
SHORT, FEW_TICKS = 4, 2
"""Digits of a small picture's ticks up to which that many fit, and how many longer ones do."""
MOST_PANELS = 20
MOST_POINTS = 240
MOST_LEGEND_COLUMNS = 4


def accuracy(summary: Summary) -> Plot | None:
    """Draw every model's accuracy on its host's validation data over the stops of the run."""
    label = (
        f"Accuracy of {len(summary.hospitals)} models at every stop, on validation data of their "
        "hosts."
    )
    return _ways(summary, "accuracy", "accuracy in percent", label)


def drift(summary: Summary) -> Plot | None:
    """Draw how much every session changed the model that was trained."""
    label = f"Relative parameter change of {len(summary.hospitals)} models in every session."
    return _ways(summary, "drift", "drift in percent", label)


def sampling(summary: Summary) -> str:
    """Say what of the ways is not drawn; nothing where all of it is."""
    models, longest = len(summary.hospitals), max(map(len, summary.ways.values()), default=0)
    some = f"{MOST_PANELS} of {models} models, evenly chosen. " if models > MOST_PANELS else ""
    stops = (
        f"About {MOST_POINTS} of up to {longest:,} stops of each, evenly chosen; the grey band is "
        "over all."
    )
    bold = (
        "Where lines are long, the bold one goes from home to home. "
        if longest > MOST_OVERLAID_STOPS and travels(summary)
        else ""
    )
    return some + bold + (stops if longest > MOST_POINTS else "")


def travels(summary: Summary) -> bool:
    """Return whether any model was trained away from home."""
    return not all(steps.column("home").all() for steps in summary.ways.values())


def _ways(summary: Summary, field: str, title: str, label: str) -> Plot | None:
    """Draw one line per model: together if that stays legible, else one panel each over the
    range of all in grey.
    """
    on_tour = travels(summary)
    size, where = (len(summary.ways), "stop") if on_tour else (1, "round")
    band = _band(summary.ways, field, where, size)
    if not len(band.stops):
        return None
    chosen = thin(summary.hospitals, MOST_PANELS)
    lines = {model: _line(summary.ways[model], field, where) for model in chosen}
    together = len(lines) <= MOST_OVERLAID and band.stops[-1] <= MOST_OVERLAID_STOPS
    columns = 4 if len(lines) > MOST_OVERLAID else 2
    rows = 1 if together else math.ceil(len(lines) / columns)
    below = (
        f"stop (0: warm-up; {size} stops a round, the last at home)"
        if on_tour
        else "session at home (0: warm-up)"
    )

    def draw(figure: Figure) -> None:
        if together:
            axes = figure.subplots()
            _overlay(axes, lines)
            _set_scale(axes, band)
            axes.set(xlabel=below, ylabel=title)
            figure.legend(loc="outside upper left", ncols=MOST_LEGEND_COLUMNS)
        else:
            _draw_panels(figure, lines, band, (rows, columns))
            figure.supxlabel(below, fontsize="medium", y=0.02)
            figure.supylabel(title, fontsize="medium", x=0.01)

    size_in = (WIDTH, 3.8 if together else 1.45 * rows + 0.4)
    return Plot(draw, size_in, field, label, lambda: _numbers(summary, field))


def _numbers(summary: Summary, field: str) -> Numbers:
    columns = (
        "model",
        "host",
        "round",
        "hop",
        "stop",
        "at_home",
        "rolled_back",
        f"{field}_percent",
    )
    rows = (
        (model, step.host, step.round, step.hop, step.stop, step.home, step.rolled_back,
         100 * value if math.isfinite(value := getattr(step, field)) else None)
        for model, way in summary.ways.items()
        for step in way
    )  # fmt: skip
    return Numbers(columns, rows)


def _say_values(axes: Axes, model: str, line: DrawnLine) -> None:
    """Let every point say its value when it is pointed at."""
    for stop, value in zip(line.stops, line.values, strict=True):
        if math.isfinite(value):
            tip = f"{model}, stop {stop}: {value:.1f} %"
            axes.plot(stop, value, "o", ms=9, alpha=0, gid=mark(model, tip))


def _line(steps: Way, field: str, where: str) -> DrawnLine:
    """Take a model's way, or of a long one some stops: evenly chosen ones, some at home, and
    sessions that were rolled back.
    """
    places: Sequence[int] = range(len(steps))
    if len(steps) > MOST_POINTS:
        kinds = (np.flatnonzero(steps.column(kind)).tolist() for kind in ("home", "rolled_back"))
        places = sorted(
            {*thin(places, MOST_POINTS)}.union(*(thin(kind, MOST_POINTS // 4) for kind in kinds))
        )
    some = [steps[place] for place in places]
    values = (100 * getattr(step, field) for step in some)
    return DrawnLine(
        stops=tuple(getattr(step, where) for step in some),
        values=tuple(value if math.isfinite(value) else math.nan for value in values),
        home=tuple(place for place, step in enumerate(some) if step.home),
        rolled_back=tuple(place for place, step in enumerate(some) if step.rolled_back),
    )


def _band(ways: Mapping[str, Way], field: str, where: str, size: int) -> Band:
    """Find the range of all models; many stops are taken together in groups."""
    at, values = (
        np.concatenate([steps.column(name).astype(np.float64) for steps in ways.values()])
        for name in (where, field)
    )
    known = np.isfinite(values)
    stops, group = np.unique(at[known], return_inverse=True)
    if len(stops) > MOST_POINTS:
        first = np.unique(np.linspace(0, len(stops) - 1, MOST_POINTS).astype(int))
        stops, group = stops[first], np.searchsorted(first, group, "right") - 1
    low, high = np.full(len(stops), math.inf), np.full(len(stops), -math.inf)
    np.minimum.at(low, group, 100 * values[known])
    np.maximum.at(high, group, 100 * values[known])
    return Band(stops, low, high, size)


def _overlay(axes: Axes, lines: Mapping[str, DrawnLine]) -> None:
    looks = zip(SERIES, DASHES, MARKERS, strict=True)
    for (model, line), (colour, dash, marker) in zip(lines.items(), looks, strict=False):
        look = {
            "color": colour.light,
            "ls": dash,
            "label": short(model, NAME),
            **_choose_marks(marker, line),
        }
        axes.plot(line.stops, line.values, lw=1.4, gid=mark(model), **look)
        if sum(len(one.stops) for one in lines.values()) <= MOST_TIPS:
            _say_values(axes, model, line)
        _mark_rollbacks(axes, line)


class DrawnLine(NamedTuple):
    """One model's values in percent over the stops that are drawn; NaN where there is none."""

    stops: tuple[int, ...]
    values: tuple[float, ...]
    home: tuple[int, ...]
    rolled_back: tuple[int, ...]


class Band(NamedTuple):
    """The least and the largest value of all models, by stops or groups of them, and how many
    stops a round has.
    """

    stops: Floats
    low: Floats
    high: Floats
    round: int


class Grid(NamedTuple):
    """Panels within one picture's axes, one unit wide and high each, which is drawn ten times as
    fast as one with axes each.
    """

    axes: Axes
    band: Band
    columns: int
    low: float
    high: float

    def x(self, panel: int, stops: Any) -> Any:
        """Return the horizontal places of stops in a panel: panel widths from the left edge."""
        return (
            panel % self.columns
            + 0.07
            + 0.88 * np.asarray(stops) / max(1.0, float(self.band.stops[-1]))
        )

    def y(self, panel: int, values: Any) -> Any:
        """Return the vertical places of values in a panel: panel heights from the top edge."""
        return (
            panel // self.columns
            + 0.9
            - 0.68 * (np.asarray(values) - self.low) / (self.high - self.low)
        )


def _draw_panels(
    figure: Figure, lines: Mapping[str, DrawnLine], band: Band, shape: tuple[int, int]
) -> None:
    """Draw one panel per line in a grid of rows and columns, each over the band of all."""
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415 - only drawing needs it

    figure.set_layout_engine("none")
    width, height = figure.get_size_inches()
    axes = figure.add_axes((0.6 / width, 0.5 / height, 1 - 0.65 / width, 1 - 0.55 / height))
    axes.set(xlim=(0, shape[1]), ylim=(shape[0], 0))
    axes.set_axis_off()
    least, most = float(band.low.min()), float(band.high.max())
    flat = LEAST_HEIGHT if most - least < LEAST_HEIGHT else 0.0
    low, high = max(0.0, least - flat) if flat else least, most + flat
    ticks = tuple(
        float(tick) for tick in MaxNLocator(3).tick_values(low, high) if low <= tick <= high
    )
    grid = Grid(axes, band, shape[1], low, high)
    for panel, (model, line) in enumerate(lines.items()):
        _panel(grid, panel, line, model)
        axes.text(grid.x(panel, 0), panel // shape[1] + 0.15, short(model, NAME))
        if panel % shape[1] == 0:
            for tick in ticks:
                axes.text(0.05, grid.y(panel, tick), f"{tick:g}", ha="right", va="center")
        if panel >= len(lines) - shape[1]:
            for stop in _homes(band, small=True):
                sticks_out = stop == band.stops[-1] and len(f"{stop}") > SHORT
                place = grid.x(panel, stop) + 0.05 * sticks_out, panel // shape[1] + 1.03
                axes.text(*place, f"{stop}", ha="right" if sticks_out else "center")


def _panel(grid: Grid, panel: int, line: DrawnLine, model: str) -> None:
    """Draw one model: the range of all, its line and, where that is long, a bold one from home
    to home.
    """
    axes, stops = grid.axes, grid.x(panel, grid.band.stops)
    bottom, top = grid.y(panel, grid.low), grid.y(panel, grid.high)
    axes.fill_between(
        stops,
        grid.y(panel, grid.band.low),
        grid.y(panel, grid.band.high),
        color=GHOST.light,
        alpha=0.6,
        lw=0,
    )
    axes.vlines(grid.x(panel, _homes(grid.band, small=True)), top, bottom, color=RULE.light, lw=0.6)
    axes.plot(
        [grid.x(panel, 0)] * 2 + [grid.x(panel, grid.band.stops[-1])],
        [top, bottom, bottom],
        color=MUTED.light,
        lw=0.8,
    )
    own, values = grid.x(panel, line.stops), grid.y(panel, line.values)
    home, undone = list(line.home), list(line.rolled_back)
    axes.plot(own[undone], values[undone], color=INK.light, ls="", marker="x", markersize=6)
    if len(own) > MOST_OVERLAID_STOPS and len(home) > 1:
        axes.plot(own, values, color=SERIES[0].light, lw=0.5, alpha=0.6, gid=mark(model))
        own, values, home = own[home], values[home], list(range(len(home)))
    axes.plot(
        own,
        values,
        color=SERIES[0].light,
        lw=1.3,
        marker="o",
        markevery=home,
        markersize=3.5,
        markeredgewidth=0,
        gid=mark(model, _newest(model, line)),
    )


def _newest(model: str, line: DrawnLine) -> str:
    known = [both for both in zip(line.stops, line.values, strict=True) if math.isfinite(both[1])]
    return f"{model}: {known[-1][1]:.1f} % at stop {known[-1][0]}" if known else model


def _choose_marks(marker: str, line: DrawnLine) -> dict[str, Any]:
    """Choose how a line shows its stops at home."""
    return {"marker": marker, "markevery": list(line.home), "markersize": 4.5, "markeredgewidth": 0}


def _mark_rollbacks(axes: Axes, line: DrawnLine) -> None:
    """Mark the sessions that were rolled back."""
    if places := line.rolled_back:
        stops, values = (
            [line.stops[place] for place in places],
            [line.values[place] for place in places],
        )
        axes.plot(stops, values, color=INK.light, ls="", marker="x", markersize=6)


def _homes(band: Band, *, small: bool) -> list[int]:
    """Return the stops at which all models are home, or every so many of them."""
    last = int(band.stops[-1])
    most = MOST_ROUND_TICKS[small] if not small or len(f"{last}") <= SHORT else FEW_TICKS
    rounds = math.ceil(last / band.round / most) or 1
    return list(range(0, max(last, 1) + 1, rounds * band.round))


def _set_scale(axes: Axes, band: Band) -> None:
    """Tick and rule stops at home; keep flat lines off the edges."""
    last, low, high = int(band.stops[-1]), float(band.low.min()), float(band.high.max())
    if high - low < LEAST_HEIGHT:
        axes.set_ylim(max(0.0, low - LEAST_HEIGHT), high + LEAST_HEIGHT)
    axes.set_xticks(_homes(band, small=False))
    axes.set_xlim(-0.02 * max(last, 1), 1.02 * max(last, 1))
    axes.grid(axis="x")
