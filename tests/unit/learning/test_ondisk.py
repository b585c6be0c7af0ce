"""Samples on a disk instead of in memory: the same results, and few samples in memory at once."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import pytest
from PIL import Image
from test_pictures import rows, write

from fedskd_sim.errors import OutputNotWritable
from fedskd_sim.learning.data import load
from fedskd_sim.learning.offers import OWN as OFFERS
from fedskd_sim.learning.ondisk import AT_A_TIME, ahead, on_disk
from fedskd_sim.scenario import find_idle
from fedskd_sim.scenario import load as load_scenario

RESULTS = ("records", "weights", "predictions")
PICTURES = """\
name: mine
data: {name: image-table, file: cases.csv, images: pictures, size: 16}
"""
OWN = """\
name: mine
code: [volumes.py]
data: {name: own, reader: my-volumes}
"""
REST = """\
hospitals:
  - {name: a, architecture: ARCHITECTURE, data: {site: north}}
  - {name: b, architecture: ARCHITECTURE, data: {site: south}, resources: {samples: WHERE}}
algorithm: {name: fedskd, rounds: 1}
training: {epochs: 1, warmup_epochs: 1, batch_size: 6}
prediction: {model: averaged, ensemble: true}
"""
READER = """\
import numpy as np
from fedskd_sim import Cohort, reader

@reader("my-volumes")
def volumes(folder=None):
    labels = np.arange(140) % 2

    def samples(rows):
        shape = (16, 16, 16)
        drawn = [np.random.default_rng(int(row)).normal(labels[row], 1, shape) for row in rows]
        return np.stack(drawn).astype(np.float32)

    sites = np.where(np.arange(140) < 40, "north", "south")
    return Cohort(labels=labels, sites=sites, samples=samples)
"""


def pictures(folder: Path) -> str:
    """Write images of noise, and return what the scenario says of them."""
    table = [{**row, "file": f"{row['file'].partition('.')[0]}.png"} for row in rows()]
    write(folder / "cases.csv", table)
    draw = np.random.default_rng(1)
    for row in table:
        path = folder / "pictures" / row["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (16, 16, 3), np.uint8)).save(path)
    return PICTURES + REST.replace("ARCHITECTURE", "cnn-plain")


def volumes(folder: Path) -> str:
    """Write a reader of volumes, and return what the scenario says of them."""
    (folder / "volumes.py").write_text(READER, encoding="utf-8")
    return OWN + REST.replace("ARCHITECTURE", "vol-plain")


def results(run: Path) -> dict[str, bytes]:
    return {
        str(one.relative_to(run)): one.read_bytes()
        for kind in RESULTS
        for one in sorted((run / kind).rglob("*"))
        if one.is_file()
    }


@pytest.mark.parametrize("make", [pictures, volumes])
def test_samples_on_a_disk_give_the_same_bytes(
    make: Callable[[Path], str], tmp_path: Path, run: Callable[..., Path]
) -> None:
    """Records, weights and predictions are those of a run from memory."""
    text, found = make(tmp_path), []
    for where in ("memory", "disk"):
        path = tmp_path / f"{where}.yaml"
        path.write_text(text.replace("WHERE", where), encoding="utf-8")
        found.append(results(run(path, data=tmp_path)))
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) > len(RESULTS)
    assert found[0] == found[1]


def test_few_samples_are_in_memory_at_once(tmp_path: Path) -> None:
    """A reader is asked for a few at a time, and what it gave is a map of a file without a name."""
    text = volumes(tmp_path).replace("WHERE", "disk")
    path = tmp_path / "disk.yaml"
    path.write_text(text, encoding="utf-8")
    asked = list[int]()

    def take(some: np.ndarray) -> np.ndarray:
        asked.append(len(some))
        return some[:, None].astype(np.float32) * np.ones(5, np.float32)

    held = on_disk(take, np.arange(3, 203))
    assert isinstance(held, np.memmap)
    assert (held == np.arange(3, 203)[:, None]).all()
    assert max(asked) == AT_A_TIME
    assert sum(asked) == 201

    loaded = load_scenario(path)
    OFFERS.use(loaded.code)
    data = load(loaded.scenario, "b", None, "cpu")
    assert all(split.on_disk for split in (data.train, data.validation, data.test))
    maps = Path("/proc/self/maps")
    if maps.exists():
        mapped = maps.read_text(encoding="utf-8").splitlines()
        assert any(gettempdir() in line and line.endswith("(deleted)") for line in mapped)


def test_a_disk_without_room_is_told() -> None:
    """Who cannot write so much learns how much it is and what helps."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OutputNotWritable, match=r"70 samples take 70,000 bytes") as told:
            on_disk(lambda some: np.zeros((len(some), 1000), np.uint8), np.arange(70))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "TMPDIR" in told.value.fix


def test_the_next_is_made_ahead_and_the_order_stays() -> None:
    """While one batch is in use the next is made, and who ends early leaves no thread."""
    begun, threads = [threading.Event() for _ in range(4)], threading.active_count()

    def make(number: int) -> int:
        begun[number].set()
        return number

    found = ahead(make, range(4))
    assert next(found) == 0
    assert begun[1].wait(60)
    assert next(found) == 1
    found.close()
    assert threading.active_count() == threads
    assert [*ahead(str, range(3))] == ["0", "1", "2"]


def test_samples_that_are_in_memory_anyway_make_the_key_idle(tmp_path: Path) -> None:
    """Made-up samples, pooled ones, and those among which canaries are planted."""
    text = pictures(tmp_path).replace("WHERE", "disk")
    whys = []
    for more in ("", "audit: {canaries: 4}\n"):
        path = tmp_path / "some.yaml"
        path.write_text(text + more, encoding="utf-8")
        whys.append([one.why for one in find_idle(load_scenario(path).scenario)])
    path.write_text(text.replace("name: fedskd, rounds: 1", "name: pooled"), encoding="utf-8")
    whys.append([one.why for one in find_idle(load_scenario(path).scenario)])
    path.write_text(
        text.replace(PICTURES, "name: mine\ndata: {name: synthetic-skin}\n")
        .replace(", data: {site: north}", "").replace(", data: {site: south}", ""),
        encoding="utf-8",
    )  # fmt: skip
    whys.append([one.why for one in find_idle(load_scenario(path).scenario)])
    told = [[why.partition(" are in ")[0] for why in some if "in memory" in why] for some in whys]
    assert told == [
        [], ["training samples with canaries"], ["pooled samples"], ["samples that are made up"],
    ]  # fmt: skip
