"""Predictions of single patients to what a hospital asks of them, one hospital at a time, as text
for a terminal and as plain values for JSON.

Of every hospital there is a row for its own model (``own``), one for the mean over the models of
the others (``others``), one for all finished models together (``ensemble``), and, in a run of up to
`MOST_CELLS` tests, one for each of the others (``visitor``).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.learning.task import EVEN
from fedskd_sim.records import Record
from fedskd_sim.results import curves, multilabel
from fedskd_sim.results.agreement import Judged, check, compare, judge, mean, on_record, tests_of
from fedskd_sim.results.curves import DRAWS, LEVEL, Interval, Resampling, interval
from fedskd_sim.results.predictions import Predictions, files, read_file
from fedskd_sim.results.rows import Column, Table, percent, plain
from fedskd_sim.seeds import seed

MOST_CELLS = 400


@dataclass(frozen=True, eq=False, slots=True)
class PatientRow:
    """What one model, or several, are worth for the patients of a hospital; classes without
    patients have NaN.

    Of several models, measures are means over them, ``confusion`` (row: class, column: decision; of
    several labels for each whether it is present and decided) and ``calibration`` take all their
    answers together, and there are no ``curves``.
    """

    who: str
    models: tuple[str, ...]
    measures: Mapping[str, Interval]
    recall: tuple[Interval, ...]
    areas: tuple[float, ...]
    confusion: NDArray[np.int64]
    calibration: curves.Calibration
    curves: Mapping[int, curves.Curve]


@dataclass(frozen=True, eq=False, slots=True)
class HostRows:
    """A hospital: its patients of every class (C,), its rows, and the models whose answers were
    not finite. A patient is a test sample; ``subjects`` are as many as there are different ones.
    """

    name: str
    counts: tuple[int, ...]
    rows: tuple[PatientRow, ...]
    unanswered: tuple[str, ...]
    subjects: int
    patients: int
    chance: float
    """The balanced accuracy of whoever answers without a look at the patient: one over the classes
    that it has, or one half where each label is a question."""

    @property
    def rarest(self) -> int:
        """The number of patients of its rarest class, of those that it has."""
        return min((count for count in self.counts if count), default=0)

    def row(self, who: str) -> PatientRow | None:
        """Find a row."""
        return next((row for row in self.rows if row.who == who), None)


@dataclass(frozen=True, eq=False, slots=True)
class Patients:
    """What is known of single patients, hospital by hospital in ring order."""

    split: str
    classes: tuple[str, ...]
    hosts: tuple[HostRows, ...]
    notes: tuple[str, ...]
    incomplete: tuple[str, ...] = ()
    """Of the notes, what the results lack."""
    multi_label: bool = False
    """Whether a patient may have several of the classes."""


def assess(
    run: Path,
    records: Sequence[Record],
    hospitals: tuple[str, ...],
    held_out: tuple[str, ...] = (),
    cut: Collection[str] = (),
) -> Patients | None:
    """Work out all rows of a run; None where it has no predictions.

    Args:
        run: the run folder.
        records: of the same run: predictions that do not give their measures are not of this run.
        hospitals: those that train, in ring order.
        held_out: those that only evaluate.
        cut: files of the run folder whose last line is torn: of a test whose record that was
            nothing is told.

    Raises:
        RunUnreadable: a file is damaged, or does not belong to the others or to the records; it is
            named.

    """
    found, first, cells, tested = {}, None, 0, tests_of(records)
    visitors = len(hospitals) * len(hospitals + held_out) <= MOST_CELLS
    for file in files(run):
        here = read_file(file)
        if f"records/{file.stem}.jsonl" in cut:
            here = on_record(here, tested)
        first, judged = first or here, [judge(here, place) for place in range(len(here.models))]
        check(file, here, first, hospitals + held_out)
        compare(file, here, judged, tested)
        found[here.host] = _host(here, judged, visitors=visitors)
        cells += len(here.models)
    if first is None:
        return None
    hosts = tuple(found[name] for name in hospitals + held_out if name in found)
    lacks = _unanswered(hosts)
    notes = _notes(hosts, first.classes, len(tested) - cells, visitors=visitors)
    told = (*notes, *lacks)
    return Patients(first.split, first.classes, hosts, told, lacks, first.multi_label)


def _unanswered(hosts: Sequence[HostRows]) -> tuple[str, ...]:
    return tuple(
        f"At {host.name} answers were not finite, and are left out: those of "
        f"{', '.join(host.unanswered)}."
        for host in hosts
        if host.unanswered
    )


def _host(here: Predictions, judged: Sequence[Judged], *, visitors: bool) -> HostRows:
    """Work out the rows of one hospital; without ``visitors`` only the shares of others have
    intervals.
    """
    known = [bool(np.isfinite(answers).all()) for answers in here.probabilities]
    unanswered = tuple(model for model, whole in zip(here.models, known, strict=True) if not whole)
    roles = {place: _role(here, place) for place, whole in enumerate(known) if whole}
    others = [place for place, role in roles.items() if role == "visitor"]
    wanted = [(role, [place]) for place, role in roles.items() if role != "visitor"]
    wanted += [("others", others)] if others else []
    wanted += [("visitor", [place]) for place in others] if visitors else []
    areas = {place for place, role in roles.items() if visitors or role != "visitor"}
    drawn = _draw(here, [*roles], areas) if wanted else {}
    rows = tuple(_row(here, judged, (who, places), drawn) for who, places in wanted)
    counts = tuple(map(int, here.present.sum(axis=0)))
    subjects = len(here.labels if here.subjects is None else np.unique(here.subjects))
    chance = EVEN if here.multi_label else 1 / sum(count > 0 for count in counts)
    return HostRows(here.host, counts, rows, unanswered, subjects, len(here.labels), chance)


def _role(here: Predictions, place: int) -> str:
    if here.kinds[place] == "ensemble":
        return "ensemble"
    return "own" if here.models[place] == here.host else "visitor"


Draws = Mapping[int, Mapping[str, curves.Floats]]


def _draw(here: Predictions, places: Sequence[int], with_areas: set[int]) -> Draws:
    """Return every measure of some models in all draws: (B,), and ``recall`` of the classes that
    are present, or of the labels that are tested, (C', B).
    """
    drawn_from = seed(here.seed, "patients", here.host)
    if here.multi_label:
        whose = multilabel.LabelledPatients(here.present, drawn_from, here.subjects)
        scores = [
            here.task.scores(here.probabilities[place]) if place in with_areas else None
            for place in places
        ]
        found = multilabel.draw(whose, [here.decided(place) for place in places], scores)
        return dict(zip(places, found, strict=True))
    draws = Resampling.of(here.labels, drawn_from, subjects=here.subjects)
    recalls = draws.recalls([here.probabilities[place] for place in places])
    sizes = np.bincount(here.labels)[draws.present] / len(here.labels)
    nothing = np.full(recalls.shape[1], np.nan)

    def areas(place: int) -> curves.Floats:
        return draws.areas(here.task.scores(here.probabilities[place]))

    return {
        place: {
            "recall": recalls[:, :, number],
            "accuracy": sizes @ recalls[:, :, number],
            "balanced_accuracy": recalls[:, :, number].mean(axis=0),
            "auc": areas(place) if place in with_areas else nothing,
        }
        for number, place in enumerate(places)
    }


def _row(
    here: Predictions, judged: Sequence[Judged], whose: tuple[str, list[int]], drawn: Draws
) -> PatientRow:
    who, places = whose
    answers, found = (
        [here.probabilities[place] for place in places],
        [judged[place] for place in places],
    )
    areas = np.mean([one.areas for one in found], axis=0)
    recall = [Interval(float(value)) for value in np.mean([one.recalls for one in found], axis=0)]
    present = here.present
    with_draws = multilabel.tested(present) if here.multi_label else np.unique(here.labels)
    for number, label in enumerate(with_draws):
        recall[label] = interval(
            recall[label].value,
            np.mean([drawn[place]["recall"][number] for place in places], axis=0),
        )
    measures = {
        name: interval(
            mean([one.measures[name] for one in found]),
            np.mean([drawn[place][name] for place in places], axis=0),
        )
        for name in found[0].measures
    }
    drawable = np.flatnonzero(np.isfinite(areas)) if who in ("own", "ensemble") else ()
    ranked = here.task.scores(answers[0])
    return PatientRow(
        who=who,
        models=tuple(here.models[place] for place in places),
        measures=measures,
        recall=tuple(recall),
        areas=tuple(map(float, areas)),
        confusion=np.sum([one.matrix for one in found], axis=0),
        calibration=multilabel.calibration(present, answers)
        if here.multi_label
        else curves.calibration(np.tile(here.labels, len(places)), np.concatenate(answers)),
        curves={int(label): curves.roc(present[:, label], ranked[:, label]) for label in drawable},
    )


def _notes(
    hosts: Sequence[HostRows], classes: Sequence[str], without: int, *, visitors: bool
) -> Iterator[str]:
    yield (
        f"Intervals of single patients hold {LEVEL:.0%}: Bayesian bootstrap over the patients of "
        "one hospital, class by class, "
        f"percentiles of {DRAWS} draws. They tell what other patients would change, not what "
        "another run would."
    )
    several = [host for host in hosts if host.subjects < host.patients]
    if several:
        yield (
            "Samples of one patient, or images of one lesion, are drawn together for intervals; "
            "elsewhere each counts by itself. Samples of patients: "
            + ", ".join(f"{host.patients} of {host.subjects} at {host.name}" for host in several)
            + "."
        )
    if without > 0:
        yield f"{without} tests of this run have no predictions."
    if not visitors:
        yield (
            f"With more than {MOST_CELLS} tests there is no row for every visitor, and no interval "
            "for the others' AUC."
        )
    for host in hosts:
        own = host.row("own")
        if own and own.confusion.ndim > 2:  # noqa: PLR2004 - of several labels
            continue
        answered = np.flatnonzero(own.confusion.sum(axis=0)) if own else np.zeros(0, int)
        if own and len(answered) == 1 and host.chance < 1:
            yield (
                f"The model of {host.name} answers {classes[answered[0]]!r} for each of its "
                f"{host.patients} patients: its accuracy "
                f"of {own.measures['accuracy'].value:.1%} is that class's share, its balanced "
                f"accuracy chance ({host.chance:.1%})."
            )


NAME = 18
ROOM, CELL = 10, 20
MOST_LINES = 24
WHOM = {"own": "own model", "others": "visitors, mean", "ensemble": "all together"}
"""Who has rows on a page."""
TITLES = {"own": "own model", "others": "visitors"}
COLUMNS = (
    ("balanced accuracy", "own", "balanced_accuracy"),
    ("balanced accuracy", "others", "balanced_accuracy"), ("AUC", "own", "auc"),
)  # fmt: skip
Item = TypeVar("Item")


def thin(items: Sequence[Item], most: int) -> list[Item]:
    """Choose at most so many, evenly from first to last."""
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]


def format_share(found: Interval) -> str:
    """Write a share with its interval in percent: ``71.8 (64.1-78.9)``; nothing for a missing
    value.
    """
    if not math.isfinite(found.value):
        return ""
    limits = f" ({100 * found.low:.1f}-{100 * found.high:.1f})" if math.isfinite(found.low) else ""
    return f"{100 * found.value:.1f}{limits}"


def as_lines(patients: Patients) -> Iterator[str]:
    """Write hospitals and classes as two tables of at most 100 columns."""
    shown = thin(patients.hosts, MOST_LINES)
    part = (
        ""
        if len(shown) == len(patients.hosts)
        else f"; {len(shown)} of {len(patients.hosts)} hospitals"
    )
    yield (
        f"Single patients ({patients.split} data) in percent, with 95 % intervals over the "
        f"patients of each hospital{part}."
    )
    yield "Visitors: the mean over the models of the other hospitals, on the patients of this one."
    yield ""
    columns = [Column(TITLES[who], group=title, part=True, room=CELL) for title, who, _ in COLUMNS]
    counts = (Column("patients", room=ROOM), Column("rarest", room=ROOM))
    rows = [
        (
            host.name,
            host.patients,
            host.rarest,
            *(_cell(host, who, name) for _, who, name in COLUMNS),
        )
        for host in shown
    ]
    yield from Table((_named("hospital"), *counts, *columns), rows).lines()
    yield ""
    yield from _recalls(patients)


def _recalls(patients: Patients) -> Iterator[str]:
    of_labels, classes = patients.multi_label, thin(range(len(patients.classes)), MOST_LINES)
    part = (
        ""
        if len(classes) == len(patients.classes)
        else f"; {len(classes)} of {len(patients.classes)} classes"
    )
    yield (
        f"AUC of each label in percent, mean over the hospitals{part}."
        if of_labels
        else f"Recall of each class over the patients of all hospitals in percent{part}."
    )
    yield ""
    found = [
        (
            patients.classes[label],
            sum(host.counts[label] for host in patients.hosts),
            *((_area_of if of_labels else _recall_of)(patients, who, label) for who in TITLES),
        )
        for label in classes
    ]
    shares = (Column(title, percent, room=ROOM) for title in TITLES.values())
    first = _named("label" if of_labels else "class")
    yield from Table((first, Column("patients", room=ROOM), *shares), found).lines()


def _named(title: str) -> Column:
    return Column(title, words=True, room=NAME, most=NAME)


def of_models(patients: Patients) -> Table:
    """Return what every hospital's own model, the others' on average and all together are worth
    for its patients.
    """
    shares = [Column(title, format_share) for title in ("balanced accuracy", "AUC", "accuracy")]
    columns = (
        Column("hospital", words=True),
        Column("patients"),
        Column("rarest"),
        Column("model", words=True, part=True),
        shares[0],
        Column("chance", percent),
        *shares[1:],
        Column("error", percent),
    )
    rows = [
        (
            host.name,
            host.patients,
            host.rarest,
            WHOM[row.who],
            row.measures["balanced_accuracy"],
            host.chance,
            row.measures["auc"],
            row.measures["accuracy"],
            row.calibration.error,
        )
        for host, row in _on_page(patients)
    ]
    return Table(columns, rows)


def of_classes(patients: Patients) -> Table:
    """Return the recall of every class, as `of_models` returns the rest; of several labels the AUC
    of each.
    """
    named = (Column("hospital", words=True), Column("model", words=True))
    write = percent if patients.multi_label else format_share
    shares = [Column(name, write) for name in patients.classes]
    rows = [
        (host.name, WHOM[row.who], *(row.areas if patients.multi_label else row.recall))
        for host, row in _on_page(patients)
    ]
    return Table((*named, *shares), rows)


def _on_page(patients: Patients) -> Iterator[tuple[HostRows, PatientRow]]:
    return ((host, row) for host in patients.hosts for row in host.rows if row.who in WHOM)


def _cell(host: HostRows, who: str, name: str) -> str:
    row = host.row(who)
    return format_share(row.measures[name]) if row else ""


def _recall_of(patients: Patients, who: str, label: int) -> float:
    rows = [row for host in patients.hosts if (row := host.row(who))]
    total = sum(int(row.confusion[label].sum()) for row in rows)
    right = sum(int(row.confusion[label, label]) for row in rows)
    return right / total if total else math.nan


def _area_of(patients: Patients, who: str, label: int) -> float:
    return mean([row.areas[label] for host in patients.hosts if (row := host.row(who))])


def as_plain(patients: Patients) -> dict[str, Any]:
    """Return everything as plain values: shares in [0, 1], null for a missing one.

    Returns:
        ``split``, ``classes``; ``hosts``: each with ``name``, ``patients`` (test samples of
        every class), ``subjects`` (whom these are of), ``unanswered`` (models) and ``rows``; a
        row: ``who`` (own, others, ensemble, visitor), ``models``, ``accuracy``,
        ``balanced_accuracy``, ``auc`` (value, low, high), ``recall`` (the same for every class),
        ``class_auc``, ``confusion`` (row: class, column: decision), ``calibration`` (``error``, and
        by bins ``counts``, ``confidence``, ``right``), ``roc`` (by class ``false_positive``,
        ``true_positive``).

    """
    hosts = [
        {
            "name": host.name,
            "patients": list(host.counts),
            "subjects": host.subjects,
            "unanswered": list(host.unanswered),
            "rows": [_view_row(row, patients.classes) for row in host.rows],
        }
        for host in patients.hosts
    ]
    return {"split": patients.split, "classes": list(patients.classes), "hosts": hosts}


def _view_row(row: PatientRow, classes: Sequence[str]) -> dict[str, Any]:
    bins = row.calibration
    return {
        "who": row.who,
        "models": list(row.models),
        **plain(row.measures),
        "recall": plain(row.recall),
        "class_auc": plain(row.areas),
        "confusion": row.confusion.tolist(),
        "calibration": {
            "error": bins.error,
            "counts": bins.counts.tolist(),
            "confidence": plain(bins.confidence.tolist()),
            "right": plain(bins.right.tolist()),
        },
        "roc": {
            classes[label]: {
                name: np.round(values, 6).tolist() for name, values in curve._asdict().items()
            }
            for label, curve in row.curves.items()
        },
    }
