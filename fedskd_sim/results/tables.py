"""Records to a summary: the K x K matrices, what follows from them, the way of every model; pure.

A missing value is NaN here, blank in text and null in JSON: a hospital's test data may have a
single class (no AUC), or the run may have ended early. Means are over the values that exist, and a
note says when some do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fedskd_sim.learning.task import ONE_LABEL
from fedskd_sim.records import NOTHING, Record, SampleCounts
from fedskd_sim.results.audit import Audited
from fedskd_sim.results.gathered import Counts, Gathered, Way, most_steps
from fedskd_sim.results.memory import Remembered, assess_memory
from fedskd_sim.results.notes import (
    Basis,
    bases,
    ensemble,
    incomplete,
    mean,
    notes,
    together,
    unseen,
)
from fedskd_sim.results.patients import Patients, as_plain, thin
from fedskd_sim.results.rows import plain
from fedskd_sim.ring.program import RunPace

if TYPE_CHECKING:
    from fedskd_sim.results.similarities import Likeness

METRICS = (*ONE_LABEL.titles,)
WAY = ("stop", "round", "hop", "host", "home", "rolled_back", "accuracy", "drift")
"""What report.json has of a session: the first fields of what was gathered."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """K x K shares in [0, 1] on test data; row: whose model, column: whose data; NaN where there
    is no value.
    """

    values: tuple[tuple[float, ...], ...]

    def own(self, model: int) -> float:
        """Return a model's value on its own hospital's data."""
        return self.values[model][model]

    def others(self, model: int) -> float:
        """Return the mean of a model's values on the other hospitals' data."""
        return mean(value for host, value in enumerate(self.values[model]) if host != model)

    @property
    def personalization(self) -> float:
        """P = mean_k a_kk."""
        return mean(self.own(model) for model in range(len(self.values)))

    @property
    def generalization(self) -> float:
        """G = mean_k mean_{j != k} a_kj."""
        return mean(self.others(model) for model in range(len(self.values)))

    @property
    def missing(self) -> int:
        """The number of cells without a value."""
        return sum(math.isnan(value) for row in self.values for value in row)


@dataclass(frozen=True, slots=True)
class Summary:
    """Everything a report shows of a run's results; hospitals are in ring order."""

    scenario: str
    seed: int | None
    hospitals: tuple[str, ...]
    architectures: tuple[str, ...]
    matrices: Mapping[str, Matrix]
    bases: tuple[Basis, ...]
    """What each hospital tests models on."""
    ways: Mapping[str, Way]
    ensemble: Mapping[str, float]
    """Mean over the hospitals of what the ensemble of all finished models scores; empty where no
    hospital keeps them."""
    unseen: Mapping[str, float]
    """Mean of every metric over all models and the hospitals that were held out; empty where none
    was."""
    memory: Remembered
    """What travelling models forget, keep and dilute."""
    counts: Counts
    complete: bool
    notes: tuple[str, ...]
    """Sentences under the tables, first those of `incomplete`."""
    samples: tuple[SampleCounts, ...] = ()
    """What every hospital has read of its source, as far as it is known."""
    patients: Patients | None = None
    """What is known of single patients; None where the run has no predictions."""
    incomplete: tuple[str, ...] = ()
    """Of the notes, what the results lack."""
    disturbed: str = ""
    """What disturbed the run on purpose; empty where nothing did, or nobody knows."""
    reveals: Audited | None = None
    """What an audit finds; None where the run has kept nothing for one."""
    alike: Likeness | None = None
    """What was probed of similarities, drawn; None where nothing was."""
    pace: RunPace | None = field(default=None, compare=False)
    """How busy hospitals were, and what set the pace; None where one process took turns. No other
    run has the same, so it stands in no file but the page."""

    @property
    def rests(self) -> list[tuple[Basis, Basis]]:
        """Tell for every model what its value at home and its mean over the other hospitals rest
        on.
        """
        return [
            (own, together(other for place, other in enumerate(self.bases) if place != model))
            for model, own in enumerate(self.bases)
        ]

    @property
    def tested(self) -> bool:
        """Return whether any model was evaluated anywhere."""
        return any(each.missing < len(self.hospitals) ** 2 for each in self.matrices.values())

    @property
    def headline(self) -> str:
        """The metric whose matrix is shown first: balanced accuracy, or accuracy where nothing
        else was measured.
        """
        measured = self.matrices["balanced_accuracy"].missing < len(self.hospitals) ** 2
        return "balanced_accuracy" if measured else "accuracy"


def summarise(
    records: Iterable[Record],
    hospitals: tuple[str, ...],
    held_out: tuple[str, ...] = (),
    rarest: Mapping[str, int] = MappingProxyType({}),
) -> Summary:
    """Compute the summary of a run.

    Args:
        records: all records, in the order in which each hospital wrote them.
        hospitals: the names of those that train, in ring order.
        held_out: the names of those that only evaluate.
        rarest: for hospitals of which it is known, how many test samples the class has that is
            rarest there.

    Raises:
        RunUnreadable: a record names a hospital that is not among them.

    """
    return summary_of(Gathered.of(records, hospitals, held_out), rarest)


def summary_of(found: Gathered, rarest: Mapping[str, int]) -> Summary:
    """Compute the summary of what was gathered of a run's records; ``rarest`` as in `summarise`."""
    hospitals, held_out, first = found.hospitals, found.held_out, found.first
    cells = {
        (record.model, record.host): record for record in found.kept if record.kind == "evaluation"
    }
    counts, memory = bases(found.kept, rarest, "accuracy"), assess_memory(found.kept)
    lacks = tuple(incomplete(found))
    return Summary(
        scenario=first.scenario if first else "",
        seed=first.seed if first else None,
        hospitals=hospitals,
        architectures=tuple(found.architectures.get(name, "") for name in hospitals),
        matrices={metric: _matrix(cells, hospitals, metric) for metric in METRICS},
        bases=tuple(counts.get(name, Basis(0)) for name in hospitals),
        ways=found.ways,
        ensemble=ensemble(found.kept),
        unseen=unseen(found.kept, held_out),
        memory=memory,
        counts=found.counts,
        complete=len(cells) == len(hospitals) * len(hospitals + held_out),
        notes=(*lacks, *notes(found, memory)),
        incomplete=lacks,
    )


def as_json(summary: Summary) -> dict[str, Any]:
    """Return a summary as plain values; shares are in [0, 1], null stands for a missing value.

    Returns:
        ``scenario``, ``seed``, ``complete``, ``disturbed`` (what the scenario disturbed on purpose,
        empty for nothing), ``notes`` (sentences); ``headline``: the metric shown
        first, with its ``personalization`` and ``generalization``; ``hospitals``: in ring order,
        each with ``name`` and ``architecture``; ``tested``: for each of them its test ``samples``
        and how many its ``rarest`` class has; ``ensemble``, ``unseen``: the mean of every metric of
        the ensemble, and on hospitals held out; empty without any; ``memory``: ``forgetting``,
        ``retention`` and ``backward`` in shares, ``kept``, the share of a visit's gain that is
        left after 0, 1, ... more hops, and ``models``, forgetting and retention of each;
        ``counts``: ``hops``, ``sessions``, ``rolled_back``, ``bytes``, ``samples``; ``samples``:
        for each hospital ``host``, ``source``, and by class ``found``, ``used`` (by split),
        ``left_out`` (by reason); ``metrics``: for
        balanced_accuracy, auc and accuracy: ``personalization`` and ``generalization`` (means over
        the hospitals), ``own`` and ``others`` (one value per hospital), ``matrix`` (row: model,
        column: host); ``single_patients``: as `fedskd_sim.results.patients.as_plain` gives them,
        null without predictions; ``ways``: each model's sessions: ``stop``, ``round``, ``hop``,
        ``host``, ``home``, ``rolled_back``, ``accuracy``, ``drift``; at most `most_steps` of each.

    """
    found: dict[str, Any] = plain(_shown(summary))
    return found


def _shown(summary: Summary) -> dict[str, Any]:
    named = zip(summary.hospitals, summary.architectures, strict=True)
    first, most = summary.matrices[summary.headline], most_steps(len(summary.ways))
    return {
        **{name: getattr(summary, name) for name in ("scenario", "seed", "complete", "disturbed")},
        "notes": summary.notes,
        "headline": summary.headline,
        "personalization": first.personalization,
        "generalization": first.generalization,
        "hospitals": [{"name": name, "architecture": architecture} for name, architecture in named],
        "tested": [basis._asdict() for basis in summary.bases],
        "ensemble": summary.ensemble,
        "unseen": summary.unseen,
        "memory": _remembered(summary.memory),
        "counts": asdict(summary.counts),
        "samples": [asdict(one) for one in summary.samples],
        "metrics": {metric: _shares(matrix) for metric, matrix in summary.matrices.items()},
        "single_patients": as_plain(summary.patients) if summary.patients else None,
        "ways": {
            model: [
                dict(zip(WAY, step, strict=False))  # what else was gathered is in the records
                for step in thin(steps, most)
            ]
            for model, steps in summary.ways.items()
        },
    }


def _remembered(memory: Remembered) -> dict[str, Any]:
    models = {name: one._asdict() for name, one in memory.models.items()}
    whole = ("forgetting", "retention", "backward", "kept")
    return {name: getattr(memory, name) for name in whole} | {"models": models}


def _shares(matrix: Matrix) -> dict[str, Any]:
    models = range(len(matrix.values))
    return {
        "personalization": matrix.personalization,
        "generalization": matrix.generalization,
        "own": [matrix.own(model) for model in models],
        "others": [matrix.others(model) for model in models],
        "matrix": matrix.values,
    }


def _matrix(
    cells: Mapping[tuple[str, str], Record], hospitals: tuple[str, ...], metric: str
) -> Matrix:
    def value(model: str, host: str) -> float:
        record = cells.get((model, host))
        return record.measures.get(metric, NOTHING).mean if record else math.nan

    return Matrix(tuple(tuple(value(model, host) for host in hospitals) for model in hospitals))
