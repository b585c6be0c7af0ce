"""Pictures of results: the matrix of all models at all hospitals, what models remember, and small
panels of lines and bands, one per hospital; '' where there is nothing to draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.observe.words import short
from fedskd_sim.results.rows import percent
from fedskd_sim.results.svg import (
    EQUAL_CONTRAST,
    GHOST,
    INK,
    MUTED,
    NAME,
    NARROW,
    RULE,
    SERIES,
    WIDTH,
    picture,
)
from fedskd_sim.results.tables import Summary
from fedskd_sim.results.text import TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure


MOST_NAMED_COLUMNS = 8
MOST_NUMBERED = 24
MOST_TICKS = 26
SHADES = 40
LEAST_SPREAD = 0.05  # of the colours around the middle, so that noise does not look like structure


def matrix(summary: Summary) -> str:
    """Draw the K x K matrix of the headline metric as an annotated heat map."""
    shown, names = summary.matrices[summary.headline], summary.hospitals
    if shown.missing == len(names) ** 2:
        return ""
    named, numbered = len(names) <= MOST_NAMED_COLUMNS, len(names) <= MOST_NUMBERED
    cell = min(1.25 if named else 0.47, 7.6 / len(names))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        (_cells if numbered else _colours)(axes, shown.values)
        places = range(0, len(names), -(-len(names) // MOST_TICKS))
        axes.set_xticks(
            places, [short(names[place], NARROW) if named else str(place + 1) for place in places]
        )
        axes.set_yticks(
            places,
            [f"{'' if named else place + 1}  {short(names[place], NAME)}" for place in places],
        )
        axes.set(
            xlabel="test data of" if named else "test data of hospital number", ylabel="model of"
        )
        axes.tick_params(length=0)
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")
        axes.spines[:].set_visible(False)

    home, away = (
        percent(shown.personalization) or "unknown",
        percent(shown.generalization) or "unknown",
    )
    title = f"{len(names)} by {len(names)} matrix of {TITLES[summary.headline]} in percent"
    label = f"{title}: on average {home} at home and {away} elsewhere."
    return picture(
        draw, (cell * len(names) + 2.2, min(cell, 0.6) * len(names) + 0.7), "matrix", label
    )


def dilution(summary: Summary) -> str:
    """Draw how much of what a visit taught a model is left after later hops; needs
    ``instruments.probe``.
    """
    kept = summary.memory.kept
    if len(kept) < 2:  # noqa: PLR2004 - one point is no curve
        return ""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot(
            list(kept),
            [100 * share for share in kept.values()],
            color=SERIES[0].light,
            lw=1.4,
            marker="o",
            markersize=4.5,
        )
        axes.axhline(0, color=MUTED.light, lw=0.6)
        axes.set(xlabel="hops after the visit", ylabel="share of the gain left, in percent")
        axes.set_xticks(list(kept))
        axes.grid(axis="y")

    last = max(kept)
    label = (
        f"Of what a visit taught a model {percent(kept[last])} percent is left {last} hops later, "
        "on average over all visits."
    )
    return picture(draw, (WIDTH / 2, 2.8), "dilution", label)


def _cells(axes: Axes, values: Sequence[Sequence[float]]) -> None:
    """Fill an image of cells, write each value in, and frame the diagonal; a missing value is an
    empty, dotted cell.
    """
    from matplotlib import colormaps  # noqa: PLC0415
    from matplotlib.patches import Rectangle  # noqa: PLC0415

    scale = _scale(values)
    for (row, column), value in np.ndenumerate(np.array(values)):
        look: dict[str, Any] = {
            "facecolor": colormaps["cividis"](scale(value)),
            "edgecolor": "none",
        }
        if row == column:
            look |= {"edgecolor": INK.light, "linewidth": 1.6, "zorder": 2}
        if not math.isfinite(value):
            look |= {"facecolor": "none", "edgecolor": GHOST.light, "linestyle": ":"}
        half = 0.47 if row == column else 0.49
        axes.add_artist(Rectangle((column - half, row - half), 2 * half, 2 * half, **look))
        ink = "#000000" if scale(value) > EQUAL_CONTRAST else "#ffffff"
        axes.text(column, row, percent(value), ha="center", va="center", color=ink).set_in_layout(
            False
        )
    axes.set(xlim=(-0.5, len(values) - 0.5), ylim=(len(values) - 0.5, -0.5))


def _scale(values: Sequence[Sequence[float]]) -> Normalize:
    """Stretch the colours over the values, at least `LEAST_SPREAD` to each side of their middle, so
    that noise does not look like a difference.
    """
    from matplotlib.colors import Normalize  # noqa: PLC0415

    present = [value for row in values for value in row if math.isfinite(value)]
    middle = (max(present) + min(present)) / 2
    spread = max(max(present) - middle, LEAST_SPREAD)
    return Normalize(middle - spread, middle + spread)


def _colours(axes: Axes, values: Sequence[Sequence[float]]) -> None:
    """Fill an image of cells that are too small for numbers: one shape for all cells of a shade;
    a missing value is empty.
    """
    from matplotlib import colormaps  # noqa: PLC0415
    from matplotlib.patches import PathPatch  # noqa: PLC0415
    from matplotlib.path import Path  # noqa: PLC0415

    scale, numbers = _scale(values), np.array(values)
    shades = np.floor(
        np.clip(np.nan_to_num(np.asarray(scale(numbers), float), nan=-1.0), -1, 1 - 1e-9) * SHADES
    )
    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    for shade in np.unique(shades[np.isfinite(numbers)]):
        rows, columns = np.nonzero((shades == shade) & np.isfinite(numbers))
        shape = Path.make_compound_path_from_polys(np.stack([columns, rows], 1)[:, None] + corners)
        axes.add_artist(
            PathPatch(
                shape, facecolor=colormaps["cividis"]((shade + 0.5) / SHADES), edgecolor="none"
            )
        )
    axes.plot([-0.5, len(values) - 0.5], [-0.5, len(values) - 0.5], color=INK.light, lw=0.6)
    axes.set(xlim=(-0.5, len(values) - 0.5), ylim=(len(values) - 0.5, -0.5))


MOST_OVERLAID_STOPS = 60


LEAST_HEIGHT = 1.0


MOST_ROUND_TICKS = {False: 12, True: 5}
"""In one large picture, and in each of many small ones."""
SHORT, FEW_TICKS = 4, 2
"""Digits of a small picture's ticks up to which that many fit, and how many longer ones do."""


Floats = NDArray[np.float64]


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


def draw_panels(
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


def _panel(grid: Grid, panel: int, line: DrawnLine) -> None:
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


def choose_marks(marker: str, line: DrawnLine) -> dict[str, Any]:
    """Choose how a line shows its stops at home."""
    return {"marker": marker, "markevery": list(line.home), "markersize": 4.5, "markeredgewidth": 0}


def mark_rollbacks(axes: Axes, line: DrawnLine) -> None:
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


def set_scale(axes: Axes, band: Band) -> None:
    """Tick and rule stops at home; keep flat lines off the edges."""
    last, low, high = int(band.stops[-1]), float(band.low.min()), float(band.high.max())
    if high - low < LEAST_HEIGHT:
        axes.set_ylim(max(0.0, low - LEAST_HEIGHT), high + LEAST_HEIGHT)
    axes.set_xticks(_homes(band, small=False))
    axes.set_xlim(-0.02 * max(last, 1), 1.02 * max(last, 1))
    axes.grid(axis="x")
