"""Initial weights from files, and networks of which a part trains."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from fedskd_sim.errors import DataCorrupt, DataMissing, FedskdError, InvalidValue, LibraryMissing
from fedskd_sim.learning.data import Samples
from fedskd_sim.learning.networks.buildable import Contracts, check_architecture
from fedskd_sim.learning.networks.models import ImageShape, blueprint, build
from fedskd_sim.learning.networks.trainable import head_of
from fedskd_sim.learning.sessions.session import SessionModels, TrainingJob, train
from fedskd_sim.learning.weights import export
from fedskd_sim.messages import digest
from fedskd_sim.methods.keys import FedProto
from fedskd_sim.scenario import Architecture, FedSKD, Similarity, Training

SHAPE = ImageShape(3, 48, 3)
OPTIONS = {
    "num_classes": "$classes", "growth_rate": 4, "block_config": [2, 2], "num_init_features": 8,
}  # fmt: skip
DENSE = Architecture(name="torchvision.models:DenseNet", options=OPTIONS)
TAPS = ("features.denseblock1", "features.denseblock2")
NEWER = pytest.mark.skipif(
    not hasattr(torch.compiler, "set_stance"), reason="PyTorch before 2.6 reads no such file"
)
OFF = Similarity(batch=0.0, pixel=0.0, region=0.0)


def dense(classes: int = 3) -> nn.Module:
    torch.manual_seed(3)
    return torchvision.models.DenseNet(4, (2, 2), 8, num_classes=classes)


def chosen(**given: Any) -> Architecture:
    return DENSE.model_copy(update=given)


def test_a_pytorch_that_could_execute_a_file_reads_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to 2.5 `weights_only` can be got round; safetensors can be read."""
    torch.save(dense().state_dict(), tmp_path / "weights.pt")
    monkeypatch.delattr(torch.compiler, "set_stance", raising=False)
    with pytest.raises(LibraryMissing, match=r"from PyTorch 2\.6 on"):
        build(chosen(weights=str(tmp_path / "weights.pt")), SHAPE, 1)


@NEWER
@pytest.mark.parametrize("how", ["safetensors", "torch", "old torch"])
def test_weights_of_any_network_come_from_a_file(how: str, tmp_path: Path) -> None:
    """With the network's own names, in either format; a guest is built without the file."""
    file, source = tmp_path / "weights.bin", dense()
    state = source.state_dict()
    if how == "safetensors":
        save_file(state, file)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=how == "torch")
    model = build(chosen(weights=str(file)), SHAPE, 1)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    blueprint(chosen(weights=str(tmp_path / "elsewhere")), SHAPE)


@NEWER
def test_a_head_of_other_classes_stays_as_it_is_drawn(tmp_path: Path) -> None:
    """All else is taken from the file."""
    file = tmp_path / "weights.pt"
    torch.save(dense(7).state_dict(), file)
    model, drawn = build(chosen(weights=str(file)), SHAPE, 1), build(DENSE, SHAPE, 1)
    for name, value in model.state_dict().items():
        expected = drawn if name.startswith("classifier.") else dense(7)
        assert torch.equal(value, expected.state_dict()[name])


def test_built_in_networks_take_their_own_names_too(tmp_path: Path) -> None:
    """What a run has left is a beginning of the next one."""
    source = build(Architecture(name="cnn-plain"), SHAPE, 5)
    save_file(source.state_dict(), tmp_path / "a.safetensors")
    again = Architecture(name="cnn-plain", weights=str(tmp_path / "a.safetensors"))
    assert digest(export(build(again, SHAPE, 1))) == digest(export(source))


def without(state: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != name}


class Pickled:
    """What must not be made from a file."""


FIRST = "features.conv0.weight"
BAD: dict[str, tuple[Callable[[dict[str, Any]], Any], type[FedskdError], str]] = {
    "lacking": (lambda state: without(state, FIRST), InvalidValue, f"it lacks {FIRST}"),
    "foreign": (
        lambda state: {**state, "module.x": torch.zeros(1)},
        InvalidValue,
        "the network has no module.x",
    ),
    "shape": (
        lambda state: {**state, FIRST: torch.zeros(8, 1, 7, 7)},
        InvalidValue,
        f"other shapes have {FIRST} (8, 1, 7, 7) for (8, 3, 7, 7)",
    ),
    "all": (lambda _: {"a": torch.zeros(1)}, InvalidValue, " more; the network has no a"),
    "nested": (lambda state: {"epoch": 3, "model": state}, DataCorrupt, "tensors: epoch, model"),
    "code": (lambda _: Pickled(), DataCorrupt, "holds no weights"),
}


@NEWER
@pytest.mark.parametrize(("change", "kind", "said"), BAD.values(), ids=BAD)
def test_weights_that_do_not_fit_are_refused(
    change: Callable[[dict[str, Any]], Any], kind: type[FedskdError], said: str, tmp_path: Path
) -> None:
    """With the names of what differs; nothing of a file is executed."""
    torch.save(change(dict(dense().state_dict())), tmp_path / "weights.pt")
    given = chosen(weights=str(tmp_path / "weights.pt"))
    with pytest.raises(kind) as found:
        [
            *check_architecture(
                given, SHAPE, (), FedSKD(name="fedskd"), atlas=False, held=Contracts()
            )
        ]
    assert said in found.value.message
    assert found.value.key == ("weights",)
    assert found.value.fix


@NEWER
def test_a_missing_or_broken_file_is_told(tmp_path: Path) -> None:
    """With the folder where it was looked for; and torchvision's own go under options."""
    with pytest.raises(DataMissing, match=r"there is no file 'none\.pt'"):
        build(chosen(weights="none.pt"), SHAPE, 1)
    (tmp_path / "text").write_text("no weights at all")
    with pytest.raises(DataCorrupt, match="holds no weights"):
        build(chosen(weights=str(tmp_path / "text")), SHAPE, 1)
    torch.save(torchvision.models.resnet18(num_classes=3).state_dict(), tmp_path / "r.pt")
    given = Architecture(name="resnet18", weights=str(tmp_path / "r.pt"))
    with pytest.raises(InvalidValue, match="it lacks backbone") as found:
        build(given, SHAPE, 1)
    assert "under options" in found.value.fix


def job(steps: int = 3) -> TrainingJob:
    draw = torch.Generator().manual_seed(0)
    samples = Samples(torch.randn(8, 3, 48, 48, generator=draw), torch.arange(8) % 3)
    training = Training(batch_size=8, augment=False)
    return TrainingJob(samples, torch.ones(3), training, 8.0 * steps, 1)


def trained(architecture: Architecture) -> tuple[nn.Module, list[str]]:
    """Train a little; gives the model and the names of what has changed."""
    model = build(architecture, SHAPE, 1)
    before = deepcopy(model.state_dict())
    train(SessionModels({"own": model}), job())
    now = model.state_dict()
    return model, [name for name in now if not torch.equal(now[name], before[name])]


def test_only_the_head_trains() -> None:
    """Nothing else changes, statistics of normalisations included."""
    model, changed = trained(chosen(trainable="head"))
    assert changed == ["classifier.weight", "classifier.bias"]
    assert model.training
    assert not model.features.norm0.training


def test_patterns_say_what_trains() -> None:
    """By names of parameters; a normalisation that trains moves its statistics too, and what is
    frozen does so at a guest and in a copy.
    """
    given = chosen(trainable=("features.denseblock2.*", "classifier.*"))
    _, changed = trained(given)
    assert {name.rpartition(".denselayer")[0] or name for name in changed} == {
        "features.denseblock2", "classifier.weight", "classifier.bias",
    }  # fmt: skip
    assert [name for name in changed if name.endswith("running_mean")]
    for model in (blueprint(given, SHAPE), deepcopy(build(given, SHAPE, 1))):
        names = {name for name, one in model.named_parameters() if one.requires_grad}
        assert names
        assert all(name.startswith(("features.denseblock2", "classifier")) for name in names)
        model.train()(torch.zeros(2, 3, 48, 48))
        assert not model.features.denseblock1.denselayer1.norm1.training
        assert model.features.denseblock2.denselayer1.norm1.training


def test_a_head_has_a_rate_of_its_own() -> None:
    """A rate next to nothing leaves it where it was, nearly; the rest trains as ever."""
    plain, slow = trained(DENSE)[0], trained(chosen(head_rate=1e-12))[0]
    first = build(DENSE, SHAPE, 1)
    moved = [
        float((model.classifier.weight - first.classifier.weight).detach().abs().max())
        for model in (plain, slow)
    ]
    assert moved[0] > 1e-4
    assert moved[1] < 1e-9
    assert not torch.equal(slow.features.conv0.weight, first.features.conv0.weight)


@pytest.mark.parametrize("name", ["cnn-plain", "resnet18", "vit-tiny"])
def test_built_in_networks_freeze_too(name: str) -> None:
    """Their head is their last linear layer, of a blueprint as of a model."""
    given = Architecture(name=name, trainable="head")
    shape = ImageShape(3, 32, 5)
    for model in (build(given, shape, 1), blueprint(given, shape)):
        head = head_of(model, 5)
        training = [one for one, value in model.named_parameters() if value.requires_grad]
        assert training == [f"{head}.weight", f"{head}.bias"]


def test_what_means_nothing_is_refused() -> None:
    """A pattern without parameters, and a head where no layer has as many rows as classes."""
    with pytest.raises(InvalidValue, match=r"called like 'layer4\.\*'") as found:
        build(chosen(trainable=("classifier.*", "layer4.*")), SHAPE, 1)
    assert found.value.key == ("trainable", 1)
    assert "features.conv0.weight" in found.value.fix
    given = chosen(options={**OPTIONS, "num_classes": 5}, taps=TAPS, trainable="head")
    with pytest.raises(InvalidValue, match="weights of 3 rows") as found:
        build(given, SHAPE, 1)
    assert found.value.key == ("trainable",)


def refused(given: Architecture, algorithm: FedSKD | FedProto) -> list[FedskdError]:
    held = Contracts()
    return [*check_architecture(given, SHAPE, (), algorithm, atlas=True, held=held)]


def test_maps_without_a_gradient_cannot_be_taught() -> None:
    """With a frozen body similarity would do nothing without a word; where its weights are 0 it
    may be, and where what trains comes before the compared map.
    """
    head = chosen(trainable="head", taps=TAPS)
    (error,) = refused(head, FedSKD(name="fedskd"))
    assert error.key == ("trainable",)
    assert "before the deep and middle map" in error.message
    assert "algorithm.similarity.batch" in error.message
    assert "to 0" in error.fix
    assert refused(Architecture(name="cnn-plain", trainable="head"), FedSKD(name="fedskd"))
    assert not refused(head, FedSKD(name="fedskd", similarity=OFF))
    late = chosen(trainable=("features.denseblock2.*", "classifier.*"), taps=TAPS)
    (error,) = refused(late, FedSKD(name="fedskd"))
    assert "before the middle map" in error.message
    assert "algorithm.similarity.pixel would" in error.message
    assert not refused(late, FedSKD(name="fedskd", similarity=Similarity(pixel=0.0)))
    (error,) = refused(head, FedProto(name="fedproto"))
    assert "algorithm.weight would teach it nothing" in error.message
