"""What every reader keeps, a built-in one and a user's own: the same samples whenever and however
they are asked for, whole subjects, one hospital for each, and no cell that is none.
"""

from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from test_datasets import derm, ham, med, rois
from test_geometry import release
from test_ids import skin
from test_pictures import FOLDERS, folders
from test_pictures import TABLE as PICTURES
from test_pictures import table as pictures
from test_roi import file as fc
from test_tables import HAS_HEART, SITES_OF_HEART, TABLE, patients

from fedskd_sim import Cohort, Geometry, Preview, reader
from fedskd_sim.errors import InvalidValue, ReaderFailed, UnknownReader
from fedskd_sim.learning.installed import READER, fetch
from fedskd_sim.learning.offers import OWN, code_of
from fedskd_sim.learning.readers import reading
from fedskd_sim.learning.readers.cohort import SPLITS, Checked, Unfit, check, form, previewed
from fedskd_sim.learning.samples import Arrays
from fedskd_sim.scenario import (
    BUILT_IN_READERS,
    Abide,
    AbideRois,
    Derm7pt,
    Ham10000,
    Ham10000Images,
    Heart,
    MedMnist,
    Nifti,
    OwnData,
    Partition,
    TableFile,
    reader_of,
)

MINE = "of-mine"


@reader(MINE)
def read(folder: Path, *, rows: int = 60) -> Cohort:
    """Read as the manual advises: a function of rows, and a preview."""
    values = np.load(folder / "mine.npy")
    return Cohort(
        lambda asked: (values[asked], "one voxel is masked"),
        ["ill" if row % 3 else "well" for row in range(rows)],
        subjects=[f"p{row // 2}" for row in range(rows)],
        sites=["x" if row < rows // 2 else "y" for row in range(rows)],
        besides={"without a scan": [("x", "ill"), ("y", ""), ("", "")]},
        preview=lambda _: Preview(values[:0]),
    )


def mine(folder: Path) -> None:
    draw = np.random.default_rng(0)
    np.save(folder / "mine.npy", draw.normal(size=(60, 6, 6, 7)).astype(np.float32))


def some(folder: Path) -> None:
    """Leave one subject out of the folder, whom the scenario says to skip."""
    rois(folder)
    (folder / "rois" / "UM_2_79_rois_cc200.1D").unlink()


PARTS = [Partition(parts=2, part=part, alpha=100.0, least=1) for part in (0, 1)]
SITES = ("north", "south")
KINDS: dict[str, tuple[Callable[[Path], object], list[Any]]] = {
    "ham10000": (
        skin,
        [Ham10000(name="ham10000", file="skin.npz", site=site) for site in ("first", "second")],
    ),
    "ham10000-images": (
        ham,
        [
            Ham10000Images(name="ham10000-images", site=site, size=8)
            for site in ("rosendahl", "vidir_modern")
        ],
    ),
    "medmnist": (
        med,
        [MedMnist(name="medmnist", file="small.npz", partition=part) for part in PARTS],
    ),
    "derm7pt": (derm, [Derm7pt(name="derm7pt", size=8, partition=part) for part in PARTS]),
    "abide": (
        fc,
        [
            Abide(name="abide", file="small.npz", by="institution", site=site)
            for site in ("NYU", "UM")
        ],
    ),
    "abide-rois": (
        some,
        [
            AbideRois(name="abide-rois", missing="skip", site=site)
            for site in ("NYU", "UM_1", "UM_2")
        ],
    ),
    "nifti": (release, [Nifti(name="nifti", site=site) for site in ("north", "south")]),
    "table": (patients, [TABLE.model_copy(update={"site": site}) for site in ("n", "s")]),
    "heart": (
        lambda _: None,
        [Heart(name="heart", site=site) for site in SITES_OF_HEART],
    ),
    "image-table": (pictures, [PICTURES.model_copy(update={"site": site}) for site in SITES]),
    "image-folders": (folders, [FOLDERS.model_copy(update={"site": site}) for site in SITES]),
    MINE: (mine, [OwnData(name="own", reader=MINE, site=site) for site in "xy"]),
}
"""Every reader with files that it reads, and hospitals that have all of them together."""


class Found(NamedTuple):
    """What a reader gives, as it is and checked."""

    folder: Path
    hospitals: list[Any]
    raw: Cohort
    checked: Checked


def function_of(name: str) -> Callable[..., Cohort]:
    """Return a reader as a run finds it: the keys of a built-in one may be whole tables."""
    return fetch(READER, name) if name == MINE else reading._public(name)


@pytest.fixture(scope="module", autouse=True)
def _code() -> Iterator[None]:
    OWN.use(code_of([read], as_files=False))
    yield
    OWN.forget()


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=HAS_HEART) if name == "heart" else name for name in KINDS],
)
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    make, hospitals = KINDS[request.param]
    folder = tmp_path_factory.mktemp("data")
    make(folder)
    name, options = reader_of(hospitals[0])
    raw = function_of(name)(folder, **options)
    return Found(folder, hospitals, raw, check(raw))


def test_the_readers_are_those_of_this_suite() -> None:
    """Every built-in data set has an entry point and a case here, and its keys are its options."""
    offered = {
        one.name: one.load()
        for one in entry_points(group=READER.group)
        if one.value.startswith("fedskd_sim.")
    }
    assert offered.keys() == {*BUILT_IN_READERS} == KINDS.keys() - {MINE}
    for name, function in offered.items():
        options = {*inspect.signature(function).parameters} - {"folder"}
        assert {*reader_of(KINDS[name][1][0])[1]} <= options
        assert options <= {*type(KINDS[name][1][0]).model_fields}


def test_rows_are_the_same_whenever_and_however_they_are_asked_for(found: Found) -> None:
    """A second call gives the same; samples do not depend on which others are asked for, nor in
    which order, nor how often.
    """
    rows = np.arange(len(found.checked.ids))
    values, remark = found.checked.take(rows)
    name, options = reader_of(found.hospitals[0])
    again = check(function_of(name)(found.folder, **options))
    assert again.columns[0].tolist() == found.checked.columns[0].tolist()
    assert all(
        np.array_equal(one, other)
        for one, other in zip(again.columns[1:4], found.checked.columns[1:4], strict=True)
    )
    assert (again.ids, again.classes, again.besides) == (
        found.checked.ids,
        found.checked.classes,
        found.checked.besides,
    )
    assert again.take(rows)[1] == remark
    assert again.take(rows)[0].tobytes() == values.tobytes()
    drawn = np.random.default_rng(1).integers(0, len(rows), 9)
    for asked in (drawn, drawn[::-1], rows[[-1]]):
        assert found.checked.take(asked)[0].tobytes() == values[asked].tobytes()


def test_the_preview_is_what_is_read(found: Found) -> None:
    """Before anything is read it is known what every sample will be."""
    rows = np.arange(len(found.checked.ids))
    told, seen = previewed(found.checked.preview(rows))
    assert told == form(found.checked.take(rows)[0], rows)
    assert len(seen.like) == 0


def test_facts_are_of_what_is_loaded_and_read_no_sample(
    found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Classes, kind, grid, channels, labels and counts of the check before a run agree with what
    the run loads; a built-in reader is asked for no sample before that.
    """
    for dataset in found.hospitals:
        loaded = reading.load(dataset, found.folder, 1, "a")
        with monkeypatch.context() as patch:
            if not isinstance(dataset, OwnData | TableFile | Heart):  # tables are in memory
                patch.setattr(Checked, "take", property(lambda _: pytest.fail("it was read")))
            known = reading.facts(dataset, found.folder, 1, "a")
        assert known.classes == loaded.classes
        assert known.train_labels.tolist() == loaded.labels[loaded.splits[0]].tolist()
        values = loaded.values if isinstance(loaded, Arrays) else loaded.pixels
        grid = values.shape[1:] if known.kind == "roi" else values.shape[2:]
        shape = values.shape[1:-1] if known.kind == "image" else grid
        assert min(shape) == known.size
        assert known.grid == (shape if known.kind == "volume" else ())
        for split, rows in zip(SPLITS, loaded.splits, strict=True):
            read_as = Counter(loaded.classes[label] for label in loaded.labels[rows])
            assert Counter(known.counts.used[split]) == read_as
        parts = (*known.counts.used.values(), *known.counts.left_out.values())
        assert sum(map(Counter, parts), Counter()) == Counter(known.counts.found)


def test_every_sample_is_one_hospitals_and_subjects_stay_whole(found: Found) -> None:
    """Hospitals share no sample and miss none but those in no split; ids are one each; nobody is
    in two splits.
    """
    owned: list[str] = []
    for dataset in found.hospitals:
        loaded = reading.load(dataset, found.folder, 1, "a")
        owned += loaded.ids
        assert len({*loaded.ids}) == len(loaded.ids) == len(loaded.labels)
        whose = np.array(loaded.subjects)
        splits = [{*whose[rows].tolist()} for rows in loaded.splits]
        assert sum(map(len, splits)) == len({*whose.tolist()})
        assert sorted(np.concatenate(loaded.splits)) == list(range(len(loaded.ids)))
    used = np.flatnonzero(np.asarray(found.checked.columns.strata) >= 0)
    assert sorted(owned) == sorted(found.checked.ids[row] for row in used)


def same(one: Any, other: Any) -> bool:
    """Compare facts or samples field by field, arrays by their bytes and types."""
    return all(
        first.tobytes() == second.tobytes() and first.dtype == second.dtype
        if isinstance(first, np.ndarray)
        else str(first) == str(second)
        for name in type(one).__dataclass_fields__
        for first, second in ((getattr(one, name), getattr(other, name)),)
    )


def test_a_hospitals_part_is_the_whole_to_it(found: Found, tmp_path: Path) -> None:
    """From its part alone a hospital knows and loads what it does from the whole, byte for byte,
    whichever folds test, and with a limit; of others the part names no sample.
    """
    choices = [{}] if found.checked.by_split else [{}, {"test_fold": 3, "validation_fold": 2}]
    for number, dataset in enumerate(found.hospitals):
        limited = dataset.model_copy(update={"limit": 3})
        for kind, asked in (("whole", [(dataset, one) for one in choices]), ("3", [(limited, {})])):
            part = tmp_path / kind / f"h{number}"
            reading.split(asked[0][0], found.folder, 1, f"h{number}", part)
            for given, choice in asked:
                chosen = given.model_copy(update=choice)
                for look in (reading.facts, reading.load):
                    whole = look(chosen, found.folder, 1, f"h{number}")
                    assert same(whole, look(chosen, part, 1, f"h{number}"))
                    assert same(whole, look(chosen, part.parent, 1, f"h{number}"))
        told = json.loads((tmp_path / "whole" / f"h{number}" / "part.json").read_text())
        others = (one for one in found.hospitals if one is not dataset)
        for other in others if found.checked.named else ():
            theirs = reading.load(other, found.folder, 1, f"h{number}")
            assert not {*told["ids"]} & {*theirs.ids}


BAD = (None, np.nan, "", "nan", " x", "x\n", "\x1b[31m", 1.5, True)


def test_a_cell_that_is_none_is_refused_with_its_row(found: Found) -> None:
    """In whatever column a reader fills: empty cells, fractions, blanks around and signs that
    cannot be printed; and a name in two ways.
    """
    filled = [
        name
        for name in ("labels", "subjects", "sites", "folds", "splits", "ids", "blocks")
        if getattr(found.raw, name) is not None
    ]
    assert "labels" in filled
    assert len(filled) > 1
    for name in filled:
        given = [*np.asarray(getattr(found.raw, name)).tolist()]
        for bad in BAD:
            if name == "ids" and bad == " x":  # as files may begin
                continue
            cells = [*given[:7], bad, *given[8:]]
            with pytest.raises(Unfit, match=rf"in row 7 of {name}"):
                check(replace(found.raw, **{name: cells}))
        if name != "labels":
            with pytest.raises(Unfit, match=f"gives {name} of shape"):
                check(replace(found.raw, **{name: given[1:]}))
        if name in ("labels", "subjects", "sites", "blocks"):
            cells = ["Twice", "twice", *given[2:]]
            with pytest.raises(Unfit, match="in two ways: 'Twice' in row 0 and 'twice' in row 1"):
                check(replace(found.raw, **{name: cells}))


def test_what_contradicts_itself_is_refused(found: Found) -> None:
    """A subject in two folds or splits, folds that are none, both, classes that labels lack, and
    what was left out of no class.
    """
    size = len(found.checked.ids)
    folds, splits = [row % 5 for row in range(size)], (["train", "test"] * size)[:size]
    one = replace(found.raw, subjects=["P"] * size, folds=None, splits=None)
    for changes, words in (
        ({"folds": folds}, "gives subject 'P' in two folds: 0 in row 0, 1 in row 1"),
        ({"splits": splits}, "gives subject 'P' in two splits: train in row 0, test in row 1"),
        ({"folds": [5] * size}, "gives '5' in row 0 of folds, not 0, 1, 2, 3, 4"),
        ({"splits": ["dev"] * size}, "'dev' in row 0 of splits, not train, validation, test, none"),
        ({"folds": folds, "splits": splits}, "both folds and splits"),
        ({"classes": ["one"]}, "the classes ('one',), not two names or more"),
        ({"classes": ["one", "One"]}, "a class in two ways: 'one' in row 0 and 'One' in row 1"),
        ({"labels": [-1] * size}, "the label -1 in row 0"),
        ({"labels": [2_000_000] * size}, "the label 2000000 in row 0"),
        ({"besides": {"lost": [("", "none such")]}}, "gives ('', 'none such') as 'lost'"),
        ({"samples": np.zeros((size + 1, 8, 8), np.uint8)}, f"({size + 1}, 8, 8) and {size} lab"),
    ):
        with pytest.raises(Unfit) as caught:
            check(replace(one, **changes))
        assert words in str(caught.value)


def test_a_sample_in_no_split_is_left_out_and_may_be_of_anyone(found: Found) -> None:
    """What is in none of the splits is no contradiction of its subject's other samples."""
    splits = ["none", *["train"] * (len(found.checked.ids) - 1)]
    checked = check(replace(found.raw, folds=None, splits=splits))
    assert checked.columns.strata[:2].tolist() == [-1, 0]


@pytest.mark.parametrize("found", [MINE], indirect=True)
def test_what_only_some_readers_give_is_anyones_to_give(found: Found) -> None:
    """A remark, what was found besides, an atlas, a space and blocks of a reader of one's own come
    to the records and the check as those of a public data set.
    """
    known = reading.facts(found.hospitals[0], found.folder, 1, "a")
    assert known.counts.left_out == {
        "of another site": {"ill": 20, "well": 10, "": 1},
        "without a scan": {"ill": 1, "": 1},
    }
    assert reading.load(found.hospitals[0], found.folder, 1, "a").remark == "one voxel is masked"
    blocks = ["early" if row % 4 < 2 else "late" for row in range(60)]
    strata = check(replace(found.raw, blocks=blocks)).columns.strata
    early = np.array(blocks) == "early"
    assert np.ptp(np.bincount(strata[early], minlength=5)) <= 2 * len({*known.classes})


SPACE = Geometry("x.nii", (6, 6, 7), np.eye(4))
ATLAS = np.arange(6 * 6 * 7).reshape(6, 6, 7) % 3
VOLUMES = np.zeros((0, 6, 6, 7), np.float32)


PREVIEWS = (
    (VOLUMES, "previews ndarray, not a Preview"),
    (Preview(np.zeros((0, 6, 6), np.uint8)), "previews samples that are image of 6 x 6"),
    (Preview(np.zeros((0, 6, 6), np.uint8), atlas=ATLAS), "of samples that are no volumes"),
    (Preview(VOLUMES, ATLAS[1:]), "an atlas of shape (5, 6, 7) of int64, not regions from 1"),
    (Preview(VOLUMES, ATLAS * 0.5), "of float64, not regions from 1 on of (6, 6, 7) voxels"),
    (Preview(VOLUMES, 0 * ATLAS), "not regions from 1 on"),
    (Preview(VOLUMES, space=SPACE._replace(grid=(6, 6, 6))), "a space of (6, 6, 6) voxels"),
)


def test_a_preview_that_is_not_what_is_read_is_refused(tmp_path: Path) -> None:
    """Of another shape, with an atlas or a space of other voxels; a good one is what is known."""
    mine(tmp_path)
    seen: list[object] = [Preview(VOLUMES, ATLAS, SPACE)]

    @reader(MINE)
    def told(folder: Path) -> Cohort:
        return replace(read(folder), preview=lambda _: seen[-1])

    dataset = OwnData(name="own", reader=MINE, site="x")
    OWN.use(code_of([told], as_files=False))
    try:
        known = reading.facts(dataset, tmp_path, 1, "a")
        for preview, words in PREVIEWS:
            seen.append(preview)
            with pytest.raises(ReaderFailed) as caught:
                reading.facts(dataset, tmp_path, 1, "a")
            assert words in caught.value.message
    finally:
        OWN.use(code_of([read], as_files=False))
    assert known.atlas is ATLAS
    assert known.geometry is SPACE


def test_names_of_public_data_sets_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others offer under such a name is not asked, and is no reader of one's own; without the
    program's entry points it is said what to do.
    """
    skin(tmp_path)
    with pytest.raises(InvalidValue, match="'abide' is a built-in data set") as caught:
        reading.facts(OwnData(name="own", reader="abide"), tmp_path, 1, "a")
    assert "{name: abide}" in caught.value.fix
    dataset = KINDS["ham10000"][1][0]

    @reader("ham10000")
    def theirs(_: Path) -> Cohort:
        pytest.fail("it was asked")

    OWN.use(code_of([theirs], as_files=False))
    try:
        assert reading.facts(dataset, tmp_path, 1, "a").kind == "image"
    finally:
        OWN.use(code_of([read], as_files=False))
    monkeypatch.setattr(reading, "offered_here", lambda *_: None)
    with pytest.raises(UnknownReader, match="no reader 'ham10000'") as caught:
        reading.facts(dataset, tmp_path, 1, "a")
    assert "install this program anew" in caught.value.fix
