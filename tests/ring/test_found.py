"""Runs of processes, found by their folder: status, logs and stop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from fates import DEADLY
from watching import PATIENCE_S, go_on, until

from fedskd_sim.observe.words import short_path

SLOW = """
name: slow
hospitals: [{name: north, architecture: buffer}, {name: east, architecture: buffer}]
algorithm: {name: placebo, rounds: 1000, session_seconds: 0.5}
"""


def cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedskd_sim", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_a_run_of_processes_can_be_seen_read_and_stopped(tmp_path: Path) -> None:
    """From another shell, status shows who trains with whom, logs prints a hospital's log, and
    stop ends it as Ctrl-C would, which then says how to go on.
    """
    file, folder = tmp_path / "slow.yaml", tmp_path / "run"
    file.write_text(SLOW, encoding="utf-8")
    command = [sys.executable, "-m", "fedskd_sim", "launch", str(file), "--out", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as launcher:
        seen = until(lambda: "training with" in (said := cli("status", folder).stdout) and said)
        assert f"running, process {launcher.pid}" in seen
        until(lambda: '"event": "arrived"' in cli("logs", folder, "north").stdout)
        assert cli("stop", folder).stdout == "stopped\n"
        assert launcher.wait(PATIENCE_S) == 130
        last = launcher.stderr.read().decode().splitlines()[-1]
        assert last == f"'fedskd-sim resume {short_path(folder)}' goes on with it"
    assert "stopped after" in cli("status", folder).stdout
    assert "nothing to stop" in cli("stop", folder).stdout


def test_a_run_is_watched_and_its_log_followed_to_its_end(tmp_path: Path) -> None:
    """Both begin with what was there, go on with what comes, and end by themselves when the run
    has ended.
    """
    file, folder = tmp_path / "slow.yaml", tmp_path / "run"
    file.write_text(SLOW.replace("rounds: 1000", "rounds: 4"), encoding="utf-8")
    held = tmp_path / "held"  # the run waits until both have begun
    held.write_text(json.dumps([("east", "during_visit", 2, "wait")]), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(DEADLY), "DEATHS": str(held)}
    run = [sys.executable, "-m", "fedskd_sim"]
    with (
        subprocess.Popen(
            [*run, "launch", str(file), "--out", str(folder)],
            stdout=subprocess.DEVNULL,
            env=environment,
        ) as launcher,
        ExitStack() as last,
    ):
        last.callback(go_on, folder)
        until(lambda: '"event": "arrived"' in cli("logs", folder, "north").stdout)
        asked = (("logs", str(folder), "north", "--follow"), ("status", str(folder), "--watch"))
        log, shown = (
            subprocess.Popen([*run, *one], stdout=subprocess.PIPE, text=True) for one in asked
        )
        with log, shown:
            begun = log.stdout.readline()
            assert any("running, process" in line for line in shown.stdout)
            go_on(folder)
            assert (log.wait(PATIENCE_S), shown.wait(PATIENCE_S)) == (0, 0)
            followed, watched = begun + log.stdout.read(), shown.stdout.read()
        assert launcher.wait(PATIENCE_S) == 0
    assert followed == (folder / "logs" / "north.jsonl").read_text(encoding="utf-8")
    assert "ended well after" in watched.splitlines()[-1]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    """A folder without a run, and a hospital that is not in it, have clear errors."""
    done = cli("status", tmp_path)
    assert done.returncode == 34
    assert "is not a run folder" in done.stderr
    (tmp_path / "scenario.yaml").write_text(SLOW, encoding="utf-8")
    done = cli("logs", tmp_path, "south")
    assert done.returncode == 2
    assert "it has north, east" in done.stderr
