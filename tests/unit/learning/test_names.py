"""Names that may be one or two: an error names both before anything starts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_datasets import DERM, HAM, MED, ROIS, check, derm, ham, med, rois
from test_geometry import TEXT as SCANS
from test_geometry import release
from test_ids import skin

from fedskd_sim.errors import DataCorrupt, FedskdError, InvalidValue
from fedskd_sim.learning.readers import reading, splits
from fedskd_sim.scenario import Ham10000, Nifti

SKIN, CASES = "HAM10000_metadata.csv", "release_v0/meta/meta.csv"
BRAINS, PEOPLE = "Phenotypic_V1_0b_preprocessed1.csv", "participants.csv"
TABLES: dict[str, tuple[str, Callable[[Path], object]]] = {
    SKIN: (HAM, ham),
    CASES: (DERM, derm),
    BRAINS: (ROIS, rois),
    PEOPLE: (SCANS.format(more=""), release),
}


def changed(folder: Path, file: str, *changes: tuple[str, str]) -> None:
    path = folder / file
    text = path.read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after, 1)
    path.write_text(text)


SPELLINGS = {
    "a collection": (
        SKIN,
        ("rosendahl", "Rosendahl"),
        "gives a site in two ways: 'Rosendahl' in row 0",
        "'rosendahl' in row 1",
    ),
    "an image": (
        SKIN,
        ("ISIC_0000001", "isic_0000000"),
        "an image_id is written in two ways",
        "'isic_0000000' in row 2",
    ),
    "a case": (
        CASES,
        ("1,clark nevus,X/c0.jpg", "a,clark nevus,X/c0.jpg"),
        "'a' in row 0",
        "'A' in row 2",
    ),
    "an image of a case": (
        CASES,
        ("X/d1.jpg", "X/D0.jpg"),
        "a derm is written in two ways",
        "'X/D0.jpg' in row 2",
    ),
    "an institution": (
        BRAINS,
        ("UM_1,", "um_9,"),
        "gives a site in two ways: 'um'",
        "'UM'",
    ),
    "a subject's file": (
        BRAINS,
        ("NYU_1,", "nyu_0,"),
        "a FILE_ID is written in two ways",
        "'nyu_0' in row 2",
    ),
    "a file": (
        PEOPLE,
        ("v1.nii", "./v0.nii"),
        "a file stands there twice",
        "in row 1 and 'v0.nii' in row 2",
    ),
    "a file in capitals": (
        PEOPLE,
        ("v1.nii", "V0.nii"),
        "a file is written in two ways",
        "'V0.nii' in row 2",
    ),
    "accents": (
        PEOPLE,
        (",x,north,s0", ",x,nörth,s0"),
        "gives a site in two ways",
        "in row 2",
    ),
}


@pytest.mark.parametrize("what", SPELLINGS)
def test_a_name_in_two_spellings_is_named_with_both(
    what: str, tmp_path: Path, scenario_file: Callable
) -> None:
    """Sites, subjects, images and files whose names differ in letters only are an error, not two of
    them; of every column of a cohort `test_conformance` says the same.
    """
    file, change, *words = SPELLINGS[what]
    text, make = TABLES[file]
    make(tmp_path)
    more = {
        "a case": (("3,lentigo", "A,lentigo"),),
        "accents": ((",x,north,s2", ",x,no\u0308rth,s2"),),
    }.get(what, ())
    changed(tmp_path, file, change, *more)
    with pytest.raises(DataCorrupt) as caught:
        check(scenario_file(text), tmp_path)
    assert all(word in caught.value.message for word in words), caught.value.message
    assert caught.value.fix


def test_both_halves_of_a_pair_are_one_file(tmp_path: Path) -> None:
    """A table that lists the header of a pair and its image lists it twice."""
    release(tmp_path)
    changed(tmp_path, PEOPLE, ("v0.nii", "p.hdr"), ("v1.nii", "p.img"))
    with pytest.raises(DataCorrupt, match="a file stands there twice"):
        reading.facts(Nifti(name="nifti", site="north"), tmp_path, 1, "a")


@pytest.mark.parametrize("file", TABLES)
def test_two_columns_of_one_name_are_named(
    file: str, tmp_path: Path, scenario_file: Callable
) -> None:
    """A needed column that is there twice, or again in other letters, is an error; others may be
    there as often as they like.
    """
    text, make = TABLES[file]
    make(tmp_path)
    whole = (tmp_path / file).read_text()
    column = whole.partition("\n")[0].split(",")[1]
    for again in (column, column.swapcase(), f" {column}"):
        (tmp_path / file).write_text(
            "\n".join(
                f"{line},{'x' if number else again}"
                for number, line in enumerate(whole.split("\n")[:-1])
            )
        )
        with pytest.raises(DataCorrupt) as caught:
            check(scenario_file(text), tmp_path)
        assert re.search(
            rf"'{column}' in column 2 and '{again.strip()}' in column \d", caught.value.message
        )
    (tmp_path / file).write_text(
        "\n".join(
            f"{line},{'x' if number else 'n'},x"
            for number, line in enumerate(whole.split("\n")[:-1])
        )
    )
    check(scenario_file(text), tmp_path)


@pytest.mark.parametrize("written", ["Fold", '"FOLD"', '"fold"'])
def test_a_column_that_may_be_meant_is_not_passed_over(
    written: str, tmp_path: Path, scenario_file: Callable
) -> None:
    """Folds in a column of other letters are an error instead of folds that are drawn; quotes
    are no letters.
    """
    release(tmp_path)
    path = tmp_path / "participants.csv"
    lines = path.read_text().splitlines()
    path.write_text(
        "\n".join(
            [
                f"{lines[0]},{written}",
                *(f"{line},{number // 2 % 5}" for number, line in enumerate(lines[1:])),
            ]
        )
    )
    if written == '"fold"':
        assert reading.load(Nifti(name="nifti", site="north"), tmp_path, 1, "a").ids[-2:] == (
            "v0.nii",
            "v1.nii",
        )
    else:
        with pytest.raises(DataCorrupt, match="which may be meant as 'fold'"):
            check(scenario_file(SCANS.format(more="")), tmp_path)


def test_a_row_with_more_values_than_columns_is_named(
    tmp_path: Path, scenario_file: Callable
) -> None:
    """A comma too many shifts every value behind it, so it is an error; empty cells at the end
    are none.
    """
    ham(tmp_path)
    changed(tmp_path, SKIN, ("histo,,male,back,rosendahl", "histo,,male,back, upper,rosendahl"))
    with pytest.raises(DataCorrupt, match="row 1 has 9 values for 8 columns"):
        check(scenario_file(HAM), tmp_path)
    changed(tmp_path, SKIN, ("back, upper,rosendahl", "back,rosendahl,,"))
    check(scenario_file(HAM), tmp_path)


def test_one_image_of_two_cases_is_named(tmp_path: Path, scenario_file: Callable) -> None:
    """Cases that share an image but not their diagnosis or split are an error that names both."""
    derm(tmp_path)
    changed(tmp_path, CASES, ("X/d1.jpg", "X/d0.jpg"))
    with pytest.raises(DataCorrupt, match=r"X/d0\.jpg is the image of case 1 and case 2"):
        check(scenario_file(DERM), tmp_path)


@pytest.mark.parametrize("array", ["site_names", "label_names"])
def test_names_of_an_archive_stand_once(array: str, tmp_path: Path) -> None:
    """Two sites or classes of one name in an archive are an error instead of the first of them."""
    skin(tmp_path)
    arrays = dict(np.load(tmp_path / "skin.npz"))
    arrays[array][1] = arrays[array][0].upper()
    np.savez(tmp_path / "skin.npz", **arrays)
    with pytest.raises(DataCorrupt, match=f"{array}: a name is written in two ways"):
        reading.facts(Ham10000(name="ham10000", file="skin.npz", site="first"), tmp_path, 1, "a")


def test_classes_that_a_scenario_names_stand_once(tmp_path: Path, scenario_file: Callable) -> None:
    """Two classes of one name in the scenario are an error."""
    with pytest.raises(
        FedskdError, match="gives a class in two ways: 'w' in row 0 and 'W' in row 1"
    ) as caught:
        check(
            scenario_file(MED.replace("file: small.npz", "file: small.npz, classes: [w, W, y, z]")),
            med(tmp_path),
        )
    assert type(caught.value) is InvalidValue


def pipeline(folder: Path, case: str) -> None:
    """Move files of the series to other folders: half of a site to another strategy, or whole
    sites, subjects, or one file.
    """
    subjects = rois(folder)
    for number, row in enumerate(subjects):
        name = f"{row['FILE_ID']}_rois_cc200.1D"
        where = {
            "strategies": f"cpac/{'filt_global' if number % 2 else 'nofilt_noglobal'}",
            "pipelines by site": f"{'ccs' if row['SITE_ID'] == 'NYU' else 'cpac'}"
            f"/filt_global/{row['SITE_ID']}",
            "unknown folders": "mine" if number % 2 else "theirs",
            "one elsewhere": "mine" if number else "theirs",
            "by site": f"cpac/filt_global/{row['SITE_ID']}",
            "by subject": f"sub-{number}/func",
            "one folder": "cpac/filt_global/rois_cc200",
            "capitals": "rois",
        }[case]
        (folder / where).mkdir(parents=True, exist_ok=True)
        (folder / "rois" / name).rename(folder / where / name)
    if case == "capitals":
        (folder / "rois" / "nyu_0_rois_cc200.1D").write_text("#\n1\n2\n3\n")


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("strategies", "two pipelines"),
        ("pipelines by site", "two pipelines"),
        ("unknown folders", "two pipelines"),
        ("one elsewhere", "two pipelines"),
        ("capitals", "are both there"),
        ("by site", ""),
        ("by subject", ""),
        ("one folder", ""),
    ],
)
def test_time_series_of_two_pipelines_are_named(
    case: str, words: str, tmp_path: Path, scenario_file: Callable
) -> None:
    """Subjects whose files come from different pipelines do not mix; folders for sites or
    subjects are no pipelines.
    """
    pipeline(tmp_path, case)
    if not words:
        check(scenario_file(ROIS), tmp_path)
        return
    with pytest.raises(DataCorrupt, match=words) as caught:
        check(scenario_file(ROIS), tmp_path)
    assert len(set(re.findall(r"/\S*_rois_cc200\.1D", caught.value.message))) == 2


def test_folding_keeps_different_names_apart() -> None:
    """Letters, blanks and accents' coding are folded; signs and digits are not."""
    assert splits.normal_form(" UM  1") == splits.normal_form("um 1")
    assert splits.normal_form("nörth") == splits.normal_form("NO\u0308RTH")
    assert (
        len(
            {
                splits.normal_form(name)
                for name in ("UM_1", "UM_2", "UM-1", "UM 1", "UM1", "1", "01")
            }
        )
        == 7
    )
