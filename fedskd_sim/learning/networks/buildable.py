"""Whether an architecture can be built as a scenario asks for it, and fits its input and the
similarity's grids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch

from fedskd_sim.errors import (
    FedskdError,
    ImageTooSmall,
    InvalidValue,
    Key,
    RegionGridTooLarge,
    UnknownArchitecture,
)
from fedskd_sim.learning.installed import UNBUILDABLE, translate_errors, wrong_options
from fedskd_sim.learning.networks.contract import Breach, find_breach
from fedskd_sim.learning.networks.models import (
    REGISTRY,
    SMALLEST_REGIONS,
    OtherClasses,
    Outline,
    blueprint,
    build,
    examine,
    kind_of,
    minimum_input,
    names,
    options,
    outline,
    parameter_count,
)
from fedskd_sim.learning.networks.named import NO_OBJECTS, class_option, wrong_arguments
from fedskd_sim.learning.networks.pretrained import PACKAGES, require
from fedskd_sim.learning.networks.shapes import AXES, GRIDLESS, ImageShape
from fedskd_sim.learning.networks.trainable import part_of
from fedskd_sim.learning.offers import place_of
from fedskd_sim.scenario import Algorithm, Architecture, FedSKD, NetworkPart, Tap, nearest

LARGEST_OPTION = 4096
CHANNELS = (1, 3, 4)
"""How many channels images have, as others give them."""
MOST_PARAMETERS = 500_000_000
PARTS: Mapping[NetworkPart, str] = MappingProxyType(
    {"head": "module with as many rows as classes", "norm": "normalisation"}
)
MAPS: Mapping[Tap, str] = MappingProxyType({"mid": "middle", "deep": "deep"})


class Contracts:
    """Remembers which architectures were held to the contract, for many hospitals may have one."""

    def __init__(self) -> None:
        """Begin with none."""
        self._found: dict[tuple[str, ImageShape], Breach | None] = {}

    def find(self, chosen: Architecture, shape: ImageShape) -> Breach | None:
        """Find what an architecture of a package breaks of the contract; built-in ones keep it."""
        if chosen.name in REGISTRY:
            return None
        key = chosen.model_dump_json(), shape
        if key not in self._found:
            self._found[key] = find_breach(chosen, shape)
        return self._found[key]


def itself(chosen: Architecture, key: tuple[Key, ...]) -> Iterator[FedskdError]:
    """Find what is wrong with an architecture whatever it is to learn from: its name, its
    package, its options' names and kinds.
    """
    if chosen.is_class:
        try:
            yield from (_under(key, error) for error in wrong_arguments(chosen))
        except FedskdError as error:
            yield _under(key, error)
        return
    if chosen.name not in names():
        near = nearest(chosen.name, names(), "choose another")
        fix = (
            f"{near}; 'fedskd-sim models' lists all {len(names())}, and one of your own comes with "
            "a package that has to be installed here; a class of a package is package.module:Class"
        )
        place, _, last = chosen.name.rpartition(".")
        if place and last[:1].isupper():
            fix = f"did you mean {place}:{last}? A class of a package is package.module:Class"
        yield UnknownArchitecture(f"there is no architecture {chosen.name!r}", key=key, fix=fix)
        return
    try:
        if chosen.name in PACKAGES:
            require(chosen.name)
        examine(chosen.name)
        yield from wrong_options(
            chosen.name, options(chosen.name), chosen.options, key, (1, LARGEST_OPTION)
        )
    except FedskdError as error:
        yield _under(key, error)
    if chosen.name in REGISTRY:
        yield from _fixed(chosen, key)


def _fixed(chosen: Architecture, key: tuple[Key, ...]) -> Iterator[FedskdError]:
    """Refuse to say of a built-in architecture what is known of it."""
    for name in ("input", "taps", "output"):
        if getattr(chosen, name) not in (None, kind_of(chosen.name)):
            text = f"{chosen.name} is built in, and its {name} cannot be chosen"
            fix = "leave it out; it is for networks of packages"
            yield InvalidValue(text, key=(*key, name), fix=fix)


def _under(key: tuple[Key, ...], error: FedskdError) -> FedskdError:
    """Add to an error the key under which its architecture stands."""
    error.key = (*key, *error.key)
    return error


def check_architecture(
    chosen: Architecture,
    shape: ImageShape,
    key: tuple[Key, ...],
    algorithm: Algorithm,
    *,
    atlas: bool,
    held: Contracts,
) -> Iterator[FedskdError]:
    """Build an architecture that `itself` finds right, and hold one of a package to its contract;
    raises what its file of weights has wrong, with a key inside its own.
    """
    seen = _try_outline(chosen, shape)
    if isinstance(seen, OtherClasses):
        yield _other_classes(chosen, shape, key, seen.count)
        return
    if isinstance(seen, Exception):
        by_grid = any(
            one.endswith(".region") for keys in algorithm.compared.values() for one in keys
        )
        cells = SMALLEST_REGIONS if by_grid and not atlas else 1
        yield from _unbuildable(chosen, shape, key, seen, cells)
        return
    if chosen.weights:
        build(chosen, shape, 0)
    if breach := held.find(chosen, shape):
        yield InvalidValue(f"{chosen.name} {breach.said}", key=key, fix=breach.fix)
        return
    yield from _unmoved(algorithm, chosen, shape, key)
    yield from _lacking(algorithm, chosen, shape, key)
    how = getattr(algorithm, "circulating", None)
    if how and shape.kind == "table":
        yield from _columns(how, (chosen, shape, seen), key)
    elif how and shape.kind not in GRIDLESS:
        yield from _grids(how, (chosen, shape, seen), key, atlas=atlas)


def _unmoved(
    algorithm: Algorithm, chosen: Architecture, shape: ImageShape, key: tuple[Key, ...]
) -> Iterator[FedskdError]:
    """Refuse to compare maps that nothing before them can change, for it would teach nothing."""
    compared: Mapping[Any, Sequence[str]] = algorithm.compared
    if not compared or (chosen.name in REGISTRY and not chosen.restricted):
        return
    model = build(chosen.model_copy(update={"weights": ""}), shape, 0).eval()
    with torch.enable_grad():
        _, taps = model(shape.blank())
    still = [tap for tap in compared if not taps.at(tap).requires_grad]
    if still:
        weights = [name for tap in still for name in compared[tap]]
        text = (
            f"nothing that trains comes before the {' and '.join(MAPS[tap] for tap in still)} map "
            f"of {chosen.name}, and {', '.join(weights)} would teach it nothing"
        )
        at = (*key, "trainable") if chosen.trainable != "all" else key
        fix = f"set {'it' if len(weights) == 1 else 'them'} to 0, or let more of it train"
        yield InvalidValue(text, key=at, fix=fix)


def _lacking(
    algorithm: Algorithm, chosen: Architecture, shape: ImageShape, key: tuple[Key, ...]
) -> Iterator[FedskdError]:
    """Refuse a network without a part that the algorithm treats apart."""
    needs: Mapping[Any, str] = algorithm.needs
    for part, said in needs.items():
        if not part_of(blueprint(chosen, shape), part, shape.classes):
            text = f"{chosen.name} has no {PARTS[part]}, and {said} asks for it"
            fix = f"give it one, choose another architecture, or another {said}"
            yield InvalidValue(text, key=key, fix=fix)


def _other_classes(
    chosen: Architecture, shape: ImageShape, key: tuple[Key, ...], count: int
) -> FedskdError:
    """Make the error of a network with logits of another number of classes than the data have."""
    text = f"{chosen.name} gives {count} logits, the data have {shape.classes} classes"
    fix = "give its last layer as many outputs as the function is told that there are classes"
    if chosen.is_class:
        name = class_option(chosen, count)
        fix = f"{name}: $classes, under options" if name else f"change its options; {NO_OBJECTS}"
        key = (*key, "options", name) if name in chosen.options else key
    return InvalidValue(text, key=key, fix=fix)


def _unbuildable(
    chosen: Architecture, shape: ImageShape, key: tuple[Key, ...], error: Exception, cells: int
) -> Iterator[FedskdError]:
    """Find the options that an architecture cannot have, or say that its plain form cannot take
    the image; a class has none. A tap needs so many ``cells`` along each axis.
    """
    reason = _first_line(error)
    plain = chosen if chosen.is_class else chosen.model_copy(update={"options": {}})
    if shape.kind not in GRIDLESS and isinstance(_try_outline(plain, shape), Exception):
        smallest = minimum_input(plain, shape.channels, shape.classes, cells)
        size, unit = _size_of(shape), "pixels" if shape.kind == "image" else "voxels"
        if smallest is None or smallest <= shape.size:
            text = f"{chosen.name} cannot be built for {size} {unit}: {reason}"
            yield InvalidValue(text, key=key, fix=_mended(chosen))
            return
        text = f"{size} {unit} are too small for {chosen.name}: {reason}"
        what = "images" if shape.kind == "image" else "volumes"
        fix = f"use {what} of at least {smallest} {unit} along each axis, or another architecture"
        yield ImageTooSmall(text, key=key, fix=f"{images_as_volumes(shape)}{fix}")
        return
    alone = {
        name: _try_outline(chosen.model_copy(update={"options": {name: value}}), shape)
        for name, value in chosen.options.items()
    }
    culprits = {name: _first_line(why) for name, why in alone.items() if isinstance(why, Exception)}
    for name, why in culprits.items():
        text = f"{chosen.name} cannot have {name} {chosen.options[name]!r}: {why}"
        fix = f"choose another value; the default is {options(chosen.name)[name]!r}"
        yield InvalidValue(text, key=(*key, "options", name), fix=fix)
    if not culprits:
        text = f"{chosen.name} cannot have these options together: {reason}"
        yield InvalidValue(text, key=(*key, "options"), fix="change one of them")


def _mended(chosen: Architecture) -> str:
    if chosen.is_class:
        return f"change its options, or choose another network; {NO_OBJECTS}"
    own = "" if chosen.name in REGISTRY else "mend it in its package, "
    return f"{own}use other images, or another architecture"


def images_as_volumes(shape: ImageShape) -> str:
    """Suggest what to do where volumes look like images whose channels come first; else empty."""
    if shape.kind != "volume" or len(shape.grid) != len(AXES["volume"]):
        return ""
    if shape.grid[0] not in CHANNELS or min(shape.grid[1:]) <= max(CHANNELS):
        return ""
    return (
        "floats of four dimensions are volumes here; give images as uint8 "
        "(n, S, S, 3), or (n, S, S) in grey; if they are volumes, "
    )


def _size_of(shape: ImageShape) -> str:
    return " x ".join(map(str, shape.grid or (shape.size,) * len(AXES[shape.kind])))


def _try_outline(chosen: Architecture, shape: ImageShape) -> Outline | Exception:
    """Outline an architecture for images of a shape, or return why it cannot be built."""
    try:
        with translate_errors():
            count = parameter_count(blueprint(chosen, shape))
        if count > MOST_PARAMETERS:
            text = f"the model would have {count:,} parameters, the most is {MOST_PARAMETERS:,}"
            return ValueError(text)
        return outline(chosen, shape)
    except UNBUILDABLE as error:
        return error


def _first_line(error: Exception) -> str:
    """Return what an error says first, and the line of the user's own code that raised it."""
    return f"{str(error).partition(chr(10))[0]}{place_of(error.__cause__ or error)}"


def _columns(
    algorithm: FedSKD,
    built: tuple[Architecture, ImageShape, Outline],
    key: tuple[Key, ...],
) -> Iterator[FedskdError]:
    """Refuse to compare the columns of a table in a map in which they are mixed."""
    similarity, own, (chosen, shape, seen) = (
        algorithm.similarity,
        algorithm.self_distillation,
        built,
    )
    cells = seen.at(similarity.region_tap)[1]
    said = [
        f"algorithm.{name}.region"
        for name, levels in (("similarity", similarity), ("self_distillation", own))
        if levels.region
    ]
    if said and cells != shape.size:
        text = (
            f"the {MAPS[similarity.region_tap]} map of {chosen.name} has no place for each of the "
            f"{shape.size} columns, which are the regions of a table"
        )
        fix = f"set {' and '.join(said)} to 0, or choose tab-transformer, whose tokens are columns"
        yield InvalidValue(text, key=key, fix=fix)


def _grids(
    algorithm: FedSKD,
    built: tuple[Architecture, ImageShape, Outline],
    key: tuple[Key, ...],
    *,
    atlas: bool,
) -> Iterator[FedskdError]:
    """Compare the similarity's grids with the feature maps; an atlas needs no grid of regions."""
    similarity, own, (chosen, shape, seen) = (
        algorithm.similarity,
        algorithm.self_distillation,
        built,
    )
    at = f"of {chosen.name} at {shape.size} pixels"
    pixels, regions = seen.at(similarity.pixel_tap), seen.at(similarity.region_tap)
    most = min(pixels[1:])
    if (similarity.pixel or own.pixel) and similarity.pixel_grid and similarity.pixel_grid > most:
        text = (
            f"pixel_grid {similarity.pixel_grid} is finer than the {MAPS[similarity.pixel_tap]} "
            f"map {at}, {_cells(pixels)}"
        )
        fix = (
            f"set algorithm.similarity.pixel_grid to {most} or less, or choose another architecture"
        )
        yield RegionGridTooLarge(text, key=key, fix=fix)
    most = min(regions[1:])
    if (similarity.region or own.region) and similarity.region_grid > most and not atlas:
        text = (
            f"region_grid {similarity.region_grid} is finer than the {MAPS[similarity.region_tap]} "
            f"map {at}, {_cells(regions)}"
        )
        yield _too_fine(text, similarity.region_grid, most, (chosen, shape), key)


def _too_fine(
    text: str, grid: int, most: int, built: tuple[Architecture, ImageShape], key: tuple[Key, ...]
) -> FedskdError:
    """Make the error of a grid of regions that is finer than the feature map: larger images help
    where the grid is as coarse as it may be, or at least a coarser one does.
    """
    chosen, shape = built
    larger = (
        minimum_input(chosen, shape.channels, shape.classes) if grid <= SMALLEST_REGIONS else None
    )
    if larger:
        what, unit = ("images", "pixels") if shape.kind == "image" else ("volumes", "voxels")
        fix = f"use {what} of at least {larger} {unit} along each axis, or another architecture"
        size = f"{_size_of(shape)} {unit} are too small"
        fix = f"tap an earlier module, or {fix}" if chosen.is_class else fix
        return ImageTooSmall(f"{size}: {text}", key=key, fix=images_as_volumes(shape) + fix)
    fix = (
        f"set algorithm.similarity.region_grid to {most} or less, use larger images, or choose "
        "another architecture"
    )
    return RegionGridTooLarge(text, key=key, fix=fix)


def _cells(tap: tuple[int, ...]) -> str:
    return " x ".join(map(str, tap[1:]))
