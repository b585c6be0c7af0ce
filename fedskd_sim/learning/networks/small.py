"""Networks of our own for images of 28 to 64 pixels, of clearly different kind: plain, residual,
depthwise, transformer.

Each returns logits and the two maps that similarity distillation compares: ``mid`` from the middle
stage, ``deep`` from the last.
"""

from __future__ import annotations

from torch import Tensor, nn

from fedskd_sim.learning.distillation.distill import Taps


class Staged(nn.Module):
    """Stages in a row, the last two tapped, then global average pooling and a linear head."""

    def __init__(
        self, stem: nn.Module, middle: nn.Module, last: nn.Module, features: int, classes: int
    ) -> None:
        """Join the stages; ``features`` is the channel count of the last one."""
        super().__init__()
        self.stem, self.middle, self.last = stem, middle, last
        self.head = nn.Linear(features, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Taps]:
        """Map images (B, C, H, W) to logits (B, classes) and the taps (B, C', H', W')."""
        mid = self.middle(self.stem(images))
        deep = self.last(mid)
        return self.head(deep.mean(dim=(2, 3))), Taps(mid, deep)


class Residual(nn.Module):
    """A block added to its input; the last scale starts at 0 so that depth does not hurt without
    normalisation.
    """

    def __init__(self, body: nn.Module, skip: nn.Module | None = None) -> None:
        """Wrap a body; ``skip`` adapts the input where shapes differ."""
        super().__init__()
        self.body = body
        self.skip = skip if skip is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Add the body's output to the (adapted) input."""
        out: Tensor = self.skip(x) + self.body(x)
        return out


class Block(nn.Module):
    """A pre-normalised transformer block on tokens (B, N, C)."""

    def __init__(self, width: int, heads: int) -> None:
        """Make self-attention and a two-layer perceptron."""
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix tokens, then channels."""
        normed = self.norm1(tokens)
        tokens = tokens + self.attention(normed, normed, normed, need_weights=False)[0]
        out: Tensor = tokens + self.perceptron(self.norm2(tokens))
        return out


class VisionTransformer(nn.Module):
    """Patch tokens with learned positions; the taps are tokens brought back to their grid."""

    def __init__(
        self, channels: int, image_size: int, classes: int, *, width: int, depth: int, patch: int
    ) -> None:
        """Make ``depth`` blocks; ``patch`` must not exceed the image."""
        super().__init__()
        self.grid = image_size // patch
        self.embed = nn.Conv2d(channels, width, patch, patch)
        self.positions = nn.Parameter(
            nn.init.trunc_normal_(self.embed.weight.new_empty(1, self.grid**2, width), std=0.02)
        )
        self.blocks = nn.ModuleList(Block(width, heads=max(1, width // 16)) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Taps]:
        """Map images (B, C, H, W) to logits and taps (B, width, grid, grid)."""
        tokens = self.embed(images).flatten(2).transpose(1, 2) + self.positions
        mid = tokens
        for index, block in enumerate(self.blocks):
            tokens = block(tokens)
            if index == (len(self.blocks) - 1) // 2:
                mid = tokens
        tokens = self.norm(tokens)
        return self.head(tokens.mean(dim=1)), Taps(self._map(mid), self._map(tokens))

    def _map(self, tokens: Tensor) -> Tensor:
        return tokens.transpose(1, 2).reshape(len(tokens), -1, self.grid, self.grid)


def plain(
    channels: int,
    image_size: int,  # noqa: ARG001
    classes: int,
    *,
    width: int = 24,
    norm: str = "none",
) -> nn.Module:
    """Three convolution layers with max pooling between them."""
    return Staged(
        nn.Sequential(*_conv(channels, width, norm), nn.MaxPool2d(2)),
        nn.Sequential(*_conv(width, 2 * width, norm), nn.MaxPool2d(2)),
        nn.Sequential(*_conv(2 * width, 4 * width, norm)),
        4 * width,
        classes,
    )


def residual(
    channels: int,
    image_size: int,  # noqa: ARG001
    classes: int,
    *,
    width: int = 16,
    norm: str = "none",
) -> nn.Module:
    """A residual network of three stages with one block each."""
    return Staged(
        nn.Sequential(*_conv(channels, width, norm), _residual(width, width, 1, norm)),
        _residual(width, 2 * width, 2, norm),
        _residual(2 * width, 4 * width, 2, norm),
        4 * width,
        classes,
    )


def depthwise(
    channels: int,
    image_size: int,  # noqa: ARG001
    classes: int,
    *,
    width: int = 24,
    norm: str = "none",
) -> nn.Module:
    """Inverted residual blocks with depthwise convolutions, as mobile networks have them."""
    return Staged(
        nn.Sequential(*_conv(channels, width, norm, stride=2)),
        nn.Sequential(
            _inverted_residual(width, width, 1, norm), _inverted_residual(width, 2 * width, 2, norm)
        ),
        nn.Sequential(
            _inverted_residual(2 * width, 2 * width, 1, norm),
            _inverted_residual(2 * width, 3 * width, 1, norm),
        ),
        3 * width,
        classes,
    )


def transformer(
    channels: int, image_size: int, classes: int, *, width: int = 64, depth: int = 4, patch: int = 4
) -> nn.Module:
    """A small vision transformer."""
    return VisionTransformer(channels, image_size, classes, width=width, depth=depth, patch=patch)


def normalisation(norm: str, channels: int) -> list[nn.Module]:
    """Return the layers of a normalisation: none, group (up to 8 groups) or batch.

    Raises:
        ValueError: another name.

    """
    match norm:
        case "none":
            return []
        case "group":
            return [
                nn.GroupNorm(
                    next(groups for groups in (8, 4, 2, 1) if channels % groups == 0), channels
                )
            ]
        case "batch":
            return [nn.BatchNorm2d(channels)]
    message = f"norm is none, group or batch, not {norm!r}"
    raise ValueError(message)


def _conv(
    inputs: int, outputs: int, norm: str, stride: int = 1, *, groups: int = 1, size: int = 3
) -> list[nn.Module]:
    conv = nn.Conv2d(
        inputs, outputs, size, stride, padding=size // 2, groups=groups, bias=norm == "none"
    )
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return [conv, *normalisation(norm, outputs), nn.ReLU(inplace=True)]


def _residual(inputs: int, outputs: int, stride: int, norm: str) -> nn.Module:
    first, second = _conv(inputs, outputs, norm, stride), _conv(outputs, outputs, norm)[:-1]
    _start_at_zero(second)
    same = stride == 1 and inputs == outputs
    skip = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
    return nn.Sequential(Residual(nn.Sequential(*first, *second), skip), nn.ReLU(inplace=True))


def _inverted_residual(inputs: int, outputs: int, stride: int, norm: str) -> nn.Module:
    wide = 3 * inputs
    project = _conv(wide, outputs, norm, size=1)[:-1]
    body = nn.Sequential(
        *_conv(inputs, wide, norm, size=1), *_conv(wide, wide, norm, stride, groups=wide), *project
    )
    if stride == 1 and inputs == outputs:
        _start_at_zero(project)
        return Residual(body)
    return body


def _start_at_zero(layers: list[nn.Module]) -> None:
    """Zero the scale of a normalisation, or the convolution itself where there is none."""
    last = layers[-1]
    if isinstance(last.weight, nn.Parameter):
        nn.init.zeros_(last.weight)
