"""What ``fedskd-sim models`` shows of an architecture: parameters, cost, taps, minimum input and
options.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fedskd_sim.errors import FedskdError, InvalidValue
from fedskd_sim.learning.distillation.distill import Taps
from fedskd_sim.learning.installed import UNBUILDABLE, translate_errors
from fedskd_sim.learning.networks.buildable import itself
from fedskd_sim.learning.networks.models import (
    REGISTRY,
    SIZES,
    SMALLEST_REGIONS,
    Outline,
    act_on_blank,
    builder_of,
    candidates_of,
    examine,
    kind_of,
    minimum_input,
    names,
    options,
    outline,
    outline_of,
)
from fedskd_sim.learning.networks.named import NO_OBJECTS
from fedskd_sim.learning.networks.shapes import ImageShape
from fedskd_sim.learning.networks.taps import Candidate, propose
from fedskd_sim.learning.samples import SampleKind
from fedskd_sim.scenario import Architecture

LISTED_CLASSES = 7
LISTED_REGIONS = 110
LISTED_COLUMNS = 13
LOOKED_AT: Mapping[SampleKind, ImageShape] = MappingProxyType(
    {
        "image": ImageShape(3, 128, LISTED_CLASSES),
        "roi": ImageShape(1, LISTED_REGIONS, LISTED_CLASSES, "roi"),
        "volume": ImageShape(1, 64, LISTED_CLASSES, "volume"),
        "table": ImageShape(3, LISTED_COLUMNS, LISTED_CLASSES, "table"),
    }
)
"""Samples of which a network is shown what its modules give."""
UNITS: Mapping[SampleKind, str] = MappingProxyType(
    {"image": "px", "roi": "regions", "volume": "voxels", "table": "columns"}
)


def shipped() -> str:
    """Compute what `fedskd_sim.learning.networks.listed` reads from its file: the table of the
    built-in architectures, what they are made of and cost at the smallest input, and options.
    """
    head = (
        f"{'architecture':<20}{'parameters':>12}{'min. input':>12}{'MFLOP':>10}  "
        f"{'mid tap':<20}{'deep tap':<17}options"
    )
    lines = [head, *(line for name in REGISTRY for line in lines_of(name))]
    lines.append(
        "at the minimum input, which leaves every tap the default region grid of "
        f"{SMALLEST_REGIONS} x {SMALLEST_REGIONS}"
    )
    lines.append(
        f"(roi-...: connectivity of {LISTED_REGIONS} regions; tab-...: {LISTED_COLUMNS} columns of "
        f"3 numbers; vol-...: cubes), {LISTED_CLASSES} classes; taps: channels x grid;"
    )
    lines.append(
        "MFLOP: millions of operations of one sample's forward pass, a multiplication with its "
        "addition as two"
    )
    return "\n".join(lines) + "\n"


def as_plain() -> list[dict[str, Any]]:
    """List all architectures as plain values: ``name``, ``kind`` of samples, ``parameters``,
    ``minimum_input`` (None: larger than all that were tried), ``operations`` of a forward pass
    there, ``taps``, ``options``; or ``error``, why one cannot be used.
    """
    return [_values(name) for name in names()]


def _values(name: str) -> dict[str, Any]:
    about: dict[str, Any] = {"name": name, "kind": kind_of(name)}
    try:
        size, found, operations = _look(name)
    except (FedskdError, *UNBUILDABLE) as error:
        return {**about, "error": str(error)}
    return {
        **about,
        "parameters": found.parameters,
        "minimum_input": size,
        "operations": operations,
        "taps": {"mid": [*found.mid], "deep": [*found.deep]},
        "options": {option: str(default) for option, default in options(name).items()},
    }


def _look(name: str) -> tuple[int | None, Outline, int]:
    """Find an architecture's least input, its outline there, and what a forward pass costs."""
    architecture, kind = Architecture(name=name), kind_of(name)
    examine(name)
    known = {"roi": LISTED_REGIONS, "table": LISTED_COLUMNS}
    size = known.get(kind) or minimum_input(architecture)
    shape = ImageShape(1 if kind == "volume" else 3, size or SIZES[-1], LISTED_CLASSES, kind)
    return size, *cost(architecture, shape)


def lines_of(name: str) -> tuple[str, str]:
    """Write an architecture's two lines, or what is wrong with it."""
    try:
        size, found, operations = _look(name)
    except (FedskdError, *UNBUILDABLE) as error:
        return f"{name:<20}cannot be used", f"{'':<20}{error}".replace("\n", f"\n{'':<20}")
    taps = [" x ".join(map(str, tap)) for tap in (found.mid, found.deep)]
    given = ", ".join(f"{option}={default}" for option, default in options(name).items())
    unit = UNITS[kind_of(name)]
    pixels = f"{size} {unit}" if size else f"{SIZES[-1]} {unit} *"
    about = inspect.getdoc(builder_of(name)) or "an architecture of an installed package"
    about = " ".join(about.partition("\n\n")[0].split())
    return (
        (
            f"{name:<20}{found.parameters:>12,}{pixels:>12}{operations / 1e6:>10,.1f}  "
            f"{taps[0]:<20}{taps[1]:<17}{given}"
        ),
        f"{'':<20}{about}",
    )


def cost(architecture: Architecture, shape: ImageShape) -> tuple[Outline, int]:
    """Outline an architecture and count the floating point operations of one sample's forward pass.

    A multiplication with its addition counts as two; convolutions, matrix products and attention
    count, as PyTorch's counter knows them. Raises as `fedskd_sim.learning.networks.models.outline`.
    """

    def count_flops(model: nn.Module, blank: Tensor) -> tuple[Outline, int]:
        with FlopCounterMode(display=False) as counter:
            found = outline_of(model, blank, shape)
        return found, int(counter.get_total_flops())

    if architecture.name not in REGISTRY:
        outline(architecture, shape)  # with more than the one sample that is counted
    return act_on_blank(architecture, shape, count_flops)


def modules_of(chosen: Architecture) -> str:
    """Write which modules of a network give maps, for people who choose its taps; of one that gives
    its taps by itself, its lines of the table.

    Raises:
        FedskdError: the network cannot be found, or cannot have these options.

    """
    for error in itself(chosen, ()):
        raise error
    shape = LOOKED_AT[chosen.takes]
    if not (chosen.is_class or chosen.taps or chosen.output is not None or _plain(chosen, shape)):
        return "\n".join(lines_of(chosen.name))
    unit, size = UNITS[chosen.takes], " x ".join(map(str, shape.space))
    try:
        with translate_errors():
            found = candidates_of(chosen, shape)
        mid, deep = chosen.taps or propose(found)
        count = outline(chosen.model_copy(update={"taps": (mid, deep)}), shape).parameters
    except UNBUILDABLE as error:
        raise InvalidValue(f"{chosen.name} cannot be built: {error}", fix=NO_OBJECTS) from error
    depth = max(mid.count("."), deep.count("."))
    shown = [one for one in found if one.name.count(".") <= depth]
    rows = [("module", "gives", "map"), *((one.name, *_sizes(one)) for one in shown)]
    widths = [max(len(row[place]) for row in rows) for place in (0, 1)]
    table = (f"{name:<{widths[0]}}  {gives:<{widths[1]}}  {map_}" for name, gives, map_ in rows)
    head = f"{chosen.name}: {count:,} parameters at {size} {unit}, {LISTED_CLASSES} classes"
    chosen_ = "chosen" if chosen.taps else "proposed"
    return "\n".join([head, *table, f"{chosen_}: taps: [{mid}, {deep}]"])


def _plain(chosen: Architecture, shape: ImageShape) -> bool:
    """Return whether a network of a function gives something else than logits and taps."""
    if chosen.name in REGISTRY:
        return False
    try:
        output = act_on_blank(chosen, shape, lambda model, blank: model(blank))
    except UNBUILDABLE:
        return False
    return not (isinstance(output, tuple) and isinstance(output[-1], Taps))


def _sizes(one: Candidate) -> tuple[str, str]:
    """Write what a module gives for a sample, and the map that this is."""
    return " x ".join(map(str, one.sizes)), " x ".join(map(str, one.map))
