"""Who is like whom in the eyes of a model: similarity matrices of visitor and resident on one fixed
probe batch, and how alike the representations of all final models are.

Every stop has a file of its own, ``similarity/HOST.ROUND-HOP.npz``, written as the stop ends: a
hospital that dies before the next step writes the same bytes again. The evaluation round has
``similarity/HOST.final.npz``. `fedskd_sim.results.similarities` reads both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fedskd_sim.learning.answers import write_arrays
from fedskd_sim.learning.base import NOTHING, LearnerState
from fedskd_sim.learning.data import Samples, as_input
from fedskd_sim.learning.distillation.arrangements import batch_items
from fedskd_sim.learning.distillation.distill import SimilarityLoss, Taps
from fedskd_sim.learning.distillation.similarity import cosines
from fedskd_sim.learning.evaluate import BATCH
from fedskd_sim.learning.task import PredictionTask
from fedskd_sim.messages import Buffer, Weights

SCHEMA = 1
FOLDER, FINAL, PICTURES = "similarity", "final", "pictures"
SAMPLES, FEWEST = 16, 3
"""Validation samples of the probe batch, and how many a matrix needs at least."""
FINAL_SAMPLES = 128
"""Validation samples on which final models are compared, at most: the unbiased HSIC of sixteen is
mostly noise."""
GRAM = "gram"
SPREAD = 1e-13
"""An HSIC of less than this, in units of the kernel's mean square, is the rounding of its sums."""
Arrays = dict[str, object]


def cka(x: Tensor, y: Tensor) -> float:
    """Compare two representations of the same samples: linear CKA (Kornblith et al. 2019) with the
    unbiased HSIC (Song et al. 2012); 1 for equal ones, NaN where one of them is the same for all
    samples.

    Args:
        x: (n, C1), n at least 4.
        y: (n, C2).

    """
    return compare_grams(gram(x), gram(y))


def gram(features: Tensor) -> Tensor:
    """Return the kernel (n, n), fp64, of features (n, C), with zeros on its diagonal."""
    return (features.double() @ features.double().T).fill_diagonal_(0)


def compare_grams(k: Tensor, l: Tensor) -> float:  # noqa: E741 - as in the literature
    """Return the CKA of two representations by their kernels, of `gram`."""
    shared, own, other = _hsic(k, l), _hsic(k, k), _hsic(l, l)
    lengths = [
        float(kernel.square().sum()) / (len(kernel) * (len(kernel) - 3)) for kernel in (k, l)
    ]
    spread = own > SPREAD * lengths[0] and other > SPREAD * lengths[1]
    return shared / (own * other) ** 0.5 if spread else math.nan


def _hsic(k: Tensor, l: Tensor) -> float:  # noqa: E741 - as in the literature
    """HSIC_u = [tr(KL) + 1'K1 1'L1 / ((n-1)(n-2)) - 2/(n-2) 1'KL1] / (n(n-3)) for kernels with
    zero diagonal.
    """
    n = len(k)
    product = (
        (k * l).sum()
        + k.sum() * l.sum() / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (k.sum(0) * l.sum(0)).sum()
    )
    return float(product) / (n * (n - 3))


class Compared(NamedTuple):
    """Two models on the probe batch of n samples: of the visitor first, then of the resident."""

    matrices: Mapping[str, Tensor]
    """By level: (2, N, N), the cosines between N items; of pixels and regions the mean over the
    samples."""
    agreement: Tensor
    """(n, S): at each place of each sample, the correlation of the two models' similarities between
    this place and the others; NaN where one of them is the same everywhere."""
    decisions: Tensor
    """(2, n), classes."""
    regions: Tensor
    """Which regions of the atlas, or cells of the grid, the region level has, from 1."""


def compare(
    pair: tuple[nn.Module, nn.Module], samples: Samples, loss: SimilarityLoss, task: PredictionTask
) -> Compared | None:
    """Compare visitor and resident on the first samples; None where there are too few."""
    images = samples.images[:SAMPLES]
    if len(images) < FEWEST:
        return None
    (logits, taps), (others, other_taps) = (
        _ask(model, images, samples.labels.device) for model in pair
    )
    matrices, agreement = {}, torch.empty(len(images), 0)
    for level, sides in loss.items(taps, other_taps).items():
        v, r = (cosines(items) for items in sides)
        matrices[level] = torch.stack((v, r)) if level == "batch" else torch.stack((v, r)).mean(1)
        if level == "pixel":
            agreement = _agreement(v, r)
    decisions = torch.stack([task.decisions(logits), task.decisions(others)])
    return Compared(matrices, agreement, decisions, loss.region_numbers(taps, other_taps))


def _agreement(v: Tensor, r: Tensor) -> Tensor:
    """Correlate the rows of matrices (n, S, S), without their diagonals: (n, S)."""
    places = v.shape[1]
    if places < FEWEST:
        return v.new_full(v.shape[:2], math.nan)
    off = ~torch.eye(places, dtype=torch.bool, device=v.device)
    rows = [side[:, off].unflatten(1, (places, places - 1)).double() for side in (v, r)]
    x, y = (side - side.mean(2, keepdim=True) for side in rows)
    lengths = (x.square().sum(2) * y.square().sum(2)).sqrt()
    return torch.where(lengths > SPREAD, (x * y).sum(2) / lengths, math.nan)


@torch.no_grad()
def _ask(model: nn.Module, images: Tensor, where: torch.device) -> tuple[Tensor, Taps]:
    """Ask a model in evaluation mode, and leave it in the mode it was in."""
    training = model.training
    model.eval()
    parts = [model(as_input(part, where)) for part in images.split(BATCH)]
    model.train(training)
    logits = torch.cat([one for one, _ in parts])
    maps = [torch.cat([getattr(taps, name) for _, taps in parts]) for name in Taps._fields]
    return logits, Taps(*maps)


@dataclass
class Similarities:
    """What a hospital keeps of similarities; nothing where it is not ``wanted``, and no file
    without a ``folder``.
    """

    wanted: bool
    host: str
    about: Mapping[str, object]
    """``scenario`` and ``seed``."""
    folder: Path | None
    _grams: dict[str, Weights] = field(default_factory=dict)

    def keep(
        self,
        at: tuple[int, int, str],
        pair: tuple[Compared, Compared],
        samples: Samples,
        loss: SimilarityLoss,
    ) -> None:
        """Write the file of a stop.

        Args:
            at: round, hop, and the visitor's hospital.
            pair: before the session and after it.
            samples: the host's validation data.
            loss: the similarity term, which knows the grids.

        """
        if self.folder is None:
            return
        round_, hop, model = at
        before = pair[0]
        count = len(before.agreement)
        arrays = self._about() | {
            "round": round_,
            "hop": hop,
            "model": model,
            "samples": np.array(_rows(samples)[:count], np.int64),
            "labels": _numbers(samples.labels[:count]),
            "decisions": np.stack([_numbers(one.decisions) for one in pair]),
            "pixel_grid": np.array(loss.pixel_grid or (), np.int64),
            "regions": _numbers(before.regions),
            "agreement": np.stack([_halves(one.agreement) for one in pair]),
        }
        for level in before.matrices:
            arrays[level] = np.stack([_halves(one.matrices[level]) for one in pair])
        write_arrays(self.folder / FOLDER / f"{self.host}.{round_}-{hop}.npz", arrays)

    def note(self, model: str, network: nn.Module, samples: Samples, loss: SimilarityLoss) -> None:
        """Keep what a final model makes of the validation data: the kernel of the features that the
        batch level compares.
        """
        if not self.wanted or len(samples.labels) < FEWEST + 1:
            return
        _, taps = _ask(network, samples.images[:FINAL_SAMPLES], samples.labels.device)
        found = gram(batch_items(taps.at(loss.batch_tap))).cpu().numpy()
        self._grams[model] = {GRAM: Buffer("float64", found.shape, found.tobytes())}

    def save(self, samples: Samples, pictures: Samples | None, atlas: Tensor | None) -> None:
        """Write the CKA of all final models that came with the middle slices of the atlas, and the
        probe batch as pictures where that is wanted.
        """
        if self.folder is None or not self.wanted:
            return
        if self._grams:
            grams = [_gram_of(one) for one in self._grams.values()]
            found = [[compare_grams(one, other) for other in grams] for one in grams]
            arrays = self._about() | {
                "models": np.array([*self._grams]),
                "cka": np.array(found, np.float32),
                "samples": min(len(samples.labels), FINAL_SAMPLES),
            }
            if atlas is not None and atlas.ndim == 3:  # noqa: PLR2004 - a volume
                for axis, size in enumerate(atlas.shape):
                    arrays[f"slice_{axis}"] = _numbers(atlas.select(axis, size // 2))
            write_arrays(self.folder / FOLDER / f"{self.host}.{FINAL}.npz", arrays)
        if pictures is not None:
            arrays = self._about() | {
                "samples": np.array(_rows(pictures)[:SAMPLES], np.int64),
                "images": _pixels(pictures.images[:SAMPLES]),
            }
            write_arrays(self.folder / PICTURES / f"{self.host}.npz", arrays)

    def state(self) -> LearnerState:
        """Return the kernels; nothing where nothing is wanted."""
        if not self.wanted:
            return NOTHING
        groups = {f"{FOLDER}/{model}": group for model, group in self._grams.items()}
        return NOTHING.plus({FOLDER: [*self._grams]}, groups)

    def restore(self, state: LearnerState) -> None:
        """Go on with what an earlier life has noted, in the same order."""
        models = state.numbers.get(FOLDER, [])
        self._grams = {model: state.weights[f"{FOLDER}/{model}"] for model in models}

    def _about(self) -> Arrays:
        return {"schema": SCHEMA, **self.about, "host": self.host}


def _rows(samples: Samples) -> tuple[int, ...]:
    return samples.numbers or tuple(range(len(samples.labels)))


def _gram_of(group: Weights) -> Tensor:
    buffer = group[GRAM]
    return torch.frombuffer(bytearray(buffer.data), dtype=torch.float64).reshape(buffer.shape)


def _halves(values: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
    return values.detach().cpu().numpy().astype(np.float16)


def _numbers(values: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return values.detach().cpu().numpy().astype(np.int64)


def _pixels(images: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return images (n, H, W, C) of what models take of them."""
    shown = (as_input(images.cpu()).permute(0, 2, 3, 1) * 0.25 + 0.5) * 255
    return shown.round().clamp(0, 255).to(torch.uint8).numpy()
