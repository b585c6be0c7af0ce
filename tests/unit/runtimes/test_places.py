"""Where runs are put: folders of their own, also for many runs in one second, and what ~ means."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedskd_sim import clock, launch, load, read_run
from fedskd_sim.cli import main
from fedskd_sim.errors import DataMissing, FedskdError, OutputNotEmpty, OutputNotWritable
from fedskd_sim.learning.readers.places import find
from fedskd_sim.operate import run_access
from fedskd_sim.runtimes import folder, location


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a scenario, and another folder to work in."""
    (tmp_path / "home" / "data").mkdir(parents=True)
    (tmp_path / "ä b").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "ä b")
    (tmp_path / "home" / "mine.yaml").write_text(load("placebo-ok").document.text)
    return tmp_path / "home"


def test_runs_of_one_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop in a notebook, or threads, that launch several runs in a second get as many
    folders.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clock, "compact", lambda: "20260131-235959")
    loaded = load("placebo-ok")
    with ThreadPoolExecutor(4) as threads:
        made = [*threads.map(lambda _: folder.make(loaded, None, "memory"), range(8))]
    assert len({*made}) == 8
    assert all((folder / "environment.json").is_file() for folder in made)


def test_a_folder_is_had_by_one_of_two_that_want_it(tmp_path: Path) -> None:
    """All but one of those who make the same folder at once are told that it is not empty."""

    def make(_: int) -> type[FedskdError] | None:
        try:
            folder.make(loaded, tmp_path / "run", "memory")
        except FedskdError as error:
            return type(error)
        return None

    loaded = load("placebo-ok")
    with ThreadPoolExecutor(4) as threads:
        told = [*threads.map(make, range(8))]
    assert told.count(None) == 1
    assert {*told} == {None, OutputNotEmpty}
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputNotWritable, match="is no folder"):
        folder.make(loaded, tmp_path / "file", "memory")


def test_a_launcher_that_comes_up_while_it_is_looked_for_is_seen(tmp_path: Path) -> None:
    """Its place may be noted after whoever asks has found the folder, and before the logs are
    shown.
    """
    made = folder.make(load("placebo-ok"), tmp_path / "run", "processes")
    seen = run_access.run(str(made), "", "")
    assert not seen.going
    with folder.hold_lock(made):
        location.note(made, location.Here.of_this_process())
        assert seen.going
        assert [*seen.remarks()] == [f"running, process {os.getpid()}"]
    assert not seen.going


def test_the_home_folder_is_meant_wherever_a_path_begins_with_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Python, and on the command line, where a shell leaves --out=~/x as it is, no folder of
    the name ~ is made or looked for.
    """
    run = launch("~/mine.yaml", on="memory", out="~/runs/one", data="~/data")
    assert run.folder == home / "runs" / "one"
    assert read_run("~/runs/one").hops == run.hops
    for command in (
        ["launch", "~/mine.yaml", "--on", "memory", "--out=~/runs/two", "--data=~/data"],
        ["status", "~/runs/two"],
        ["verify", "~/runs/two"],
        ["export", "~/runs/two", "--out=~/tables"],
    ):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
    assert (home / "tables" / "hops.csv").is_file()
    assert not [*Path().iterdir()]
    monkeypatch.setenv("FEDSKD_DATA", "~/data")
    with pytest.raises(DataMissing, match=str(home / "data" / "x.npz")):
        find("x.npz", None)
