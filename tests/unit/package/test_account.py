"""What a run says of itself besides its results: its algorithm in words, and how it ended."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result
from kubernetes.config import kube_config

from fedskd_sim import clock, load
from fedskd_sim.cli import main
from fedskd_sim.errors import FedskdError, HopTimeout, RunUnreadable
from fedskd_sim.observe import outcome
from fedskd_sim.observe.outcome import Outcome
from fedskd_sim.observe.words import amount, duration
from fedskd_sim.results.account import settings
from fedskd_sim.results.report import Account
from fedskd_sim.scenario import (
    BUILT_IN,
    Circulation,
    FedSKD,
    Placebo,
    Scenario,
    Schedule,
    Similarity,
    default_of,
    offered_names,
)

SCENARIOS = Path(__file__).parents[3] / "scenarios"
HOW = {  # what must be said of each algorithm, and what must not
    "fedskd": ("travels.*stays there.*teach each other by their similarities", "alone|mean of"),
    "traveller-first": (
        "travels.*the visitor trains.*resident, which does not change, teaches it",
        "teach each other",
    ),
    "circulation": ("travels.*visitor and resident train.*neither teaches", "teach each other"),
    "mutual": ("travels.*teach each other by their predictions", "similarities"),
    "cyclic": ("travels.*trains at every stop.*without a teacher", "stays there|resident"),
    "local": ("own model on its own data. No model travels", "ring|teach"),
    "pooled": ("data of all hospitals.*no federation", "travels|ring"),
    "fedavg": ("common model.*mean.*ring", "travels|teach"),
    "fedprox": ("stays close.*mean.*ring", "travels|teach"),
    "fml": ("own model and a common one.*teach each other.*stay at home", "travels"),
    "fedproto": ("mean features of every class.*stay at home", "travels|teach"),
    "fd": ("others' models say of every class.*stay at home", "travels|teach"),
    "fedtgp": ("prototypes of every class.*train alike.*stay at home", "travels|teach"),
    "fedgh": ("one head alike.*mean features of every class.*stay at home", "travels|teach"),
    "d-psgd": ("travels to some hospitals.*mean of itself and of those that came", "teach"),
    "def-kt": ("travels.*teach each other by their predictions.*forgotten", "similarities|alone"),
    "dfml": ("travels.*teach each other.*in some rounds more.*Both go on", "similarities|alone"),
    "ditto": ("common model.*mean.*ring.*personal model.*close.*at home", "travels|teach"),
    "partial": ("one architecture.*mean of a part.*all but the head.*ring", "travels|teach"),
    "moon": ("close to the features of the common.*far from.*mean.*ring", "travels|teach"),
    "scaffold": ("corrects its gradients.*mean of models and of gradients.*ring", "travels|teach"),
    "placebo": ("Nothing is learned", "train"),
}


def call(*arguments: object) -> Result:
    """Call the program in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def of_another_process(run: Path) -> None:
    """Let a run be that of a process that is no more."""
    place = json.loads((run / "place.json").read_text())
    (run / "place.json").write_text(json.dumps({**place, "born": place["born"] - 1000}))


@pytest.mark.parametrize("name", [*BUILT_IN, *offered_names(), "placebo"])
def test_every_algorithm_says_what_travels_and_who_trains(name: str) -> None:
    """The words of an algorithm tell what happens in it, and nothing that happens only in
    others.
    """
    known = {**BUILT_IN, "placebo": Placebo(name="placebo")}
    words = (known.get(name) or default_of(name, 3)).words
    said, unsaid = HOW[name]
    assert re.search(said, words)
    assert not re.search(unsaid, words)


def test_the_words_follow_the_settings() -> None:
    """One model at a time leaves no copy at home, levels without weight teach nobody, and a
    factor of 0 makes one side mute.
    """
    assert (
        "One model at a time travels"
        in Circulation(name="circulation", schedule=Schedule(mode="sequential")).words
    )
    assert (
        "stays there"
        not in Circulation(name="circulation", schedule=Schedule(mode="sequential")).words
    )
    assert (
        "neither teaches"
        in FedSKD(name="fedskd", similarity=Similarity(batch=0, pixel=0, region=0)).words
    )
    mute = FedSKD(name="fedskd", similarity=Similarity(to_resident=0)).words
    assert "the resident teaches the visitor by its similarities" in mute
    assert "teaches the resident" not in mute


def test_an_outcome_is_read_as_it_was_noted(tmp_path: Path) -> None:
    """Begun, gone on with and ended: times, commands, culprit, reason and code come back; what
    is no outcome is refused. Bytes that are no UTF-8 are escaped, and a full disk has the code
    with which the command ends.
    """
    assert outcome.read(tmp_path) is None
    first = outcome.begin(tmp_path, "fedskd-sim launch x.yaml")
    again = outcome.begin(tmp_path, "fedskd-sim resume runs/x")
    assert again == Outcome(
        "going", first.started, ("fedskd-sim launch x.yaml", "fedskd-sim resume runs/x")
    )
    error = HopTimeout("nobody came", fix="wait")
    error.culprit = "east"
    noted = outcome.note(tmp_path, outcome.finish(again, error))
    assert outcome.read(tmp_path) == noted
    assert (noted.state, noted.code, noted.culprit, noted.reason, noted.fix) == (
        "failed",
        40,
        "east",
        "nobody came",
        "wait",
    )
    named = outcome.begin(tmp_path, f"fedskd-sim launch x.yaml --out {os.fsdecode(bytes([252]))}")
    assert (outcome.read(tmp_path), named.commands[-1]) == (
        named,
        r"fedskd-sim launch x.yaml --out \xfc",
    )
    full = outcome.finish(first, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert (full.state, full.code) == ("failed", 31)
    assert outcome.finish(first, OSError("broken")).code == outcome.BUG
    for bad in (
        "",
        "{}",
        json.dumps({"state": "over", "started": 1.0}),
        '{"state": "going", "started": 1.0, "more": 1}',
    ):
        (tmp_path / outcome.FILE).write_text(bad)
        with pytest.raises(RunUnreadable, match=outcome.FILE):
            outcome.read(tmp_path)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, r"ended well after \d"),
        (KeyboardInterrupt(), r"stopped after .*exit code 130"),
        (ValueError("x"), r"failed after .*exit code 1"),
        (FedskdError("x"), r"failed after .*exit code 1"),
    ],
)
def test_every_end_has_its_words(error: BaseException | None, said: str) -> None:
    """Ended well, stopped, failed with an error that was foreseen or not: state and exit code
    are said.
    """
    assert re.match(said, outcome.finish(Outcome("going", clock.unix()), error).words)


def test_a_run_that_ended_well_may_have_a_remark() -> None:
    """It stays one that ended well, with exit code 0, and the page tells it first."""
    noted = outcome.finish(Outcome("going", clock.unix()), remark="the controller died")
    assert (noted.state, noted.code, noted.reason) == ("ended well", 0, "the controller died")
    loaded = load("placebo-ok")
    assert Account(loaded.scenario, noted).strange
    assert not Account(loaded.scenario, noted).failed
    assert not Account(loaded.scenario, outcome.finish(noted)).strange


def test_durations_have_their_two_largest_units() -> None:
    """Seconds have a tenth; from a minute on there are two whole units."""
    wanted = {0: "0.0 s", 59.4: "59.4 s", 61: "1 min 1 s", 3600: "1 h 0 min", 90061: "1 d 1 h"}
    assert {seconds: duration(seconds) for seconds in wanted} == wanted


def test_settings_are_written_in_one_line_with_their_keys() -> None:
    """Nested keys are joined by full stops, as in --set."""
    assert settings({"rounds": 2, "similarity": {"batch": 0.1, "off": False}, "visits": None}) == (
        "rounds 2, similarity.batch 0.1, similarity.off no, visits default"
    )


def test_an_account_tells_algorithm_command_end_and_memory() -> None:
    """The largest process is named where each hospital has one, and is that of all where they
    share one.
    """
    hospitals = [{"name": name, "architecture": "cnn-plain"} for name in ("a", "b")]
    scenario = Scenario.model_validate(
        {"name": "x", "hospitals": hospitals, "algorithm": {"name": "local"}}, strict=False
    )
    account = Account(
        scenario,
        Outcome(
            "failed", 1e9, ("fedskd-sim launch x",), 1e9 + 3, 41, "b", "'b' died", "see its log"
        ),
    )
    facts = dict(account.rows({"a": 10, "b": 2000}, "processes"))
    assert facts["algorithm"] == "local"
    assert facts["command"] == "fedskd-sim launch x"
    assert facts["outcome"] == "failed after 3.0 s: b, exit code 41"
    assert (facts["who failed"], facts["reason"], facts["fix"]) == ("b", "'b' died", "see its log")
    assert facts["ended"] == "2001-09-09T01:46:43Z"
    assert facts["peak memory"] == "2 kB in the process of b, the largest"
    assert "of all hospitals" in dict(account.rows({"a": 10}, "memory"))["peak memory"]
    assert "peak memory" not in dict(account.rows({}, "memory"))
    assert "rounds 2" in facts["its settings"]
    assert "faults on purpose" not in facts


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"what": "kill", "round": 1, "hop": 2}, "a: kill, round 1 hop 2"),
        ({"what": "full_disk", "after": 3.5}, "a: full disk, 3.5 s after it came up"),
        ({"what": "leave", "seed": 4}, "a: leave, at a hop drawn from seed 4"),
        ({"what": "late", "lasts": 2}, "a: late, for 2 s"),
        (
            {"what": "slow", "factor": 10, "round": 2, "lasts": 30},
            "a: slow, factor 10, round 2, for 30 s",
        ),
    ],
)
def test_an_account_tells_the_faults_that_were_wanted(given: dict[str, object], words: str) -> None:
    """Who, what, how much, where and for how long."""
    text = {
        "name": "x",
        "hospitals": [{"name": name, "architecture": "buffer"} for name in ("a", "b")],
        "algorithm": {"name": "placebo"},
        "faults": [{"hospital": "a", **given}],
    }
    scenario = Scenario.model_validate(text, strict=False)
    assert dict(Account(scenario, None).rows({}, "memory"))["faults on purpose"] == words


def test_a_run_that_fails_names_its_report_and_ends_with_outcome_culprit_and_folder(
    tmp_path: Path,
) -> None:
    """`launch` says where the report is; its last line, the page and `status` say who failed,
    why and with which exit code.
    """
    done = call(
        "launch", SCENARIOS / "placebo-abort.yaml", "--on", "memory", "--out", tmp_path / "run"
    )
    report, last = done.stderr.splitlines()[-2:]
    assert report.startswith("report: ")
    assert (tmp_path / "run" / "report.html").is_file()
    culprit = json.loads((tmp_path / "run" / outcome.FILE).read_text())["culprit"]
    assert re.fullmatch(
        rf"failed after \S+ s: {culprit}, exit code {done.exit_code}; "
        r"disturbed on purpose: east: abort, round 1 hop 1; run folder \S+run",
        last,
    )
    page = (tmp_path / "run" / "report.html").read_text()
    of_another_process(tmp_path / "run")
    status = call("status", tmp_path / "run").output
    for shown in (page, status):
        assert f"{culprit}, exit code {done.exit_code}" in shown
    assert "Every model travelled" not in page
    assert "--on memory" in page
    assert "resume" not in status
    (tmp_path / "run" / "custody").mkdir()
    assert "resume" not in call("status", tmp_path / "run").output
    place = json.loads((tmp_path / "run" / "place.json").read_text())
    (tmp_path / "run" / "place.json").write_text(json.dumps(place | {"run": "1a2b3c4d"}))
    assert (
        f"'fedskd-sim resume {tmp_path / 'run'}' goes on with it"
        in call("status", tmp_path / "run").output
    )


def test_a_run_that_ended_well_is_not_told_to_be_resumed(tmp_path: Path) -> None:
    """Page and `status` say that it ended well, and no word that something could go on."""
    assert (
        call(
            "launch", SCENARIOS / "placebo-ok.yaml", "--on", "memory", "--out", tmp_path / "run"
        ).exit_code
        == 0
    )
    status = call("status", tmp_path / "run").output
    assert "ended well after" in status
    assert "resume" not in status
    assert "ended well after" in (tmp_path / "run" / "report.html").read_text()


def test_a_run_whose_launcher_died_is_told_apart_from_one_that_goes_on(tmp_path: Path) -> None:
    """An outcome that nobody has noted is not made up: `status` says so, and what members have
    logged.
    """
    call("launch", SCENARIOS / "placebo-abort.yaml", "--on", "memory", "--out", tmp_path / "run")
    begun = outcome.read(tmp_path / "run")
    assert begun
    outcome.note(tmp_path / "run", Outcome("going", begun.started, begun.commands))
    of_another_process(tmp_path / "run")
    said = call("status", tmp_path / "run").output
    assert "nobody has noted how it ended" in said
    assert f"{begun.culprit} has logged, exit code {begun.code}" in said


def test_a_mistyped_run_is_a_missing_folder_and_no_missing_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a cluster the error says that there is no such folder and which is near; one that
    was asked for is still missed.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none")
    )  # read once, at its import
    (tmp_path / "runs" / "skin").mkdir(parents=True)
    (tmp_path / "runs" / "skin" / "scenario.yaml").touch()
    for typed, fix in (("runs/skim", "did you mean 'runs/skin'?"), ("typo", "give the folder")):
        for command in ("status", "logs", "stop"):
            done = call(command, typed)
            assert done.exit_code == RunUnreadable.exit_code
            assert f"there is no run folder '{typed}'" in done.stderr
            assert fix in done.stderr
    assert "no cluster is configured" in call("status", "typo", "--namespace", "x").stderr


def test_shells_complete_run_folders_and_hospitals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of a run is offered by its first letters, and after it the members of that run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "skin").mkdir(parents=True)
    (tmp_path / "runs" / "skin" / "scenario.yaml").write_bytes(
        (SCENARIOS / "placebo-ok.yaml").read_bytes()
    )
    (tmp_path / "runs" / "other").mkdir()

    def offered(*typed: str) -> list[str]:
        completion = ShellComplete(main, {}, "fedskd-sim", "_FEDSKD_SIM_COMPLETE")
        return [
            item.value
            for item in completion.get_completions(list(typed[:-1]), typed[-1])
            if item.type == "plain"
        ]

    for command in ("status", "logs", "stop", "report"):
        assert offered(command, "ru") == ["runs/skin"]
    assert offered("logs", "runs/skin", "e") == ["east"]
    assert offered("logs", "runs/skin", "c") == ["controller"]
    assert offered("logs", "runs/other", "") == []


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (999.6, "1 kB"),
        (1536, "1.54 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (46_800_000, "46.8 MB"),
        (2e14, "200 TB"),
        (3e15, "3e+03 TB"),
    ],
)
def test_sizes_have_three_digits(size: float, words: str) -> None:
    """In the largest unit that leaves at least one before the point."""
    assert amount(size) == words
