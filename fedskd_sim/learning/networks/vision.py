"""torchvision's architectures with named taps; never downloads pretrained weights.

torchvision is imported when one of them is built: its import takes over a second and 100 MB that other hospitals need not spend.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fedskd_sim.learning.distill import Taps
from fedskd_sim.learning.networks.small import normalisation


class Tapped(nn.Module):
    """A backbone whose outputs at two named modules are kept during a forward pass."""

    def __init__(self, backbone: nn.Module, mid: str, deep: str) -> None:
        """Hook the modules ``mid`` and ``deep``."""
        super().__init__()
        self.backbone = backbone
        self._maps: dict[str, Tensor] = {}
        for tap, name in (("mid", mid), ("deep", deep)):
            backbone.get_submodule(name).register_forward_hook(self._keeper(tap))

    def forward(self, images: Tensor) -> tuple[Tensor, Taps]:
        """Map images (B, 3, H, W) to logits and taps."""
        logits = self.backbone(images)
        return logits, Taps(self._maps.pop("mid"), self._maps.pop("deep"))

    def _keeper(self, tap: str) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self._maps[tap] = output

        return keep


def resnet18(channels: int, image_size: int, classes: int, *, norm: str = "group") -> nn.Module:  # noqa: ARG001
    """ResNet-18 (He et al. 2016); taps: layer2 and layer4."""
    from torchvision import models  # noqa: PLC0415 - see the module's docstring

    return Tapped(models.resnet18(num_classes=classes, norm_layer=lambda width: _norm(norm, width)), "layer2", "layer4")


def mobilenet_v3_small(channels: int, image_size: int, classes: int, *, norm: str = "group") -> nn.Module:  # noqa: ARG001
    """MobileNetV3-Small (Howard et al. 2019) without dropout; taps: after strides 8 and 32."""
    from torchvision import models  # noqa: PLC0415 - see the module's docstring

    backbone = models.mobilenet_v3_small(num_classes=classes, norm_layer=lambda width: _norm(norm, width), dropout=0.0)
    return Tapped(backbone, "features.3", "features.12")


def _norm(norm: str, channels: int) -> nn.Module:
    return next(iter(normalisation(norm, channels)), nn.Identity())
