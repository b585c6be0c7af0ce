"""Accuracy and drift of the models along their ways; of long ways some stops, and of many models
some, are drawn and said to be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedskd_sim.observe.words import short
from fedskd_sim.results.gathered import Way
from fedskd_sim.results.patients import thin
from fedskd_sim.results.pictures import (
    MOST_OVERLAID_STOPS,
    Band,
    DrawnLine,
    choose_marks,
    draw_panels,
    mark_rollbacks,
    set_scale,
)
from fedskd_sim.results.svg import DASHES, MARKERS, NAME, SERIES, WIDTH, picture
from fedskd_sim.results.tables import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_OVERLAID = 6
MOST_PANELS = 20
MOST_POINTS = 240
MOST_LEGEND_COLUMNS = 4


def accuracy(summary: Summary) -> str:
    """Draw every model's accuracy on its host's validation data over the stops of the run."""
    label = (
        f"Accuracy of {len(summary.hospitals)} models at every stop, on validation data of their "
        "hosts."
    )
    return _ways(summary, "accuracy", "accuracy in percent", label)


def drift(summary: Summary) -> str:
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


def _ways(summary: Summary, field: str, title: str, label: str) -> str:
    """Draw one line per model: together if that stays legible, else one panel each over the
    range of all in grey.
    """
    on_tour = travels(summary)
    size, where = (len(summary.ways), "stop") if on_tour else (1, "round")
    band = _band(summary.ways, field, where, size)
    if not len(band.stops):
        return ""
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
            set_scale(axes, band)
            axes.set(xlabel=below, ylabel=title)
            figure.legend(loc="outside upper left", ncols=MOST_LEGEND_COLUMNS)
        else:
            draw_panels(figure, lines, band, (rows, columns))
            figure.supxlabel(below, fontsize="medium", y=0.02)
            figure.supylabel(title, fontsize="medium", x=0.01)

    return picture(draw, (WIDTH, 3.8 if together else 1.45 * rows + 0.4), field, label)


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
            **choose_marks(marker, line),
        }
        axes.plot(line.stops, line.values, lw=1.4, **look)
        mark_rollbacks(axes, line)
