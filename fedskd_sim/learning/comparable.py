"""Whether hospitals can learn together from what each of them has: the same classes, inputs of one
shape, space and atlas, and a grid on which the ring can compare their maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from itertools import combinations
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from fedskd_sim.errors import (
    DataMissing,
    FedskdError,
    InvalidValue,
    Key,
    LabelSpacesDiffer,
    ReaderFailed,
    ScenarioError,
)
from fedskd_sim.learning.canaries import counted
from fedskd_sim.learning.data import facts
from fedskd_sim.learning.distillation.arrangements import LEAST_MASS
from fedskd_sim.learning.networks.models import Outline, outline
from fedskd_sim.learning.networks.shapes import AXES, GRIDLESS, ImageShape
from fedskd_sim.learning.readers import places, reading
from fedskd_sim.learning.readers.cohort import SPLITS
from fedskd_sim.learning.samples import Arrays, Facts, Images
from fedskd_sim.scenario import Abide, FedSKD, Ham10000, Hospital, MedMnist, Scenario, Similarity

IN_ORDER = (
    "let the reader give the same rows in the same order every time: names in a folder, in a set "
    "or of a query come in any, so sort them"
)

IN_ONE_ARRAY = (MedMnist, Ham10000, Abide)
"""Data sets of which all samples are one array, that is read in a second or two."""
LARGEST_ARCHIVE = 512 << 20
"""Bytes of a file of which that is still so; MedMNIST of 28 x 28 pixels has at most 206 MB."""


def shape_of(found: Facts) -> ImageShape:
    """Return the part of the facts that decides what a model looks like."""
    return ImageShape(found.channels, found.size, len(found.classes), found.kind, found.grid)


def compare(
    index: int, hospital: Hospital, found: Facts, known: Sequence[tuple[str, Facts]]
) -> Iterator[FedskdError]:
    """Compare a hospital's data, which are the last that are known, with those before."""
    first, key = known[0], ("hospitals", index, "data")
    yield from _compare_rows(index, hospital, found, known[:-1])
    if found.classes != first[1].classes:
        text = (
            f"{hospital.name!r} has the classes {_list_classes(found)}, {first[0]!r} has "
            f"{_list_classes(first[1])}"
        )
        yield LabelSpacesDiffer(text, key=key, fix="give all hospitals the same classes")
    elif found.multi_label != first[1].multi_label:
        several, single = (hospital.name, first[0])[:: 1 if found.multi_label else -1]
        text = f"{several!r} has several labels per sample, {single!r} has one"
        yield LabelSpacesDiffer(text, key=key, fix="give all hospitals labels of one kind")
    elif found.columns != first[1].columns:
        yield _other_columns(hospital.name, found, first, key)
    elif apart := _apart(found, first[1]):
        fix = (
            "bring the volumes of all hospitals to one space, for example by resampling to a "
            "template"
        )
        yield LabelSpacesDiffer(apart, key=key, fix=fix)
    elif shape_of(found)._replace(classes=0) != shape_of(first[1])._replace(classes=0):
        fix = "give all hospitals images or volumes of one size, or the regions of one atlas"
        own, theirs = inputs_of(found), inputs_of(first[1])
        if found.kind == first[1].kind and found.channels != first[1].channels:
            own, theirs = (f"{inputs_of(one)}{_channels(one)}" for one in (found, first[1]))
            fix = "give all hospitals samples of as many channels"
            fix += ": all images in grey, or all in colour" if found.kind == "image" else ""
        text = f"{hospital.name!r} has {own}, {first[0]!r} has {theirs}"
        yield LabelSpacesDiffer(text, key=key, fix=fix)
    elif not np.array_equal(_atlas(found), _atlas(first[1])):
        text = f"{hospital.name!r} has another atlas than {first[0]!r}"
        yield LabelSpacesDiffer(text, key=key, fix="give all hospitals the same atlas")


def _compare_rows(
    index: int, hospital: Hospital, found: Facts, others: Sequence[tuple[str, Facts]]
) -> Iterator[FedskdError]:
    """Compare what a reader of one's own gave for a hospital with what it gave for those before
    it, and refuse samples that one of these has, too, under the same id.
    """
    if found.given is None:
        return
    for name, other in others:
        if other.given is None:
            continue
        theirs = other.given.columns if other.given.source == found.given.source else {}
        own = found.given.columns
        if differ := [what for what in own if theirs.get(what, own[what]) != own[what]]:
            text = (
                f"reader {found.given.source} gives other {', '.join(differ)} when it is called for"
                f" {hospital.name!r} than for {name!r}"
            )
            yield ReaderFailed(text, key=("hospitals", index, "data", "reader"), fix=IN_ORDER)
            return
        shared = _shared(other, found)
        twice = [ids[0] for ids, _ in shared if ids[0] and ids[0] == ids[1]]
        if twice:
            text = f"{hospital.name!r} has {len(twice)} of the samples of {name!r}, as {twice[0]!r}"
            fix = "let every sample be one hospital's"
            yield InvalidValue(text, key=("hospitals", index, "data"), fix=fix)
            return


def notes_of(known: Sequence[Facts]) -> Iterator[str]:
    """Describe what is odd about data and no error: each hospital's, and samples that two of them
    have under other ids, or without any.
    """
    for found in known:
        yield from (f"Note: {found.counts.host}: {note}." for note in found.notes)
    for one, other in combinations([found for found in known if found.given], 2):
        shared = [parts for ids, parts in _shared(one, other) if not ids[0] or ids[0] != ids[1]]
        tested = sum("train" in parts and "test" in parts for parts in shared)
        yield from _in_words((one.counts.host, other.counts.host), len(shared), tested)


def notes_of_arrays(
    scenario: Scenario, folder: Path | None, tell: Callable[[str], None]
) -> Iterator[str]:
    """Name the samples that two hospitals have, under whatever ids, where a data set is one array
    of a file: what was published twice can train at one and test at the other.

    Args:
        scenario: in which nothing else is wrong.
        folder: where data files are; None looks at the environment.
        tell: is told the name of every hospital before its samples are read.

    Raises:
        DataMissing, DataCorrupt: with their key, what only reading all samples shows.

    """
    sets = {
        index: hospital
        for index, hospital in enumerate(scenario.hospitals)
        if isinstance(hospital.data, IN_ONE_ARRAY)
        and _array_of(hospital, folder).stat().st_size <= LARGEST_ARCHIVE
    }
    held = dict[str, dict[bytes, set[str]]]()
    for index, hospital in sets.items() if len(sets) > 1 else ():
        tell(hospital.name)
        try:
            samples = reading.load(hospital.data, folder, scenario.seed, hospital.name)
            held[hospital.name] = _marks(samples)
        except ScenarioError as error:
            error.key = ("hospitals", index, *error.key)
            raise
    for one, other in combinations(held, 2):
        shared = [(held[one][mark], held[other][mark]) for mark in held[one].keys() & held[other]]
        tested = sum(
            ("train" in own and "test" in theirs) or ("test" in own and "train" in theirs)
            for own, theirs in shared
        )
        yield from _in_words((one, other), len(shared), tested)


def _array_of(hospital: Hospital, folder: Path | None) -> Path:
    """Return the file with a hospital's samples: of its part, or of the whole; DataMissing."""
    if part := places.part_of(folder, hospital.name):
        return part / places.SAMPLES
    return places.find(getattr(hospital.data, "file", ""), folder)


def _marks(found: Images | Arrays) -> dict[bytes, set[str]]:
    """Take digests of samples, but of those without any contrast, each with the splits it is in."""
    values = found.values if isinstance(found, Arrays) else found.pixels
    flat, marks = values.reshape(len(values), -1), dict[bytes, set[str]]()
    told = flat.min(axis=1) != flat.max(axis=1)
    for split, rows in zip(SPLITS, found.splits, strict=True):
        for row in rows[told[rows]]:
            marks.setdefault(sha256(flat[row].tobytes()).digest(), set()).add(split)
    return marks


def _in_words(names: tuple[str, str], shared: int, tested: int) -> Iterator[str]:
    """Describe how many samples two hospitals have, and how many train at one and test at the
    other.
    """
    if shared:
        yield (
            f"Note: {names[0]} and {names[1]} have {shared} samples that are the same value for "
            f"value, and {tested} of them train at one and test at the other."
        )


def _shared(one: Facts, other: Facts) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """List the samples that two hospitals have: the ids of both, and the splits of both."""
    if one.given is None or other.given is None:
        return []
    first, second = one.given.pictures, other.given.pictures
    pairs = ((first[mark], second[mark]) for mark in first if mark in second)
    return [((a[0], b[0]), (a[1], b[1])) for a, b in pairs]


def _other_columns(
    name: str, found: Facts, first: tuple[str, Facts], key: tuple[Key, ...]
) -> FedskdError:
    """Make the error of a hospital whose table has other columns than the first one's."""
    own, theirs = found.columns, first[1].columns
    if not (own and theirs):
        text = f"{name!r} has {inputs_of(found)}, {first[0]!r} has {inputs_of(first[1])}"
        return LabelSpacesDiffer(text, key=key, fix="give all hospitals samples of one kind")
    odd = [one for one in own if one not in theirs] or [one for one in theirs if one not in own]
    text = f"{name!r} has other columns than {first[0]!r}, or in another order"
    text += f": {', '.join(odd)} stand at one of them only" if odd else ""
    fix = "declare the same columns in the same order for all; one may be empty at a hospital"
    return LabelSpacesDiffer(text, key=key, fix=fix)


def _apart(found: Facts, first: Facts) -> str:
    """Describe how the volumes of two hospitals lie otherwise; empty if they do not, or are no
    volumes.
    """
    if found.kind != "volume" or first.kind != "volume" or found.geometry is first.geometry is None:
        return ""
    if found.geometry is None or first.geometry is None:
        known = found.geometry or first.geometry
        return (
            f"{known.source if known else ''} says where its voxels lie, and the volumes of "
            "another hospital do not"
        )
    return found.geometry.difference(first.geometry)


def _atlas(found: Facts) -> Any:
    return () if found.atlas is None else found.atlas


def inputs_of(found: Facts) -> str:
    """Describe in words what goes into a model."""
    if found.kind == "volume":
        return f"volumes of {' x '.join(map(str, found.grid))} voxels"
    if found.kind == "table":
        return f"tables of {found.size} columns"
    return (
        f"images of {found.size} pixels{' in grey' * (found.channels == 1)}"
        if found.kind == "image"
        else f"connectivity of {found.size} regions"
    )


def _channels(found: Facts) -> str:
    """Describe how many channels there are, where `inputs_of` does not."""
    if found.kind == "image":
        return "" if found.channels == 1 else " in colour"
    what = "number" if found.kind == "table" else "channel"
    return f" of {found.channels} {what}{'s' * (found.channels != 1)}"


def _list_classes(found: Facts) -> str:
    return f"{', '.join(found.classes)} ({len(found.classes)})"


def image_shape(scenario: Scenario, name: str, folder: Path | None) -> ImageShape:
    """Return what images a hospital has; raises as `fedskd_sim.learning.data.facts`, and
    DataMissing without data.
    """
    return shape_of(require_facts(scenario, name, folder))


def require_facts(scenario: Scenario, name: str, folder: Path | None) -> Facts:
    """Return what is known of a hospital's data; raises as `image_shape`."""
    found = facts(scenario.hospital(name).data, name, scenario.seed, folder)
    if found is None:
        raise no_data(name, ("data",))
    return counted(found, scenario, name) if scenario.audit else found


def pixel_grid(scenario: Scenario, shape: ImageShape) -> tuple[int, ...] | None:
    """Return the canonical grid of the pixel level: the scenario's, or the coarsest of the maps
    compared; None for ROI data and tables.
    """
    if shape.kind in GRIDLESS:
        return None
    similarity = scenario.circulating.similarity if scenario.circulating else Similarity()
    if similarity.pixel_grid:
        return (similarity.pixel_grid,) * len(AXES[shape.kind])
    kinds = {
        hospital.architecture.model_dump_json(): hospital.architecture
        for hospital in scenario.hospitals
        if not hospital.held_out
    }
    sizes = [
        outline(architecture, shape).at(similarity.pixel_tap)[1:] for architecture in kinds.values()
    ]
    return tuple(min(cells) for cells in zip(*sizes, strict=True))


def notes_of_maps(scenario: Scenario, known: Sequence[Facts]) -> Iterator[str]:
    """Name the maps of which a level compares little or nothing, and taps that are swapped.

    Args:
        scenario: in which nothing else is wrong.
        known: what is known of every hospital's data.

    """
    how = scenario.circulating
    if not how or not known or known[0].kind in GRIDLESS:
        return
    maps = _maps_of(scenario, known)
    for name, (found, seen) in maps.items():
        if prod(seen.mid[1:]) < prod(seen.deep[1:]):
            yield (
                f"Note: {name}'s middle map is {_cells(seen.mid)}, coarser than its deep map, "
                f"{_cells(seen.deep)}: taps are the middle module, then the deep one."
            )
        if found.atlas is not None:
            yield from _few_regions(how, name, found, seen)
    tap, keys = how.similarity.pixel_tap, _keys(how, "pixel")
    if keys and prod(pixel_grid(scenario, shape_of(known[0])) or ()) == 1:
        coarse = [name for name, (_, seen) in maps.items() if prod(seen.at(tap)[1:]) == 1]
        why = f": so has the {tap} map of {', '.join(coarse)}" if coarse else ""
        yield (
            f"Note: the grid of the pixel level has one place{why}. Nothing is compared at this "
            f"level. Choose a finer {tap} tap, or set {keys} to 0."
            if not how.similarity.pixel_grid
            else "Note: algorithm.similarity.pixel_grid is one place, and nothing is compared at "
            f"the pixel level. Leave it out, or set {keys} to 0."
        )


def _keys(how: FedSKD, level: str) -> str:
    """List the keys of the weights with which a level is compared; empty where none is set."""
    keys = (key for compared in how.compared.values() for key in compared)
    return " and ".join(key for key in keys if key.endswith(f".{level}"))


def _maps_of(scenario: Scenario, known: Sequence[Facts]) -> dict[str, tuple[Facts, Outline]]:
    """Outline the architectures of those who train, each kind once."""
    outlines, maps = dict[str, Outline](), dict[str, tuple[Facts, Outline]]()
    for found in known:
        hospital = scenario.hospital(found.counts.host)
        if not hospital.held_out:
            kind = hospital.architecture.model_dump_json()
            if kind not in outlines:
                outlines[kind] = outline(hospital.architecture, shape_of(found))
            maps[hospital.name] = found, outlines[kind]
    return maps


def _few_regions(how: FedSKD, name: str, found: Facts, seen: Outline) -> Iterator[str]:
    """Note that less than half of an atlas's regions are large enough on a map to be compared."""
    tap, keys = how.similarity.region_tap, _keys(how, "region")
    mass = region_mass(np.asarray(found.atlas), seen.at(tap)[1:])
    kept = int((mass >= LEAST_MASS).sum())
    if keys and 2 * kept < len(mass):
        yield (
            f"Note: {name}'s {tap} map is {_cells(seen.at(tap))} for {inputs_of(found)}: {kept} of "
            f"{len(mass)} regions are compared at the region level. Choose a finer {tap} tap, "
            f"another architecture or larger volumes, or set {keys} to 0."
        )


def region_mass(atlas: Any, grid: Sequence[int]) -> Any:
    """Return the size of each region in feature cells (R,), as `atlas_pooling` finds it, at once
    for all regions.
    """
    weights = np.ones(())
    for size, cells in zip(atlas.shape, grid, strict=True):
        along = np.zeros(size)
        for cell in range(cells):
            place = slice(cell * size // cells, -(-(cell + 1) * size // cells))
            along[place] += 1 / (place.stop - place.start)
        weights = weights[..., None] * along
    return np.bincount(atlas.clip(0).ravel(), weights.ravel())[1:]


def _cells(tap: Sequence[int]) -> str:
    return " x ".join(map(str, tap[1:]))


def no_data(name: str, key: tuple[Key, ...]) -> DataMissing:
    """Return the error of a hospital that has no data."""
    return DataMissing(
        f"{name!r} has no data",
        key=key,
        fix="add 'data: {name: synthetic-skin}', or another kind of data",
    )
