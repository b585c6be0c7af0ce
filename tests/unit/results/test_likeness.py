"""What pages show of similarities: all that was kept, pictures only where the folder has them, and
a damaged file by its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedskd_sim.errors import RunUnreadable
from fedskd_sim.learning.answers import write_arrays
from fedskd_sim.learning.similarities import FINAL, FOLDER, PICTURES, SAMPLES, SCHEMA
from fedskd_sim.results import similarities
from fedskd_sim.results.similarities import likeness, read_stop

HOSTS = ("aa", "bb", "cc")


def arrays(host: str, model: str, hop: int, **changes: Any) -> dict[str, object]:
    draw = np.random.default_rng(hop)
    matrices = {
        level: draw.uniform(-1, 1, (2, 2, size, size)).astype(np.float16)
        for level, size in (("batch", 16), ("pixel", 12), ("region", 4))
    }
    labels = np.array([0] * 8 + [1] * 8)
    right, wrong = labels, 1 - labels
    decisions = np.array([[right, right], [right, np.where(np.arange(16) < 3, wrong, right)]])
    return {
        "schema": SCHEMA, "host": host, "model": model, "round": 1, "hop": hop,
        "labels": labels, "decisions": decisions, "pixel_grid": np.array([3, 4]),
        "regions": np.array([1, 2, 5, 9]), "samples": np.arange(16),
        "agreement": np.ones((2, 16, 12), np.float16), **matrices, **changes,
    }  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Make a folder with a round of three hospitals."""
    for place, host in enumerate(HOSTS):
        for hop in (1, 2, 3):
            model = HOSTS[(place - hop) % 3]
            write_arrays(tmp_path / FOLDER / f"{host}.1-{hop}.npz", arrays(host, model, hop))
        final = {"schema": SCHEMA, "models": np.array(["bb", "aa", "cc"]), "cka": np.eye(3)}
        write_arrays(tmp_path / FOLDER / f"{host}.{FINAL}.npz", final)
    return tmp_path


def test_the_names_are_those_that_are_written() -> None:
    """The reader, which does without PyTorch, knows the writer's folders and form."""
    written = FOLDER, FINAL, PICTURES, SCHEMA
    assert written == tuple(
        getattr(similarities, name) for name in ("FOLDER", "FINAL", "PICTURES", "SCHEMA")
    )
    assert SAMPLES == 16


def test_stops_final_models_and_no_pictures(run: Path) -> None:
    """A report has stops spread over the run, with the pair of regions that differs most, and the
    matrix of final models; a page that lives has the newest stops first.
    """
    found = likeness(run, HOSTS)
    assert (found.of, len(found.stops), found.examples) == (9, 6, ())
    assert found.stops[0].title == "round 1, hop 1: cc at aa"
    assert [title.split(" level")[0] for title, _ in found.stops[0].drawings] == [
        "batch", "pixel", "region",
    ]  # fmt: skip
    stop = read_stop(run / FOLDER / "aa.1-1.npz")
    gap = stop.matrices["region"][0, 0] - stop.matrices["region"][0, 1]
    pair = np.unravel_index(np.argmax(np.abs(np.triu(gap, 1))), gap.shape)
    first, second = (stop.regions[place] for place in pair)
    assert f"regions {first} and {second}: {gap[pair]:+.2f}" in found.stops[0].words
    assert found.final is not None
    assert "aa, bb: 0 CKA" in found.final
    assert "aa, aa: 1 CKA" in found.final
    assert likeness(run, HOSTS, going=True).stops[0].title == "round 1, hop 3: cc at cc"
    assert not likeness(run / "nothing", HOSTS).anything


def test_regions_of_an_atlas_are_drawn_on_its_slices(run: Path) -> None:
    """Where final files have slices of an atlas, a stop has a drawing on them; regions that were
    left out, and what is outside, stay blank.
    """
    assert len(likeness(run, HOSTS).stops[0].drawings) == 3
    final = {"schema": SCHEMA, "models": np.array(["aa"]), "cka": np.eye(1)}
    atlas = np.arange(4 * 5 * 6).reshape(4, 5, 6) % 12
    slices = {f"slice_{axis}": atlas.take(2, axis) for axis in range(3)}
    write_arrays(run / FOLDER / f"aa.{FINAL}.npz", final | slices)
    title, drawn = likeness(run, HOSTS).stops[0].drawings[3]
    assert "three slices of the atlas" in title
    assert "<image" in drawn
    write_arrays(run / FOLDER / f"aa.{FINAL}.npz", final | {"slice_0": atlas})
    with pytest.raises(RunUnreadable, match="slice of the atlas"):
        likeness(run, HOSTS)


def test_pictures_are_drawn_where_the_folder_has_them(run: Path) -> None:
    """Right, and visitor right and resident wrong, of the newest visit; not while the run goes."""
    images = np.zeros((16, 200, 200, 3), np.uint8)
    write_arrays(run / PICTURES / "aa.npz", {"schema": SCHEMA, "images": images})
    titles = [one.title for one in likeness(run, HOSTS).examples]
    assert titles == ["aa, right (visitor bb)", "aa, visitor right, resident wrong (visitor bb)"]
    assert likeness(run, HOSTS, going=True).examples == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"round": 2},
        {"batch": np.zeros((2, 2, 16, 15))},
        {"pixel_grid": np.array([3, 5])},
        {"regions": np.array([1])},
        {"decisions": np.zeros((2, 16), int)},
        {"labels": np.array(["a", None])},
    ],
    ids=lambda given: next(iter(given)),
)
def test_a_damaged_file_is_named(run: Path, changes: dict[str, Any]) -> None:
    """Whatever is wrong with it, the error says which file it is, and what to do."""
    file = run / FOLDER / "aa.1-1.npz"
    np.savez(file, **arrays("aa", "cc", 1, **changes))
    with pytest.raises(RunUnreadable) as caught:
        likeness(run, HOSTS)
    assert caught.value.where
    assert caught.value.where.file == str(file)
    assert "remove it" in caught.value.fix
    file.unlink()
    file.symlink_to(run / FOLDER / "bb.1-1.npz")
    with pytest.raises(RunUnreadable):
        read_stop(file)
