"""Three-dimensional networks of clearly different kind and size: plain, residual, separable, and
torchvision's R3D-18.

Each maps volumes (B, C, D, H, W) to logits and the maps ``mid``, of half the resolution, and
``deep``, of a quarter; R3D-18 has its own strides.
"""

from __future__ import annotations

from torch import Tensor, nn

from fedskd_sim.learning.distillation.distill import Taps
from fedskd_sim.learning.networks.small import Residual
from fedskd_sim.learning.networks.vision import Tapped


class Staged3d(nn.Module):
    """Two stages, both tapped, then global average pooling and a linear head."""

    def __init__(self, middle: nn.Module, last: nn.Module, features: int, classes: int) -> None:
        """Join the stages; ``features`` is the channel count of the last one."""
        super().__init__()
        self.middle, self.last = middle, last
        self.head = nn.Linear(features, classes)

    def forward(self, volumes: Tensor) -> tuple[Tensor, Taps]:
        """Map volumes (B, C, D, H, W) to logits (B, classes) and the taps (B, C', D', H', W')."""
        mid = self.middle(volumes)
        deep = self.last(mid)
        return self.head(deep.mean(dim=(2, 3, 4))), Taps(mid, deep)


def plain(
    channels: int,
    size: int,  # noqa: ARG001
    classes: int,
    *,
    width: int = 8,
    norm: str = "group",
) -> nn.Module:
    """A small plain network: four convolutions."""
    middle = nn.Sequential(*_conv(channels, width, 1, norm), *_conv(width, 2 * width, 2, norm))
    last = nn.Sequential(
        *_conv(2 * width, 4 * width, 2, norm), *_conv(4 * width, 4 * width, 1, norm)
    )
    return Staged3d(middle, last, 4 * width, classes)


def residual(
    channels: int,
    size: int,  # noqa: ARG001
    classes: int,
    *,
    width: int = 16,
    norm: str = "group",
) -> nn.Module:
    """A larger residual network of two blocks per stage."""
    middle = nn.Sequential(
        *_conv(channels, width, 2, norm), _block(width, norm), _block(width, norm)
    )
    last = nn.Sequential(
        *_conv(width, 2 * width, 2, norm), _block(2 * width, norm), _block(2 * width, norm)
    )
    return Staged3d(middle, last, 2 * width, classes)


def separable(
    channels: int,
    size: int,  # noqa: ARG001
    classes: int,
    *,
    width: int = 24,
    norm: str = "group",
) -> nn.Module:
    """A light network of depthwise and pointwise convolutions."""
    middle = nn.Sequential(*_conv(channels, width, 2, norm), *_separable(width, width, 1, norm))
    last = nn.Sequential(
        *_separable(width, 2 * width, 2, norm), *_separable(2 * width, 2 * width, 1, norm)
    )
    return Staged3d(middle, last, 2 * width, classes)


def r3d18(channels: int, size: int, classes: int, *, norm: str = "group") -> nn.Module:  # noqa: ARG001
    """Torchvision's R3D-18 (Tran et al. 2018), depth in the place of time; taps: layer2 and
    layer4.
    """
    from torchvision.models.video import r3d_18  # noqa: PLC0415 - its import is slow

    backbone = r3d_18(num_classes=classes)
    stem = backbone.stem[0]
    made = nn.Conv3d(
        channels, stem.out_channels, stem.kernel_size, stem.stride, stem.padding, bias=False
    )
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    backbone.stem[0] = made
    for name, module in [*backbone.named_modules()]:
        if isinstance(module, nn.BatchNorm3d) and norm != "batch":
            backbone.set_submodule(
                name, next(iter(_norm(norm, module.num_features)), nn.Identity())
            )
    return Tapped(backbone, ("layer2", "layer4"))


def _conv(inputs: int, outputs: int, stride: int, norm: str) -> list[nn.Module]:
    conv = nn.Conv3d(inputs, outputs, 3, stride, 1, bias=norm == "none")
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return [conv, *_norm(norm, outputs), nn.ReLU()]


def _separable(inputs: int, outputs: int, stride: int, norm: str) -> list[nn.Module]:
    depthwise = nn.Conv3d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
    pointwise = nn.Conv3d(inputs, outputs, 1, bias=norm == "none")
    nn.init.kaiming_normal_(pointwise.weight, nonlinearity="relu")
    return [depthwise, pointwise, *_norm(norm, outputs), nn.ReLU()]


def _block(width: int, norm: str) -> nn.Module:
    return Residual(
        nn.Sequential(
            *_conv(width, width, 1, norm), nn.Conv3d(width, width, 3, 1, 1), *_norm(norm, width)
        )
    )


def _norm(norm: str, channels: int) -> list[nn.Module]:
    """Return group normalisation of up to eight groups, batch normalisation, or nothing;
    ValueError for another word.
    """
    match norm:
        case "group":
            groups = next(count for count in (8, 4, 2, 1) if channels % count == 0)
            return [nn.GroupNorm(groups, channels)]
        case "batch":
            return [nn.BatchNorm3d(channels)]
        case "none":
            return []
    raise ValueError(f"norm is group, batch or none, not {norm!r}")
