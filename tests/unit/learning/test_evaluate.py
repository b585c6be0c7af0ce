"""Measures: exact at the edges, additive over splits, and as scikit-learn has them on hard
draws.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, recall_score, roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from fedskd_sim.learning.data import Samples
from fedskd_sim.learning.distillation.distill import Taps
from fedskd_sim.learning.evaluate import BATCH, evaluate
from fedskd_sim.learning.task import ONE_LABEL
from fedskd_sim.records import Measure
from fedskd_sim.results.curves import areas


class Table(nn.Module):
    """A model whose logits are written in its input."""

    def forward(self, images: Tensor) -> tuple[Tensor, Taps]:
        return images[:, :, 0, 0], Taps(images, images)


def samples(logits: Tensor, labels: Tensor) -> Samples:
    return Samples(logits[:, :, None, None], labels)


@pytest.mark.parametrize("seed", range(12))
def test_hard_draws_agree_with_scikit_learn(seed: int) -> None:
    """Few samples, many ties, missing classes and very unequal frequencies: all three measures
    agree to 1e-12, where the last bit of a probability, another on each CPU, parts no ties.
    """
    draw = np.random.default_rng(seed)
    classes = int(draw.integers(2, 8))
    present = draw.choice(classes, size=int(draw.integers(2, classes + 1)), replace=False)
    labels = np.concatenate(
        [
            present,
            draw.choice(
                present, int(draw.integers(0, 60)), p=draw.dirichlet(np.ones(len(present)))
            ),
        ]
    )
    logits = np.round(draw.normal(0, 2, (len(labels), classes)), int(draw.integers(0, 3)))
    found = ONE_LABEL.measure(torch.tensor(logits), torch.tensor(labels))
    scores, decided = torch.tensor(logits).softmax(1).numpy().round(12), logits.argmax(1)
    recalls = recall_score(labels, decided, labels=present, average="macro", zero_division=0)
    areas = [roc_auc_score(labels == label, scores[:, label]) for label in present]
    assert found["accuracy"].mean == pytest.approx(accuracy_score(labels, decided), abs=1e-12)
    assert found["balanced_accuracy"].mean == pytest.approx(recalls, abs=1e-12)
    assert found["auc"].mean == pytest.approx(np.mean(areas), abs=1e-12)


@pytest.mark.parametrize(
    ("negative", "positive", "area"),
    [
        ([-50.0, -45.0, -39.0], [-38.0, 40.0, 45.0], 1.0),
        ([50.0, 45.0, 39.0], [38.0, 40.0, 45.0], 0.5 * (3 + 2) / 9),
        ([-800.0, -900.0], [-900.0, -800.0], 0.5),
    ],
)
def test_how_sure_a_model_is_ranks_beyond_what_a_probability_can_tell(
    negative: list[float], positive: list[float], area: float
) -> None:
    """Probabilities that round to 1 are no ties where logits differ; the records of a run and the
    report of its predictions have the same area.
    """
    gaps = torch.tensor([*negative, *positive])
    labels = torch.tensor([0] * len(negative) + [1] * len(positive))
    logits = torch.stack([torch.zeros(len(gaps)), gaps], dim=1)
    assert ONE_LABEL.measure(logits, labels)["auc"].mean == pytest.approx(area, abs=1e-12)
    shares = ONE_LABEL.scores(logits.double().softmax(dim=1).numpy())
    assert areas(labels.numpy(), shares).mean() == pytest.approx(area, abs=1e-12)


def test_sums_add_up_over_splits() -> None:
    """Accuracy pooled over any partition of the samples is the accuracy over all of them,
    exactly.
    """
    draw = torch.Generator().manual_seed(0)
    logits, labels = (
        torch.randn(101, 3, generator=draw),
        torch.randint(0, 3, (101,), generator=draw),
    )
    whole = ONE_LABEL.measure(logits, labels)["accuracy"]
    for sizes in ([1, 100], [50, 51], [1] * 101):
        parts = [
            ONE_LABEL.measure(*pair)["accuracy"]
            for pair in zip(logits.split(sizes), labels.split(sizes), strict=True)
        ]
        pooled = parts[0]
        for part in parts[1:]:
            pooled = pooled.plus(part)
        assert pooled == whole


def test_the_ends_of_the_scale() -> None:
    """Perfect is 1, inverted is 0, and a model that says the same of all has area one half and
    recall of one class.
    """
    labels = torch.arange(40) % 4
    right = torch.eye(4)[labels] * 3
    assert [value.mean for value in ONE_LABEL.measure(right, labels).values()] == [1.0, 1.0, 1.0]
    wrong = ONE_LABEL.measure(-right, labels)
    assert (wrong["accuracy"].mean, wrong["auc"].mean) == (0.0, 0.0)
    same = ONE_LABEL.measure(torch.zeros(40, 4), labels)
    assert (same["balanced_accuracy"].mean, same["auc"].mean) == (0.25, 0.5)


def test_huge_logits_give_numbers() -> None:
    """Softmax in double precision neither overflows nor yields NaN for logits of a model gone
    astray.
    """
    found = ONE_LABEL.measure(
        torch.tensor([[1e30, -1e30], [-1e30, 1e30], [0.0, 0.0]]), torch.tensor([0, 1, 0])
    )
    assert all(0 <= value.mean <= 1 for value in found.values())


def test_batches_make_no_difference() -> None:
    """More samples than one batch of evaluation give the measures of all of them together, with
    the prefix asked for.
    """
    draw = torch.Generator().manual_seed(0)
    logits, labels = (
        torch.randn(2 * BATCH + 1, 3, generator=draw),
        torch.randint(0, 3, (2 * BATCH + 1,), generator=draw),
    )
    found = evaluate(Table(), samples(logits, labels), "resident_")
    assert found == {
        f"resident_{name}": value for name, value in ONE_LABEL.measure(logits, labels).items()
    }


def test_nothing_to_measure_is_an_empty_answer_in_any_mode() -> None:
    """Without samples there are no measures, and the model is not touched."""
    model = Table().train()
    assert evaluate(model, samples(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))) == {}
    assert model.training


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_kept_and_no_graph_is_built(training: bool) -> None:  # noqa: FBT001
    """A model in training or in evaluation comes back as it was, and measuring needs no
    gradients.
    """
    model = Table().train(training)
    logits = torch.randn(5, 2, requires_grad=True)
    evaluate(model, samples(logits, torch.arange(5) % 2))
    assert model.training == training
    assert logits.grad is None


@pytest.mark.parametrize("stray", [float("nan"), float("inf")])
def test_an_answer_that_is_not_finite_is_never_right(stray: float) -> None:
    """A model that answers nothing decides for nobody, not for the first class, and orders no
    patients by where they stand in the file; single answers that fail are errors of that model.
    """
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    nothing = ONE_LABEL.measure(torch.full((6, 3), stray), labels)
    assert {name: value.mean for name, value in nothing.items()} == {
        "accuracy": 0.0, "balanced_accuracy": 0.0, "auc": 0.5
    }  # fmt: skip
    for order in (torch.arange(6), torch.tensor([5, 3, 1, 0, 2, 4])):
        some = 4 * functional.one_hot(labels, 3).double()
        some[0, 0] = some[3, 2] = stray
        found = ONE_LABEL.measure(some[order], labels[order])
        assert found["accuracy"] == Measure(4.0, 6.0)
        assert found["balanced_accuracy"].mean == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
        # of 9, 8 and 5 pairs: a failed positive is below all others, and on a par with a failed one
        areas = ((6 + 0.5) / 9, (4 + 0.5) / 8, 1.0)
        assert found["auc"].mean == pytest.approx(sum(areas) / 3)
