"""One HTML page that needs nothing but itself: no script, no font, no request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedskd_sim.report import patientpictures, pictures, samples, timeline, waypictures
from fedskd_sim.report.account import Account
from fedskd_sim.report.basis import together
from fedskd_sim.report.patientviews import format_share
from fedskd_sim.report.spans import Spans
from fedskd_sim.report.svg import PALETTE
from fedskd_sim.report.tables import Summary
from fedskd_sim.report.text import RESTS, TITLES, percent, size

TEMPLATE = "page.html.j2"


def as_html(
    summary: Summary,
    spans: Spans,
    scenario: str,
    environment: Mapping[str, str],
    account: Account | None = None,
) -> str:
    """Write the page.

    Args:
        summary: the results.
        spans: when hospitals did what.
        scenario: the text of the scenario file.
        environment: what the run ran on.
        account: what its algorithm is, and how it ended; None where that is not known.

    """
    from markupsafe import Markup  # noqa: PLC0415

    home = _home()
    drawn = _draw_pictures(summary, spans)
    text: str = home.get_template(TEMPLATE).render(
        summary=summary,
        travels=waypictures.travels(summary),
        some_ways=waypictures.sampling(summary),
        some_times=timeline.sampling(summary, spans),
        numbered=len(summary.hospitals) <= pictures.MOST_NUMBERED,
        whole=together(summary.bases),
        rests=RESTS,
        titles=TITLES,
        drawn_hosts=len(patientpictures.choose_hosts(summary.patients)) if summary.patients else 0,
        restarts=spans.restarts,
        palette=PALETTE,
        scenario=scenario,
        environment=environment,
        account=account,
        facts=list(account.rows(spans.peaks, environment.get("runtime", ""))) if account else [],
        rows_of=samples.rows,
        used_of=samples.count_used,
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
    home.filters.update(percent=percent, size=size, written=format_share)
    return home


def _draw_pictures(summary: Summary, spans: Spans) -> dict[str, str]:
    return {
        "matrix": pictures.matrix(summary),
        "accuracy": waypictures.accuracy(summary),
        "drift": waypictures.drift(summary),
        "dilution": pictures.dilution(summary),
        "timeline": timeline.timeline(summary, spans),
        "patients": patientpictures.panels(summary.patients) if summary.patients else "",
    }
