"""What commands say while they wait for data."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner

from fedskd_sim.cli import common, main
from fedskd_sim.cli.common import Waiting
from fedskd_sim.learning import preflight

TEXT = """\
name: slow
seed: 7
data: {name: synthetic-skin, samples: 40}
hospitals:
  - {name: a, architecture: cnn-plain}
  - {name: b, architecture: cnn-plain}
algorithm: {name: fedskd, rounds: 1}
training: {epochs: 1, batches: 1}
"""
LONGEST_S = 600.0


class Terminal(io.StringIO):
    """Standard error of a terminal."""

    def isatty(self) -> bool:
        return True


def wait_for(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + LONGEST_S
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)


@pytest.mark.parametrize("command", [("validate",), ("launch", "--on", "memory")])
def test_slow_readers_are_named_on_standard_error(
    scenario_file: Callable, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """A command says whose data it reads while it reads; standard output is as ever."""
    monkeypatch.setattr(common, "FIRST_S", 0.0)
    monkeypatch.setattr(common, "NEXT_S", 0.01)
    read, said = preflight.facts, list[bool]()

    def slowly(data: Any, name: str, *rest: Any) -> Any:
        words = f"reading the data of {name} and".encode()
        wait_for(lambda: words in sys.stderr.buffer.getvalue())
        said.append(words in sys.stderr.buffer.getvalue())
        return read(data, name, *rest)

    monkeypatch.setattr(preflight, "facts", slowly)
    path = scenario_file(TEXT)
    out = ("--out", str(path.parent / "out")) if command[0] == "launch" else ()
    done = CliRunner().invoke(main, [command[0], str(path), *command[1:], *out])
    assert (done.exit_code, said) == (0, [True, True]), done.output
    assert "reading" not in done.stdout
    assert done.stderr.count("reading the data of a and") == 1


def test_fast_readers_are_not_named(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is said of what is over soon, and its end is not waited for."""
    with Waiting() as shown:
        shown.checks("a")
        shown.checks("b")
    with Waiting():
        pass
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_one_line_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for takes the place of what was before, and nothing of it stays."""
    monkeypatch.setattr(common, "FIRST_S", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    errors, output = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", errors)
    monkeypatch.setattr(sys, "stdout", output)
    with Waiting() as shown:
        for name in ("a[b]", "c"):
            shown.checks(name)
            wait_for(lambda name=name: f"data of {name}" in errors.getvalue())
        print("read")
    before, last = errors.getvalue().split("data of c", 1)
    assert "data of a[b]" in before
    assert last.rstrip().endswith("\x1b[2K")
    assert "\n" not in last.split("model")[-1].strip()
    assert output.getvalue() == "read\n"
