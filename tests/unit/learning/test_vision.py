"""torchvision's architectures: taps, normalisation, randomness, channels, pretrained weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import __version__

from fedskd_sim.errors import DataCorrupt, DataMissing, FedskdError, InvalidValue
from fedskd_sim.learning.devices import torchvision_version
from fedskd_sim.learning.networks.listing import cost
from fedskd_sim.learning.networks.models import ImageShape, blueprint, build, fits, options, outline
from fedskd_sim.learning.preflight import find_problems
from fedskd_sim.learning.weights import spec_of
from fedskd_sim.scenario import Architecture, load

SMALLEST = {
    "resnet18": 128,
    "resnet34": 128,
    "resnet50": 128,
    "mobilenet-v3-small": 128,
    "mobilenet-v3-large": 128,
    "efficientnet-b0": 128,
    "densenet121": 128,
    "vgg11": 64,
    "shufflenet-v2": 128,
    "convnext-tiny": 128,
    "vit-b-16": 64,
    "swin-t": 128,
}
SIX = [
    "resnet18",
    "mobilenet-v3-large",
    "efficientnet-b0",
    "densenet121",
    "shufflenet-v2",
    "swin-t",
]
GMACS = {
    "resnet34": 3.66,
    "resnet50": 4.09,
    "mobilenet-v3-large": 0.22,
    "efficientnet-b0": 0.39,
    "densenet121": 2.83,
    "vgg11": 7.61,
    "shufflenet-v2": 0.145,
    "convnext-tiny": 4.46,
    "vit-b-16": 17.56,
    "swin-t": 4.49,
}
"""Multiply-adds of one 224-pixel image with 1000 classes, in billions, as torchvision's
documentation gives them."""


@pytest.mark.parametrize("name", SMALLEST)
def test_the_smallest_input_has_taps_for_the_default_grid(name: str) -> None:
    """Taps have channels, height and width; the deep one is 4 x 4 at the smallest input and the
    middle one never coarser.
    """
    architecture = Architecture(name=name)
    found = outline(architecture, ImageShape(3, SMALLEST[name], 5))
    assert fits(found)
    assert len(found.mid) == len(found.deep) == 3
    assert found.deep[1:] == (4, 4)
    assert found.mid[1:] == ((SMALLEST[name] // 8,) * 2 if name != "vit-b-16" else (4, 4))


@pytest.mark.parametrize("name", SMALLEST)
def test_blueprints_have_other_channels_and_no_unwanted_layers(name: str) -> None:
    """One channel is taken; nothing drops at random; BatchNorm is there with `norm: batch`
    alone, and never in a default model.
    """
    model = blueprint(Architecture(name=name), ImageShape(1, SMALLEST[name], 5))
    assert (
        next(module for module in model.modules() if isinstance(module, nn.Conv2d)).in_channels == 1
    )
    assert not [
        module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    assert all(module.p == 0 for module in model.modules() if hasattr(module, "p"))
    assert all(
        module.dropout == 0
        for module in model.modules()
        if isinstance(module, nn.MultiheadAttention)
    )
    if "norm" in options(name):
        other = blueprint(
            Architecture(name=name, options={"norm": "batch"}), ImageShape(3, SMALLEST[name], 5)
        )
        assert [module for module in other.modules() if isinstance(module, nn.BatchNorm2d)]
        assert not [module for module in other.modules() if isinstance(module, nn.GroupNorm)]


def test_the_version_that_is_read_is_the_one_that_torchvision_tells() -> None:
    """What hospitals compare, and what was in custody before, is the same text."""
    assert torchvision_version() == __version__


@pytest.mark.parametrize("name", GMACS)
def test_operations_are_those_that_torchvision_documents(name: str) -> None:
    """Half the counted operations are torchvision's multiply-adds at 224 pixels, to 3 %."""
    _, operations = cost(Architecture(name=name), ImageShape(3, 224, 1000))
    assert operations / 2e9 == pytest.approx(GMACS[name], rel=0.03)


@pytest.mark.parametrize("name", SIX)
def test_a_training_step_is_a_function_of_seeds_and_reaches_the_stem_from_both_taps(
    name: str,
) -> None:
    """Nothing changes the tapped tensors later, each gives the stem a gradient, and the
    process's random state plays no part.
    """
    shape, images = (
        ImageShape(3, 64, 5),
        torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
    )
    given: list[tuple[torch.Tensor, int]] = []
    model = build(Architecture(name=name), shape, 1).train()
    for module in [module for module in model.modules() if module._forward_hooks]:
        module.register_forward_hook(
            lambda _module, _inputs, output: given.append((output, output._version))
        )
    torch.manual_seed(1)
    logits, taps = model(images)
    assert len(given) == 2
    assert all(output._version == version for output, version in given)
    torch.manual_seed(2)
    assert torch.equal(model(images)[0], logits)
    stem = next(iter(model.parameters()))
    for tap in taps:
        (gradient,) = torch.autograd.grad(tap.square().sum(), stem, retain_graph=True)
        assert bool(gradient.isfinite().all())
        assert float(gradient.abs().sum()) > 0
    assert logits.shape == (2, 5)


@pytest.mark.parametrize("name", ["mobilenet-v3-small", "shufflenet-v2"])
def test_initial_weights_are_a_function_of_the_seed(name: str) -> None:
    """Equal seeds give equal tensors, as the blueprint describes them; another seed gives
    others.
    """
    shape = ImageShape(3, 64, 5)
    one, same, other = (
        build(Architecture(name=name), shape, number).state_dict() for number in (1, 1, 2)
    )
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)
    assert spec_of(build(Architecture(name=name), shape, 1)) == spec_of(
        blueprint(Architecture(name=name), shape)
    )


SHUFFLE = ImageShape(3, 64, 5)


def stored(folder: Path, classes: int = 1000, **changes: torch.Tensor | None) -> Path:
    """Save a ShuffleNet with BatchNorm as torchvision names its tensors."""
    made = build(
        Architecture(name="shufflenet-v2", options={"norm": "batch"}), ImageShape(3, 64, classes), 9
    ).backbone
    tensors = {name: tensor.contiguous() for name, tensor in made.state_dict().items()} | changes
    save_file(
        {name: tensor for name, tensor in tensors.items() if tensor is not None},
        folder / "kept.safetensors",
    )
    return folder / "kept.safetensors"


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_pretrained_weights_are_loaded_but_for_a_head_of_other_classes(
    norm: str, tmp_path: Path
) -> None:
    """All tensors but the head are the file's; with GroupNorm running statistics are left out;
    the head is the seed's.
    """
    file = stored(tmp_path)
    chosen = Architecture(name="shufflenet-v2", options={"norm": norm, "weights": str(file)})
    found = build(chosen, SHUFFLE, 1).backbone.state_dict()
    fresh = build(
        Architecture(name="shufflenet-v2", options={"norm": norm}), SHUFFLE, 1
    ).backbone.state_dict()
    kept = build(
        Architecture(name="shufflenet-v2", options={"norm": "batch"}), ImageShape(3, 64, 1000), 9
    ).backbone.state_dict()
    assert all(
        torch.equal(tensor, fresh[key] if key.startswith("fc.") else kept[key])
        for key, tensor in found.items()
    )
    assert spec_of(blueprint(chosen, SHUFFLE)) == spec_of(build(chosen, SHUFFLE, 1))
    whole = Architecture(name="shufflenet-v2", options={"weights": str(stored(tmp_path, 5))})
    assert not torch.equal(build(whole, SHUFFLE, 1).backbone.fc.weight, fresh["fc.weight"])


SCENARIO = """\
name: x
data: {{name: synthetic-skin, samples: 20, image_size: 128}}
hospitals:
  - {{name: a, architecture: {{name: shufflenet-v2, options: {{weights: {file}}}}}}}
  - {{name: b, architecture: cnn-plain}}
algorithm: {{name: fedskd}}
"""


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (
            {"conv1.0.weight": torch.zeros(24, 1, 3, 3)},
            InvalidValue,
            "'conv1.0.weight' is (24, 1, 3, 3)",
        ),
        ({"conv1.0.weight": None}, InvalidValue, "has no tensor 'conv1.0.weight'"),
        ({"foreign": torch.zeros(2)}, InvalidValue, "has a tensor 'foreign'"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    change: dict[str, torch.Tensor | None],
    kind: type[FedskdError],
    words: str,
    tmp_path: Path,
    scenario_file: Callable,
) -> None:
    """The check before a run names the tensor, and the option's place in the scenario."""
    refused(scenario_file(SCENARIO.format(file=stored(tmp_path, **change))), kind, words)


def test_a_file_that_is_not_there_or_none_is_refused(
    tmp_path: Path, scenario_file: Callable
) -> None:
    """A wrong path and a file that is no safetensors file have errors of their own."""
    refused(scenario_file(SCENARIO.format(file=tmp_path / "none")), DataMissing, "there is no file")
    (tmp_path / "bad").write_bytes(b"\x80\x04 pickled")
    refused(
        scenario_file(SCENARIO.format(file=tmp_path / "bad")), DataCorrupt, "no safetensors file"
    )


def refused(path: Path, kind: type[FedskdError], words: str) -> None:
    (error,) = find_problems(load(path).scenario, None)
    assert type(error) is kind
    assert words in error.message
    assert error.key == ("hospitals", 0, "architecture", "options", "weights")
    assert error.fix
