"""Whether what a run tells of its tests is what its predictions give: accuracy and balanced
accuracy are computed again, and test samples are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.errors import ChainBroken, RunUnreadable, Where
from fedskd_sim.recordfiles import own_records, read_counts
from fedskd_sim.records import FOLDERS, Measure, Record
from fedskd_sim.report.predictions import KINDS, Predictions, files, read_file
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
    counted = np.bincount(found.labels, minlength=len(found.classes)).tolist()
    tested = {name: count for name, count in zip(found.classes, counted, strict=True) if count}
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
        for name, (least, most, weight) in _bounds(
            found.probabilities[number], found.labels
        ).items():
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
    """Give the records of a hospital's tests, by model and kind."""
    file = run / FOLDERS[Record] / f"{host}.jsonl"
    for line, record in enumerate(own_records(run, host) if file.is_file() else (), 1):
        if record.kind in KINDS and "accuracy" in record.measures:
            yield (record.model, record.kind), (record, Where(str(file), line))


def _bounds(chances: NDArray[np.float64], labels: NDArray[np.int64]) -> Bounds:
    """Compute the measures of `fedskd_sim.learning.evaluate.measures` from probabilities (N, C) and
    labels (N,).

    Probabilities of two classes may be equal where logits were not: such a sample may have been
    right or wrong.
    """
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


def _broken(text: str, where: Where) -> ChainBroken:
    return ChainBroken(text, fix=FIX, where=where)
