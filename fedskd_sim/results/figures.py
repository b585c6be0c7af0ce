"""All figures of a run by name: for its page, as files for a paper, and in a notebook."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from fedskd_sim.results import pictures, teaching, timeline, waypictures
from fedskd_sim.results.svg import Drawn, Plot
from fedskd_sim.results.tables import Summary
from fedskd_sim.results.timeline import Spans
from fedskd_sim.wholefiles import unwritable

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
