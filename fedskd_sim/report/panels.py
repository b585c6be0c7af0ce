"""Small panels in a grid, one per hospital, with lines and bands on scales of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.observe.words import short
from fedskd_sim.report.svg import (
    GHOST,
    INK,
    MUTED,
    NAME,
    RULE,
    SERIES,
)

MOST_OVERLAID_STOPS = 60


LEAST_HEIGHT = 1.0


MOST_ROUND_TICKS = {False: 12, True: 5}
"""In one large picture, and in each of many small ones."""
SHORT, FEW_TICKS = 4, 2
"""Digits of a small picture's ticks up to which that many fit, and how many longer ones do."""


Floats = NDArray[np.float64]

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Line(NamedTuple):
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
        """Give the horizontal places of stops in a panel: panel widths from the left edge."""
        return (
            panel % self.columns
            + 0.07
            + 0.88 * np.asarray(stops) / max(1.0, float(self.band.stops[-1]))
        )

    def y(self, panel: int, values: Any) -> Any:
        """Give the vertical places of values in a panel: panel heights from the top edge."""
        return (
            panel // self.columns
            + 0.9
            - 0.68 * (np.asarray(values) - self.low) / (self.high - self.low)
        )


def draw_panels(
    figure: Figure, lines: Mapping[str, Line], band: Band, shape: tuple[int, int]
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
        _panel(grid, panel, line)
        axes.text(grid.x(panel, 0), panel // shape[1] + 0.15, short(model, NAME))
        if panel % shape[1] == 0:
            for tick in ticks:
                axes.text(0.05, grid.y(panel, tick), f"{tick:g}", ha="right", va="center")
        if panel >= len(lines) - shape[1]:
            for stop in _homes(band, small=True):
                sticks_out = stop == band.stops[-1] and len(f"{stop}") > SHORT
                place = grid.x(panel, stop) + 0.05 * sticks_out, panel // shape[1] + 1.03
                axes.text(*place, f"{stop}", ha="right" if sticks_out else "center")


def _panel(grid: Grid, panel: int, line: Line) -> None:
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
        axes.plot(own, values, color=SERIES[0].light, lw=0.5, alpha=0.6)
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
    )


def choose_marks(marker: str, line: Line) -> dict[str, Any]:
    """Choose how a line shows its stops at home."""
    return {"marker": marker, "markevery": list(line.home), "markersize": 4.5, "markeredgewidth": 0}


def mark_rollbacks(axes: Axes, line: Line) -> None:
    """Mark the sessions that were rolled back."""
    if places := line.rolled_back:
        stops, values = (
            [line.stops[place] for place in places],
            [line.values[place] for place in places],
        )
        axes.plot(stops, values, color=INK.light, ls="", marker="x", markersize=6)


def _homes(band: Band, *, small: bool) -> list[int]:
    """Give the stops at which all models are home, or every so many of them."""
    last = int(band.stops[-1])
    most = MOST_ROUND_TICKS[small] if not small or len(f"{last}") <= SHORT else FEW_TICKS
    rounds = math.ceil(last / band.round / most) or 1
    return list(range(0, max(last, 1) + 1, rounds * band.round))


def set_scale(axes: Axes, band: Band) -> None:
    """Tick and rule stops at home; keep flat lines off the edges."""
    last, low, high = int(band.stops[-1]), float(band.low.min()), float(band.high.max())
    if high - low < LEAST_HEIGHT:
        axes.set_ylim(max(0.0, low - LEAST_HEIGHT), high + LEAST_HEIGHT)
    axes.set_xticks(_homes(band, small=False))
    axes.set_xlim(-0.02 * max(last, 1), 1.02 * max(last, 1))
    axes.grid(axis="x")
