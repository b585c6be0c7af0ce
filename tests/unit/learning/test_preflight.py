"""What models and data make impossible is found before anything starts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fedskd_sim.cli import main
from fedskd_sim.errors import (
    ArchitecturesDiffer,
    DataCorrupt,
    DataMissing,
    DeviceUnavailable,
    FedskdError,
    ImageTooSmall,
    InvalidValue,
    LabelSpacesDiffer,
    NoTrainingSamples,
    OneClassOnly,
    RegionGridTooLarge,
    UnknownArchitecture,
)
from fedskd_sim.learning.preflight import find_problems
from fedskd_sim.learning.readers import reading
from fedskd_sim.scenario import Ham10000, load, raise_all

GOOD = """\
name: good
data: {name: synthetic-skin, samples: 50, image_size: 16}
hospitals:
  - {name: a, architecture: cnn-plain}
  - {name: b, architecture: cnn-residual}
algorithm:
  name: fedskd
  similarity: {batch: 0.1}
"""
HAM = """\
name: ham
data: {name: ham10000, file: small.npz}
hospitals:
  - {name: a, architecture: cnn-plain, data: {site: first}}
  - {name: b, architecture: cnn-plain, data: {site: second}}
algorithm: {name: fedskd}
"""


def arrays(**changes: object) -> dict[str, object]:
    draw = np.random.default_rng(0)
    made = {
        "image": draw.integers(0, 255, (200, 16, 16, 3), dtype=np.uint8),
        "label": draw.integers(0, 3, 200).astype(np.uint8),
        "label_names": np.array(["x", "y", "z"]),
        "site": np.repeat([0, 1], 100).astype(np.uint8),
        "site_names": np.array(["first", "second"]),
        "split_group": np.arange(200, dtype=np.int32) // 2,
        "fold": (np.arange(200) // 2 % 5).astype(np.uint8),
    }
    return {name: value for name, value in (made | changes).items() if value is not None}


def check(path: Path, folder: Path | None = None) -> None:
    loaded = load(path)
    raise_all(loaded.document, find_problems(loaded.scenario, folder))


@pytest.mark.parametrize("place", [0, 2])
def test_who_is_held_out_need_not_be_like_those_who_train(
    place: int, scenario_file: Callable
) -> None:
    """It sends no model and learns nothing: where models are averaged it may have any
    architecture, wherever it stands.
    """
    hospitals = [f"{{name: {name}, architecture: cnn-plain}}" for name in "ab"]
    hospitals.insert(place, "{name: c, architecture: vit-tiny, held_out: true}")
    text = (
        "name: held\ndata: {name: synthetic-skin, samples: 50, image_size: 16}\n"
        f"hospitals: [{', '.join(hospitals)}]\nalgorithm: {{name: fedavg}}\n"
    )
    check(scenario_file(text))
    with pytest.raises((ArchitecturesDiffer, ExceptionGroup)):
        check(scenario_file(text.replace(", held_out: true", "")))


CASES = {
    "unknown architecture": (
        "cnn-plain}",
        "cnn-plane}",
        UnknownArchitecture,
        4,
        "did you mean 'cnn-plain'?",
    ),
    "an architecture like no other": (
        "cnn-plain}",
        "qqq}",
        UnknownArchitecture,
        4,
        "one of your own comes with a package that has to be installed here",
    ),
    "unknown option": (
        "cnn-plain}",
        "{name: cnn-plain, options: {widht: 8}}}",
        InvalidValue,
        4,
        "'width'? cnn-plain has the options",
    ),
    **{
        f"{name} {value}": (
            "cnn-plain}",
            f"{{name: {kind}, options: {{{name}: {value}}}}}}}",
            InvalidValue,
            4,
            words,
        )
        for kind, name, value, words in (
            ("cnn-plain", "norm", "foo", "none, group or batch"),
            ("cnn-plain", "norm", "3", "norm is 3"),
            ("cnn-plain", "width", "wide", "a whole number from 1 to 4096"),
            ("cnn-plain", "width", "'8'", "width is '8'"),
            ("cnn-plain", "width", "0", "width is 0"),
            ("cnn-plain", "width", "-1", "width is -1"),
            ("cnn-plain", "width", "8.0", "width is 8.0"),
            ("cnn-plain", "width", "true", "width is true"),
            ("cnn-plain", "width", "100000000", "from 1 to 4096"),
            ("cnn-plain", "width", "4096", "the most is 500,000,000"),
            ("vit-tiny", "width", "33", "cannot have width 33"),
            ("vit-tiny", "patch", "32", "cannot have patch 32"),
        )
    },
    "image too small": ("cnn-plain}", "resnet18}", ImageTooSmall, 4, "at least 128 pixels"),
    "image too small for a patch": (
        "cnn-plain}",
        "{name: vit-tiny, options: {patch: 8}}}",
        ImageTooSmall,
        4,
        "at least 32 pixels",
    ),
    "region grid too large": (
        "{batch: 0.1}",
        "{region_grid: 5}",
        RegionGridTooLarge,
        4,
        "region_grid 5",
    ),
    "pixel grid too large": (
        "{batch: 0.1}",
        "{pixel_grid: 9}",
        RegionGridTooLarge,
        4,
        "pixel_grid 9 is finer than the middle map",
    ),
    "label spaces": (
        "cnn-residual}",
        "cnn-residual, data: {classes: 3}}",
        LabelSpacesDiffer,
        5,
        "lesion-2 (3), 'a' has",
    ),
    "image sizes": (
        "cnn-residual}",
        "cnn-residual, data: {image_size: 32}}",
        LabelSpacesDiffer,
        5,
        "32 pixels, 'a' has images of 16",
    ),
    "no data": (
        "data: {name: synthetic-skin, samples: 50, image_size: 16}\n",
        "",
        DataMissing,
        3,
        "has no data",
    ),
    "data that are none": (
        "synthetic-skin, samples: 50, image_size: 16",
        "none",
        DataMissing,
        4,
        "'a' has no data",
    ),
    "no such device": (
        "cnn-residual}",
        "cnn-residual, device: 'cuda:63'}",
        DeviceUnavailable,
        5,
        "is not here",
    ),
}


@pytest.mark.parametrize(("old", "new", "kind", "line", "words"), CASES.values(), ids=CASES.keys())
def test_impossible_models_are_found(
    old: str, new: str, kind: type[FedskdError], line: int, words: str, scenario_file: Callable
) -> None:
    """Each has its own error at the hospital's line, with the value and a fix."""
    check(scenario_file(GOOD))
    path = scenario_file(GOOD.replace(old, new))
    with pytest.raises(FedskdError) as caught:
        check(path)
    assert type(caught.value) is kind, caught.value
    assert str(caught.value.where) == f"{path}:{line}"
    assert words in f"{caught.value.message} {caught.value.fix}"
    assert caught.value.fix
    refused(path, caught.value)


def refused(path: Path, error: FedskdError, *options: object) -> None:
    """The command line says the same, ends with the error's code, and leaves nothing behind."""
    out = path.parent / "out"
    for command in (["validate", path], ["launch", path, "--on", "memory", "--out", out]):
        done = CliRunner().invoke(main, [str(argument) for argument in (*command, *options)])
        assert (done.exit_code, done.stderr) == (type(error).exit_code, f"error: {error}\n")
    assert not out.exists()


def test_every_hospital_is_checked(scenario_file: Callable) -> None:
    """One run of the check shows what is wrong at each hospital, in the order of the file."""
    with pytest.raises(UnknownArchitecture) as caught:
        check(scenario_file(GOOD.replace("cnn-plain}", "x}").replace("cnn-residual}", "resnet18}")))
    assert [type(error) for error in (caught.value, *caught.value.others)] == [
        UnknownArchitecture,
        ImageTooSmall,
    ]


def test_synthetic_patients_of_one_class_are_found(scenario_file: Callable) -> None:
    """A skew so strong that a small hospital trains on one class only is an error that names the
    class.
    """
    text = GOOD.replace("samples: 50", "samples: 10, classes: 2, label_skew: 1.0")
    kinds = set()
    for number in range(30):
        try:
            check(scenario_file(f"seed: {number}\n{text}"))
        except OneClassOnly as error:
            kinds.add(error.message.partition(" are ")[2])
    assert kinds == {"'lesion-0'", "'lesion-1'"}


def test_a_grid_of_a_level_that_is_off_does_not_matter(scenario_file: Callable) -> None:
    """With the region weight 0 its grid is not checked: the level is never computed."""
    check(scenario_file(GOOD.replace("{batch: 0.1}", "{region: 0, region_grid: 9}")))


@pytest.mark.parametrize(
    ("fits", "not_any_more", "words"),
    [
        ("{pixel_grid: 8}", "{pixel_grid: 8, pixel_tap: deep}", "pixel_grid 8 is finer"),
        ("{region_grid: 8, region_tap: mid}", "{region_grid: 8}", "region_grid 8 is finer"),
        (
            "{region: 0, region_grid: 8}",
            "{region: 0, region_grid: 8}\n  self_distillation: {region: 1}",
            "region_grid 8 is finer",
        ),
    ],
)
def test_a_grid_has_to_fit_the_map_that_its_level_compares(
    fits: str, not_any_more: str, words: str, scenario_file: Callable
) -> None:
    """The middle map is 8 x 8 and the deep one 4 x 4; a level that only holds the past counts as
    well.
    """
    residual = GOOD.replace("cnn-plain", "cnn-residual")
    check(scenario_file(residual.replace("{batch: 0.1}", fits)))
    with pytest.raises(RegionGridTooLarge, match=words):
        check(scenario_file(residual.replace("{batch: 0.1}", not_any_more)))


def ham(folder: Path, **changes: object) -> Path:
    np.savez_compressed(folder / "small.npz", **arrays(**changes))
    return folder


def test_a_good_file_passes_and_its_splits_never_share_a_group(
    tmp_path: Path, scenario_file: Callable
) -> None:
    """Train, validation and test of a site are disjoint in lesions and cover the site."""
    check(scenario_file(HAM), ham(tmp_path))
    seen = []
    for site in ("first", "second"):
        images = reading.load(
            Ham10000(name="ham10000", file="small.npz", site=site), tmp_path, 1, "a"
        )
        assert [len(split) for split in images.splits] == [60, 20, 20]
        seen.append(images.pixels)
    assert np.array_equal(
        np.sort(np.concatenate(seen).sum((1, 2, 3))), np.sort(arrays()["image"].sum((1, 2, 3)))
    )


def test_the_limit_draws_training_images_by_seed(tmp_path: Path) -> None:
    """At most the given number, the same for the same seed, another choice for another."""
    dataset = Ham10000(name="ham10000", file="small.npz", site="first", limit=10)
    first, again, other = (
        reading.load(dataset, ham(tmp_path), number, "a") for number in (1, 1, 2)
    )
    assert [len(split) for split in first.splits] == [10, 20, 20]
    assert np.array_equal(first.pixels, again.pixels)
    assert not np.array_equal(first.pixels, other.pixels)


HAM_CASES = {
    "no training samples": (
        {"fold": np.arange(200) // 2 % np.repeat([5, 2], 100)},
        NoTrainingSamples,
        5,
        "no training samples",
    ),
    "a site without a row": (
        {"site": np.zeros(200, np.uint8)},
        InvalidValue,
        5,
        "there is no site 'second'",
    ),
    "one class": (
        {"label": np.repeat([1, 0], [100, 100]).astype(np.uint8)},
        OneClassOnly,
        4,
        "are 'y'",
    ),
    "no such site": (
        {"site_names": np.array(["first", "third"])},
        InvalidValue,
        5,
        "no site 'second'",
    ),
    "missing array": ({"fold": None}, DataCorrupt, 2, "lacks fold"),
    "images of a wrong shape": (
        {"image": np.zeros((200, 16, 8, 3), np.uint8)},
        DataCorrupt,
        2,
        "(200, 16, 8, 3)",
    ),
    "images that are no bytes": (
        {"image": np.zeros((200, 16, 16, 3), np.float32)},
        DataCorrupt,
        2,
        "float32",
    ),
    "fewer images than labels": (
        {"image": np.zeros((199, 16, 16, 3), np.uint8)},
        DataCorrupt,
        2,
        "(199,)",
    ),
    "labels in a table": ({"label": np.zeros((200, 2), np.uint8)}, DataCorrupt, 2, "(200, 2)"),
    "labels that are no numbers": ({"label": np.zeros(200)}, DataCorrupt, 2, "float64"),
    "a label without a name": (
        {"label": np.arange(200) % 4},
        DataCorrupt,
        2,
        "0 to 3, but label_names has 3",
    ),
    "a site without a name": ({"site": np.arange(200) % 3}, DataCorrupt, 2, "site_names has 2"),
    "a negative label": ({"label": np.arange(200) % 3 - 1}, DataCorrupt, 2, "-1"),
    "an array that would be unpickled": (
        {"label_names": np.array(["x", "y", None], object)},
        DataCorrupt,
        2,
        "label_names",
    ),
    "a lesion in two folds": (
        {"split_group": np.arange(200) // 20},
        DataCorrupt,
        2,
        "gives subject '0' in two folds",
    ),
}


@pytest.mark.parametrize(
    ("changes", "kind", "line", "words"), HAM_CASES.values(), ids=HAM_CASES.keys()
)
def test_impossible_data_is_found(
    changes: dict,
    kind: type[FedskdError],
    line: int,
    words: str,
    tmp_path: Path,
    scenario_file: Callable,
) -> None:
    """Each has its own error at the line of the key it belongs to."""
    path = scenario_file(HAM)
    with pytest.raises(FedskdError) as caught:
        check(path, ham(tmp_path, **changes))
    assert type(caught.value) is kind, caught.value
    assert str(caught.value.where) == f"{path}:{line}"
    assert words in str(caught.value)
    assert caught.value.fix
    refused(path, caught.value, "--data", tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("site: second", "site: secnod", 5, "did you mean 'second'?"),
        (", data: {site: second}", "", 5, "it does not say which site"),
        ("site: second", "site: second, validation_fold: 0", 5, "fold 0 cannot both validate and"),
        ("file: small.npz", "file: small.npz, validation_fold: 0", 2, "fold 0 cannot both"),
    ],
)
def test_wrong_words_about_good_data_are_found(
    old: str, new: str, line: int, words: str, tmp_path: Path, scenario_file: Callable
) -> None:
    """A site that does not exist, none at all, and folds that overlap are errors at the line
    where they stand.
    """
    path = scenario_file(HAM.replace(old, new))
    with pytest.raises(InvalidValue) as caught:
        check(path, ham(tmp_path))
    assert caught.value.where.line == line
    assert words in f"{caught.value.message} {caught.value.fix}"


def test_a_hospital_may_hold_out_other_folds(tmp_path: Path) -> None:
    """Folds of the file become validation and test as the scenario says, and never train."""
    dataset = Ham10000(
        name="ham10000", file="small.npz", site="first", test_fold=4, validation_fold=2
    )
    images = reading.load(dataset, ham(tmp_path), 1, "a")
    folds = {
        pixels.tobytes(): fold
        for pixels, fold in zip(arrays()["image"], arrays()["fold"], strict=True)
    }
    assert [
        {int(folds[images.pixels[row].tobytes()]) for row in split} for split in images.splits
    ] == [{0, 1, 3}, {2}, {4}]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_corrupt(share: float, tmp_path: Path, scenario_file: Callable) -> None:
    """Wherever the file was cut off, the error says that it cannot be read."""
    whole = (ham(tmp_path) / "small.npz").read_bytes()
    (tmp_path / "small.npz").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataCorrupt):
        check(scenario_file(HAM), tmp_path)


def test_damaged_images_are_corrupt_when_they_are_read(tmp_path: Path) -> None:
    """A file whose directory is whole but whose images are not fails at loading, not with wrong
    pixels.
    """
    path = ham(tmp_path) / "small.npz"
    raw = bytearray(path.read_bytes())
    middle = raw.find(b"image.npy") + 5000
    raw[middle : middle + 50] = bytes(50)
    path.write_bytes(raw)
    with pytest.raises(DataCorrupt, match="image"):
        reading.load(Ham10000(name="ham10000", file="small.npz", site="first"), tmp_path, 1, "a")


def test_a_missing_file_says_where_it_was_looked_for(
    tmp_path: Path, scenario_file: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a folder, and with one that lacks the file, the fix names --data and the variable;
    the variable works.
    """
    monkeypatch.delenv("FEDSKD_DATA", raising=False)
    for folder in (None, tmp_path):
        with pytest.raises(DataMissing, match=r"small\.npz") as caught:
            check(scenario_file(HAM), folder)
        assert "--data" in caught.value.fix
        assert "FEDSKD_DATA" in caught.value.fix
        assert caught.value.others == (), "what all hospitals share is told once"
        assert caught.value.where.line == 2
    monkeypatch.setenv("FEDSKD_DATA", str(ham(tmp_path)))
    check(scenario_file(HAM))


@pytest.mark.skipif(
    not os.environ.get("FEDSKD_DATA"), reason="FEDSKD_DATA names no folder with real data"
)
def test_the_real_file_has_four_sites_and_no_shared_lesions() -> None:
    """The real HAM10000 file passes the check and has the published number of images per
    collection.
    """
    scenario = Path(__file__).parents[3] / "scenarios" / "fedskin-ham10000.yaml"
    check(scenario)
    sizes = {}
    for site in ("rosendahl", "vidir_modern", "vidir_molemax", "vienna_dias"):
        images = reading.load(Ham10000(name="ham10000", site=site), None, 1, site)
        sizes[site] = sum(len(split) for split in images.splits)
    assert sizes == {
        "rosendahl": 2259,
        "vidir_modern": 3363,
        "vidir_molemax": 3954,
        "vienna_dias": 439,
    }
