"""A hospital's part of a data set by itself; that it is the whole to the hospital is tested with
every reader in `test_conformance`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_ids import skin

from fedskd_sim.errors import DataCorrupt, FedskdError, InvalidValue, OutputNotWritable
from fedskd_sim.learning.comparable import notes_of_arrays
from fedskd_sim.learning.readers import places, reading
from fedskd_sim.results.comparison import origins
from fedskd_sim.scenario import Ham10000, load

FIRST = Ham10000(name="ham10000", file="skin.npz", site="first")
RING = """
name: parts
data: {name: ham10000, file: skin.npz}
hospitals:
- {name: a, architecture: cnn-plain, data: {site: first}}
- {name: b, architecture: cnn-plain, data: {site: second}}
algorithm: {name: local, rounds: 1}
"""


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """Split a hospital's part off, and remove the whole."""
    skin(tmp_path)
    reading.split(FIRST, tmp_path, 1, "a", tmp_path / "a")
    (tmp_path / "skin.npz").unlink()
    return tmp_path / "a"


def test_a_part_is_its_owners_alone(part: Path) -> None:
    """Nobody else on the machine reads patients."""
    assert part.stat().st_mode & 0o077 == 0
    assert [file.stat().st_mode & 0o077 for file in part.iterdir()] == [0, 0]


def test_a_part_serves_every_choice_of_folds(part: Path) -> None:
    """Each sample tests once over five folds; they are the hospital's hundred."""
    tested = []
    for fold in range(5):
        chosen = FIRST.model_copy(update={"test_fold": fold, "validation_fold": (fold + 1) % 5})
        found = reading.load(chosen, part, 1, "a")
        tested += [found.ids[row] for row in found.splits[2]]
    assert sorted(map(int, tested)) == list(range(100))


WRONG: dict[str, tuple[dict[str, object], str, int, str]] = {
    "site": ({"site": "second"}, "a", 1, "made for site 'first', and here it is 'second'"),
    "file": ({"file": "other.npz"}, "a", 1, "made for file 'skin.npz', and here it is 'other.npz'"),
    "limit": ({"limit": 5}, "a", 1, "made for limit None, and here it is 5"),
    "hospital": ({}, "b", 1, "holds the part of 'a', not of 'b'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_part_of_other_data_is_refused(part: Path, case: str) -> None:
    """With the key that differs, and the way to make it again."""
    change, name, number, words = WRONG[case]
    with pytest.raises(InvalidValue, match=words) as error:
        reading.load(FIRST.model_copy(update=change), part, number, name)
    assert "data-{hospital}" in error.value.fix or "data split" in error.value.fix


def test_with_a_limit_a_part_is_of_one_seed(tmp_path: Path) -> None:
    """What a limit leaves is drawn from it."""
    skin(tmp_path)
    few = FIRST.model_copy(update={"limit": 5})
    reading.split(few, tmp_path, 1, "a", tmp_path / "a")
    assert len(np.load(tmp_path / "a" / places.SAMPLES)) == 5 + 20 + 20
    with pytest.raises(InvalidValue, match="made for seed 1, and here it is 2"):
        reading.load(few, tmp_path / "a", 2, "a")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no samples": lambda part: (part / places.SAMPLES).unlink(),
    "empty": lambda part: (part / places.SAMPLES).write_bytes(b""),
    "cut": lambda part: (part / places.SAMPLES).write_bytes(
        (part / places.SAMPLES).read_bytes()[:-9]
    ),
    "other": lambda part: np.save(part / places.SAMPLES, np.zeros((100, 8, 8, 3), np.uint8)),
    "few": lambda part: np.save(part / places.SAMPLES, np.zeros((3, 8, 8, 3), np.uint8)),
    "pickled": lambda part: np.save(part / places.SAMPLES, np.array([{}]), allow_pickle=True),
    "text": lambda part: (part / places.PART).write_text("x"),
    "list": lambda part: (part / places.PART).write_text("[]"),
    "half": lambda part: (part / places.PART).write_text('{"form": "fedskd-sim part 1"}'),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_part_is_told(part: Path, case: str) -> None:
    """Never taken for the whole, and nothing in it is run."""
    DAMAGE[case](part)
    with pytest.raises(DataCorrupt, match=r"part\.json is damaged"):
        reading.load(FIRST, part, 1, "a")


def test_a_part_of_another_version_is_told(part: Path) -> None:
    """What a later version may write there is not guessed at."""
    told = json.loads((part / places.PART).read_text())
    (part / places.PART).write_text(json.dumps({**told, "form": "fedskd-sim part 2"}))
    with pytest.raises(InvalidValue, match="no part that this version reads"):
        reading.load(FIRST, part, 1, "a")


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    """And what was there stays."""
    skin(tmp_path)
    (tmp_path / "a").write_text("a file")
    with pytest.raises(OutputNotWritable):
        reading.split(FIRST, tmp_path, 1, "a", tmp_path / "a")
    assert (tmp_path / "a").read_text() == "a file"


def test_parts_are_compared_as_the_whole_is(
    tmp_path: Path, scenario_file: Callable[[str], Path]
) -> None:
    """Duplicates of two hospitals are found, and a comparison knows with which data a run was
    computed.
    """
    skin(tmp_path)
    scenario = load(scenario_file(RING)).scenario
    for name in scenario.names:
        dataset = scenario.hospital(name).data
        reading.split(dataset, tmp_path, scenario.seed, name, tmp_path / "parts" / name)
    there = tmp_path / "parts"
    whole = [*notes_of_arrays(scenario, tmp_path, lambda _: None)]
    assert [*notes_of_arrays(scenario, there, lambda _: None)] == whole
    before = origins.digests(there, tmp_path / "memory").of(scenario)
    assert [*before] == [origins.PARTS]
    samples = np.load(there / "b" / places.SAMPLES)
    samples[0] += 1
    np.save(there / "b" / places.SAMPLES, samples)
    assert origins.digests(there, tmp_path / "memory").of(scenario) != before


def test_what_a_part_has_not_is_missing(part: Path) -> None:
    """The data of another hospital are looked for in the folder, where they are not."""
    with pytest.raises(FedskdError):
        reading.load(FIRST, part.parent, 1, "b")
