"""The registry of architectures: build one by name, and know what it needs without running it."""

from __future__ import annotations

import inspect
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import nn

from fedskd_sim.learning.networks import roi, small, vision
from fedskd_sim.learning.samples import Kind
from fedskd_sim.scenario import Architecture

Builder = Callable[..., nn.Module]
SMALLEST_REGIONS = 4
LISTED_CLASSES = 7
LISTED_REGIONS = 110
UNBUILDABLE = (RuntimeError, ValueError, ZeroDivisionError, TypeError, AssertionError)
"""What PyTorch raises when an architecture cannot have its input or its options."""
SIZES = (8, 12, 16, 20, 24, 28, 32, 48, 64, 96, 128, 160, 192, 224)

REGISTRY: Mapping[str, Builder] = MappingProxyType(
    {
        "cnn-plain": small.plain,
        "cnn-residual": small.residual,
        "cnn-depthwise": small.depthwise,
        "vit-tiny": small.transformer,
        "resnet18": vision.resnet18,
        "mobilenet-v3-small": vision.mobilenet_v3_small,
        "roi-mlp": roi.mlp,
        "roi-brainnet": roi.brainnet,
        "roi-gcn": roi.gcn,
        "roi-transformer": roi.transformer,
    }
)


class ImageShape(NamedTuple):
    """What goes in and how many classes come out: images (channels, size, size), or connectivity of ``size`` regions."""

    channels: int
    size: int
    classes: int
    kind: Kind = "image"

    def blank(self) -> torch.Tensor:
        """Give a batch of one empty sample."""
        lead = (1,) if self.kind == "roi" else (1, self.channels)
        return torch.zeros(*lead, self.size, self.size)


@dataclass(frozen=True, slots=True)
class Outline:
    """What is known of an architecture without computing: parameters and the sizes (channels, height, width) of its taps."""

    parameters: int
    mid: tuple[int, ...]
    deep: tuple[int, ...]


def kind_of(name: str) -> Kind:
    """Tell what an architecture takes."""
    return "roi" if name.startswith("roi-") else "image"


def options(name: str) -> dict[str, object]:
    """List the options of an architecture with their defaults."""
    parameters = inspect.signature(REGISTRY[name]).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def build(architecture: Architecture, shape: ImageShape, seed: int) -> nn.Module:
    """Build a model with its initial weights drawn from ``seed``; its forward gives logits and taps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _made(architecture, shape)


def blueprint(architecture: Architecture, shape: ImageShape) -> nn.Module:
    """Build a model without memory or values (meta device), to know its tensors."""
    with torch.device("meta"):
        return _made(architecture, shape)


def outline(architecture: Architecture, shape: ImageShape) -> Outline:
    """Trace shapes through an architecture with one blank image.

    Raises:
        UNBUILDABLE: the input is too small for it, or an option has a wrong value.

    """
    model = build(architecture, shape, 0).eval()
    with torch.no_grad():
        _, taps = model(shape.blank())
    return Outline(parameter_count(model), tuple(taps.mid.shape[1:]), tuple(taps.deep.shape[1:]))


def parameter_count(model: nn.Module) -> int:
    """Count a model's parameters; works on the meta device."""
    return sum(parameter.numel() for parameter in model.parameters())


def fits(found: Outline) -> bool:
    """Tell whether every tap has at least the default region grid."""
    return min(*found.mid[1:], *found.deep[1:]) >= SMALLEST_REGIONS


def minimum_input(architecture: Architecture, channels: int = 3, classes: int = 2) -> int | None:
    """Find the smallest usual image size whose taps hold the default region grid; None if there is none up to 224."""

    def enough(size: int) -> bool:
        try:
            return fits(outline(architecture, ImageShape(channels, size, classes)))
        except UNBUILDABLE:
            return False

    place = bisect_left(SIZES, x=True, key=enough)
    return SIZES[place] if place < len(SIZES) else None


def _made(architecture: Architecture, shape: ImageShape) -> nn.Module:
    return REGISTRY[architecture.name](shape.channels, shape.size, shape.classes, **architecture.options)


def listing() -> str:
    """Write a table of all architectures for people: parameters and taps at the smallest input, and options."""
    head = f"{'architecture':<20}{'parameters':>12}{'min. input':>12}  {'mid tap':<14}{'deep tap':<14}options"
    lines = [head]
    for name, builder in REGISTRY.items():
        architecture, kind = Architecture(name=name), kind_of(name)
        size = minimum_input(architecture) if kind == "image" else LISTED_REGIONS
        seen = outline(architecture, ImageShape(3, size or SIZES[-1], LISTED_CLASSES, kind))
        taps = [" x ".join(map(str, tap)) for tap in (seen.mid, seen.deep)]
        given = ", ".join(f"{option}={default}" for option, default in options(name).items())
        unit = "px" if kind == "image" else "regions"
        pixels = f"{size} {unit}" if size else f"{SIZES[-1]} px *"
        lines.append(f"{name:<20}{seen.parameters:>12,}{pixels:>12}  {taps[0]:<14}{taps[1]:<14}{given}")
        lines.append(f"{'':<20}{(builder.__doc__ or '').strip().splitlines()[0]}")
    lines.append(
        f"parameters with {LISTED_CLASSES} classes; taps as channels x height x width at the minimum input, which leaves every tap"
    )
    lines.append(
        f"the default region grid of {SMALLEST_REGIONS} x {SMALLEST_REGIONS}; roi-... take connectivity of {LISTED_REGIONS} regions"
    )
    return "\n".join(lines)
