"""Data sets as they are released, made small here: what is read, every way in which it can be
wrong, and parts of one set.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from fedskd_sim.cli import main
from fedskd_sim.datasets import abide_rois, imagefiles, medmnist
from fedskd_sim.errors import (
    DataCorrupt,
    DataMissing,
    FedskdError,
    InvalidValue,
    LabelSpacesDiffer,
    NoTrainingSamples,
    UnknownKey,
)
from fedskd_sim.learning.data import load
from fedskd_sim.learning.preflight import find_problems
from fedskd_sim.learning.readers import cut, reading
from fedskd_sim.learning.readers.cut import cut as parts
from fedskd_sim.scenario import (
    AbideRois,
    Derm7pt,
    Ham10000,
    Ham10000Images,
    MedMnist,
    Partition,
    raise_all,
)
from fedskd_sim.scenario import load as load_scenario

SCENARIOS = Path(__file__).parents[3] / "scenarios"
TAIL = "algorithm: {name: fedskd, rounds: 1}\n"
MED = f"""\
name: small
data: {{name: medmnist, file: small.npz, partition: {{parts: 2, alpha: 100, least: 5}}}}
hospitals:
  - {{name: a, architecture: cnn-plain, data: {{partition: {{part: 0}}}}}}
  - {{name: b, architecture: cnn-plain, data: {{partition: {{part: 1}}}}}}
{TAIL}"""
HAM = f"""\
name: small
data: {{name: ham10000-images, size: 16}}
hospitals:
  - {{name: a, architecture: cnn-plain, data: {{site: rosendahl}}}}
  - {{name: b, architecture: cnn-plain, data: {{site: vidir_modern}}}}
{TAIL}"""
DERM = MED.replace("medmnist, file: small.npz", "derm7pt, size: 16")
ROIS = f"""\
name: small
data: {{name: abide-rois, by: institution}}
hospitals:
  - {{name: a, architecture: roi-mlp, data: {{site: NYU}}}}
  - {{name: b, architecture: roi-gcn, data: {{site: UM}}}}
{TAIL}"""


def check(path: Path, folder: Path | None) -> None:
    loaded = load_scenario(path)
    raise_all(loaded.document, find_problems(loaded.scenario, folder))


def refused(
    path: Path, folder: Path | None, kind: type[FedskdError], words: str, line: int
) -> None:
    with pytest.raises(FedskdError) as caught:
        check(path, folder)
    assert type(caught.value) is kind, caught.value
    assert words in caught.value.message
    assert caught.value.fix
    assert caught.value.where.line == line


def med(folder: Path, colour: tuple[int, ...] = (3,), rows: int = 100, **changes: object) -> Path:
    draw = np.random.default_rng(0)
    made: dict[str, object] = {}
    for split, count in (("train", rows), ("val", rows // 2), ("test", rows // 2)):
        made[f"{split}_images"] = draw.integers(0, 256, (count, 28, 28, *colour), dtype=np.uint8)
        made[f"{split}_labels"] = (np.arange(count) % 4).astype(np.uint8)[:, None]
    folder.mkdir(exist_ok=True)
    np.savez(
        folder / "small.npz",
        **{name: value for name, value in {**made, **changes}.items() if value is not None},
    )
    return folder


def table(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def picture(path: Path, number: int) -> None:
    """Save a picture wider than high, of one colour that tells its number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (30, 20), (number % 256, 100, 200)).save(path, quality=95)


def ham(folder: Path) -> list[dict[str, object]]:
    """Write 120 images of 60 lesions in two collections, in two folders."""
    rows = [
        {
            "lesion_id": f"HAM_{number // 2:07}", "image_id": f"ISIC_{number:07}",
            "dx": ("nv", "mel", "bkl")[number // 2 % 3], "dx_type": "histo", "age": "",
            "sex": "male", "localization": "back",
            "dataset": "rosendahl" if number < 60 else "vidir_modern",
        }
        for number in range(120)
    ]  # fmt: skip
    table(folder / "HAM10000_metadata.csv", rows)
    for number, row in enumerate(rows):
        picture(
            folder / f"HAM10000_images_part_{1 + number % 2}" / f"{row['image_id']}.jpg", number
        )
    return rows


def derm(folder: Path) -> list[dict[str, object]]:
    """Write 60 cases of five diagnoses: 40 train, 10 validate, 8 test, 2 in no split."""
    names = (
        "clark nevus",
        "melanoma (in situ)",
        "lentigo",
        "basal cell carcinoma",
        "seborrheic keratosis",
    )
    rows: list[dict[str, object]] = [
        {
            "case_num": number + 1,
            "diagnosis": names[number % 5],
            "clinic": f"X/c{number}.jpg",
            "derm": f"X/d{number}.jpg",
            "sex": "",
        }
        for number in range(60)
    ]
    release = folder / "release_v0"
    table(release / "meta" / "meta.csv", rows)
    for split, places in (("train", range(40)), ("valid", range(40, 50)), ("test", range(50, 58))):
        table(release / "meta" / f"{split}_indexes.csv", [{"indexes": place} for place in places])
    for number in range(60):
        picture(release / "images" / "X" / f"d{number}.jpg", number)
    return rows


def rois(folder: Path) -> list[dict[str, object]]:
    """Write 80 subjects of three scanners with 8 regions and one without a file; 3 is silent in
    every fifth, 5 in the first.
    """
    draw = np.random.default_rng(0)
    sites = ["NYU"] * 40 + ["UM_1"] * 20 + ["UM_2"] * 20
    rows: list[dict[str, object]] = [
        {
            "SITE_ID": site,
            "SUB_ID": 50000 + number,
            "FILE_ID": f"{site}_{number}",
            "DX_GROUP": 1 + number % 2,
            "AGE": "",
        }
        for number, site in enumerate(sites)
    ]
    for number, row in enumerate(rows):
        signals = draw.normal(size=(30, 8)).astype(str)
        if number % 5 == 0:
            signals[:, 3] = "7.5"
        if number == 0:
            signals[4, 5] = "nan"
        text = "\n".join(["#1\t#2", *("\t".join(line) for line in signals)])
        place = folder / "rois" / f"{row['FILE_ID']}_rois_cc200.1D"
        place.parent.mkdir(exist_ok=True)
        place.write_text(text + "\n", encoding="utf-8")
    skipped = {"SITE_ID": "NYU", "SUB_ID": 1, "FILE_ID": "no_filename", "DX_GROUP": 1, "AGE": ""}
    table(folder / "Phenotypic_V1_0b_preprocessed1.csv", [*rows, skipped])
    return rows


# MedMNIST


@pytest.mark.parametrize("colour", [(), (3,)])
def test_medmnist_keeps_its_splits_in_grey_and_in_colour(
    colour: tuple[int, ...], tmp_path: Path
) -> None:
    """Without a partition a hospital has all images in the official splits, unchanged, with
    classes called by number.
    """
    dataset = MedMnist(name="medmnist", file="small.npz")
    found = reading.load(dataset, med(tmp_path, colour), 1, "a")
    known = reading.facts(dataset, tmp_path, 1, "a")
    raw = np.load(tmp_path / "small.npz")
    for rows, split in zip(found.splits, medmnist.OFFICIAL, strict=True):
        assert np.array_equal(found.pixels[rows].squeeze(), raw[f"{split}_images"])
        assert np.array_equal(found.labels[rows], raw[f"{split}_labels"][:, 0])
    assert found.classes == known.classes == ("0", "1", "2", "3")
    assert (known.size, known.channels) == (28, 3 if colour else 1)
    assert np.array_equal(known.train_labels, found.labels[found.splits[0]])


def test_medmnist_has_volumes_too(tmp_path: Path, scenario_file: Callable) -> None:
    """A set of cubes is read as volumes around 0, cut like images, and asks for architectures of
    volumes.
    """
    folder = med(tmp_path, (28,))
    dataset = MedMnist(name="medmnist", file="small.npz")
    known, found = reading.facts(dataset, folder, 1, "a"), reading.load(dataset, folder, 1, "a")
    assert (known.kind, known.grid, known.channels) == ("volume", (28, 28, 28), 1)
    raw = np.load(tmp_path / "small.npz")["test_images"]
    assert np.allclose(found.values[found.splits[2]][:, 0] * 0.25 * 255 + 127.5, raw, atol=1e-3)
    wrong = [
        error.message for error in find_problems(load_scenario(scenario_file(MED)).scenario, folder)
    ]
    assert wrong == ["cnn-plain cannot take volumes of 28 x 28 x 28 voxels"] * 2
    check(scenario_file(MED.replace("cnn-plain", "vol-plain")), folder)


def test_medmnist_can_be_cut_and_its_classes_named(tmp_path: Path, scenario_file: Callable) -> None:
    """Two hospitals of one file share no image and miss none; names come from the scenario;
    labels may be flat.
    """
    text = MED.replace("file: small.npz", "file: small.npz, classes: [w, x, y, z]")
    check(scenario_file(text), med(tmp_path, train_labels=(np.arange(100) % 4).astype(np.int64)))
    scenario = load_scenario(scenario_file(text)).scenario
    both = [load(scenario, name, tmp_path, "cpu") for name in "ab"]
    assert both[0].classes == ("w", "x", "y", "z")
    for split, count in (("train", 100), ("validation", 50), ("test", 50)):
        images = [getattr(data, split).images.numpy() for data in both]
        assert sum(len(one) for one in images) == count
        assert len({image.tobytes() for one in images for image in one}) == count


def test_the_scenario_with_medmnist_takes_such_a_file(tmp_path: Path) -> None:
    """The project's example passes the check with a file of that layout."""
    med(tmp_path, rows=1200)
    (tmp_path / "small.npz").rename(tmp_path / "bloodmnist.npz")
    check(SCENARIOS / "medmnist-dirichlet.yaml", tmp_path)


MED_CASES = {
    "missing array": ({"val_labels": None}, DataCorrupt, "lacks val_labels"),
    "some volumes": (
        {"train_images": np.zeros((100, 28, 28, 28), np.uint8)},
        DataCorrupt,
        "differ in size or colour",
    ),
    "volumes in colour": (
        {"train_images": np.zeros((9, 28, 28, 28, 3), np.uint8)},
        DataCorrupt,
        "has shape",
    ),
    "several labels in one split": (
        {"train_labels": np.zeros((100, 14), np.uint8)},
        DataCorrupt,
        "differ in how many labels they have",
    ),
    "labels of three axes": (
        {"train_labels": np.zeros((100, 1, 2), np.uint8)},
        DataCorrupt,
        "not (100, 1) or (100, L)",
    ),
    "not square": (
        {"train_images": np.zeros((100, 28, 20, 3), np.uint8)},
        DataCorrupt,
        "(100, 28, 20, 3)",
    ),
    "no images": ({"train_images": np.zeros((100, 28), np.uint8)}, DataCorrupt, "(100, 28)"),
    "no bytes": ({"test_images": np.zeros((50, 28, 28, 3), np.float32)}, DataCorrupt, "float32"),
    "sizes that differ": (
        {"test_images": np.zeros((50, 64, 64, 3), np.uint8)},
        DataCorrupt,
        "differ in size or colour",
    ),
    "grey among colour": (
        {"test_images": np.zeros((50, 28, 28), np.uint8)},
        DataCorrupt,
        "differ in size or colour",
    ),
    "fewer labels": ({"train_labels": np.zeros((99, 1), np.uint8)}, DataCorrupt, "(99, 1)"),
    "labels that are no numbers": ({"train_labels": np.zeros((100, 1))}, DataCorrupt, "float64"),
    "a negative label": ({"train_labels": np.full((100, 1), -1)}, DataCorrupt, "the label -1"),
    "a label without a class": (
        {"train_labels": np.full((100, 1), 4)},
        InvalidValue,
        "gives the label '4' in row 0, and the classes w, x, y, z",
    ),
}


@pytest.mark.parametrize(("changes", "kind", "words"), MED_CASES.values(), ids=MED_CASES.keys())
def test_a_wrong_medmnist_file_is_named(
    changes: dict, kind: type[FedskdError], words: str, tmp_path: Path, scenario_file: Callable
) -> None:
    """Each way in which the file can be wrong has its error at the line of the data."""
    text = MED.replace("file: small.npz", "file: small.npz, classes: [w, x, y, z]")
    refused(scenario_file(text), med(tmp_path, **changes), kind, words, 2)


def test_grey_and_coloured_images_do_not_mix(tmp_path: Path, scenario_file: Callable) -> None:
    """Hospitals with the same classes but different channels are refused, which no model could
    serve.
    """
    med(tmp_path, ())
    (tmp_path / "small.npz").rename(tmp_path / "grey.npz")
    text = MED.replace("partition: {part: 1}", "file: grey.npz")
    refused(
        scenario_file(text.replace("file: grey.npz", "file: grey.npz, partition: {part: 1}")),
        med(tmp_path),
        LabelSpacesDiffer,
        "pixels in grey, 'a' has images of 28 pixels in colour",
        5,
    )


# HAM10000's images


def test_ham10000_images_are_read_cut_and_scaled(tmp_path: Path, scenario_file: Callable) -> None:
    """Every image of a collection stands in one split, with its label, as a square of the asked
    size; lesions stay whole.
    """
    rows = ham(tmp_path)
    check(scenario_file(HAM), tmp_path)
    dataset = Ham10000Images(name="ham10000-images", site="vidir_modern", size=16)
    found = reading.load(dataset, tmp_path, 1, "b")
    assert found.pixels.shape == (60, 16, 16, 3)
    numbers = found.pixels[:, 8, 8, 0].astype(int)
    assert sorted(numbers) == pytest.approx(range(60, 120), abs=2)
    places = np.argsort(np.argsort(numbers, kind="stable"), kind="stable") + 60
    whose = [rows[place]["lesion_id"] for place in places]
    assert len({*zip(whose, found.subjects, strict=True)}) == len({*whose}) < 60
    assert len({*found.subjects}) == len({*whose})
    lesions = [{rows[place]["lesion_id"] for place in places[split]} for split in found.splits]
    assert not lesions[0] & lesions[1]
    assert not lesions[0] & lesions[2]
    assert not lesions[1] & lesions[2]
    assert [len(split) for split in found.splits] == [36, 12, 12]
    known = reading.facts(dataset, tmp_path, 1, "b")
    assert np.array_equal(known.train_labels, found.labels[found.splits[0]])
    assert [
        np.bincount(found.labels[split], minlength=7)[[2, 4, 5]].tolist() for split in found.splits
    ] == [
        [12] * 3,
        [4] * 3,
        [4] * 3,
    ]


def test_facts_of_images_open_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the check needs is known from the tables alone."""
    ham(tmp_path)
    derm(tmp_path)
    monkeypatch.setattr(imagefiles.Image, "open", lambda *_: pytest.fail("an image was opened"))
    assert (
        len(
            reading.facts(
                Ham10000Images(name="ham10000-images", site="rosendahl"), tmp_path, 1, "a"
            ).train_labels
        )
        == 36
    )
    assert len(reading.facts(Derm7pt(name="derm7pt"), tmp_path, 1, "a").train_labels) == 40


def test_the_limit_draws_training_images_of_any_set(tmp_path: Path) -> None:
    """At most the given number train; validation and test stay whole."""
    ham(tmp_path)
    derm(tmp_path)
    med(tmp_path)
    for found, sizes in (
        (
            reading.load(
                Ham10000Images(name="ham10000-images", site="rosendahl", limit=9, size=8),
                tmp_path,
                1,
                "a",
            ),
            [9, 12, 12],
        ),
        (reading.load(Derm7pt(name="derm7pt", limit=9, size=8), tmp_path, 1, "a"), [9, 10, 8]),
        (
            reading.load(MedMnist(name="medmnist", file="small.npz", limit=9), tmp_path, 1, "a"),
            [9, 50, 50],
        ),
    ):
        assert [len(split) for split in found.splits] == sizes


@pytest.mark.parametrize(
    ("change", "kind", "words", "line"),
    [
        (
            lambda rows: rows[0].update(dx="nevus"),
            DataCorrupt,
            "the label 'nevus' in row 0, and the",
            2,
        ),
        (
            lambda rows: rows[1].update(image_id="ISIC_0000000"),
            DataCorrupt,
            "an image_id stands there twice",
            2,
        ),
        (lambda rows: rows[2].update(dataset=""), DataCorrupt, "row 3 has no dataset", 2),
        (
            lambda rows: rows.append({**rows[0], "image_id": "ISIC_9"}),
            DataCorrupt,
            "ISIC_9.jpg is not there",
            2,
        ),
        (
            lambda rows: [row.pop("dataset") for row in rows],
            DataCorrupt,
            "lacks the columns dataset",
            2,
        ),
        (
            lambda rows: [row.update(dataset="vidir") for row in rows],
            InvalidValue,
            "there is no site 'rosendahl'",
            4,
        ),
    ],
)
def test_a_wrong_table_of_ham10000_is_named(
    change: Callable,
    kind: type[FedskdError],
    words: str,
    line: int,
    tmp_path: Path,
    scenario_file: Callable,
) -> None:
    """Unknown diagnoses, images twice or missing, and missing values, columns and collections
    have their errors.
    """
    rows = ham(tmp_path)
    change(rows)
    table(tmp_path / "HAM10000_metadata.csv", rows)
    refused(scenario_file(HAM), tmp_path, kind, words, line)


@pytest.mark.parametrize("content", ["", "lesion_id,image_id,dx,dataset\n", "\xff"])
def test_a_table_that_is_none_is_corrupt(
    content: str, tmp_path: Path, scenario_file: Callable
) -> None:
    """Empty files, tables without rows and bytes that are no text are told apart from good ones."""
    (tmp_path / "HAM10000_metadata.csv").write_bytes(content.encode("latin-1"))
    refused(scenario_file(HAM), tmp_path, DataCorrupt, "HAM10000_metadata.csv", 2)


def test_a_table_with_tabs_is_read(tmp_path: Path) -> None:
    """The archive of the release gives the same table with tabs."""
    rows = ham(tmp_path)
    text = "\n".join(
        "\t".join(map(str, line)) for line in [rows[0].keys(), *(row.values() for row in rows)]
    )
    (tmp_path / "HAM10000_metadata.tab").write_text(text, encoding="utf-8")
    dataset = Ham10000Images(name="ham10000-images", file="HAM10000_metadata.tab", site="rosendahl")
    assert len(reading.facts(dataset, tmp_path, 1, "a").train_labels) == 36


@pytest.mark.parametrize("length", [0, 100, 500])
def test_a_truncated_image_is_named(length: int, tmp_path: Path) -> None:
    """An image that is cut off is an error with its path, never grey pixels."""
    ham(tmp_path)
    path = tmp_path / "HAM10000_images_part_1" / "ISIC_0000000.jpg"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataCorrupt, match="ISIC_0000000"):
        reading.load(Ham10000Images(name="ham10000-images", site="rosendahl"), tmp_path, 1, "a")


# Derm7pt


def test_derm7pt_groups_diagnoses_and_keeps_its_splits(
    tmp_path: Path, scenario_file: Callable
) -> None:
    """Five classes, the official splits, cases in none left out, pixels of the right case."""
    derm(tmp_path)
    check(scenario_file(DERM), tmp_path)
    found = reading.load(Derm7pt(name="derm7pt", size=16), tmp_path, 1, "a")
    assert [len(split) for split in found.splits] == [40, 10, 8]
    assert found.labels[:5].tolist() == [1, 2, 3, 0, 4]
    assert found.pixels[:, 8, 8, 0].astype(int) == pytest.approx(np.arange(58), abs=2)


@pytest.mark.parametrize(
    ("names", "group"),
    [
        (
            (
                "blue nevus",
                "combined nevus",
                "congenital nevus",
                "dermal nevus",
                "recurrent nevus",
                "reed or spitz nevus",
            ),
            "nevus",
        ),
        (
            (
                "melanoma",
                "melanoma (less than 0.76 mm)",
                "melanoma (more than 1.5 mm)",
                "melanoma metastasis",
            ),
            "melanoma",
        ),
        (("dermatofibroma", "melanosis", "miscellaneous", "vascular lesion"), "miscellaneous"),
    ],
)
def test_every_diagnosis_of_derm7pt_has_its_group(
    names: tuple[str, ...], group: str, tmp_path: Path
) -> None:
    """The release's finer names fall into the five classes as its authors group them."""
    rows = derm(tmp_path)
    for row, diagnosis in zip(rows, names, strict=False):
        row["diagnosis"] = diagnosis
    table(tmp_path / "release_v0" / "meta" / "meta.csv", rows)
    known = reading.facts(Derm7pt(name="derm7pt"), tmp_path, 1, "a")
    assert {known.classes[label] for label in known.train_labels[: len(names)]} == {group}


def derm_damage(folder: Path, case: str) -> None:
    meta = folder / "release_v0" / "meta"
    rows = derm(folder)
    if case == "no index":
        (meta / "valid_indexes.csv").unlink()
    elif case == "no image":
        (folder / "release_v0" / "images" / "X" / "d7.jpg").unlink()
    elif case == "diagnosis":
        rows[3]["diagnosis"] = "wart"
    elif case == "two cases":
        rows[0]["case_num"] = 45
    else:
        places = {"past the end": [99], "no number": ["x"], "two splits": [0], "twice": [45, 45]}[
            case
        ]
        table(meta / "valid_indexes.csv", [{"indexes": place} for place in places])
    table(meta / "meta.csv", rows)


@pytest.mark.parametrize(
    ("case", "kind", "words"),
    [
        ("no index", DataMissing, "valid_indexes.csv is not there"),
        ("no image", DataCorrupt, "d7.jpg is not there"),
        ("diagnosis", DataCorrupt, "case 4 has the unknown diagnosis 'wart'"),
        (
            "two cases",
            DataCorrupt,
            "'45' in two splits: train in row 0, val",
        ),
        ("past the end", DataCorrupt, "goes from 99 to 99, but meta.csv has 60 rows"),
        ("no number", DataCorrupt, "indexes 'x' is not a whole number"),
        ("two splits", DataCorrupt, "stands there twice, or in another split"),
        ("twice", DataCorrupt, "stands there twice, or in another split"),
    ],
)
def test_a_damaged_derm7pt_is_named(
    case: str, kind: type[FedskdError], words: str, tmp_path: Path, scenario_file: Callable
) -> None:
    """Missing tables and images, unknown diagnoses, and indexes that cannot be have their
    errors.
    """
    derm_damage(tmp_path, case)
    refused(scenario_file(DERM), tmp_path, kind, words, 2)


# ABIDE's time series


def test_connectivity_comes_from_the_time_series(tmp_path: Path, scenario_file: Callable) -> None:
    """Connectivity is arctanh r, symmetric, 0 on the diagonal and where a region is silent;
    often silent ones are left out.
    """
    rois(tmp_path)
    check(scenario_file(ROIS), tmp_path)
    dataset = AbideRois(name="abide-rois", site="NYU")
    found = reading.load(dataset, tmp_path, 1, "a")
    assert found.values.shape == (40, 7, 7)
    assert found.values.dtype == np.float32
    assert (
        found.remark
        == "1 of 8 regions are left out, silent in many subjects; 1 signals of 40 subjects are "
        "silent and masked"
    )
    assert [len(split) for split in found.splits] == [24, 8, 8]
    assert [found.labels[split].mean() for split in found.splits] == [0.5, 0.5, 0.5]
    assert np.array_equal(found.values, found.values.transpose(0, 2, 1))
    assert not found.values[:, np.arange(7), np.arange(7)].any()
    signals = abide_rois.series(tmp_path / "rois" / "NYU_0_rois_cc200.1D")
    z = abide_rois.connectivity(signals)
    assert not z[[3, 5]].any()
    wanted = np.arctanh(np.clip(np.corrcoef(signals[:, [0, 6]].T), -0.99, 0.99))
    assert z[0, 6] == pytest.approx(wanted[0, 1], abs=1e-6)
    matching = [
        np.allclose(one, z[np.ix_(kept := [0, 1, 2, 4, 5, 6, 7], kept)]) for one in found.values
    ]
    assert sum(matching) == 1
    assert (
        len(
            reading.facts(
                AbideRois(name="abide-rois", by="institution", site="UM"), tmp_path, 1, "b"
            ).train_labels
        )
        == 24
    )


def test_silence_is_found_wherever_it_is(tmp_path: Path) -> None:
    """Looking at the beginning first finds the same regions as reading all: constant ones, and
    one number missing late.
    """
    draw = np.random.default_rng(0)
    for number in range(8):
        signals = draw.normal(size=(20, 6))
        signals[:, 1] = 4.25 if number % 2 else signals[:, 1]
        signals[:5, 2] = 1.0 if number % 3 else signals[:5, 2]
        signals[19, 4] = (np.nan, np.inf, 0.0)[number % 3]
        path = tmp_path / f"{number}.1D"
        np.savetxt(path, signals, header="1 2 3 4 5 6")
        wanted = [False, bool(number % 2), False, False, number % 3 < 2, False]
        assert (
            abide_rois.quiet(path).tolist()
            == abide_rois.silent(abide_rois.series(path)).tolist()
            == wanted
        )


def rois_damage(folder: Path, case: str) -> None:
    rows = rois(folder)
    one = folder / "rois" / "UM_2_79_rois_cc200.1D"
    lines = one.read_text().splitlines()
    texts = {
        "no header": lines[1:], "a word": [*lines[:-1], lines[-1].replace("\t", "\tx")],
        "a short line": [*lines, "1\t2"],
        "fewer regions": [line.rpartition("\t")[0] for line in lines], "two points": lines[:3],
        "empty": [],
    }  # fmt: skip
    if case in texts:
        one.write_text("\n".join(texts[case]))
    elif case == "missing":
        one.unlink()
    elif case == "twice":
        (folder / "more").mkdir()
        (folder / "more" / one.name).write_text("")
    else:
        rows[0] |= {"group": {"DX_GROUP": 3}, "subject": {"SUB_ID": 50001}}.get(case, {})
        for row in rows if case == "nobody" else ():
            row["FILE_ID"] = "no_filename"
        table(folder / "Phenotypic_V1_0b_preprocessed1.csv", rows)
        if case == "silence":
            for file in (folder / "rois").iterdir():
                file.write_text("#\n" + "1 2 3 4\n" * 5)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("no header", "does not begin with a line of #"),
        ("a word", "is no table of numbers"),
        ("a short line", "is no table of numbers"),
        ("fewer regions", "has 7 regions"),
        ("two points", "has 2 points in time"),
        ("empty", "does not begin with a line of #"),
        ("missing", "UM_2_79_rois_cc200.1D is not below"),
        ("twice", "are both there: keep the files of one pipeline"),
        ("group", "NYU_0 has DX_GROUP '3', not 1 or 2"),
        ("subject", "a SUB_ID stands there twice"),
        ("nobody", "no subject with a FILE_ID"),
        ("silence", "4 of 4 regions are silent in more than 5% of the subjects"),
    ],
)
def test_damaged_time_series_are_named(
    case: str, words: str, tmp_path: Path, scenario_file: Callable
) -> None:
    """Wherever the table or a subject's file is wrong, the error says which and what."""
    rois_damage(tmp_path, case)
    refused(scenario_file(ROIS), tmp_path, DataCorrupt, words, 2)


# Every kind


@pytest.mark.parametrize(
    "text", [MED, HAM, DERM, ROIS], ids=["medmnist", "ham10000-images", "derm7pt", "abide-rois"]
)
def test_missing_data_say_where_to_put_them(
    text: str, tmp_path: Path, scenario_file: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a folder, and with an empty one, the error names the file, and the fix the option."""
    monkeypatch.delenv("FEDSKD_DATA", raising=False)
    for folder in (None, tmp_path):
        with pytest.raises(DataMissing) as caught:
            check(scenario_file(text), folder)
        assert "--data" in caught.value.fix
        assert caught.value.where.line == 2


def test_folds_are_even_and_whole_and_always_the_same() -> None:
    """Groups stay in one fold; no stratum differs by more than its largest group between folds."""
    draw = np.random.default_rng(1)
    groups = np.repeat(np.arange(300), draw.integers(1, 4, 300))
    strata = draw.integers(0, 6, 300)[groups]
    folds = cut.draw_folds(groups, strata)
    assert len({*zip(groups, folds, strict=True)}) == 300
    for stratum in range(6):
        counts = np.bincount(folds[strata == stratum], minlength=5)
        assert counts.max() - counts.min() <= 3
    assert np.array_equal(folds, cut.draw_folds(groups, strata))
    totals = np.bincount(folds)
    assert totals.max() - totals.min() <= 6


@pytest.mark.slow
def test_a_licence_is_said_once_and_only_where_it_binds(
    tmp_path: Path, scenario_file: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both launch and compare say it on standard error, one line per data set; free data have
    none.
    """
    ham(tmp_path)
    path = scenario_file(HAM + "training: {epochs: 1, warmup_epochs: 1, batch_size: 36}\n")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(
        main, ["launch", str(path), "--on", "memory", "--data", str(tmp_path)]
    )
    assert done.exit_code == 0, done.output
    assert done.stderr == Ham10000.licence + "\n"
    assert "non-commercial" in Ham10000.licence
    arguments = [
        "compare",
        str(path),
        "--algorithms",
        "local",
        "--seeds",
        "1",
        "--data",
        str(tmp_path),
    ]
    assert CliRunner().invoke(main, arguments).stderr.count("CC BY-NC") == 0, (
        "an order that is refused says nothing"
    )
    arguments[5] = "2"
    done = CliRunner().invoke(main, arguments)
    assert done.stderr.count(Ham10000.licence) == 1, done.output
    assert all("non-commercial" in kind.licence for kind in (Ham10000Images, Derm7pt, AbideRois))


# Parts of one set


def population(count: int = 4000) -> tuple[np.ndarray, ...]:
    """Labels of four classes, groups of up to three samples of one label, and five strata."""
    draw = np.random.default_rng(0)
    groups = np.repeat(np.arange(count), draw.integers(1, 4, count))
    return draw.integers(0, 4, count)[groups], groups, draw.integers(0, 5, count)[groups]


def frequencies(where: np.ndarray, labels: np.ndarray) -> np.ndarray:
    counts = np.stack(
        [np.bincount(labels[where == part], minlength=4) for part in range(4)]
    ).astype(float)
    return counts / counts.sum(1, keepdims=True).clip(1)


@pytest.mark.parametrize("by", ["dirichlet", "quantity"])
@pytest.mark.parametrize("alpha", [0.001, 0.5, 1000.0])
def test_parts_are_disjoint_complete_whole_and_reproducible(by: str, alpha: float) -> None:
    """Every sample has one part, groups one as well, whoever asks; another seed cuts otherwise."""
    labels, groups, strata = population()
    cuts = [
        parts(Partition(by=by, parts=4, part=part, alpha=alpha), labels, groups, strata)
        for part in (0, 3, None)
    ]
    assert all(np.array_equal(cuts[0], other) for other in cuts)
    assert cuts[0].shape == labels.shape
    assert set(cuts[0]) <= {0, 1, 2, 3}
    assert len({*zip(groups, cuts[0], strict=True)}) == len(np.unique(groups))
    others = [
        parts(Partition(by=by, parts=4, alpha=alpha, seed=seed), labels, groups, strata)
        for seed in range(1, 6)
    ]
    assert not all(np.array_equal(cuts[0], other) for other in others)


def test_alpha_decides_how_uneven_parts_are() -> None:
    """Large alpha: equal sizes and class frequencies. Small: dirichlet skews classes, quantity
    only sizes.
    """
    labels, groups, strata = population()

    def found(by: str, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        where = parts(Partition(by=by, parts=4, alpha=alpha), labels, groups, strata)
        return np.bincount(where, minlength=4) / len(where), frequencies(where, labels)

    for by in ("dirichlet", "quantity"):
        sizes, classes = found(by, 10000.0)
        assert sizes == pytest.approx([0.25] * 4, abs=0.01)
        assert classes == pytest.approx(np.full((4, 4), 0.25), abs=0.03)
    assert found("dirichlet", 0.1)[1].max() > 0.8
    sizes, classes = found("quantity", 0.5)
    assert sizes.max() > 2 * sizes.min()
    assert classes[sizes > 0.1] == pytest.approx(
        np.full((int((sizes > 0.1).sum()), 4), 0.25), abs=0.06
    )


def test_a_part_is_alike_in_all_strata() -> None:
    """What trains and what tests at a hospital have the same class frequencies, because shares
    are drawn once.
    """
    labels, groups, strata = population(8000)
    where = parts(Partition(parts=4, alpha=0.5), labels, groups, strata)
    chosen = [[(where == part) & (strata == stratum) for part in range(4)] for stratum in range(5)]
    shares = [
        np.stack([np.bincount(labels[one], minlength=4) for one in parts]) for parts in chosen
    ]
    shares = [one / one.sum() for one in shares]
    for one in shares[1:]:
        assert one == pytest.approx(shares[0], abs=0.05)


def test_ham10000_can_be_cut_instead_of_sited(tmp_path: Path) -> None:
    """Both forms of HAM10000 give parts over all collections, and the same samples whichever
    fold is tested on.
    """
    ham(tmp_path)
    draw = np.random.default_rng(0)
    np.savez(
        tmp_path / "small.npz", image=draw.integers(0, 255, (200, 8, 8, 3), dtype=np.uint8),
        label=np.arange(200) // 2 % 3, label_names=np.array(["x", "y", "z"]),
        site=np.repeat([0, 1], 100), site_names=np.array(["first", "second"]),
        split_group=np.arange(200) // 2, fold=np.arange(200) // 2 % 5,
    )  # fmt: skip
    for kind, extra, total in (
        (Ham10000, {"name": "ham10000", "file": "small.npz"}, 200),
        (Ham10000Images, {"name": "ham10000-images", "size": 8}, 120),
    ):
        owned = []
        for part in (0, 1):
            cutting = Partition(parts=2, part=part, alpha=100.0)
            images, later = (
                reading.load(
                    kind(partition=cutting, test_fold=fold, validation_fold=fold + 1, **extra),
                    tmp_path,
                    1,
                    "a",
                )
                for fold in (0, 2)
            )
            assert {one.tobytes() for one in images.pixels} == {
                one.tobytes() for one in later.pixels
            }
            owned.append(len(images.pixels))
            assert 2 * len({*images.subjects}) == len(images.subjects) == len(images.pixels)
        assert sum(owned) == total
        assert min(owned) > total / 4


WRONG_PARTS = {
    "nobody's part": (
        "data: {partition: {part: 0}}",
        "data: {limit: 9}",
        InvalidValue,
        "which part",
        2,
    ),
    "one part twice": ("{part: 1}", "{part: 0}", InvalidValue, "part 0 belongs to 'a' already", 5),
    "a part too many": ("{part: 1}", "{part: 2}", InvalidValue, "there is no part 2 of 2", 5),
    "another cut": ("{part: 1}", "{part: 1, alpha: 3}", InvalidValue, "otherwise than 'a' does", 5),
    "one without": (
        "partition: {part: 1}",
        "partition: null",
        InvalidValue,
        "'a' reads small.npz, too",
        5,
    ),
    "too small": ("least: 5", "least: 90", InvalidValue, "training samples, less than 90", 4),
    "nothing": (
        "alpha: 100, least: 5",
        "by: quantity, alpha: 0.001",
        NoTrainingSamples,
        "has no training samples",
        5,
    ),
    "a misspelt key": ("alpha: 100", "alhpa: 100", UnknownKey, "unknown key", 2),
    "a wrong value": ("alpha: 100", "alpha: 0", InvalidValue, "0 cannot be used", 2),
    "no number of parts": ("parts: 2, ", "", InvalidValue, "this key is missing", 2),
    "classes of one": (
        "file: small.npz",
        "file: small.npz, classes: [x]",
        InvalidValue,
        "cannot be used",
        2,
    ),
}


@pytest.mark.parametrize("case", WRONG_PARTS)
def test_impossible_parts_are_found(case: str, tmp_path: Path, scenario_file: Callable) -> None:
    """Parts that are missing, owned twice, too small or cut otherwise are errors at their line,
    told once.
    """
    old, new, kind, words, line = WRONG_PARTS[case]
    refused(scenario_file(MED.replace(old, new)), med(tmp_path), kind, words, line)


def test_hospitals_that_share_a_file_without_sites_need_parts(
    tmp_path: Path, scenario_file: Callable
) -> None:
    """Without any partition the second hospital is told that the file is the first one's, too."""
    text = MED.replace(", partition: {parts: 2, alpha: 100, least: 5}", "").replace(
        ", data: {partition: {part: 0}}", ""
    )
    refused(
        scenario_file(text.replace(", data: {partition: {part: 1}}", "")),
        med(tmp_path),
        InvalidValue,
        "'a' reads small.npz, too",
        5,
    )


def test_a_site_and_a_part_exclude_each_other(tmp_path: Path, scenario_file: Callable) -> None:
    """Where a data set has sites, a partition replaces them."""
    text = HAM.replace("size: 16", "size: 16, partition: {parts: 2, part: 0}")
    refused(scenario_file(text), tmp_path, InvalidValue, "site 'rosendahl' and a partition", 4)


def test_the_error_of_a_small_part_says_what_to_change(
    tmp_path: Path, scenario_file: Callable
) -> None:
    """It names the part and asks for a larger alpha, another seed or fewer parts."""
    with pytest.raises(InvalidValue) as caught:
        check(scenario_file(MED.replace("least: 5", "least: 90")), med(tmp_path))
    assert "part 0 of 2" in caught.value.message
    assert "a larger alpha than 100, another seed, fewer parts" in caught.value.fix
    text = MED.replace("file: small.npz", "file: small.npz, classes: [x]")
    with pytest.raises(InvalidValue) as caught:
        check(scenario_file(text), tmp_path)
    assert "give a list of 2 or more" in caught.value.fix
