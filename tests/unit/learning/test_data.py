"""Data: splits, standard form, order of epochs, and that synthetic hospitals are what the
scenario says.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from torch.nn import functional

from fedskd_sim.learning import data
from fedskd_sim.learning.data import Samples, augment, batches
from fedskd_sim.learning.readers import synthetic
from fedskd_sim.learning.task import class_weights
from fedskd_sim.scenario import SyntheticSkin, load

QUICKSTART = Path(__file__).parents[3] / "scenarios" / "quickstart.yaml"


def drawn(name: str = "a", seed: int = 1, **options: object) -> synthetic.Images:
    return synthetic.load(
        SyntheticSkin(name="synthetic-skin", **{"image_size": 16, **options}), name, seed
    )


def test_loaded_data_have_one_standard_form() -> None:
    """Images are float32 (N, 3, S, S) around 0 with spread near 1, labels int64, splits
    60/20/20, classes named.
    """
    scenario = load(QUICKSTART).scenario
    found = data.load(scenario, "aachen", None, "cpu")
    count = scenario.hospital("aachen").data.samples
    sizes = [len(split.labels) for split in (found.train, found.validation, found.test)]
    assert sizes == [
        int(count * 0.6),
        int(count * 0.8) - int(count * 0.6),
        count - int(count * 0.8),
    ]
    assert (found.train.images.dtype, found.train.labels.dtype) == (torch.float32, torch.int64)
    assert found.train.images.shape == (sizes[0], 3, 32, 32)
    assert found.train.images.is_contiguous()
    assert abs(float(found.train.images.mean())) < 1
    assert 0.3 < float(found.train.images.std()) < 1.5
    assert float(found.train.images.abs().max()) <= 2
    assert len(found.classes) == 4


def test_splits_share_no_image() -> None:
    """Train, validation and test are disjoint and cover all samples."""
    images = drawn(samples=101)
    rows = np.concatenate(images.splits)
    assert sorted(rows.tolist()) == list(range(101))
    assert len({images.pixels[row].tobytes() for row in rows}) == 101


@pytest.mark.parametrize(
    "options",
    [
        {"samples": 10},
        {"classes": 2},
        {"classes": 8},
        {"image_size": 8},
        {"image_size": 33},
        {"site_shift": 5.0},
    ],
)
def test_the_ends_of_the_schema_can_be_drawn(options: dict) -> None:
    """The least samples, fewest and most classes, odd and small sizes and a strong shift give
    whole images without warnings.
    """
    images = drawn(**options)
    size = options.get("image_size", 16)
    assert images.pixels.shape == (options.get("samples", 400), size, size, 3)
    assert images.pixels.dtype == np.uint8
    assert images.pixels.std() > 3
    assert set(images.labels.tolist()) <= set(range(options.get("classes", 4)))


def test_site_shift_moves_the_cameras_and_nothing_else() -> None:
    """Between-hospital variance of the mean colour grows with the shift; which patients a
    hospital has does not change.
    """
    names = "abcdefgh"

    def variance(shift: float) -> float:
        many = [drawn(name, samples=200, site_shift=shift, label_skew=0.0) for name in names]
        return float(np.var(np.stack([one.pixels.mean((0, 1, 2)) for one in many]), axis=0).mean())

    found = [variance(shift) for shift in (0.0, 0.5, 1.0)]
    assert found[0] * 10 < found[1] < found[2]
    assert drawn(site_shift=0.0).labels.tolist() == drawn(site_shift=1.0).labels.tolist()


def test_label_skew_moves_frequencies_by_its_size() -> None:
    """The distance of a hospital's class frequencies from equal ones grows with the skew, and is
    sampling noise at 0.
    """

    def distance(skew: float) -> float:
        many = [
            np.bincount(drawn(name, samples=500, label_skew=skew, image_size=8).labels, minlength=4)
            / 500
            for name in "abcdef"
        ]
        return float(np.abs(np.stack(many) - 0.25).sum(1).mean())

    none, half, full = (distance(skew) for skew in (0.0, 0.5, 1.0))
    assert none < 0.1
    assert 2 * none < half < full


@pytest.mark.parametrize("name", ["aachen", "bergen", "cork", "delft"])
def test_each_quickstart_hospital_can_be_learned(name: str) -> None:
    """A linear model on 8 x 8 pixels, trained at one hospital of the quickstart, is clearly
    above chance on its test images.
    """
    found = data.load(load(QUICKSTART).scenario, name, None, "cpu")
    seen, asked = (
        functional.avg_pool2d(split.images, 4).flatten(1).numpy()
        for split in (found.train, found.test)
    )
    decided = (
        LogisticRegression(C=0.03, max_iter=2000)
        .fit(seen, found.train.labels.numpy())
        .predict(asked)
    )
    labels = found.test.labels.numpy()
    assert balanced_accuracy_score(labels, decided) > 1.4 / len(np.unique(labels))


def test_every_seed_and_name_draws_its_own_hospital() -> None:
    """Twelve hospitals of three seeds have twelve different images, labels or cameras, and again
    the same when drawn again.
    """
    keys = [(name, seed) for name in "abcd" for seed in (1, 2, 3)]
    first = [drawn(*key, samples=40).pixels.tobytes() for key in keys]
    assert len(set(first)) == len(keys)
    assert first == [drawn(*key, samples=40).pixels.tobytes() for key in keys]


def test_facts_need_no_image_and_agree_with_them(scenario_file: Callable) -> None:
    """What the check knows before a run is what the run loads."""
    path = scenario_file(
        "name: x\nseed: 3\ndata: {name: synthetic-skin, samples: 37, image_size: 20, classes: 3}\n"
        "hospitals: [{name: a, architecture: cnn-plain}, {name: b, architecture: "
        "cnn-plain}]\nalgorithm: {name: fedskd}\n"
    )
    scenario = load(path).scenario
    known = data.facts(scenario.hospital("b").data, "b", scenario.seed, None)
    loaded = data.load(scenario, "b", None, "cpu")
    assert known.train_labels.tolist() == loaded.train.labels.tolist()
    assert (known.channels, known.size, known.size) == tuple(loaded.train.images.shape[1:])
    assert known.classes == loaded.classes


def test_epochs_are_shuffled_by_their_generator_alone() -> None:
    """The same generator state gives the same order, the next epoch another one, and images stay
    with their labels.
    """
    samples = Samples(torch.arange(50).float(), torch.arange(50))
    generator = torch.Generator().manual_seed(0)
    first, second = (
        [batch.labels.tolist() for batch in batches(samples, 16, generator)] for _ in range(2)
    )
    again = list(batches(samples, 16, torch.Generator().manual_seed(0)))
    assert [batch.labels.tolist() for batch in again] == first
    assert first != second
    assert all(torch.equal(batch.images.long(), batch.labels) for batch in again)


def test_augmentation_draws_all_eight_symmetries_and_leaves_its_input() -> None:
    """Over many images the flips and transpositions give each symmetry of the square about
    equally often.
    """
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    images = image.repeat(4000, 1, 1, 1)
    moved = augment(images, torch.Generator().manual_seed(0))
    kinds, counts = moved.flatten(1).unique(dim=0, return_counts=True)
    assert len(kinds) == 8
    assert counts.min() > 400
    assert torch.equal(images, image.repeat(4000, 1, 1, 1))
    assert moved.view(4000, 9).shape == (4000, 9)  # as a network of one's own may look at them


def test_both_models_see_the_same_augmentation() -> None:
    """The same generator state gives the same flips, whatever was drawn elsewhere in the
    process.
    """
    images = torch.randn(20, 3, 8, 8)
    first = augment(images, torch.Generator().manual_seed(3))
    torch.rand(7)
    assert torch.equal(augment(images, torch.Generator().manual_seed(3)), first)


@pytest.mark.parametrize("counts", [(5,), (1, 99), (10, 0, 10), (3, 5, 7, 11)])
def test_class_weights_follow_their_formula(counts: tuple[int, ...]) -> None:
    """Each weight is one over the square root of the class's frequency, scaled to mean 1 over
    the samples.
    """
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    found = class_weights(labels, len(counts), "sqrt_inverse").double()
    raw = np.array([count**-0.5 if count else 0.0 for count in counts])
    expected = raw * sum(counts) / (raw * np.array(counts)).sum()
    assert found.numpy() == pytest.approx(expected, rel=1e-6)
    assert float(found[labels].mean()) == pytest.approx(1, rel=1e-6)
