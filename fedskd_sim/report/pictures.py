"""The pictures of a report, each legible for two hospitals and for seventeen; '' where there is nothing to draw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fedskd_sim.observe.words import short
from fedskd_sim.records import Timing
from fedskd_sim.report.svg import GHOST, INK, MUTED, SERIES, Colour, picture
from fedskd_sim.report.tables import Summary
from fedskd_sim.report.text import TITLES, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 10.0
NAME = 22
NARROW = 13
MOST_OVERLAID = 6
MOST_OVERLAID_STOPS = 60
MOST_NAMED_COLUMNS = 8
MOST_LEGEND_COLUMNS = 4
LEAST_HEIGHT = 1.0
MOST_ROUND_TICKS = 12
LEAST_SPREAD = 0.05  # of the colours around the middle, so that noise does not look like structure
EQUAL_CONTRAST = 0.46  # where black and white text read equally well on the colour map
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (9, 2)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")


class Bar(NamedTuple):
    """How one kind of timing is drawn in its hospital's row: lower and upper edge in rows, from the middle downwards."""

    what: str
    title: str
    colour: Colour
    top: float
    bottom: float


BARS = (
    Bar("start", "start", MUTED, -0.38, 0.38),
    Bar("warm_up", "warm-up", SERIES[2], -0.38, 0.12),
    Bar("session", "session", SERIES[0], -0.38, 0.12),
    Bar("evaluation", "evaluation", SERIES[4], -0.13, 0.12),
    Bar("transfer", "transfer (to the receipt)", SERIES[1], 0.2, 0.36),
)


class Line(NamedTuple):
    """One model's values in percent over the stops of the run; NaN where there is none."""

    stops: tuple[int, ...]
    values: tuple[float, ...]
    home: tuple[int, ...]
    rolled_back: tuple[int, ...]


def matrix(summary: Summary) -> str:
    """Draw the K x K matrix of the headline metric as an annotated heat map."""
    shown, names = summary.matrices[summary.headline], summary.hospitals
    if shown.missing == len(names) ** 2:
        return ""
    named = len(names) <= MOST_NAMED_COLUMNS
    cell = min(1.25 if named else 0.47, 7.6 / len(names))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _cells(axes, shown.values)
        numbered = list(enumerate(names, 1))
        axes.set_xticks(range(len(names)), [short(name, NARROW) if named else str(number) for number, name in numbered])
        axes.set_yticks(range(len(names)), [f"{'' if named else number}  {short(name, NAME)}" for number, name in numbered])
        axes.set(xlabel="test data of" if named else "test data of hospital number", ylabel="model of")
        axes.tick_params(length=0)
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")
        axes.spines[:].set_visible(False)

    home, away = percent(shown.personalization) or "unknown", percent(shown.generalization) or "unknown"
    title = f"{len(names)} by {len(names)} matrix of {TITLES[summary.headline]} in percent"
    label = f"{title}: on average {home} at home and {away} elsewhere."
    return picture(draw, (cell * len(names) + 2.2, min(cell, 0.6) * len(names) + 0.7), "matrix", label)


def accuracy(summary: Summary) -> str:
    """Draw every model's accuracy on its host's validation data over the stops of the run."""
    label = f"Accuracy of {len(summary.hospitals)} models at every stop, on validation data of their hosts."
    return _ways(summary, "accuracy", "accuracy in percent", label)


def drift(summary: Summary) -> str:
    """Draw how much every session changed the model that was trained."""
    label = f"Relative parameter change of {len(summary.hospitals)} models in every session."
    return _ways(summary, "drift", "drift in percent", label)


def dilution(summary: Summary) -> str:
    """Draw how much of what a visit taught a model is left after later hops; needs ``instruments.probe``."""
    kept = summary.memory.kept
    if len(kept) < 2:  # noqa: PLR2004 - one point is no curve
        return ""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot(list(kept), [100 * share for share in kept.values()], color=SERIES[0].light, lw=1.4, marker="o", markersize=4.5)
        axes.axhline(0, color=MUTED.light, lw=0.6)
        axes.set(xlabel="hops after the visit", ylabel="share of the gain left, in percent")
        axes.set_xticks(list(kept))
        axes.grid(axis="y")

    last = max(kept)
    label = f"Of what a visit taught a model {percent(kept[last])} percent is left {last} hops later, on average over all visits."
    return picture(draw, (WIDTH / 2, 2.8), "dilution", label)


def timeline(summary: Summary, timings: Sequence[Timing]) -> str:
    """Draw what every hospital did when, in seconds from the first start."""
    rows = {name: row for row, name in enumerate(summary.hospitals)}
    known = [timing for timing in timings if timing.host in rows]
    if not known:
        return ""
    zero = min(timing.start for timing in known)
    seconds = max(timing.end for timing in known) - zero

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for bar in BARS:
            chosen = [timing for timing in known if timing.what == bar.what]
            _bars(axes, bar, [(rows[timing.host], timing.start - zero, timing.end - zero) for timing in chosen])
        axes.set_yticks(range(len(rows)), [short(name, NAME) for name in rows])
        axes.set(ylim=(len(rows) - 0.5, -0.5), xlim=(0, seconds or 1.0), xlabel="seconds from the first start")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        figure.legend(loc="outside upper left", ncols=len(BARS))

    label = f"What {len(rows)} hospitals did over {seconds:.0f} seconds: sessions, evaluations and transfers."
    return picture(draw, (WIDTH, 0.36 * len(rows) + 1.0), "timeline", label)


def _cells(axes: Axes, values: Sequence[Sequence[float]]) -> None:
    """Fill an image of cells, write each value in, and frame the diagonal; a missing value is an empty, dotted cell."""
    import numpy as np  # noqa: PLC0415
    from matplotlib import colormaps  # noqa: PLC0415
    from matplotlib.colors import Normalize  # noqa: PLC0415
    from matplotlib.patches import Rectangle  # noqa: PLC0415

    present = [value for row in values for value in row if math.isfinite(value)]
    middle = (max(present) + min(present)) / 2
    spread = max(max(present) - middle, LEAST_SPREAD)
    scale = Normalize(middle - spread, middle + spread)
    for (row, column), value in np.ndenumerate(np.array(values)):
        look: dict[str, Any] = {"facecolor": colormaps["cividis"](scale(value)), "edgecolor": "none"}
        if row == column:
            look |= {"edgecolor": INK.light, "linewidth": 1.6, "zorder": 2}
        if not math.isfinite(value):
            look |= {"facecolor": "none", "edgecolor": GHOST.light, "linestyle": ":"}
        half = 0.47 if row == column else 0.49
        axes.add_patch(Rectangle((column - half, row - half), 2 * half, 2 * half, **look))
        ink = "#000000" if scale(value) > EQUAL_CONTRAST else "#ffffff"
        axes.text(column, row, percent(value), ha="center", va="center", color=ink)
    axes.set(xlim=(-0.5, len(values) - 0.5), ylim=(len(values) - 0.5, -0.5))


def _ways(summary: Summary, field: str, title: str, label: str) -> str:
    """Draw one line per model: together if that stays legible, else one panel each over the range of all in grey."""
    lines = {model: _line(summary, model, field) for model in summary.hospitals}
    stops = _range(lines)[0]
    if not stops:
        return ""
    size = len(lines)
    together = size <= MOST_OVERLAID and stops[-1] <= MOST_OVERLAID_STOPS
    columns = 4 if size > MOST_OVERLAID else 2
    rows = 1 if together else math.ceil(size / columns)
    below = f"stop (0: warm-up; {size} stops a round, the last at home)"

    def draw(figure: Figure) -> None:
        if together:
            axes = figure.subplots()
            _overlay(axes, lines)
            axes.set(xlabel=below, ylabel=title)
            figure.legend(loc="outside upper left", ncols=MOST_LEGEND_COLUMNS)
        else:
            _panels(figure, lines, (rows, columns))
            figure.supxlabel(below, fontsize="medium")
            figure.supylabel(title, fontsize="medium")

    return picture(draw, (WIDTH, 3.8 if together else 1.45 * rows + 0.4), field, label)


def _line(summary: Summary, model: str, field: str) -> Line:
    steps = summary.ways[model]
    values = (100 * getattr(step, field) for step in steps)
    home = tuple(place for place, step in enumerate(steps) if step.home)
    rolled_back = tuple(place for place, step in enumerate(steps) if step.rolled_back)
    finite = tuple(value if math.isfinite(value) else math.nan for value in values)
    return Line(tuple(step.stop for step in steps), finite, home, rolled_back)


def _overlay(axes: Axes, lines: Mapping[str, Line]) -> None:
    looks = zip(SERIES, DASHES, MARKERS, strict=True)
    for (model, line), (colour, dash, marker) in zip(lines.items(), looks, strict=False):
        look = {"color": colour.light, "ls": dash, "label": short(model, NAME), **_marks(marker, line)}
        axes.plot(line.stops, line.values, lw=1.4, **look)
        _crosses(axes, line)
    _rounds(axes, lines)


def _panels(figure: Figure, lines: Mapping[str, Line], shape: tuple[int, int]) -> None:
    grid = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False)
    stops, low, high = _range(lines)
    for axes, (model, line) in zip(grid.flat, lines.items(), strict=False):
        axes.fill_between(stops, low, high, color=GHOST.light, alpha=0.6, lw=0)
        axes.plot(line.stops, line.values, color=SERIES[0].light, lw=1.3, **_marks("o", line))
        _crosses(axes, line)
        _rounds(axes, lines)
        axes.set_title(short(model, NAME), loc="left")
    for axes in grid.flat[len(lines) :]:
        axes.set_axis_off()
    for axes in grid.flat[len(lines) - shape[1] : len(lines)]:
        axes.tick_params(labelbottom=True)


def _range(lines: Mapping[str, Line]) -> tuple[list[int], list[float], list[float]]:
    """Give the stops of the run, and the least and the largest value of all models at each."""
    found: dict[int, list[float]] = {}
    for line in lines.values():
        for stop, value in zip(line.stops, line.values, strict=True):
            if not math.isnan(value):
                found.setdefault(stop, []).append(value)
    stops = sorted(found)
    return stops, [min(found[stop]) for stop in stops], [max(found[stop]) for stop in stops]


def _marks(marker: str, line: Line) -> dict[str, Any]:
    return {"marker": marker, "markevery": list(line.home), "markersize": 4.5, "markeredgewidth": 0}


def _crosses(axes: Axes, line: Line) -> None:
    """Mark the sessions that were rolled back."""
    places = line.rolled_back
    stops, values = [line.stops[place] for place in places], [line.values[place] for place in places]
    axes.plot(stops, values, color=INK.light, ls="", marker="x", markersize=6)


def _rounds(axes: Axes, lines: Mapping[str, Line]) -> None:
    """Tick and rule the stops at which all models are home, or every so many of them; keep flat lines off the edges."""
    stops, low, high = _range(lines)
    last = stops[-1]
    if max(high) - min(low) < LEAST_HEIGHT:
        axes.set_ylim(max(0.0, min(low) - LEAST_HEIGHT), max(high) + LEAST_HEIGHT)
    rounds = math.ceil(last / len(lines) / MOST_ROUND_TICKS) or 1
    axes.set_xticks(range(0, max(last, 1) + 1, rounds * len(lines)))
    axes.set_xlim(-0.02 * max(last, 1), 1.02 * max(last, 1))
    axes.grid(axis="x")


def _bars(axes: Axes, bar: Bar, boxes: Sequence[tuple[int, float, float]]) -> None:
    """Draw all bars of a kind as one shape: a long run has thousands."""
    import numpy as np  # noqa: PLC0415
    from matplotlib.patches import PathPatch  # noqa: PLC0415
    from matplotlib.path import Path  # noqa: PLC0415

    if not boxes:
        return
    row, start, end = np.array(boxes, dtype=float).T
    top, bottom = row + bar.top, row + bar.bottom
    corners = np.stack([np.stack([start, end, end, start], 1), np.stack([top, top, bottom, bottom], 1)], 2)
    colour = bar.colour.light
    shape = Path.make_compound_path_from_polys(corners)
    axes.add_patch(PathPatch(shape, facecolor=colour, edgecolor=colour, linewidth=0.4, label=bar.title))
