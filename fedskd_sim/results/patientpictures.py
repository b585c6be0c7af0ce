"""Confusion, ROC and calibration of some hospitals, side by side; '' where there is nothing to
draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedskd_sim.observe.words import short
from fedskd_sim.results.curves import BINS
from fedskd_sim.results.patients import HostRows, PatientRow, Patients, thin
from fedskd_sim.results.rows import percent
from fedskd_sim.results.svg import (
    DASHES,
    EQUAL_CONTRAST,
    GHOST,
    MUTED,
    NARROW,
    SERIES,
    WIDTH,
    picture,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_HOSTS = 6
MOST_NUMBERS = 10
HEIGHT = 3.1


def choose_hosts(patients: Patients) -> list[tuple[HostRows, PatientRow]]:
    """Choose the hospitals that are drawn, each with its own model or, where it has none, with
    all models together.
    """
    drawable = [
        (host, row) for host in patients.hosts if (row := host.row("own") or host.row("ensemble"))
    ]
    return thin(drawable, MOST_HOSTS)


def panels(patients: Patients) -> str:
    """Draw one row of three panels for each of some hospitals."""
    chosen = choose_hosts(patients)
    if not chosen:
        return ""

    def draw(figure: Figure) -> None:
        grid = figure.subplots(len(chosen), 3, squeeze=False)
        for (left, middle, right), (host, row) in zip(grid, chosen, strict=True):
            _confusion(left, row, patients.classes)
            left.set_ylabel(f"{short(host.name, NARROW)}: true class", fontweight="bold")
            _roc(middle, host, row, patients.classes)
            _calibration(right, row)
        for axes, title in zip(
            grid[0],
            ("predicted class", "ROC, one class against the rest", "calibration"),
            strict=True,
        ):
            axes.set_title(title, loc="left")

    label = (
        "Confusion matrix, ROC curves and calibration for the patients of "
        f"{', '.join(host.name for host, _ in chosen)}."
    )
    return picture(draw, (WIDTH, HEIGHT * len(chosen) + 0.3), "patients", label)


def _confusion(axes: Axes, row: PatientRow, classes: Sequence[str]) -> None:
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
        )
    axes.set(
        xlabel="false positive rate, percent",
        ylabel="true positive rate, percent",
        xlim=(-2, 102),
        ylim=(-2, 102),
    )
    if largest:
        axes.legend(loc="lower right", fontsize="small", handlelength=2.4)


def _calibration(axes: Axes, row: PatientRow) -> None:
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
    axes.set(
        xlabel=f"confidence, percent (ECE {percent(bins.error)})",
        ylabel="accuracy, percent",
        xlim=(-2, 102),
        ylim=(-2, 102),
    )
