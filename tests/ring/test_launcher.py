"""What the launcher of processes leaves to them: it imports no PyTorch, and says all the same
what is wrong.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedskd_sim.errors import HospitalCrashed, OneClassOnly
from fedskd_sim.operate.checks import of_learning
from fedskd_sim.runtimes.commands import ask
from fedskd_sim.scenario import examine

TINY = """\
name: tiny
data: {name: synthetic-skin, samples: 40, image_size: 16}
hospitals:
  - {name: a, architecture: {name: cnn-plain, options: {width: 8}}}
  - {name: b, architecture: {name: cnn-residual, options: {width: 8}}}
algorithm: {name: local, rounds: 1}
training: {warmup_epochs: 1}
"""
PROGRAM = """
import json, sys
from fedskd_sim.cli import main

if __name__ == "__main__":
    try:
        main(sys.argv[1:], standalone_mode=False)
        code = 0
    except SystemExit as end:
        code = end.code
    print(json.dumps([code, sorted({"torch", "torchvision", "sympy"} & {*sys.modules})]))
"""


def launched(path: Path) -> tuple[int, list[str], str]:
    """Launch a scenario; gives the exit code, what the launcher had imported, and what it wrote
    to standard error.
    """
    program = path.parent / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), "launch", str(path), "--out", str(path.parent / "out")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=900, check=False, cwd=path.parent
    )
    code, imported = json.loads(done.stdout.splitlines()[-1])
    return code, imported, done.stderr


def test_a_launcher_of_processes_imports_no_pytorch(scenario_file: Callable) -> None:
    """From the checks to the proof of the weights, PyTorch is only where the hospitals are
    forked from.
    """
    path = scenario_file(TINY)
    code, imported, said = launched(path)
    assert (code, imported) == (0, []), said
    assert {one.stem for one in path.parent.glob("out/weights/*")} == {"a", "b"}


def test_what_another_process_finds_is_said_as_by_this_one(scenario_file: Callable) -> None:
    """What is wrong with models and data has its line, value, fix and exit code, and no run
    folder is made.
    """
    path = scenario_file(
        TINY.replace(
            "samples: 40", "samples: 10, classes: 2, label_skew: 1.0, site_shift: 0.1"
        ).replace("b,", "c,")
    )
    code, imported, said = launched(path)
    lines = [line for line in said.splitlines() if "fix" not in line]
    assert (imported, (path.parent / "out").exists()) == ([], False), said
    assert code == OneClassOnly.exit_code, said
    assert all(f"{path}:" in line for line in lines), said


def test_a_check_that_dies_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The death of the process that checks is an error with its cause, and what it says is said
    of this folder.
    """
    monkeypatch.chdir(tmp_path)
    assert ask(os.getcwd) == str(tmp_path)
    with pytest.raises(HospitalCrashed, match="died with exit code 9"):
        ask(os._exit, 9)


def test_what_is_said_on_the_way_to_an_answer_is_heard_here(scenario_file: Callable) -> None:
    """Whose data another process reads is told before each, in order, and the answer comes."""
    rest, heard = examine(scenario_file(TINY)).rest, list[str]()
    assert ask(of_learning, rest, None, tell=heard.append) == ([], [])
    assert heard == ["a", "b"]
