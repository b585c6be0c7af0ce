"""Connectivity of brain regions: the ABIDE file, synthetic subjects, and networks for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fedskd_sim.errors import (
    DataCorrupt,
    FedskdError,
    InvalidValue,
    LabelSpacesDiffer,
)
from fedskd_sim.learning.comparable import pixel_grid
from fedskd_sim.learning.data import augment, load
from fedskd_sim.learning.distillation.distill import SimilarityLoss
from fedskd_sim.learning.networks.models import ImageShape, blueprint, build, outline
from fedskd_sim.learning.preflight import find_problems
from fedskd_sim.learning.readers import reading, synthetic_roi
from fedskd_sim.learning.weights import spec_of
from fedskd_sim.records.files import read_records
from fedskd_sim.scenario import Abide, Architecture, Similarity, SyntheticRoi, raise_all
from fedskd_sim.scenario import load as load_scenario

NETS = ("roi-mlp", "roi-brainnet", "roi-gcn", "roi-transformer")
REGIONS, SUBJECTS = 12, 100
SHAPE = ImageShape(1, REGIONS, 2, "roi")
TEXT = """\
name: small
data: {name: abide, file: small.npz, by: institution}
hospitals:
  - {name: a, architecture: roi-mlp, data: {site: NYU}}
  - {name: b, architecture: roi-gcn, data: {site: UM}}
algorithm: {name: fedskd, rounds: 1}
training: {batch_size: 16}
"""


def arrays(**changes: object) -> dict[str, np.ndarray]:
    """Give the arrays of a small file: two institutions of 50 subjects, the second with two
    scanners; region 3 is silent.
    """
    draw = np.random.default_rng(0)
    matrix = draw.integers(-90, 128, (SUBJECTS, REGIONS, REGIONS)).astype(np.int8)
    matrix[:80, 3, :] = matrix[:80, :, 3] = 0
    first, second = np.triu_indices(REGIONS, 1)
    found = {
        "fc_q8": matrix[:, first, second], "label": (np.arange(SUBJECTS) % 2).astype(np.uint8),
        "label_names": np.array(["control", "asd"]),
        "site": np.repeat([0, 1, 2], [50, 30, 20]).astype(np.uint8),
        "site_names": np.array(["NYU", "UM_1", "UM_2"]),
        "institution": np.repeat([0, 1], 50).astype(np.uint8),
        "institution_names": np.array(["NYU", "UM"]),
        "fold": (np.arange(SUBJECTS) // 2 % 5).astype(np.uint8),
        "sub_id": np.arange(SUBJECTS).astype(np.int32),
    }  # fmt: skip
    return {name: value for name, value in {**found, **changes}.items() if value is not None}


def file(folder: Path, **changes: object) -> Path:
    np.savez_compressed(folder / "small.npz", **arrays(**changes))
    return folder


def check(path: Path, folder: Path | None) -> None:
    loaded = load_scenario(path)
    raise_all(loaded.document, find_problems(loaded.scenario, folder))


def test_connectivity_is_fisher_z_without_silent_regions(
    tmp_path: Path, scenario_file: Callable
) -> None:
    """Matrices are arctanh(q / 127), symmetric, 0 on the diagonal; a region silent in most
    subjects is left out for everybody.
    """
    check(scenario_file(TEXT), file(tmp_path))
    found = reading.load(
        Abide(name="abide", file="small.npz", by="institution", site="UM"), tmp_path, 1, "b"
    )
    assert found.values.shape == (50, REGIONS - 1, REGIONS - 1)
    assert [len(rows) for rows in found.splits] == [30, 10, 10]
    assert np.array_equal(found.values, found.values.transpose(0, 2, 1))
    assert not found.values[:, np.arange(11), np.arange(11)].any()
    kept = [region for region in range(REGIONS) if region != 3]
    first, second = np.triu_indices(REGIONS, 1)
    train = np.flatnonzero((arrays()["institution"] == 1) & (arrays()["fold"] > 1))
    whole = np.zeros((REGIONS, REGIONS))
    whole[first, second] = arrays()["fc_q8"][train[0]] / 127
    wanted = np.arctanh((whole + whole.T).clip(-0.99, 0.99))[np.ix_(kept, kept)]
    assert np.allclose(found.values[0], wanted, atol=1e-6)


def test_a_scanner_is_a_part_of_its_institution(tmp_path: Path) -> None:
    """The same file by site: UM's second scanner has the last twenty subjects."""
    found = reading.load(Abide(name="abide", file="small.npz", site="UM_2"), file(tmp_path), 1, "b")
    assert len(found.values) == 20
    assert reading.facts(
        Abide(name="abide", file="small.npz", site="UM_2", limit=5), tmp_path, 1, "b"
    ).train_labels.shape == (5,)


CASES = {
    "no such institution": (
        {"institution_names": np.array(["NYU", "UMM"])},
        InvalidValue,
        5,
        "no institution 'UM'",
    ),
    "missing array": ({"sub_id": None}, DataCorrupt, 2, "lacks sub_id"),
    "no triangle": ({"fc_q8": np.zeros((SUBJECTS, 65), np.int8)}, DataCorrupt, 2, "(100, 65)"),
    "no bytes": ({"fc_q8": np.zeros((SUBJECTS, 66), np.float32)}, DataCorrupt, 2, "float32"),
    "fewer subjects than labels": ({"fc_q8": np.zeros((99, 66), np.int8)}, DataCorrupt, 2, "(99,)"),
    "a label without a name": (
        {"label": np.arange(SUBJECTS) % 3},
        DataCorrupt,
        2,
        "0 to 2, but label_names has 2",
    ),
    "a subject in two folds": (
        {"sub_id": np.arange(SUBJECTS) // 20},
        DataCorrupt,
        2,
        "gives subject '0' in two folds",
    ),
    "no subjects": (
        {"institution": np.zeros(SUBJECTS, np.uint8)},
        InvalidValue,
        5,
        "there is no institution 'UM'",
    ),
}


@pytest.mark.parametrize(("changes", "kind", "line", "words"), CASES.values(), ids=CASES.keys())
def test_a_wrong_file_is_named_with_its_line(
    changes: dict,
    kind: type[FedskdError],
    line: int,
    words: str,
    tmp_path: Path,
    scenario_file: Callable,
) -> None:
    """Each way in which a file can be wrong has its error, at the line that names the file or
    the site.
    """
    path = scenario_file(TEXT)
    with pytest.raises(FedskdError) as caught:
        check(path, file(tmp_path, **changes))
    assert type(caught.value) is kind
    assert caught.value.where.line == line
    assert words in caught.value.message
    assert caught.value.fix


@pytest.mark.parametrize(
    ("old", "new", "kind", "words"),
    [
        ("roi-mlp", "cnn-plain", InvalidValue, "cnn-plain cannot take connectivity of 11 regions"),
        (
            "architecture: roi-mlp, data: {site: NYU}",
            "architecture: roi-mlp, data: {name: synthetic-skin}",
            InvalidValue,
            "images",
        ),
        (
            "data: {site: NYU}",
            "data: {name: synthetic-roi, classes: 2}",
            LabelSpacesDiffer,
            "classes",
        ),
    ],
)
def test_networks_and_data_that_do_not_fit_are_refused(
    old: str, new: str, kind: type[FedskdError], words: str, tmp_path: Path, scenario_file: Callable
) -> None:
    """An image network for connectivity, a network for connectivity before images, and two kinds
    of data.
    """
    with pytest.raises(FedskdError) as caught:
        check(scenario_file(TEXT.replace(old, new)), file(tmp_path))
    every = [caught.value, *caught.value.others]
    assert any(type(error) is kind and words in error.message for error in every), every


@pytest.mark.parametrize("name", NETS)
def test_a_network_gives_logits_and_maps_by_region(name: str) -> None:
    """Logits (B, classes) and maps (B, C, R); both taps get a gradient, the blueprint has the
    model's tensors.
    """
    architecture = Architecture(name=name)
    model = build(architecture, SHAPE, 1)
    again = build(architecture, SHAPE, 1)
    assert all(
        torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items()
    )
    assert spec_of(blueprint(architecture, SHAPE)) == spec_of(model)
    logits, taps = model(torch.randn(5, REGIONS, REGIONS))
    assert logits.shape == (5, 2)
    assert {taps.mid.shape[2], taps.deep.shape[2]} == {REGIONS}
    loss = SimilarityLoss.of(Similarity(), None)(
        taps, build(Architecture(name="roi-mlp"), SHAPE, 2)(torch.randn(5, 12, 12))[1]
    )
    loss.total.backward()
    assert any(
        bool(parameter.grad.any()) for parameter in model.parameters() if parameter.grad is not None
    )
    assert outline(architecture, SHAPE).parameters > 1000


def test_what_is_not_an_image_is_not_flipped() -> None:
    """Augmentation leaves connectivity as it is."""
    values = torch.randn(4, REGIONS, REGIONS)
    assert augment(values, torch.Generator().manual_seed(0)) is values


def test_synthetic_subjects_depend_on_seed_hospital_and_class() -> None:
    """The same seed and name give the same bytes; sites differ by their shift, and a class is a
    change of coupling.
    """
    dataset = SyntheticRoi(name="synthetic-roi", samples=200, regions=12, label_skew=0.0)
    first, again, other = (synthetic_roi.load(dataset, name, 1) for name in ("a", "a", "b"))
    assert np.array_equal(first.values, again.values)
    assert not np.array_equal(first.values, other.values)
    alike = dataset.model_copy(update={"site_shift": 0.0})

    def apart(which: SyntheticRoi) -> float:
        means = [synthetic_roi.load(which, name, 1).values.mean(0) for name in ("a", "b")]
        return float(np.abs(means[0] - means[1]).mean())

    assert apart(dataset) > 1.5 * apart(alike)
    groups = [first.values[first.labels == label].mean(0) for label in (0, 1)]
    none = synthetic_roi.load(dataset.model_copy(update={"effect": 1e-9}), "a", 1)
    without = [none.values[none.labels == label].mean(0) for label in (0, 1)]
    assert np.abs(groups[0] - groups[1]).mean() > 1.5 * np.abs(without[0] - without[1]).mean()


def test_a_ring_learns_from_connectivity(
    tmp_path: Path, scenario_file: Callable, run: Callable
) -> None:
    """Hospitals with different networks for connectivity teach each other at all three levels;
    there is no pixel grid.
    """
    path = scenario_file(TEXT)
    folder = run(path, "memory", file(tmp_path))
    assert pixel_grid(load_scenario(path).scenario, SHAPE) is None
    assert load(load_scenario(path).scenario, "a", tmp_path, "cpu").train.images.shape == (
        30,
        11,
        11,
    )
    visits = [record for record in read_records(folder) if record.kind == "visit"]
    assert all(
        {"similarity_batch", "similarity_pixel", "similarity_region"} <= record.measures.keys()
        for record in visits
    )


def test_a_pixel_grid_is_refused_for_connectivity(tmp_path: Path, scenario_file: Callable) -> None:
    """Regions are items already, so a grid that would do nothing is an error at its own place,
    said once.
    """
    path = scenario_file(TEXT.replace("rounds: 1", "rounds: 1, similarity: {pixel_grid: 4}"))
    (error,) = find_problems(load_scenario(path).scenario, file(tmp_path))
    assert (type(error), error.key) == (InvalidValue, ("algorithm", "similarity", "pixel_grid"))
