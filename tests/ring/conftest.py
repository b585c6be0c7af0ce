"""Launches of the placebo in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fates import DEADLY
from watching import HELD, PLACEBO, events, held_at, until


@pytest.fixture
def install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, dict[str, str]], Path]]:
    """Put a tiny distribution on the path of this process and of those it starts."""
    made: list[str] = []

    def put(
        module: str,
        offers: dict[str, str],
        text: str = "",
        package: str = "",
        group: str = "fedskd_sim.architectures",
    ) -> Path:
        place, info = tmp_path / f"site-{len(made)}", f"{package or module}-1.0.dist-info"
        (place / info).mkdir(parents=True)
        (place / f"{module}.py").write_text(text, encoding="utf-8")
        (place / info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package or module}\nVersion: 1.0\n"
        )
        (place / info / "RECORD").write_text(f"{module}.py,,\n{info}/METADATA,,\n")
        lines = "\n".join(f"{name} = {value}" for name, value in offers.items())
        (place / info / "entry_points.txt").write_text(f"[{group}]\n{lines}\n")
        monkeypatch.syspath_prepend(place)
        monkeypatch.setenv(
            "PYTHONPATH",
            os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        )
        monkeypatch.delitem(sys.modules, module, raising=False)
        made.append(module)
        return place

    yield put
    for module in made:
        sys.modules.pop(module, None)


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the programs a test starts a short temporary folder of their own, so that what they
    leave behind can be seen.
    """
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield


@pytest.fixture
def begun(
    tmp_path: Path, scenario_file: Callable
) -> Iterator[Callable[..., tuple[subprocess.Popen, Path]]]:
    """Launch a placebo run in a process of its own, which is killed after the test if it still
    runs.

    Hospitals wait at the points that ``held`` names until the test calls `go_on`: the run has not
    ended when the test comes to look at it, however slow the machine is.
    """
    launched: list[subprocess.Popen] = []

    def begin(
        custody: str = "{}",
        acknowledgement: int = 300,
        held: tuple[str, ...] = HELD,
        *,
        page: bool = False,
        **kwargs: object,
    ) -> tuple[subprocess.Popen, Path]:
        given = {
            "rounds": 4,
            "seconds": 0.3,
            "size": 100000,
            "transport": "ipc",
            "hop": 300,
            **kwargs,
        }
        hospitals = ", ".join(f"{{name: h{index}, architecture: buffer}}" for index in range(3))
        text = PLACEBO.format(hospitals=hospitals, **given).replace(
            "acknowledgement: 300", f"acknowledgement: {acknowledgement}"
        )
        path, out = scenario_file(text + f"custody: {custody}\n"), tmp_path / "out"
        points = [
            (name, point, int(number), "wait") for name, point, number in map(str.split, held)
        ]
        (tmp_path / "held").write_text(json.dumps(points), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(DEADLY), "DEATHS": str(tmp_path / "held")}
        command = [sys.executable, "-m", "fedskd_sim", "launch", str(path), "--out", str(out)]
        command += [] if page else ["--no-page"]  # drawing it takes a second
        heard = signal.getsignal(signal.SIGINT)
        signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # a background job ignores it, and so would its children
        launched.append(
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
        )
        signal.signal(signal.SIGINT, heard)
        return launched[-1], out

    yield begin
    for process in launched:
        process.kill()
        process.communicate()


@pytest.fixture
def program() -> Iterator[Callable[..., subprocess.Popen]]:
    """Begin what a user types; whatever the test does, it has ended afterwards, with all that it
    has started, and its pipes are closed.
    """
    launched: list[subprocess.Popen] = []

    def begin(verb: str, *arguments: object, page: bool = False) -> subprocess.Popen:
        command = [sys.executable, "-m", "fedskd_sim", verb, *map(str, arguments)]
        command += ["--no-page"] if verb == "launch" and not page else []
        pipe = subprocess.PIPE
        launched.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True))
        return launched[-1]

    yield begin
    for process in launched:
        process.kill()
        process.communicate()


@pytest.fixture
def started(begun: Callable) -> Callable[..., tuple[subprocess.Popen, Path]]:
    """Launch a placebo run and wait until every hospital has a visitor, which one of them keeps
    until the test calls `go_on`.
    """

    def start(**kwargs: Any) -> tuple[subprocess.Popen, Path]:
        process, out = begun(**kwargs)
        until(
            lambda: (
                process.poll() is not None
                or (
                    held_at(out, 0)
                    and {event["hospital"] for event in events(out, "h*", "arrived")}
                    == {"h0", "h1", "h2"}
                )
            )
        )
        assert process.poll() is None, process.communicate()
        return process, out

    return start
