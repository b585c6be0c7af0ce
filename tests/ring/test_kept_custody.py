"""Runs that version 0.1.0 has left in their midst, one stopped and one killed: this version goes on
with them to their end, or says what differs and leaves all as it is.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fates import called, results

from fedskd_sim.errors import CustodyForeign

KEPT = Path(__file__).parents[1] / "kept" / "0.1.0"
OTHERWISE = {"ATEN_CPU_CAPABILITY": "default"}
"""A processor that PyTorch computes on with other instructions than those that custody names."""

pytestmark = pytest.mark.usefixtures("temporary")


@pytest.fixture(params=["stopped", "killed"])
def left(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a run in its midst."""
    return copied(request.param, tmp_path)


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of the programs that a test calls."""
    return dict(os.environ)


def copied(name: str, folder: Path) -> Path:
    """Copy a run of version 0.1.0, as if it had been launched here."""
    out = Path(shutil.copytree(KEPT / name, folder / "run"))
    place = json.loads((out / "place.json").read_text(encoding="utf-8"))
    place |= {"machine": platform.node(), "boot": ""}
    (out / "place.json").write_text(json.dumps(place), encoding="utf-8")
    return out


def content(run: Path) -> dict[str, bytes]:
    """Give all that must stay where a run is not gone on with: records and commits."""
    files = [*run.glob("records/*"), *run.glob("custody/*/commit-*.json")]
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


def test_a_run_of_an_earlier_version_is_gone_on_with(left: Path, inside: Callable) -> None:
    """Whatever differs, with --anyway it comes to its end and is whole, and what was there is the
    beginning of what is there then.
    """
    before = content(left)
    done = inside("resume", left, "--anyway")
    assert done.returncode == 0, done.stderr
    assert "verified: whole" in done.stderr + done.stdout
    assert inside("verify", left).returncode == 0
    for name in (name for name in before if name.startswith("records/")):
        kept = before[name][: length_in_custody(before, Path(name).stem)]
        assert kept, name
        assert (left / name).read_bytes().startswith(kept), name


def length_in_custody(found: dict[str, bytes], host: str) -> int:
    """Give how many bytes of a hospital's records its newest commit names."""
    newest = max(
        name for name in found if name.startswith(f"custody/{host}/") and name.endswith(".json")
    )
    return int(json.loads(found[newest].partition(b"\n")[2])["commit"]["records"])


def test_what_moves_only_ends_with_the_bytes_of_a_run_that_nobody_stopped(
    tmp_path: Path, inside: Callable
) -> None:
    """A placebo that version 0.1.0 began and this one ends is the one that this one does alone."""
    run, alone = copied("stopped", tmp_path), tmp_path / "alone"
    assert inside("resume", run, "--anyway").returncode == 0
    done = inside("launch", run / "scenario.yaml", "--on", "memory", "--out", alone)
    assert done.returncode == 0, done.stderr
    assert results(run) == results(alone)


def test_what_would_compute_otherwise_is_named(tmp_path: Path, environment: dict[str, str]) -> None:
    """Custody of models that learn names the arithmetic; with another one nothing is gone on with
    unless somebody says so, and nothing is changed.
    """
    run = copied("killed", tmp_path)
    before = content(run)
    done = called({**environment, **OTHERWISE}, "resume", run)
    assert done.returncode == CustodyForeign.exit_code, done.stderr
    assert "was kept under other circumstances" in done.stderr
    assert "vector instructions was AVX512 and is " in done.stderr
    assert "--anyway" in done.stderr
    assert content(run) == before
