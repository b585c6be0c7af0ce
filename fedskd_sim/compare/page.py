"""A comparison as one HTML page that needs nothing but itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fedskd_sim.compare import faulttext, twins
from fedskd_sim.compare.tables import SCORES, Comparison
from fedskd_sim.compare.text import about, as_text, conclusion, disturbed
from fedskd_sim.compare.words import NAMES
from fedskd_sim.compare.work import PLACE
from fedskd_sim.report.svg import GHOST, MUTED, PALETTE, SERIES, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEMPLATE = "page.html.j2"
WIDTH = 10.0
ROW = 0.34


def as_html(comparison: Comparison) -> str:
    """Write the page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - only the page needs it
    from markupsafe import Markup  # noqa: PLC0415

    loader = PackageLoader("fedskd_sim.compare", "")
    home = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    parts = [
        {
            "title": NAMES[metric],
            "conclusion": conclusion(comparison, metric, "mean"),
            "levels": Markup(levels(comparison, metric)),  # noqa: S704 - made here, labels escaped
            "differences": Markup(differences(comparison, metric)),  # noqa: S704 - as above
        }
        for metric in SCORES
        if comparison.present(metric, "own")
    ]
    return home.get_template(TEMPLATE).render(
        about=about(comparison),
        disturbed=[*disturbed(comparison)],
        comparison=comparison,
        parts=parts,
        faults=_faults(comparison) if twins.faulty(comparison) else None,
        place=PLACE,
        text=as_text(comparison, per_hospital=True),
        palette=PALETTE,
    )


def _faults(comparison: Comparison) -> dict[str, Any]:
    """Give what the page says of faults."""
    struck = twins.struck(comparison)
    return {
        "about": faulttext.ABOUT,
        "effects": [faulttext.HEAD, *faulttext.rows(comparison)],
        "said": [*twins.alone(comparison), *twins.again(comparison)],
        "struck": [twins.HEAD, *struck[: twins.MOST_STRUCK]],
        "more": max(0, len(struck) - twins.MOST_STRUCK),
    }


def levels(comparison: Comparison, metric: str) -> str:
    """Draw every method's own, others and ensemble value, one dot per seed and a bar at the
    mean.
    """
    places = [
        place
        for place in ("own", "others", "ensemble", "unseen")
        if comparison.present(metric, place)
    ]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, place in enumerate(places):
            color, above = SERIES[number].light, 0.22 * (number - (len(places) - 1) / 2)
            dots: Any = {"color": color, "alpha": 0.45, "markersize": 5}
            bar: Any = {"color": color, "markersize": 9, "markeredgewidth": 2.2, "label": place}
            for index, row in enumerate(comparison.rows):
                values = [100 * value for value in row.series(metric, place)]
                axes.plot(values, [index + above] * len(values), ".", **dots)
                axes.plot(100 * row.mean(metric, place), index + above, "|", **bar)
                bar["label"] = None  # a legend names each place once
        _rows(axes, comparison)
        axes.set_xlabel(f"{NAMES[metric]} in percent; dots: seeds, bar: mean")
        figure.legend(loc="outside upper left", ncols=len(places))

    label = (
        f"{NAMES[metric]} of {len(comparison.rows)} methods: {', '.join(places)}, for every seed "
        "and on average."
    )
    return picture(draw, (WIDTH, ROW * len(comparison.rows) + 1.0), f"levels-{metric}", label)


def differences(comparison: Comparison, metric: str) -> str:
    """Draw the paired differences of the mean of own and others to the control with their
    intervals, filled if beyond chance.
    """
    found = {
        label: difference
        for (label, place), difference in comparison.differences(metric).items()
        if place == "mean"
    }

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axvline(0, color=MUTED.light, linewidth=1)
        for index, row in enumerate(comparison.rows):
            difference = found.get(row.method.label)
            if difference is not None:
                ends = [100 * difference.low, 100 * difference.high]
                axes.plot(
                    ends, [index, index], color=GHOST.light, linewidth=5, solid_capstyle="butt"
                )
                axes.plot(
                    100 * difference.mean,
                    index,
                    "o",
                    color=SERIES[0 if difference.claimed else 5].light,
                    markersize=5.5,
                )
        _rows(axes, comparison)
        axes.set_xlabel(
            f"difference to {comparison.control} in points: mean, 95 % interval; blue: beyond "
            "chance after correction"
        )

    label = f"Paired differences of {NAMES[metric]} to {comparison.control}, with their intervals."
    return picture(draw, (WIDTH, ROW * len(comparison.rows) + 0.7), f"differences-{metric}", label)


def _rows(axes: Axes, comparison: Comparison) -> None:
    labels = [row.method.label for row in comparison.rows]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
