"""Networks as people bring them: each has an oddity that works in a loop of plain PyTorch, and is
a guest elsewhere as it is at home, or is refused with the line and what to change.
"""

from __future__ import annotations

import math
import os
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize

from fedskd_sim import Taps
from fedskd_sim.errors import FedskdError, ImageTooSmall, InvalidValue
from fedskd_sim.learning import installed
from fedskd_sim.learning.base import LearnerContext
from fedskd_sim.learning.networks import contract
from fedskd_sim.learning.networks.buildable import Contracts, check_architecture, images_as_volumes
from fedskd_sim.learning.networks.models import (
    REGISTRY,
    ImageShape,
    blueprint,
    build,
    kind_of,
    with_memory,
)
from fedskd_sim.learning.site import Site
from fedskd_sim.learning.weights import export, install, snapshot
from fedskd_sim.messages import Weights, digest
from fedskd_sim.scenario import Architecture, FedSKD, load

SHAPE = ImageShape(3, 16, 3)
Change = Callable[["Net"], object]


class Net(nn.Module):
    """Two convolutions; ``change`` makes it odd, ``before`` and ``between`` are what it does."""

    def __init__(self, channels: int, classes: int, change: Change = lambda _: None) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(channels, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1)
        self.head = nn.Linear(4, classes)
        self.before: Any = lambda images: images
        self.between: Any = torch.relu
        self.after: Any = lambda logits: logits
        change(self)

    def forward(self, images: Tensor) -> tuple[Any, Any]:
        mid = self.between(self.a(self.before(images)))
        deep = self.b(mid).relu()
        return self.after(self.head(deep.mean((2, 3)))), Taps(mid, deep)


class Hooked(Net):
    """Its maps are what hooks have seen."""

    def __init__(self, channels: int, classes: int, *, closure: bool) -> None:
        super().__init__(channels, classes)
        self.seen: dict[str, Tensor] = {}
        for name in ("a", "b"):
            seen = (
                (lambda _, __, out, name=name: self.seen.update({name: out}))
                if closure
                else (partial(self._see, name))
            )
            getattr(self, name).register_forward_hook(seen)

    def _see(self, name: str, _: nn.Module, __: Any, out: Tensor) -> None:
        self.seen[name] = out

    def forward(self, images: Tensor) -> tuple[Tensor, Taps]:
        logits, _ = super().forward(images)
        return logits, Taps(self.seen["a"], self.seen["b"])


class Counting(nn.Module):
    """Counts its batches in training, in a buffer, and scales by that."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, maps: Tensor) -> Tensor:
        if self.training:
            self.count += 1
        return maps * (1 + self.count)


class Symmetric(nn.Module):
    """A parametrization."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight + weight.flip(-1)


def table(net: Net, *, persistent: bool) -> None:
    net.register_buffer("table", torch.linspace(-3, 3, 64).view(1, 1, 8, 8), persistent=persistent)
    net.between = lambda maps: (maps + net.table).relu()


def attribute(net: Net, value: Any = None) -> None:
    net.mean = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1) if value is None else value
    net.before = lambda images: images - net.mean


def late(net: Net) -> None:
    net.a = nn.LazyConv2d(4, 3, 2, 1)
    net(torch.zeros(1, 3, 16, 16))


def tie(net: Net) -> None:
    net.c = nn.Conv2d(4, 4, 3, 1, 1)
    net.c.weight = net.b.weight
    net.between = lambda maps: net.c(maps).relu()


def share(net: Net) -> None:
    net.blocks = nn.ModuleList([net.b] * 3)
    net.between = lambda maps: net.blocks[2](net.blocks[0](maps)).relu()


def again(net: Net) -> None:
    net.twin = net.b
    net.between = lambda maps: net.twin(maps).relu()


def transposed(net: Net) -> None:
    net.mix = nn.Linear(8, 8)
    net.turned = nn.Parameter(net.mix.weight.data.T)
    net.between = lambda maps: functional.linear(net.mix(maps.mT), net.turned).mT


def looked_at(net: Net) -> None:
    net.rates = [rate.item() for rate in torch.linspace(0, 0.2, 4)]
    net.between = lambda maps: maps * (1 - net.rates[2])


def branched(net: Net) -> None:
    if net.a.weight.abs().max() > 0:
        net.between = torch.tanh


def filled(net: Net) -> None:
    with torch.no_grad():
        net.a.weight.copy_(torch.arange(net.a.weight.numel()).view_as(net.a.weight) / 100)


def insert(module: Callable[[], nn.Module]) -> Change:
    def change(net: Net) -> None:
        net.between = module()

    return change


def wrap(name: str, how: Callable[[nn.Module], nn.Module]) -> Change:
    return lambda net: setattr(net, name, how(getattr(net, name)))


def put(**values: Any) -> Change:
    return lambda net: [setattr(net, name, value) for name, value in values.items()]


def frozen(net: Net) -> None:
    net.a.requires_grad_(requires_grad=False)


def numpy_table(net: Net) -> None:
    rows = torch.from_numpy(torch.hann_window(8).numpy().copy())
    net.register_buffer("window", rows, persistent=False)
    net.between = lambda maps: maps * net.window


def halves(net: Net) -> None:
    net.register_buffer("scale", torch.full((4, 1, 1), 0.5, dtype=torch.bfloat16))
    net.between = lambda maps: maps * net.scale.float()


def listed(net: Net) -> None:
    net.constants = [torch.tensor(2.0), {"shift": torch.tensor(0.25)}]
    net.between = lambda maps: maps * net.constants[0] + net.constants[1]["shift"]


def aliased(net: Net) -> None:
    net.flat = net.b.weight.detach().view(-1)  # sees what is written into the weights
    net.between = lambda maps: maps + net.flat.sum()


def buffers_tied(net: Net) -> None:
    net.register_buffer("one", torch.ones(4, 1, 1))
    net.register_buffer("other", net.one)
    net.between = lambda maps: maps * (net.one + net.other)


def positions(net: Net) -> None:
    at = torch.arange(64).float()[:, None] * torch.exp(torch.arange(4) * -math.log(100.0) / 4)
    net.register_buffer("places", at.sin().T.reshape(1, 4, 8, 8), persistent=False)
    net.between = lambda maps: maps + net.places


def indices(net: Net) -> None:
    net.bias = nn.Parameter(torch.linspace(0, 1, 15))
    rows = torch.arange(8)
    net.register_buffer("index", rows[:, None] - rows + 7, persistent=False)
    net.between = lambda maps: maps + net.bias[net.index]


def odd(change: Change) -> Callable[..., nn.Module]:
    return lambda channels, _, classes: Net(channels, classes, change)


GOOD: dict[str, Callable[..., nn.Module]] = {
    **{
        name: odd(change)
        for name, change in {
            "plain": lambda _: None,
            "persistent table": partial(table, persistent=True),
            "table": partial(table, persistent=False),
            "attribute": attribute,
            "number": partial(attribute, value=0.25),
            "lazy, seen once": late,
            "tied": tie,
            "tied buffers": buffers_tied,
            "shared in a list": share,
            "two names of a module": again,
            "a view of a weight": transposed,
            "a detached view": aliased,
            "item()": looked_at,
            "a branch on values": branched,
            "filled by hand": filled,
            "frozen": frozen,
            "window": numpy_table,
            "bfloat16 buffer": halves,
            "tensors in a list": listed,
            "sines": positions,
            "index table": indices,
            "counter": insert(Counting),
            "batch norm": insert(lambda: nn.BatchNorm2d(4)),
            "batch norm, no statistics kept": insert(
                lambda: nn.BatchNorm2d(4, affine=False, momentum=None)
            ),
            "instance norm": insert(lambda: nn.InstanceNorm2d(4, affine=True)),
            "group norm": insert(lambda: nn.GroupNorm(2, 4)),
            "dropout": insert(nn.Dropout2d),
            "prelu": insert(nn.PReLU),
            "random relu": insert(nn.RReLU),
            "dropped path": insert(lambda: nn.Sequential(nn.Dropout(0.3), nn.Identity())),
            "weight norm": wrap("b", parametrizations.weight_norm),
            "spectral norm": wrap("b", parametrizations.spectral_norm),
            "orthogonal": wrap("head", parametrizations.orthogonal),
            "old spectral norm": wrap("b", torch.nn.utils.spectral_norm),
            "parametrized": lambda net: parametrize.register_parametrization(
                net.b, "weight", Symmetric()
            ),
            "reset": lambda net: net.apply(
                lambda one: one.reset_parameters() if hasattr(one, "reset_parameters") else None
            ),
            "double inside": lambda net: (
                net.double(),
                put(before=Tensor.double, after=Tensor.float)(net),
            ),
            "channels last": lambda net: net.to(memory_format=torch.channels_last),
            "empty parameter": put(none=nn.Parameter(torch.zeros(0))),
            "parameter list": put(many=nn.ParameterList([torch.ones(2), torch.zeros(3)])),
            "attention": insert(
                lambda: nn.Sequential(
                    nn.Flatten(2),
                    nn.TransformerEncoderLayer(64, 2, 8, batch_first=True),
                    nn.Unflatten(2, (8, 8)),
                )
            ),
            "its own seed": lambda net: (torch.manual_seed(7), net.a.reset_parameters()),
        }.items()
    },
    "hooks": lambda c, _, k: Hooked(c, k, closure=False),
    "hooks that hold the network": lambda c, _, k: Hooked(c, k, closure=True),
}
"""Those that train."""


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., nn.Module]], Architecture]:
    """Offer a function as an installed package would, as the architecture ``odd``."""

    def put_there(function: Callable[..., nn.Module]) -> Architecture:
        monkeypatch.setattr(installed, "load", lambda *_: function)
        monkeypatch.setattr(installed, "names", lambda *_: ["odd"])
        return Architecture(name="odd")

    return put_there


@torch.no_grad()
def ask(model: nn.Module, images: Tensor) -> list[Tensor]:
    logits, taps = model.eval()(images)
    return [tensor.clone() for tensor in (logits, *taps)]


def storages(model: nn.Module) -> list[list[str]]:
    """Group the names of a state dict by the memory that they have."""
    found: dict[int, list[str]] = {}
    for name, tensor in model.state_dict().items():
        if tensor.numel():
            found.setdefault(tensor.data_ptr(), []).append(name)
    return [*found.values()]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    file = tmp_path / "odd.yaml"
    data = "{name: synthetic-skin, samples: 40, image_size: 16, classes: 3}"
    hospitals = "[{name: a, architecture: cnn-plain}, {name: b, architecture: odd}]"
    file.write_text(f"name: odd\ndata: {data}\nhospitals: {hospitals}\nalgorithm: {{name: fedskd}}")
    return Site(LearnerContext(load(file).scenario, "a", own_process=True))


@pytest.mark.parametrize("name", GOOD)
def test_an_odd_network_is_the_same_at_home_and_as_a_guest(
    name: str, offer: Callable, site: Site
) -> None:
    """After a training step the guest gives the same bits, its tensors are tied as at home, weights
    go back and forth unchanged, and the check has nothing against it.
    """
    chosen = offer(GOOD[name])
    home, images = build(chosen, SHAPE, 5), contract.draw_samples(SHAPE)
    logits, _ = home.train()(images)
    logits.square().sum().backward()
    with torch.no_grad():
        for parameter in home.parameters():
            parameter.sub_(torch.zeros(()) if parameter.grad is None else 0.01 * parameter.grad)
    weights = snapshot(home)
    guest = site.build("b", weights)
    site.context.receive_buffers.prepare("b")
    waiting = site.context.receive_buffers._buffers.get("b")
    for model in (guest, *(() if waiting is None else (received(waiting.network, weights),))):
        assert storages(model) == storages(home)
        assert digest(export(model)) == digest(weights)
        assert all(map(torch.equal, ask(model, images), ask(home, images)))
    assert contract.find_breach(chosen, SHAPE) is None


def received(network: nn.Module, weights: Weights) -> nn.Module:
    install(network, weights)
    return network


@pytest.mark.parametrize("name", REGISTRY)
def test_a_built_in_network_is_the_same_at_home_and_as_a_guest(name: str) -> None:
    """It has no memory until it has weights, and then gives the same bits."""
    kind = kind_of(name)
    big = {"vit-b-16", "swin-t", "convnext-tiny", "densenet121", "vgg11"}
    size = {"roi": 12, "volume": 16}.get(kind, 64 if name in big else 32)
    shape = ImageShape(1 if kind == "volume" else 3, size, 3, kind)
    chosen = Architecture(name=name)
    home, guest = build(chosen, shape, 1), blueprint(chosen, shape)
    assert all(tensor.is_meta for tensor in guest.state_dict().values())
    install(guest := with_memory(guest, "cpu"), export(home))
    images = contract.draw_samples(shape)[:1]
    assert all(map(torch.equal, ask(guest, images), ask(home, images)))


class Mood(Net):
    """Auxiliary logits in training."""

    def forward(self, images: Tensor) -> tuple[Any, Any]:
        logits, taps = super().forward(images)
        return ((logits, logits), taps) if self.training else (logits, taps)


def draws_outside(net: Net) -> None:
    net.register_buffer("features", torch.randn(4, 1, 1), persistent=False)
    net.between = lambda maps: maps * net.features


def counts_outside(net: Net) -> None:
    net.steps = 0

    def between(maps: Tensor) -> Tensor:
        net.steps += net.training
        return maps * (1 + net.steps)

    net.between = between


def here_only(net: Net) -> None:
    net.scale = 1.0 if os.getpid() == PROCESS else 2.0
    net.between = lambda maps: maps * net.scale


PROCESS = os.getpid()
BAD: dict[str, tuple[Callable[..., nn.Module], str, str]] = {
    "float64": (
        odd(lambda net: (net.double(), put(before=Tensor.double)(net))),
        r"gives logits in float64, not float32 \(test_own_networks.py:\d+, in forward\)",
        r"logits\.float\(\)",
    ),
    "bfloat16": (odd(put(after=Tensor.bfloat16)), "logits in bfloat16", "float"),
    "auxiliary heads": (
        lambda c, _, k: Mood(c, k),
        r"fails in training: .*logits is tuple, no tensor \(test_own_networks.py:\d+, in forward",
        "auxiliary heads",
    ),
    "raises in training": (
        odd(put(between=lambda maps: maps.view(7))),
        r"fails in training: RuntimeError: .* \(test_own_networks.py:\d+, in <lambda>\)",
        "in training as in evaluation",
    ),
    "no gradient": (odd(put(after=Tensor.detach)), "cannot take a training step", "gradients"),
    "draws in evaluation": (
        odd(put(between=lambda maps: maps + torch.randn(maps.shape))),
        r"other logits when the same batch comes again .*in forward",
        r"self\.training",
    ),
    "draws outside": (odd(draws_outside), "guest .*not the same, features", "register_buffer"),
    "counts outside": (odd(counts_outside), "guest .*not the same, steps", "register_buffer"),
    "a mean over the batch": (
        odd(put(between=lambda maps: maps - maps.mean(0, keepdim=True))),
        "other logits in a batch than alone, by",
        "axis of the batch",
    ),
    "no batch of one": (
        odd(put(after=lambda logits: logits.squeeze(0))),
        "fails in evaluation of a batch of 1: .*not logits",
        "mend it",
    ),
    "another process": (odd(here_only), "gives other logits in a forked process", "its number"),
}


@pytest.mark.parametrize(("function", "said", "fix"), BAD.values(), ids=BAD)
def test_a_network_that_breaks_the_contract_is_told_what_to_change(
    function: Callable, said: str, fix: str, offer: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything starts: what it does, in which line, and what to do about it; threads and
    draws of the process are left as they were.
    """
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    before = torch.get_num_threads(), torch.get_rng_state()
    found = contract.find_breach(offer(function), SHAPE)
    assert found is not None
    assert torch.get_num_threads() == before[0]
    assert torch.equal(before[1], torch.get_rng_state())
    assert re.search(said, found.said), found.said
    assert re.search(fix, found.fix), found.fix


def problems(chosen: Architecture, shape: ImageShape) -> list[FedskdError]:
    return [
        *check_architecture(
            chosen, shape, ("architecture",), FedSKD(name="fedskd"), atlas=False, held=Contracts()
        )
    ]


def test_what_fails_at_every_size_is_not_too_small(offer: Callable) -> None:
    """Only a size that works above tells that an image is too small."""

    def picky(channels: int, image_size: int, classes: int) -> nn.Module:
        if image_size >= 16:
            raise ValueError("too many pixels for me")
        return Net(channels, classes)

    (error,) = problems(offer(picky), SHAPE)
    assert type(error) is InvalidValue
    assert "cannot be built for 16 x 16 pixels" in error.message


def test_volumes_that_are_images_are_told_so() -> None:
    """Floats (n, 3, H, W) are volumes of three layers here: the fix says how images are given."""
    shape = ImageShape(1, 3, 3, "volume", (3, 16, 16))
    (error,) = problems(Architecture(name="vol-plain"), shape)
    assert type(error) is ImageTooSmall
    assert "3 x 16 x 16 voxels are too small" in error.message
    assert "give images as uint8 (n, S, S, 3)" in error.fix
    assert not images_as_volumes(ImageShape(1, 16, 3, "volume", (16, 16, 16)))
    assert not images_as_volumes(SHAPE)


def test_a_child_that_hangs_does_not_hold_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended, and nothing is known of it; one that fails says nothing."""
    monkeypatch.setattr(contract, "PATIENCE_S", 0.01)
    assert contract.in_child(lambda: threading.Event().wait() and b"") is None
    monkeypatch.setattr(contract, "PATIENCE_S", 30.0)
    assert contract.in_child(lambda: b"said") == b"said"
    assert contract.in_child(lambda: os._exit(3)) == b""
