"""Run folders that somebody gave you: going on with one harms nothing of yours."""

from __future__ import annotations

import json
import os
import platform
import shutil
import stat
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

import pytest
from bending import SMALL, commit
from click.testing import CliRunner, Result

from fedskd_sim.cli import main
from fedskd_sim.custody.store import Store
from fedskd_sim.errors import CustodyForeign, RunUnreadable
from fedskd_sim.operate.resumption import to_resume
from fedskd_sim.runtimes import folder as folders
from fedskd_sim.runtimes import location
from fedskd_sim.runtimes.handover import FolderClient, FolderServer, token_of
from fedskd_sim.runtimes.life import meaning
from fedskd_sim.runtimes.member import discard_custody
from fedskd_sim.runtimes.processes import ProcessRuntime
from fedskd_sim.runtimes.served import list_kept
from fedskd_sim.scenario import load

RUN = "0123abcd"
TEXT = """
name: friendly
hospitals: [{{name: aa, architecture: buffer}}, {{name: bb, architecture: buffer}}]
algorithm: {{name: placebo, rounds: 1, buffer_bytes: 1000}}
{more}
"""


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder of yours, with a file in it and one in ``models``."""
    (tmp_path / "work" / "models").mkdir(parents=True)
    for name in ("thesis.txt", "models/best.pt", "models/" + "0" * 32, "commit-00000001.json"):
        (tmp_path / "work" / name).write_text("precious")
    return tmp_path / "work"


@pytest.fixture
def given(tmp_path: Path) -> Callable[..., Path]:
    """Make a run folder as somebody may have forged it."""

    def make(run: str = RUN, more: str = "") -> Path:
        file = tmp_path / "friendly.yaml"
        file.write_text(TEXT.format(more=more), encoding="utf-8")
        made = folders.make(load(file), tmp_path / "given", "processes")
        place = {"pid": 2**22 + 1, "born": 1.0, "machine": platform.node()}
        (made / "place.json").write_text(json.dumps({**place, "runtime": "processes", "run": run}))
        return made

    return make


def files(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def call(verb: str, run: Path) -> Result:
    done = CliRunner().invoke(main, [verb, str(run)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


@pytest.mark.parametrize(
    "run", ["/absolute", "../work", "..", ".", "abc", "0123ABCD", "0123abcd\n"]
)
def test_a_name_of_a_run_leads_nowhere(
    run: str, given: Callable, precious: Path, tmp_path: Path
) -> None:
    """Whatever ``place.json`` says, only eight hexadecimal digits name a run: no folder of yours
    is removed with the custody.
    """
    run, before = str(precious) if run == "/absolute" else run, files(precious)
    made = given(run, f"custody: {{folder: {tmp_path / 'kept'}}}")
    for verb in ("resume", "status", "stop"):
        done = call(verb, made)
        assert (done.exit_code, "place.json" in done.output) == (34, True), done.output
    assert files(precious) == before
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    "link",
    [
        "custody", "custody/aa", "custody/aa/models", "custody/aa/.lock", "custody/aa.faults",
        "records", "records/aa.jsonl", "samples/aa.jsonl", "timings/bb.jsonl", "logs/aa.jsonl",
        "logs/aa.err", "weights", "metrics", "predictions", ".lock", "place.json.draft",
        "outcome.json.draft", "seal.json",
    ],
)  # fmt: skip
def test_no_link_is_followed(link: str, given: Callable, precious: Path) -> None:
    """A link anywhere in a run folder is named, and nothing behind it is written or removed."""
    before, made = files(precious), given()
    place = made / link
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir():
        place.rmdir()
    leads = precious if "." not in place.name or place.name == ".." else precious / "thesis.txt"
    place.symlink_to(leads)
    done = call("resume", made)
    assert (done.exit_code, f"{link} is a link" in done.output) == (34, True), done.output
    assert files(precious) == before


def test_custody_is_removed_only_where_it_is_custody(
    given: Callable, precious: Path, tmp_path: Path
) -> None:
    """Of a folder that a scenario names as that of its custody, nothing goes without a commit of
    this run and hospital; where there is one, commits and weights go and what else is there stays.
    """
    kept = tmp_path / "kept" / RUN
    made = given(more=f"custody: {{folder: {tmp_path / 'kept'}}}")
    scenario = load(made / "scenario.yaml").scenario
    kept.mkdir(parents=True)
    precious.rename(kept / "aa")
    before = files(tmp_path / "kept")
    discard_custody(scenario, RUN, made)
    assert files(tmp_path / "kept") == before
    for whose in ({"run": "89abcdef", "hospital": "bb"}, {"run": RUN, "hospital": "bb"}):
        with closing(Store(kept / "bb")) as store:
            made_, weights = commit(1, SMALL)
            store.write(made_._replace(identity=whose), weights)
        (kept / "bb" / "notes.txt").write_text("precious")
        there = files(kept / "bb")
        discard_custody(scenario, RUN, made)
        gone = whose["run"] == RUN
        assert len(files(kept / "bb")) == (1 if gone else len(there))
    assert [*files(kept / "bb").values()] == [b"precious"]
    assert files(kept / "aa").items() <= before.items()
    assert len(files(kept / "aa")) == len(before)


def test_a_custody_elsewhere_is_not_begun(given: Callable, tmp_path: Path) -> None:
    """Where a scenario's folder of custody holds nothing of the run, nothing is made there."""
    made = given(more=f"custody: {{folder: {tmp_path / 'kept'}}}")
    done = call("resume", made)
    assert (done.exit_code, "nothing" in done.output) == (34, True), done.output
    assert not (tmp_path / "kept").exists()


def test_only_weights_and_commits_are_collected(tmp_path: Path) -> None:
    """What lies in a custody under any other name stays, drafts of others included."""
    with closing(Store(tmp_path / "c" / "a")) as store:
        for number in range(1, 5):
            store.write(*commit(number, SMALL))
        for name in ("models/best.pt", "models/my.draft", "notes.draft", "commit-1.json"):
            (tmp_path / "c" / "a" / name).write_text("precious")
        (tmp_path / "c" / "a" / "models" / ("1" * 32)).write_text("")
        store.remove(store.release_unneeded())
    left = {name for name, data in files(tmp_path).items() if data == b"precious"}
    assert len(left) == 4
    assert not (tmp_path / "c" / "a" / "models" / ("1" * 32)).exists()
    for link in ("c", "c/b", "c/b/models"):
        place = tmp_path / "links" / link
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(tmp_path / "c" / "a")
        with pytest.raises(RunUnreadable, match="is a link"):
            Store(tmp_path / "links" / "c" / "b")
        place.unlink()


def test_only_who_holds_the_run_folder_is_stopped(given: Callable) -> None:
    """A process of yours that a forged place.json describes, to the moment of its birth, is no
    launcher of it: it is neither shown as such nor signalled.
    """
    made = given()
    location.note(made, location.Here.of_this_process())
    assert "not running any more" in call("status", made).output
    assert "nothing to stop" in call("stop", made).output
    with folders.hold_lock(made):
        assert f"running, process {os.getpid()}" in call("status", made).output


def kept_in(run: Path, name: str, lines: int = 1) -> Path:
    """Give a hospital of a run records and a custody that goes on behind them."""
    scenario = load(run / "scenario.yaml").scenario
    records = run / "records" / f"{name}.jsonl"
    records.write_text("{}\n" * lines, encoding="utf-8")
    identity = {"run": RUN, "hospital": name, "scenario": meaning(scenario)}
    with closing(Store(run / "custody" / name)) as store:
        made, weights = commit(1, SMALL)
        store.write(made._replace(identity=identity, records=3 * lines, lines=lines), weights)
    return records


@pytest.fixture
def resumable(given: Callable) -> Path:
    """Make a run folder in which two hospitals have kept what they go on from."""
    made: Path = given()
    for name in ("aa", "bb"):
        kept_in(made, name, 3)
    return made


def prepared(run: Path, *, anyway: bool = False) -> str:
    """Go through everything that is looked at before a run is gone on with, and give its name."""
    with to_resume(run, anyway=anyway) as (_, order):
        return order.run


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start no fork server."""
    monkeypatch.setattr(ProcessRuntime, "prepare", lambda *_: None)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("all_", [False, True])
def test_records_whose_custody_is_gone_are_not_wiped(resumable: Path, *, all_: bool) -> None:
    """Records of which nothing is in custody any more are refused, by file, before anything is
    opened; all of them together are begun anew if that is asked for.
    """
    shutil.rmtree(resumable / "custody" / ("" if all_ else "aa"))
    before = files(resumable)
    with pytest.raises(
        RunUnreadable, match="3 records, and the hospital's custody is gone"
    ) as told:
        prepared(resumable)
    assert (told.value.where and told.value.where.file) == str(resumable / "records" / "aa.jsonl")
    assert ("--anyway" in told.value.fix) == all_
    if all_:
        assert prepared(resumable, anyway=True) == RUN
    else:
        with pytest.raises(RunUnreadable, match="custody is gone"):
            prepared(resumable, anyway=True)
    assert {**files(resumable), str(resumable / ".lock"): b""} == before | {
        str(resumable / ".lock"): b""
    }


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("cut", ["cut", "gone"])
def test_records_that_are_too_short_are_refused(resumable: Path, cut: str) -> None:
    """Records that end before what custody goes on behind are named before anything starts."""
    file = resumable / "records" / "bb.jsonl"
    file.write_text("{}\n") if cut == "cut" else file.unlink()
    with pytest.raises(RunUnreadable, match="custody goes on behind 9") as told:
        prepared(resumable)
    assert (told.value.where and told.value.where.file) == str(file)


@pytest.mark.usefixtures("quick")
def test_a_scenario_is_compared_by_what_it_means(resumable: Path) -> None:
    """A comment, another order and a longer patience are no other scenario; another value is told
    by its line, as it was and as it is.
    """
    file = resumable / "scenario.yaml"
    text = file.read_text()
    file.write_text(f"# mine\n\n{text}timeouts: {{hop: 900}}\ndescription: mine\n")
    assert prepared(resumable) == RUN
    file.write_text(text.replace("rounds: 1", "rounds: 7"))
    with pytest.raises(CustodyForeign, match=r"algorithm\.rounds was 1 and is 7") as told:
        prepared(resumable, anyway=True)
    assert str(told.value.where) == f"{resumable / 'scenario.yaml'}:4"
    file.write_text(text.replace("}]", "}, {name: cc, architecture: buffer}]"))
    with pytest.raises(CustodyForeign, match=r"hospitals\.2\.\S+ was left out and is \S*cc|buffer"):
        prepared(resumable)


@pytest.mark.usefixtures("quick")
def test_a_run_of_a_renamed_machine_goes_on(resumable: Path) -> None:
    """The boot tells a machine, whatever it is called; where neither is known, `--anyway` does."""
    here = location.Here.of_this_process()
    renamed = replace(here, pid=2**22 + 1, machine="as it was called before", run=RUN)
    location.note(resumable, renamed)
    assert prepared(resumable) == RUN
    location.note(resumable, replace(renamed, boot="another"))
    with pytest.raises(RunUnreadable, match="may still go on there") as told:
        prepared(resumable)
    assert "--anyway" in told.value.fix
    assert prepared(resumable, anyway=True) == RUN


def test_a_run_in_memory_is_told_to_be_one(resumable: Path) -> None:
    """It keeps no state, and its folder holds all that another run needs."""
    file = resumable / location.FILE
    there = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**there, "run": ""}), encoding="utf-8")
    with pytest.raises(RunUnreadable, match="it ran in memory") as caught:
        prepared(resumable)
    assert "--on processes" in caught.value.fix


@pytest.mark.usefixtures("quick")
def test_custody_tells_which_run_it_is_of(resumable: Path) -> None:
    """Without place.json the commits tell the run's name, if all are of one; logs and other
    folders that somebody has removed are made anew.
    """
    (resumable / location.FILE).unlink()
    for name in ("logs", "metrics", "weights"):
        shutil.rmtree(resumable / name)
    assert prepared(resumable) == RUN
    assert (resumable / "logs").is_dir()
    shutil.rmtree(resumable / "custody")
    with pytest.raises(RunUnreadable, match="no run that was launched from it"):
        prepared(resumable)


def test_what_shows_patients_or_weights_is_its_owners_alone(resumable: Path) -> None:
    """Nobody else reads custody, nor lists it, in a run folder and where it was brought."""
    there = resumable.parent / "there"
    there.mkdir()
    token = token_of(b"s" * 32, RUN, "aa")
    with closing(FolderServer.start(there, "aa", token, 0)) as server:
        client = FolderClient(partial(HTTPConnection, "127.0.0.1", server.port), token)
        client.bring(resumable, list_kept(resumable, "aa"))
    for home in (resumable / "custody", there / "custody"):
        found = [home, *home.rglob("*")]
        assert {stat.S_IMODE(one.stat().st_mode) & 0o077 for one in found} == {0}
