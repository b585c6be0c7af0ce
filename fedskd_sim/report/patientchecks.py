"""Whether predictions are of this run: they name its hospitals, and give the measures on record."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.errors import RunUnreadable, Where
from fedskd_sim.learning.answers import odds
from fedskd_sim.records import Measure, Record
from fedskd_sim.report import curves
from fedskd_sim.report.predictions import Predictions

AGREEMENT = 1e-9
"""A measure of predictions and the record's are computed by different code, and may differ by the
rounding of sums; one patient answered otherwise changes them by far more."""
Tests = Mapping[tuple[str, str, str], Record]
"""Records of tests by their kind, the model and where it was tested."""


def tests_of(records: Iterable[Record]) -> Tests:
    """Give the records of tests."""
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
    return replace(here, models=models, kinds=kinds, probabilities=here.probabilities[known])


class Judged(NamedTuple):
    """The answers of one model: what they confuse (C, C), areas under the ROC curves (C,), and
    the record's measures.
    """

    matrix: NDArray[np.int64]
    areas: curves.Floats
    measures: Mapping[str, float]


def judge(here: Predictions, answers: curves.Floats) -> Judged:
    """Judge the answers of one model (N, C) by the labels of the patients."""
    matrix = curves.confusion(here.labels, answers)
    areas = curves.areas(here.labels, odds(answers))[:, 0]
    shares = {
        "accuracy": float(np.diag(matrix).sum() / matrix.sum()),
        "balanced_accuracy": mean(curves.recalls(matrix)),
    }
    return Judged(matrix, areas, {**shares, "auc": mean(areas)})


def check(file: Path, here: Predictions, first: Predictions, names: tuple[str, ...]) -> None:
    """Refuse predictions that do not belong to the scenario or to the other files; raises
    RunUnreadable.
    """
    strange = {here.host, *here.models} - {*names}
    if strange:
        raise _refusal(
            file, f"predictions name {', '.join(sorted(strange))}, which the scenario does not have"
        )
    for field in ("scenario", "seed", "split", "classes"):
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
            if not (_agree(value, said) or (name == "auc" and _agree(_older(here, answers), said))):
                raise _refusal(
                    file,
                    f"{name} of the model of {model!r} is {value:.9g} by them, and {said:.9g} by "
                    "the record",
                )


def _agree(value: float, said: float) -> bool:
    return abs(value - said) <= AGREEMENT or (math.isnan(value) and math.isnan(said))


def _older(here: Predictions, answers: curves.Floats) -> float:
    """Give the AUC as it was before 0.2, by probabilities: those that round to 1 were ties."""
    return mean(curves.areas(here.labels, answers)[:, 0])


def mean(values: Any) -> float:
    """Average the values that are finite; NaN where none is."""
    present = np.asarray(values)[np.isfinite(values)]
    return float(present.mean()) if len(present) else math.nan


def _refusal(file: Path, problem: str) -> RunUnreadable:
    fix = "report a run with its own files, or remove this one to report without it"
    return RunUnreadable(problem, fix=fix, where=Where(str(file)))
