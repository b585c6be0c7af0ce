"""What can be known to be wrong before anything starts: architectures, grids, label spaces, data, devices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from fedskd_sim.errors import (
    ArchitecturesDiffer,
    DataMissing,
    DeviceUnavailable,
    FedskdError,
    ImageTooSmall,
    InvalidValue,
    Key,
    LabelSpacesDiffer,
    NoTrainingSamples,
    OneClassOnly,
    RegionGridTooLarge,
    ScenarioError,
    UnknownArchitecture,
)
from fedskd_sim.learning.data import facts
from fedskd_sim.learning.installed import UNBUILDABLE, guarded
from fedskd_sim.learning.models import (
    SMALLEST_REGIONS,
    ImageShape,
    Outline,
    blueprint,
    examine,
    kind_of,
    minimum_input,
    names,
    options,
    outline,
    parameter_count,
)
from fedskd_sim.learning.samples import Facts
from fedskd_sim.scenario import FML, Algorithm, Architecture, Averaging, Circulating, FedSKD, Hospital, Placebo, Scenario, nearest

LARGEST_OPTION = 4096
MOST_PARAMETERS = 500_000_000
COMMON: tuple[Key, ...] = ("algorithm", "architecture")


def problems(scenario: Scenario, folder: Path | None) -> Iterator[FedskdError]:
    """Find everything wrong with a scenario that takes its models and its data to find out.

    Args:
        scenario: the scenario.
        folder: where data files are; None looks at the environment.

    Yields:
        Errors with the scenario key they belong to.

    """
    if isinstance(scenario.algorithm, Placebo):
        return
    known: list[tuple[str, Facts]] = []
    for index, hospital in enumerate(scenario.hospitals):
        try:
            found = facts(hospital.data, hospital.name, scenario.seed, folder)
        except ScenarioError as error:
            error.key = ("hospitals", index, *error.key)
            yield error
            continue
        if found is None:
            yield _no_data(hospital.name, ("hospitals", index))
            continue
        known.append((hospital.name, found))
        yield from _labels(index, hospital, found, known[0])
        yield from _architecture(scenario, scenario.architecture(hospital.name), _place(scenario, index), found)
    algorithm = scenario.algorithm
    if isinstance(algorithm, FML) and algorithm.architecture and known:
        yield from _architecture(scenario, algorithm.architecture, COMMON, known[0][1])
    yield from _common(scenario)
    yield from _devices(scenario)


def image_shape(scenario: Scenario, name: str, folder: Path | None) -> ImageShape:
    """Tell what images a hospital has; raises as `fedskd_sim.learning.data.facts`, and DataMissing without data."""
    found = facts(scenario.hospital(name).data, name, scenario.seed, folder)
    if found is None:
        raise _no_data(name, ("data",))
    return ImageShape(found.channels, found.size, len(found.classes), found.kind)


def pixel_grid(scenario: Scenario, shape: ImageShape) -> tuple[int, int] | None:
    """Give the canonical grid of the pixel level: as the scenario says, or the coarsest middle map; None for ROI data."""
    if shape.kind == "roi":
        return None
    algorithm = scenario.algorithm
    chosen = algorithm.circulating.similarity.pixel_grid if isinstance(algorithm, Circulating) else None
    if chosen:
        return chosen, chosen
    kinds = {hospital.architecture.model_dump_json(): hospital.architecture for hospital in scenario.hospitals}
    sizes = [outline(architecture, shape).mid[1:] for architecture in kinds.values()]
    return min(size[0] for size in sizes), min(size[1] for size in sizes)


def _no_data(name: str, key: tuple[Key, ...]) -> DataMissing:
    return DataMissing(f"{name!r} has no data", key=key, fix="add 'data: {name: synthetic-skin}', or another kind of data")


def _labels(index: int, hospital: Hospital, found: Facts, first: tuple[str, Facts]) -> Iterator[FedskdError]:
    key = ("hospitals", index, "data")
    if found.classes != first[1].classes:
        text = f"{hospital.name!r} has the classes {_listed(found)}, {first[0]!r} has {_listed(first[1])}"
        yield LabelSpacesDiffer(text, key=key, fix="give all hospitals the same classes")
    elif (found.kind, found.size, found.channels) != (first[1].kind, first[1].size, first[1].channels):
        text = f"{hospital.name!r} has {_inputs(found)}, {first[0]!r} has {_inputs(first[1])}"
        yield LabelSpacesDiffer(text, key=key, fix="give all hospitals images of one size, or the regions of one atlas")
    present = np.unique(found.train_labels)
    if not len(present):
        yield NoTrainingSamples(f"{hospital.name!r} has no training samples", key=key, fix="give it data, or leave it out")
    elif len(present) == 1:
        text = f"all {len(found.train_labels)} training samples of {hospital.name!r} are {found.classes[present[0]]!r}"
        cut = ", or cut the data set with a larger alpha or another seed" if getattr(hospital.data, "partition", None) else ""
        yield OneClassOnly(text, key=key, fix="give it a second class, or leave it out" + cut)


def _inputs(found: Facts) -> str:
    return (
        f"images of {found.size} pixels{' in grey' * (found.channels == 1)}"
        if found.kind == "image"
        else f"connectivity of {found.size} regions"
    )


def _listed(found: Facts) -> str:
    return f"{', '.join(found.classes)} ({len(found.classes)})"


def _common(scenario: Scenario) -> Iterator[FedskdError]:
    """Refuse different architectures where models are averaged."""
    first = scenario.hospitals[0]
    if not isinstance(scenario.algorithm, Averaging) or scenario.algorithm.architecture:
        return
    for index, hospital in enumerate(scenario.hospitals):
        if hospital.architecture != first.architecture:
            text = f"{hospital.name!r} has {_described(hospital.architecture)}, {first.name!r} has {_described(first.architecture)}"
            fix = f"{scenario.algorithm.name} averages models of one architecture: make them equal, or set algorithm.architecture"
            yield ArchitecturesDiffer(text, key=("hospitals", index, "architecture"), fix=fix)


def _described(architecture: Architecture) -> str:
    chosen = ", ".join(f"{name} {value}" for name, value in architecture.options.items())
    return architecture.name + (f" ({chosen})" if chosen else "")


def _place(scenario: Scenario, index: int) -> tuple[Key, ...]:
    """Say where the architecture of a hospital's model is written."""
    common = isinstance(scenario.algorithm, Averaging) and scenario.algorithm.architecture
    return COMMON if common else ("hospitals", index, "architecture")


def _architecture(scenario: Scenario, chosen: Architecture, key: tuple[Key, ...], found: Facts) -> Iterator[FedskdError]:
    if chosen.name not in names():
        fix = f"{nearest(chosen.name, names(), '')} there are {', '.join(names())}".lstrip()
        yield UnknownArchitecture(f"there is no architecture {chosen.name!r}", key=key, fix=fix)
        return
    if kind_of(chosen.name) != found.kind:
        fitting = [name for name in names() if kind_of(name) == found.kind]
        text = f"{chosen.name} cannot take {_inputs(found)}"
        yield InvalidValue(text, key=key, fix=f"choose one of {', '.join(fitting)}, or other data")
        return
    shape = ImageShape(found.channels, found.size, len(found.classes), found.kind)
    try:
        yield from _built(chosen, shape, key, scenario.algorithm)
    except FedskdError as error:
        error.key = (*key, *error.key)
        yield error


def _built(chosen: Architecture, shape: ImageShape, key: tuple[Key, ...], algorithm: Algorithm) -> Iterator[FedskdError]:
    """Build an architecture without values; raises what its package or its file of weights has wrong, with a key inside its own."""
    examine(chosen.name)
    wrong = [*_options(chosen, key)]
    if wrong:
        yield from wrong
        return
    seen = _outlined(chosen, shape)
    if isinstance(seen, str):
        yield from _unbuildable(chosen, shape, key, seen)
    elif isinstance(algorithm, Circulating) and shape.kind == "image":
        yield from _grids(algorithm.circulating, (chosen, shape, seen), key)


def _options(chosen: Architecture, key: tuple[Key, ...]) -> Iterator[FedskdError]:
    """Check the names and the kinds of an architecture's options."""
    known = options(chosen.name)
    for name, value in chosen.options.items():
        place = (*key, "options", name)
        if name not in known:
            fix = nearest(name, list(known), "") + f" {chosen.name} has the options {', '.join(known)}"
            yield InvalidValue(f"{chosen.name} has no option {name!r}", key=place, fix=fix.lstrip())
        elif type(value) is not type(known[name]) or (type(value) is int and not 1 <= value <= LARGEST_OPTION):
            shown = str(value).lower() if isinstance(value, bool) else repr(value)
            yield InvalidValue(f"{name} is {shown}", key=place, fix=f"give {_wanted(known[name])}")


def _wanted(default: object) -> str:
    """Say what an option with such a default may be."""
    match default:
        case bool():
            return "true or false"
        case int():
            return f"a whole number from 1 to {LARGEST_OPTION}, like {default}"
        case float():
            return f"a number with a decimal point, like {default}"
        case "":
            return "a word"
    return f"a word, like {default!r}"


def _unbuildable(chosen: Architecture, shape: ImageShape, key: tuple[Key, ...], reason: str) -> Iterator[FedskdError]:
    """Find the options that an architecture cannot have, or say that its plain form cannot take the image."""
    plain = Architecture(name=chosen.name)
    if shape.kind == "image" and isinstance(_outlined(plain, shape), str):
        smallest = minimum_input(plain, shape.channels)
        if smallest is None:
            text = f"{chosen.name} cannot be built for {shape.size} x {shape.size} pixels: {reason}"
            yield InvalidValue(text, key=key, fix="use other images, or another architecture")
            return
        text = f"{shape.size} x {shape.size} pixels are too small for {chosen.name}: {reason}"
        yield ImageTooSmall(text, key=key, fix=f"use images of at least {smallest} pixels, or another architecture")
        return
    alone = {
        name: _outlined(Architecture(name=chosen.name, options={name: value}), shape) for name, value in chosen.options.items()
    }
    culprits = {name: why for name, why in alone.items() if isinstance(why, str)}
    for name, why in culprits.items():
        text = f"{chosen.name} cannot have {name} {chosen.options[name]!r}: {why}"
        fix = f"choose another value; the default is {options(chosen.name)[name]!r}"
        yield InvalidValue(text, key=(*key, "options", name), fix=fix)
    if not culprits:
        text = f"{chosen.name} cannot have these options together: {reason}"
        yield InvalidValue(text, key=(*key, "options"), fix="change one of them")


def _outlined(chosen: Architecture, shape: ImageShape) -> Outline | str:
    """Outline an architecture for images of a shape, or say why it cannot be built."""
    try:
        with guarded():
            count = parameter_count(blueprint(chosen, shape))
        if count > MOST_PARAMETERS:
            return f"the model would have {count:,} parameters, the most is {MOST_PARAMETERS:,}"
        return outline(chosen, shape)
    except UNBUILDABLE as error:
        return str(error).partition("\n")[0]


def _grids(algorithm: FedSKD, built: tuple[Architecture, ImageShape, Outline], key: tuple[Key, ...]) -> Iterator[FedskdError]:
    """Compare the similarity's grids with the feature maps."""
    similarity, (chosen, shape, seen) = algorithm.similarity, built
    at = f"of {chosen.name} at {shape.size} pixels"
    if similarity.pixel and similarity.pixel_grid and similarity.pixel_grid > min(seen.mid[1:]):
        text = f"pixel_grid {similarity.pixel_grid} is finer than the middle map {at}, {seen.mid[1]} x {seen.mid[2]}"
        fix = f"set algorithm.similarity.pixel_grid to {min(seen.mid[1:])} or less, or choose another architecture"
        yield RegionGridTooLarge(text, key=key, fix=fix)
    deep = min(seen.deep[1:])
    if similarity.region and similarity.region_grid > deep:
        text = f"region_grid {similarity.region_grid} is finer than the deep map {at}, {seen.deep[1]} x {seen.deep[2]}"
        larger = minimum_input(chosen, shape.channels) if similarity.region_grid <= SMALLEST_REGIONS else None
        if larger:
            fix = f"use images of at least {larger} pixels, or another architecture"
            yield ImageTooSmall(f"{shape.size} x {shape.size} pixels are too small: {text}", key=key, fix=fix)
        else:
            fix = f"set algorithm.similarity.region_grid to {deep} or less, use larger images, or choose another architecture"
            yield RegionGridTooLarge(text, key=key, fix=fix)


def _devices(scenario: Scenario) -> Iterator[FedskdError]:
    for index, hospital in enumerate(scenario.hospitals):
        if hospital.device.startswith("cuda"):
            number = int(hospital.device.partition(":")[2] or 0)
            if number >= torch.cuda.device_count():
                text = f"{hospital.device!r} is not here: this machine has {torch.cuda.device_count()} CUDA devices"
                yield DeviceUnavailable(text, key=("hospitals", index, "device"), fix="use 'cpu', or a machine with it")
