"""torchvision's architectures with named taps, ``mid`` near stride 8 and ``deep`` at the last
stage; never downloads weights.

All are made for images of one channel as well as three, and without dropout and stochastic depth,
whose draws would come from the process's random state. Where torchvision has BatchNorm, ``norm``
says what stands in its place; ``weights`` names a safetensors file of pretrained weights that the
user has, a state dict with torchvision's names.

torchvision is imported when one of them is built: its import takes over a second and 100 MB that
other hospitals need not spend.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from fedskd_sim.errors import DataCorrupt, DataMissing, InvalidValue, Key
from fedskd_sim.learning.distillation.arrangements import AdaptiveAverage
from fedskd_sim.learning.distillation.distill import Taps
from fedskd_sim.learning.installed import Builder
from fedskd_sim.learning.networks.small import normalisation

KEY: tuple[Key, ...] = ("options", "weights")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@torch.no_grad()
def load(model: nn.Module, name: str) -> None:
    """Copy a file's tensors into a model; on the meta device only names and shapes are compared.

    The classifier, which is the last linear layer, stays as it is where the numbers of classes
    differ. A model with GroupNorm takes the scales and shifts of BatchNorm and leaves its running
    statistics.

    Args:
        model: a model with torchvision's names.
        name: the file, absolute or relative to the current folder.

    Raises:
        DataMissing: there is no such file.
        DataCorrupt: it is no safetensors file.
        InvalidValue: its tensors are not those of this model.

    """
    file = Path(name).expanduser()
    if not file.is_file():
        raise DataMissing(
            f"there is no file {name!r} in {Path.cwd()}",
            key=KEY,
            fix="give the path of a safetensors file",
        )
    wanted = model.state_dict()
    head = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    try:
        with safe_open(file, "pt") as kept:
            shapes = {key: tuple(kept.get_slice(key).get_shape()) for key in kept.keys()}  # noqa: SIM118 - not a mapping
            _compare(wanted, shapes, head, name)
            for key, tensor in wanted.items():
                if not tensor.is_meta and shapes[key] == tuple(tensor.shape):
                    tensor.copy_(kept.get_tensor(key))
    except (SafetensorError, OSError) as error:
        text = f"{name!r} is no safetensors file: {error}"
        raise DataCorrupt(
            text, key=KEY, fix="save a state dict with safetensors.torch.save_file"
        ) from error


def _compare(
    wanted: dict[str, torch.Tensor], shapes: dict[str, tuple[int, ...]], head: str, name: str
) -> None:
    """Refuse a file that lacks a tensor, has a foreign one, or one of another shape outside the
    head.
    """
    fix = "name a file of this architecture's weights, for this number of channels and image size"
    for key, tensor in wanted.items():
        if key not in shapes:
            raise InvalidValue(f"{name!r} has no tensor {key!r}", key=KEY, fix=fix)
        if shapes[key] != tuple(tensor.shape) and key.rpartition(".")[0] != head:
            text = f"{key!r} is {shapes[key]} in {name!r}, and {tuple(tensor.shape)} in the model"
            raise InvalidValue(text, key=KEY, fix=fix)
    for key in shapes:
        if key not in wanted and not key.endswith(STATISTICS):
            raise InvalidValue(
                f"{name!r} has a tensor {key!r}, which the model does not have", key=KEY, fix=fix
            )


class Tapped(nn.Module):
    """A backbone whose outputs at two named modules are kept during a forward pass."""

    def __init__(
        self,
        backbone: nn.Module,
        taps: tuple[str, str],
        as_map: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Hook the modules ``mid`` and ``deep``; ``as_map`` brings their outputs to (B, C, H, W)
        where they are something else.
        """
        super().__init__()
        self.backbone = backbone
        self._as_map = as_map
        self._maps: dict[str, Tensor] = {}
        for tap, name in zip(("mid", "deep"), taps, strict=True):
            # no way back to self: no cycle
            backbone.get_submodule(name).register_forward_hook(partial(_keep, self._maps, tap))

    def forward(self, images: Tensor) -> tuple[Tensor, Taps]:
        """Map images (B, C, H, W) to logits (B, classes) and taps (B, C', H', W')."""
        logits = self.backbone(images)
        mid, deep = self._maps.pop("mid"), self._maps.pop("deep")
        return logits, Taps(self._as_map(mid), self._as_map(deep)) if self._as_map else Taps(
            mid, deep
        )


def _keep(
    maps: dict[str, Tensor], tap: str, _module: nn.Module, _inputs: Any, output: Tensor
) -> None:
    maps[tap] = output


class _Plan(NamedTuple):
    """What torchvision calls an architecture, and which of its modules are tapped."""

    name: str
    mid: str
    deep: str


def _normalised(name: str, mid: str, deep: str, about: str) -> Builder:
    """Return the builder of an architecture in which torchvision has BatchNorm."""
    plan = _Plan(name, mid, deep)

    def build(
        channels: int,
        image_size: int,  # noqa: ARG001 - all builders take it
        classes: int,
        *,
        norm: str = "group",
        weights: str = "",
    ) -> nn.Module:
        return _with_taps(plan, (channels, classes), weights, norm=norm)

    build.__doc__ = about
    return build


def _as_it_is(
    name: str, mid: str, deep: str, about: str, as_map: Callable[[Tensor], Tensor] | None = None
) -> Builder:
    """Return the builder of an architecture with no BatchNorm; ``as_map`` as in `Tapped`."""
    plan = _Plan(name, mid, deep)

    def build(channels: int, image_size: int, classes: int, *, weights: str = "") -> nn.Module:  # noqa: ARG001 - all builders take it
        return _with_taps(plan, (channels, classes), weights, as_map=as_map)

    build.__doc__ = about
    return build


resnet18 = _normalised(
    "resnet18", "layer2", "layer4", "ResNet-18 (He et al. 2016); taps: layer2 and layer4."
)
resnet34 = _normalised(
    "resnet34", "layer2", "layer4", "ResNet-34 (He et al. 2016); taps: layer2 and layer4."
)
resnet50 = _normalised(
    "resnet50", "layer2", "layer4", "ResNet-50 (He et al. 2016); taps: layer2 and layer4."
)
mobilenet_v3_small = _normalised(
    "mobilenet_v3_small", "features.3", "features.12",
    "MobileNetV3-Small (Howard et al. 2019); taps: after strides 8 and 32.",
)  # fmt: skip
mobilenet_v3_large = _normalised(
    "mobilenet_v3_large", "features.6", "features.16",
    "MobileNetV3-Large (Howard et al. 2019); taps: after strides 8 and 32.",
)  # fmt: skip
efficientnet_b0 = _normalised(
    "efficientnet_b0", "features.3", "features.8",
    "EfficientNet-B0 (Tan and Le 2019); taps: after strides 8 and 32.",
)  # fmt: skip
densenet121 = _normalised(  # its last normalisation is no tap: torchvision rectifies it in place
    "densenet121", "features.denseblock2", "features.denseblock4",
    "DenseNet-121 (Huang et al. 2017); taps: the second and the fourth dense block.",
)  # fmt: skip
shufflenet_v2 = _normalised(
    "shufflenet_v2_x1_0", "stage2", "conv5",
    "ShuffleNetV2 x1.0 (Ma et al. 2018); taps: stage2 and conv5.",
)  # fmt: skip
vgg11 = _as_it_is(
    "vgg11", "features.10", "features.19",
    "VGG-11 without normalisation (Simonyan and Zisserman 2015); taps: after the third pooling\n"
    "and before the last.",
)  # fmt: skip
convnext_tiny = _as_it_is(
    "convnext_tiny", "features.3", "features.7",
    "ConvNeXt-Tiny (Liu et al. 2022); taps: the second and the last stage.",
)  # fmt: skip
swin_t = _as_it_is(
    "swin_t", "features.3", "features.7",
    "Swin-T (Liu et al. 2021); taps: the second and the last stage.",
    lambda places: places.permute(0, 3, 1, 2),
)  # fmt: skip


def vit_b_16(channels: int, image_size: int, classes: int, *, weights: str = "") -> nn.Module:
    """ViT-B/16 (Dosovitskiy et al. 2021); taps: tokens after layers 6 and 12, without the class
    token.
    """
    plan = _Plan("vit_b_16", "encoder.layers.encoder_layer_5", "encoder.layers.encoder_layer_11")
    as_map = partial(_token_map, grid=image_size // 16)
    return _with_taps(plan, (channels, classes), weights, as_map=as_map, image_size=image_size)


def _token_map(tokens: Tensor, grid: int) -> Tensor:
    """Lay tokens (B, 1 + grid * grid, C), the class token first, out as a map (B, C, grid,
    grid).
    """
    return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, grid, grid)


def _with_taps(
    plan: _Plan,
    ends: tuple[int, int],
    weights: str,
    *,
    norm: str = "batch",
    as_map: Callable[[Tensor], Tensor] | None = None,
    **settings: int,
) -> nn.Module:
    """Build torchvision's model, fit it to channels and classes, ``ends``, and to the
    normalisation, and load weights if a file is named.
    """
    from torchvision import models  # noqa: PLC0415 - see the module's docstring

    channels, classes = ends
    backbone = models.get_model(plan.name, weights=None, num_classes=classes, **settings)
    normalisation(norm, 1)
    first = True
    for name, module in [*backbone.named_modules()]:
        if isinstance(module, nn.BatchNorm2d) and norm != "batch":
            layers = normalisation(norm, module.num_features)
            backbone.set_submodule(name, next(iter(layers), nn.Identity()))
        elif isinstance(module, nn.Conv2d) and first:
            first = False
            if channels != module.in_channels:
                backbone.set_submodule(name, _widen(module, channels))
        elif isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size not in (1, (1, 1)):
            backbone.set_submodule(name, AdaptiveAverage(_grid(module)))
        elif hasattr(module, "p"):  # dropout and stochastic depth
            module.p = 0.0
    if weights:
        load(backbone, weights)
    return Tapped(backbone, (plan.mid, plan.deep), as_map)


def _grid(pooling: nn.AdaptiveAvgPool2d) -> tuple[int, int]:
    rows, columns = (
        pooling.output_size
        if isinstance(pooling.output_size, tuple)
        else (pooling.output_size, pooling.output_size)
    )
    if rows is None or columns is None:
        raise TypeError("pooling that keeps an axis has no fixed grid")
    return rows, columns


def _widen(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    """Make the first convolution anew for another number of channels."""
    across, down = conv.kernel_size[0], conv.kernel_size[1]
    made = nn.Conv2d(
        channels,
        conv.out_channels,
        (across, down),
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made
