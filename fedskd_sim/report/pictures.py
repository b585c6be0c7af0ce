"""Pictures of results: the matrix of all models at all hospitals, what models remember; '' where
there is nothing to draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fedskd_sim.observe.words import short
from fedskd_sim.report.svg import (
    EQUAL_CONTRAST,
    GHOST,
    INK,
    MUTED,
    NAME,
    NARROW,
    SERIES,
    WIDTH,
    picture,
)
from fedskd_sim.report.tables import Summary
from fedskd_sim.report.text import TITLES, percent

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
