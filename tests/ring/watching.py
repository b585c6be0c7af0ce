"""Launches in processes of their own, seen from outside: what they log, who runs, what is left."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

PLACEBO = """
name: placebo
hospitals: [{hospitals}]
algorithm: {{name: placebo, rounds: {rounds}, session_seconds: {seconds}, buffer_bytes: {size}}}
network: {{transport: {transport}}}
timeouts: {{register: 300, hop: {hop}, acknowledgement: 300, retry: 1, goodbye: 1, stop: 5}}
"""
PATIENCE_S = 600
HELD = ("h2 during_visit 2",)
"""Who waits where, and at the how-manieth time, as `deadly/sitecustomize.py` has it: h2 keeps its
first visitor (before that it has let its own model depart)."""
LOOK_S = 0.05
Found = TypeVar("Found")


def until(look: Callable[[], Found]) -> Found:
    """Look until there is something to see, and give it; the patience is that of somebody who
    has given up.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not (found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(look)
        time.sleep(LOOK_S)
    return found


def events(out: Path, member: str = "*", name: str = "") -> list[dict[str, Any]]:
    """Read what members have logged so far."""
    texts = [path.read_text(encoding="utf-8") for path in out.glob(f"logs/{member}.jsonl")]
    found = [
        json.loads(line)
        for text in texts
        for line in text.splitlines(keepends=True)
        if line.endswith("\n")
    ]
    return [event for event in found if name in ("", event["event"])]


def finishers(out: Path) -> set[str]:
    """Name the hospitals that have said that they are done: again as long as nobody answers."""
    return {event["hospital"] for event in events(out, "h*", "done")}


def go_on(out: Path) -> None:
    """Let the hospitals go on that are held."""
    (out.parent / "held.go").touch()


def held_at(out: Path, index: int) -> bool:
    """Say whether a hospital has come to the point at which the entry of that index holds it."""
    return (out.parent / f"held.{index}").exists()


def hospitals_of(folder: Path) -> dict[str, int]:
    """Find the process of each member by the error file it holds open."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            target = str((process / "fd" / "2").readlink())
        except OSError:
            continue
        if target.startswith(f"{folder}/logs/"):
            found[Path(target).stem] = int(process.name)
    return found


def stopped(pid: int) -> bool:
    """Tell whether a process stands still by a signal."""
    state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    return state == "T"


def processes() -> dict[int, str]:
    """Find all processes that this test has started, directly or not, by their folder for
    temporary files.
    """
    mark, found = f"TMPDIR={os.environ['TMPDIR']}".encode(), {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (
                mark in (process / "environ").read_bytes().split(b"\0")
                and int(process.name) != os.getpid()
            ):
                found[int(process.name)] = (
                    (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                )
        except OSError:
            continue
    return found


def fork_servers() -> list[int]:
    """Find the fork server that this test has started: the oldest of the processes which have
    its command line.
    """
    found = [pid for pid, line in processes().items() if "multiprocessing.forkserver" in line]
    return sorted(
        found,
        key=lambda pid: int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]),
    )[:1]


def left_behind() -> list[str]:
    """Find what the programs that this test started have put into the folder for temporary
    files; it must not outlive them.
    """
    return sorted(str(path) for path in Path(os.environ["TMPDIR"]).iterdir())
