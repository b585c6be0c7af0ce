"""Which sample is which: ids from the source to the hospital's splits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from test_datasets import derm, ham, med, rois
from test_roi import file as abide

from fedskd_sim.learning.base import LearnerContext
from fedskd_sim.learning.data import load
from fedskd_sim.learning.site import Site
from fedskd_sim.results.predictions import read_predictions
from fedskd_sim.scenario import Scenario
from fedskd_sim.scenario import load as load_scenario

TEXT = """\
name: ids
data: {{{data}}}
hospitals:
  - {{name: a, architecture: {net}}}
  - {{name: b, architecture: cnn-plain, data: {{name: synthetic-skin, samples: 40}}}}
algorithm: {{name: {algorithm}}}
{more}"""


def skin(folder: Path) -> None:
    """Write an ``.npz`` of 200 images whose first pixel is their row."""
    image = np.zeros((200, 8, 8, 3), np.uint8)
    image[:, 0, 0, 0] = np.arange(200)
    np.savez(
        folder / "skin.npz", image=image, label=np.arange(200) // 2 % 3,
        label_names=np.array(["x", "y", "z"]), site=np.repeat([0, 1], 100),
        site_names=np.array(["first", "second"]), split_group=np.arange(200) // 2,
        fold=np.arange(200) // 2 % 5,
    )  # fmt: skip


def scans(folder: Path) -> None:
    draw, rows = np.random.default_rng(0), ["file,label,site,subject"]
    for number in range(40):
        nib.save(
            nib.Nifti1Image(draw.normal(5, 2, (8, 8, 8)).astype(np.float32), np.eye(4)),
            folder / f"v{number}.nii",
        )
        rows.append(f"v{number}.nii,{'xy'[number % 2]},north,s{number}")
    (folder / "participants.csv").write_text("\n".join(rows) + "\n")


KINDS: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "synthetic-skin": (lambda _: None, "name: synthetic-skin, samples: 40", "cnn-plain", "39"),
    "synthetic-roi": (lambda _: None, "name: synthetic-roi, samples: 40", "roi-mlp", "39"),
    "synthetic-volumes": (
        lambda _: None,
        "name: synthetic-volumes, samples: 40",
        "vol-plain",
        "39",
    ),
    "ham10000": (skin, "name: ham10000, file: skin.npz, site: second", "cnn-plain", "100"),
    "ham10000-images": (
        ham,
        "name: ham10000-images, size: 8, site: rosendahl",
        "cnn-plain",
        "ISIC_0000007",
    ),
    "medmnist": (med, "name: medmnist, file: small.npz", "cnn-plain", "test-49"),
    "derm7pt": (derm, "name: derm7pt, size: 8", "cnn-plain", "58"),
    "abide": (abide, "name: abide, file: small.npz, site: NYU", "roi-mlp", "7"),
    "abide-rois": (rois, "name: abide-rois, site: NYU", "roi-mlp", "NYU_7"),
    "nifti": (scans, "name: nifti, site: north", "vol-plain", "v7.nii"),
}


def scenario(
    path: Callable[[str], Path], kind: str, algorithm: str = "local", more: str = ""
) -> Scenario:
    _, data, net, _ = KINDS[kind]
    return load_scenario(
        path(TEXT.format(data=data, net=net, algorithm=algorithm, more=more))
    ).scenario


@pytest.mark.parametrize("kind", KINDS)
def test_every_sample_has_an_id_that_stays_with_it(
    kind: str, tmp_path: Path, scenario_file: Callable
) -> None:
    """Ids are one per sample, never twice in a hospital, taken from the source, and move with
    image and label to any split; so do the rows in the hospital's own data.
    """
    make, _, _, one = KINDS[kind]
    make(tmp_path)
    read = scenario(scenario_file, kind)
    found = load(read, "a", tmp_path, "cpu")
    splits = (found.train, found.validation, found.test)
    ids = [name for split in splits for name in split.ids]
    assert [len(split.ids) for split in splits] == [len(split.labels) for split in splits]
    assert len(set(ids)) == len(ids)
    assert one in ids
    numbers = {
        name: row for part in splits for name, row in zip(part.ids, part.numbers, strict=True)
    }
    assert sorted(numbers.values()) == [*range(len(ids))]
    if not hasattr(read.hospital("a").data, "test_fold"):
        return
    other = read.hospitals[0].data.model_copy(
        update={"test_fold": 2, "validation_fold": 3, "limit": 9}
    )
    hospital = read.hospitals[0].model_copy(update={"data": other})
    again = load(
        read.model_copy(update={"hospitals": (hospital, *read.hospitals[1:])}), "a", tmp_path, "cpu"
    )
    known = {name: split.images[row] for split in splits for row, name in enumerate(split.ids)}
    assert len(again.train.ids) == 9
    for split in (again.train, again.validation, again.test):
        assert [numbers[name] for name in split.ids] == [*split.numbers]
        assert all(
            bool((known[name] == image).all())
            for name, image in zip(split.ids, split.images, strict=True)
        )


def test_ids_are_rows_of_the_file(tmp_path: Path, scenario_file: Callable) -> None:
    """In an archive without names, the id is the row in the file, whatever site and split the
    row is in.
    """
    skin(tmp_path)
    found = load(scenario(scenario_file, "ham10000"), "a", tmp_path, "cpu")
    rows = ((found.test.images[:, 0, 0, 0] * 0.25 + 0.5) * 255).round().int().tolist()
    assert found.test.ids == tuple(map(str, rows))


def test_a_name_that_stands_twice_gets_its_row(tmp_path: Path, scenario_file: Callable) -> None:
    """Two recordings of one subject have two ids."""
    abide(tmp_path, sub_id=np.repeat(np.arange(50), 2))
    found = load(scenario(scenario_file, "abide"), "a", tmp_path, "cpu")
    assert found.test.ids[:2] == ("0 (row 0)", "0 (row 1)")


def test_ids_follow_instruments_and_pooling(tmp_path: Path, scenario_file: Callable) -> None:
    """What is tested on validation data has their ids, and pooled training data have those of
    every hospital behind its name.
    """
    read = scenario(
        scenario_file, "synthetic-skin", "pooled", "instruments: {evaluate_on: validation}\n"
    )
    found = Site(LearnerContext(read, "a", tmp_path)).data
    assert found.test.ids == found.validation.ids == tuple(map(str, range(24, 32)))
    assert found.train.ids == tuple(f"{name}/{number}" for name in "ab" for number in range(24))


@pytest.mark.parametrize("fold", [0, 3])
def test_a_prediction_names_a_patient_only_where_that_is_wanted(
    fold: int, tmp_path: Path, scenario_file: Callable
) -> None:
    """By default a patient is its row in the hospital's own data, of which the second site begins
    at row 100 of the file; with `named` it is the id of the source. A former `true` names nobody.
    """
    skin(tmp_path)
    data = f"name: ham10000, file: skin.npz, site: second, test_fold: {fold}"
    for wanted in ("anonymous", "true", "named"):
        path = scenario_file(
            TEXT.format(
                data=data, net="cnn-plain", algorithm="local",
                more=f"instruments: {{predictions: {wanted}}}\n",
            )
        )  # fmt: skip
        site = Site(LearnerContext(load_scenario(path).scenario, "a", tmp_path))
        test = site.data.test
        site.assess("evaluation", "a", torch.zeros(len(test.labels), 3))
        (tmp_path / wanted).mkdir()
        site.save_answers(tmp_path / wanted)
        rows = [int(name) - (0 if wanted == "named" else 100) for name in test.ids]
        assert [*map(int, read_predictions(tmp_path / wanted)["a"].samples)] == rows
        assert len(rows) == 20
