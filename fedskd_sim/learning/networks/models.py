"""The registry of architectures: build one by name, and know what it needs without running it.

What an architecture looks like is found on the meta device, by shapes without values. There random
draws, normalisations and some activations run through PyTorch's compiler, whose import alone takes
a second or two; they are given here without it.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from math import prod
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from fedskd_sim import clock
from fedskd_sim.errors import FedskdError
from fedskd_sim.learning import installed
from fedskd_sim.learning.distillation.distill import Taps
from fedskd_sim.learning.installed import UNBUILDABLE, Builder, options_of
from fedskd_sim.learning.networks import (
    named,
    pretrained,
    roi,
    small,
    table,
    vision,
    volume,
)
from fedskd_sim.learning.networks.shapes import AXES, ImageShape, one_thread
from fedskd_sim.learning.networks.taps import Candidate, Wiring, attach, propose, trace
from fedskd_sim.learning.networks.trainable import head_of, restrict
from fedskd_sim.learning.networks.weightfiles import load_weights
from fedskd_sim.learning.samples import SampleKind
from fedskd_sim.messages import ITEM_BYTES
from fedskd_sim.scenario import Architecture, Tap

FILLS: frozenset[Callable[..., Any]] = frozenset(
    {
        Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_, nn.init.normal_,
        nn.init.uniform_, nn.init.constant_, nn.init.trunc_normal_, nn.init.kaiming_normal_,
        nn.init.kaiming_uniform_, nn.init.xavier_normal_, nn.init.xavier_uniform_,
    }
)  # fmt: skip
"""What gives a tensor, its first argument, other values."""
KEEPS_SHAPE: frozenset[Callable[..., Any]] = frozenset(
    {
        functional.group_norm, functional.layer_norm, functional.batch_norm, functional.hardswish,
        functional.hardsigmoid, functional.silu, functional.relu, functional.gelu,
    }
)  # fmt: skip
"""What gives a tensor of the shape of its first argument, and is no operation that PyTorch's
counter counts."""


class Skipping(TorchFunctionMode):
    """Within it some functions give their first argument as it is."""

    def __init__(self, functions: Collection[Callable[..., Any]]) -> None:
        """Name the architecture in the message."""
        super().__init__()
        self._functions = functions

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] = MappingProxyType({}),
    ) -> Any:
        """Pass a function by, or call it."""
        del types
        return (
            (args[0] if args else kwargs["tensor"])
            if func in self._functions
            else func(*args, **kwargs)
        )


def without_values() -> Skipping:
    """Return no tensor a value, which on the meta device nothing can see."""
    return Skipping(FILLS)


def shapes_only() -> Skipping:
    """Leave out what changes no shape, either: for architectures of which that is known to fail
    with no input.
    """
    return Skipping(FILLS | KEEPS_SHAPE)


Result = TypeVar("Result")
SMALLEST_REGIONS = 4
COMPILER = "torch._dynamo"
QUICK = 1 << 30
"""Multiplications that take some hundredths of a second."""
LONGEST_SEARCH_S = 10.0
"""How long the smallest input of a network of a package is searched for."""
SIZES = (8, 12, 16, 20, 24, 28, 32, 48, 64, 96, 128, 160, 192, 224)

REGISTRY: Mapping[str, Builder] = MappingProxyType(
    {
        "cnn-plain": small.plain,
        "cnn-residual": small.residual,
        "cnn-depthwise": small.depthwise,
        "vit-tiny": small.transformer,
        "resnet18": vision.resnet18,
        "resnet34": vision.resnet34,
        "resnet50": vision.resnet50,
        "mobilenet-v3-small": vision.mobilenet_v3_small,
        "mobilenet-v3-large": vision.mobilenet_v3_large,
        "efficientnet-b0": vision.efficientnet_b0,
        "densenet121": vision.densenet121,
        "vgg11": vision.vgg11,
        "shufflenet-v2": vision.shufflenet_v2,
        "convnext-tiny": vision.convnext_tiny,
        "vit-b-16": vision.vit_b_16,
        "swin-t": vision.swin_t,
        "efficientnet-lite0": pretrained.lite0,
        "efficientnet-lite1": pretrained.lite1,
        "efficientnet-lite2": pretrained.lite2,
        "vol-plain": volume.plain,
        "vol-residual": volume.residual,
        "vol-separable": volume.separable,
        "vol-r3d18": volume.r3d18,
        "roi-mlp": roi.mlp,
        "roi-brainnet": roi.brainnet,
        "roi-gcn": roi.gcn,
        "roi-transformer": roi.transformer,
        "tab-mlp": table.mlp,
        "tab-transformer": table.transformer,
    }
)


@dataclass(frozen=True, slots=True)
class Outline:
    """What is known of an architecture without computing: parameters and the sizes (channels,
    height, width) of its taps.
    """

    parameters: int
    mid: tuple[int, ...]
    deep: tuple[int, ...]

    def at(self, tap: Tap) -> tuple[int, ...]:
        """Return the size of a tap."""
        return self.mid if tap == "mid" else self.deep


def names() -> list[str]:
    """List all architectures: the built-in ones, then those of installed packages."""
    return [*REGISTRY, *(name for name in installed.names() if name not in REGISTRY)]


def examine(name: str) -> None:
    """Refuse what an installed package offers and cannot be used; raises as
    `fedskd_sim.learning.installed.load`.
    """
    if name not in REGISTRY or name in installed.names():
        installed.load(name, REGISTRY)


def kind_of(name: str) -> SampleKind:
    """Return what an architecture takes by its name."""
    return Architecture(name=name).takes


def options(name: str) -> dict[str, object]:
    """List the options of an architecture with their defaults."""
    return options_of(builder_of(name))


def build(architecture: Architecture, shape: ImageShape, seed: int) -> nn.Module:
    """Build a model with its initial weights drawn from ``seed``; its forward gives logits and
    taps.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = _build(architecture, shape)
    if architecture.weights:
        load_weights(made, architecture.weights, head_of(made, shape.classes))
    return made


def blueprint(architecture: Architecture, shape: ImageShape) -> nn.Module:
    """Build a model whose state dict has no values that matter, to know its tensors or to put
    weights into it.

    A built-in one has neither memory nor values (meta device). One of a package is built as at
    home: its code may look at values, keep some outside of the state dict, or give a tensor two
    names, and no copy of a finished model is sure to keep all that (a hook may hold the original).
    """
    if architecture.name not in REGISTRY:
        return build(architecture.model_copy(update={"weights": ""}), shape, 0)
    with torch.device("meta"), without_values():
        return _build(architecture, shape)


def with_memory(network: nn.Module, device: str) -> nn.Module:
    """Return a blueprint memory, laid out as ``to_empty`` does, which asks a compiler how; one that
    has memory only changes the device.
    """
    if not any(tensor.is_meta for tensor in network.parameters()):
        return network.to(device)

    def memory(tensor: Tensor) -> Tensor:
        like = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
        return torch.empty_like(like, device=device)  # strides that say nothing are chosen anew

    network._apply(memory)  # noqa: SLF001 - what ``to_empty`` calls
    return network


@one_thread()
def outline(architecture: Architecture, shape: ImageShape) -> Outline:
    """Trace shapes through an architecture with one blank sample, without computing where its
    operations allow that.

    Raises:
        UNBUILDABLE: the input is too small for it, an option has a wrong value, or it gives
            something else than logits and taps.

    """
    spares = COMPILER not in sys.modules and architecture.name in REGISTRY
    if spares and quick(architecture, shape):
        with suppress(*UNBUILDABLE), torch.no_grad():
            return outline_of(build(architecture, shape, 0).eval(), shape.blank(), shape)
    apart = 1 if architecture.name in REGISTRY else 2  # samples; one alone hides what mixes them

    def look(model: nn.Module, blank: Tensor) -> Outline:
        return outline_of(model, torch.cat([blank] * apart), shape)

    return act_on_blank(architecture, shape, look)


def quick(architecture: Architecture, shape: ImageShape) -> bool:
    """Return whether computing one blank sample takes less than the import of PyTorch's compiler,
    which operations without values ask for their shapes: at each place a layer meets each of its
    parameters once at most.
    """
    try:
        parameters = parameter_count(blueprint(architecture, shape))
    except UNBUILDABLE:
        return False
    places = prod(shape.grid or (shape.size,) * len(AXES[shape.kind]))
    return parameters * places <= QUICK


def outline_of(model: nn.Module, blank: Tensor, shape: ImageShape) -> Outline:
    """Pass blank samples through a model and tell what came out; TypeError if that is not
    logits and taps of the right shapes.
    """
    taps = check_output(model(blank), shape, len(blank))
    return Outline(parameter_count(model), tuple(taps.mid.shape[1:]), tuple(taps.deep.shape[1:]))


def act_on_blank(
    architecture: Architecture, shape: ImageShape, act: Callable[[nn.Module, Tensor], Result]
) -> Result:
    """Act on a model and a blank sample: without values, which make no difference to a built-in
    architecture.
    """
    with installed.translate_errors(), torch.no_grad():
        if architecture.name not in REGISTRY:
            return act(blueprint(architecture, shape).eval(), shape.blank())
        with shapes_only():
            return act(blueprint(architecture, shape).eval(), shape.blank().to("meta"))


TAPS = "'fedskd-sim models NAME', for own code with --scenario, proposes some"
"""Where taps of a network as it is are found."""


def _check_state(model: nn.Module) -> None:
    """Refuse a model with something in its state dict that cannot travel, or with nothing to
    train; TypeError says what.
    """
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            text = "in its state_dict is no tensor, and only tensors travel: register a buffer"
            raise TypeError(f"{name} {text}")
        if is_lazy(value):
            text = "has no shape before the first batch: give the layer its sizes, not Lazy..."
            raise TypeError(f"{name} {text}")
        kind = str(value.dtype).removeprefix("torch.")
        if kind not in ITEM_BYTES:
            raise TypeError(f"{name} is {kind}, and what travels is {', '.join(ITEM_BYTES)}")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TypeError("it has no parameter that trains (requires_grad)")


class OtherClasses(TypeError):
    """A network gives logits of another number of classes than the data have."""

    def __init__(self, text: str, count: int) -> None:
        """Keep how many there are."""
        super().__init__(text)
        self.count = count


def check_output(output: object, shape: ImageShape, samples: int) -> Taps:
    """Check what an architecture gives; TypeError if it is not (logits, Taps) of the right
    shapes.
    """
    wanted = f"forward has to give logits (B, {shape.classes}) and Taps(mid, deep)"
    if not isinstance(output, tuple) or len(output) != 2 or not isinstance(output[1], Taps):  # noqa: PLR2004 - the pair
        plain = f"; or name its taps: {TAPS}" if isinstance(output, Tensor) else ""
        raise TypeError(f"{wanted}, not {type(output).__name__}{plain}")
    logits, taps = output[0], output[1]
    for what, value in {"logits": logits, **taps._asdict()}.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{wanted}, and {what} is {type(value).__name__}, no tensor")
    if logits.shape != (samples, shape.classes):
        text = f"{wanted}, not logits {tuple(logits.shape)} for a batch of {samples}"
        counted = logits.ndim == 2 and len(logits) == samples  # noqa: PLR2004 - (B, classes)
        raise OtherClasses(text, logits.shape[1]) if counted else TypeError(text)
    for name, tap in zip(taps._fields, taps, strict=True):
        axes = AXES[shape.kind]
        if tap.ndim != 2 + len(axes):
            raise TypeError(
                f"the {name} tap has {tap.ndim} axes, not {2 + len(axes)}: (B, C, "
                f"{', '.join(axes)})"
            )
        if len(tap) != samples:
            raise TypeError(f"the {name} tap has {len(tap)} samples of a batch of {samples}")
    return taps


def parameter_count(model: nn.Module) -> int:
    """Count a model's parameters; works on the meta device."""
    return sum(parameter.numel() for parameter in model.parameters())


def fits(found: Outline, cells: int = SMALLEST_REGIONS) -> bool:
    """Return whether every tap has at least a grid, that of regions unless another is given."""
    return min(*found.mid[1:], *found.deep[1:]) >= cells


def minimum_input(
    architecture: Architecture,
    channels: int = 3,
    classes: int = 2,
    cells: int = SMALLEST_REGIONS,
) -> int | None:
    """Find the smallest usual size of images, or of cubes, whose taps hold a grid, by default that
    of regions; None up to 224, or where it takes long to find.
    """

    def enough(size: int) -> bool:
        shape = ImageShape(channels, size, classes, architecture.takes)
        try:
            return fits(outline(architecture, shape), cells)
        except OtherClasses:  # which no other size mends
            return True
        except (FedskdError, *UNBUILDABLE):
            return False

    if architecture.name not in REGISTRY:
        return _first(enough, len(AXES[architecture.takes]))
    place = bisect_left(SIZES, x=True, key=enough)
    return SIZES[place] if place < len(SIZES) else None


def _first(enough: Callable[[int], bool], axes: int) -> int | None:
    """Try sizes from the smallest on, for a network that computes each; None if none is enough
    before the search would be too long.
    """
    begun = clock.now()
    for size, larger in zip(SIZES, (*SIZES[1:], SIZES[-1]), strict=True):
        before = clock.now()
        if enough(size):
            return size
        now = clock.now()
        if now - begun + (now - before) * (larger / size) ** axes > LONGEST_SEARCH_S:
            break
    return None


def builder_of(name: str) -> Builder:
    """Find the function that builds an architecture; a built-in one first. Raises as
    `fedskd_sim.learning.installed.load`.
    """
    return REGISTRY[name] if name in REGISTRY else installed.load(name, REGISTRY)


def _build(architecture: Architecture, shape: ImageShape) -> nn.Module:
    made = _bare(architecture, shape)
    if architecture.name not in REGISTRY:
        _check_state(made)
    if architecture.is_class or architecture.taps or architecture.output is not None:
        chosen = architecture.taps or _propose(
            id(named.find(architecture.name)) if architecture.is_class else 0,
            architecture.model_dump_json(),
            shape,
        )
        attach(made, Wiring((chosen[0], chosen[1]), architecture.output, shape))
    if architecture.restricted:
        restrict(made, architecture, shape.classes)
    return made


def _bare(architecture: Architecture, shape: ImageShape) -> nn.Module:
    """Build a network as it is, with nothing attached."""
    if architecture.is_class:
        return named.construct(architecture, shape)
    builder = builder_of(architecture.name)
    given = installed.fill_in(options_of(builder), architecture.options)
    return builder(shape.channels, shape.size, shape.classes, **given)


@cache
def _propose(source: int, chosen: str, shape: ImageShape) -> tuple[str, str]:
    """Propose taps of an architecture, given as JSON, once in a process; ``source`` is the number
    of its class, which may be another one under the same name.
    """
    del source
    return propose(candidates_of(Architecture.model_validate_json(chosen), shape))


def candidates_of(architecture: Architecture, shape: ImageShape) -> list[Candidate]:
    """List the modules of a network that give maps; raises as `outline`."""
    with torch.random.fork_rng(devices=[]):
        return trace(_bare(architecture, shape), shape)
