"""Ask models, a few samples at a time, and measure what they answer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedskd_sim.learning.base import Measures
from fedskd_sim.learning.data import Samples, as_input
from fedskd_sim.learning.task import ONE_LABEL, PredictionTask
from fedskd_sim.records import Measure

BATCH = 64
"""Samples asked at once: few enough that at the usual batch sizes a training step needs more memory
than a measurement."""
PLACES, LARGEST = BATCH * 224 * 224, 1024
"""A card is asked as many small samples as have the pixels or voxels of `BATCH` large ones, at most
so many: it would wait for the host otherwise."""
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
    """Return how many samples are asked at once on a device, for images as `Samples` has them."""
    if where.type == "cpu":
        return BATCH
    channels = images.shape[-1] if images.dtype == torch.uint8 else images.shape[1]
    connectivity = images.ndim == 3  # noqa: PLR2004 - (N, R, R)
    places = images[:1].numel() // (1 if connectivity else channels)
    return max(BATCH, min(LARGEST, PLACES // max(1, places)))


def evaluate(
    model: nn.Module, samples: Samples, prefix: str = "", task: PredictionTask = ONE_LABEL
) -> Measures:
    """Measure a model on samples by what its task measures; nothing without samples. It is left in
    the mode it was in.
    """
    if not len(samples.labels):
        return {}
    found = task.measure(logits_of(model, samples.images), samples.labels)
    return {f"{prefix}{name}": value for name, value in found.items()}


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
    return ONE_LABEL.measure(shifted, labels)["balanced_accuracy"]
