"""What a run ends with is on the disk before it has its name, and before custody ends."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fedskd_sim.custody import seal
from fedskd_sim.errors import OutputNotWritable
from fedskd_sim.learning.weights import save
from fedskd_sim.messages import Buffer
from fedskd_sim.observe import outcome
from fedskd_sim.runtimes import location
from fedskd_sim.wholefiles import drafted, write_text

WRITERS: dict[str, Callable[[Path], object]] = {
    "outcome.json": lambda run: outcome.begin(run, "fedskd-sim launch quickstart"),
    "seal.json": seal.seal,
    "place.json": lambda run: location.note(run, location.Here.of_this_process()),
    "a.safetensors": lambda run: save(
        {"x": Buffer("uint8", (1,), b"x")}, run / "a.safetensors", {}
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_a_run_ends_with_survives_a_power_cut(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes are on the disk before the file has its name, and then the name is."""
    asked: list[tuple[str, str]] = []
    sync, rename = os.fsync, Path.replace

    def synced(number: int) -> None:
        asked.append(("fsync", Path(f"/proc/self/fd/{number}").readlink().name))
        sync(number)

    def renamed(draft: Path, file: Path) -> Path:
        asked.append(("rename", file.name))
        return rename(draft, file)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    WRITERS[name](tmp_path)
    assert asked == [("fsync", f"{name}.draft"), ("rename", name), ("fsync", tmp_path.name)]
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_what_cannot_be_written_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full at the last moment is told as such, and half a file is nowhere."""
    file = tmp_path / "told"
    write_text(file, "before")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputNotWritable, match="no space left on device") as caught:
        write_text(file, "after")
    assert caught.value.fix.startswith("make room")
    with pytest.raises(KeyboardInterrupt):
        interrupted(file)
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("told", "before")]


def interrupted(file: Path) -> None:
    """Stop in the middle of a file."""
    with drafted(file) as draft:
        draft.write_text("half", encoding="utf-8")
        raise KeyboardInterrupt
