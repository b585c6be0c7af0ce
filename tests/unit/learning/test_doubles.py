"""What was published twice is told before it trains at one hospital and tests at another."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from test_datasets import MED, med
from test_roi import arrays, file

from fedskd_sim.cli import main
from fedskd_sim.errors import DataCorrupt
from fedskd_sim.learning import comparable
from fedskd_sim.learning.data import load
from fedskd_sim.scenario import load as load_scenario

AS_THEY_ARE = r"Note: (\w+) and (\w+) have (\d+) samples that are the same value for value, and "
TOLD = re.compile(AS_THEY_ARE + r"(\d+) of them train at one and test at the other\.")
ROIS = """
name: two-sites
data: {name: abide, file: small.npz, by: institution}
hospitals:
  - {name: a, architecture: roi-mlp, data: {site: NYU}}
  - {name: b, architecture: roi-mlp, data: {site: UM}}
algorithm: {name: local}
"""
SKIN = """
name: two-collections
data: {name: ham10000, file: skin.npz}
hospitals:
  - {name: a, architecture: cnn-plain, data: {site: first}}
  - {name: b, architecture: cnn-plain, data: {site: second}}
algorithm: {name: local}
"""


def validated(path: Path, folder: Path) -> str:
    done = CliRunner().invoke(main, ["validate", str(path), "--data", str(folder)])
    assert done.exit_code == 0, done.output
    return done.output


def by_hand(path: Path, folder: Path) -> list[tuple[str, ...]]:
    """Count what two hospitals have in common among their loaded samples, pair by pair."""
    scenario = load_scenario(path).scenario
    a, b = (load(scenario, name, folder, "cpu") for name in ("a", "b"))

    def told(data: object, split: str) -> set[bytes]:
        images = getattr(data, split).images.numpy()
        return {one.tobytes() for one in images if one.min() != one.max()}

    parts = ("train", "validation", "test")
    own, theirs = (set().union(*(told(data, part) for part in parts)) for data in (a, b))
    crossed = (told(a, "train") & told(b, "test")) | (told(a, "test") & told(b, "train"))
    return [("a", "b", str(len(own & theirs)), str(len(crossed)))] if own & theirs else []


def doubled(folder: Path) -> Path:
    """Write a set in which the first ten pictures stand three times, two of them in other splits,
    and twenty are of one colour.
    """
    med(folder)
    with np.load(folder / "small.npz") as arrays:
        made = dict(arrays)
    for split, first in (("train", 50), ("val", 0), ("test", 20)):
        made[f"{split}_images"][first : first + 10] = made["train_images"][:10]
    made["test_images"][:20] = 7
    np.savez(folder / "small.npz", **made)
    return folder


def test_pictures_of_a_set_that_two_hospitals_have_are_told(
    scenario_file: Callable, tmp_path: Path
) -> None:
    """With how many train at one and test at the other, as counted by hand; what has no contrast
    is nobody's twice, and where nothing is doubled nothing is said.
    """
    path = scenario_file(MED)
    assert not TOLD.findall(validated(path, med(tmp_path / "whole")))
    found = TOLD.findall(validated(path, doubled(tmp_path / "doubled")))
    assert found == by_hand(path, tmp_path / "doubled")
    ((_, _, shared, crossed),) = found
    assert 0 < int(crossed) < int(shared) <= 10


def test_volumes_of_a_set_that_two_hospitals_have_are_told(
    scenario_file: Callable, tmp_path: Path
) -> None:
    """The same for three axes."""
    draw = np.random.default_rng(1)
    made = {
        f"{split}_images": draw.integers(0, 256, (count, 16, 16, 16), dtype=np.uint8)
        for split, count in (("train", 100), ("val", 50), ("test", 50))
    }
    made["test_images"][:] = made["train_images"][50:]
    med(tmp_path, **made)
    path = scenario_file(MED.replace("cnn-plain", "vol-plain"))
    assert TOLD.findall(validated(path, tmp_path)) == by_hand(path, tmp_path) != []


def test_pictures_of_two_collections_are_told(scenario_file: Callable, tmp_path: Path) -> None:
    """In HAM10000 as one array, whatever lesion they are said to be of."""
    draw = np.random.default_rng(2)
    image = draw.integers(0, 256, (200, 8, 8, 3), dtype=np.uint8)
    image[100:130] = image[:30]
    np.savez(
        tmp_path / "skin.npz", image=image, label=np.arange(200) % 3,
        label_names=np.array(["x", "y", "z"]), site=np.repeat([0, 1], 100),
        site_names=np.array(["first", "second"]), split_group=np.arange(200),
        fold=np.arange(200) // 7 % 5,
    )  # fmt: skip
    path = scenario_file(SKIN)
    assert TOLD.findall(validated(path, tmp_path)) == by_hand(path, tmp_path) != []


def test_connectivity_of_two_sites_is_told(scenario_file: Callable, tmp_path: Path) -> None:
    """A subject under two numbers."""
    made = arrays()
    nyu, um = (np.flatnonzero(made["institution"] == number) for number in (0, 1))
    made["fc_q8"][um[:20]] = made["fc_q8"][nyu[-20:]]
    path = scenario_file(ROIS)
    found = TOLD.findall(validated(path, file(tmp_path, fc_q8=made["fc_q8"])))
    assert found == by_hand(path, tmp_path) != []
    assert found[0][2] == "20"


def test_a_large_file_is_not_read_for_it(
    scenario_file: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What takes minutes to read is left to the run."""
    monkeypatch.setattr(comparable, "LARGEST_ARCHIVE", 1000)
    assert not TOLD.findall(validated(scenario_file(MED), doubled(tmp_path)))


def test_damage_that_only_the_samples_show_is_told_by_its_place(
    scenario_file: Callable, tmp_path: Path
) -> None:
    """An array that cannot be read to its end is an error of the hospital's data."""
    file = doubled(tmp_path) / "small.npz"
    data = bytearray(file.read_bytes())
    place = data.index(b"train_images.npy") + 5000
    data[place] ^= 1
    file.write_bytes(data)
    done = CliRunner().invoke(main, ["validate", str(scenario_file(MED)), "--data", str(tmp_path)])
    assert done.exit_code == DataCorrupt.exit_code, done.output
    assert "train_images cannot be read" in done.output
    assert "scenario.yaml:" in done.output
