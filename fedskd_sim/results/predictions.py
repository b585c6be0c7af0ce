"""The predictions of a run for every single patient, as arrays: for the report, and for an analysis
of your own.

    found = read_predictions(Path("runs/try"))
    here = found["aachen"]                  # what was tested at aachen
    here.samples, here.labels               # its test samples: rows or ids, classes, (N,)
    here.of("bergen")                       # class probabilities of bergen's model, (N, C)
    here.of("aachen", "ensemble")            # those of all finished models together

A run folder has one file per hospital, ``predictions/NAME.npz``, with the arrays that are the
fields of `Predictions`, and ``schema``; ``subjects`` only where a patient has several samples, and
``thresholds`` only where a patient has several labels. A
run with ``instruments.predictions: false``, or one that did not end well, has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.errors import RunUnreadable, Where
from fedskd_sim.learning.answers import FOLDER, SCHEMA
from fedskd_sim.learning.task import (
    MOST_LABELS,
    ONE_LABEL,
    MultiLabel,
    PredictionTask,
    unpack,
)

KINDS = ("evaluation", "ensemble")
SPLITS = ("test", "validation")
ROUNDING = 1e-6
"""How far from 1 the probabilities of a sample may sum: they are rounded one by one."""


@dataclass(frozen=True, eq=False, slots=True)
class Predictions:
    """What M models said of the N patients of one hospital, who belong to C classes."""

    scenario: str
    seed: int
    host: str
    split: str
    """``test``, or ``validation`` with ``instruments.evaluate_on: validation``."""
    classes: tuple[str, ...]
    samples: tuple[str, ...]
    """Rows of the samples in the hospital's own data, from 0; with ``instruments.predictions:
    named`` their ids in its source, (N,)."""
    labels: NDArray[np.int64]
    """Their classes, (N,), as places in ``classes``; of several labels patterns of bits."""
    models: tuple[str, ...]
    """Whose model it is, (M,); for all models together the host's name."""
    kinds: tuple[str, ...]
    """``evaluation`` for one hospital's model, ``ensemble`` for all finished models together,
    (M,)."""
    probabilities: NDArray[np.float64]
    """(M, N, C); a row sums to 1. A row of NaN is an answer that was not finite. Decisions are the
    first largest of a row. Of several labels each is a probability of its own."""
    subjects: NDArray[np.int64] | None = None
    """Whom each sample is of, (N,), as numbers; None where all are of different ones."""
    thresholds: NDArray[np.float64] | None = None
    """Where a patient has several labels: the probability from which on a model decides for each,
    (M, C)."""

    @property
    def multi_label(self) -> bool:
        """Whether a patient may have several of the classes, or none."""
        return self.thresholds is not None

    @property
    def task(self) -> PredictionTask:
        """What the models were asked."""
        return MultiLabel(self.classes) if self.multi_label else ONE_LABEL

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which classes each patient has, (N, C)."""
        if self.multi_label:
            return unpack(self.labels, len(self.classes))
        found: NDArray[np.bool_] = self.labels[:, None] == np.arange(len(self.classes))
        return found

    def decided(self, place: int) -> NDArray[np.bool_]:
        """Return which classes the model at a place of ``models`` decides for, (N, C)."""
        answers = self.probabilities[place]
        if self.thresholds is not None:
            found: NDArray[np.bool_] = answers >= self.thresholds[place]
            return found
        return np.asarray(answers.argmax(1)[:, None] == np.arange(len(self.classes)))

    def of(self, model: str, kind: str = "evaluation") -> NDArray[np.float64]:
        """Return the probabilities (N, C) of one model.

        Raises:
            KeyError: it was not tested here.

        """
        for place, known in enumerate(zip(self.models, self.kinds, strict=True)):
            if known == (model, kind):
                return np.asarray(self.probabilities[place])
        raise KeyError(f"{kind} of {model}")


def read_predictions(run: str | Path) -> dict[str, Predictions]:
    """Read the predictions of all hospitals of a run folder, by hospital; empty where there are
    none.

    Raises:
        RunUnreadable: a file is damaged or another hospital's; it is named.

    """
    return {file.stem: read_file(file) for file in files(Path(run))}


def files(run: Path) -> list[Path]:
    """List the files of a run folder, for a reader that wants one hospital at a time."""
    return sorted((run / FOLDER).glob("*.npz"))


def read_file(file: Path) -> Predictions:
    """Read the predictions of one hospital; raises RunUnreadable as `read_predictions`."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return _check(arrays, file.stem)
    except Exception as error:  # a damaged archive raises errors of a dozen kinds
        fix = "run the scenario again, or remove this file to report without it"
        where = Where(str(file))
        raise RunUnreadable(
            f"these are no predictions of {file.stem}: {error}", fix=fix, where=where
        ) from error


def _check(arrays: Mapping[str, NDArray[Any]], host: str) -> Predictions:
    """Refuse what no run writes; raises ValueError."""
    wanted = {"schema", *(field.name for field in fields(Predictions))}
    wanted -= {"subjects", "thresholds"} - {*arrays}
    if set(arrays) != wanted:
        raise ValueError(
            f"it holds {', '.join(sorted(arrays)) or 'nothing'} instead of "
            f"{', '.join(sorted(wanted))}"
        )
    if int(_array(arrays, "schema", "i", 0)) != SCHEMA:
        raise ValueError(f"its schema is not {SCHEMA}")
    texts: dict[str, Any] = {
        name: tuple(map(str, _array(arrays, name, "U", 1)))
        for name in ("classes", "samples", "models", "kinds")
    }
    single: dict[str, Any] = {
        name: str(_array(arrays, name, "U", 0)) for name in ("scenario", "host", "split")
    }
    labels, probabilities = (
        _array(arrays, "labels", "i", 1),
        _array(arrays, "probabilities", "f", 3),
    )
    found = Predictions(
        seed=int(_array(arrays, "seed", "i", 0)),
        labels=labels.astype(np.int64),
        probabilities=probabilities.astype(np.float64, casting="safe"),
        subjects=_array(arrays, "subjects", "i", 1).astype(np.int64)
        if "subjects" in arrays
        else None,
        thresholds=_array(arrays, "thresholds", "f", 2).astype(np.float64, casting="safe")
        if "thresholds" in arrays
        else None,
        **single,
        **texts,
    )
    _check_contents(found, host)
    return found


def _array(arrays: Mapping[str, NDArray[Any]], name: str, kind: str, axes: int) -> NDArray[Any]:
    found = arrays[name]
    if found.dtype.kind != kind or found.ndim != axes or 0 in found.shape:
        raise ValueError(f"{name!r} has type {found.dtype} and shape {found.shape}")
    return found


def _check_contents(found: Predictions, host: str) -> None:
    if found.host != host:
        raise ValueError(f"they are those of {found.host!r}")
    if found.split not in SPLITS or not set(found.kinds) <= set(KINDS):
        raise ValueError(
            f"there is no split {found.split!r}, or no kind among {sorted(set(found.kinds))}"
        )
    shape = (len(found.models), len(found.samples), len(found.classes))
    if (
        found.probabilities.shape != shape
        or len(found.labels) != shape[1]
        or len(found.kinds) != shape[0]
        or (found.subjects is not None and len(found.subjects) != shape[1])
    ):
        text = (
            f"{shape[0]} models, {len(found.kinds)} kinds, {shape[1]} samples, {len(found.labels)} "
            f"labels, {shape[2]} classes"
        )
        raise ValueError(
            f"{text} and probabilities of shape {found.probabilities.shape} do not belong together"
        )
    tested = [*zip(found.models, found.kinds, strict=True)]
    for what, names in (("class", found.classes), ("sample", found.samples), ("model", tested)):
        if len(set(names)) < len(names):
            raise ValueError(f"a {what} stands twice")
    most = 1 << shape[2] if found.multi_label else shape[2]
    if found.labels.min() < 0 or found.labels.max() >= most or shape[2] > MOST_LABELS < most:
        raise ValueError(f"a label is not within the {shape[2]} classes")
    _check_probabilities(found)


def _check_probabilities(found: Predictions) -> None:
    """Refuse numbers that are no probabilities; raises ValueError."""
    whole, unknown = (found.probabilities >= 0).all(axis=2), np.isnan(found.probabilities)
    if found.thresholds is not None:
        chosen, shape = found.thresholds, (len(found.models), len(found.classes))
        if chosen.shape != shape or not ((chosen >= 0) & (chosen <= 1)).all():
            raise ValueError(f"thresholds are no probabilities {shape}")
        if not ((whole & (found.probabilities <= 1).all(axis=2)) | unknown.any(axis=2)).all():
            raise ValueError("a probability is not within 0 and 1")
        return
    whole &= np.abs(found.probabilities.sum(axis=2) - 1) < ROUNDING
    if not (whole | unknown.all(axis=2)).all():
        raise ValueError("probabilities of a sample do not sum to 1")
