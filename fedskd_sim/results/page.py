"""One HTML page that needs nothing but itself: no font, no request, and all of it is there without
its script, which shows values, enlarges figures and chooses hospitals.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files

from fedskd_sim.results import (
    audit,
    figures,
    patients,
    pictures,
    samples,
    timeline,
    waypictures,
)
from fedskd_sim.results.account import Account
from fedskd_sim.results.charts import MOST_LINES
from fedskd_sim.results.figures import templates
from fedskd_sim.results.lamport import Course
from fedskd_sim.results.rows import Column, Table, percent
from fedskd_sim.results.tables import Summary
from fedskd_sim.results.teaching import each_model, taught
from fedskd_sim.results.text import RESTS, TITLES, measured

TEMPLATE = "page.html.j2"
MOST_NAMED = 6
"""Hospitals whose names stand above the columns of a matrix."""


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
    page = templates().get_template(TEMPLATE)
    text: str = page.render(
        summary=summary,
        travels=waypictures.travels(summary),
        some_ways=waypictures.sampling(summary),
        some_times=timeline.sampling(summary, course.spans),
        numbered=len(summary.hospitals) <= pictures.MOST_NUMBERED,
        tables=_tables(summary),
        rests=RESTS,
        titles=TITLES,
        drawn_hosts=_count_drawn(summary),
        scenario=scenario,
        environment=environment,
        account=account,
        facts=_facts(account, course, environment),
        samples=samples,
        course=course.on_page(summary.hospitals),
        pictures=_draw_pictures(summary, course),
        taught=taught(summary),
        **_script(),
    )
    return text


def _script() -> dict[str, str]:
    """Return the page's script, and the digest by which its policy knows it."""
    from markupsafe import Markup  # noqa: PLC0415 - only pages need it

    text = (files("fedskd_sim.results") / "page.js").read_text(encoding="utf-8")
    digest = b64encode(sha256(text.encode()).digest()).decode()
    return {"script": Markup(text), "script_digest": digest}  # noqa: S704 - our own


def _tables(summary: Summary) -> dict[str, list[Table]]:
    """Return the tables of the page, by its sections."""
    found = {
        "measured": [measured(summary)],
        "matrices": [_matrix(summary, metric) for metric in summary.matrices],
    }
    if summary.patients:
        found["models"] = [patients.of_models(summary.patients)]
        found["classes"] = [patients.of_classes(summary.patients)]
    if summary.pace:
        rows = [(name, busy, 1 - busy) for name, busy in summary.pace.busy.items()]
        shares = (Column("busy", percent), Column("idle", percent))
        found["pace"] = [Table((Column("hospital", words=True), *shares), rows)]
    if revealed := summary.reveals:
        found["reveals"] = [audit.table(revealed, revealed.pooled)]
        found["each"] = [audit.table(revealed, revealed.single), audit.sight_table(revealed)]
    return found


def _matrix(summary: Summary, metric: str) -> Table:
    """Return the matrix of a metric, with numbers for the names of many hospitals."""
    names, title = summary.hospitals, TITLES[metric]
    few = len(names) <= MOST_NAMED
    columns = [
        Column(name if few else str(place), percent, long=name)
        for place, name in enumerate(names, 1)
    ]
    rows = [
        (name if few else f"{place} {name}", *row)
        for place, (name, row) in enumerate(
            zip(names, summary.matrices[metric].values, strict=True), 1
        )
    ]
    caption = (
        f"{title[0].upper()}{title[1:]} in percent. Row: model of this hospital. Column: test data "
        "of this hospital."
    )
    foot = [("test samples", *map(str, summary.bases))]
    return Table((Column("model", words=True), *columns), rows, foot, caption, diagonal=True)


def _count_drawn(summary: Summary) -> int:
    return len(pictures.choose_hosts(summary.patients)) if summary.patients else 0


def _facts(
    account: Account | None, course: Course, environment: Mapping[str, str]
) -> list[tuple[str, str]]:
    runtime = environment.get("runtime", "")
    return list(account.rows(course.spans.peaks, runtime, course.spans.cards)) if account else []


def _draw_pictures(summary: Summary, course: Course) -> dict[str, str]:
    few = len(summary.hospitals) <= MOST_LINES
    left_out = {*([] if few else ["drift"]), *(["timeline"] if course.drawn_whole else [])}
    drawn: dict[str, str] = {
        name: found.embedded()
        for name in figures.NAMES
        if name not in left_out and (found := figures.plot(name, summary, course.spans))
    }
    return (
        dict.fromkeys(figures.NAMES, "")
        | ({} if few else {"drift": each_model(summary, "drift")})
        | drawn
    )
