"""MedMNIST (Yang et al. 2023): one of its sets, of images or volumes.

Expected: the ``.npz`` of its release, such as ``bloodmnist.npz`` or ``organmnist3d.npz``. Arrays of
images, uint8 and of one S: ``train_images``, ``val_images`` and ``test_images``; (N, S, S) in grey,
(N, S, S, 3) in colour, or volumes (N, S, S, S). Arrays of whole numbers from 0, (N, 1) or (N,):
``train_labels``, ``val_labels`` and ``test_labels``. Or (N, L) of 0 and 1 for L labels, of which a
sample may have several, as in ``chestmnist.npz``.

The official splits are kept. Nothing says who took an image or of whom, so hospitals share a file
by ``partition``, and every image is a group of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedskd_sim import Cohort, Preview
from fedskd_sim.datasets import npz
from fedskd_sim.datasets.refusals import corrupt, in_order

OFFICIAL = {"train": "train", "val": "validation", "test": "test"}
"""The splits, as the file and as a cohort call them."""
NEEDED = tuple(f"{split}_{what}" for split in OFFICIAL for what in ("images", "labels"))
VOLUME_AXES = 4
"""Of volumes, the channel's among them."""
LABEL_AXES = 2
Shape = tuple[int, ...]


def read(folder: Path, *, file: str = "bloodmnist.npz") -> Cohort:
    """Read everything but the samples, which are read when they are asked for; volumes have a mean
    near 0 and a spread near 1 then.
    """
    path = folder / file
    with npz.open_archive(path, NEEDED) as arrays:
        shape = _sample_shape(arrays)
        labels = [_labels_of(arrays, split) for split in OFFICIAL]
    if len({one.shape[1:] for one in labels}) > 1:
        raise corrupt(
            "train_labels, val_labels and test_labels differ in how many labels they have"
        )
    ends = np.cumsum([0, *map(len, labels)])
    split, volumes = np.repeat(np.arange(len(labels)), np.diff(ends)), len(shape) == VOLUME_AXES

    def samples(rows: NDArray[np.integer[Any]]) -> NDArray[Any]:
        pixels = np.empty((len(rows), *shape), np.uint8)
        with npz.open_archive(path, NEEDED) as arrays:
            for number, name in enumerate(OFFICIAL):
                places = np.flatnonzero(split[rows] == number)
                images = npz.array(arrays, f"{name}_images")[rows[places] - ends[number]]
                pixels[places] = images.reshape(-1, *shape)
        return _standardised(pixels) if volumes else pixels

    return Cohort(
        samples,
        np.concatenate(labels),
        subjects=in_order(np.arange(len(split))),
        splits=np.array([*OFFICIAL.values()])[split],
        ids=[
            f"{name}-{row}"
            for name, own in zip(OFFICIAL, labels, strict=True)
            for row in range(len(own))
        ],
        preview=lambda _: Preview(np.empty((0, *shape), np.float32 if volumes else np.uint8)),
    )


def _standardised(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return ((pixels.astype(np.float32) / 255 - 0.5) / 0.25).astype(np.float32)


def _sample_shape(arrays: Any) -> Shape:
    """Read the shape of all samples, (S, S, channels) or (1, S, S, S), from the arrays' headers
    alone.
    """
    found: set[Shape] = set()
    for split in OFFICIAL:
        shape, dtype = npz.shape(arrays, f"{split}_images")
        match shape[1:]:
            case (int(height), int(width), *last) if (
                height == width and dtype == np.uint8 and last in ([], [3], [height])
            ):
                cube = (1, height, height, height)
                found.add(cube if last == [height] else (height, height, 3 if last else 1))
            case _:
                wanted = "(N, S, S), (N, S, S, 3) or (N, S, S, S) of uint8"
                raise corrupt(f"{split}_images has shape {shape} of {dtype}, not {wanted}")
    if len(found) > 1:
        raise corrupt("train_images, val_images and test_images differ in size or colour")
    return found.pop()


def _labels_of(arrays: Any, split: str) -> NDArray[Any]:
    labels, rows = npz.array(arrays, f"{split}_labels"), npz.shape(arrays, f"{split}_images")[0][0]
    if labels.shape[:1] != (rows,) or labels.ndim > LABEL_AXES or labels.dtype.kind not in "iu":
        text = f"{split}_labels has shape {labels.shape} of {labels.dtype}"
        wanted = f"({rows}, 1) or ({rows}, L) of whole numbers"
        raise corrupt(f"{text}, not {wanted} as {split}_images asks for")
    return labels if labels.shape[1:] > (1,) else labels.reshape(-1)
