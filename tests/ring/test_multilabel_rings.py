"""Rings whose patients have several labels: one run, wherever it happens and whatever dies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from loops import files
from sklearn.metrics import roc_auc_score

from fedskd_sim import (
    AddedLoss,
    CirculatingLearner,
    CirculationKeys,
    Stop,
    TrainingStep,
    algorithm,
    divergence,
    launch,
)
from fedskd_sim.custody.verify import verify
from fedskd_sim.learning.task import unpack
from fedskd_sim.operate.replay import replay
from fedskd_sim.records.files import read_records
from fedskd_sim.results.agreement import disagreements
from fedskd_sim.results.comparison.tables import MethodRow, MethodTable, of_labels, score
from fedskd_sim.results.predictions import read_predictions
from fedskd_sim.results.report import as_json, as_text, write
from fedskd_sim.results.runs import read_run
from fedskd_sim.scenario import load

LEARNT = "{name: fedskd, rounds: 1, mutual_kl: 0.5, self_distillation: {kl: 0.5}}"
OFF = "{batch: 0, pixel: 0, region: 0, ramp: 0}"
TAUGHT = f"{{name: fedskd, rounds: 1, mutual_kl: 1, similarity: {OFF}}}"
TEXT = """
name: several
data: {name: synthetic-roi, samples: 60, regions: 12, classes: 3, multi_label: true, effect: 2.0}
hospitals:
  - {name: a, architecture: roi-mlp}
  - {name: b, architecture: roi-gcn}
algorithm: LEARNT
prediction: {ensemble: true}
instruments: {keep_hops: 0.1, changes: true}
training: {warmup_epochs: 3, batch_size: 12}
""".replace("LEARNT", LEARNT)
KILL = "faults: [{hospital: b, what: kill, round: 1, hop: 1}]\n"


@algorithm("own-mutual")
class OwnMutual(CirculatingLearner):
    """Deep mutual learning, as somebody writes it who has one label in mind."""

    keys = CirculationKeys

    def teaching(self, stop: Stop, arriving: object) -> Any:  # noqa: ARG002 - all stops are alike
        return self.exchange

    def exchange(self, step: TrainingStep) -> AddedLoss:
        visitor, resident = step.outputs["visitor"], step.outputs["resident"]
        there, back = divergence(resident, visitor), divergence(visitor, resident)
        return AddedLoss(there + back, {"mutual_kl": there.detach()})


@pytest.fixture
def ring(scenario_file: Callable[[str], Path], run: Callable[..., Path]) -> Path:
    """A run in memory."""
    return run(scenario_file(TEXT))


def test_it_is_the_same_run_wherever_and_whatever_dies(
    ring: Path, scenario_file: Callable[[str], Path], run: Callable[..., Path]
) -> None:
    """Records, weights and predictions are the same bytes in memory and as processes of which one
    is killed; the run is whole, and its sessions can be executed again.
    """
    killed = run(scenario_file(TEXT + KILL), "processes")
    assert files(ring) == files(killed)
    one, other = (
        {file.name: file.read_bytes() for file in (folder / "predictions").iterdir()}
        for folder in (ring, killed)
    )
    assert [*sorted(one)] == ["a.npz", "b.npz"]
    assert one == other
    assert verify(ring, None, {}, "abc").broken is None
    assert replay(ring, 2).differences == ()
    learned = [one for one in read_records(ring) if one.kind == "visit"]
    assert all({"mutual_kl", "self_distillation_kl"} <= {*one.measures} for one in learned)


def test_tests_are_those_of_the_predictions_and_reports_tell_of_labels(ring: Path) -> None:
    """scikit-learn finds the records' AUC, also of the ensemble; nothing disagrees, and a threshold
    that was altered does. Tables, text and page name each label.
    """
    scenario, found = load(ring / "scenario.yaml").scenario, read_predictions(ring)
    for record in read_records(ring):
        if record.kind in ("evaluation", "ensemble"):
            here = found[record.host]
            answers, present = here.of(record.model, record.kind), unpack(here.labels, 3)
            areas = [roc_auc_score(present[:, k], answers[:, k]) for k in range(3)]
            assert record.measures["auc"].mean == pytest.approx(np.mean(areas), abs=1e-9)
            assert record.measures["auc/group-1"].mean == pytest.approx(areas[1], abs=1e-9)
    assert not [*disagreements(ring, scenario)]
    summary = write(ring, scenario.members)
    assert summary.patients is not None
    own = summary.patients.hosts[0].rows[0]
    assert own.measures["auc"].value == pytest.approx(np.mean(own.areas))
    assert own.measures["auc"].low < own.measures["auc"].value < own.measures["auc"].high
    assert "AUC of each label in percent" in as_text(summary)
    assert "Samples may have several of 3 labels." in " ".join(summary.notes)
    assert len(as_json(summary)["single_patients"]["hosts"][0]["rows"][0]["class_auc"]) == 3
    page = (ring / "report.html").read_text(encoding="utf-8")
    assert "AUC of each label" in page
    assert "Recall of each class" not in page
    rows = read_run(ring).predictions
    assert {"group-0", "group-0 + group-2"} <= {str(row["label"]) for row in rows}
    file = ring / "predictions" / "a.npz"
    with np.load(file) as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["thresholds"][0, 0] += 1e-6
    np.savez(file, **arrays)
    (problem,) = disagreements(ring, scenario)
    assert "threshold/group-0" in problem.message


def test_a_divergence_of_an_own_method_is_that_of_the_labels(
    scenario_file: Callable[[str], Path], run: Callable[..., Path], tmp_path: Path
) -> None:
    """Nothing tells it that samples have several labels: it learns what the built-in does."""
    known = run(scenario_file(TEXT.replace(LEARNT, TAUGHT)))
    text = scenario_file(TEXT.replace(LEARNT, "{name: own-mutual, rounds: 1}"))
    own = launch(text, on="memory", out=tmp_path / "own", code=[OwnMutual]).folder
    assert files(own) == files(known)


def test_a_comparison_has_a_table_of_labels(ring: Path) -> None:
    """Of each label the mean AUC of own and others, by the records."""
    tests = {(one.model, one.host): one for one in read_records(ring) if one.kind == "evaluation"}
    cells = {key: one.measures["auc/group-2"].mean for key, one in tests.items()}
    found, method = score(ring, ("a", "b"), ()), SimpleNamespace(label="fedskd")
    given: Any = MethodRow(method, [found])
    (table,) = of_labels(MethodTable([given], "fedskd", (0,), ()))
    assert [row[0] for row in table.rows] == ["group-0", "group-1", "group-2"]
    assert table.rows[2][1] == pytest.approx(np.mean([*cells.values()]))
