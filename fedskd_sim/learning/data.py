"""A hospital's private data: loaded once, split by its folds, never seen by another hospital."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedskd_sim.learning.ondisk import ahead, in_memory, on_disk
from fedskd_sim.learning.readers import (
    reading,
    synthetic,
    synthetic_roi,
    synthetic_volumes,
)
from fedskd_sim.learning.samples import Arrays, Facts, Images
from fedskd_sim.learning.weights import buffer_of
from fedskd_sim.messages import Buffer, digest
from fedskd_sim.scenario import (
    Dataset,
    NoData,
    Scenario,
    SyntheticRoi,
    SyntheticSkin,
    SyntheticVolumes,
)

OF_THE_SHARE = 0.25
"""Of a hospital's share of a card, what its data may take; what is larger stays with the host, and
batches are copied."""


class Samples(NamedTuple):
    """Images (N, C, H, W), float32 with spread near 1, connectivity (N, R, R), volumes (N, C,
    D, H, W) or rows of tables (N, F, R); and int64 labels (N,), which lie where models compute.
    Images that wait for a card may be pixels (N, H, W, C), uint8, and may lie in the host's memory:
    `as_input` makes of them what models take.
    """

    images: Tensor
    labels: Tensor
    ids: tuple[str, ...] = ()
    """Which samples of the source they are, each once; mini-batches have none."""
    subjects: tuple[int, ...] = ()
    """Whom each is of, as numbers, where the source says so."""
    numbers: tuple[int, ...] = ()
    """The row of each among all that the hospital has in its source, whatever the fold."""
    on_disk: bool = False
    """Images lie on a disk, and those of the next mini-batch are read ahead."""


@dataclass(frozen=True, slots=True)
class HospitalData:
    """The three splits of one hospital and the names of the classes."""

    train: Samples
    validation: Samples
    test: Samples
    classes: tuple[str, ...]
    remark: str = ""
    """What was masked or left out; empty if nothing was."""


def facts(dataset: Dataset, name: str, seed: int, folder: Path | None) -> Facts | None:
    """Return classes, image shape and training labels without loading images where that is
    possible; None without data.

    Raises:
        DataMissing, DataCorrupt, InvalidValue, ReaderFailed: as
            `fedskd_sim.learning.readers.reading.facts`.

    """
    match dataset:
        case SyntheticSkin():
            return synthetic.facts(dataset, name, seed)
        case SyntheticRoi():
            return synthetic_roi.facts(dataset, name, seed)
        case SyntheticVolumes():
            return synthetic_volumes.facts(dataset, name, seed)
        case NoData():
            return None
    return reading.facts(dataset, folder, seed, name)


def load(
    scenario: Scenario, name: str, folder: Path | None, device: str, share: float = math.inf
) -> HospitalData:
    """Load one hospital's data onto its device, of which it has a ``share`` in bytes; raises as
    `facts`.
    """
    dataset = scenario.hospital(name).data
    hold = on_disk if scenario.hospital(name).resources.samples == "disk" else in_memory
    match dataset:
        case SyntheticSkin():
            found: Images | Arrays = synthetic.load(dataset, name, scenario.seed)
        case SyntheticRoi():
            found = synthetic_roi.load(dataset, name, scenario.seed)
        case SyntheticVolumes():
            found = synthetic_volumes.load(dataset, name, scenario.seed)
        case NoData():
            raise TypeError(dataset.name)
        case _:
            found = reading.load(dataset, folder, scenario.seed, name, hold)
    values = found.values if isinstance(found, Arrays) else found.pixels
    mapped = isinstance(values, np.memmap)
    here = mapped or values.nbytes > OF_THE_SHARE * share
    train, validation, test = (
        _samples(found, rows, device, "cpu" if here else device) for rows in found.splits
    )
    parts = (
        found.remark,
        f"data stays in the host's memory: too large for {device}" if here and not mapped else "",
    )
    remark = "; ".join(part for part in parts if part)
    return HospitalData(train, validation, test, found.classes, remark)


def fingerprint(data: HospitalData) -> str:
    """Return the digest of everything that is learned or tested on: values, labels, ids and
    classes, split by split.
    """
    parts: dict[str, Buffer] = {"classes": _text(data.classes)}
    for name, split in (
        ("train", data.train),
        ("validation", data.validation),
        ("test", data.test),
    ):
        parts |= {
            f"{name}/{field}": buffer_of(getattr(split, field)) for field in ("images", "labels")
        }
        parts[f"{name}/ids"] = _text(split.ids)
    return digest(parts)


def pool(own: HospitalData, everyone: Mapping[str, HospitalData]) -> HospitalData:
    """Return a hospital everybody's training data, ids behind the names of their hospitals; it
    validates and tests on its own.
    """
    images, labels, *_ = zip(*(data.train for data in everyone.values()), strict=True)
    if len({part.device for part in images}) > 1:
        images = tuple(part.cpu() for part in images)
    ids = tuple(f"{name}/{one}" for name, data in everyone.items() for one in data.train.ids)
    return replace(own, train=Samples(torch.cat(images), torch.cat(labels), ids))


def batches(samples: Samples, size: int, generator: torch.Generator) -> Iterator[Samples]:
    """Yield one epoch of shuffled mini-batches; a last one of a single sample is left out (no
    normalisation of one).
    """
    where = samples.labels.device
    order = torch.randperm(len(samples.labels), generator=generator)
    lying, there = _bring(order, samples.images.device), _bring(order, where)
    parts = [
        (rows, labelled)
        for rows, labelled in zip(lying.split(size), there.split(size), strict=True)
        if len(rows) > 1 or len(order) == 1
    ]

    def gather(part: tuple[Tensor, Tensor]) -> Samples:
        return Samples(as_input(samples.images[part[0]], where), samples.labels[part[1]])

    yield from ahead(gather, parts) if samples.on_disk else map(gather, parts)


def as_input(images: Tensor, where: torch.device | None = None) -> Tensor:
    """Make what models take of a few samples: pixels become float32 images, others stay as they
    are; ``where`` they are to be, if they may be elsewhere. Nothing waits for the copy to a card.
    """
    images = images if where is None else _bring(images, where)
    if images.dtype is not torch.uint8:
        return images
    return ((images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25).contiguous()


def _bring(values: Tensor, where: torch.device) -> Tensor:
    """Copy values to a card without waiting for it."""
    if values.device == where:
        return values
    return values.pin_memory().to(where, non_blocking=True)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip and transpose images (N, C, H, W) at random, each with probability one half; H must
    equal W. Others stay as they are. Their values lie in a row, as those of other batches.
    """
    if images.ndim != 4:  # noqa: PLR2004 - (N, C, H, W)
        return images
    drawn = torch.rand(3, len(images), 1, 1, 1, generator=generator)
    flips = _bring(drawn, images.device) < 0.5  # noqa: PLR2004
    images = torch.where(flips[0], images.flip(2), images)
    images = torch.where(flips[1], images.flip(3), images)
    return torch.where(flips[2], images.transpose(2, 3), images).contiguous()


def _text(names: tuple[str, ...]) -> Buffer:
    data = "\0".join(names).encode("utf-8", "surrogatepass")
    return Buffer("uint8", (len(data),), data)


def _samples(
    found: Images | Arrays, rows: NDArray[np.integer[Any]], device: str, lying: str
) -> Samples:
    labels = torch.as_tensor(found.labels[rows]).long().to(device)
    ids = tuple(found.ids[row] for row in rows)
    whose = tuple(found.subjects[row] for row in rows) if found.subjects else ()
    numbers = tuple(int(found.numbers[row]) if found.numbers else int(row) for row in rows)
    values = found.values if isinstance(found, Arrays) else found.pixels
    if isinstance(values, np.memmap) and len(rows):  # a split's rows follow one another
        held = torch.from_numpy(values[rows[0] : rows[-1] + 1])
        return Samples(held, labels, ids, whose, numbers, on_disk=True)
    if isinstance(found, Arrays):
        return Samples(torch.as_tensor(found.values[rows]).to(lying), labels, ids, whose, numbers)
    pixels = torch.as_tensor(found.pixels[rows]).to(lying)
    # a card has little memory and time to spare for arithmetic, a CPU the other way round
    return Samples(as_input(pixels) if device == "cpu" else pixels, labels, ids, whose, numbers)
