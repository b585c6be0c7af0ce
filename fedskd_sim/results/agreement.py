"""Whether the predictions of a run are its own, and give what it tells of its tests: they name its
hospitals; accuracy and balanced accuracy are computed again, and test samples are counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.errors import ChainBroken, RunUnreadable, Where
from fedskd_sim.learning.task import THRESHOLD_OF, count_labels
from fedskd_sim.records import FOLDERS, Measure, Record
from fedskd_sim.records.files import own_records, read_counts
from fedskd_sim.results import curves, multilabel
from fedskd_sim.results.predictions import KINDS, Predictions, files, read_file
from fedskd_sim.scenario import Scenario

ROUNDING = 1e-9
"""How far sums of the same shares may lie apart."""
FIX = "restore records and predictions from a copy, or run the scenario again"
Bounds = Mapping[str, tuple[float, float, float]]
"""Of each measure the smallest and the largest sum that predictions allow, and its weight."""


def disagreements(run: Path, scenario: Scenario) -> Iterator[ChainBroken]:
    """Compare the predictions that a run has kept with its records and counts, hospital by
    hospital; whose file is not there is not compared.
    """
    counts = {one.host: one.used for one in read_counts(run)}
    for file in files(run):
        where = Where(str(file))
        try:
            found = read_file(file)
        except RunUnreadable as error:
            yield _broken(f"altered: {error.message}", where)
            continue
        given = found.scenario, found.seed, found.split
        wanted = scenario.name, scenario.seed, scenario.instruments.evaluate_on
        if given != wanted or found.host not in scenario.names:
            text = f"foreign: they are of {found.host!r}, {given}, the run of {wanted}"
            yield _broken(f"{text} (scenario, seed, split)", where)
            continue
        yield from _of_counts(found, counts.get(found.host, {}).get(found.split), where)
        yield from _of_records(found, run, where)


def _of_counts(
    found: Predictions, used: Mapping[str, int] | None, where: Where
) -> Iterator[ChainBroken]:
    """Compare how many samples each class has."""
    tested = count_labels(found.labels, found.classes, multi_label=found.multi_label)
    read = {name: count for name, count in (used or {}).items() if count}
    if used is not None and tested != read:
        text = f"altered: they are of the classes {tested}, and {found.host!r} has read {read}"
        yield _broken(text, where)


def _of_records(found: Predictions, run: Path, where: Where) -> Iterator[ChainBroken]:
    """Compare each test with its record, where there is one."""
    tests = dict(_tests(run, found.host))
    for number, whose in enumerate(zip(found.models, found.kinds, strict=True)):
        if whose not in tests:
            text = f"foreign: no record tells of the {whose[1]} of the model of {whose[0]!r} here"
            yield _broken(text, where)
            continue
        record, place = tests.pop(whose)
        for name, (least, most, weight) in _bounds(found, number).items():
            said = record.measures.get(name, Measure(0.0, 0.0))
            near = least - ROUNDING <= said.sum <= most + ROUNDING
            if not near or said.weight != weight:
                text = (
                    f"altered: the {whose[1]} of the model of {whose[0]!r} at {found.host!r} has "
                    f"{name} {said.sum:g} of {said.weight:g}, and its predictions ({where.file}) "
                    f"give {most:g} of {weight:g}"
                )
                yield _broken(text, place)
    for (model, kind), (_, place) in tests.items():
        text = f"missing: {where.file} has no predictions of the {kind} of the model of {model!r}"
        yield _broken(text, place)


def _tests(run: Path, host: str) -> Iterator[tuple[tuple[str, str], tuple[Record, Where]]]:
    """Yield the records of a hospital's tests, by model and kind."""
    file = run / FOLDERS[Record] / f"{host}.jsonl"
    for line, record in enumerate(own_records(run, host) if file.is_file() else (), 1):
        if record.kind in KINDS and "accuracy" in record.measures:
            yield (record.model, record.kind), (record, Where(str(file), line))


def _bounds(found: Predictions, number: int) -> Bounds:
    """Compute the measures of `fedskd_sim.learning.task` for one model.

    Probabilities of two classes may be equal where logits were not: such a sample may have been
    right or wrong.
    """
    chances, labels = found.probabilities[number], found.labels
    if found.thresholds is not None:
        return _bounds_of_labels(found, number, found.thresholds[number])
    best = chances == chances.max(axis=1, keepdims=True)  # of NaN nothing is
    hit = best[np.arange(len(labels)), labels]
    sure = hit & (best.sum(axis=1) == 1)
    present = np.unique(labels)

    def recalls(right: NDArray[Any]) -> float:
        return float(sum(right[labels == one].mean() for one in present))

    return {
        "accuracy": (float(sure.sum()), float(hit.sum()), float(len(labels))),
        "balanced_accuracy": (recalls(sure), recalls(hit), float(len(present))),
    }


def _bounds_of_labels(found: Predictions, number: int, thresholds: NDArray[np.float64]) -> Bounds:
    """Compute them where a patient has several labels, and which thresholds were used."""
    present, labels = found.present, multilabel.tested(found.present)
    answered = np.isfinite(found.probabilities[number]).all(axis=1, keepdims=True)
    right = (found.decided(number) == present) & answered
    balanced = sum(
        (right[own, label].mean() + right[~own, label].mean()) / 2
        for label, own in zip(labels, present.T[labels], strict=True)
    )
    shares = float(right.sum()) / len(found.classes)
    used = zip(found.classes, thresholds.tolist(), strict=True)
    return {
        "accuracy": (shares, shares, float(len(present))),
        "balanced_accuracy": (float(balanced), float(balanced), float(len(labels))),
        **{THRESHOLD_OF + name: (value, value, 1.0) for name, value in used},
    }


def _broken(text: str, where: Where) -> ChainBroken:
    return ChainBroken(text, fix=FIX, where=where)


AGREEMENT = 1e-9
"""A measure of predictions and the record's are computed by different code, and may differ by the
rounding of sums; one patient answered otherwise changes them by far more."""
Tests = Mapping[tuple[str, str, str], Record]
"""Records of tests by their kind, the model and where it was tested."""


def tests_of(records: Iterable[Record]) -> Tests:
    """Return the records of tests."""
    return {
        (one.kind, one.model, one.host): one
        for one in records
        if one.kind in ("evaluation", "ensemble")
    }


def on_record(here: Predictions, tested: Tests) -> Predictions:
    """Keep the models of whose tests there are records."""
    known = [
        place
        for place, test in enumerate(zip(here.kinds, here.models, strict=True))
        if (*test, here.host) in tested
    ]
    models, kinds = (tuple(names[place] for place in known) for names in (here.models, here.kinds))
    used = None if here.thresholds is None else here.thresholds[known]
    kept = here.probabilities[known]
    return replace(here, models=models, kinds=kinds, probabilities=kept, thresholds=used)


class Judged(NamedTuple):
    """The answers of one model: what they confuse (C, C), or of several labels (C, 2, 2), recalls
    and areas under the ROC curves (C,), and the record's measures.
    """

    matrix: NDArray[np.int64]
    recalls: curves.Floats
    areas: curves.Floats
    measures: Mapping[str, float]


def judge(here: Predictions, place: int) -> Judged:
    """Judge the answers of one model, by its place in ``here.models``."""
    answers = here.probabilities[place]
    scores = here.task.scores(answers)
    if here.multi_label:
        present = here.present
        matrix = multilabel.confusion(present, here.decided(place))
        areas = multilabel.areas(present, scores)
        told = multilabel.measures(matrix, areas)
        return Judged(matrix, multilabel.sensitivities(matrix), areas, told)
    matrix = curves.confusion(here.labels, answers)
    recalls, areas = curves.recalls(matrix), curves.areas(here.labels, scores)[:, 0]
    shares = {
        "accuracy": float(np.diag(matrix).sum() / matrix.sum()),
        "balanced_accuracy": mean(recalls),
    }
    return Judged(matrix, recalls, areas, {**shares, "auc": mean(areas)})


def check(file: Path, here: Predictions, first: Predictions, names: tuple[str, ...]) -> None:
    """Refuse predictions that do not belong to the scenario or to the other files; raises
    RunUnreadable.
    """
    strange = {here.host, *here.models} - {*names}
    if strange:
        raise _refusal(
            file, f"predictions name {', '.join(sorted(strange))}, which the scenario does not have"
        )
    for field in ("scenario", "seed", "split", "classes", "multi_label"):
        if getattr(here, field) != getattr(first, field):
            raise _refusal(
                file,
                f"{field} is {getattr(here, field)!r}, and {getattr(first, field)!r} at "
                f"{first.host!r}",
            )


def compare(file: Path, here: Predictions, judged: Sequence[Judged], tested: Tests) -> None:
    """Refuse predictions that do not give the measures on record; raises RunUnreadable."""
    for model, kind, answers, found in zip(
        here.models, here.kinds, here.probabilities, judged, strict=True
    ):
        record = tested.get((kind, model, here.host))
        if record is None or (record.scenario, record.seed) != (here.scenario, here.seed):
            raise _refusal(
                file,
                f"no record of this run tells of the test ({kind}) of the model of {model!r} at "
                f"{here.host!r}",
            )
        for name, value in found.measures.items() if np.isfinite(answers).all() else ():
            said = record.measures.get(name, Measure(0.0, 0.0)).mean
            older = name == "auc" and not here.multi_label
            if not (_agree(value, said) or (older and _agree(_older(here, answers), said))):
                raise _refusal(
                    file,
                    f"{name} of the model of {model!r} is {value:.9g} by them, and {said:.9g} by "
                    "the record",
                )


def _agree(value: float, said: float) -> bool:
    return abs(value - said) <= AGREEMENT or (math.isnan(value) and math.isnan(said))


def _older(here: Predictions, answers: curves.Floats) -> float:
    """Return the AUC as it was before 0.2, by probabilities: those that round to 1 were ties."""
    return mean(curves.areas(here.labels, answers)[:, 0])


def mean(values: Any) -> float:
    """Average the values that are finite; NaN where none is."""
    present = np.asarray(values)[np.isfinite(values)]
    return float(present.mean()) if len(present) else math.nan


def _refusal(file: Path, problem: str) -> RunUnreadable:
    fix = "report a run with its own files, or remove this one to report without it"
    return RunUnreadable(problem, fix=fix, where=Where(str(file)))
