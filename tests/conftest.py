"""Shared by all tests: short scenarios, and the command line as a user has it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from xdist.scheduler import LoadScopeScheduling

from fedskd_sim.cli import main
from fedskd_sim.observe.events import Logged
from fedskd_sim.runtimes import folder
from fedskd_sim.runtimes.base import Order
from fedskd_sim.runtimes.member import discard_custody
from fedskd_sim.runtimes.memory import MemoryRuntime
from fedskd_sim.runtimes.processes import ProcessRuntime
from fedskd_sim.scenario import load

ROOT = Path(__file__).parent.parent
LANES = {
    "cluster": (
        {"test_endurance.py", "test_scheduling.py", "test_strangers.py"},
        {"test_afterwards.py", "test_compare_in_pods.py", "test_data_in_pods.py", "test_queue.py"},
    )
}
"""Folders whose tests have so much in common that few processes work on them: one through the files
of each set, one through all others. They take about as long."""
BY_FILE = ("chart", "unit")
"""Folders whose files are worked through by one process each: their tests share what is made
once."""
ORDER = ("cluster", "ring", "world", "chart", "unit")
"""The longest tests begin first, so that no process waits for one of them at the end."""
RUNTIMES = {"memory": MemoryRuntime, "processes": ProcessRuntime}


def room_of(path: str) -> str:
    """Give the folder of a test under tests/, from the beginning of its name."""
    return path.removeprefix("tests/").partition("/")[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say in which order tests begin, and which need a cluster."""
    for item in items:
        if room_of(item.nodeid) == "cluster":
            item.add_marker(pytest.mark.cluster)
    items.sort(
        key=lambda item: (
            ORDER.index(room) if (room := room_of(item.nodeid)) in ORDER else len(ORDER)
        )
    )


def pytest_xdist_auto_num_workers() -> int:
    """Give a process more than there are processors, and two more where there is a cluster: tests
    of runs in real time and in pods mostly wait.
    """
    return len(os.sched_getaffinity(0)) + 1 + 2 * bool(os.environ.get("FEDSKD_TEST_CLUSTER"))


class ByRoom(LoadScopeScheduling):
    """Hands tests out to several processes: some by lane, some by file, all others one by one."""

    def _split_scope(self, nodeid: str) -> str:
        room, file = room_of(nodeid), nodeid.partition("::")[0]
        if room in LANES:
            return f"{room}-{[Path(file).name in files for files in LANES[room]]}"
        return file if room in BY_FILE else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByRoom:
    """Choose the scheduler."""
    return ByRoom(config, log)


@pytest.fixture
def scenario_file(tmp_path: Path) -> Callable[[str], Path]:
    """Write scenario text to a file."""

    def write(text: str, name: str = "scenario.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """Run a scenario file to its end on a runtime and return the run folder."""
    count = iter(range(100))

    def go(
        path: Path,
        runtime: str = "memory",
        data: Path | None = None,
        watch: Callable[[Logged], None] = lambda _: None,
    ) -> Path:
        loaded = load(path)
        where = folder.make(loaded, tmp_path / f"run-{next(count)}", runtime)
        place = RUNTIMES[runtime]()
        place.launch(Order(loaded, "test", where, data))
        place.wait(watch)
        discard_custody(loaded.scenario, "test", where)
        return where

    return go


@pytest.fixture
def inside() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in this process, which has imported what a program imports first."""

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        done = CliRunner().invoke(main, [*map(str, arguments)])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)

    return call


@pytest.fixture
def cli() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a process of its own, as a user does."""

    def call(
        *arguments: object, timeout: float = 900, **options: object
    ) -> subprocess.CompletedProcess[str]:
        command = [
            shutil.which("fedskd-sim", path=str(Path(sys.executable).parent)) or "fedskd-sim",
            *map(str, arguments),
        ]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False, **options
        )

    return call
