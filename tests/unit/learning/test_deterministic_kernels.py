"""Every operation of a step has a kernel on CUDA that gives the same bytes each time."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from inspect import cleandoc

import pytest
import torch
from sessions import CASES, Operations, make_job
from torch import nn
from torch.nn.functional import cross_entropy

from fedskd_sim.learning.distillation import arrangements
from fedskd_sim.learning.networks.models import REGISTRY, ImageShape, build, kind_of
from fedskd_sim.learning.networks.pretrained import PACKAGES
from fedskd_sim.learning.sessions.session import Launched, train
from fedskd_sim.learning.weights import snapshot
from fedskd_sim.scenario import Architecture

REFUSED = {
    "AvgPool3d": ("avg_pool3d_backward",),
    "AdaptiveAvgPool2d": ("_adaptive_avg_pool2d_backward",),
    "AdaptiveAvgPool3d": ("_adaptive_avg_pool3d_backward",),
    "AdaptiveMaxPool2d": ("adaptive_max_pool2d_backward",),
    "FractionalMaxPool2d": ("fractional_max_pool2d_backward",),
    "FractionalMaxPool3d": ("fractional_max_pool3d_backward",),
    "MaxUnpool1d": ("max_unpool2d",),
    "MaxUnpool2d": ("max_unpool2d",),
    "MaxUnpool3d": ("max_unpool3d",),
    "interpolate": (
        "upsample_linear1d_backward",
        "upsample_bilinear2d_backward",
        "upsample_bicubic2d_backward",
        "upsample_trilinear3d_backward",
    ),
    "ReflectionPad1d": ("reflection_pad1d_backward",),
    "ReflectionPad2d": ("reflection_pad2d_backward",),
    "ReflectionPad3d": ("reflection_pad3d_backward",),
    "NLLLoss": ("nll_loss2d_forward",),  # of maps; that of (B, classes) never refuses
    "CTCLoss": ("_ctc_loss_backward",),
    "EmbeddingBag": ("_embedding_bag",),
    "put_": ("put_",),
    "histc": ("histc",),
    "bincount": ("bincount",),
    "median": ("median", "nanmedian"),
    "grid_sample": ("grid_sampler_2d_backward", "grid_sampler_3d_backward"),
    "scatter_reduce": ("scatter_reduce", "scatter_reduce_"),
    "resize_": ("resize_",),
}
"""What PyTorch's documentation says has no deterministic kernel on CUDA, as operations."""
SIZES = {"vit-b-16": 32, "swin-t": 64, "densenet121": 64, "convnext-tiny": 64}


def refused(operations: Operations) -> set[str]:
    return set(operations.seen) & {name for names in REFUSED.values() for name in names}


@pytest.mark.skipif(
    not hasattr(torch, "accelerator"), reason="the list of PyTorch before 2.6 is longer"
)
def test_the_list_of_refused_operations_is_that_of_this_pytorch() -> None:
    """Everything that its documentation says is refused on CUDA stands in the list above."""
    text = cleandoc(str(torch.use_deterministic_algorithms.__doc__))  # Python 3.13 has it clean
    listed = (
        text.partition("operations will throw a")[2]
        .partition("In addition")[0]
        .split("\n    * ")[1:]
    )
    assert len(listed) > 20
    for entry in listed:
        assert "MPS" in entry or any(f"{name}`" in entry for name in REFUSED), entry


def tapped(name: str) -> nn.Module:
    """Build a network and its input, as small as it gets."""
    kind = kind_of(name)
    size = {"roi": 8, "volume": 16, "table": 7}.get(kind) or SIZES.get(name, 32)
    return build(Architecture(name=name), shape := ImageShape(3, size, 3, kind), 1), shape


@pytest.mark.parametrize("name", REGISTRY)
def test_no_architecture_has_an_operation_without_a_deterministic_kernel(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward and backward, the way that a card takes; every operation also runs under PyTorch's
    own check.
    """
    if name in PACKAGES and not find_spec(PACKAGES[name].package):
        pytest.skip("the extra pretrained is not installed: make install brings it")
    monkeypatch.setattr(arrangements, "average_by_kernel", arrangements.average_by_axis)
    model, shape = tapped(name)
    torch.use_deterministic_algorithms(True)
    batch = torch.cat([shape.blank()] * 2) + torch.randn(
        1, generator=torch.Generator().manual_seed(0)
    )
    with Operations() as operations:
        logits, taps = model(batch)
        (cross_entropy(logits, torch.tensor([0, 1])) + taps.mid.sum() + taps.deep.sum()).backward()
    assert refused(operations) == set()
    assert any(name.endswith("backward") for name in operations.seen)


@pytest.mark.parametrize("case", CASES)
def test_no_teaching_has_an_operation_without_a_deterministic_kernel(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole sessions, with grids that do not divide the maps, the way that a card takes; the way
    that a CPU takes has one where grids or features are pooled.
    """
    pools = {"mutual training", "traveller first", "resident every second", "prototypes"}
    for way, expected in ((None, case in pools), (arrangements.average_by_axis, False)):
        if way is not None:
            monkeypatch.setattr(arrangements, "average_by_kernel", way)
        models, teaching = CASES[case](1)
        torch.use_deterministic_algorithms(True)
        with Operations() as operations:
            train(models, make_job(epochs=1), teaching, partial(Launched, on_device=True))
        assert bool(refused(operations)) == expected


@pytest.mark.parametrize(
    ("size", "grid"),
    [((7,), (3,)), ((5,), (8,)), ((14, 14), (4, 4)), ((7, 8), (3, 4)), ((2, 2), (7, 7)),
     ((6, 7, 9), (4, 7, 3)), ((5, 5, 5), (2, 3, 4))],
)  # fmt: skip
def test_averages_are_the_same_both_ways(size: tuple[int, ...], grid: tuple[int, ...]) -> None:
    """A kernel of PyTorch's and products along the axes agree to 1e-6, values and gradients."""
    maps = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(2, 3, *grid, generator=torch.Generator().manual_seed(1))
    found = []
    for way in (arrangements.average_by_kernel, arrangements.average_by_axis):
        here = maps.clone().requires_grad_()
        value = way(here, grid)
        (value * weight).sum().backward()
        found.append((value.detach(), here.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    assert torch.equal(arrangements.average(maps, grid), found[0][0])
    assert snapshot(arrangements.AdaptiveAverage(grid)) == {}
