"""A hospital's files, on their way to another place."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path, PurePath
from threading import Thread
from typing import Any

import pytest

from fedskd_sim.errors import OutputNotWritable, RegistrationTimeout, RunUnreadable
from fedskd_sim.observe.events import Entry, EventLog, Starting
from fedskd_sim.runtimes import handover
from fedskd_sim.runtimes import served as folders
from fedskd_sim.runtimes.handover import (
    FETCHED_PATH,
    KEPT_PATH,
    RESULTS_PATH,
    TAKEN_PATH,
    FolderClient,
    FolderServer,
    token_of,
)
from fedskd_sim.runtimes.member import FETCHED, MemberOrder
from fedskd_sim.runtimes.served import BROUGHT, PLACED

SCENARIO = """
name: moves
hospitals: [{name: a, architecture: buffer}, {name: b, architecture: buffer}]
algorithm: {name: placebo, rounds: 1}
"""
TOKEN = token_of(b"s" * 32, "run", "a")
Served = Callable[[Path], FolderClient]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with the custody and the records of two hospitals."""
    for name in "ab":
        (tmp_path / "run" / "custody" / name / "models").mkdir(parents=True)
        (tmp_path / "run" / "custody" / name / "commit-00000007.json").write_text(
            f"seven of {name}"
        )
        (tmp_path / "run" / "custody" / name / "models" / "d1").write_bytes(b"weights" * 300_000)
        (tmp_path / "run" / "records").mkdir(exist_ok=True)
        (tmp_path / "run" / "records" / f"{name}.jsonl").write_text(f"records of {name}\n")
        (tmp_path / "run" / "custody" / f"{name}.started").write_text("1795804664.8\n")
        (tmp_path / "run" / "custody" / f"{name}.faults").write_text("0\n")
    return tmp_path / "run"


@pytest.fixture
def served() -> Iterator[Served]:
    """Serve folders of ``a``, and come to them over TCP."""
    servers = list[FolderServer]()

    def serve(folder: Path) -> FolderClient:
        servers.append(server := FolderServer.start(folder, "a", TOKEN, 0))
        return FolderClient(lambda: HTTPConnection("127.0.0.1", server.port, timeout=60), TOKEN)

    yield serve
    for one in servers:
        one.close()


def test_a_part_of_the_data_takes_the_place_of_another(tmp_path: Path) -> None:
    """Nothing of the earlier one is left; other files are neither taken nor served; what came is
    its owner's alone.
    """
    there, first, second = (empty(tmp_path, name) for name in ("claim", "first", "second"))
    (there / "lost+found").mkdir()
    (there / "other.csv").write_text("somebody's")
    for part, names in (
        (first, ("samples.npy", "atlas.npy", "part.json")),
        (second, ("samples.npy", "part.json")),
    ):
        for name in names:
            (part / name).write_text(f"{name} of {part.name}")
    with closing(FolderServer.start(there, "a", TOKEN, 0, folders.DATA_FOLDER)) as server:
        client = FolderClient(lambda: HTTPConnection("127.0.0.1", server.port, timeout=60), TOKEN)
        with pytest.raises(LookupError):
            client.read("part.json")
        for part in (first, second):
            client.bring(part, folders.list_part(part, ""))
            assert files(there) == files(part) | {"other.csv": b"somebody's"}
            assert {one.name for one in client.list(RESULTS_PATH)} == files(part).keys()
        assert client.read("part.json") == "part.json of second"
        client.tell(TAKEN_PATH)
        assert files(there) == {"other.csv": b"somebody's"}
        client.bring(second, folders.list_part(second, ""))
        with pytest.raises(LookupError):
            client.read("other.csv")
        with pytest.raises(ConnectionError, match="403"):
            client.bring(there, [PurePath("other.csv")])
    assert (there / "samples.npy").stat().st_mode & 0o077 == 0


class Weak:
    """A connection that breaks after so many bytes of an answer, whatever was asked."""

    def __init__(self, client: FolderClient, most: int) -> None:
        self.client, self.most = client, most

    def connect(self) -> HTTPConnection:
        ours, theirs = socket.socketpair()
        real = self.client.connect()
        real.connect()

        def carry() -> None:
            real.sock.sendall(theirs.recv(1 << 16))
            left = self.most
            while left and (block := real.sock.recv(min(left, 1 << 16))):
                theirs.sendall(block)
                left -= len(block)
            theirs.close()
            real.close()

        Thread(target=carry).start()
        connection = HTTPConnection("there")
        connection.sock = ours
        return connection


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def empty(tmp_path: Path, name: str = "there") -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


def test_what_is_brought_arrives_as_it_was(run: Path, served: Served, tmp_path: Path) -> None:
    """Custody and books of one hospital, and nothing of another's; what an older life had kept
    there is gone. A second time changes nothing: the hospital is at work with it.
    """
    there = empty(tmp_path, "pod")
    (there / "custody" / "a").mkdir(parents=True)
    (there / "custody" / "a" / "commit-00000009.json").write_text("of another life")
    (there / "custody" / "c").mkdir()
    (there / "custody" / "c" / "commit-00000001.json").write_text("of somebody else")
    client = served(there)
    client.bring(run, folders.list_kept(run, "a"))
    mine = {name: data for name, data in files(run).items() if "/a" in name}
    assert len(mine) == 5
    arrived = mine | {"custody/c/commit-00000001.json": b"of somebody else", PLACED: b""}
    assert files(there) == arrived
    (there / "custody" / "a" / "commit-00000007.json").unlink()
    client.bring(run, folders.list_kept(run, "a"))
    assert "custody/a/commit-00000007.json" not in files(there)
    assert (there / "custody" / "a").stat().st_mode & 0o777 == 0o700


def test_what_is_taken_is_nowhere_else(run: Path, served: Served, tmp_path: Path) -> None:
    """It is removed there once it is here, and then there is nothing to be taken."""
    client, came = served(run), empty(tmp_path, BROUGHT)
    before = {name: data for name, data in files(run).items() if "/a" in name}
    client.fetch(KEPT_PATH, "a", came)
    folders.move(came, empty(tmp_path))
    assert files(tmp_path / "there") == before
    assert not came.exists()
    client.tell(TAKEN_PATH)
    assert not (run / "custody" / "a").exists()
    with pytest.raises(LookupError, match="'a' could go on"):
        client.fetch(KEPT_PATH, "a", tmp_path / "again")


def test_results_are_of_every_kind(run: Path, served: Served, tmp_path: Path) -> None:
    """Books, log, weights and what was kept of sessions come; drafts, another hospital's files and
    half a line do not.
    """
    mine = {
        "logs/a.jsonl": b"{}\n{}\n", "weights/a.safetensors": b"w" * 5_000_000,
        "weights/a.ensemble.b.safetensors": b"e", "hops/a/visit-1-1-b.json": b"{}",
        "hops/a/0123": b"", "metrics/a.prom": b"m", "predictions/a.npz": b"p",
        "similarity/a.1-2.npz": b"s", "pictures/a.npz": b"i",
        "audit/a.npz": b"l",
    }  # fmt: skip
    others = {"weights/b.safetensors": b"w", "hops/b/x": b"x", "weights/a.x.draft": b"d"}
    for name, data in {**mine, **others}.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(data)
    with (run / "records" / "a.jsonl").open("ab") as stream:
        stream.write(b'{"half')
    client, came = served(run), tmp_path / "came"
    client.fetch(RESULTS_PATH, "a", came)
    assert files(came) == {**mine, "records/a.jsonl": b"records of a\n"}
    for name in ("weights/a.safetensors", "audit/a.npz"):
        assert (came / name).stat().st_mode & 0o777 == 0o600
    assert not (run / FETCHED).exists()
    client.tell(FETCHED_PATH)
    assert (run / FETCHED).exists()


@pytest.mark.parametrize("most", [0, 20, 200, 100_000, 1_500_000])
def test_a_broken_connection_goes_on_where_it_broke_off(
    run: Path, served: Served, tmp_path: Path, most: int
) -> None:
    """Whatever has come stays, and the next try asks for the rest only; nothing is in the run
    folder meanwhile.
    """
    client, came = served(run), tmp_path / "came"
    weak = FolderClient(Weak(client, most).connect, TOKEN)
    with pytest.raises(ConnectionError):
        weak.fetch(KEPT_PATH, "a", came)
    tries, whole = 1, files(run)["custody/a/models/d1"]
    if most < 1000:
        client.fetch(KEPT_PATH, "a", came)
    else:
        client._fetch_file(folders.offer(run, Path("custody/a/commit-00000007.json")), came)
        one = folders.offer(run, Path("custody/a/models/d1"))
        while len((came / one.name).read_bytes() if (came / one.name).exists() else b"") < one.size:
            tries += 1
            with suppress(ConnectionError):
                weak._fetch_file(one, came)
        assert tries > len(whole) // most
    assert (came / "custody/a/models/d1").read_bytes() == whole


def test_what_is_not_what_was_offered_is_fetched_anew(
    run: Path, served: Served, tmp_path: Path
) -> None:
    """Bytes of an earlier file under the same name do not stay."""
    client, came = served(run), tmp_path / "came"
    (came / "custody" / "a" / "models").mkdir(parents=True)
    (came / "custody" / "a" / "models" / "d1").write_bytes(b"other bytes")
    with pytest.raises(ConnectionError, match="not what was offered"):
        client.fetch(KEPT_PATH, "a", came)
    client.fetch(KEPT_PATH, "a", came)
    assert files(came)["custody/a/models/d1"] == files(run)["custody/a/models/d1"]


def test_without_the_token_nothing_is_served_or_taken(
    run: Path, served: Served, tmp_path: Path
) -> None:
    """Neither is it with another hospital's."""
    before, client = files(run), served(run)
    for token in ("", "x", token_of(b"s" * 32, "run", "b"), token_of(b"s" * 32, "ran", "a")):
        stranger = FolderClient(client.connect, token)
        for act in (
            lambda one: one.fetch(RESULTS_PATH, "a", tmp_path / "came"),
            lambda one: one.bring(run, folders.list_kept(run, "a")),
            lambda one: one.tell(TAKEN_PATH),
        ):
            with pytest.raises(ConnectionError, match="401"):
                act(stranger)
    assert files(run) == before


@pytest.mark.parametrize(
    "path",
    ["/files/../secret", "/files/records/b.jsonl", "/files/%2e%2e/secret", "/files//etc/passwd",
     "/files/scenario.yaml", "/files/custody/b/commit-00000007.json", "/etc/passwd"],
)  # fmt: skip
def test_nothing_else_is_served_or_taken(
    run: Path, served: Served, tmp_path: Path, path: str
) -> None:
    """Files of others, of the run, and outside of it."""
    (tmp_path / "secret").write_text("secret")
    (run / "scenario.yaml").write_text("name: x")
    before, client = files(tmp_path), served(run)
    with pytest.raises(LookupError):
        client._ask("GET", path)
    with (run / "scenario.yaml").open("rb") as body, pytest.raises((ConnectionError, LookupError)):
        client._ask("PUT", path, body)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "name",
    ["place.json", "records/b.jsonl", "custody/b/commit-1.json", "a/b", "../a.jsonl", "/a.jsonl"],
)
def test_a_hospital_writes_its_own_files_only(
    run: Path, served: Served, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a pod offers is refused whole if a file of it is another's, or the run's."""
    real: Any = folders.offer
    monkeypatch.setattr(
        handover, "offer", lambda folder, one: real(folder, one)._replace(name=name)
    )
    with pytest.raises(ConnectionError, match="is not a file of 'a'"):
        served(run).fetch(RESULTS_PATH, "a", tmp_path / "came")
    assert not (tmp_path / "came").exists()


@pytest.mark.parametrize("said", ["", "{", "[1]", '[["records/a.jsonl"]]', '{"a": 1}'])
def test_a_list_that_is_none_is_a_broken_connection(
    run: Path, served: Served, tmp_path: Path, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a hospital answers, the launcher has words for it."""
    monkeypatch.setattr(handover.json, "dumps", lambda _: said)
    with pytest.raises(ConnectionError):
        served(run).fetch(RESULTS_PATH, "a", tmp_path / "came")


def test_a_full_disk_is_the_disks(run: Path, served: Served, tmp_path: Path) -> None:
    """... and no broken connection, after which one would try again."""
    (tmp_path / "came").mkdir()
    (tmp_path / "came" / "custody").write_text("in the way")
    with pytest.raises(OutputNotWritable, match="cannot be written"):
        served(run).fetch(KEPT_PATH, "a", tmp_path / "came")


def test_a_hospital_of_which_nothing_was_kept_is_named(run: Path) -> None:
    """Words instead of an empty list."""
    with pytest.raises(RunUnreadable, match="'c' could go on"):
        folders.list_kept(run, "c")


def order(folder: Path, direction: str) -> MemberOrder:
    (folder / "scenario.yaml").write_text(SCENARIO, encoding="utf-8")
    return MemberOrder(
        folder / "scenario.yaml", "a", "r", folder, "", "", patience=0.3, custody=direction
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("direction", ["in", "out"])
def test_nobody_waits_for_ever(direction: str, tmp_path: Path) -> None:
    """A hospital says that it waits, and ends with words when nobody comes."""
    said = []
    log = EventLog(
        type("Stream", (), {"write": lambda _, text: said.append(text), "flush": lambda _: None})(),
        {},
    )  # type: ignore[arg-type]
    with pytest.raises(RegistrationTimeout, match="nobody has"):
        handover.wait(order(tmp_path, direction), log)
    assert "awaits_custody" in said[0]


def test_what_is_there_is_not_waited_for(run: Path, tmp_path: Path) -> None:
    """The next pod of a hospital on a claim finds what was brought to the one before, which is
    further by now.
    """
    with (tmp_path / "log").open("w") as stream:
        handover.wait(order(run, "in"), EventLog(stream, {}))
    assert (tmp_path / "log").read_text() == ""


def test_a_hospital_in_a_pod_keeps_its_log_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same as on standard output, but for entries, which have files of their own."""
    told = MemberOrder(tmp_path / "s", "a", "r", tmp_path, "", "", to_stdout=True)
    for _ in range(2):
        with told.log(hospital="a") as log:
            log.event(Starting())
            log.event(Entry("records", "{}"))
    shown = capsys.readouterr().out.splitlines()
    kept = (tmp_path / "logs" / "a.jsonl").read_text().splitlines()
    assert len(shown) == 4
    assert kept == [line for line in shown if '"entry"' not in line] != []
    with MemberOrder(tmp_path / "s", "controller", "r", tmp_path, "", "", to_stdout=True).log():
        assert [path.name for path in (tmp_path / "logs").iterdir()] == ["a.jsonl"]


def test_a_server_ends_with_what_it_serves(run: Path) -> None:
    """No thread is left, and the port is free."""
    with closing(FolderServer.start(run, "a", TOKEN, 0)) as server:
        port = server.port
    assert not server.thread.is_alive()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    shutil.rmtree(run)
