"""Networks as they are: classes of installed packages, their options, outputs and maps; and what is
refused before anything of it is called.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torchvision
from click.testing import CliRunner
from torch import Tensor, nn

from fedskd_sim.cli import main
from fedskd_sim.errors import FedskdError, InvalidValue, UnknownArchitecture
from fedskd_sim.kubernetes.jobs import _labels
from fedskd_sim.learning.networks import buildable, models
from fedskd_sim.learning.networks.buildable import Contracts, check_architecture, itself
from fedskd_sim.learning.networks.contract import find_breach
from fedskd_sim.learning.networks.maps import as_map
from fedskd_sim.learning.networks.models import ImageShape, blueprint, build, candidates_of
from fedskd_sim.learning.networks.taps import Candidate, Wiring, attach, propose
from fedskd_sim.learning.preflight import find_problems
from fedskd_sim.learning.sources import sources
from fedskd_sim.scenario import Architecture, FedSKD, load, load_architecture

SHAPE = ImageShape(3, 48, 3)
CLASSES = {"num_classes": "$classes"}
SQUEEZE = Architecture(name="torchvision.models:SqueezeNet", options={**CLASSES, "version": "1_1"})
DENSE = {**CLASSES, "growth_rate": 4, "block_config": [2, 2], "num_init_features": 8}
SCENARIO = """\
name: own
data: {name: synthetic-skin, samples: 40, image_size: 48, classes: 3}
hospitals:
  - name: a
    architecture: ARCHITECTURE
  - {name: b, architecture: cnn-plain}
algorithm: {name: fedskd, rounds: 1}
"""


def wrong(chosen: Architecture, shape: ImageShape = SHAPE) -> list[FedskdError]:
    """Find what `validate` finds of an architecture."""
    found = [*itself(chosen, ("architecture",))]
    if found:
        return found
    algorithm, held = FedSKD(name="fedskd"), Contracts()
    try:
        return [*check_architecture(chosen, shape, (), algorithm, atlas=False, held=held)]
    except FedskdError as error:
        return [error]


def test_a_class_keeps_its_own_names_and_gives_logits_and_maps() -> None:
    """Its weights can be loaded in the class itself, guests are like it, and its maps are what its
    modules give.
    """
    chosen = SQUEEZE.model_copy(update={"taps": ("features.5", "features.10")})
    model, plain = build(chosen, SHAPE, 1).eval(), torchvision.models.SqueezeNet("1_1", 3).eval()
    assert type(model) is torchvision.models.SqueezeNet
    assert not any(plain.load_state_dict(model.state_dict()))
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    logits, taps = model(images)
    assert torch.equal(logits, plain(images))
    assert torch.equal(taps.mid, plain.features[:6](images))
    assert torch.equal(taps.deep, plain.features[:11](images))
    assert [*blueprint(chosen, SHAPE).state_dict()] == [*plain.state_dict()]
    assert find_breach(chosen, SHAPE) is None


def test_lists_and_placeholders_are_filled_in() -> None:
    """In lists too, as what the data have."""
    options = {
        "num_classes": "$classes", "input_size": ["$size", "$size"], "stem_channels": 16,
        "partition_size": 2, "block_channels": [16, 32], "block_layers": [1, 1], "head_dim": 8,
        "stochastic_depth_prob": 0.0,
    }  # fmt: skip
    chosen = Architecture(name="torchvision.models:MaxVit", options=options)
    model = build(chosen, ImageShape(3, 32, 5), 1)
    assert model(torch.zeros(2, 3, 32, 32))[0].shape == (2, 5)


REFUSED: dict[str, tuple[dict[str, Any], type[FedskdError], str, str, str]] = {
    "stdlib": (
        {"name": "os:system", "options": {"command": "touch called"}},
        UnknownArchitecture, "name", "'os' is a module of Python itself", "installed",
    ),
    "uninstalled": (
        {"name": "monay.networks:DenseNet"},
        UnknownArchitecture, "name", "no installed package has the module 'monay'", "hospitals run",
    ),
    "no module": (
        {"name": "torchvision.model:DenseNet"},
        UnknownArchitecture, "name", "no module 'torchvision.model'", "installed version",
    ),
    "no class": (
        {"name": "torchvision.models:DensNet"},
        UnknownArchitecture, "name", "has no 'DensNet'", "did you mean 'DenseNet'?",
    ),
    "function": (
        {"name": "torchvision.models:densenet121"},
        InvalidValue, "name", "is a function, and no class of networks",
        "functions need a function of yours (docs/own-code.md): write a function",
    ),
    "dots": (
        {"name": "torchvision.models.DenseNet"},
        UnknownArchitecture, "", "there is no architecture", "did you mean torchvision.models:Dense"
    ),
    "other class": (
        {"name": "torch.optim:AdamW"}, InvalidValue, "name", "is a class, and no class",
        "`code:`",
    ),
    "form": ({"name": "torch nn:Linear"}, InvalidValue, "name", "names no class", "module:Class"),
    "option": (
        {"name": SQUEEZE.name, "options": {"num_class": 3}},
        InvalidValue, "options.num_class", "has no option 'num_class'",
        "did you mean 'num_classes'",
    ),
    "placeholder": (
        {"name": SQUEEZE.name, "options": {"num_classes": ["$clases"]}},
        InvalidValue, "options.num_classes", "'$clases' stands for nothing", "'$classes'",
    ),
    "an object": (
        {"name": "torchvision.models:ResNet", "options": CLASSES},
        InvalidValue, "options", "ResNet needs block, layers", "`code:`",
    ),
    "a word for an object": (
        {"name": "torchvision.models:ResNet", "options": {"block": "Basic", "layers": [1]}},
        InvalidValue, "", "cannot be built for 48 x 48 pixels", "another object of Python",
    ),
    "tap": (
        {**SQUEEZE.model_dump(), "taps": ["features.5", "features.99"]},
        InvalidValue, "taps.1", "no module 'features.99'", "did you mean",
    ),
    "built in": (
        {"name": "cnn-plain", "taps": ["a", "b"]}, InvalidValue, "taps", "is built in",
        "leave it out",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("given", "kind", "key", "said", "fix"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused_with_key_and_fix(
    given: dict[str, Any], kind: type[FedskdError], key: str, said: str, fix: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Nothing that is no class of networks of a package is called."""
    monkeypatch.chdir(tmp_path)
    (error, *_) = wrong(Architecture.model_validate(given))
    assert type(error) is kind, error.message
    place = ".".join(str(part) for part in error.key if part != "architecture")
    assert place == key
    assert said in error.message
    assert fix in error.fix
    assert not [*tmp_path.iterdir()]


def test_another_number_of_logits_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the option that would be right, given or not; no other size is tried."""
    monkeypatch.setattr(buildable, "minimum_input", None)
    for options, key in ({"num_classes": 5}, ("options", "num_classes")), ({}, ()):
        chosen = Architecture(name=SQUEEZE.name, options={**options, "version": "1_1"})
        (error,) = wrong(chosen)
        count = options.get("num_classes", 1000)
        assert error.message.endswith(f"gives {count} logits, the data have 3 classes")
        assert error.fix.startswith("num_classes: $classes")
        assert error.key == key


def test_the_smallest_input_is_that_which_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """An atlas needs no grid of regions on the maps; a search that would be long ends."""
    chosen = Architecture(name="torchvision.models:DenseNet", options=DENSE)
    chosen = chosen.model_copy(update={"taps": ("features.denseblock1", "features.denseblock2")})
    how, held = FedSKD(name="fedskd"), Contracts()
    small = ImageShape(3, 4, 3)
    found = {
        atlas: next(check_architecture(chosen, small, (), how, atlas=atlas, held=held))
        for atlas in (True, False)
    }
    assert "of at least 8 pixels along each axis" in found[True].fix
    assert "of at least 32 pixels along each axis" in found[False].fix
    assert not [*check_architecture(chosen, ImageShape(3, 8, 3), (), how, atlas=True, held=held)]
    other = chosen.model_copy(update={"options": {**DENSE, "num_classes": 5}})
    assert models.minimum_input(other, 3, 3, 1) == 8
    monkeypatch.setattr(models, "LONGEST_SEARCH_S", 0.0)
    chosen = chosen.model_copy(update={"taps": ("features.denseblock9", "features.denseblock2")})
    assert models.minimum_input(chosen, 3, 3) is None


def test_one_tap_is_too_few() -> None:
    """In a scenario, and where `models` is asked; its help says what can be set."""
    for taps in "[layer2]", "[a, b, c]", "layer2":
        with pytest.raises(FedskdError) as found:
            load_architecture("torchvision.models:ResNet", [f"taps={taps}"])
        assert found.value.fix == "give two modules, the middle and the deep one"
    said = CliRunner().invoke(main, ["models", "--help"]).output
    assert "Change a key of the architecture (options..., input, taps)" in " ".join(said.split())


def test_the_working_directory_has_no_networks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that lies there is not found, and does not stand in for an installed one."""
    (tmp_path / "mine.py").write_text("raise SystemExit('imported')")
    (tmp_path / "timmy").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    (error,) = wrong(Architecture(name="mine:Net"))
    assert "no installed package has the module 'mine'" in error.message
    (tmp_path / "hatchling").mkdir()
    (tmp_path / "hatchling" / "__init__.py").write_text("raise SystemExit('imported')")
    (error,) = wrong(Architecture(name="hatchling.net:Net"))
    assert "would import 'hatchling' from" in error.message
    assert "mine" not in sys.modules


def test_a_scenario_is_told_the_line(scenario_file: Callable) -> None:
    """File, key, value and fix, as for everything else."""
    text = SCENARIO.replace("ARCHITECTURE", '{name: "os:system", options: {command: ls}}')
    loaded = load(scenario_file(text))
    (error,) = find_problems(loaded.scenario, None)
    assert loaded.place_error(error).where.line == 5
    assert error.key == ("hospitals", 0, "architecture", "name")


def test_volumes_have_to_be_said(scenario_file: Callable) -> None:
    """A class takes images unless `input` says otherwise."""
    text = SCENARIO.replace("ARCHITECTURE", f'{{name: "{SQUEEZE.name}"}}')
    text = text.replace("synthetic-skin", "synthetic-volumes").replace("image_size", "size")
    text = text.replace("cnn-plain", "vol-plain").replace("48", "16")
    error = next(iter(find_problems(load(scenario_file(text)).scenario, None)))
    assert "cannot take volumes" in error.message
    assert "say 'input: volume'" in error.fix


MAPS = {
    "map": ((8, 5, 5), 20, lambda maps: maps),
    "channels last": ((5, 5, 8), 20, lambda maps: maps.permute(0, 3, 1, 2)),
    "tokens": ((25, 8), 20, lambda maps: maps.mT.reshape(2, 8, 5, 5)),
    "class token": ((26, 8), 20, lambda maps: maps[:, 1:].mT.reshape(2, 8, 5, 5)),
    "class token and registers": ((30, 8), 20, lambda maps: maps[:, 5:].mT.reshape(2, 8, 5, 5)),
    "vector": ((8,), 20, lambda maps: maps.reshape(2, 8, 1, 1)),
}


@pytest.mark.parametrize(("sizes", "size", "expected"), MAPS.values(), ids=MAPS)
def test_what_modules_give_is_understood_as_maps(
    sizes: tuple[int, ...], size: int, expected: Callable[[Tensor], Tensor]
) -> None:
    """Of images, by the sizes alone; the values stay where they are."""
    given = torch.randn(2, *sizes)
    assert torch.equal(as_map(given, ImageShape(3, size, 2)), expected(given))
    assert torch.equal(as_map([None, given], ImageShape(3, size, 2)), expected(given))


def test_volumes_and_regions_are_understood() -> None:
    """Volumes that are no cubes by their proportions, regions by their number."""
    shape = ImageShape(1, 16, 2, "volume", (16, 24, 32))
    given = torch.randn(2, 4, 6, 8, 5)
    assert torch.equal(as_map(given, shape), given.permute(0, 4, 1, 2, 3))
    tokens = torch.randn(2, 193, 5)
    assert torch.equal(as_map(tokens, shape), tokens[:, 1:].mT.reshape(2, 5, 4, 6, 8))
    rows, roi = torch.randn(2, 20, 7), ImageShape(1, 20, 2, "roi")
    assert torch.equal(as_map(rows, roi), rows.mT)
    assert torch.equal(as_map(rows.mT, roi), rows.mT)


@pytest.mark.parametrize("sizes", [(69, 12, 4), (4, 40, 40), (17, 23, 31, 5), (1, 8), ()])
def test_what_is_no_map_is_refused_in_words(sizes: tuple[int, ...]) -> None:
    """Heads of attention, more places than the input has, too many axes, one token."""
    with pytest.raises(TypeError, match="no map of 20 x 20 pixels"):
        as_map(torch.zeros(2, *sizes), ImageShape(3, 20, 2))
    with pytest.raises(TypeError, match="gives dict, and no tensor"):
        as_map({}, ImageShape(3, 20, 2))


class Several(nn.Module):
    """Gives more than logits; ``give`` says how."""

    def __init__(self, give: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.body, self.head, self.give = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4, 2), give
        self.unused = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Any:
        maps = self.body(images)
        return self.give(self.head(maps.mean((2, 3))), maps)


class Pair(NamedTuple):
    logits: Tensor
    maps: Tensor


@dataclass
class Fields:
    logits: Tensor
    maps: Tensor


GIVEN: dict[str, tuple[Callable[[Tensor, Tensor], Any], str | int]] = {
    "tuple": (lambda logits, maps: (maps, logits), 1),
    "from the end": (lambda logits, maps: [maps, logits], -1),
    "named tuple": (Pair, "logits"),
    "dataclass": (Fields, "logits"),
    "dict": (lambda logits, maps: {"maps": maps, "out": logits}, "out"),
    "tensor": (lambda logits, _: logits, "logits"),
}


@pytest.mark.parametrize(("give", "which"), GIVEN.values(), ids=GIVEN)
def test_logits_are_an_entry_of_what_is_given(
    give: Callable[[Tensor, Tensor], Any], which: str | int
) -> None:
    """By name or number; a tensor is the logits themselves, as where auxiliary heads train only."""
    network = Several(give)
    attach(network, Wiring(("body", "body"), which, ImageShape(3, 8, 2)))
    logits, taps = network(torch.zeros(2, 3, 8, 8))
    assert logits.shape == (2, 2)
    assert taps.deep.shape == (2, 4, 4, 4)


def test_several_outputs_without_a_word_are_listed() -> None:
    """With their shapes, so that one can be named; a module that is not called is named too."""
    network = Several(Pair)
    attach(network, Wiring(("body", "body"), None, ImageShape(3, 8, 2)))
    with pytest.raises(InvalidValue, match=r"gives Pair \(.*logits: \(2, 2\), maps: ") as found:
        network(torch.zeros(2, 3, 8, 8))
    assert found.value.key == ("output",)
    network = Several(lambda logits, _: logits)
    attach(network, Wiring(("body", "unused"), None, ImageShape(3, 8, 2)))
    with pytest.raises(InvalidValue, match="'unused' is a module that forward does not call"):
        network(torch.zeros(2, 3, 8, 8))


PROPOSED = {
    "densenet": ("DenseNet", DENSE, 48, ("features.denseblock1", "features")),
    "squeezenet": ("SqueezeNet", CLASSES, 64, ("features.5", "features")),
    "transformer": (
        "VisionTransformer",
        {
            **CLASSES, "image_size": "$size", "patch_size": 8, "num_layers": 4, "num_heads": 2,
            "hidden_dim": 16, "mlp_dim": 16,
        },
        32,
        ("encoder.layers.encoder_layer_1", "encoder"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "options", "size", "taps"), PROPOSED.values(), ids=PROPOSED)
def test_taps_are_proposed_as_built_in_ones_are(
    name: str, options: dict[str, Any], size: int, taps: tuple[str, str]
) -> None:
    """The last map, and one of about four times as many places along each axis; the middle block of
    a transformer. They are those that the network has without a word.
    """
    chosen, shape = (
        Architecture(name=f"torchvision.models:{name}", options=options),
        ImageShape(3, size, 3),
    )
    found = candidates_of(chosen, shape)
    assert propose(found) == taps
    by_name = {one.name: one.map for one in found}
    _, given = build(chosen, shape, 1).eval()(shape.blank())
    assert [tuple(tap.shape[1:]) for tap in given] == [by_name[tap] for tap in taps]


def test_a_network_without_maps_is_refused() -> None:
    """Nothing can be tapped there, and a single module is both taps."""
    with pytest.raises(InvalidValue, match="no module of it gives a map"):
        propose([])
    assert propose([Candidate("a", "Conv2d", (4, 5, 5), (4, 5, 5))]) == ("a", "a")


def test_the_modules_of_a_network_are_listed() -> None:
    """With what they give and the proposal; a wrong option has its key and fix."""
    call = CliRunner().invoke
    said = call(main, ["models", SQUEEZE.name, "--set", "options.num_classes=$classes"]).output
    assert "739,015 parameters at 128 x 128 px, 7 classes" in said
    assert "features.5    256 x 30 x 30  256 x 30 x 30" in said
    assert said.endswith("proposed: taps: [features.5, features]\n")
    said = call(main, ["models", SQUEEZE.name, "--set", "inputs=image"])
    assert said.exit_code == 11
    assert "known here: name, options, input, taps, " in said.output
    assert call(main, ["models", "cnn-plaim"]).exit_code == 15
    assert call(main, ["models", "cnn-plain"]).output.startswith("cnn-plain ")


def test_the_code_of_its_package_is_compared_on_resume(scenario_file: Callable) -> None:
    """An edit of torchvision is another architecture."""
    text = SCENARIO.replace("ARCHITECTURE", f'{{name: "{SQUEEZE.name}"}}')
    found = sources(load(scenario_file(text)).scenario)
    assert found.keys() == {"learning code", f"architecture {SQUEEZE.name}"}


def test_a_pods_label_has_no_colon(scenario_file: Callable) -> None:
    """A label of Kubernetes may have neither, nor more than 63 signs."""

    class Plan(NamedTuple):
        run: str = "r"
        labels: dict[str, str] = {}

    text = SCENARIO.replace("ARCHITECTURE", f'{{name: "{"a" * 40}.{"b" * 40}:Net"}}')
    label = _labels(load(scenario_file(text)).scenario, Plan(), "a")["fedskd.io/architecture"]
    assert label == f"{'a' * 18}.{'b' * 40}.Net"
