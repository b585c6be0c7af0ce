"""The parts of learning: measures against scikit-learn, reconciliation by hand, data,
architectures, weights.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sessions import CASES, COUNT, make_job
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score
from torch import nn

from fedskd_sim.learning.algorithms.fedavg import flat, install_flat
from fedskd_sim.learning.algorithms.learners import make
from fedskd_sim.learning.base import LearnerContext, Session
from fedskd_sim.learning.data import Samples, augment, batches
from fedskd_sim.learning.evaluate import evaluate
from fedskd_sim.learning.networks.models import (
    REGISTRY,
    SIZES,
    ImageShape,
    blueprint,
    build,
    fits,
    minimum_input,
    outline,
)
from fedskd_sim.learning.prediction import refresh
from fedskd_sim.learning.readers import synthetic
from fedskd_sim.learning.reconcile import mean, reconcile
from fedskd_sim.learning.sessions.session import AdamW, SessionModels, TrainingJob, train
from fedskd_sim.learning.site import Site
from fedskd_sim.learning.task import ONE_LABEL, class_weights
from fedskd_sim.learning.weights import (
    buffer_of,
    export,
    install,
    save,
    snapshot,
    spec_of,
    tensor_of,
    view,
)
from fedskd_sim.messages import ITEM_BYTES, digest
from fedskd_sim.scenario import Architecture, SyntheticSkin, Training, load

SMALL = [name for name in REGISTRY if name.startswith(("cnn", "vit-tiny"))]


@pytest.mark.parametrize("seed", range(4))
def test_measures_are_those_of_scikit_learn(seed: int) -> None:
    """Accuracy, balanced accuracy and macro one-versus-rest AUC agree, with ties and over the
    classes present.
    """
    draw = np.random.default_rng(seed)
    labels = draw.choice([0, 2, 3], 90)
    logits = draw.integers(0, 4, (90, 5)).astype(np.float32)
    found = ONE_LABEL.measure(torch.tensor(logits), torch.tensor(labels))
    scores = torch.tensor(logits).double().softmax(1).numpy().round(12)  # rounding parts ties
    decided = logits.argmax(1)
    assert found["accuracy"].mean == pytest.approx(accuracy_score(labels, decided))
    expected = np.mean([(decided[labels == label] == label).mean() for label in (0, 2, 3)])
    assert found["balanced_accuracy"].mean == pytest.approx(expected)
    areas = [roc_auc_score(labels == label, scores[:, label]) for label in (0, 2, 3)]
    assert found["auc"].mean == pytest.approx(np.mean(areas))
    assert (found["auc"].weight, found["accuracy"].weight) == (3, 90)


def test_balanced_accuracy_of_all_classes_is_scikit_learns() -> None:
    """Where every class is present the two definitions are one."""
    logits = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(100) % 3
    expected = balanced_accuracy_score(labels.numpy(), logits.argmax(1).numpy())
    assert ONE_LABEL.measure(logits, labels)["balanced_accuracy"].mean == pytest.approx(expected)


def test_one_class_has_no_auc_and_no_data_no_measures() -> None:
    """What cannot be measured has weight 0 or is absent, and is never NaN in a record."""
    one = ONE_LABEL.measure(torch.randn(5, 2), torch.zeros(5, dtype=torch.long))
    assert one["auc"] == (0, 0)
    model = build(Architecture(name="cnn-plain"), ImageShape(3, 16, 2), 0)
    assert (
        evaluate(model, Samples(torch.zeros(0, 3, 16, 16), torch.zeros(0, dtype=torch.long))) == {}
    )


def test_evaluation_leaves_a_model_as_it_was() -> None:
    """Neither weights nor running statistics nor the mode change."""
    model = build(
        Architecture(name="cnn-plain", options={"norm": "batch"}), ImageShape(3, 16, 2), 0
    ).train()
    before = digest(snapshot(model))
    evaluate(model, Samples(torch.randn(9, 3, 16, 16), torch.arange(9) % 2))
    assert digest(snapshot(model)) == before
    assert model.training


def weights(value: float, count: int = 1) -> dict:
    return {"w": buffer_of(torch.full((2, 2), value)), "n": buffer_of(torch.tensor(count))}


def scored(scores: dict[float, float]) -> object:
    return lambda candidate: scores[float(tensor_of(candidate["w"])[0, 0])]


@pytest.mark.parametrize(
    ("mode", "scores", "home"),
    [
        ("replace", {}, 4.0),
        ("two_track", {}, 2.0),
        ("select", {2.0: 0.5, 4.0: 0.6}, 4.0),
        ("select", {2.0: 0.5, 4.0: 0.5}, 2.0),
        ("average", {2.0: 0.5, 4.0: 0.6, 3.0: 0.56}, 3.0),
        ("average", {2.0: 0.5, 4.0: 0.6, 3.0: 0.54}, 4.0),
        ("average", {2.0: 0.7, 4.0: 0.6, 3.0: 0.64}, 2.0),
    ],
)
def test_reconciliation(mode: str, scores: dict[float, float], home: float) -> None:
    """Each mode takes what it says; the guard of the average acts beyond 0.5 / sqrt(100) = 0.05
    and says so.
    """
    joined = reconcile(mode, weights(2.0), weights(4.0, 9), scored(scores), 100)
    assert float(tensor_of(joined.home["w"])[0, 0]) == home
    assert (joined.general is not None) == (mode == "two_track")
    assert bool(joined.note) == (mode == "select" or (mode == "average" and home != 3.0))


def test_the_average_takes_integer_buffers_from_the_resident() -> None:
    """Counters are not averaged."""
    assert int(tensor_of(mean(weights(2.0, 5), weights(4.0, 9))["n"])) == 5


@pytest.mark.parametrize("count", [1, 2, 31, 32, 33, 64, 65])
def test_an_epoch_has_every_sample_once_but_a_lone_last_one(count: int) -> None:
    """Batches are disjoint and cover the data; one sample alone is left out unless it is all
    there is.
    """
    samples = Samples(torch.arange(count).float(), torch.arange(count))
    drawn = [batch.labels for batch in batches(samples, 32, torch.Generator().manual_seed(0))]
    assert [len(labels) for labels in drawn] == Training(batch_size=32).batch_sizes(count)
    together = torch.cat(drawn)
    assert len(together.unique()) == len(together) == count - (count % 32 == 1 and count > 1)


def test_augmentation_moves_pixels_and_changes_none() -> None:
    """Each image keeps its multiset of pixels, channels stay together, and most images move."""
    images = torch.randn(50, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    moved = augment(images, torch.Generator().manual_seed(1))
    assert torch.equal(moved.flatten(2).sort(2).values, images.flatten(2).sort(2).values)
    assert (moved != images).flatten(1).any(1).sum() > 30


def test_class_weights_have_mean_one_over_the_samples() -> None:
    """Rarer classes weigh more, by the square root; absent ones nothing; `none` is all ones."""
    labels = torch.tensor([0] * 90 + [1] * 10)
    found = class_weights(labels, 3, "sqrt_inverse")
    assert float(found[labels].mean()) == pytest.approx(1)
    assert float(found[1] / found[0]) == pytest.approx(3)
    assert float(found[2]) == 0
    assert class_weights(labels, 3, "none").tolist() == [1, 1, 1]


def images(name: str = "a", seed: int = 1, **options: object) -> synthetic.Images:
    return synthetic.load(
        SyntheticSkin(name="synthetic-skin", image_size=16, **options), name, seed
    )


def test_synthetic_images_depend_on_seed_and_hospital_alone() -> None:
    """The same names give the same bytes, others do not; facts agree with what is drawn."""
    first = images()
    assert first.pixels.tobytes() == images().pixels.tobytes()
    assert first.pixels.tobytes() != images(seed=2).pixels.tobytes()
    assert first.pixels.tobytes() != images("b").pixels.tobytes()
    seen = synthetic.facts(SyntheticSkin(name="synthetic-skin", image_size=16), "a", 1)
    assert seen.train_labels.tolist() == first.labels[first.splits[0]].tolist()


def test_synthetic_images_do_not_depend_on_how_many_are_painted_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last group may be smaller; all at once and one by one give the same bytes."""
    usual = images(samples=37)
    for count in (1, 8, 100):
        monkeypatch.setattr(synthetic, "AT_A_TIME", count)
        assert images(samples=37).pixels.tobytes() == usual.pixels.tobytes()


def test_site_shift_and_label_skew_do_what_they_say() -> None:
    """Without them hospitals look alike and have equal classes; with them cameras and patients
    differ.
    """

    def spread(**options: object) -> tuple[float, float]:
        many = [images(name, samples=300, **options) for name in "abcdef"]
        colours = np.stack([one.pixels.mean((0, 1, 2)) for one in many])
        frequencies = np.stack([np.bincount(one.labels, minlength=4) / 300 for one in many])
        return float(colours.std(0).mean()), float(frequencies.std(0).mean())

    even, shifted = spread(site_shift=0.0, label_skew=0.0), spread(site_shift=1.0, label_skew=1.0)
    assert shifted[0] > 3 * even[0]
    assert shifted[1] > 3 * even[1]


def test_synthetic_classes_can_be_learned() -> None:
    """A linear model on pixels is far above chance within one hospital, and not perfect."""
    one = images(samples=1000, label_skew=0.0)
    train, _, test = one.splits
    flat = one.pixels.reshape(1000, -1) / 255
    model = LogisticRegression(C=0.01, max_iter=3000).fit(flat[train], one.labels[train])
    assert 0.4 < model.score(flat[test], one.labels[test]) < 0.98


@pytest.mark.parametrize("name", [*SMALL, "resnet18", "mobilenet-v3-small"])
def test_architectures_have_logits_taps_and_the_tensors_of_their_blueprint(name: str) -> None:
    """At the minimum input every tap holds the region grid; one usual size below it does not."""
    architecture = Architecture(name=name)
    smallest = minimum_input(architecture)
    shape = ImageShape(3, smallest, 5)
    model = build(architecture, shape, 1)
    logits, taps = model(torch.randn(2, 3, smallest, smallest))
    assert logits.shape == (2, 5)
    assert taps.mid.shape[1:] == outline(architecture, shape).mid
    assert taps.deep.shape[1:] == outline(architecture, shape).deep
    assert spec_of(model) == spec_of(blueprint(architecture, shape))
    assert digest(export(model)) == digest(export(build(architecture, shape, 1)))
    assert digest(export(model)) != digest(export(build(architecture, shape, 2)))
    if smallest > SIZES[0]:
        below = SIZES[SIZES.index(smallest) - 1]
        assert not fits(outline(architecture, ImageShape(3, below, 5)))


@pytest.mark.parametrize("name", SMALL)
def test_gradients_reach_every_parameter_that_is_not_masked_by_a_zero_start(name: str) -> None:
    """After one step has moved the zero-initialised scales, every parameter has a gradient."""
    model = build(Architecture(name=name), ImageShape(3, 16, 3), 0)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        logits, _ = model(torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)))
        logits.square().sum().backward()
        optimiser.step()
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0
        for parameter in model.parameters()
    )


@pytest.mark.parametrize("dtype", ITEM_BYTES)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_tensors_of_every_type_travel_bit_for_bit(dtype: str, shape: tuple[int, ...]) -> None:
    """Tensor to buffer to tensor is the identity, and the buffer has the bytes it should."""
    bits = torch.randint(
        0,
        2,
        (*shape, ITEM_BYTES[dtype]),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0),
    )
    tensor = bits.view(getattr(torch, dtype)).reshape(shape)
    buffer = buffer_of(tensor)
    assert len(buffer.data) == tensor.numel() * ITEM_BYTES[dtype]
    assert torch.equal(tensor_of(buffer), tensor)


def test_a_model_is_installed_bit_for_bit_with_its_counters() -> None:
    """Weights, running statistics and integer counters arrive as they were."""
    architecture, shape = (
        Architecture(name="cnn-plain", options={"norm": "batch"}),
        ImageShape(3, 16, 2),
    )
    one, other = build(architecture, shape, 1), build(architecture, shape, 2)
    one(torch.randn(4, 3, 16, 16))
    install(other, export(one))
    assert digest(export(other)) == digest(export(one))
    assert any(buffer.dtype == "int64" for buffer in export(one).values())


def test_what_is_exported_is_the_model_as_it_is_now() -> None:
    """The views are made once, show every change, and are made anew for tensors that are
    somewhere else.
    """
    model = build(
        Architecture(name="cnn-plain", options={"norm": "batch"}), ImageShape(3, 16, 2), 1
    )
    first = export(model)
    model(torch.randn(4, 3, 16, 16))
    assert all(buffer.data is first[name].data for name, buffer in export(model).items())
    assert digest(export(model)) == digest(snapshot(model))
    model.head.weight = torch.nn.Parameter(torch.ones_like(model.head.weight))
    model.get_submodule("stem.1").running_mean = torch.ones(24)
    assert digest(export(model)) == digest(snapshot(model))
    model.to(memory_format=torch.channels_last)
    assert digest(export(model)) == digest(snapshot(model))
    with torch.no_grad():
        model.get_submodule("stem.0").weight.mul_(2)
    assert digest(export(model)) == digest(snapshot(model))


def test_weight_files_are_reproducible_and_say_what_they_are(tmp_path: Path) -> None:
    """Saving twice gives the same bytes; the metadata is JSON under one key."""
    model = build(Architecture(name="cnn-plain"), ImageShape(3, 16, 2), 1)
    for name in ("one", "two"):
        save(export(model), tmp_path / name, {"hospital": "a", "seed": "1"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with safe_open(tmp_path / "one", "pt") as file:
        assert json.loads(file.metadata()["fedskd_sim"]) == {"hospital": "a", "seed": "1"}


def test_a_session_finds_no_gradients_of_another_and_leaves_none() -> None:
    """What a session that was rolled back left behind changes nothing, and between steps
    gradients take no memory.
    """
    shape = ImageShape(3, 16, 2)
    samples = Samples(torch.randn(8, 3, 16, 16), torch.arange(8) % 2)
    job = TrainingJob(samples, torch.ones(2), Training(batch_size=4), budget=16, seed=1)
    models = [build(Architecture(name="cnn-plain"), shape, 1) for _ in range(2)]
    for parameter in models[0].parameters():
        parameter.grad = torch.ones_like(parameter)
    for model in models:
        train(SessionModels({"own": model}), job)
    assert digest(export(models[0])) == digest(export(models[1]))
    assert all(parameter.grad is None for model in models for parameter in model.parameters())


@pytest.mark.parametrize(
    ("kind", "architecture", "layout"),
    [
        ("skin", "cnn-plain", torch.channels_last),
        ("volumes", "vol-plain", torch.channels_last_3d),
        ("roi", "roi-mlp", None),
    ],
)
def test_channels_last_is_how_a_model_lies_in_memory_and_not_what_travels(
    kind: str, architecture: str, layout: torch.memory_format | None, scenario_file: Callable
) -> None:
    """New and arrived models have it where they have maps; names, shapes and bytes that travel
    are those of the usual order.
    """
    text = (
        f"name: x\ndata: {{name: synthetic-{kind}, samples: 20}}\nalgorithm: {{name: fedskd}}\n"
        f"hospitals: [{{name: a, architecture: {architecture}}}, {{name: b, architecture: "
        f"{architecture}}}]\n"
    )
    usual, other = (
        Site(LearnerContext(load(scenario_file(text + extra)).scenario, "a", None))
        for extra in ("", "training: {memory_format: channels_last}\n")
    )
    first = other.first(1)
    assert digest(export(first)) == digest(export(usual.first(1)))
    arrived = other.build("b", export(first))
    assert digest(export(arrived)) == digest(export(first))
    kernels = [
        weight for model in (first, arrived) for weight in model.parameters() if weight.dim() > 3
    ]
    assert bool(kernels) == bool(layout)
    assert all(weight.is_contiguous(memory_format=layout) for weight in kernels)
    assert not layout or not all(weight.is_contiguous() for weight in kernels)


def test_the_device_of_auto_is_what_the_process_sees_and_the_record_says_which(
    scenario_file: Callable,
) -> None:
    """Where there is CUDA it is that, else the CPU; a device that is named needs no remark."""
    text = (
        "name: x\ndata: {name: synthetic-skin, samples: 20}\nalgorithm: {name: fedskd}\n"
        "hospitals: [{name: a, architecture: cnn-plain, device: auto}, {name: b, architecture: "
        "cnn-plain, device: cpu}]\n"
    )
    here = "cuda" if torch.cuda.is_available() else "cpu"
    chosen, named = (
        Site(LearnerContext(load(scenario_file(text)).scenario, name, None)) for name in "ab"
    )
    assert (chosen.device, next(chosen.first(1).parameters()).device.type) == (here, here)
    assert (chosen.note_remarks(Session({})).reason, named.note_remarks(Session({})).reason) == (
        f"device auto is {here}",
        "",
    )


def test_weights_are_the_same_object_until_somebody_writes_to_the_model() -> None:
    """Tests leave what is shown of a model as it is; training, running statistics alone, and
    both ways to install give another.
    """
    model = build(
        Architecture(name="cnn-plain", options={"width": 4, "norm": "batch"}),
        ImageShape(3, 16, 3),
        0,
    )
    samples = Samples(torch.randn(12, 3, 16, 16), torch.arange(12) % 3)
    statistics = next(layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d))
    statistics_alone = lambda: statistics(torch.randn(2, statistics.num_features, 3, 3))  # noqa: E731 - one of several writers
    writers = [
        lambda: train(
            SessionModels({"own": model}),
            TrainingJob(samples, torch.ones(3), Training(batch_size=6), 12, 1),
        ),
        lambda: (model.train(), statistics_alone()),
        lambda: install(model, snapshot(model)),
        lambda: install_flat(model, flat(model)),
    ]
    for write in writers:
        first = view(model)
        evaluate(model, samples)
        assert view(model) is first
        write()
        assert view(model) is not first
        assert digest(view(model)) == digest(export(model))


def test_running_statistics_are_taken_alike_again(scenario_file: Callable) -> None:
    """What a hospital predicts with is the same whenever it is chosen, also of a network that
    draws in training mode.
    """
    text = (
        "{name: a, architecture: {name: cnn-plain, options: {width: 4, norm: batch}}}, {name: b, "
        "architecture: cnn-plain}"
    )
    data = "{name: synthetic-skin, samples: 30, image_size: 16, classes: 3}"
    scenario = (
        f"name: draws\ndata: {data}\nhospitals: [{text}]\nalgorithm: {{name: local}}\nprediction: "
        f"{{model: averaged}}\n"
    )
    learner = make(LearnerContext(load(scenario_file(scenario)).scenario, "a"))
    learner.warm_up()
    made = learner.site.build

    def drawing(*about: object) -> torch.nn.Module:
        network = made(*about)
        network.register_forward_pre_hook(
            lambda net, given: torch.nn.functional.dropout(given[0], 0.5, net.training)
        )
        return network

    learner.site.build = drawing
    found = set()
    for elsewhere in range(3):
        torch.manual_seed(elsewhere)
        found.add(digest(learner._choose()))
    assert len(found) == 1


GOOD = """
name: averages
data: {{name: synthetic-skin, samples: 30, image_size: 16, classes: 3}}
hospitals: [{{name: a, architecture: cnn-plain}}, {{name: b, architecture: cnn-plain}}]
algorithm: {}
prediction: {{model: averaged}}
"""


class Normalised(nn.Module):
    """One number of each sample, normalised over the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.norm = nn.BatchNorm1d(1)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, None]:
        return self.norm(self.scale * images.flatten(1)), None


@pytest.mark.parametrize(
    ("values", "average", "spread"),
    [
        ([0.0] * 150 + [2.0] * 150, 1.0, 150 / 149),
        ([3.0, 0.0] * 128 + [3.0], 3 * 129 / 257, 0.0),
        ([5.0, 7.0], 6.0, 2.0),
        ([5.0], 0.0, 1.0),
    ],
    ids=["in the order of classes", "one more than a batch", "two", "one"],
)
def test_running_statistics_weigh_every_sample_alike(
    values: list[float], average: float, spread: float
) -> None:
    """However many samples there are and in whatever order, none counts more than another, and none
    is a batch of its own; a single one has no spread, and leaves things as they are.
    """
    network = Normalised()
    images = torch.tensor(values).reshape(-1, 1, 1, 1)
    refresh(network, Samples(images, torch.zeros(len(values), dtype=torch.int64)))
    assert network.norm.running_mean.item() == pytest.approx(average, abs=1e-5)
    assert network.norm.running_var.item() == pytest.approx(spread, abs=1e-5)
    assert (network.norm.momentum, network.training) == (0.1, False)


@pytest.mark.parametrize(
    ("case", "asked"),
    [("alone", 0), ("mutual training", 0.5), ("traveller first", 2), ("proximal", 0)],
)
def test_every_frozen_teacher_is_counted(case: str, asked: float) -> None:
    """Per sample-gradient: beside two that train the visitor's past is asked, beside a visitor that
    trains alone its past and the resident.
    """
    models, teaching = CASES[case](1)
    sums = train(models, make_job(epochs=1, models=2), teaching)
    assert (sums.samples, sums.forwards) == (2 * COUNT, 2 * COUNT * asked)


def test_averaged_weights_hold_nothing_untrained(scenario_file: Callable) -> None:
    """Where nothing warms up, the first average is the first snapshot: 4, then (4 + 8) / 2, then
    two thirds of that and one third of 12.
    """
    text = GOOD.format("{name: fedavg, architecture: cnn-plain}")
    learner = make(LearnerContext(load(scenario_file(text)).scenario, "a"))
    learner.warm_up()
    found = []
    for round_, value in enumerate((4.0, 8.0, 12.0), 1):
        learner._on_snapshot({"w": buffer_of(torch.tensor([value]))}, round_)
        found.append(tensor_of(learner._averaged["w"]).item())
    assert found == pytest.approx([4.0, 6.0, 8.0])
    other = make(LearnerContext(load(scenario_file(GOOD.format("{name: local}"))).scenario, "a"))
    other.warm_up()
    assert other._averaged


def test_the_optimiser_is_pytorchs() -> None:
    """Its steps give the very weights that PyTorch's own gives."""
    found = []
    for kind in (AdamW, torch.optim.AdamW):
        draw = torch.Generator().manual_seed(1)
        weights = torch.nn.Parameter(torch.randn(5, 7, generator=draw))
        optimiser = kind([weights], lr=1e-2, weight_decay=0.1)
        for _ in range(4):
            (weights * torch.randn(5, 7, generator=draw)).sum().backward()
            optimiser.step()
            optimiser.zero_grad()
        assert weights.grad is None
        found.append(weights.detach())
    assert torch.equal(*found)


LEARNS = """
name: learns
data: {name: synthetic-skin, samples: 20, image_size: 16, classes: 2, label_skew: 0}
hospitals:
  - {name: a, architecture: cnn-plain}
  - {name: b, architecture: vit-tiny}
algorithm: {name: fedskd, rounds: 1, similarity: {batch: 0.1, pixel: 0.1, region: 0.1}}
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(torch, "accelerator"), reason="PyTorch before 2.6 imports sympy itself"
)
def test_small_networks_learn_without_what_is_slow_to_import(
    scenario_file: Callable, tmp_path: Path
) -> None:
    """A run from its check to the report leaves out PyTorch's compiler, its symbolic shapes and
    torchvision: over two seconds and 200 MB.
    """
    code = "import sys; from fedskd_sim import launch; from fedskd_sim.learning.devices import *"
    code += "; run = launch(sys.argv[1], on='memory', out=sys.argv[2])"
    code += "; arithmetic(run.scenario.hospitals[0])"
    code += "; print(*{'torch._dynamo', 'sympy', 'torchvision'} & {*sys.modules})"
    command = [sys.executable, "-c", code, str(scenario_file(LEARNS)), str(tmp_path / "out")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""
