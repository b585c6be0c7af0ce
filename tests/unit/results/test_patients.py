"""Predictions of single patients: read strictly, measured as scikit-learn does, with intervals
that hold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import auc, confusion_matrix, recall_score, roc_auc_score, roc_curve
from test_report import Outline, folder

from fedskd_sim.errors import RunUnreadable
from fedskd_sim.learning.answers import Answers
from fedskd_sim.learning.data import Samples
from fedskd_sim.learning.task import ONE_LABEL
from fedskd_sim.records import Measure, Record
from fedskd_sim.results import agreement
from fedskd_sim.results import curves as curves_
from fedskd_sim.results import patients as patients_
from fedskd_sim.results.curves import Resampling, interval
from fedskd_sim.results.patients import as_plain, thin
from fedskd_sim.results.report import as_json, as_text, read_predictions, write
from fedskd_sim.results.runs import Run
from fedskd_sim.scenario import find, load

CLASSES = ("benign", "malign", "other")


def answers_of(seed: int, labels: np.ndarray, skill: float = 1.5, classes: int = 3) -> np.ndarray:
    """Draw logits that are right the more often the greater the skill."""
    draw = np.random.default_rng(seed)
    return draw.normal(0, 1, (len(labels), classes)) + skill * np.eye(classes)[labels]


def recorded(
    run: Path,
    names: tuple[str, ...],
    held_out: tuple[str, ...] = (),
    patients: int = 40,
    **others: Any,
) -> list[Record]:
    """Write the predictions of a run as a hospital does, and make the records of the same tests."""
    records = []
    for number, host in enumerate(names + held_out):
        labels = np.arange(patients) % 3
        given = {(host, "ensemble"): answers_of(99, labels)} if others.get("ensemble") else {}
        given |= {
            (model, "evaluation"): answers_of(10 * number + place, labels)
            for place, model in enumerate(names)
        }
        answers, samples = (
            Answers(wanted=True, named=True),
            Samples(
                torch.zeros(0),
                torch.tensor(labels),
                tuple(f"{host}-{i}" for i in range(patients)),
                others.get("subjects", ()),
            ),
        )
        for hop, ((model, kind), logits) in enumerate(given.items()):
            answers.add(kind, model, torch.tensor(logits))
            found = ONE_LABEL.measure(torch.tensor(logits), samples.labels)
            found |= (
                {"models": Measure(2.0, 1.0), "kept_bytes": Measure(8.0, 1.0)}
                if kind == "ensemble"
                else {}
            )
            records.append(
                Record("demo", 7, kind, 2, hop, host, model, "net", "evaluated", measures=found)
            )
        about = {"scenario": "demo", "seed": 7, "host": host, "split": "test", "classes": CLASSES}
        answers.save(run / "predictions" / f"{host}.npz", samples, about)
    return records


def run_of(
    run: Path, names: tuple[str, ...], held_out: tuple[str, ...] = (), **others: Any
) -> Path:
    return folder(run, recorded(run, names, held_out, **others), names + held_out)


def changed(file: Path, **arrays: Any) -> None:
    """Write some arrays of a file anew; None takes one out."""
    with np.load(file) as stored:
        kept = {name: stored[name] for name in stored.files} | arrays
    np.savez_compressed(file, **{name: value for name, value in kept.items() if value is not None})


@pytest.mark.parametrize("seed", range(6))
def test_curves_agree_with_scikit_learn(seed: int) -> None:
    """Confusion, recall, ROC, its area and the calibration bins are scikit-learn's, with ties
    and with a class that is absent.
    """
    draw = np.random.default_rng(seed)
    labels = draw.choice(4, size=60, p=[0.5, 0.3, 0.2, 0.0])
    logits = np.round(answers_of(seed, labels, classes=4), int(draw.integers(0, 3)))
    given = torch.tensor(logits).softmax(1).numpy()
    matrix = curves_.confusion(labels, given)
    assert (matrix == confusion_matrix(labels, given.argmax(1), labels=range(4))).all()
    assert np.nanmean(curves_.recalls(matrix)) == pytest.approx(
        recall_score(labels, given.argmax(1), labels=[0, 1, 2], average="macro")
    )
    assert math.isnan(curves_.recalls(matrix)[3])
    areas = curves_.areas(labels, given)[:, 0]
    assert math.isnan(areas[3])
    for label in range(3):
        positive = labels == label
        assert areas[label] == pytest.approx(roc_auc_score(positive, given[:, label]), abs=1e-12)
        curve = curves_.roc(positive, given[:, label])
        false, true, _ = roc_curve(positive, given[:, label])
        assert auc(curve.false_positive, curve.true_positive) == pytest.approx(
            areas[label], abs=1e-12
        )
        assert {*zip(*curve, strict=True)} <= {*zip(false, true, strict=True)}
    found = curves_.calibration(labels, given)
    right, sure = calibration_curve(given.argmax(1) == labels, given.max(1), n_bins=10)
    assert found.right[found.counts > 0] == pytest.approx(right)
    assert found.confidence[found.counts > 0] == pytest.approx(sure)
    assert found.counts.sum() == 60


def test_the_calibration_error_is_the_weighted_gap() -> None:
    """Four patients at 0.9 of whom three are right, and one at 0.6 who is wrong, err by (4 |0.75
    - 0.9| + |0 - 0.6|) / 5.
    """
    given = np.array([[0.9, 0.1]] * 4 + [[0.6, 0.4]])
    assert curves_.calibration(np.array([0, 0, 0, 1, 1]), given).error == pytest.approx(
        (4 * 0.15 + 0.6) / 5
    )


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(40, 12), (30, 15, 4), (12, 12), (9, 1)])
@pytest.mark.parametrize("skill", [0.8, 2.2])
def test_intervals_hold_what_they_say(sizes: tuple[int, ...], skill: float) -> None:
    """Over 300 hospitals of few patients 95 % intervals of accuracy, balanced accuracy and AUC
    hold the truth in 90 to 100 %.
    """
    classes = len(sizes)
    labels, many = np.repeat(np.arange(classes), sizes), np.repeat(np.arange(classes), 20_000)
    scores = torch.tensor(answers_of(0, many, skill, classes)).softmax(1).numpy()
    shares = curves_.recalls(curves_.confusion(many, scores))
    weight = np.array(sizes)[many][None] / 20_000
    truth = {
        "accuracy": float(shares @ sizes / len(labels)),
        "balanced_accuracy": float(shares.mean()),
        "auc": float(curves_.areas(many, scores, weight.astype(float)).mean()),
    }
    held = dict.fromkeys(truth, 0)
    for trial in range(300):
        given = torch.tensor(answers_of(1 + trial, labels, skill, classes)).softmax(1).numpy()
        draws = Resampling.of(labels, trial, 400)
        recalls = draws.recalls([given])[:, :, 0]
        points = {
            "accuracy": (given.argmax(1) == labels).mean(),
            "balanced_accuracy": np.nanmean(curves_.recalls(curves_.confusion(labels, given))),
        }
        points["auc"] = curves_.areas(labels, given).mean()
        drawn = {
            "accuracy": np.array(sizes) / len(labels) @ recalls,
            "balanced_accuracy": recalls.mean(0),
            "auc": draws.areas(given),
        }
        for name, value in truth.items():
            found = interval(float(points[name]), drawn[name])
            held[name] += found.low <= value <= found.high
    assert all(count >= 0.9 * 300 for count in held.values()), held


def test_intervals_are_seeded_and_hold_their_value() -> None:
    """The same seed gives the same limits, another one others; a perfect model has a lower limit
    below 1 and an upper one of 1.
    """
    labels = np.repeat([0, 1], 5)
    given = np.eye(2)[labels]
    first, again, other = (Resampling.of(labels, seed).areas(given) for seed in (1, 1, 2))
    assert interval(1.0, first) == interval(1.0, again) != interval(1.0, other)
    assert interval(1.0, first).low < 1 == interval(1.0, first).high


def test_samples_of_one_patient_are_drawn_together(tmp_path: Path) -> None:
    """Three copies of every sample say no more than one, if they are told to be of one patient:
    the intervals are the same, and narrower if nothing is told; the report says so.
    """
    labels = np.repeat([0, 1, 2], (9, 6, 5))
    given = torch.tensor(answers_of(3, labels)).softmax(1).numpy()
    thrice, whose = np.repeat(given, 3, axis=0), np.repeat(np.arange(20), 3)
    once = Resampling.of(labels, 1)
    told = Resampling.of(np.repeat(labels, 3), 1, subjects=whose)
    assert told.recalls([thrice]) == pytest.approx(once.recalls([given]))
    assert told.areas(thrice) == pytest.approx(once.areas(given))
    silent = Resampling.of(np.repeat(labels, 3), 1)
    assert silent.areas(thrice).std() < 0.8 * once.areas(given).std()

    records = recorded(tmp_path, ("north", "east"), subjects=tuple(i // 6 for i in range(40)))
    assert (read_predictions(tmp_path)["east"].subjects == np.arange(40) // 6).all()
    found = patients_.assess(tmp_path, records, ("north", "east"))
    assert any("40 of 7 at north, 40 of 7 at east." in note for note in found.notes)
    assert as_plain(found)["hosts"][0]["subjects"] == 7
    rows = Run(tmp_path, load(find(Path("quickstart"))).scenario).predictions
    assert [row["subject"] for row in rows if row["model"] == row["host"] == "east"] == [
        number // 6 for number in range(40)
    ]
    changed(tmp_path / "predictions" / "east.npz", subjects=np.arange(39))
    with pytest.raises(RunUnreadable, match="do not belong together"):
        read_predictions(tmp_path)


def test_files_come_back_as_they_were_written(tmp_path: Path) -> None:
    """The reader gives every hospital's ids, labels and probabilities, each model under its
    name, and its ensemble apart.
    """
    recorded(tmp_path, ("north", "east"), ("away",), ensemble=True)
    found = read_predictions(tmp_path)
    assert [*found] == ["away", "east", "north"]
    here = found["away"]
    assert (here.scenario, here.seed, here.split, here.classes) == ("demo", 7, "test", CLASSES)
    assert here.samples[:2] == ("away-0", "away-1")
    assert here.subjects is None
    assert (here.labels == np.arange(40) % 3).all()
    expected = torch.tensor(answers_of(20, np.arange(40) % 3)).softmax(1).numpy()
    assert (here.of("north") == expected).all()
    assert here.of("away", "ensemble").shape == (40, 3)
    with pytest.raises(KeyError, match="evaluation of away"):
        here.of("away")
    assert read_predictions(tmp_path / "predictions") == {}


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:900])


def pickled(file: Path) -> None:
    changed(file, classes=np.array([{}], dtype=object))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "cut": cut,
    "empty": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("no archive", encoding="utf-8"),
    "an object": pickled,
    "an array is missing": lambda file: changed(file, labels=None),
    "an array too many": lambda file: changed(file, more=np.zeros(1)),
    "another schema": lambda file: changed(file, schema=np.asarray(2)),
    "another hospital's": lambda file: changed(file, host=np.asarray("east")),
    "no such split": lambda file: changed(file, split=np.asarray("train")),
    "no such kind": lambda file: changed(file, kinds=np.asarray(["visit"] * 2)),
    "a label too high": lambda file: changed(file, labels=np.full(40, 3)),
    "a label below 0": lambda file: changed(file, labels=np.full(40, -1)),
    "labels of another number": lambda file: changed(file, labels=np.zeros(39, np.int64)),
    "labels in columns": lambda file: changed(file, labels=np.zeros((40, 1), np.int64)),
    "labels with fractions": lambda file: changed(file, labels=np.zeros(40)),
    "a sample twice": lambda file: changed(file, samples=np.asarray(["x"] * 40)),
    "a model twice": lambda file: changed(file, models=np.asarray(["north"] * 2)),
    "models of another number": lambda file: changed(file, models=np.asarray(["north"])),
    "no sample": lambda file: changed(
        file,
        samples=np.asarray([], dtype=str),
        labels=np.zeros(0, np.int64),
        probabilities=np.zeros((2, 0, 3)),
    ),
    "probabilities turned": lambda file: changed(file, probabilities=np.full((2, 3, 40), 1 / 40)),
    "probabilities of 2": lambda file: changed(file, probabilities=np.full((2, 40, 3), 2 / 3)),
    "probabilities below 0": lambda file: changed(
        file, probabilities=np.tile([1.5, -0.25, -0.25], (2, 40, 1))
    ),
    "half a row is NaN": lambda file: changed(
        file, probabilities=np.tile([1.0, 0.0, np.nan], (2, 40, 1))
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_what_is_no_file_of_predictions_is_named(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    """Damaged, foreign or of wrong shapes: the error has the file and a fix, and no report is
    written.
    """
    run = run_of(tmp_path, ("north", "east"))
    file = run / "predictions" / "north.npz"
    damage(file)
    with pytest.raises(RunUnreadable, match="no predictions of north") as caught:
        write(run, ("north", "east"))
    assert str(caught.value.where) == str(file)
    assert "remove this file" in caught.value.fix
    assert not (run / "report.txt").exists()
    file.unlink()
    assert "2 tests of this run have no predictions" in " ".join(
        write(run, ("north", "east")).notes
    )


FOREIGN: dict[str, tuple[dict[str, Any], str]] = {
    "other classes": ({"classes": np.asarray(["a", "b", "c"])}, "classes is"),
    "another seed": ({"seed": np.asarray(8)}, "seed is 8, and 7 at 'east'"),
    "another scenario": ({"scenario": np.asarray("other")}, "scenario is"),
    "another split": ({"split": np.asarray("validation")}, "split is"),
    "an unknown model": ({"models": np.asarray(["north", "west"])}, "name west"),
    "another kind": ({"kinds": np.asarray(["ensemble", "evaluation"])}, "no record of this run"),
    "other labels": ({"labels": np.arange(40)[::-1] % 3}, "accuracy of the model of 'north' is"),
    "other answers": ({"probabilities": np.full((2, 40, 3), 1 / 3)}, "by the record"),
}


@pytest.mark.parametrize(("arrays", "text"), FOREIGN.values(), ids=FOREIGN.keys())
def test_predictions_of_another_run_are_refused(
    arrays: dict[str, Any], text: str, tmp_path: Path
) -> None:
    """A whole file that does not belong to the other files, the scenario or the records is an
    error with its name.
    """
    run = run_of(tmp_path, ("north", "east"))
    file = run / "predictions" / "north.npz"
    changed(file, **arrays)
    with pytest.raises(RunUnreadable, match=text) as caught:
        write(run, ("north", "east"))
    assert str(caught.value.where) == str(file)


def test_a_file_of_a_hospital_that_is_not_in_the_scenario_is_refused(tmp_path: Path) -> None:
    """A file under a strange name is not reported as if it belonged to the run."""
    run = run_of(tmp_path, ("north", "east"))
    file = run / "predictions" / "west.npz"
    file.write_bytes((run / "predictions" / "north.npz").read_bytes())
    changed(file, host=np.asarray("west"))
    with pytest.raises(RunUnreadable, match="name west"):
        write(run, ("north", "east"))


def test_a_run_without_predictions_is_reported_as_before(tmp_path: Path) -> None:
    """Old runs, and those with the key off, have all three reports without the section."""
    records = (
        recorded(tmp_path / "other", ("north", "east"))
        if (tmp_path / "other").mkdir() is None
        else []
    )
    summary = write(folder(tmp_path, records, ("north", "east")), ("north", "east"))
    assert summary.patients is None
    assert as_json(summary)["single_patients"] is None
    assert "Single patients" not in (tmp_path / "report.html").read_text(
        encoding="utf-8"
    ) + as_text(summary)


def test_the_report_tells_of_single_patients(tmp_path: Path) -> None:
    """Own model, others, ensemble and held-out hospitals have their rows in JSON, text and page,
    with the values of the records.
    """
    run = run_of(tmp_path, ("north", "east"), ("away",), ensemble=True)
    summary = write(run, ("north", "east"), ("away",))
    found = json.loads((run / "report.json").read_text(encoding="utf-8"))["single_patients"]
    assert [host["name"] for host in found["hosts"]] == ["north", "east", "away"]
    rows = [[row["who"] for row in host["rows"]] for host in found["hosts"]]
    assert rows == [["ensemble", "own", "others", "visitor"]] * 2 + [
        ["ensemble", "others", "visitor", "visitor"]
    ]
    labels = np.arange(40) % 3
    given = torch.tensor(answers_of(0, labels)).softmax(1).numpy()
    own = found["hosts"][0]["rows"][1]
    assert own["confusion"] == confusion_matrix(labels, given.argmax(1)).tolist()
    assert own["auc"][0] == pytest.approx(roc_auc_score(labels, given, multi_class="ovr"))
    assert own["auc"][1] < own["auc"][0] < own["auc"][2]
    assert [len(triple) for triple in own["recall"]] == [3, 3, 3]
    assert found["hosts"][0]["patients"] == [14, 13, 13]
    assert sum(own["calibration"]["counts"]) == 40
    assert [*own["roc"]] == [*CLASSES]
    others = found["hosts"][2]["rows"][1]
    means = [row["balanced_accuracy"][0] for row in found["hosts"][2]["rows"][2:]]
    assert others["balanced_accuracy"][0] == pytest.approx(np.mean(means))
    assert sum(map(sum, others["confusion"])) == 80
    text = as_text(summary)
    assert max(map(len, text.splitlines())) <= 100
    row = next(
        line.split()
        for line in text.splitlines()
        if line.startswith("north") and line.split()[1] == "40"
    )
    assert row[2] == "13"
    assert row[3] == f"{100 * own['balanced_accuracy'][0]:.1f}"
    page = Outline((run / "report.html").read_text(encoding="utf-8"))
    assert page.open == []
    assert any("every hospital" in words for words in page.words)
    assert (
        sum(
            value is not None and value.startswith("Confusion matrix")
            for _, value in page.attributes
        )
        == 1
    )


def test_many_hospitals_are_sampled_and_the_report_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures, lines and rows of visitors have limits; the text, the page and a note say what
    is left out.
    """
    monkeypatch.setattr(patients_, "MOST_CELLS", 100)
    names = tuple(f"site-{number}" for number in range(30))
    run = run_of(tmp_path, names, patients=12)
    summary = write(run, names)
    page, text = (run / "report.html").read_text(encoding="utf-8"), as_text(summary)
    assert "6 of 30 hospitals, evenly chosen" in page
    assert "24 of 30 hospitals" in " ".join(text.split())
    assert "With more than 100 tests there is no row for every visitor" in " ".join(text.split())
    rows = as_json(summary)["single_patients"]["hosts"][0]["rows"]
    assert [row["who"] for row in rows] == ["own", "others"]
    assert rows[1]["auc"][1] is None
    assert rows[1]["balanced_accuracy"][1] is not None
    assert thin(range(30), 6) == [0, 6, 12, 17, 23, 29]


def test_answers_that_are_no_numbers_are_counted_and_left_out(tmp_path: Path) -> None:
    """A model whose logits overflow has no row at that hospital, and a note names both."""
    records = recorded(tmp_path, ("north", "east"))
    file = tmp_path / "predictions" / "north.npz"
    given = np.load(file)["probabilities"]
    given[1, 3] = np.nan
    changed(file, probabilities=given)
    summary = write(folder(tmp_path, records, ("north", "east")), ("north", "east"))
    assert any(
        "At north answers were not finite, and are left out: those of east" in note
        for note in summary.notes
    )
    assert [row.who for row in summary.patients.hosts[0].rows] == ["own"]


def test_a_hospital_of_one_class_has_no_auc(tmp_path: Path) -> None:
    """Test data of a single class is reported with what can be measured; nothing is made up for
    the rest.
    """
    labels = torch.zeros(8, dtype=torch.long)
    logits = torch.tensor(answers_of(0, labels.numpy()))
    answers = Answers(wanted=True, named=True)
    answers.add("evaluation", "north", logits)
    about = {"scenario": "demo", "seed": 7, "host": "north", "split": "test", "classes": CLASSES}
    answers.save(
        tmp_path / "predictions" / "north.npz",
        Samples(torch.zeros(0), labels, tuple("abcdefgh")),
        about,
    )
    record = Record(
        "demo",
        7,
        "evaluation",
        2,
        0,
        "north",
        "north",
        "net",
        "evaluated",
        measures=ONE_LABEL.measure(logits, labels),
    )
    records = [record, replace(record, host="east", model="east", measures={})]
    summary = write(folder(tmp_path, records, ("north", "east")), ("north", "east"))
    row = as_json(summary)["single_patients"]["hosts"][0]["rows"][0]
    assert row["auc"] == [None, None, None]
    assert row["recall"][1] == [None, None, None]
    assert row["recall"][0][1] < row["recall"][0][0] <= row["recall"][0][2]
    assert row["roc"] == {}


@pytest.mark.parametrize(("answered", "said"), [([1] * 40, True), ([1] * 39 + [2], False)])
def test_a_model_that_always_answers_one_class_is_named(answered: list[int], said: bool) -> None:  # noqa: FBT001 - a column
    """Its accuracy is that class's share and its balanced accuracy is chance; one other answer,
    and nothing is said.
    """
    labels = np.array([0] * 2 + [1] * 36 + [2] * 2)
    probabilities = np.eye(3)[answered]
    here = patients_.Predictions(
        "demo",
        1,
        "north",
        "test",
        CLASSES,
        tuple(map(str, range(40))),
        labels,
        ("north",),
        ("evaluation",),
        probabilities[None],
    )
    host = patients_._host(here, [agreement.judge(here, 0)], visitors=False)
    assert host.chance == pytest.approx(1 / 3)
    told = [
        note for note in patients_._notes([host], CLASSES, 0, visitors=True) if "answers" in note
    ]
    share = "its accuracy of 90.0% is that class's share, its balanced accuracy chance (33.3%)."
    assert told == said * [
        f"The model of north answers {CLASSES[1]!r} for each of its 40 patients: {share}"
    ]
