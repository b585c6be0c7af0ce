"""A run that its scenario disturbs says so first, wherever its results are shown."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner

from fedskd_sim.cli import main

PLACEBO = """
name: shaky
hospitals: [{name: a, architecture: buffer}, {name: b, architecture: buffer}]
algorithm: {name: placebo}
"""
FAULTS = """
faults: [{hospital: a, what: slow, round: 1, hop: 1, factor: 2}]
links: [{from: a, to: b, loss: 0.1}]
"""
SAID = "disturbed on purpose: a: slow, factor 2, round 1 hop 1; links: "
POISONED = """
name: poisoned
data: {name: synthetic-skin, samples: 90, image_size: 16, classes: 3}
hospitals: [{name: a, architecture: cnn-plain}, {name: b, architecture: cnn-plain}]
algorithm: {name: circulation, rounds: 1}
faults: [{hospital: a, what: poison, round: 1, hop: 1, factor: 1e30}]
"""


def call(*arguments: object) -> str:
    """Call the program in this process; it must end well."""
    ended = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert ended.exit_code == 0, ended.output
    return ended.output


def tables(folder: Path) -> list[dict[str, str]]:
    """Export a run and read the rows of its hops."""
    call("export", folder, "--format", "csv", "--out", folder / "tables")
    return [*csv.DictReader((folder / "tables" / "hops.csv").read_text("utf-8").splitlines())]


def test_what_disturbs_a_run_is_the_first_that_it_says(
    tmp_path: Path, scenario_file: Callable
) -> None:
    """On the page, in text and JSON, at the end of `launch`, in `status` and in exported tables."""
    run = tmp_path / "run"
    last = call("launch", scenario_file(PLACEBO + FAULTS), "--on", "memory", "--out", run)
    assert f"; {SAID}" in last.splitlines()[-1]
    assert any(line.startswith(SAID) for line in call("status", run).splitlines())
    said = f"D{SAID[1:]}"
    assert (run / "report.txt").read_text("utf-8").startswith(said)
    page = (run / "report.html").read_text("utf-8").split("<h1>", 1)[1]
    head = page.partition("</header>")[0]
    assert head.index("ended well") < head.index(said)
    assert json.loads((run / "report.json").read_text("utf-8"))["disturbed"].startswith(SAID)
    assert all(row["disturbed"].startswith(SAID) for row in tables(run))


def test_a_run_that_nothing_disturbs_has_no_word_of_it(
    tmp_path: Path, scenario_file: Callable
) -> None:
    """Neither its reports nor its tables, which keep their columns."""
    run = tmp_path / "run"
    said = call("launch", scenario_file(PLACEBO), "--on", "memory", "--out", run)
    said += call("status", run)
    said += "".join((run / f"report.{form}").read_text("utf-8") for form in ("txt", "html"))
    assert "disturbed on purpose" not in said
    assert not any("disturbed" in row for row in tables(run))


def test_sessions_that_our_own_poison_undoes_name_it(
    tmp_path: Path, scenario_file: Callable
) -> None:
    """Not only that a loss was not finite; one that was undone before it is not counted."""
    run = tmp_path / "run"
    call("launch", scenario_file(POISONED), "--on", "memory", "--out", run)
    report = json.loads((run / "report.json").read_text("utf-8"))
    assert report["counts"]["rolled_back"] > 0
    notes = " ".join(report["notes"])
    assert "poison of the scenario's own" in notes
    assert "a: poison, factor 1e+30, round 1 hop 1" in notes
