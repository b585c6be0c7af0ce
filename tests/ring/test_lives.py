"""Hospitals that die and come back, and runs of which everything died: they end with the
undisturbed run's bytes.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from click.testing import CliRunner
from fates import results
from watching import PATIENCE_S, PLACEBO, events, go_on, held_at, hospitals_of, until

from fedskd_sim.cli import main
from fedskd_sim.custody import seal
from fedskd_sim.errors import CustodyForeign, HospitalCrashed, OutputNotWritable, RunUnreadable
from fedskd_sim.observe import outcome

pytestmark = pytest.mark.usefixtures("temporary")
LEARNS = """
name: learns
data: {{name: synthetic-skin, samples: 150, image_size: 16, classes: 3}}
hospitals:
  - {{name: h0, architecture: cnn-plain}}
  - {{name: h1, architecture: cnn-residual}}
  - {{name: h2, architecture: cnn-plain}}
{rest}
timeouts: {{register: 300, hop: 90, acknowledgement: 60, retry: 2, goodbye: 2, stop: 2}}
"""
FROM_A_FILE = """
name: read
data: {name: medmnist, file: small.npz, partition: {parts: 2}}
hospitals:
  - {name: h0, architecture: cnn-plain, data: {partition: {part: 0}}}
  - {name: h1, architecture: cnn-residual, data: {partition: {part: 1}}}
algorithm: {name: fedskd, rounds: 4}
timeouts: {register: 300, hop: 90, acknowledgement: 60, retry: 2, goodbye: 2, stop: 2}
"""
ENSEMBLE = "algorithm: {name: fedskd, rounds: 2}\nprediction: {ensemble: true, model: mix}"


def finished(out: Path, name: str) -> int:
    return len(events(out, name, "finished"))


def kill(out: Path, name: str) -> None:
    os.kill(hospitals_of(out)[name], signal.SIGKILL)


def everything_dies(process: subprocess.Popen, out: Path) -> None:
    """Kill all processes of a run at once, as far as the first has not taken others with it."""
    for pid in (process.pid, *hospitals_of(out).values()):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def stopped_in_time(program: Callable) -> Callable[..., Path]:
    """Launch a scenario and stop it when it has come far enough; again, in another folder, where
    the run was over before: the machine may have stood still.
    """

    def stopped(
        path: Path, enough: Callable[[Path], bool], stop: Callable[..., object], *flags: object
    ) -> Path:
        for number in count():
            out = path.parent / f"out-{number}"
            process = program("launch", path, "--out", out, *flags)
            until(lambda out=out, going=process: enough(out) or going.poll() is not None)
            stop(process, out)
            _, errors = process.communicate(timeout=PATIENCE_S)
            until(lambda out=out: hospitals_of(out) == {})
            if process.returncode in (130, -signal.SIGKILL):
                return out
            assert (process.returncode, number < 3) == (0, True), errors
        raise AssertionError

    return stopped


def interrupted(process: subprocess.Popen, _: Path) -> None:
    process.send_signal(signal.SIGTERM)


@pytest.fixture
def resumed(inside: Callable) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Go on with a run, from another process than the one that launched it."""
    return partial(inside, "resume")


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
@pytest.mark.parametrize("controller", ["alive", "dead"])
def test_a_killed_hospital_needs_no_controller_to_come_back(
    transport: str, controller: str, started: Callable
) -> None:
    """On every link, with the controller alive or dead, twice at one place: it is where the
    others know it, and goes on.
    """
    process, out = started(transport=transport, rounds=10, seconds=0.1)
    if controller == "dead":
        os.kill(hospitals_of(out)["controller"], signal.SIGKILL)
    for lives in (1, 2):
        kill(out, "h1")
        until(
            lambda lives=lives: (
                len(events(out, "h1", "listening")) > lives or process.poll() is not None
            )
        )
    go_on(out)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert len(events(out, "h1", "restarted")) == 2
    text = [
        json.loads(line)
        for line in (out / "records" / "h1.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert (
        len({(line["kind"], line["model"], line["round"], line["hop"]) for line in text})
        == len(text)
        == 1 + 3 * 10 + 3
    )


def test_who_dies_over_and_over_ends_the_run(started: Callable) -> None:
    """After the restarts that the scenario allows, in a row without a record, the death ends the
    run as it did before.
    """
    points = ("h1 during_visit 2", "h1 during_visit 1")  # it never comes to a record
    process, out = started(custody="{restarts: 1}", held=points)
    for life in (0, 1):
        until(lambda life=life: held_at(out, life) or process.poll() is not None)
        kill(out, "h1")
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == HospitalCrashed.exit_code
    assert "'h1' died by signal 9" in errors


@pytest.mark.parametrize("how", ["interrupt", "power cut"])
def test_a_run_of_which_everything_died_is_resumed(
    how: str, scenario_file: Callable, run: Callable, stopped_in_time: Callable, resumed: Callable
) -> None:
    """After Ctrl-C, and after all its processes were killed at once, even twice: the same bytes
    as undisturbed.
    """
    path = scenario_file(LEARNS.format(rest=ENSEMBLE))
    stop = interrupted if how == "interrupt" else everything_dies
    out = stopped_in_time(path, lambda out: finished(out, "h0") >= 3, stop)
    done = resumed(out)
    assert done.returncode == 0, done.stderr
    assert results(out) == results(run(path, "memory"))
    again = resumed(out)
    assert (again.returncode, "has ended well" in again.stderr) == (
        RunUnreadable.exit_code,
        True,
    ), again.stderr


def test_a_run_is_resumed_at_random_instants(
    scenario_file: Callable, run: Callable, program: Callable, tmp_path: Path
) -> None:
    """Everything is killed again and again, wherever it is; each life goes on from the last, and
    nothing is lost or doubled.
    """
    hospitals = ", ".join(f"{{name: h{index}, architecture: buffer}}" for index in range(3))
    text = PLACEBO.format(
        hospitals=hospitals, rounds=20, seconds=0.1, size=300_000, transport="tcp", hop=60
    )
    path, out, draw = scenario_file(text), tmp_path / "out", random.Random(7)
    process, deaths = program("launch", path, "--out", out), 0
    for _ in range(4):
        before = finished(out, "h1")
        enough = before + draw.randrange(1, 4)
        until(
            lambda enough=enough, going=process: (
                finished(out, "h1") >= enough or going.poll() is not None
            )
        )
        everything_dies(process, out)
        _, errors = process.communicate(timeout=PATIENCE_S)
        until(lambda: hospitals_of(out) == {})
        assert process.returncode in (0, -signal.SIGKILL), errors
        if process.returncode == 0:
            break  # the machine stood still, and the run did not
        deaths += 1
        process = program("resume", out)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert deaths
    assert results(out) == results(run(path, "memory"))


def test_what_cannot_be_resumed_is_refused(started: Callable, resumed: Callable) -> None:
    """A run that still goes on, custody of another program, a second resume beside the first."""
    process, out = started(rounds=60)
    going = resumed(out)
    assert (going.returncode, "still goes on" in going.stderr) == (RunUnreadable.exit_code, True)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_S)
    scenario = out / "scenario.yaml"
    whole = scenario.read_text(encoding="utf-8")
    scenario.write_text(whole.replace("rounds: 60", "rounds: 61"), encoding="utf-8")
    foreign = resumed(out)
    assert foreign.returncode == CustodyForeign.exit_code, foreign.stderr
    assert "scenario.yaml:4: algorithm.rounds" in foreign.stderr
    assert "algorithm.rounds was 60 and is 61" in foreign.stderr
    scenario.write_text(whole, encoding="utf-8")
    place = json.loads((out / "place.json").read_text(encoding="utf-8"))
    (out / "place.json").write_text(json.dumps({**place, "run": ""}), encoding="utf-8")
    nameless = resumed(out)
    assert (nameless.returncode, "no run that was launched from it" in nameless.stderr) == (
        RunUnreadable.exit_code,
        True,
    )


def test_data_that_have_changed_since_are_not_gone_on_with(
    scenario_file: Callable, stopped_in_time: Callable, resumed: Callable, tmp_path: Path
) -> None:
    """One pixel of one hospital's file is enough: it is named before anything is learned from
    it, and `--anyway` goes on.
    """
    import numpy as np

    draw = np.random.default_rng(1)
    parts = {
        f"{split}_images": draw.integers(0, 255, (60, 28, 28), np.uint8)
        for split in ("train", "val", "test")
    }
    parts |= {
        f"{split}_labels": np.arange(60, dtype=np.uint8)[:, None] % 2
        for split in ("train", "val", "test")
    }
    np.savez(tmp_path / "small.npz", **parts)
    flags = ("--data", tmp_path)
    path = scenario_file(FROM_A_FILE)
    out = stopped_in_time(path, lambda out: finished(out, "h1") >= 2, interrupted, *flags)
    parts["test_images"][7, 3, 3] ^= (
        1  # what is learned stays the same, wherever the run was stopped
    )
    np.savez(tmp_path / "small.npz", **parts)
    refused = resumed(out)
    assert (refused.returncode, "data was" in refused.stderr) == (CustodyForeign.exit_code, True), (
        refused.stderr
    )
    anyway = resumed(out, "--anyway")
    assert anyway.returncode == 0, anyway.stderr


def test_a_full_disk_ends_the_run_and_loses_nothing(
    started: Callable, run: Callable, resumed: Callable
) -> None:
    """A hospital that can keep nothing more ends the run with exit code 31 and words; with room
    again it goes on.
    """
    import resource

    process, out = started(rounds=20, seconds=0.05)
    resource.prlimit(hospitals_of(out)["h1"], resource.RLIMIT_FSIZE, (50_000, 50_000))
    go_on(out)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == OutputNotWritable.exit_code, errors
    assert "custody/h1" in errors
    done = resumed(out)
    assert done.returncode == 0, done.stderr
    assert results(out) == results(run(out / "scenario.yaml", "memory"))


def test_a_run_that_died_before_its_seal_is_only_ended(
    scenario_file: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher that dies between training and seal leaves custody; going on repeats no session,
    with it and, as in runs of earlier versions, without: the run is proven, sealed and ended.
    """
    hospitals = ", ".join(f"{{name: h{index}, architecture: buffer}}" for index in range(2))
    given = {"rounds": 2, "seconds": 0, "size": 1000, "transport": "ipc", "hop": 90}
    path, out = scenario_file(PLACEBO.format(hospitals=hospitals, **given)), tmp_path / "out"

    def full(*_: object) -> None:
        raise OutputNotWritable("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(seal, "seal", full)
        done = CliRunner().invoke(main, ["launch", str(path), "--out", str(out)])
    assert done.exit_code == OutputNotWritable.exit_code, done.output
    before, trained = results(out), sessions(out)
    for custody in (True, False):
        assert (out / "custody").is_dir() == custody
        done = CliRunner().invoke(main, ["resume", str(out)])
        assert done.exit_code == 0, done.output
        assert (results(out), sessions(out)) == (before, trained)
        ended = outcome.read(out)
        assert ended
        assert (ended.state, (out / seal.FILE).is_file()) == ("ended well", True)
        assert not (out / "custody").exists()
        (out / seal.FILE).unlink()
        outcome.note(out, replace(ended, state="going"))


def sessions(out: Path) -> int:
    """Count the sessions and evaluations that were timed."""
    texts = [file.read_text(encoding="utf-8") for file in (out / "timings").glob("*.jsonl")]
    lines = [json.loads(line) for text in texts for line in text.splitlines()]
    return sum(line["what"] not in ("transfer", "resumed") for line in lines)
