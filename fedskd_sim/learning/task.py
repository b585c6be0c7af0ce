"""What a model is asked, as one object that sessions, evaluation, the files of predictions and the
pages ask: what labels are, what a session minimises, what a prediction is and what it is worth.

There is one task so far, a class for every sample. Another, such as several labels for a sample, is
another class here and a branch in `task_of`; the ring knows nothing of it. Imports no PyTorch
until a session asks for its loss: reports have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.records import Measure
from fedskd_sim.scenario import Scenario, Training

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT = Training()
TINY = 1e-12
"""Of 1 - p: it keeps the derivative of its powers finite."""
NO_ANSWER = -1.0
"""Stands for all odds of an answer that is not finite: less than any, and all alike."""


class PredictionTask(Protocol):
    """What a model is asked about a sample, and how its answer is judged."""

    @property
    def titles(self) -> Mapping[str, str]:
        """The measures of a test, with their names for people, in the order of tables."""

    @property
    def decisive(self) -> str:
        """The measure by which two models of a hospital are compared with each other."""

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Return what a session minimises, a scalar, from logits (B, classes), labels as
        `Samples` has them, and weights of the classes (classes,).
        """

    def chances(self, logits: Tensor) -> Tensor:
        """Return the probabilities, fp64, that are kept as a prediction and averaged in an
        ensemble, from logits (N, classes).
        """

    def measure(self, logits: Tensor, labels: Tensor) -> dict[str, Measure]:
        """Measure the answers of a model to N samples, each measure as a sum and its weight, so
        that hospitals pool.
        """

    def decisions(self, answers: Any) -> Any:
        """Return what is decided, from logits or probabilities of NumPy or PyTorch."""

    def scores(self, chances: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return by what samples are ranked for the area under the ROC curve, (N, classes)."""


class OneLabel:
    """Every sample is of one class."""

    titles: Mapping[str, str] = MappingProxyType(
        {"balanced_accuracy": "balanced accuracy", "auc": "AUC", "accuracy": "accuracy"}
    )
    decisive = "balanced_accuracy"

    def __init__(self, training: Training = DEFAULT) -> None:
        """Take how the labels are smoothed, or the exponent of the focal loss."""
        self._smoothing, self._focal = training.label_smoothing, training.focal

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Return the cross-entropy, a scalar, of labels that may be smoothed, or the focal loss:
        with w the weights and p_y the probability of a label, the sum of w_y (1 - p_y)^gamma
        (-log p_y) over that of w_y. Labels are class numbers, int64 (B,).
        """
        from torch.nn.functional import cross_entropy  # noqa: PLC0415 - reports have no PyTorch

        if not self._focal:
            return cross_entropy(logits, labels, weights, label_smoothing=self._smoothing)
        chosen = -cross_entropy(logits, labels, reduction="none")
        # a derivative of 0^gamma is infinite for gamma below 1
        hard = (1 - chosen.exp()).clamp(min=TINY) ** self._focal
        each = -hard * chosen
        if weights is None:
            return each.mean()
        counted = weights[labels]
        return (counted * each).sum() / counted.sum()

    def chances(self, logits: Tensor) -> Tensor:
        """Return the softmax (N, classes), fp64."""
        return logits.double().softmax(dim=-1)

    def measure(self, logits: Tensor, labels: Tensor) -> dict[str, Measure]:
        """Compute ``accuracy`` over samples, ``balanced_accuracy`` (recall) over the classes
        present, and ``auc`` over the classes that are present and not alone, from logits (N, C) and
        labels (N,): on the host, since a card would be waited for several times for every class.

        An answer that is not finite is never right, and says as little of one class as of another.
        """
        logits, labels = logits.cpu(), labels.cpu()
        chances = self.chances(logits.detach())
        known = chances.isfinite().all(dim=1)
        hits = (self.decisions(logits) == labels) & known
        present = labels.unique().tolist()
        recalls = [hits[labels == label].double().mean().item() for label in present]
        scores = chances.new_tensor(self.scores(chances.numpy()))
        scores = scores.where(known.unsqueeze(1), NO_ANSWER)
        areas = (
            [_area(scores[:, label], labels == label) for label in present]
            if len(present) > 1
            else []
        )
        return {
            "accuracy": Measure(float(hits.sum()), float(len(labels))),
            "balanced_accuracy": Measure(sum(recalls), float(len(recalls))),
            "auc": Measure(sum(areas), float(len(areas))),
        }

    def decisions(self, answers: Any) -> Any:
        """Return the class (N,) that is decided for: the first of the largest of a row."""
        return answers.argmax(1)

    def scores(self, chances: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return p_c / sum of all other p, (N, C): it orders samples as the probability does, and
        tells those apart whose probability rounds to 1. To 40 bits, so that rounding parts no ties.

        Args:
            chances: (N, C), class probabilities; NaN stays NaN.

        """
        found = np.empty_like(chances)
        for place in range(chances.shape[1]):
            others: Any = np.sort(np.delete(chances, place, axis=1), axis=1)
            with np.errstate(divide="ignore", over="ignore"):  # of next to nothing: more than any
                found[:, place] = chances[:, place] / sum(others.T)  # one by one: everywhere alike
        digits, powers = np.frexp(found)
        with np.errstate(over="ignore"):
            found = np.ldexp(np.round(digits * 2.0**40) / 2.0**40, powers)
        return np.minimum(found, np.finfo(np.float64).max)


ONE_LABEL = OneLabel()


def task_of(scenario: Scenario) -> PredictionTask:
    """Return what a scenario asks its models."""
    return OneLabel(scenario.training)


def _area(scores: Tensor, positive: Tensor) -> float:
    """Area under the ROC curve of one class: the Mann-Whitney statistic with ties counted half."""
    _, place, counts = scores.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks = (last - (counts.double() - 1) / 2)[place]
    positives = int(positive.sum())
    negatives = len(positive) - positives
    return float(
        (ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives)
    )
