"""One HTML page that needs nothing but itself: no script, no font, no request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedskd_sim.observe.words import amount
from fedskd_sim.results import patientpictures, pictures, samples, timeline, waypictures
from fedskd_sim.results.account import Account
from fedskd_sim.results.lamport import Course
from fedskd_sim.results.notes import together
from fedskd_sim.results.patients import format_share
from fedskd_sim.results.svg import PALETTE
from fedskd_sim.results.tables import Summary
from fedskd_sim.results.text import RESTS, TITLES, percent

TEMPLATE = "page.html.j2"


def as_html(
    summary: Summary,
    course: Course,
    scenario: str,
    environment: Mapping[str, str],
    account: Account | None = None,
) -> str:
    """Write the page.

    Args:
        summary: the results.
        course: when hospitals did what, and what disturbed them.
        scenario: the text of the scenario file.
        environment: what the run ran on.
        account: what its algorithm is, and how it ended; None where that is not known.

    """
    home = _home()
    text: str = home.get_template(TEMPLATE).render(
        summary=summary,
        travels=waypictures.travels(summary),
        some_ways=waypictures.sampling(summary),
        some_times=timeline.sampling(summary, course.spans),
        numbered=len(summary.hospitals) <= pictures.MOST_NUMBERED,
        whole=together(summary.bases),
        rests=RESTS,
        titles=TITLES,
        drawn_hosts=_count_drawn(summary),
        palette=PALETTE,
        scenario=scenario,
        environment=environment,
        account=account,
        facts=_facts(account, course, environment),
        rows_of=samples.rows,
        used_of=samples.count_used,
        sum_of=samples.total,
        course=course.on_page(summary.hospitals),
        pictures=_draw_pictures(summary, course),
    )
    return text


def _home() -> Any:
    """Return what makes pages of templates."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - only the page needs it

    home = Environment(
        loader=PackageLoader("fedskd_sim.results", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    home.filters.update(percent=percent, size=amount, written=format_share)
    return home


def _count_drawn(summary: Summary) -> int:
    return len(patientpictures.choose_hosts(summary.patients)) if summary.patients else 0


def _facts(
    account: Account | None, course: Course, environment: Mapping[str, str]
) -> list[tuple[str, str]]:
    runtime = environment.get("runtime", "")
    return list(account.rows(course.spans.peaks, runtime, course.spans.cards)) if account else []


def _draw_pictures(summary: Summary, course: Course) -> dict[str, Any]:
    from markupsafe import Markup  # noqa: PLC0415 - only the page needs it

    drawn = {
        "matrix": pictures.matrix(summary),
        "accuracy": waypictures.accuracy(summary),
        "drift": waypictures.drift(summary),
        "dilution": pictures.dilution(summary),
        "timeline": "" if course.drawn_whole else timeline.timeline(summary, course.spans),
        "patients": patientpictures.panels(summary.patients) if summary.patients else "",
    }
    return {name: Markup(svg) for name, svg in drawn.items()}  # noqa: S704 - made here, labels escaped
