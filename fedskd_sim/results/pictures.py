"""Figures of results: the matrix of all models at all hospitals, what models remember, and
confusion, ROC and calibration of hospitals; None where there is nothing to draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fedskd_sim.observe.words import short
from fedskd_sim.results.curves import BINS, Calibration
from fedskd_sim.results.patients import HostRows, PatientRow, Patients, thin
from fedskd_sim.results.rows import percent, plain
from fedskd_sim.results.svg import (
    DASHES,
    EQUAL_CONTRAST,
    GHOST,
    INK,
    MUTED,
    NAME,
    NARROW,
    SERIES,
    WIDTH,
    Numbers,
    Plot,
    mark,
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


def matrix(summary: Summary) -> Plot | None:
    """Draw the K x K matrix of the headline metric as an annotated heat map."""
    shown, names = summary.matrices[summary.headline], summary.hospitals
    if shown.missing == len(names) ** 2:
        return None
    named, numbered = len(names) <= MOST_NAMED_COLUMNS, len(names) <= MOST_NUMBERED
    cell = min(1.25 if named else 0.47, 7.6 / len(names))

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        if numbered:
            _cells(axes, shown.values, names)
        else:
            _colours(axes, shown.values)
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
    size = (cell * len(names) + 2.2, min(cell, 0.6) * len(names) + 0.7)
    return Plot(draw, size, "matrix", label, lambda: _of_matrix(summary))


def _of_matrix(summary: Summary) -> Numbers:
    columns = ("model_of", "test_data_of", *(f"{metric}_percent" for metric in summary.matrices))
    rows = (
        (
            model,
            host,
            *(plain(100 * each.values[row][column]) for each in summary.matrices.values()),
        )
        for row, model in enumerate(summary.hospitals)
        for column, host in enumerate(summary.hospitals)
    )
    return Numbers(columns, rows)


def dilution(summary: Summary) -> Plot | None:
    """Draw how much of what a visit taught a model is left after later hops; needs
    ``instruments.probe``.
    """
    kept = summary.memory.kept
    if len(kept) < 2:  # noqa: PLR2004 - one point is no curve
        return None

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
    columns = ("hops_after_the_visit", "share_of_the_gain_left_percent")
    rows = [(after, 100 * share) for after, share in kept.items()]
    return Plot(draw, (WIDTH / 2, 2.8), "dilution", label, lambda: Numbers(columns, rows))


def _cells(axes: Axes, values: Sequence[Sequence[float]], names: Sequence[str]) -> None:
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
        tip = f"{names[row]} at {names[column]}: {percent(value) or 'no value'}"
        look["gid"] = mark(names[row], tip)
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


MOST_HOSTS = 6
MOST_NUMBERS = 10
HEIGHT = 3.1


Drawable: TypeAlias = list[tuple[HostRows, PatientRow]]
"""Hospitals, each with the row of its own model or, where it has none, of all models together."""


def choose_hosts(patients: Patients) -> Drawable:
    """Choose the hospitals that are drawn."""
    return thin(_drawable(patients), MOST_HOSTS)


def _drawable(patients: Patients) -> Drawable:
    return [
        (host, row) for host in patients.hosts if (row := host.row("own") or host.row("ensemble"))
    ]


def confusion(patients: Patients) -> Plot | None:
    """Draw how many patients of each true class are predicted to be of each class; None where a
    patient may have several.
    """
    if patients.multi_label:
        return None

    def rows() -> Iterator[tuple[Any, ...]]:
        for host, row in _drawable(patients):
            for (true, predicted), count in np.ndenumerate(row.confusion):
                yield host.name, patients.classes[true], patients.classes[predicted], int(count)

    columns = ("hospital", "true_class", "predicted_class", "patients")
    return _panels(patients, "Confusion matrix", _confusion, lambda: Numbers(columns, rows()))


def roc(patients: Patients) -> Plot | None:
    """Draw ROC curves of one class against the rest."""

    def rows() -> Iterator[tuple[Any, ...]]:
        for host, row in _drawable(patients):
            for label, curve in row.curves.items():
                for x, y in zip(*curve, strict=True):
                    yield host.name, patients.classes[label], 100 * x, 100 * y

    columns = ("hospital", "class", "false_positive_rate_percent", "true_positive_rate_percent")
    return _panels(patients, "ROC curves", _roc, lambda: Numbers(columns, rows()))


def calibration(patients: Patients) -> Plot | None:
    """Draw accuracy over confidence."""

    def rows() -> Iterator[tuple[Any, ...]]:
        for host, row in _drawable(patients):
            bins = row.calibration
            for count, sure, right in zip(bins.counts, bins.confidence, bins.right, strict=True):
                if count:
                    yield host.name, 100 * sure, 100 * right, int(count)

    columns = ("hospital", "confidence_percent", "accuracy_percent", "patients")
    return _panels(patients, "Calibration", _calibration, lambda: Numbers(columns, rows()))


def _panels(
    patients: Patients,
    title: str,
    each: Callable[[Axes, HostRows, PatientRow, Sequence[str]], None],
    numbers: Callable[[], Numbers],
) -> Plot | None:
    """Draw a panel for each of some hospitals."""
    chosen = choose_hosts(patients)
    if not chosen:
        return None
    columns = {1: 1, 2: 2, 4: 2}.get(len(chosen), 3)
    lines = -(-len(chosen) // columns)

    def draw(figure: Figure) -> None:
        grid = figure.subplots(lines, columns, squeeze=False).flatten()
        for axes, (host, row) in zip(grid, chosen, strict=False):
            each(axes, host, row, patients.classes)
            axes.set_title(short(host.name, NAME), loc="left", fontweight="bold")
        for axes in grid[len(chosen) :]:
            axes.set_axis_off()

    names = ", ".join(host.name for host, _ in chosen)
    size = (WIDTH / 3 * columns, HEIGHT * lines)
    return Plot(draw, size, title.split(maxsplit=1)[0].lower(), f"{title} of {names}.", numbers)


def _confusion(axes: Axes, _: HostRows, row: PatientRow, classes: Sequence[str]) -> None:
    """Colour each cell by its share of the true class, and write the number of patients in."""
    from matplotlib import colormaps  # noqa: PLC0415 - only drawing needs it

    totals = np.maximum(row.confusion.sum(axis=1, keepdims=True), 1)
    shares = row.confusion / totals
    axes.pcolormesh(
        np.arange(len(classes) + 1),
        np.arange(len(classes) + 1),
        shares,
        cmap="cividis",
        vmin=0,
        vmax=1,
        rasterized=False,
    )
    if len(classes) <= MOST_NUMBERS:
        for (place, decided), count in np.ndenumerate(row.confusion):
            ink = "#000000" if shares[place, decided] > EQUAL_CONTRAST else "#ffffff"
            axes.text(
                decided + 0.5,
                place + 0.5,
                str(count),
                ha="center",
                va="center",
                color=ink,
                fontsize="small",
            )
        names = [short(name, 9) for name in classes]
        axes.set_xticks(np.arange(len(classes)) + 0.5, names, rotation=45, ha="right")
        axes.set_yticks(np.arange(len(classes)) + 0.5, names)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_facecolor(colormaps["cividis"](0.0))
    axes.set(xlabel="predicted class", ylabel="true class")


def _roc(axes: Axes, host: HostRows, row: PatientRow, classes: Sequence[str]) -> None:
    """Draw the curves of the classes with the most patients."""
    largest = sorted(row.curves, key=lambda label: -host.counts[label])[: len(SERIES)]
    axes.plot([0, 100], [0, 100], color=GHOST.light, lw=0.8)
    for label, colour, dash in zip(sorted(largest), SERIES, DASHES, strict=False):
        curve = row.curves[label]
        name = f"{short(classes[label], 12)} {percent(row.areas[label])}"
        axes.plot(
            100 * curve.false_positive,
            100 * curve.true_positive,
            color=colour.light,
            ls=dash,
            lw=1.2,
            label=name,
            gid=mark(tip=f"{host.name}, {classes[label]}: AUC {percent(row.areas[label])}"),
        )
    axes.set(
        xlabel="false positive rate, percent",
        ylabel="true positive rate, percent",
        xlim=(-2, 102),
        ylim=(-2, 102),
    )
    if largest:
        axes.legend(loc="lower right", fontsize="small", handlelength=2.4)


def _calibration(axes: Axes, _: HostRows, row: PatientRow, __: Sequence[str]) -> None:
    """Draw accuracy over confidence, by bins; bars below are the number of patients of each."""
    bins = row.calibration
    edges = np.arange(BINS) * 100 / BINS
    axes.bar(
        edges,
        30 * bins.counts / bins.counts.max(),
        100 / BINS,
        align="edge",
        color=GHOST.light,
        edgecolor="none",
    )
    for edge, count in zip(edges, bins.counts, strict=True):
        if count:
            height = 30 * count / bins.counts.max() + 1
            axes.text(
                edge + 50 / BINS,
                height,
                str(count),
                ha="center",
                color=MUTED.light,
                fontsize="small",
            )
    axes.plot([0, 100], [0, 100], color=GHOST.light, lw=0.8)
    axes.plot(
        100 * bins.confidence,
        100 * bins.right,
        color=SERIES[0].light,
        lw=1.2,
        marker="o",
        markersize=4,
    )
    _say_bins(axes, bins)
    axes.set(
        xlabel=f"confidence, percent (ECE {percent(bins.error)})",
        ylabel="accuracy, percent",
        xlim=(-2, 102),
        ylim=(-2, 102),
    )


def _say_bins(axes: Axes, bins: Calibration) -> None:
    """Let every point say its values when it is pointed at."""
    for sure, right, count in zip(bins.confidence, bins.right, bins.counts, strict=True):
        if count:
            tip = f"confidence {100 * sure:.1f}, accuracy {100 * right:.1f}, {count} patients"
            axes.plot(100 * sure, 100 * right, "o", ms=9, alpha=0, gid=mark(tip=tip))
