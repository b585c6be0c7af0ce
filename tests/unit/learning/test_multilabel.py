"""Several labels per sample: loss, divergence, measures, thresholds, readers, and who refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import balanced_accuracy_score, hamming_loss, roc_auc_score
from torch.distributions import Bernoulli, kl_divergence
from torch.func import grad, vmap

from fedskd_sim import Output, Taps, divergence
from fedskd_sim.errors import (
    FedskdError,
    InvalidValue,
    LabelSpacesDiffer,
    OneClassOnly,
)
from fedskd_sim.learning.data import load
from fedskd_sim.learning.offers import OWN
from fedskd_sim.learning.preflight import find_problems
from fedskd_sim.learning.readers import reading
from fedskd_sim.learning.readers.cohort import Cohort, Unfit, check
from fedskd_sim.learning.task import MultiLabel, count_labels, pack, unpack
from fedskd_sim.scenario import MedMnist, Training
from fedskd_sim.scenario import load as load_scenario

NAMES = ("w", "x", "y", "z")
COUNT = len(NAMES)
RINGS = """
name: several
data: {{name: synthetic-roi, samples: 60, regions: 12, classes: 3, multi_label: true}}
hospitals:
  - {{name: a, architecture: roi-mlp}}
  - {{name: b, architecture: roi-mlp}}
algorithm: {algorithm}
{more}
"""


def drawn(rows: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, NDArray[np.bool_]]:
    """Logits that know something of the labels, the labels as patterns, and one by one."""
    draw = np.random.default_rng(seed)
    present = draw.random((rows, COUNT)) < (0.2, 0.4, 0.6, 0.8)
    logits = draw.normal(present * 1.5 - 1.0, 1.0)
    return torch.from_numpy(logits), torch.from_numpy(pack(present)), present


def written_out(
    logits: torch.Tensor, present: NDArray[np.bool_], weights: torch.Tensor, **how: float
) -> float:
    """The loss by the formula, one number after the other."""
    smoothing, gamma, terms = how.get("label_smoothing", 0.0), how.get("focal", 0.0), []
    for row, own in zip(logits.sigmoid().tolist(), present.tolist(), strict=True):
        for p, there, weight in zip(row, own, weights.tolist(), strict=True):
            y = there * (1 - smoothing) + smoothing / 2
            entropy = -weight * y * np.log(p) - (1 - y) * np.log(1 - p)
            terms.append((1 - (p if there else 1 - p)) ** gamma * entropy)
    return float(np.mean(terms))


@pytest.mark.parametrize(
    "how", [{}, {"label_smoothing": 0.2}, {"focal": 2.0}, {"focal": 0.5}], ids=str
)
def test_the_loss_is_that_of_the_formula(how: dict[str, float]) -> None:
    """With weights and without, and with the gradient of each sample alone, as privacy asks."""
    logits, labels, present = drawn(20)
    task = MultiLabel(NAMES, Training(**how))
    weights = task.weights(labels, COUNT, "sqrt_inverse").double()
    having = present.sum(axis=0)
    assert weights.tolist() == pytest.approx(np.sqrt((20 - having) / having), rel=1e-6)
    assert task.loss(logits, labels, weights).item() == pytest.approx(
        written_out(logits, present, weights, **how)
    )
    ones = task.weights(labels, COUNT, "none").double()
    assert task.loss(logits, labels, None) == task.loss(logits, labels, ones)

    def of_one(given: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return task.loss(given[None], label[None], None)

    each = vmap(grad(of_one))(logits, labels)
    whole = grad(lambda given: task.loss(given, labels, None))(logits)
    assert torch.allclose(each / 20, whole)


def test_labels_that_all_have_or_nobody_weigh_one() -> None:
    """Nothing is divided by zero."""
    labels = torch.tensor([0b01, 0b01, 0b01])
    assert MultiLabel("ab").weights(labels, 2, "sqrt_inverse").tolist() == [1.0, 1.0]


def test_the_divergence_is_that_between_bernoulli_distributions() -> None:
    """PyTorch's, averaged over samples and labels; the teacher gets no gradient."""
    (teacher, *_), (student, *_) = drawn(20), drawn(20, 1)
    teacher.requires_grad_()
    student.requires_grad_()
    found = MultiLabel(NAMES).divergence(teacher, student)
    wanted = kl_divergence(Bernoulli(logits=teacher), Bernoulli(logits=student)).mean()
    assert found.item() == pytest.approx(wanted.item())
    found.backward()
    assert teacher.grad is None
    assert student.grad is not None
    sure = torch.full((1, 2), 60.0)
    assert MultiLabel("ab").divergence(sure, -sure).item() == pytest.approx(60.0)


def test_outputs_say_which_divergence_is_theirs() -> None:
    """Of a step they have its task, also with other logits; of nowhere they are refused."""
    (teacher, *_), (student, *_) = drawn(20), drawn(20, 1)
    nowhere = [Output(one, Taps(one, one)) for one in (teacher, student)]
    here = [one._replace(task=MultiLabel(NAMES)) for one in nowhere]
    wanted = MultiLabel(NAMES).divergence(teacher / 2, student / 2).item()
    soft = [one._replace(logits=one.logits / 2) for one in here]
    assert divergence(*soft).item() == wanted
    assert divergence(nowhere[0]._replace(logits=teacher / 2), soft[1]).item() == wanted
    assert divergence(soft[0], nowhere[1]._replace(logits=student / 2)).item() == wanted
    with pytest.raises(TypeError, match=r"Output\(logits, taps, step\.task\)"):
        divergence(*nowhere)


def test_measures_are_those_of_scikit_learn() -> None:
    """Accuracy, balanced accuracy and AUC, label by label; a label that no sample has is left out
    of the latter two. Only a tuned task tells of single labels.
    """
    logits, _, present = drawn(50)
    present[:, 2] = False
    labels, tested = torch.from_numpy(pack(present)), [0, 1, 3]
    task = MultiLabel(NAMES)
    plain, chances = task.measure(logits, labels), logits.sigmoid().numpy()
    assert [*plain] == ["accuracy", "balanced_accuracy", "auc"]
    tuned = task.tuned(lambda: logits, labels)
    for one in (task, tuned):
        found = one.measure(logits, labels)
        decided = chances >= (0.5 if one.thresholds is None else one.thresholds)
        assert found["accuracy"].mean == pytest.approx(1 - hamming_loss(present, decided))
        assert found["accuracy"].weight == 50
        balanced = [balanced_accuracy_score(present[:, k], decided[:, k]) for k in tested]
        assert found["balanced_accuracy"] == pytest.approx((sum(balanced), 3.0))
        areas = [roc_auc_score(present[:, k], chances[:, k]) for k in tested]
        assert found["auc"] == pytest.approx((sum(areas), 3.0))
    single = {name: value for name, value in found.items() if "/" in name}
    assert [*single] == [f"auc/{NAMES[k]}" for k in tested] + [f"threshold/{n}" for n in NAMES]
    assert [single[f"auc/{NAMES[k]}"].sum for k in tested] == pytest.approx(areas)


def test_an_answer_that_is_not_finite_is_never_right_and_ranks_last() -> None:
    """Of two samples with the label the one without an answer counts as missed."""
    logits = torch.tensor([[2.0], [torch.nan], [-2.0], [torch.nan]])
    found = MultiLabel("a").measure(logits, torch.tensor([1, 1, 0, 0]))
    assert found["accuracy"].mean == 0.5
    assert found["balanced_accuracy"].mean == 0.5
    assert found["auc"].mean == pytest.approx((1 + 1 + 0 + 0.5) / 4)


def test_thresholds_are_the_best_on_these_samples() -> None:
    """No threshold has a higher balanced accuracy; those that cannot be chosen are one half."""
    logits, labels, present = drawn(40, 3)
    chosen = MultiLabel(NAMES).tuned(lambda: logits, labels).thresholds
    assert chosen is not None
    chances = logits.sigmoid().numpy()
    for k in range(COUNT):
        best = max(
            balanced_accuracy_score(present[:, k], chances[:, k] >= cut) for cut in chances[:, k]
        )
        found = balanced_accuracy_score(present[:, k], chances[:, k] >= chosen[k])
        assert found == pytest.approx(best)
        assert chosen[k] not in chances[:, k]
    unknown = {
        "all have it": (logits, torch.full_like(labels, 15)),
        "nothing is told": (torch.zeros_like(logits), labels),
        "worse than chance": (-logits * 1e-9, torch.where(logits[:, 0] > 0, 15, 0)),
        "not finite": (logits * torch.nan, labels),
        "no samples": (logits[:0], labels[:0]),
    }
    for why, (some, of) in unknown.items():
        given = MultiLabel(NAMES).tuned(lambda some=some: some, of).thresholds
        assert given is not None, why
        assert given[0] == 0.5, why


def test_patterns_hold_every_label() -> None:
    """As many as there may be; each sample counts once."""
    present = np.random.default_rng(0).random((30, 62)) < 0.5
    assert (unpack(pack(present), 62) == present).all()
    task, logits = MultiLabel([str(k) for k in range(62)]), torch.from_numpy(present * 2.0 - 1)
    assert (task.decisions(logits).numpy() == pack(present)).all()
    counted = count_labels(np.array([0, 1, 2, 4, 3, 7]), NAMES, multi_label=True)
    assert counted == {"(none)": 1, "w": 1, "x": 1, "y": 1, "(several)": 2}


def test_a_cohort_says_by_its_labels_that_there_are_several() -> None:
    """An array (N, L); folds are even over what samples have together, and a sample of a subject
    stays with it.
    """
    present = np.tile([[0, 0, 1], [1, 0, 1]], (50, 1))
    found = check(Cohort(np.zeros((100, 8, 8), np.uint8), present, subjects=np.arange(100) // 2))
    assert found.multi_label
    assert found.classes == ("0", "1", "2")
    assert found.columns.labels.tolist() == [4, 5] * 50
    assert np.bincount(found.columns.strata).tolist() == [20] * 5
    assert (found.columns.strata[::2] == found.columns.strata[1::2]).all()
    named = check(Cohort(np.zeros((100, 8, 8), np.uint8), present.astype(bool), ["u", "v", "w"]))
    assert named.classes == ("u", "v", "w")


WRONG = {
    "a third value": ({"labels": [[0, 2], [1, 1]]}, "gives 2 in row 0 of label 1"),
    "no whole numbers": ({"labels": [[0.0, 0.5], [1, 1]]}, "a whole number, 0 or 1"),
    "one label": ({"labels": [[0], [1]]}, "with L from 2 to 62"),
    "too many": ({"labels": np.zeros((2, 63), int)}, "with L from 2 to 62"),
    "other names": ({"labels": [[0, 1], [1, 1]], "classes": ["a"]}, "1 classes and 2 labels"),
    "a name twice": ({"labels": [[0, 1], [1, 1]], "classes": ["a", "A"]}, "a class in two ways"),
}


@pytest.mark.parametrize(("given", "words"), WRONG.values(), ids=WRONG.keys())
def test_wrong_labels_are_named(given: dict, words: str) -> None:
    """With the row and the label."""
    with pytest.raises(Unfit, match=words):
        check(Cohort(np.zeros((2, 8, 8), np.uint8), **given))


def chest(folder: Path, train: int = 40) -> NDArray[np.uint8]:
    """Write a file in the form of chestmnist.npz."""
    draw, made = np.random.default_rng(0), dict[str, NDArray[np.uint8]]()
    for split, count in (("train", train), ("val", 20), ("test", 20)):
        made[f"{split}_images"] = draw.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        made[f"{split}_labels"] = (draw.random((count, 14)) < 0.2).astype(np.uint8)
    np.savez(folder / "chestmnist.npz", **made)
    return made["train_labels"]


def test_the_chest_set_of_medmnist_is_read(tmp_path: Path) -> None:
    """Its fourteen labels, in its own splits; counts add up to the samples, and a part is the
    whole.
    """
    labels = chest(tmp_path)
    dataset = MedMnist(name="medmnist", file="chestmnist.npz")
    found = reading.facts(dataset, tmp_path, 0, "a")
    assert found.multi_label
    assert len(found.classes) == 14
    assert (unpack(found.train_labels, 14) == labels).all()
    assert sum(found.counts.used["train"].values()) == 40
    assert found.counts.used["train"]["(none)"] == (labels.sum(axis=1) == 0).sum()
    whole = reading.load(dataset, tmp_path, 0, "a")
    assert reading.split(dataset, tmp_path, 0, "a", tmp_path / "part" / "a")
    part = reading.facts(dataset, tmp_path / "part", 0, "a")
    assert part.multi_label
    assert part.counts == found.counts
    assert (reading.load(dataset, tmp_path / "part", 0, "a").labels == whole.labels).all()


def problems(path: Path, folder: Path | None = None) -> list[FedskdError]:
    return [*find_problems(load_scenario(path).scenario, folder)]


REFUSED = {
    "fedproto": ("{name: fedproto}", "", ("algorithm", "name")),
    "fd": ("{name: fd}", "", ("algorithm", "name")),
    "fedtgp": ("{name: fedtgp}", "", ("algorithm", "name")),
    "fedgh": ("{name: fedgh}", "", ("algorithm", "name")),
    "dfml": ("{name: dfml}", "", ("algorithm", "name")),
    "adjustment": (
        "{name: local}",
        "prediction: {logit_adjustment: 0.5}",
        ("prediction", "logit_adjustment"),
    ),
    "audit": ("{name: local}", "audit: {}", ("audit",)),
}


@pytest.mark.parametrize(("algorithm", "more", "key"), REFUSED.values(), ids=REFUSED.keys())
def test_what_needs_one_label_says_so(
    algorithm: str, more: str, key: tuple[str, ...], scenario_file: Callable[[str], Path]
) -> None:
    """With its key and what to do; with one label per sample nothing is wrong."""
    text = RINGS.format(algorithm=algorithm, more=more)
    (found,) = problems(scenario_file(text))
    assert isinstance(found, InvalidValue)
    assert found.key == key
    assert "several labels per sample" in found.message
    assert found.fix
    assert not problems(scenario_file(text.replace(", multi_label: true", "")))


def test_a_loss_for_one_label_is_refused(scenario_file: Callable[[str], Path]) -> None:
    """Where samples have several, and its own decorator says that it needs one."""
    algorithm = "{name: local, loss: sharp}"
    path = scenario_file(RINGS.format(algorithm=algorithm, more="code: [sharp.py]"))
    written = path.parent / "sharp.py"
    how = "replaces=True, one_label=True"
    body = "def sharp(step, role):\n    return step.cross_entropy(role)\n"
    for given, wrong in ((how, [("algorithm", "loss")]), ("replaces=True", [])):
        text = f"from fedskd_sim import loss\n\n\n@loss('sharp', {given})\n{body}"
        written.write_text(text, encoding="utf-8")
        loaded = load_scenario(path)
        OWN.use(loaded.code)
        try:
            found = [*find_problems(loaded.scenario, None)]
        finally:
            OWN.use(None)
        assert [one.key for one in found] == wrong
        assert all("several labels per sample" in one.message for one in found)


def test_hospitals_have_labels_of_one_kind(scenario_file: Callable[[str], Path]) -> None:
    """One with several and another with one class per sample are refused."""
    text = RINGS.format(algorithm="{name: local}", more="")
    odd = text.replace(
        "b, architecture: roi-mlp", "b, architecture: roi-mlp, data: {multi_label: false}"
    )
    (found,) = problems(scenario_file(odd))
    assert isinstance(found, LabelSpacesDiffer)
    assert "'a' has several labels per sample, 'b' has one" in found.message
    assert not problems(scenario_file(text))


def test_samples_that_all_have_the_same_labels_teach_nothing(
    tmp_path: Path, scenario_file: Callable[[str], Path]
) -> None:
    """The error says which these are."""
    chest(tmp_path)
    with np.load(tmp_path / "chestmnist.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["train_labels"][:] = np.eye(14, dtype=np.uint8)[3]
    np.savez(tmp_path / "chestmnist.npz", **arrays)
    text = """
name: chest
data: {name: medmnist, file: chestmnist.npz, partition: {parts: 2, alpha: 100.0}}
hospitals:
  - {name: a, architecture: cnn-plain, data: {partition: {part: 0}}}
  - {name: b, architecture: cnn-plain, data: {partition: {part: 1}}}
algorithm: {name: local}
"""
    found, _ = problems(scenario_file(text), tmp_path)
    assert isinstance(found, OneClassOnly)
    assert "'a' have the same labels '3'" in found.message


def test_drawn_labels_are_independent_and_as_frequent_as_asked(
    scenario_file: Callable[[str], Path],
) -> None:
    """Without skew 35 % of the subjects have each label, whatever else they have."""
    text = RINGS.format(algorithm="{name: local}", more="").replace(
        "samples: 60", "samples: 2000, label_skew: 0.0"
    )
    data = load(load_scenario(scenario_file(text)).scenario, "a", None, "cpu")
    present = unpack(data.train.labels.numpy(), 3)
    assert present.mean(axis=0) == pytest.approx(0.35, abs=0.05)
    assert np.corrcoef(present.T)[np.triu_indices(3, 1)] == pytest.approx(0, abs=0.1)
