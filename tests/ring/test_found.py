"""Runs of processes, found by their folder: status, logs and stop."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from watching import PATIENCE_S, until

SLOW = """
name: slow
hospitals: [{name: north, architecture: buffer}, {name: east, architecture: buffer}]
algorithm: {name: placebo, rounds: 40, session_seconds: 0.5}
"""


def cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fedskd_sim", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_a_run_of_processes_can_be_seen_read_and_stopped(tmp_path: Path) -> None:
    """From another shell, status shows who trains with whom, logs prints a hospital's log, and
    stop ends it as Ctrl-C would.
    """
    file, folder = tmp_path / "slow.yaml", tmp_path / "run"
    file.write_text(SLOW, encoding="utf-8")
    command = [sys.executable, "-m", "fedskd_sim", "launch", str(file), "--out", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as launcher:
        seen = until(lambda: "training with" in (said := cli("status", folder).stdout) and said)
        assert f"running, process {launcher.pid}" in seen
        assert '"event": "arrived"' in cli("logs", folder, "north").stdout
        assert cli("stop", folder).stdout == "stopped\n"
        assert launcher.wait(PATIENCE_S) == 130
    assert "stopped after" in cli("status", folder).stdout
    assert "nothing to stop" in cli("stop", folder).stdout


def test_a_run_is_watched_and_its_log_followed_to_its_end(tmp_path: Path) -> None:
    """Both begin with what was there, go on with what comes, and end by themselves when the run
    has ended.
    """
    file, folder = tmp_path / "slow.yaml", tmp_path / "run"
    file.write_text(SLOW.replace("rounds: 40", "rounds: 16"), encoding="utf-8")
    run = [sys.executable, "-m", "fedskd_sim"]
    with subprocess.Popen(
        [*run, "launch", str(file), "--out", str(folder)], stdout=subprocess.DEVNULL
    ) as launcher:
        until(lambda: '"event": "arrived"' in cli("logs", folder, "north").stdout)
        asked = (("logs", str(folder), "north", "--follow"), ("status", str(folder), "--watch"))
        log, shown = (
            subprocess.Popen([*run, *one], stdout=subprocess.PIPE, text=True) for one in asked
        )
        followed, watched = (one.communicate(timeout=PATIENCE_S)[0] for one in (log, shown))
        assert launcher.wait(PATIENCE_S) == 0
    assert followed == (folder / "logs" / "north.jsonl").read_text(encoding="utf-8")
    assert "running, process" in watched
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
