"""One HTML page that needs nothing but itself: no script, no font, no request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedskd_sim.records import Timing
from fedskd_sim.report import patientpictures, pictures, samples
from fedskd_sim.report.account import Account
from fedskd_sim.report.basis import together
from fedskd_sim.report.patientviews import written
from fedskd_sim.report.svg import PALETTE
from fedskd_sim.report.tables import Summary
from fedskd_sim.report.text import RESTS, TITLES, percent, size

TEMPLATE = "page.html.j2"


def as_html(
    summary: Summary, timings: Sequence[Timing], scenario: str, environment: Mapping[str, str], account: Account | None = None
) -> str:
    """Write the page.

    Args:
        summary: the results.
        timings: for the timeline.
        scenario: the text of the scenario file.
        environment: what the run ran on.
        account: what its algorithm is, and how it ended; None where that is not known.

    """
    from markupsafe import Markup  # noqa: PLC0415

    home = _home()
    drawn = _drawn(summary, timings)
    drawn_hosts = len(patientpictures.shown(summary.patients)) if summary.patients else 0
    text: str = home.get_template(TEMPLATE).render(
        summary=summary,
        whole=together(summary.bases),
        rests=RESTS,
        titles=TITLES,
        drawn_hosts=drawn_hosts,
        palette=PALETTE,
        scenario=scenario,
        environment=environment,
        account=account,
        facts=list(account.rows(peaks(timings), environment.get("runtime", ""))) if account else [],
        rows_of=samples.rows,
        used_of=samples.used,
        sum_of=samples.total,
        pictures={name: Markup(svg) for name, svg in drawn.items()},  # noqa: S704 - made here, labels escaped
    )
    return text


def _home() -> Any:
    """Give what makes pages of templates."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - only the page needs it

    home = Environment(
        loader=PackageLoader("fedskd_sim.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    home.filters.update(percent=percent, size=size, written=written)
    return home


def peaks(timings: Sequence[Timing]) -> dict[str, int]:
    """Give the largest resident memory of every hospital's process, in bytes."""
    found: dict[str, int] = {}
    for timing in timings:
        found[timing.host] = max(timing.peak_bytes, found.get(timing.host, 0))
    return found


def _drawn(summary: Summary, timings: Sequence[Timing]) -> dict[str, str]:
    return {
        "matrix": pictures.matrix(summary),
        "accuracy": pictures.accuracy(summary),
        "drift": pictures.drift(summary),
        "dilution": pictures.dilution(summary),
        "timeline": pictures.timeline(summary, timings),
        "patients": patientpictures.panels(summary.patients) if summary.patients else "",
    }
