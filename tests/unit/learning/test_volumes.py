"""Volumes: made from a seed and read from NIfTI files, 3-D networks, voxel-level and
atlas-region distillation.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from fedskd_sim.datasets import nifti
from fedskd_sim.errors import (
    DataCorrupt,
    DataMissing,
    FedskdError,
    InvalidValue,
    LabelSpacesDiffer,
    RegionGridTooLarge,
)
from fedskd_sim.learning.comparable import pixel_grid
from fedskd_sim.learning.distillation.arrangements import Atlas
from fedskd_sim.learning.distillation.distill import SimilarityLoss, Taps
from fedskd_sim.learning.networks.models import ImageShape, build, outline
from fedskd_sim.learning.preflight import find_problems
from fedskd_sim.learning.readers import reading, synthetic_volumes
from fedskd_sim.records.files import read_records
from fedskd_sim.scenario import Architecture, Nifti, Scenario, SyntheticVolumes
from fedskd_sim.scenario import load as load_scenario

NETS = ["vol-plain", "vol-residual", "vol-separable", "vol-r3d18"]
TEXT = """
name: volumes
data: {{name: synthetic-volumes, size: 16, samples: 30, regions: 6}}
hospitals:
  - {{name: a, architecture: {{name: vol-plain, options: {{width: 4}}}}}}
  - {{name: b, architecture: {{name: vol-separable, options: {{width: 8}}}}}}
algorithm: {{name: fedskd, rounds: 2{more}}}
training: {{batch_size: 8}}
"""


def dataset(**given: float) -> SyntheticVolumes:
    return SyntheticVolumes.model_validate(
        {"name": "synthetic-volumes", "size": 12, "samples": 60, **given}
    )


def test_volumes_are_a_function_of_seed_and_hospital() -> None:
    """Volumes, labels and atlas are the same bytes again, another hospital has others, and the
    atlas is everybody's.
    """
    one, again, other = (synthetic_volumes.load(dataset(), name, 3) for name in ("a", "a", "b"))
    assert one.values.tobytes() == again.values.tobytes()
    assert one.values.tobytes() != other.values.tobytes()
    assert one.values.shape == (60, 1, 12, 12, 12)
    atlases = [synthetic_volumes.facts(dataset(), name, 3).atlas for name in ("a", "b")]
    assert np.array_equal(*atlases)
    assert sorted(np.unique(atlases[0])) == list(range(13))


def test_site_shift_and_label_skew_do_what_they_say() -> None:
    """Without shift hospitals agree in mean and spread, with it they do not; skew makes class
    frequencies differ.
    """

    def spread(shift: float) -> float:
        found = [
            synthetic_volumes.load(dataset(site_shift=shift), name, 1).values for name in "abcdef"
        ]
        return float(np.std([volume.std() for volume in found]))

    assert spread(2.0) > 5 * spread(0.0)
    even, skewed = (
        [
            np.bincount(
                synthetic_volumes.load(dataset(label_skew=skew, samples=400), name, 1).labels
            )[0]
            / 400
            for name in "abcdef"
        ]
        for skew in (0.0, 1.0)
    )
    assert np.std(skewed) > 3 * np.std(even)


@pytest.mark.parametrize("name", NETS)
def test_three_dimensional_networks_have_logits_taps_and_gradients(name: str) -> None:
    """Each is drawn from its seed, gives logits and five-axis taps of the outlined sizes, and
    learns through both taps.
    """
    shape = ImageShape(1, 16, 3, "volume", (16, 18, 20))
    architecture = Architecture(name=name)
    model, again = build(architecture, shape, 5), build(architecture, shape, 5)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert not any("Batch" in type(module).__name__ for module in model.modules())
    logits, taps = model(torch.randn(2, 1, 16, 18, 20, generator=torch.Generator().manual_seed(0)))
    found = outline(architecture, shape)
    assert logits.shape == (2, 3)
    assert (tuple(taps.mid.shape[1:]), tuple(taps.deep.shape[1:])) == (found.mid, found.deep)
    for tap in taps:
        (gradient,) = torch.autograd.grad(
            tap.square().sum(), next(model.parameters()), retain_graph=True
        )
        assert gradient.abs().sum() > 0


def maps(channels: int, cells: int, seed: int) -> torch.Tensor:
    return torch.randn(
        3, channels, cells, cells, cells, generator=torch.Generator().manual_seed(seed)
    )


def test_regions_of_an_atlas_take_the_place_of_a_grid() -> None:
    """Equal maps have distance 0, the atlas changes the value, and each map is compared on its
    own grid.
    """
    labels = torch.as_tensor(synthetic_volumes.atlas(dataset(regions=5), 1))
    settings = {
        "batch": 0.0,
        "pixel": 0.0,
        "region": 1.0,
        "region_grid": (2, 2, 2),
        "pixel_grid": (4, 4, 4),
    }
    by_atlas, by_grid = SimilarityLoss(**settings, atlas=Atlas(labels)), SimilarityLoss(**settings)
    one, other = Taps(maps(4, 6, 1), maps(4, 6, 1)), Taps(maps(6, 4, 2), maps(6, 4, 2))
    assert float(by_atlas(one, one).total) == pytest.approx(0, abs=1e-6)
    assert float(by_atlas(one, other).total) == pytest.approx(
        float(by_atlas(other, one).total), abs=1e-6
    )
    assert abs(float(by_atlas(one, other).total) - float(by_grid(one, other).total)) > 1e-3


@pytest.mark.slow
def test_a_federation_of_volumes_learns_by_its_atlas(
    scenario_file: Callable, run: Callable
) -> None:
    """Two rounds train with finite distances at all levels, twice with the same bytes; the grid
    of voxels is three-dimensional.
    """
    path = scenario_file(TEXT.format(more=""))
    scenario = load_scenario(path).scenario
    assert pixel_grid(scenario, ImageShape(1, 16, 2, "volume", (16, 16, 16))) == (8, 8, 8)
    folder = run(path)
    visits = [record for record in read_records(folder) if record.kind == "visit"]
    for level in ("batch", "pixel", "region"):
        assert all(0 < record.measures[f"similarity_{level}"].mean < 2 for record in visits)
    assert (folder / "records" / "a.jsonl").read_bytes() == (
        run(path, "processes") / "records" / "a.jsonl"
    ).read_bytes()


def scenario_of(path: Path) -> Scenario:
    return load_scenario(path).scenario


def first(scenario: Scenario, folder: Path | None = None) -> FedskdError:
    return next(iter(find_problems(scenario, folder)))


def test_what_does_not_fit_volumes_is_said(scenario_file: Callable) -> None:
    """An image network, volumes of two sizes, two atlases, and a grid finer than the maps have
    errors with a fix.
    """
    text = TEXT.format(more="")
    found = first(
        scenario_of(scenario_file(text.replace("vol-plain, options: {width: 4}", "cnn-plain")))
    )
    assert isinstance(found, InvalidValue)
    assert found.message == "cnn-plain cannot take volumes of 16 x 16 x 16 voxels"
    found = first(
        scenario_of(scenario_file(text.replace("width: 8}}}", "width: 8}}, data: {size: 20}}")))
    )
    assert isinstance(found, LabelSpacesDiffer)
    assert "20 x 20 x 20" in found.message
    found = first(
        scenario_of(scenario_file(text.replace("width: 8}}}", "width: 8}}, data: {regions: 8}}")))
    )
    assert found.message == "'b' has another atlas than 'a'"
    found = first(scenario_of(scenario_file(TEXT.format(more=", similarity: {pixel_grid: 9}"))))
    assert isinstance(found, RegionGridTooLarge)
    assert "8 x 8 x 8" in found.message


def saved(folder: Path, name: str, values: np.ndarray, affine: np.ndarray | None = None) -> None:
    nib.save(nib.Nifti1Image(values, np.eye(4) if affine is None else affine), folder / name)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Two sites of ten subjects with two scans each, and an atlas of three regions."""
    draw = np.random.default_rng(0)
    rows = ["file,label,site,subject"]
    for number in range(40):
        subject = number // 2
        saved(tmp_path, f"scan-{number}.nii.gz", draw.normal(5, 2, (8, 9, 10)).astype(np.float32))
        rows.append(
            f"scan-{number}.nii.gz,{'case' if subject % 2 else 'control'},"
            f"{'north' if subject < 10 else 'south'},s{subject}"
        )
    (tmp_path / "participants.csv").write_text("\n".join(rows) + "\n")
    labels = np.zeros((8, 9, 10), np.int16)
    labels[1:7, 1:4], labels[1:7, 4:6], labels[1:7, 6:8] = 1, 2, 3
    saved(tmp_path, "atlas.nii.gz", labels)
    return tmp_path


def north(**given: object) -> Nifti:
    return Nifti.model_validate({"name": "nifti", "site": "north", **given})


def test_nifti_volumes_are_read_by_site_and_never_split_a_subject(release: Path) -> None:
    """Headers give grid, classes and atlas; volumes are standardised inside the atlas; both
    scans of a subject share a split.
    """
    facts = reading.facts(north(atlas="atlas.nii.gz"), release, 1, "a")
    assert (facts.classes, facts.kind, facts.grid, facts.size) == (
        ("case", "control"),
        "volume",
        (8, 9, 10),
        8,
    )
    assert facts.atlas is not None
    found = reading.load(north(atlas="atlas.nii.gz"), release, 1, "a")
    assert found.values.shape == (20, 1, 8, 9, 10)
    inside = facts.atlas > 0
    assert np.allclose([volume[0][inside].std() for volume in found.values], 1, atol=1e-3)
    assert not found.values[:, 0][:, ~inside].any()
    assert [len(part) for part in found.splits] == [12, 4, 4]
    others = reading.load(Nifti(name="nifti", site="south"), release, 1, "b")
    assert not np.isin(found.values[:, 0, 3, 3, 3], others.values[:, 0, 3, 3, 3]).any()


def test_missing_voxels_are_masked_and_too_many_are_refused(release: Path) -> None:
    """A few voxels that are not finite become 0; a volume that lacks more than a tenth of its
    voxels, or is even, is refused.
    """
    values = np.random.default_rng(1).normal(0, 1, (8, 9, 10)).astype(np.float32)
    values[4, 4, 4] = np.nan
    found = nifti.standardise(values, None, Path("x"))
    assert found[4, 4, 4] == 0
    assert np.isfinite(found).all()
    values[:2] = np.inf
    with pytest.raises(DataCorrupt, match="voxels are not finite"):
        nifti.standardise(values, None, Path("x"))
    with pytest.raises(DataCorrupt, match="same value everywhere"):
        nifti.standardise(np.ones((4, 4, 4), np.float32), None, release / "x")


def rewrite(folder: Path, before: str, after: str) -> None:
    table = folder / "participants.csv"
    table.write_text(table.read_text().replace(before, after))


DAMAGE: dict[str, tuple[Callable[[Path], object], dict[str, object], type[FedskdError], str]] = {
    "no table": (
        lambda folder: (folder / "participants.csv").unlink(),
        {},
        DataMissing,
        "participants.csv",
    ),
    "a column": (
        lambda folder: rewrite(folder, "subject", "patient"),
        {},
        DataCorrupt,
        "lacks the columns subject",
    ),
    "a file": (
        lambda folder: (folder / "scan-3.nii.gz").unlink(),
        {},
        DataMissing,
        "scan-3.nii.gz is not there",
    ),
    "twice": (
        lambda folder: rewrite(folder, "scan-3.", "scan-2."),
        {},
        DataCorrupt,
        "a file stands there twice",
    ),
    "site": (lambda _: None, {"site": "nord"}, InvalidValue, "there is no site 'nord'"),
    "folds": (lambda _: None, {"test_fold": 1}, InvalidValue, "cannot both validate and test"),
    "no nifti": (
        lambda folder: (folder / "scan-3.nii.gz").write_bytes(b"x"),
        {},
        DataCorrupt,
        "scan-3.nii.gz cannot be read",
    ),
    "grid": (
        lambda folder: saved(folder, "scan-3.nii.gz", np.ones((8, 8, 8), np.float32)),
        {},
        DataCorrupt,
        "a grid of",
    ),
    "time": (
        lambda folder: saved(folder, "scan-3.nii.gz", np.ones((8, 9, 10, 2), np.float32)),
        {},
        DataCorrupt,
        "not three axes",
    ),
    "no atlas": (lambda _: None, {"atlas": "aal.nii"}, DataMissing, "aal.nii is not there"),
    "atlas grid": (
        lambda folder: saved(folder, "aal.nii", np.ones((8, 9, 9), np.int16)),
        {"atlas": "aal.nii"},
        DataCorrupt,
        "aal.nii has a grid",
    ),
    "atlas place": (
        lambda folder: saved(folder, "aal.nii", np.ones((8, 9, 10), np.int16), 2 * np.eye(4)),
        {"atlas": "aal.nii"},
        DataCorrupt,
        "another affine",
    ),
    "atlas empty": (
        lambda folder: saved(folder, "aal.nii", np.zeros((8, 9, 10), np.int16)),
        {"atlas": "aal.nii"},
        DataCorrupt,
        "whole region numbers",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_every_damage_of_a_release_is_named_before_anything_starts(
    what: str, release: Path
) -> None:
    """A missing, foreign or contradictory file is an error that names it, from tables and
    headers alone.
    """
    damage, given, kind, words = DAMAGE[what]
    damage(release)
    with pytest.raises(kind, match=words):
        reading.facts(north(**given), release, 1, "a")


def test_folds_of_a_table_are_kept_and_checked(release: Path) -> None:
    """A fold column decides the splits; a subject in two folds, or a fold that is none, is
    refused.
    """
    table = release / "participants.csv"
    lines = table.read_text().splitlines()
    folds = [f"{line},{number // 2 % 5}" for number, line in enumerate(lines[1:])]
    table.write_text("\n".join([lines[0] + ",fold", *folds]) + "\n")
    assert [len(part) for part in reading.load(north(), release, 1, "a").splits] == [12, 4, 4]
    table.write_text(
        "\n".join(
            [lines[0] + ",fold", *(f"{line},{number % 5}" for number, line in enumerate(lines[1:]))]
        )
        + "\n"
    )
    with pytest.raises(DataCorrupt, match="subject 's0' in two folds: 0 in row 0, 1 in row 1"):
        reading.facts(north(), release, 1, "a")
    table.write_text("\n".join([lines[0] + ",fold", *(f"{line},7" for line in lines[1:])]) + "\n")
    with pytest.raises(DataCorrupt, match="gives '7' in row 0 of folds, not 0, 1, 2, 3, 4"):
        reading.facts(north(), release, 1, "a")


@pytest.mark.slow
def test_nifti_files_train_a_federation(
    release: Path, scenario_file: Callable, inside: Callable
) -> None:
    """A scenario over the release validates, launches and reports with the folder given on the
    command line.
    """
    hole = np.random.default_rng(3).normal(5, 2, (8, 9, 10)).astype(np.float32)
    hole[0, 0, :3] = np.nan
    saved(release, "scan-4.nii.gz", hole)
    path = scenario_file(
        "name: scans\ndata: {name: nifti, atlas: atlas.nii.gz}\nhospitals:\n"
        "  - {name: a, architecture: {name: vol-plain, options: {width: 4}}, data: {site: north}}\n"
        "  - {name: b, architecture: {name: vol-separable, options: {width: 8}}, data: {site: "
        "south}}\n"
        "algorithm: {name: fedskd, rounds: 1, similarity: {pixel_grid: 4}}\ntraining: {batch_size: "
        "4}\n"
    )
    done = inside("launch", path, "--on", "memory", "--out", release / "out", "--data", release)
    assert done.returncode == 0, done.stderr
    assert "vol-plain" in done.stdout
    assert "a: 3 voxels of 1 volumes are not finite and masked." in done.stdout
