"""What a model is asked, as one object that sessions, evaluation, the files of predictions and the
pages ask: what labels are, what a session minimises, what a prediction is and what it is worth.

There are two: a class for every sample, and several labels for a sample (multi-label). Data say
which is theirs. Another task is another class here and a branch in `task_of`; the ring knows
nothing of it. Imports no PyTorch until a session asks for its loss: reports have none.

Labels are one whole number for a sample whatever the task, so that folds, digests and files are of
one form: a class's number, or a pattern of bits, of which bit k tells whether label k is present.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, Self

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
MOST_LABELS = 62
"""Bits of a number that every file can hold."""
NO_LABEL, MORE_LABELS = "(none)", "(several)"
"""How samples without any label, and with more than one, are counted."""
AUC_OF, THRESHOLD_OF = "auc/", "threshold/"
"""What measures of single labels begin with."""
EVEN = 0.5
"""The threshold where nothing else is chosen."""
TITLES: Mapping[str, str] = MappingProxyType(
    {"balanced_accuracy": "balanced accuracy", "auc": "AUC", "accuracy": "accuracy"}
)
Floats = NDArray[np.float64]


class PredictionTask(Protocol):
    """What a model is asked about a sample, and how its answer is judged."""

    @property
    def titles(self) -> Mapping[str, str]:
        """The measures of a test, with their names for people, in the order of tables."""

    @property
    def decisive(self) -> str:
        """The measure by which two models of a hospital are compared with each other."""

    def weights(self, labels: Tensor, classes: int, rule: str) -> Tensor:
        """Return the weights of the classes in the loss, (classes,), from all training labels (N,)
        and ``training.class_weights``.
        """

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Return what a session minimises, a scalar, from logits (B, classes), labels as
        `Samples` has them, and weights of the classes (classes,).
        """

    def divergence(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Return KL(sg teacher || student), a scalar in nats, from logits (B, classes)."""

    def chances(self, logits: Tensor) -> Tensor:
        """Return the probabilities, fp64, that are kept as a prediction and averaged in an
        ensemble, from logits (N, classes).
        """

    def as_logits(self, chances: Tensor) -> Tensor:
        """Return logits of probabilities (N, classes), such as the mean of several models'."""

    def tuned(self, logits: Callable[[], Tensor] | None, labels: Tensor) -> Self:
        """Return the task with what a test takes from validation data: logits (N, classes), which
        are asked for where they are needed, if any are given, and labels (N,).
        """

    @property
    def thresholds(self) -> Floats | None:
        """The probability of each label from which on it is decided for, (classes,); None where
        nothing was chosen.
        """

    def measure(self, logits: Tensor, labels: Tensor) -> dict[str, Measure]:
        """Measure the answers of a model to N samples, each measure as a sum and its weight, so
        that hospitals pool.
        """

    def decisions(self, logits: Any) -> Any:
        """Return what is decided for each sample, (N,), in the form of labels."""

    def scores(self, chances: Floats) -> Floats:
        """Return by what samples are ranked for the area under the ROC curve, (N, classes)."""


class OneLabel:
    """Every sample is of one class."""

    titles = TITLES
    decisive = "balanced_accuracy"
    thresholds = None

    def __init__(self, training: Training = DEFAULT) -> None:
        """Take how the labels are smoothed, or the exponent of the focal loss."""
        self._smoothing, self._focal = training.label_smoothing, training.focal

    def weights(self, labels: Tensor, classes: int, rule: str) -> Tensor:
        """Return those of `class_weights`."""
        return class_weights(labels, classes, rule)

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

    def divergence(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Return the mean over the batch of sum_c p_c (log p_c - log q_c), p the softmax of the
        teacher, which gets no gradient, q that of the student.
        """
        from torch.nn.functional import kl_div, log_softmax  # noqa: PLC0415 - as above

        given = log_softmax(teacher.detach(), dim=1)
        return kl_div(log_softmax(student, dim=1), given, reduction="batchmean", log_target=True)

    def chances(self, logits: Tensor) -> Tensor:
        """Return the softmax (N, classes), fp64."""
        return logits.double().softmax(dim=-1)

    def as_logits(self, chances: Tensor) -> Tensor:
        """Return the logarithm."""
        return chances.log()

    def tuned(self, logits: Callable[[], Tensor] | None, labels: Tensor) -> Self:  # noqa: ARG002 - nothing is chosen
        """Return itself."""
        return self

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
        return _rounded(found)


class MultiLabel:
    """A sample has any of the labels, or none: each is a yes or no of its own, by a sigmoid.

    Labels are patterns, int64 (N,): bit k tells whether label k is present. A task that is `tuned`
    decides by thresholds of its own, and measures every label too.
    """

    titles = TITLES
    decisive = "balanced_accuracy"

    def __init__(
        self, classes: Sequence[str], training: Training = DEFAULT, thresholds: Floats | None = None
    ) -> None:
        """Take the names of the labels, how these are smoothed or focused on, and thresholds."""
        self._classes, self._training, self.thresholds = tuple(classes), training, thresholds

    def weights(self, labels: Tensor, classes: int, rule: str) -> Tensor:
        """Return the weights w_k of present labels in the loss: the square root of negatives /
        positives among the samples, which is ours. They are 1 for a label that all samples have or
        none, and with ``none``.

        Args:
            labels: patterns, int64 (N,).
            classes: how many labels there are.
            rule: ``sqrt_inverse`` or ``none``.

        """
        positives = _bits(labels, classes).float().sum(0)
        negatives = len(labels) - positives
        alone = (positives == 0) | (negatives == 0) | (rule == "none")
        return (negatives / positives.clamp(min=1)).sqrt().masked_fill(alone, 1.0)

    def loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Return the binary cross-entropy, a scalar: the mean over samples and labels of
        -w_k y log s(z) - (1 - y) log(1 - s(z)), s the sigmoid; with w_k = 1 that of MedMNIST (Yang
        et al. 2023). Smoothing by e makes y (1 - e) + e / 2 of y. The focal loss (Lin et al. 2017)
        has (1 - p)^gamma before each term, p the probability of the right answer.
        """
        from torch.nn.functional import binary_cross_entropy_with_logits  # noqa: PLC0415 - as above

        smoothing, gamma = self._training.label_smoothing, self._training.focal
        present = _bits(labels, logits.shape[-1]).to(logits.dtype)
        each = binary_cross_entropy_with_logits(
            logits, present * (1 - smoothing) + smoothing / 2, reduction="none", pos_weight=weights
        )
        if gamma:
            chosen = -binary_cross_entropy_with_logits(logits, present, reduction="none")
            each = (1 - chosen.exp()).clamp(min=TINY) ** gamma * each
        return each.mean()

    def divergence(self, teacher: Tensor, student: Tensor) -> Tensor:
        """Return the mean over batch and labels of p log(p / q) + (1 - p) log((1 - p) / (1 - q)),
        between Bernoulli distributions: p the sigmoid of the teacher, which gets no gradient, q
        that of the student. Yang et al. 2023 (arXiv 2308.06453) sum over labels; the mean is ours,
        so that its scale is that of the loss.
        """
        from torch.nn.functional import logsigmoid  # noqa: PLC0415 - as above

        given = teacher.detach()
        present = logsigmoid(given) - logsigmoid(student)
        absent = logsigmoid(-given) - logsigmoid(-student)
        return (given.sigmoid() * present + (-given).sigmoid() * absent).mean()

    def chances(self, logits: Tensor) -> Tensor:
        """Return the sigmoid (N, labels), fp64."""
        return logits.double().sigmoid()

    def as_logits(self, chances: Tensor) -> Tensor:
        """Return log(p / (1 - p))."""
        return chances.logit()

    def tuned(self, logits: Callable[[], Tensor] | None, labels: Tensor) -> Self:
        """Return the task with the threshold of each label at which the balanced accuracy on these
        samples is highest (Youden 1950). It is 0.5 without samples, for a label that all of them
        have or none, and where no threshold is better than chance.
        """
        count = len(self._classes)
        found = np.full(count, EVEN)
        if logits is not None and len(labels):
            chances = self.chances(logits().detach()).cpu().numpy()
            present = unpack(labels.cpu().numpy(), count)
            found = np.array([_threshold(chances[:, one], present[:, one]) for one in range(count)])
        return type(self)(self._classes, self._training, found)

    def measure(self, logits: Tensor, labels: Tensor) -> dict[str, Measure]:
        """Compute, from logits (N, labels) and patterns (N,), ``accuracy``: the share of a sample's
        labels that are decided right (1 - Hamming loss), over samples; ``balanced_accuracy``: the
        mean of sensitivity and specificity, and ``auc``, both over the labels that some samples
        have and others have not. A tuned task adds ``auc/LABEL`` of these, and ``threshold/LABEL``.

        A sample with an answer that is not finite is right in nothing, and ranks last.
        """
        logits, count = logits.detach().cpu(), len(self._classes)
        chances, present = self.chances(logits), _bits(labels.cpu(), count)
        known = chances.isfinite().all(dim=1, keepdim=True)
        limits = EVEN if self.thresholds is None else chances.new_tensor(self.thresholds)
        hits = ((chances >= limits) == present) & known
        scores = chances.new_tensor(self.scores(chances.numpy())).where(known, NO_ANSWER)
        balanced, areas = dict[str, float](), dict[str, float]()
        for name, right, ranked, own in zip(
            self._classes, hits.T.double(), scores.T, present.T, strict=True
        ):
            if own.any() and not own.all():
                balanced[name] = (right[own].mean().item() + right[~own].mean().item()) / 2
                areas[name] = _area(ranked, own)
        found = {
            "accuracy": Measure(float(hits.sum()) / count, float(len(labels))),
            "balanced_accuracy": Measure(sum(balanced.values()), float(len(balanced))),
            "auc": Measure(sum(areas.values()), float(len(areas))),
        }
        if self.thresholds is not None:
            used = zip(self._classes, self.thresholds.tolist(), strict=True)
            single = {AUC_OF + name: area for name, area in areas.items()}
            single |= {THRESHOLD_OF + name: threshold for name, threshold in used}
            found |= {name: Measure(value, 1.0) for name, value in single.items()}
        return found

    def decisions(self, logits: Any) -> Any:
        """Return the patterns (N,) of labels whose probability is one half or more."""
        return _pattern(logits >= 0)

    def scores(self, chances: Floats) -> Floats:
        """Return p / (1 - p), as `OneLabel.scores`."""
        with np.errstate(divide="ignore"):
            return _rounded(chances / (1 - chances))


ONE_LABEL = OneLabel()


def task_of(
    scenario: Scenario, classes: Sequence[str] = (), *, multi_label: bool = False
) -> PredictionTask:
    """Return what a scenario asks its models, given the classes of its data and whether a sample
    has several of them.
    """
    if multi_label:
        return MultiLabel(classes, scenario.training)
    return OneLabel(scenario.training)


def class_weights(labels: Tensor, classes: int, rule: str) -> Tensor:
    """Weigh classes by one over the square root of their frequency, mean 1 over the samples; absent
    classes get 0.

    Args:
        labels: int64 (N,).
        classes: how many classes there are.
        rule: ``sqrt_inverse``, or ``none`` for all ones.

    """
    import torch  # noqa: PLC0415 - reports have no PyTorch

    if rule == "none":
        return torch.ones(classes, device=labels.device)
    counts = torch.bincount(labels, minlength=classes).float()
    weights = torch.where(counts > 0, counts.clamp(min=1).rsqrt(), 0.0)
    return weights * counts.sum() / (weights * counts).sum()


def pack(present: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Write which labels are present, (N, labels), as patterns (N,)."""
    patterns: NDArray[np.int64] = _pattern(present.astype(np.int64))
    return patterns


def unpack(patterns: NDArray[np.integer[Any]], count: int) -> NDArray[np.bool_]:
    """Read patterns (N,) of so many labels as (N, labels)."""
    present: NDArray[np.bool_] = (np.asarray(patterns)[:, None] >> np.arange(count)) & 1 == 1
    return present


def count_labels(
    labels: NDArray[np.integer[Any]], classes: Sequence[str], *, multi_label: bool
) -> dict[str, int]:
    """Count the samples of each class that has any. Of patterns each sample counts once: under its
    label, or as one with none or with several.
    """
    names, places = tuple(classes), np.asarray(labels, np.int64)
    if multi_label:
        present = unpack(labels, len(classes))
        numbers, names = present.sum(axis=1), (NO_LABEL, *classes, MORE_LABELS)
        single = 1 + present.argmax(axis=1)
        places = np.select([numbers == 0, numbers == 1], [0, single], len(names) - 1)
    counted = np.bincount(places, minlength=len(names)).tolist()
    return {name: count for name, count in zip(names, counted, strict=True) if count}


def _bits(patterns: Tensor, count: int) -> Tensor:
    """Read patterns (...,) as booleans (..., labels)."""
    import torch  # noqa: PLC0415 - reports have no PyTorch

    places = torch.arange(count, device=patterns.device)
    return (patterns.unsqueeze(-1) >> places) & 1 == 1


def _pattern(present: Any) -> Any:
    """Write 0 and 1 (N, labels) of NumPy or PyTorch as patterns."""
    return sum((present[:, one] * 1) << one for one in range(present.shape[1]))


def _threshold(chances: Floats, present: NDArray[np.bool_]) -> float:
    """Return the threshold of one label from probabilities (N,) and whether it is present (N,):
    halfway between two probabilities, and of equals the one nearest to one half.
    """
    order = np.argsort(chances, kind="stable")
    values, own = chances[order], present[order]
    positives = int(own.sum())
    negatives = len(own) - positives
    last = np.flatnonzero(np.diff(values) > 0)
    if not (positives and negatives and len(last) and np.isfinite(values).all()):
        return EVEN
    # with those up to `last` below the threshold: Youden's index times positives and negatives
    missed = np.cumsum(own)[last]
    gains = (last + 1 - missed) * positives - missed * negatives
    if gains.max() <= 0:
        return EVEN
    best = last[gains == gains.max()]
    halfway = np.minimum((values[best] + values[best + 1]) / 2, values[best + 1])
    halfway = np.where(halfway > values[best], halfway, values[best + 1])
    return float(halfway[np.abs(halfway - EVEN).argmin()])


def _rounded(found: Floats) -> Floats:
    """Round odds to 40 bits, and let none be infinite; NaN stays NaN."""
    digits, powers = np.frexp(found)
    with np.errstate(over="ignore"):
        found = np.ldexp(np.round(digits * 2.0**40) / 2.0**40, powers)
    return np.minimum(found, np.finfo(np.float64).max)


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
