"""Accuracy, balanced accuracy and macro one-versus-rest AUC over the classes present."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedskd_sim.learning.answers import odds
from fedskd_sim.learning.base import Measures
from fedskd_sim.learning.data import Samples, as_input
from fedskd_sim.records import Measure

BATCH = 64
"""Samples asked at once: few enough that at the usual batch sizes a training step needs more memory
than a measurement."""
PLACES, LARGEST = BATCH * 224 * 224, 1024
"""A card is asked as many small samples as have the pixels or voxels of `BATCH` large ones, at most
so many: it would wait for the host otherwise."""
NO_ANSWER = -1.0
"""Stands for all odds of an answer that is not finite: less than any, and all alike."""
ADJUSTMENT_FLOOR = 1e-3
"""Keeps a class that is hardly ever predicted from being divided by next to nothing."""


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Return a model's logits (N, classes) for images as `Samples` has them, asked in evaluation
    mode; it is left in the mode it was in.
    """
    before, where = model.training, next(model.parameters(), images).device
    model.eval()
    parts = images.split(batch_size(images, where))
    logits = torch.cat([model(as_input(part, where))[0] for part in parts])
    model.train(before)
    return logits


def batch_size(images: Tensor, where: torch.device) -> int:
    """Say how many samples are asked at once on a device, for images as `Samples` has them."""
    if where.type == "cpu":
        return BATCH
    channels = images.shape[-1] if images.dtype == torch.uint8 else images.shape[1]
    connectivity = images.ndim == 3  # noqa: PLR2004 - (N, R, R)
    places = images[:1].numel() // (1 if connectivity else channels)
    return max(BATCH, min(LARGEST, PLACES // max(1, places)))


def evaluate(model: nn.Module, samples: Samples, prefix: str = "") -> Measures:
    """Measure a model on samples; it is left in the mode it was in.

    Returns:
        ``accuracy`` over samples, ``balanced_accuracy`` (recall) over the classes present, and
        ``auc`` over the classes that are present and not alone; each as a sum and its weight, so
        that hospitals pool. Empty without samples.

    """
    if not len(samples.labels):
        return {}
    found = measures(logits_of(model, samples.images), samples.labels)
    return {f"{prefix}{name}": value for name, value in found.items()}


def measures(logits: Tensor, labels: Tensor) -> dict[str, Measure]:
    """Compute the measures of `evaluate` from logits (N, C) and labels (N,): on the host, since a
    card would be waited for several times for every class.

    An answer that is not finite is never right, and says as little of one class as of another.
    """
    logits, labels = logits.cpu(), labels.cpu()
    chances = logits.detach().double().softmax(dim=1)
    known = chances.isfinite().all(dim=1)
    hits = (logits.argmax(dim=1) == labels) & known
    present = labels.unique().tolist()
    recalls = [hits[labels == label].double().mean().item() for label in present]
    scores = torch.from_numpy(odds(chances.numpy())).where(known.unsqueeze(1), NO_ANSWER)
    areas = (
        [_area(scores[:, label], labels == label) for label in present] if len(present) > 1 else []
    )
    return {
        "accuracy": Measure(float(hits.sum()), float(len(labels))),
        "balanced_accuracy": Measure(sum(recalls), float(len(recalls))),
        "auc": Measure(sum(areas), float(len(areas))),
    }


def measure_adjusted(logits: Tensor, labels: Tensor, usual: Tensor, exponent: float) -> Measure:
    """Measure balanced accuracy when the decision is the class whose probability exceeds the usual
    one most.

    Args:
        logits: (N, C).
        labels: (N,).
        usual: (C,), the mean predicted probabilities on data of the same hospital, which needs no
            labels.
        exponent: tau of p_c / (usual_c + 0.001)^tau.

    """
    shifted = (
        logits.double().log_softmax(dim=1) - exponent * (usual.double() + ADJUSTMENT_FLOOR).log()
    )
    return measures(shifted, labels)["balanced_accuracy"]


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
