"""Runs that have finished, side by side."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_report import folder, story

from fedskd_sim.api import load
from fedskd_sim.cli import main
from fedskd_sim.errors import FedskdError, InvalidValue, RunUnreadable
from fedskd_sim.observe.outcome import Outcome, note
from fedskd_sim.records import Measure
from fedskd_sim.results.comparison.earlier import compare_runs

EQUAL = ("algorithm={name: local, rounds: 16}",)
"""Sixteen times two epochs alone are as much as two rounds of four stops of two models."""


def run(place: Path, *changes: str, seed: int = 1, better: float = 0.0) -> Path:
    """Make the folder of a run that has finished."""
    scenario = load("quickstart", *changes, f"seed={seed}").scenario
    text = json.dumps(scenario.model_dump(mode="json", by_alias=True))
    names, share = scenario.members, 0.5 + better + 0.01 * seed
    place.mkdir(parents=True)
    found = [
        replace(one, measures=dict.fromkeys(one.measures, Measure(share, 1)))
        for one in story(names)
    ]
    folder(place, found, names, text)
    (place / "report.json").write_text(json.dumps({"complete": True}), encoding="utf-8")
    return place


def pair(place: Path, seeds: tuple[int, ...] = (1, 2)) -> list[Path]:
    """Make the runs of two methods at equal work, the second better by ten points."""
    return [
        run(place / f"{name}-{seed}", *changes, seed=seed, better=better)
        for name, changes, better in (("ring", (), 0.0), ("alone", EQUAL, 0.1))
        for seed in seeds
    ]


def test_finished_runs_are_paired_by_seed(tmp_path: Path) -> None:
    """Methods are named by their algorithm, differences are those of the records, and the page
    leads to every run.
    """
    runs, out = pair(tmp_path), tmp_path / "out"
    called = CliRunner().invoke(main, ["compare", *map(str, runs), "--out", str(out), "--json"])
    assert called.exit_code == 0, called.output
    plain = json.loads(called.stdout)
    assert plain == json.loads((out / "compare.json").read_text(encoding="utf-8"))
    assert [one["label"] for one in plain["methods"]] == ["fedskd", "local"]
    assert (plain["control"], plain["seeds"]) == ("fedskd", [1, 2])
    found = plain["methods"][1]["differences"]["auc"]["mean"]
    assert found["mean"] == pytest.approx(0.1)
    links = re.findall(r'<a href="([^"]+)"', (out / "compare.html").read_text(encoding="utf-8"))
    assert [(out / link).resolve().parent for link in links] == runs
    again = CliRunner().invoke(main, ["compare", *map(str, runs), "--out", str(out)])
    assert (again.exit_code, (out / "compare.txt").read_text(encoding="utf-8") in again.output) == (
        0,
        True,
    )


def test_methods_of_one_algorithm_are_named_by_their_folders(tmp_path: Path) -> None:
    """What else differs is said; the control is named by its folder, too."""
    runs = [run(tmp_path / "slow"), run(tmp_path / "fast", "training.optimiser.learning_rate=0.5")]
    found = compare_runs(runs, str(tmp_path / "fast")).table
    assert ([row.method.label for row in found.rows], found.control) == (["slow", "fast"], "fast")
    said = "slow also differs from fast in training.optimiser.learning_rate."
    assert said in found.notes


def test_unequal_work_is_refused_with_its_size(tmp_path: Path) -> None:
    """--anyway compares it, and a note says so."""
    runs = [run(tmp_path / "ring"), run(tmp_path / "alone", "algorithm={name: local, rounds: 4}")]
    with pytest.raises(InvalidValue, match=r"not equal; .* beside those of fedskd: local -\d+%"):
        compare_runs(runs)
    assert any("work of local" in note for note in compare_runs(runs, anyway=True).table.notes)


@pytest.mark.parametrize(
    ("changes", "seed", "words"),
    [
        ((*EQUAL, "data.samples=77"), 1, "differ in data"),
        ((*EQUAL, "instruments.evaluate_on=validation"), 1, "differ in instruments.evaluate_on"),
        (EQUAL, 3, "share no seed (fedskd: 1; local: 3)"),
        ((), 2, "2 runs of one method"),
        ((), 1, "one method"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    tmp_path: Path, changes: tuple[str, ...], seed: int, words: str
) -> None:
    """The error says what differs."""
    runs = [run(tmp_path / "one"), run(tmp_path / "other", *changes, seed=seed)]
    with pytest.raises(InvalidValue, match=re.escape(words)) as caught:
        compare_runs(runs)
    assert caught.value.fix


def test_a_run_that_has_not_finished_is_refused(tmp_path: Path) -> None:
    """So is a folder that is no run, a run that is given twice, and a control that is not there."""
    runs = pair(tmp_path, (1,))
    cases: list[tuple[list[Path], str, type[FedskdError], str]] = [
        ([*runs, tmp_path], "", RunUnreadable, "is not a run folder"),
        ([*runs, runs[0]], "", InvalidValue, "are both fedskd with seed 1"),
        (runs, "else", InvalidValue, "'else' is not among fedskd, local"),
    ]
    for given, control, kind, words in cases:
        with pytest.raises(kind, match=words):
            compare_runs(given, control)
    (runs[1] / "report.json").unlink()
    with pytest.raises(RunUnreadable, match="has not finished"):
        compare_runs(runs)


@pytest.mark.parametrize("state", ["stopped", "failed", "going", "ended well"])
def test_a_complete_report_is_not_yet_a_run_that_ended_well(tmp_path: Path, state: str) -> None:
    """A run that was stopped or failed after its last record, in a cluster with its weights still
    there, is not taken for one that was proven.
    """
    runs = pair(tmp_path, (1,))
    note(runs[1], Outcome(state, 1.0))  # type: ignore[arg-type]
    if state == "ended well":
        assert len(compare_runs(runs).folders) == len(runs)
        return
    with pytest.raises(RunUnreadable, match="has not finished"):
        compare_runs(runs)


def test_options_that_run_something_are_refused_beside_finished_runs(tmp_path: Path) -> None:
    """So is a scenario without algorithms, and a folder for the page that holds something else."""
    runs = [*map(str, pair(tmp_path, (1,)))]
    for given, words in (
        ([*runs, "--seeds", "3"], "--seeds is for a SCENARIO"),
        ([*runs, "--set", "seed=3"], "--set is for a SCENARIO"),
        (["quickstart"], "needs --algorithms"),
    ):
        called = CliRunner().invoke(main, ["compare", *given])
        assert (called.exit_code, words in called.output) == (2, True), called.output
    called = CliRunner().invoke(main, ["compare", *runs, "--out", runs[0]])
    assert called.exit_code == 32
    assert "holds" in called.output
