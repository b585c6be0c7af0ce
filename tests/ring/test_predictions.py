"""Predictions of single patients: they give the records' measures, whatever ran wherever, and
stay in the run folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from loops import FEDAVG, TRAVELLER_FIRST, files, text
from sklearn.metrics import accuracy_score, recall_score, roc_auc_score

from fedskd_sim import messages
from fedskd_sim.learning.data import load
from fedskd_sim.records import Record
from fedskd_sim.records.files import read_records
from fedskd_sim.results.report import read_predictions, write
from fedskd_sim.runtimes.served import list_results
from fedskd_sim.scenario import load as load_scenario
from fedskd_sim.world.world import World

HELD_OUT = (
    "  - {name: d, architecture: cnn-plain, held_out: true, data: {site_shift: 1.0}}\nalgorithm:"
)
ALL = text(TRAVELLER_FIRST, "{model: averaged, ensemble: true}").replace("algorithm:", HELD_OUT, 1)
TESTS = ("evaluation", "ensemble")


def judged(run: Path) -> list[Record]:
    return [record for record in read_records(run) if record.kind in TESTS]


def by_scikit_learn(labels: np.ndarray, given: np.ndarray) -> dict[str, float]:
    present = np.unique(labels)
    return {
        "accuracy": accuracy_score(labels, given.argmax(1)),
        "balanced_accuracy": recall_score(
            labels, given.argmax(1), labels=present, average="macro", zero_division=0
        ),
        "auc": float(
            np.mean([roc_auc_score(labels == label, given[:, label]) for label in present])
        ),
    }


@pytest.mark.parametrize(
    "scenario",
    [
        ALL,
        text("{name: fedskd, rounds: 1}"),
        text(FEDAVG),
        text("{name: local, rounds: 1}"),
        text("{name: fml, rounds: 1}"),
    ],
    ids=["averaged weights, ensemble, held out", "fedskd", "fedavg", "local", "fml"],
)
def test_every_record_of_a_test_follows_from_the_predictions(
    scenario: str, scenario_file: Callable, run: Callable
) -> None:
    """For every model at every host, the held-out and the ensemble included, scikit-learn gives
    the record's measures to 1e-9.
    """
    path = scenario_file(scenario)
    folder, loaded = run(path), load_scenario(path).scenario
    found, records = read_predictions(folder), judged(folder)
    assert {*found} == {*loaded.names}
    assert (
        sum(len(here.models) for here in found.values())
        == len(records)
        == len(loaded.names) * (3 + (scenario is ALL))
    )
    for record in records:
        here = found[record.host]
        for name, value in by_scikit_learn(here.labels, here.of(record.model, record.kind)).items():
            assert record.measures[name].mean == pytest.approx(value, abs=1e-9)
    for name, here in found.items():
        test = load(loaded, name, None, "cpu").test
        assert here.samples == test.ids
        assert (here.labels == test.labels.numpy()).all()
    assert write(folder, loaded.members, loaded.held_out).patients is not None


def test_predictions_are_the_same_bytes_wherever_a_run_happens(
    scenario_file: Callable, run: Callable
) -> None:
    """Processes and memory write the same files, one for every hospital; records and weights are
    as without them.
    """
    path = scenario_file(ALL)
    one, other = run(path), run(path, "processes")
    written = {file.name: file.read_bytes() for file in (one / "predictions").iterdir()}
    assert [*sorted(written)] == ["a.npz", "b.npz", "c.npz", "d.npz"]
    assert written == {file.name: file.read_bytes() for file in (other / "predictions").iterdir()}
    without = run(scenario_file(ALL + "instruments: {predictions: false}\n"))
    assert not (without / "predictions").exists()
    assert files(without) == files(one)


def test_predictions_of_the_validation_data_say_so(scenario_file: Callable, run: Callable) -> None:
    """With `evaluate_on: validation` they are of the validation samples, under that name."""
    path = scenario_file(
        text("{name: local, rounds: 1}") + "instruments: {evaluate_on: validation}\n"
    )
    for name, here in read_predictions(run(path)).items():
        assert here.split == "validation"
        assert here.samples == load(load_scenario(path).scenario, name, None, "cpu").validation.ids


def test_no_message_can_carry_predictions() -> None:
    """Messages have names, numbers, address books and, between hospitals, weights: there is no
    place for anything else.
    """
    allowed = {"str", "int", "float", "HopId", "tuple[str, ...]", "Mapping[str, str]"}

    def kinds(of: Any) -> set[type]:
        return {of} if is_dataclass(of) else {kind for part in get_args(of) for kind in kinds(part)}

    told = kinds(messages.ToController) | kinds(messages.FromController)
    for kind in kinds(messages.Message):
        types = {field.name: str(field.type) for field in fields(kind)}
        strange = {name for name, type_ in types.items() if type_ not in allowed}
        assert strange <= ({"weights"} if kind is messages.Traveller else set()), kind
        assert kind not in told or not strange


def test_no_message_of_a_run_holds_a_patients_answer(
    scenario_file: Callable, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights that hospitals send each other in a whole run have no row of any patient's
    probabilities among their bytes.
    """
    sent: list[messages.Message] = []
    carry = World.carry
    monkeypatch.setattr(
        World,
        "carry",
        lambda self, one, to, what, take: (sent.append(what), carry(self, one, to, what, take))[1],
    )
    found = read_predictions(run(scenario_file(ALL)))
    buffers = [
        bytes(buffer.data)
        for one in sent
        if isinstance(one, messages.Traveller)
        for buffer in one.weights.values()
    ]
    assert len(buffers) > 100
    for here in found.values():
        for rows in (here.probabilities, here.probabilities.astype(np.float32)):
            assert not any(
                row.tobytes() in data
                for row in rows[:, :3].reshape(-1, rows.shape[2])
                for data in buffers
            )
    forms = {name for one in sent if isinstance(one, messages.Traveller) for name in one.weights}
    assert not [name for name in forms if "pred" in name or "prob" in name or "sample" in name]


def test_a_cluster_collects_them_as_it_does_weights(scenario_file: Callable, run: Callable) -> None:
    """What a holding hospital serves has its predictions beside weights and records, and nobody
    else's.
    """
    folder = run(scenario_file(text("{name: local, rounds: 1}")))
    for name in "abc":
        served = {str(one) for one in list_results(folder, name)}
        assert {f"predictions/{name}.npz", f"weights/{name}.safetensors"} <= served
        assert {one.partition("/")[0] for one in served} >= {"records", "samples", "timings"}
        assert {Path(one).name.partition(".")[0] for one in served} == {name}
