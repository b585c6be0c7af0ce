"""Records and predictions to tables and pictures: ``report.txt``, ``report.json`` and
``report.html`` in the run folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import Any

from fedskd_sim.errors import RunUnreadable, Where
from fedskd_sim.observe.words import legible
from fedskd_sim.records.files import read_counts, stream_records, stream_timings, torn
from fedskd_sim.results.account import Account, Troubles
from fedskd_sim.results.audit import audited
from fedskd_sim.results.gathered import Gathered
from fedskd_sim.results.lamport import Course, Journeys
from fedskd_sim.results.notes import rarest_classes
from fedskd_sim.results.patients import assess
from fedskd_sim.results.predictions import Predictions, read_predictions
from fedskd_sim.results.similarities import likeness
from fedskd_sim.results.tables import Matrix, Summary, as_json, summarise, summary_of
from fedskd_sim.results.text import as_text
from fedskd_sim.results.timeline import Spans
from fedskd_sim.ring.program import RunPace
from fedskd_sim.wholefiles import drafted, unwritable

__all__ = [
    "Account",
    "Matrix",
    "Predictions",
    "Summary",
    "as_json",
    "as_text",
    "read_predictions",
    "summarise",
    "write",
]


ROWS = 3
"""Levels of ``report.json`` that have lines of their own."""


def lay_out(value: Any, level: int = 0) -> str:
    """Write JSON with a line for every row of a table: the quick encoder knows no indent, the
    slow one is a tenth of a report.
    """
    if level == ROWS or not isinstance(value, dict | list) or not value:
        return json.dumps(value, allow_nan=False)
    keys = (
        [f"{json.dumps(key)}: " for key in value] if isinstance(value, dict) else [""] * len(value)
    )
    inner = value.values() if isinstance(value, dict) else value
    lines = [
        f"{' ' * (level + 1)}{key}{lay_out(one, level + 1)}"
        for key, one in zip(keys, inner, strict=True)
    ]
    opened, closed = "{}" if isinstance(value, dict) else "[]"
    return "\n".join([opened, ",\n".join(lines), " " * level + closed])


def write(
    run: Path,
    hospitals: tuple[str, ...],
    held_out: tuple[str, ...] = (),
    account: Account | None = None,
    *,
    figures: Path | None = None,
    page: bool = True,
    shown: Callable[[Summary], object] = lambda _: None,
) -> Summary:
    """Write the three reports of a run, whether it came to its end or not; text and JSON depend on
    its results alone, and on what its scenario disturbed on purpose.

    Args:
        run: the run folder.
        hospitals: those that train, in ring order.
        held_out: those that only evaluate.
        account: what the page says of the run besides its results.
        figures: where every figure goes as SVG, PDF and CSV, too; None for nowhere.
        page: whether the page is drawn, which takes longer than all else.
        shown: is given the results before anything is drawn.

    Raises:
        RunUnreadable: something of the run folder is missing or damaged.
        OutputNotWritable: the reports cannot be written there.

    """
    order = {name: place for place, name in enumerate(hospitals + held_out)}
    journeys = Journeys.among(order)
    summary, spans = read_results(run, hospitals, held_out, account, journeys=journeys)
    summary = replace(summary, pace=_pace(run, spans, account))
    _publish(run / "report.txt", as_text(summary))
    _publish(run / "report.json", lay_out(as_json(summary)) + "\n")
    shown(summary)
    if figures:
        _write_figures(figures, summary, spans)
    if page:
        troubles = Troubles.of(run, order, spans, simulated=_took_turns(run))
        _draw(run, summary, Course(spans, journeys, troubles, len(order)), account)
    return summary


def _pace(run: Path, spans: Spans, account: Account | None) -> RunPace | None:
    """Return what set the pace of hospitals side by side; None where nobody knows what ran."""
    if account is None or _took_turns(run):
        return None
    return spans.pace(chained=account.scenario.algorithm.pattern == "circulation")


def _took_turns(run: Path) -> bool:
    """Return whether all hospitals were in one process."""
    return _environment(run / "environment.json").get("runtime") == "memory"


def _write_figures(folder: Path, summary: Summary, spans: Spans) -> None:
    from fedskd_sim.results.figures import write as write_all  # noqa: PLC0415 - as below

    write_all(folder, summary, spans)


def _draw(run: Path, summary: Summary, course: Course, account: Account | None) -> None:
    """Write the page of a run."""
    from fedskd_sim.results.page import as_html  # noqa: PLC0415 - drawing is slow to import

    scenario, environment = _text(run / "scenario.yaml"), _environment(run / "environment.json")
    _publish(run / "report.html", as_html(summary, course, scenario, environment, account))


def read_results(
    run: Path,
    hospitals: tuple[str, ...],
    held_out: tuple[str, ...] = (),
    account: Account | None = None,
    *,
    journeys: Journeys | None = None,
) -> tuple[Summary, Spans]:
    """Compute all results of a run, and when its hospitals did what; ``journeys`` take in its
    transfers. Raises RunUnreadable.
    """
    try:
        summary = _summary(run, hospitals, held_out, account)
        timings = stream_timings(run)
        return summary, Spans.of(journeys.taking(timings) if journeys else timings)
    except (OSError, UnicodeDecodeError) as error:
        raise RunUnreadable(
            f"{run} cannot be read: {error}", fix="run the scenario again"
        ) from error


def _summary(
    run: Path,
    hospitals: tuple[str, ...],
    held_out: tuple[str, ...],
    account: Account | None,
) -> Summary:
    """Compute all tables of a run and, where predictions were kept, what they say of patients;
    raises as `write` and, where a file cannot be read, OSError or UnicodeDecodeError.
    """
    order = {name: place for place, name in enumerate(hospitals + held_out)}
    counts = sorted(read_counts(run), key=lambda one: order.get(one.host, len(order)))
    faults, disturbed = (
        (account.scenario.faults, account.scenario.disturbed) if account else ((), "")
    )
    found = Gathered.of(stream_records(run), hospitals, held_out, faults)
    summary = replace(
        summary_of(found, rarest_classes(run)), samples=tuple(counts), disturbed=disturbed
    )
    summary = replace(summary, reveals=audited(run, account.scenario)) if account else summary
    alike = likeness(run, tuple(order))
    summary = replace(summary, alike=alike if alike.anything else None)
    cut = torn(run)
    patients = assess(run, found.kept, hospitals, held_out, cut)
    if patients:
        lacks = (*summary.incomplete, *patients.incomplete)
        told = (*summary.notes, *patients.notes)
        summary = replace(summary, patients=patients, notes=told, incomplete=lacks)
    if not cut:
        return summary
    lacks = (*summary.incomplete, _of_torn(cut))
    return replace(summary, notes=(*summary.notes, _of_torn(cut)), incomplete=lacks)


def _of_torn(files: list[str]) -> str:
    return (
        f"The last line of {', '.join(files)} has no end, as when a process is killed or a disk "
        "is full, and is left out."
    )


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fix = "give the folder that 'fedskd-sim launch' named at its end"
        raise RunUnreadable(f"cannot be read: {error}", fix=fix, where=Where(str(file))) from error


def _environment(file: Path) -> dict[str, str]:
    try:
        return {str(name): str(value) for name, value in json.loads(_text(file)).items()}
    except (ValueError, AttributeError, RecursionError) as error:
        message = f"not a mapping in JSON: {error}"
        raise RunUnreadable(
            message, fix="run the scenario again", where=Where(str(file))
        ) from error


def _publish(file: Path, text: str) -> None:
    """Write a file so that whoever looks finds the old one or the whole new one, however many
    write it at once.
    """
    try:
        with drafted(file, mark=f".{token_hex(4)}") as draft:
            draft.write_text(legible(text), encoding="utf-8", newline="\n")
    except OSError as error:
        raise unwritable(file, error) from error
