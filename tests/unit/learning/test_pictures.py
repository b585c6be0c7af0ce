"""Images in files of one's own: a table beside a folder, and folders of sites and classes."""

from __future__ import annotations

import csv
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from test_dicom import dicom

from fedskd_sim.cli import main
from fedskd_sim.errors import DataCorrupt, DataMissing, LibraryMissing
from fedskd_sim.learning.readers import reading
from fedskd_sim.results.comparison import origins
from fedskd_sim.scenario import ImageFolders, ImageTable

TABLE = ImageTable(name="image-table", file="cases.csv", images="pictures", site="north", size=8)
FOLDERS = ImageFolders(name="image-folders", images="sites", site="north", size=8)
ISIC = "ISIC_2019_Training_Input_preprocessed"
ENDINGS = ("jpg", "png", "tif", "dcm")
SCENARIO = """\
name: mine
data: {{{data}, size: 8}}
hospitals:
  - {{name: a, architecture: cnn-plain, data: {{site: north}}}}
  - {{name: b, architecture: cnn-plain, data: {{site: south}}}}
algorithm: {{name: local}}
"""


def picture(path: Path, number: int) -> None:
    """Write a square of one grey, as the ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full((12, 12), number, np.uint8)
    if path.suffix == ".dcm":
        dicom(path, values, WindowCenter=128, WindowWidth=256)
    else:
        Image.fromarray(values).save(path)


def rows() -> list[dict[str, str]]:
    """Eighty images of forty patients, half of them at each of two sites."""
    return [
        {
            "file": f"{number // 8}/i{number}.{ENDINGS[number % 4]}",
            "label": ("ill", "well")[number // 2 % 2],
            "site": ("north", "south")[number // 40],
            "patient": f"p{number // 2}",
            "fold": str(number // 4 % 5),
        }
        for number in range(80)
    ]


def write(path: Path, table: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        out = csv.DictWriter(file, table[0])
        out.writeheader()
        out.writerows(table)


def table(folder: Path) -> None:
    write(folder / "cases.csv", rows())
    for number, row in enumerate(rows()):
        picture(folder / "pictures" / row["file"], number)


def folders(folder: Path) -> None:
    for number, row in enumerate(rows()):
        name = Path(row["file"]).name
        picture(folder / "sites" / row["site"] / row["label"] / row["patient"] / name, number)


def test_every_kind_of_file_is_read_by_table_and_by_folder(tmp_path: Path) -> None:
    """JPEG, PNG, TIFF and DICOM of one grey have that grey, a label and a site either way."""
    table(tmp_path)
    folders(tmp_path)
    for dataset in (TABLE, FOLDERS):
        found = reading.load(dataset, tmp_path, 1, "a")
        assert len(found.ids) == 40
        for name, pixels, label in zip(found.ids, found.pixels, found.labels, strict=True):
            number = int(Path(name).stem[1:])
            assert np.unique(pixels).tolist() == [number]
            assert found.classes[label] == ("ill", "well")[number // 2 % 2]


def test_folds_and_patients_are_as_the_table_says(tmp_path: Path) -> None:
    """The fold that tests is that of the column, and both images of a patient are in it."""
    table(tmp_path)
    found = reading.load(TABLE.model_copy(update={"test_fold": 3}), tmp_path, 1, "a")
    tested = {found.ids[row] for row in found.splits[2]}
    north = [row for row in rows() if row["site"] == "north"]
    assert tested == {row["file"] for row in north if row["fold"] == "3"}
    pooled = TABLE.model_copy(update={"test_fold": 3, "test_folds": 2})
    assert len(reading.load(pooled, tmp_path, 1, "a").splits[2]) == 2 * len(tested)


def test_patients_have_folders_if_the_scenario_says_so(tmp_path: Path) -> None:
    """With ``patients`` all images of a patient's folder are in one split; without, each is of
    another patient.
    """
    folders(tmp_path)
    told = FOLDERS.model_copy(update={"patients": True})
    assert len({*reading.load(told, tmp_path, 1, "a").subjects}) == 20
    assert len({*reading.load(FOLDERS, tmp_path, 1, "a").subjects}) == 40


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    """Images that the table does not name, that lie in no folder of a class, and files of other
    kinds.
    """
    table(tmp_path)
    folders(tmp_path)
    picture(tmp_path / "pictures" / "more.png", 1)
    known = reading.facts(TABLE, tmp_path, 1, "a").counts
    assert known.left_out == {
        "of another site": {"ill": 20, "well": 20},
        "images that the table does not name": {"": 1},
    }
    picture(tmp_path / "sites" / "north" / "loose.dcm", 1)
    (tmp_path / "sites" / "north" / "ill" / "notes.txt").write_text("none")
    known = reading.facts(FOLDERS, tmp_path, 1, "a").counts
    assert known.source == "sites/SITE/CLASS"
    assert known.left_out == {
        "of another site": {"ill": 20, "well": 20},
        "images in no folder of a site and a class": {"": 1},
        "files that are no images": {"": 1},
    }


def test_a_table_of_others_is_read_by_the_names_of_its_columns(tmp_path: Path) -> None:
    """As Fed-ISIC2019 has them: images without an ending, numbers for classes and centres, a column
    of folds that hold words.
    """
    made = [
        {
            "image": f"ISIC_{n}",
            "MEL": "1.0",
            "target": str(n % 2),
            "center": str(n // 20),
            "fold": "train",
            "fold2": f"train_{n // 20}",
        }
        for n in range(40)
    ]
    write(tmp_path / "train_test_split", made)
    for number, row in enumerate(made):
        picture(tmp_path / ISIC / f"{row['image']}.jpg", number)
    dataset = ImageTable(
        name="image-table", file="train_test_split", images=ISIC, file_column="image",
        label_column="target", labels={"MEL": ("0",), "NV": ("1",)}, site_column="center",
        fold_column="", site="1", size=8,
    )  # fmt: skip
    found = reading.load(dataset, tmp_path, 1, "a")
    assert found.classes == ("MEL", "NV")
    assert sorted(found.ids) == [f"ISIC_{number}" for number in range(20, 40)]
    with pytest.raises(DataCorrupt, match="fold 'train' is not a whole number"):
        reading.load(dataset.model_copy(update={"fold_column": "fold"}), tmp_path, 1, "a")


def test_decoded_images_are_kept(tmp_path: Path) -> None:
    """A second run takes them from the cache, and the same pixels come."""
    table(tmp_path)
    kept = TABLE.model_copy(update={"cache": str(tmp_path / "kept")})
    first = reading.load(kept, tmp_path, 1, "a")
    (file,) = (tmp_path / "kept").iterdir()
    stamp = file.stat().st_mtime_ns
    assert reading.load(kept, tmp_path, 1, "a").pixels.tobytes() == first.pixels.tobytes()
    assert file.stat().st_mtime_ns == stamp


def changed(folder: Path, row: int, **cells: str) -> None:
    made = rows()
    made[row] |= cells
    write(folder / "cases.csv", made)


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "no label column": (
        lambda folder: (folder / "cases.csv").write_text("file,site\na.jpg,north\n"),
        "cases.csv lacks the columns label",
    ),
    "an image that is not there": (
        lambda folder: changed(folder, 3, file="0/lost.png"),
        "pictures/0/lost.png is not there",
    ),
    "an image twice": (
        lambda folder: changed(folder, 3, file="0/../0/i2.tif"),
        "rows 3 and 4 both name",
    ),
    "an image twice, once without its ending": (
        lambda folder: changed(folder, 3, file="0/i2"),
        "rows 3 and 4 both name",
    ),
    "two images of one name": (
        lambda folder: (
            changed(folder, 3, file="0/i3"),
            picture(folder / "pictures/0/i3.jpg", 3),
        ),
        "row 4 has '0/i3', which may be i3.dcm or i3.jpg",
    ),
    "a path that leads out": (
        lambda folder: changed(folder, 3, file="../cases.csv"),
        "row 4 has '../cases.csv', which is not below",
    ),
    "a patient in two folds": (
        lambda folder: changed(folder, 3, fold="4"),
        "gives subject 'p1' in two folds",
    ),
    "an empty cell": (lambda folder: changed(folder, 3, label=""), "row 4 has no label"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_table_is_refused_with_its_row(wrong: str, tmp_path: Path) -> None:
    """Before a run: what is missing, stands twice or leads elsewhere, with file and fix."""
    table(tmp_path)
    break_it, words = WRONG[wrong]
    break_it(tmp_path)
    with pytest.raises(DataCorrupt) as caught:
        reading.facts(TABLE, tmp_path, 1, "a")
    assert words in caught.value.message
    assert caught.value.fix


def test_a_word_that_stands_for_no_class_is_refused(tmp_path: Path) -> None:
    """The error names row, column and cell."""
    table(tmp_path)
    dataset = TABLE.model_copy(update={"labels": {"ill": ("ill",), "sound": ("sound",)}})
    with pytest.raises(DataCorrupt, match="row 3 has 'well' in the column 'label'"):
        reading.facts(dataset, tmp_path, 1, "a")


@pytest.mark.parametrize("data", ["name: image-table, file: cases.csv", "name: image-folders"])
def test_a_hospital_with_one_class_is_refused(
    data: str, tmp_path: Path, scenario_file: Callable
) -> None:
    """``validate`` names the hospital and its only class, with the exit code of that error."""
    made = [{**row, "label": "ill"} if row["site"] == "north" else row for row in rows()]
    write(tmp_path / "cases.csv", [{**row, "file": f"x/y/{row['file']}"} for row in made])
    for number, row in enumerate(made):
        where = ("x", "y") if "table" in data else (row["site"], row["label"])
        picture(tmp_path.joinpath(*where, row["file"]), number)
    path = scenario_file(SCENARIO.format(data=data))
    done = CliRunner().invoke(main, ["validate", str(path), "--data", str(tmp_path)])
    assert done.exit_code == 20, done.output
    assert "'ill'" in done.stderr


def test_folders_that_are_no_sites_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No folder, an unknown one, and one whose images lie too high are named."""
    monkeypatch.delenv("FEDSKD_DATA", raising=False)
    folders(tmp_path)
    for folder, changes, words in (
        (None, {}, "no data folder was given"),
        (tmp_path, {"images": "none"}, "none is no folder"),
        (tmp_path, {"images": "sites/north/ill"}, "no images in folders of sites"),
    ):
        with pytest.raises(DataMissing, match=words) as caught:
            reading.facts(FOLDERS.model_copy(update=changes), folder, 1, "a")
        assert caught.value.fix


def test_what_is_in_hidden_folders_is_no_sample(tmp_path: Path) -> None:
    """Programs keep copies of images there."""
    folders(tmp_path)
    before = reading.facts(FOLDERS, tmp_path, 1, "a").counts.found
    picture(tmp_path / "sites/north/ill/.ipynb_checkpoints/copy.png", 1)
    picture(tmp_path / ".snapshot/sites/north/ill/copy.png", 1)
    assert reading.facts(FOLDERS, tmp_path, 1, "a").counts.found == before


def test_a_folder_that_cannot_be_opened_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody's images are left out unnoticed; a disk's lost+found is none of the data."""
    folders(tmp_path)
    scan = os.scandir

    def closed(folder: Any) -> Any:
        if Path(folder).name in ("well", "lost+found"):
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scan(folder)

    (tmp_path / "sites/lost+found").mkdir()
    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(DataCorrupt, match="well cannot be read: Permission denied") as caught:
        reading.facts(FOLDERS, tmp_path, 1, "a")
    assert caught.value.key == ("data", "images")
    for folder in (tmp_path / "sites").glob("*/well"):
        folder.rename(folder.with_name("good"))
    assert reading.facts(FOLDERS, tmp_path, 1, "a").counts.found


@pytest.mark.parametrize("dataset", [TABLE, FOLDERS], ids=lambda one: one.name)
def test_dicom_needs_its_library(
    dataset: ImageTable | ImageFolders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the check before a run names the extra; other images are read without."""
    table(tmp_path)
    folders(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "pydicom"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(LibraryMissing, match="pydicom is not installed") as caught:
        reading.facts(dataset, tmp_path, 1, "a")
    assert caught.value.exit_code == 62
    assert "fedskd-sim[dicom]" in caught.value.fix
    write(tmp_path / "cases.csv", [row for row in rows() if not row["file"].endswith("dcm")])
    for file in (tmp_path / "sites").rglob("*.dcm"):
        file.unlink()
    assert len(reading.load(dataset, tmp_path, 1, "a").ids) == 30


@pytest.mark.parametrize("dataset", [TABLE, FOLDERS], ids=lambda one: one.name)
def test_a_comparison_sees_that_an_image_was_changed(
    dataset: ImageTable | ImageFolders, tmp_path: Path
) -> None:
    """The digest of the data is of all images."""
    table(tmp_path)
    folders(tmp_path)
    root, files = origins._files(dataset, tmp_path)
    assert len(files) == 80 + (dataset is TABLE)
    before = origins._read(root, files)
    next(file for file in files if file.name == "i3.dcm").write_bytes(b"another")
    assert origins._read(root, files) != before
