"""What the fork server takes of multiprocessing that Python does not promise to keep."""

from __future__ import annotations

import ast
import inspect
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing import forkserver, process, resource_tracker
from pathlib import Path
from typing import Any

import pytest

import fedskd_sim
from fedskd_sim import load
from fedskd_sim.runtimes.forkserver import Undocumented, modules_for

PACKAGE = Path(fedskd_sim.__file__).parent
NUMBER = (int, type(None))
PRIVATE: dict[str, tuple[Callable[[], Any], Any]] = {
    "process.current_process()._config": (lambda: process.current_process()._config, dict),
    "forkserver._forkserver": (lambda: forkserver._forkserver, forkserver.ForkServer),
    "forkserver._forkserver._forkserver_pid": (
        lambda: forkserver._forkserver._forkserver_pid,
        NUMBER,
    ),
    "forkserver._forkserver._forkserver_alive_fd": (
        lambda: forkserver._forkserver._forkserver_alive_fd,
        NUMBER,
    ),
    "resource_tracker._resource_tracker": (
        lambda: resource_tracker._resource_tracker,
        resource_tracker.ResourceTracker,
    ),
    "resource_tracker._resource_tracker._fd": (
        lambda: resource_tracker._resource_tracker._fd,
        NUMBER,
    ),
}
"""Every private name, how it is read, and what it is. Numbers are None until a process runs."""
CALLED = {
    "forkserver.ensure_running": forkserver.ensure_running,
    "resource_tracker.ensure_running": resource_tracker.ensure_running,
}
"""Functions that are called with nothing; they are not in Python's manual either."""
LIFE = """
import os, sys
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from fedskd_sim.runtimes.forkserver import ForkServer, let_go
if __name__ == "__main__":
    server = ForkServer.running([], Path(sys.argv[1]))
    ours = os.pidfd_open(server.pid)
    print(*[one.name for one in Path(sys.argv[1]).iterdir() if one.is_socket()][:1] and ["socket"])
    print(server == ForkServer.running([], Path(sys.argv[1])), server.death())
    let_go()
    print(bool(wait([ours], 60)), server.death(60))
"""


def changed() -> Iterator[str]:
    """Say which private names this Python has changed."""
    version = f"Python {platform.python_version()} has changed multiprocessing."
    for name, (read, kind) in PRIVATE.items():
        try:
            found = read()
        except AttributeError:
            yield f"{version}{name}: it is gone"
            continue
        if not isinstance(found, kind):
            yield f"{version}{name}: it is {found!r}"
    for name, function in CALLED.items():
        if wanted := inspect.signature(function).parameters:
            yield f"{version}{name}: it takes {', '.join(wanted)}"


def test_python_has_the_private_names_that_the_fork_server_needs() -> None:
    """Each is there, and is what it was; else the version of Python and the name are told."""
    assert [*changed()] == []


def test_a_python_that_changes_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its version, and what has become of the name."""
    monkeypatch.delattr(forkserver._forkserver, "_forkserver_pid")
    monkeypatch.setattr(resource_tracker._resource_tracker, "_fd", "a path")
    version = f"Python {platform.python_version()} has changed multiprocessing."
    assert [*changed()] == [
        f"{version}forkserver._forkserver._forkserver_pid: it is gone",
        f"{version}resource_tracker._resource_tracker._fd: it is 'a path'",
    ]


def test_private_names_of_multiprocessing_are_read_in_one_place() -> None:
    """No line of the package but those of one class has any of them."""
    names = {part for name in PRIVATE for part in name.split(".") if part.startswith("_")}
    source, first = inspect.getsourcelines(Undocumented)
    inside = range(first, first + len(source))
    found, used = [], set()
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        home = path == Path(inspect.getfile(Undocumented))
        if not home and "multiprocessing" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and node.attr in names:
                used.add(node.attr)
                if not (home and node.lineno in inside):
                    found.append(f"{path.name}:{node.lineno} {node.attr}")
    assert found == []
    assert used == names


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it tells deaths on Linux only")
def test_a_fork_server_is_where_it_was_asked_for_and_ends_when_let_go(tmp_path: Path) -> None:
    """Its socket is in the folder, its number is its own, and nothing else holds it."""
    script = tmp_path / "life.py"
    script.write_text(LIFE, encoding="utf-8")
    place = tmp_path / "s"
    place.mkdir()
    done = subprocess.run(
        [sys.executable, str(script), str(place)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["socket", "True None", "True 0"]


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("quickstart", False),
        ("fedskin-ham10000", False),
        ("medmnist-dirichlet", False), ("heart", False), ("roi-synthetic", False),
        ("images-table", False),
        ("roi-private", True), ("skin-pretrained", True), ("torchvision-classes", True),
    ],
)  # fmt: skip
def test_a_compiler_is_imported_for_whom_it_computes(name: str, *, needed: bool) -> None:
    """Shapes of large networks, and gradients sample by sample."""
    assert ("torch._dynamo" in modules_for(load(name).scenario)) == needed


def test_the_name_of_a_file_says_how_large_its_images_are() -> None:
    """As MedMNIST's files of 64 to 224 pixels have it."""
    large = load("medmnist-dirichlet", "data.file=bloodmnist_224.npz").scenario
    assert "torch._dynamo" in modules_for(large)
