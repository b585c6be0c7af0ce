"""Keys that are given in vain: what changes nothing is listed, what is listed changes nothing, and
whoever checks or reads a run is told of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from fedskd_sim.cli import main
from fedskd_sim.runtimes.base import Order
from fedskd_sim.runtimes.folder import subfolders
from fedskd_sim.runtimes.memory import MemoryRuntime
from fedskd_sim.scenario import (
    BUILT_IN,
    Instruments,
    Prediction,
    Training,
    find_idle,
    load,
    offered_names,
)
from fedskd_sim.scenario.offered import keys_offered

RESULTS = ("records", "weights", "predictions", "similarity", "pictures")
ANOTHER: Mapping[str, Any] = MappingProxyType(
    {
        "visits": 1, "batches": 1, "pixel_grid": 2, "region_grid": 2, "recorded_gib": 1.0,
        "clip": 0.01, "averaging_weight": 0.9, "ramp": 0.9,
        "label_smoothing": 0.1, "patience": 1, "betas": (0.8, 0.9), "milestones": (0.4,),
        "architecture": {"name": "cnn-plain", "options": {"width": 6}},
    }
)  # fmt: skip
"""Another value of a key where half of it, or one more, is none or makes no difference."""
RARE = ("max_rollbacks", "memory_format", "keep_hops")
"""What only shows in a session that fails, in time and memory, or in what is kept of sessions."""
MEASURED: Mapping[str, Any] = MappingProxyType(
    {
        "instruments.changes": True, "instruments.probe": True, "prediction.model": "last",
        "prediction.averaging_weight": 0.9, "training.warmup_epochs": 2,
    }
)  # fmt: skip
"""Keys outside of ``algorithm`` whose effect depends on it."""


class Situation(NamedTuple):
    """What a scenario holds besides its algorithm, and the beginnings of the keys to change."""

    base: Mapping[str, Any]
    keys: tuple[str, ...]


SIMILARITY = "algorithm.similarity"
START = ("algorithm.reconcile", "algorithm.traveller_start", "prediction.model")
SHAPES = ("training.augment", f"{SIMILARITY}.region_grid")
SITUATIONS: Mapping[str, Situation] = MappingProxyType(
    {
        "off": Situation(
            {f"{SIMILARITY}.{one}": 0.0 for one in ("batch", "pixel", "region")},
            tuple(f"{SIMILARITY}.{one}" for one in ("dist", "batch_", "pixel_t", "to_", "ramp")),
        ),
        "untaught": Situation(
            {f"{SIMILARITY}.to_{one}": 0.0 for one in ("visitor", "resident")},
            tuple(f"{SIMILARITY}.{one}" for one in ("batch", "region", "ramp")),
        ),
        "still": Situation({"algorithm.resident_every": 0}, (f"{SIMILARITY}.to_",)),
        "sequential": Situation({"algorithm.schedule.mode": "sequential"}, START),
        "replaces": Situation({"algorithm.reconcile": "replace"}, START[1:]),
        "two tracks": Situation({"algorithm.reconcile": "two_track"}, START[1:]),
        "averaged": Situation({"prediction.model": "averaged"}, ("prediction.averaging_w",)),
        "connectivity": Situation(
            {"data": {"name": "synthetic-roi", "samples": 20, "regions": 8}, "has": "roi-mlp"},
            SHAPES,
        ),
        "volumes": Situation(
            {
                "data": {"name": "synthetic-volumes", "samples": 10, "regions": 4},
                "has": "vol-separable",
            },
            SHAPES,
        ),
    }
)


class Bench:
    """Runs tiny scenarios in memory, those that are alike once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.known = folder, dict[str, tuple[set[str], dict[str, bytes]]]()

    def run(self, changes: Mapping[str, Any]) -> tuple[set[str], dict[str, bytes]]:
        """Give what a scenario lists as idle, and its results byte for byte."""
        text = json.dumps(scenario(changes))
        if text not in self.known:
            (self.folder / "tiny.yaml").write_text(text)
            loaded = load(self.folder / "tiny.yaml")
            run = self.folder / str(len([*self.folder.iterdir()]))
            run.mkdir()
            subfolders(run)
            runtime = MemoryRuntime()
            runtime.launch(Order(loaded, "r", run))
            runtime.wait(lambda _: None)
            files = [file for name in RESULTS for file in run.glob(f"{name}/*")]
            found = {str(file.relative_to(run)): file.read_bytes() for file in files}
            listed = {".".join(map(str, one.key)) for one in find_idle(loaded.scenario)}
            self.known[text] = listed, found
        return self.known[text]

    def compare(self, base: Mapping[str, Any], changes: Iterator[tuple[str, Any]]) -> None:
        """Change keys one at a time: the same results are those of a key that is listed."""
        for key, value in changes:
            others = 3 if key.startswith("algorithm.schedule") else 2
            usual = {"count": others, "algorithm.rounds": 1, **base}
            listed, found = self.run({**usual, key: value})
            assert (found == self.run(usual)[1]) == (key in listed), (key, value)


def scenario(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Write tiny hospitals, ``count`` of them, of the architecture that they ``has``, and over them
    keys with dots.
    """
    given: dict[str, Any] = {
        "name": "tiny",
        "data": {"name": "synthetic-skin", "samples": 20, "image_size": 16, "classes": 2},
        "training": {"warmup_epochs": 1, "batch_size": 6},
    }
    left = dict(changes)
    names, kind = "abc"[: left.pop("count", 2)], left.pop("has", None)
    has = kind or {"name": "cnn-plain", "options": {"width": 4}}
    given["hospitals"] = [{"name": name, "architecture": has} for name in names]
    for key, value in left.items():
        *path, last = key.split(".")
        part = given
        for name in path:
            part = part.setdefault(name, {})
        part[last] = value
    return given


def others(part: BaseModel, under: str) -> Iterator[tuple[str, Any]]:
    """Give every key of a part, and of the parts in it, with each other value to try."""
    schema = type(part).model_json_schema()["properties"]
    for name in type(part).model_fields:
        value, key = getattr(part, name), f"{under}.{name}"
        if name in (
            "name",
            "rounds",
            "loss",
            "options",
            *RARE,
        ):
            continue
        if isinstance(value, BaseModel):
            yield from others(value, key)
        elif name in ANOTHER:
            yield key, ANOTHER[name]
        elif "enum" in schema[name]:
            yield key, next(one for one in schema[name]["enum"] if one != value)
        elif isinstance(value, bool):
            yield key, not value
        else:
            yield key, value + 1 if isinstance(value, int) else value / 2 or 1.0


def of_fedskd() -> Iterator[tuple[str, Any]]:
    """Give every key that says how FedSKD learns and is measured."""
    yield from others(BUILT_IN["fedskd"], "algorithm")
    training = others(Training(warmup_epochs=1, batch_size=6), "training")
    yield from (one for one in training if not one[0].startswith("training.optimiser"))
    yield from others(Instruments(), "instruments")
    yield from others(Prediction(), "prediction")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("idle"))


@pytest.mark.parametrize("label", sorted({*BUILT_IN, *offered_names()} - {"traveller-first"}))
def test_a_key_changes_what_a_run_leaves_or_is_listed(label: str, bench: Bench) -> None:
    """Whatever key of an algorithm is changed, and whatever of training and measuring depends on
    it: results differ, or the key is listed as one without effect, and never both.
    """
    own = others(BUILT_IN.get(label) or keys_offered(label)(name=label), "algorithm")
    rest = (one for one in own if not one[0].startswith("algorithm.schedule"))
    bench.compare({"algorithm.name": label}, of_fedskd() if label == "fedskd" else rest)
    if label not in ("circulation", "mutual"):  # which FedSKD's learner carries out
        bench.compare({"algorithm.name": label}, iter(MEASURED.items()))


@pytest.mark.parametrize("which", SITUATIONS)
def test_what_a_key_does_depends_on_others(which: str, bench: Bench) -> None:
    """The same holds beside other keys, on which it depends whether one has an effect."""
    base, keys = SITUATIONS[which]
    bench.compare(
        {"algorithm.name": "fedskd", **base},
        (one for one in of_fedskd() if one[0].startswith(keys) and one[0] not in base),
    )


def test_whoever_checks_or_reads_a_run_is_told(tmp_path: Path) -> None:
    """``validate`` names file and line of each key without effect, those of a variant too, and the
    page of a run lists them; keys that have an effect are not named.
    """
    file, run = tmp_path / "in-vain.yaml", tmp_path / "run"
    file.write_text(IN_VAIN)
    said = CliRunner().invoke(main, ["validate", str(file)])
    assert said.exit_code == 0, said.output
    told = [line for line in said.output.splitlines() if "has no effect" in line]
    assert [line.partition(" has no effect: ")[0] for line in told] == [
        f"Note: {file}:{line}: {key}" for line, key in LINES
    ]
    done = CliRunner().invoke(main, ["launch", str(file), "--on", "memory", "--out", str(run)])
    assert done.exit_code == 0, done.output
    page = (run / "report.html").read_text(encoding="utf-8")
    assert [f"line {line}: {key} has no effect" in page for line, key in LINES] == [True] * 5


IN_VAIN = """\
name: in-vain
hospitals:
  - {name: a, architecture: cnn-plain}
  - {name: b, architecture: cnn-plain}
algorithm: {name: placebo}
training: {epochs: 3}
network:
  inbox: 3
  port: 7000
on_loss:
  name: wait
  model: retires
faults: [{hospital: a, what: slow, factor: 2, round: 1, seed: 4}]
variants:
  other: {algorithm: {name: fedskd, schedule: {mode: sequential}, reconcile: select}}
"""
LINES = (
    (6, "training"),
    (9, "network.port"),
    (12, "on_loss.model"),
    (13, "faults.0.seed"),
    (15, "variants.other.algorithm.reconcile"),
)
