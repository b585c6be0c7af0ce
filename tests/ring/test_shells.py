"""Shells that close, readers that leave and disks that fill up: the run goes on, or says what
ended it, by its own exit code.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from watching import PATIENCE_S, PLACEBO, finishers

from fedskd_sim.errors import OutputNotWritable
from fedskd_sim.records.files import read_records

COMMAND = f"{sys.executable} -m fedskd_sim launch"
HOSPITALS = ", ".join(f"{{name: h{index}, architecture: buffer}}" for index in range(3))


@pytest.fixture
def short(scenario_file: Callable) -> Path:
    """Write a short run of three."""
    return scenario_file(
        PLACEBO.format(hospitals=HOSPITALS, rounds=1, seconds=0, size=1000, transport="ipc", hop=60)
    )


def shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("runtime", ["processes", "memory"])
def test_a_run_without_open_streams_ends_well(
    closed: str, runtime: str, short: Path, tmp_path: Path
) -> None:
    """A closed output, error or input gives its number to no file of the run, and everything is
    recorded.
    """
    done = shell(f"{COMMAND} {short} --on {runtime} --out {tmp_path / 'out'} {closed}")
    assert done.returncode == 0, done.stderr
    assert finishers(tmp_path / "out") == {"h0", "h1", "h2"}
    assert read_records(tmp_path / "out")


@pytest.mark.parametrize("reader", ["head -1", "true"])
def test_a_reader_that_leaves_does_not_end_the_run(
    reader: str, short: Path, tmp_path: Path
) -> None:
    """The run ends as it would have, with its own exit code."""
    done = shell(f"{COMMAND} {short} --out {tmp_path / 'out'} | {reader}; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (0, "")
    assert finishers(tmp_path / "out") == {"h0", "h1", "h2"}
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.parametrize("arguments", ["--version", "validate --schema"])
def test_an_output_on_a_full_disk_is_said_once(arguments: str) -> None:
    """Help and what commands print end with exit code 31 and one message, not with the
    interpreter's own code and traceback for what it could not write either.
    """
    done = shell(f"{sys.executable} -m fedskd_sim {arguments} >/dev/full")
    told = "error: no space left for standard output: No space left on device"
    fix = "  fix: make room, and start again"
    assert done.returncode == OutputNotWritable.exit_code
    assert done.stderr.splitlines() == [told, fix]


def test_a_thread_that_writes_while_the_interpreter_ends_does_not_change_the_exit_code() -> None:
    """Who ends with a code of its own ends with that, whatever a thread that is left writes to
    standard output meanwhile, and however late that is read.
    """
    code = (
        "import select, sys\n"
        "from threading import Thread\n"
        "from fedskd_sim.cli.common import settle\n"
        "settle()\n"
        "def tell():\n"
        "    while True: print('x' * 500, flush=True)\n"
        "Thread(target=tell, daemon=True).start()\n"
        "while select.select([], [1], [], 0)[1]: pass\n"
        "print('leaves', file=sys.stderr, flush=True)\n"
        "sys.exit(38)"
    )
    command, both = [sys.executable, "-c", code], subprocess.PIPE
    with subprocess.Popen(command, stdout=both, stderr=both, text=True) as child:
        assert child.stderr
        assert child.stderr.readline() == "leaves\n"
        _, said = child.communicate(timeout=PATIENCE_S)
    assert (child.returncode, said) == (38, "")


@pytest.mark.parametrize("sees", ["fedskd_sim.cli", "click", "fedskd_sim.exits"])
def test_an_interrupt_while_modules_are_read_is_no_traceback(sees: str) -> None:
    """Ctrl-C before the command has begun ends in one line and the code of an interrupt."""
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job ignores it
        "from fedskd_sim.__main__ import run\n"
        "class Now:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {sees!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Now())\n"
        "sys.argv = ['fedskd-sim', 'validate', '--schema']\n"
        "run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        128 + signal.SIGINT,
        "interrupted: nothing was started\n",
    )


@pytest.mark.parametrize("runtime", ["processes", "memory"])
@pytest.mark.parametrize("limit", [0, 1200, 6000])
def test_a_disk_that_is_full_from_any_byte_on_is_named(
    limit: int, runtime: str, short: Path, tmp_path: Path
) -> None:
    """Whatever is being written, the exit code is 31, the words are there, and no file is
    pointed to that is empty.
    """

    def little() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    out = tmp_path / "out"
    command = [*COMMAND.split(), str(short), "--on", runtime, "--out", str(out)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        preexec_fn=little,
        env={**os.environ},
    )
    assert done.returncode == OutputNotWritable.exit_code, done.stderr
    assert re.search("no space left|file too large", done.stderr, re.IGNORECASE), done.stderr
    assert "Traceback" not in done.stderr
    assert all(
        Path(word).stat().st_size
        for word in done.stderr.split()
        if word.startswith(str(out / "logs"))
    )
