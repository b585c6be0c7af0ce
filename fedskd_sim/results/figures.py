"""All figures of a run by name: for its page, as files for a paper, and in a notebook."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fedskd_sim.errors import InvalidValue
from fedskd_sim.observe.words import amount
from fedskd_sim.results import audit, pictures, teaching, timeline, waypictures
from fedskd_sim.results.charts import LOOKS
from fedskd_sim.results.rows import percent
from fedskd_sim.results.svg import PALETTE, Drawn, Plot
from fedskd_sim.results.tables import Summary
from fedskd_sim.results.text import measured
from fedskd_sim.results.timeline import Spans
from fedskd_sim.wholefiles import unwritable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WAYS: Mapping[str, Callable[[Summary], Plot | None]] = MappingProxyType(
    {
        "matrix": pictures.matrix,
        "accuracy": waypictures.accuracy,
        "drift": waypictures.drift,
        "dilution": pictures.dilution,
    }
)
PATIENTS = MappingProxyType(
    {
        "confusion": pictures.confusion,
        "roc": pictures.roc,
        "calibration": pictures.calibration,
    }
)
NAMES = (*WAYS, *PATIENTS, "timeline")


def plot(name: str, summary: Summary, spans: Spans) -> Plot | None:
    """Return one of the figures in `NAMES`; None where there is nothing to draw."""
    if name == "timeline":
        return timeline.timeline(summary, spans)
    if name in PATIENTS:
        return PATIENTS[name](summary.patients) if summary.patients else None
    return WAYS[name](summary)


def plots(summary: Summary, spans: Spans) -> Iterator[tuple[str, Plot]]:
    """Yield every figure that there is to draw, with its name."""
    for name in NAMES:
        if found := plot(name, summary, spans):
            yield name, found
    taught = teaching.taught(summary)
    for group, shown in (("distance", taught.levels), ("stops", taught.changes)):
        for one in shown:
            if isinstance(one.svg, Drawn) and one.svg.plot:
                yield _file_name(f"{group} {one.title}"), one.svg.plot


def _file_name(title: str) -> str:
    return re.sub("[^a-z0-9]+", "-", title.lower()).strip("-")


def write(folder: Path, summary: Summary, spans: Spans) -> list[str]:
    """Write every figure as SVG and PDF, and its numbers as CSV; returns the figures' names.

    Raises:
        OutputNotWritable: the files cannot be written there.

    """
    names = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, one in plots(summary, spans):
            one.save(folder, name)
            names.append(name)
    except OSError as error:
        raise unwritable(folder, error) from error
    return names


class Plots:
    """The figures of a run: ``run.plot.accuracy()`` is a matplotlib figure, to show or to change.

    Each raises InvalidValue where the run has nothing to draw, RunUnreadable where it is damaged.
    """

    def __init__(self, summary: Summary, spans: Spans) -> None:
        """Take what is drawn."""
        self._summary, self._spans = summary, spans

    def matrix(self) -> Figure:
        """Draw every model at every hospital."""
        return self._figure("matrix")

    def accuracy(self) -> Figure:
        """Draw every model's accuracy at its stops, on the host's validation data."""
        return self._figure("accuracy")

    def drift(self) -> Figure:
        """Draw how much every session changed the parameters."""
        return self._figure("drift")

    def dilution(self) -> Figure:
        """Draw what is left of a visit's gain after later hops; needs ``instruments.probe``."""
        return self._figure("dilution")

    def confusion(self) -> Figure:
        """Draw true class by predicted class, for up to six hospitals."""
        return self._figure("confusion")

    def roc(self) -> Figure:
        """Draw true positive rate over false positive rate, one class against the rest."""
        return self._figure("roc")

    def calibration(self) -> Figure:
        """Draw accuracy over confidence."""
        return self._figure("calibration")

    def timeline(self) -> Figure:
        """Draw what every hospital did when."""
        return self._figure("timeline")

    def _figure(self, name: str) -> Figure:
        found = plot(name, self._summary, self._spans)
        if found is None:
            text = f"this run has nothing to draw as {name}"
            raise InvalidValue(
                text, fix=f"what can be drawn: {', '.join(self._there()) or 'nothing'}"
            )
        figure = found.figure()
        figure.set_facecolor("white")
        return figure

    def _there(self) -> list[str]:
        return [name for name in NAMES if plot(name, self._summary, self._spans)]


def templates() -> Any:
    """Return what makes pages of this room's templates, which know the colours and how numbers are
    written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - only pages need it
    from markupsafe import Markup  # noqa: PLC0415 - as above

    found = Environment(
        loader=PackageLoader("fedskd_sim.results", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(percent=percent, size=amount, sentences=audit.sentences)
    found.globals.update(palette=PALETTE, chart_looks=Markup(LOOKS))  # noqa: S704 - our own
    return found


def as_notebook(summary: Summary, spans: Spans, told: str) -> str:
    """Return a run as HTML for a notebook: a sentence, the table of own and others, the matrix and
    the accuracy.
    """
    drawn = [
        found.embedded() for name in ("matrix", "accuracy") if (found := plot(name, summary, spans))
    ]
    text: str = (
        templates()
        .get_template("notebook.html.j2")
        .render(told=told, table=measured(summary) if summary.tested else None, drawn=drawn)
    )
    return text
