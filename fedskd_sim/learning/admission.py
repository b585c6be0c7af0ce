"""What can be known to be wrong before anything starts: architectures, grids, label spaces, data, devices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from fedskd_sim.errors import (
    DataMissing,
    DeviceUnavailable,
    FedskdError,
    ImageTooSmall,
    InvalidValue,
    LabelSpacesDiffer,
    NoTrainingSamples,
    OneClassOnly,
    RegionGridTooLarge,
    ScenarioError,
    UnknownArchitecture,
)
from fedskd_sim.learning.data import facts
from fedskd_sim.learning.models import REGISTRY, ImageShape, Outline, minimum_input, options, outline
from fedskd_sim.learning.samples import Facts
from fedskd_sim.scenario import FedSKD, Hospital, Scenario, nearest


def problems(scenario: Scenario, folder: Path | None) -> Iterator[FedskdError]:
    """Find everything wrong with a scenario that takes its models and its data to find out.

    Args:
        scenario: the scenario.
        folder: where data files are; None looks at the environment.

    Yields:
        Errors with the scenario key they belong to.

    """
    if not isinstance(scenario.algorithm, FedSKD):
        return
    known: list[tuple[int, Facts]] = []
    for index, hospital in enumerate(scenario.hospitals):
        try:
            found = facts(hospital.data, hospital.name, scenario.seed, folder)
        except ScenarioError as error:
            error.key = ("hospitals", index, *error.key)
            yield error
            continue
        if found is None:
            yield DataMissing(f"{hospital.name!r} has no data", key=("hospitals", index), fix="add 'data: {name: ...}'")
            continue
        known.append((index, found))
        yield from _labels(index, hospital, found, known[0])
        yield from _architecture(scenario, scenario.algorithm, index, found)
    yield from _devices(scenario)


def image_shape(scenario: Scenario, name: str, folder: Path | None) -> ImageShape:
    """Tell what images a hospital has; raises as `fedskd_sim.learning.data.facts`, and DataMissing without data."""
    found = facts(scenario.hospital(name).data, name, scenario.seed, folder)
    if found is None:
        raise DataMissing(f"{name!r} has no data", key=("data",), fix="add 'data: {name: ...}'")
    return ImageShape(found.channels, found.size, len(found.classes))


def pixel_grid(scenario: Scenario, shape: ImageShape) -> tuple[int, int]:
    """Give the canonical grid of the pixel level: as the scenario says, or the coarsest middle map of all hospitals."""
    algorithm = scenario.algorithm
    chosen = algorithm.similarity.pixel_grid if isinstance(algorithm, FedSKD) else None
    if chosen:
        return chosen, chosen
    kinds = {hospital.architecture.model_dump_json(): hospital.architecture for hospital in scenario.hospitals}
    sizes = [outline(architecture, shape).mid[1:] for architecture in kinds.values()]
    return min(size[0] for size in sizes), min(size[1] for size in sizes)


def _labels(index: int, hospital: Hospital, found: Facts, first: tuple[int, Facts]) -> Iterator[FedskdError]:
    key = ("hospitals", index, "data")
    same = (found.classes, found.size) == (first[1].classes, first[1].size)
    if not same:
        text = f"{hospital.name!r} has {len(found.classes)} classes at {found.size} pixels, hospital number {first[0] + 1} has "
        text += f"{len(first[1].classes)} at {first[1].size}"
        yield LabelSpacesDiffer(text, key=key, fix="all hospitals must share classes and image size")
    present = np.unique(found.train_labels)
    if not len(present):
        yield NoTrainingSamples(f"{hospital.name!r} has no training samples", key=key, fix="give it data, or leave it out")
    elif len(present) == 1:
        text = f"all training samples of {hospital.name!r} are {found.classes[present[0]]!r}"
        yield OneClassOnly(text, key=key, fix="give it a second class, or leave it out")


def _architecture(scenario: Scenario, algorithm: FedSKD, index: int, found: Facts) -> Iterator[FedskdError]:
    chosen, key = scenario.hospitals[index].architecture, ("hospitals", index, "architecture")
    if chosen.name not in REGISTRY:
        fix = nearest(chosen.name, list(REGISTRY), "see 'fedskd-sim models'")
        yield UnknownArchitecture(f"there is no architecture {chosen.name!r}", key=key, fix=fix)
        return
    unknown = [name for name in chosen.options if name not in options(chosen.name)]
    if unknown:
        fix = f"it has {', '.join(options(chosen.name)) or 'no options'}"
        yield InvalidValue(f"{chosen.name} has no option {unknown[0]!r}", key=(*key, "options", unknown[0]), fix=fix)
        return
    for name, value in chosen.options.items():
        default = options(chosen.name)[name]
        if type(value) is not type(default) or (isinstance(value, int) and value < 1):
            wanted = "a whole number of 1 or more" if isinstance(default, int) else "a word"
            yield InvalidValue(f"{name} is {value!r}", key=(*key, "options", name), fix=f"give {wanted}, like {default!r}")
            return
    shape = ImageShape(found.channels, found.size, len(found.classes))
    try:
        seen = outline(chosen, shape)
    except (RuntimeError, ValueError, ZeroDivisionError, TypeError) as error:
        smallest = minimum_input(chosen) if not chosen.options else None
        if smallest and smallest > found.size:
            text = f"{chosen.name} cannot take {found.size} x {found.size} pixels"
            yield ImageTooSmall(text, key=key, fix=f"use images of at least {smallest} pixels, or another architecture")
        else:
            yield InvalidValue(f"{chosen.name} cannot be built: {error}", key=(*key, "options"), fix="correct its options")
        return
    yield from _grids(algorithm, seen, key)


def _grids(algorithm: FedSKD, seen: Outline, key: tuple[str | int, ...]) -> Iterator[FedskdError]:
    similarity = algorithm.similarity
    if similarity.pixel and similarity.pixel_grid and similarity.pixel_grid > min(seen.mid[1:]):
        text = f"pixel_grid {similarity.pixel_grid} is finer than the middle map of {seen.mid[1]} x {seen.mid[2]}"
        yield RegionGridTooLarge(text, key=key, fix="lower algorithm.similarity.pixel_grid, or choose another architecture")
    if similarity.region and similarity.region_grid > min(seen.deep[1:]):
        text = f"region_grid {similarity.region_grid} is finer than the deep map of {seen.deep[1]} x {seen.deep[2]}"
        fix = "lower algorithm.similarity.region_grid, use larger images, or choose another architecture"
        kind = ImageTooSmall if min(seen.deep[1:]) == 1 else RegionGridTooLarge
        yield kind(text, key=key, fix=fix)


def _devices(scenario: Scenario) -> Iterator[FedskdError]:
    for index, hospital in enumerate(scenario.hospitals):
        if hospital.device.startswith("cuda"):
            number = int(hospital.device.partition(":")[2] or 0)
            if number >= torch.cuda.device_count():
                text = f"{hospital.device!r} is not here: {torch.cuda.device_count()} CUDA devices"
                yield DeviceUnavailable(text, key=("hospitals", index, "device"), fix="use 'cpu', or a machine with it")
