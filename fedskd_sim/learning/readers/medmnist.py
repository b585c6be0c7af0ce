"""MedMNIST (Yang et al. 2023): one of its sets, of images or of volumes, from the ``.npz`` of its
release.

Expected arrays: ``train_images``, ``val_images`` and ``test_images`` uint8, (N, S, S) in grey, (N,
S, S, 3) in colour, or volumes (N, S, S, S), of one S; ``train_labels``, ``val_labels`` and
``test_labels`` whole numbers from 0, (N, 1) or (N,). The official splits are kept. Nothing says who
took an image or of whom, so hospitals share a file by ``partition``, and every image is a group of
its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.errors import InvalidValue
from fedskd_sim.learning.readers import cut, npz, splits
from fedskd_sim.learning.samples import Arrays, Facts, Images, SampleKind
from fedskd_sim.scenario import MedMnist

IMAGE_AXES = 2
MOST_CLASSES = 1000
SPLITS = ("train", "val", "test")
"""In the order of `cut.TRAIN`, `cut.VALIDATION` and `cut.TEST`."""
NEEDED = tuple(f"{split}_{what}" for split in SPLITS for what in ("images", "labels"))


def facts(dataset: MedMnist, folder: Path | None, scenario_seed: int, name: str) -> Facts:
    """Read everything but the images.

    Raises:
        DataMissing: no folder given, or the file is not in it.
        DataCorrupt: the file is truncated, lacks arrays or contradicts itself.
        InvalidValue: a set of several labels per image, a label without a class, or too small a
            part.
        NoTrainingSamples: nothing of the part trains.

    """
    with npz.open_archive(npz.find(dataset.file, folder), NEEDED) as arrays:
        labels, split = _labels(arrays)
        chosen, classes = (
            cut.by_split(dataset, _columns(labels, split), scenario_seed, name),
            _classes(dataset, labels),
        )
        counts = splits.counts(name, splits.Source(dataset.file, classes, labels), chosen)
        grid, channels = _sample_shape(arrays)
        kind: SampleKind = "image" if len(grid) == IMAGE_AXES else "volume"
        return Facts(
            classes,
            grid[0],
            channels,
            labels[chosen.train],
            counts,
            kind,
            grid if kind == "volume" else (),
        )


def load(dataset: MedMnist, folder: Path | None, scenario_seed: int, name: str) -> Images | Arrays:
    """Read the hospital's images or volumes; raises as `facts`."""
    with npz.open_archive(npz.find(dataset.file, folder), NEEDED) as arrays:
        labels, split = _labels(arrays)
        chosen = cut.by_split(dataset, _columns(labels, split), scenario_seed, name)
        rows = chosen.rows
        grid, channels = _sample_shape(arrays)
        own = [
            rows[split[rows] == number] - np.searchsorted(split, number)
            for number in range(len(SPLITS))
        ]
        images = [
            npz.array(arrays, f"{part}_images")[places]
            for part, places in zip(SPLITS, own, strict=True)
        ]
        ids = tuple(
            f"{part}-{place}" for part, places in zip(SPLITS, own, strict=True) for place in places
        )
        pixels, classes = np.concatenate(images), _classes(dataset, labels)
        if len(grid) > IMAGE_AXES:
            values = ((pixels[:, None].astype(np.float32) / 255 - 0.5) / 0.25).astype(np.float32)
            return Arrays(values, labels[rows], chosen.places, classes, ids)
        return Images(
            pixels.reshape(len(rows), *grid, channels), labels[rows], chosen.places, classes, ids
        )


def _columns(labels: NDArray[Any], split: NDArray[np.int64]) -> cut.Columns:
    return cut.Columns(labels, np.arange(len(labels)), split)


def _sample_shape(arrays: Any) -> tuple[tuple[int, ...], int]:
    """Read the grid, (S, S) or (S, S, S), and the number of channels of all samples from the
    arrays' headers alone.
    """
    found: set[tuple[tuple[int, ...], int]] = set()
    for split in SPLITS:
        shape, dtype = npz.shape(arrays, f"{split}_images")
        match shape[1:]:
            case (int(height), int(width), *last) if (
                height == width and dtype == np.uint8 and last in ([], [3], [height])
            ):
                found.add(((height,) * (3 if last == [height] else 2), 3 if last == [3] else 1))
            case _:
                wanted = "(N, S, S), (N, S, S, 3) or (N, S, S, S) of uint8"
                raise npz.corrupt(f"{split}_images has shape {shape} of {dtype}, not {wanted}")
    if len(found) > 1:
        raise npz.corrupt("train_images, val_images and test_images differ in size or colour")
    return found.pop()


def _labels(arrays: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read the labels of all splits, one after the other, and the number of each label's split."""
    _sample_shape(arrays)
    found = [_labels_of(arrays, split) for split in SPLITS]
    return np.concatenate(found), np.repeat(
        np.arange(len(SPLITS)), [len(labels) for labels in found]
    )


def _labels_of(arrays: Any, split: str) -> NDArray[np.int64]:
    labels, rows = npz.array(arrays, f"{split}_labels"), npz.shape(arrays, f"{split}_images")[0][0]
    if labels.ndim == 2 and labels.shape[1] > 1:  # noqa: PLR2004 - images by labels
        text = (
            f"{split}_labels has shape {labels.shape}: several labels per image are not supported"
        )
        raise InvalidValue(
            text, fix="choose a set of MedMNIST with one label per image", key=("data", "file")
        )
    if labels.shape not in ((rows,), (rows, 1)) or labels.dtype.kind not in "iu":
        text = f"{split}_labels has shape {labels.shape} of {labels.dtype}"
        raise npz.corrupt(f"{text}, not ({rows}, 1) of whole numbers as {split}_images asks for")
    strange = labels[(labels < 0) | (labels >= MOST_CLASSES)]
    if len(strange):
        raise npz.corrupt(
            f"{split}_labels has the label {strange[0]}; a class has a number from 0 to "
            f"{MOST_CLASSES - 1}"
        )
    return labels.reshape(-1).astype(np.int64)


def _classes(dataset: MedMnist, labels: NDArray[np.int64]) -> tuple[str, ...]:
    last = int(labels.max(initial=0))
    if dataset.classes is None:
        nobody = np.flatnonzero(np.bincount(labels, minlength=1) == 0)
        if len(nobody):
            text = (
                f"{dataset.file} has labels from {labels.min(initial=last)} to {last}, and no "
                f"image of class {nobody[0]}"
            )
            raise InvalidValue(
                text,
                fix="number classes from 0 without gaps, or name all of them here",
                key=("data", "classes"),
            )
        return tuple(str(number) for number in range(last + 1))
    if last >= len(dataset.classes):
        text = (
            f"{dataset.file} has labels from 0 to {last}, but there are {len(dataset.classes)} "
            "classes"
        )
        raise InvalidValue(
            text,
            fix=f"name {last + 1} classes, or none to call them by number",
            key=("data", "classes"),
        )
    if twice := splits.problem("data.classes", "class", dataset.classes, once=True):
        raise InvalidValue(twice, fix=splits.FIX, key=("data", "classes"))
    return dataset.classes
