"""Architectures: what the check before a run lets through can be built, trained and sent; the
rest has an error.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from itertools import pairwise, product
from pathlib import Path
from weakref import ref

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from fedskd_sim.cli import main
from fedskd_sim.errors import ImageTooSmall, InvalidValue
from fedskd_sim.learning.networks.listed import LISTED
from fedskd_sim.learning.networks.listing import LISTED_REGIONS, UNITS, shipped
from fedskd_sim.learning.networks.models import (
    REGISTRY,
    SIZES,
    SMALLEST_REGIONS,
    ImageShape,
    Outline,
    act_on_blank,
    blueprint,
    build,
    fits,
    kind_of,
    minimum_input,
    options,
    outline,
    outline_of,
    quick,
)
from fedskd_sim.learning.preflight import find_problems
from fedskd_sim.learning.weights import export, install, spec_of
from fedskd_sim.messages import digest, spec
from fedskd_sim.scenario import Architecture, load

SMALL = [name for name in REGISTRY if name.startswith(("cnn", "vit-tiny"))]
NORMED = [
    *(name for name in SMALL if "norm" in options(name)),
    "resnet18",
    "mobilenet-v3-small",
    "shufflenet-v2",
]
VALUES = {
    "width": (1, 3, 15, 16, 33, 48),
    "depth": (1, 2, 5),
    "patch": (2, 3, 4, 5, 16, 99),
    "norm": ("none", "group", "batch", "", "None", "layer"),
}


def every_option() -> Iterator[tuple[str, str, object]]:
    for name in SMALL:
        for option in options(name):
            yield from product([name], [option], VALUES[option])


def scenario(architecture: str) -> str:
    return (
        "name: x\ndata: {name: synthetic-skin, samples: 20, image_size: 16}\n"
        f"hospitals:\n  - {{name: a, architecture: {architecture}}}\n  - {{name: b, architecture: "
        f"cnn-plain}}\n"
        "algorithm: {name: fedskd}\n"
    )


@pytest.mark.parametrize(("name", "option", "value"), [*every_option()])
def test_what_passes_the_check_can_be_trained(
    name: str, option: str, value: object, scenario_file: Callable
) -> None:
    """For each value of each option: either the check names the option or image size, or a
    training step works and is finite.
    """
    path: Path = scenario_file(scenario(f"{{name: {name}, options: {{{option}: {value!r}}}}}"))
    loaded = load(path)
    found = [*find_problems(loaded.scenario, None)]
    if found:
        assert {type(error) for error in found} <= {InvalidValue, ImageTooSmall}
        assert all(error.key[:3] == ("hospitals", 0, "architecture") for error in found)
        assert all(option in error.key or isinstance(error, ImageTooSmall) for error in found)
        return
    model = build(loaded.scenario.hospitals[0].architecture, ImageShape(3, 16, 4), 1).train()
    logits, taps = model(torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    (logits.square().mean() + taps.mid.square().mean() + taps.deep.square().mean()).backward()
    assert logits.shape == (3, 4)
    assert min(*taps.mid.shape[2:], *taps.deep.shape[2:]) >= SMALLEST_REGIONS
    assert all(
        bool(parameter.grad.isfinite().all())
        for parameter in model.parameters()
        if parameter.grad is not None
    )


@pytest.mark.parametrize(("name", "norm"), [*product(NORMED, ["none", "group", "batch"])])
def test_every_normalisation_travels(name: str, norm: str) -> None:
    """The blueprint's tensors are the model's, weights install bit for bit, and only batch
    statistics have counters.
    """
    if norm == "none" and not name.startswith("cnn"):
        norm = "group"
    architecture, shape = Architecture(name=name, options={"norm": norm}), ImageShape(3, 16, 4)
    one, other = build(architecture, shape, 1), build(architecture, shape, 2)
    assert spec_of(one) == spec_of(blueprint(architecture, shape)) == spec(export(one))
    install(other, export(one))
    assert digest(export(other)) == digest(export(one))
    counters = [key for key, tensor in one.state_dict().items() if tensor.dtype == torch.int64]
    assert bool(counters) == (norm == "batch")


@pytest.mark.parametrize("name", SMALL)
def test_the_minimum_input_is_the_smallest_that_fits(name: str) -> None:
    """Every usual size below it is too small for the region grid, it and all up to twice its
    size are not.
    """
    architecture = Architecture(name=name)
    smallest = minimum_input(architecture)
    assert smallest in SIZES
    for size in (size for size in SIZES if size <= 2 * smallest):
        assert fits(outline(architecture, ImageShape(3, size, 2))) == (size >= smallest)


def test_no_size_may_be_enough() -> None:
    """An architecture whose taps stay coarse up to 224 pixels has no minimum input, instead of a
    wrong one.
    """
    assert minimum_input(Architecture(name="vit-tiny", options={"patch": 64})) is None


@pytest.mark.parametrize("name", SMALL)
def test_an_outline_is_what_the_model_does(name: str) -> None:
    """Parameters and both taps, counted before the run, are those of a real batch with another
    number of channels and classes.
    """
    architecture, shape = Architecture(name=name), ImageShape(1, 28, 7)
    model, found = build(architecture, shape, 1), outline(architecture, shape)
    logits, taps = model(torch.randn(2, 1, 28, 28))
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (found.mid, found.deep) == (tuple(taps.mid.shape[1:]), tuple(taps.deep.shape[1:]))
    assert logits.shape == (2, 7)


@pytest.mark.parametrize("name", [*SMALL, "vol-plain", "roi-mlp"])
def test_an_outline_is_the_same_whether_it_is_computed_or_not(name: str) -> None:
    """A sample with values is quick here, and passes through the shapes that one without has."""
    architecture, shape = Architecture(name=name), ImageShape(3, 16, 2, kind_of(name))
    assert quick(architecture, shape)
    assert outline(architecture, shape) == act_on_blank(
        architecture, shape, lambda model, blank: outline_of(model, blank, shape)
    )
    assert not quick(architecture, shape._replace(size=20000))


def test_a_blank_sample_is_computed_in_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several would wait for each other longer than they compute; the process keeps its own."""
    before, seen = torch.get_num_threads(), list[int]()

    def look(*given: object) -> Outline:
        seen.append(torch.get_num_threads())
        return outline_of(*given)

    torch.set_num_threads(3)
    monkeypatch.setattr("fedskd_sim.learning.networks.models.outline_of", look)
    try:
        outline(Architecture(name="cnn-plain"), ImageShape(3, 16, 2))
        assert (seen, torch.get_num_threads()) == ([1], 3)
    finally:
        torch.set_num_threads(before)


def test_building_disturbs_no_other_draw() -> None:
    """Initial weights come from their own seed: the process's random state is the same before
    and after.
    """
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build(Architecture(name="cnn-plain"), ImageShape(3, 16, 2), 1)
    assert torch.equal(torch.rand(3), expected)


def test_a_blueprint_takes_no_memory() -> None:
    """All its tensors are on the meta device."""
    assert {
        tensor.device.type
        for tensor in blueprint(Architecture(name="resnet18"), ImageShape(3, 32, 2))
        .state_dict()
        .values()
    } == {"meta"}


@pytest.mark.parametrize("name", REGISTRY)
def test_a_model_that_is_let_go_is_gone_at_once(name: str) -> None:
    """Nothing in a model leads back to it: a visitor's memory is free for the next one, without
    waiting for the cycle collector.
    """
    size = {"image": 224, "roi": 20, "volume": 48, "table": 7}[kind_of(name)]
    shape = ImageShape(1, size, 2, kind_of(name))
    gc.disable()
    try:
        model = blueprint(Architecture(name=name), shape)
        model(shape.blank().expand(2, *shape.blank().shape[1:]).to("meta"))
        gone = ref(model)
        del model
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("name", SMALL)
def test_small_networks_learn(name: str) -> None:
    """A few steps on one batch bring its loss clearly down, for every network that the
    quickstart uses.
    """
    draw = torch.Generator().manual_seed(0)
    images, labels = torch.randn(16, 3, 16, 16, generator=draw), torch.arange(16) % 4
    model = build(Architecture(name=name, options={"width": 16}), ImageShape(3, 16, 4), 1)
    optimiser, losses = torch.optim.AdamW(model.parameters(), lr=1e-2), []
    for _ in range(12):
        loss = nn.functional.cross_entropy(model(images)[0], labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_the_quickstart_networks_have_clearly_different_sizes() -> None:
    """Each of the four has at least a third more parameters than the next smaller, and the
    largest ten times the smallest.
    """
    scenario = load(Path(__file__).parents[3] / "scenarios" / "quickstart.yaml").scenario
    kinds = [hospital.architecture for hospital in scenario.hospitals]
    counts = sorted(outline(kind, ImageShape(3, 32, 4)).parameters for kind in kinds)
    assert all(more > 1.33 * fewer for fewer, more in pairwise(counts))
    assert counts[-1] > 10 * counts[0]
    assert len({kind.name for kind in kinds}) == 4


@pytest.mark.slow
def test_the_kept_table_is_what_the_networks_are() -> None:
    """Otherwise: python docs/reference.py."""
    assert LISTED.read_text(encoding="utf-8") == shipped()


def test_the_listing_is_true() -> None:
    """Each line of `fedskd-sim models` shows the parameters and minimum input of an architecture,
    and its options.
    """
    shown = CliRunner().invoke(main, ["models"]).output
    lines = {line.split()[0]: line for line in shown.splitlines() if line.split()[0] in REGISTRY}
    assert lines.keys() == REGISTRY.keys()
    for name in (
        *SMALL,
        "resnet18",
        "vol-plain",
        "vol-separable",
        *(name for name in REGISTRY if kind_of(name) == "roi"),
    ):
        smallest = (
            LISTED_REGIONS if kind_of(name) == "roi" else minimum_input(Architecture(name=name))
        )
        assert f" {smallest} {UNITS[kind_of(name)]} " in lines[name]
        shape = ImageShape(1 if kind_of(name) == "volume" else 3, smallest, 7, kind_of(name))
        assert f"{outline(Architecture(name=name), shape).parameters:,}" in lines[name]
        assert all(
            f"{option}={default}" in lines[name] for option, default in options(name).items()
        )
