"""Commands that the program gives itself: what a shell would see of them."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path

import pytest

from fedskd_sim.errors import HospitalCrashed, InvalidValue, SocketPathTooLong
from fedskd_sim.runtimes.commands import Command, ask, prepare
from fedskd_sim.runtimes.forkserver import UNKNOWN, ForkServer, private_folder
from fedskd_sim.scenario import load

GOOD = """
name: small
hospitals: [{name: a, architecture: buffer}, {name: b, architecture: buffer}]
algorithm: {name: placebo}
"""
PATIENCE_S = 600.0


@pytest.fixture(scope="module", autouse=True)
def alone() -> Iterator[None]:
    """Leave no fork server to later tests: it has imported too little for them."""
    yield
    server = ForkServer.running([], private_folder().path)
    os.kill(server.pid, signal.SIGKILL)
    assert server.death(PATIENCE_S) == -signal.SIGKILL


@pytest.fixture
def server(scenario_file: Callable) -> None:
    """Start the fork server, in the temporary folder of the tests."""
    prepare(load(scenario_file(GOOD)).scenario, {"OMP_NUM_THREADS": "1"})


@pytest.fixture
def held_up(tmp_path: Path) -> Iterator[Callable[..., tuple[Command, int]]]:
    """Begin commands that read a scenario of which nothing comes until the descriptor that is
    given is closed.
    """
    begun: list[Command] = []

    def begin(held: tuple[int, ...] = ()) -> tuple[Command, int]:
        path = tmp_path / f"{len(begun)}.yaml"
        os.mkfifo(path)
        begun.append(Command.begin(["validate", str(path)], os.environ, held))
        return begun[-1], opened(path)

    yield begin
    for command in begun:
        if command.process.is_alive():
            command.process.kill()


def opened(path: Path) -> int:
    """Open a pipe for writing, once somebody reads it."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            return os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > end:
                raise
            time.sleep(0.02)


@pytest.mark.usefixtures("server")
def test_a_command_ends_with_its_code_and_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """They are those of a shell, in this folder and with the variables that are given; what it
    prints is lost.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.yaml").write_text("name: nothing\n", encoding="utf-8")
    completing = {**os.environ, "_FEDSKD_SIM_COMPLETE": "of_no_shell"}
    begun = [
        Command.begin(["validate", "scenario.yaml"], os.environ),
        Command.begin(["validate", "bad.yaml"], os.environ),
        Command.begin(["validate", "scenario.yaml"], completing),
    ]
    assert all(command.ended(PATIENCE_S) for command in begun)
    assert [one.process.exitcode for one in begun] == [0, InvalidValue.exit_code, 1]
    good, bad, _ = (one.words for one in begun)
    assert good == ""
    assert bad.startswith("error: bad.yaml:")
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("server")
def test_a_command_is_apart_and_holds_what_it_is_given(held_up: Callable, tmp_path: Path) -> None:
    """It leads a session of its own, has no more of this process than it was given, and ends by
    the signal that it gets.
    """
    with (tmp_path / "held").open("w") as held, (tmp_path / "other").open("w") as other:
        os.set_inheritable(other.fileno(), True)
        command, writer = held_up((held.fileno(),))
    pid = command.process.pid
    assert os.getsid(pid) == pid
    holds = {str(one.readlink()) for one in Path(f"/proc/{pid}/fd").iterdir()}
    assert str(tmp_path / "held") in holds
    assert str(tmp_path / "other") not in holds
    assert not command.ended(0.0)
    command.process.terminate()
    assert command.ended(PATIENCE_S)
    assert command.process.exitcode == -signal.SIGTERM
    os.close(writer)


def test_a_command_outlives_the_fork_server_and_only_its_code_is_lost(
    held_up: Callable, scenario_file: Callable
) -> None:
    """It says its words to the end; the next one has another fork server."""
    scenario = load(scenario_file(GOOD)).scenario
    prepare(scenario, {})
    command, writer = held_up()
    server = ForkServer.running([], private_folder().path)
    os.kill(server.pid, signal.SIGKILL)
    assert server.death(PATIENCE_S) == -signal.SIGKILL
    assert not command.ended(0.0)
    os.close(writer)
    assert command.ended(PATIENCE_S)
    assert command.process.exitcode == UNKNOWN
    assert command.words.startswith("error: ")
    after, writer = held_up()
    os.close(writer)
    assert after.ended(PATIENCE_S)
    assert after.words == command.words.replace("0.yaml", "1.yaml")
    assert after.process.exitcode not in (0, UNKNOWN)


def test_a_temporary_folder_that_is_too_long_is_named(
    tmp_path: Path, scenario_file: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No fork server can listen there, and nothing of the variables stays behind."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("t" * 70)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with pytest.raises(SocketPathTooLong, match="TMPDIR"):
        prepare(load(scenario_file(GOOD)).scenario, {"OMP_NUM_THREADS": "1"})
    assert "OMP_NUM_THREADS" not in os.environ


@pytest.mark.usefixtures("server")
def test_a_question_that_no_process_can_answer_is_an_error() -> None:
    """Where Python cannot be executed: in words, and not a traceback."""
    running = ForkServer.running([], private_folder().path)
    os.kill(running.pid, signal.SIGKILL)
    assert running.death(PATIENCE_S) is not None
    multiprocessing.set_executable("/bin/false")
    try:
        with pytest.raises(HospitalCrashed, match="cannot be started") as caught:
            ask(os.getpid)
        dead = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
        os.waitid(os.P_PID, dead, os.WEXITED | os.WNOWAIT)  # or it is still taken for alive
    finally:
        multiprocessing.set_executable(sys.executable)
    assert "may run Python" in caught.value.fix
    assert ask(os.getpid) != os.getpid()
