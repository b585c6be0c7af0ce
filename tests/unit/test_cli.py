"""The command line as a user meets it, and the table of errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import fedskd_sim.errors
from fedskd_sim import __version__
from fedskd_sim.cli import main
from fedskd_sim.errors import FedskdError, all_errors, rebuilt
from fedskd_sim.records import Measure, Record, read_records, to_line
from fedskd_sim.seeds import seed

SCENARIOS = Path(__file__).parent.parent.parent / "scenarios"
FLAGS = {
    "validate": {"scenario", "data", "schema"},
    "launch": {"scenario", "runtime", "out", "data"},
    "report": {"run", "form"},
    "models": set(),
    "controller": {"scenario", "run", "out", "bind", "keys"},
    "hospital": {"scenario", "name", "run", "out", "bind", "controller_at", "keys", "metrics", "data"},
}


def call(*arguments: object) -> click.testing.Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_line_only_says_where_a_scenario_runs() -> None:
    """Commands and flags are pinned: what is learned stands in the scenario, so a new flag needs a reason here."""
    found = {name: {parameter.name for parameter in command.params} for name, command in main.commands.items()}
    assert found == FLAGS


@pytest.mark.parametrize("command", [[], *([name] for name in ("validate", "launch", "report", "models"))])
def test_help_has_an_example(command: list[str]) -> None:
    """Every command a person uses shows how."""
    done = call(*command, "--help")
    assert done.exit_code == 0
    assert "Example" in done.output
    assert "fedskd-sim" in done.output


def test_the_help_lists_every_exit_code() -> None:
    """The table in the help has every error's number."""
    done = call("--help").output
    for error in all_errors():
        if not error.__subclasses__():
            assert re.search(rf"^\s*{error.exit_code}  \S", done, re.MULTILINE), error


def test_exit_codes_are_unique_and_drawn_in_the_tree() -> None:
    """No two kinds of error share a number, and the tree at the top of errors.py shows each with its number."""
    leaves = [error for error in all_errors() if not error.__subclasses__()]
    assert len({error.exit_code for error in leaves}) == len(leaves)
    for error in leaves:
        assert re.search(rf"-- {error.__name__} +{error.exit_code}  ", fedskd_sim.errors.__doc__ or ""), error
        assert type(rebuilt(error.exit_code, "text", fix="fix")) is error


def test_errors_know_nothing_of_click_or_zmq() -> None:
    """An error reads as place, key and value on one line and the fix on the next."""
    error = FedskdError("3 is wrong", fix="use 4", key=("a", 1, "b"), where=fedskd_sim.errors.Where("x.yaml", 7))
    assert str(error) == "x.yaml:7: a.1.b: 3 is wrong\n  fix: use 4"


def test_version_schema_and_models() -> None:
    """Three commands that only print."""
    assert __version__ in call("--version").output
    assert '"additionalProperties": false' in call("validate", "--schema").output
    assert "cnn-plain" in call("models").output


@pytest.mark.parametrize("arguments", [["launch"], ["validate"], ["launch", "x.yaml", "--on", "moon"], ["fly"], ["report"]])
def test_wrong_use_is_exit_code_2(arguments: list[str]) -> None:
    """Click's usage errors keep their code."""
    assert call(*arguments).exit_code == 2


@pytest.mark.parametrize("command", ["validate", "launch"])
def test_a_bad_scenario_starts_nothing_and_makes_no_folder(command: str, tmp_path: Path) -> None:
    """The error goes to standard error with file, line and fix, and nothing exists afterwards."""
    path = tmp_path / "bad.yaml"
    path.write_text("name: x\nseed: -1\nhospitals: []\nalgorithm: {name: placebo}\n")
    done = call(command, path, *(["--out", tmp_path / "out"] if command == "launch" else []))
    assert done.exit_code == 12
    assert f"{path}:2: seed: -1" in done.stderr
    assert "fix:" in done.stderr
    assert not (tmp_path / "out").exists()


def test_places_that_cannot_hold_a_run(tmp_path: Path) -> None:
    """A folder with something in it, a file in the way and a place nobody can write to have their exit codes."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("keep")
    (tmp_path / "file").write_text("")
    for place, code in ((tmp_path / "full", 32), (tmp_path / "file", 31), (tmp_path / "file" / "under", 31), (Path("/proc/x"), 31)):
        done = call("launch", SCENARIOS / "placebo-ok.yaml", "--on", "memory", "--out", place)
        assert done.exit_code == code, done.output
        assert str(place) in done.stderr
    assert (tmp_path / "full" / "precious").read_text() == "keep"


def test_launch_and_report_agree(tmp_path: Path) -> None:
    """`report` computes from the records what `launch` printed, as text and as JSON."""
    launched = call("launch", SCENARIOS / "placebo-ok.yaml", "--on", "memory", "--out", tmp_path / "run")
    assert launched.exit_code == 0, launched.output
    again = call("report", tmp_path / "run")
    assert again.output.splitlines()[1:-1] == launched.output.splitlines()[-len(again.output.splitlines()) + 1 : -1]
    assert '"hospitals"' in call("report", tmp_path / "run", "--format", "json").output


def test_report_of_something_else_is_an_error(tmp_path: Path) -> None:
    """A folder that is no run, and damaged records, have exit code 34; the damaged line is named."""
    assert call("report", tmp_path).exit_code == 34
    call("launch", SCENARIOS / "placebo-ok.yaml", "--on", "memory", "--out", tmp_path / "run")
    file = tmp_path / "run" / "records" / "east.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:2], lines[2][:40], *lines[3:]]))
    done = call("report", tmp_path / "run")
    assert done.exit_code == 34
    assert f"{file}:3" in done.stderr


def test_shell_completion_works(cli: Callable) -> None:
    """The shells' completion scripts come from the program itself."""
    done = cli(env={**os.environ, "_FEDSKD_SIM_COMPLETE": "bash_source"})
    assert "_FEDSKD_SIM_COMPLETE=bash_complete" in done.stdout


def test_validating_does_not_import_what_it_does_not_need() -> None:
    """Without learning neither PyTorch nor the drawing library is imported."""
    command = ["validate", str(SCENARIOS / "placebo-ok.yaml")]
    code = f"import sys; from fedskd_sim.cli import main; main({command}, standalone_mode=False);"
    code += "sys.exit(any(name in sys.modules for name in ('torch', 'matplotlib', 'zmq')))"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_records_survive_their_file_exactly(tmp_path: Path) -> None:
    """Floats round-trip bit for bit, and measures add up as sums."""
    measure = Measure(0.1 + 0.2, 3.0)
    record = Record("s", 1, "visit", 1, 2, "a", "b", "cnn", "trained", measures={"accuracy": measure})
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "a.jsonl").write_text(to_line(record) + "\n")
    assert read_records(tmp_path) == [record]
    assert measure.plus(Measure(0.7, 1.0)).mean == (0.1 + 0.2 + 0.7) / 4


def test_seeds_are_named() -> None:
    """The same name gives the same seed; any other part of the name another; all fit 63 bits."""
    names = [(1, "p", "a"), (2, "p", "a"), (1, "q", "a"), (1, "p", "b"), (1, "p", "a", 1), (1, "p", "a1"), (1, "p", "a", 1, 1)]
    seeds = [seed(*name) for name in names]
    assert seeds == [seed(*name) for name in names]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= value < 2**63 for value in seeds)
