"""Accuracy, balanced accuracy and macro one-versus-rest AUC over the classes present."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedskd_sim.learning.base import Measures
from fedskd_sim.learning.data import Samples
from fedskd_sim.records import Measure

BATCH = 256


@torch.no_grad()
def evaluate(model: nn.Module, samples: Samples, prefix: str = "") -> Measures:
    """Measure a model on samples; it is left in the mode it was in.

    Returns:
        ``accuracy`` over samples, ``balanced_accuracy`` (recall) over the classes present, and ``auc`` over the classes that are
        present and not alone; each as a sum and its weight, so that hospitals pool. Empty without samples.

    """
    if not len(samples.labels):
        return {}
    training = model.training
    model.eval()
    logits = torch.cat([model(images)[0] for images in samples.images.split(BATCH)])
    model.train(training)
    return {f"{prefix}{name}": value for name, value in measures(logits, samples.labels).items()}


def measures(logits: Tensor, labels: Tensor) -> dict[str, Measure]:
    """Compute the measures of `evaluate` from logits (N, C) and labels (N,)."""
    hits = logits.argmax(dim=1) == labels
    present = labels.unique().tolist()
    recalls = [hits[labels == label].double().mean().item() for label in present]
    scores = logits.double().softmax(dim=1)
    areas = [_area(scores[:, label], labels == label) for label in present] if len(present) > 1 else []
    return {
        "accuracy": Measure(float(hits.sum()), float(len(labels))),
        "balanced_accuracy": Measure(sum(recalls), float(len(recalls))),
        "auc": Measure(sum(areas), float(len(areas))),
    }


def _area(scores: Tensor, positive: Tensor) -> float:
    """Area under the ROC curve of one class: the Mann-Whitney statistic with ties counted half."""
    _, place, counts = scores.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks = (last - (counts.double() - 1) / 2)[place]
    positives = int(positive.sum())
    negatives = len(positive) - positives
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))
