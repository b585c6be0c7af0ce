"""Commits beside the work: what is called safe is on the disk, many become few, and what has not
changed is left alone.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event

import pytest

from fedskd_sim.custody import writer as writers
from fedskd_sim.custody.store import Commit, Store
from fedskd_sim.custody.writer import Held, Snapshot, Writer
from fedskd_sim.errors import FedskdError, HospitalCrashed, OutputNotWritable
from fedskd_sim.messages import Buffer, Weights, digest


def weights(value: int, kind: Callable = bytes) -> Weights:
    return {"x": Buffer("uint8", (8,), kind(bytes([value]) * 8))}


def snapshot(cursor: int, learner: dict[str, Weights], **models: Held) -> Snapshot:
    return Snapshot({"run": "r"}, {"cursor": cursor}, {}, learner, models, 0, 0)


class Slow(Store):
    """A disk that waits for leave before it writes the first commit."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.begun, self.leave, self.written = Event(), Event(), []

    def write(self, commit: Commit, weights: dict[str, Weights]) -> None:
        self.begun.set()
        self.leave.wait()
        super().write(commit, weights)
        self.written.append(commit.machine["cursor"])


@contextmanager
def writing(
    store: Store,
    records: Path,
    failed: Callable[[FedskdError], None] = lambda error: pytest.fail(str(error)),
) -> Iterator[Writer]:
    with closing(store), closing(Writer(store, records, failed)) as made:
        yield made


def test_many_commits_on_a_slow_disk_are_few_writes(tmp_path: Path) -> None:
    """A hundred commits that come while one is written are one more write, and all hundred are
    told, in order.
    """
    store, told = Slow(tmp_path / "a"), []
    with writing(store, tmp_path / "r") as made:
        made.commit(snapshot(0, {}), lambda: told.append(0))
        store.begun.wait()
        for cursor in range(1, 101):
            made.commit(
                snapshot(cursor, {"home": weights(cursor)}),
                lambda cursor=cursor: told.append(cursor),
            )
        assert told == []
        store.leave.set()
    assert store.written == [0, 100]
    assert told == list(range(101))
    assert {file.name for file in (tmp_path / "a" / "models").iterdir()} == {digest(weights(100))}


def test_what_is_told_is_on_the_disk(tmp_path: Path) -> None:
    """When `then` is called, another process that opens the folder, were this one dead, would
    find that very commit.
    """
    seen = []

    def look(cursor: int) -> None:
        shutil.copytree(tmp_path / "a", tmp_path / f"copy-{cursor}")
        with closing(Store(tmp_path / f"copy-{cursor}")) as copy:
            found = copy.latest()
            assert found
            seen.append(
                (cursor, found.machine["cursor"], copy.weights(found.learner["home"])["x"].data[0])
            )

    with writing(Store(tmp_path / "a"), tmp_path / "r") as made:
        for cursor in range(5):
            made.commit(
                snapshot(cursor, {"home": weights(cursor)}), lambda cursor=cursor: look(cursor)
            )
    assert [cursor for cursor, _, _ in seen] == list(range(5))
    assert all(found == value >= cursor for cursor, found, value in seen)


SCRIPT = """
import os, sys
from contextlib import closing
from pathlib import Path
from fedskd_sim.custody.store import Store
from fedskd_sim.custody.writer import Snapshot, Writer
from fedskd_sim.messages import Buffer
run = Path(sys.argv[1])
(run / "h.jsonl").write_text("{}" + chr(10))
with closing(Store(run / "a")) as store, closing(Writer(store, run / "h.jsonl", print)) as writer:
    (run / "begin").touch()
    home = {"x": Buffer("uint8", (1,), b"x")}
    writer.commit(Snapshot({}, {}, {}, {"home": home}, {}, 3, 1), (run / "told").touch)
"""


def test_the_system_is_asked_in_the_right_order(tmp_path: Path) -> None:
    """Records, weights and their folder are on the disk before the commit has its name, and its
    folder before it is told.
    """
    if not shutil.which("strace"):
        pytest.skip("no strace here")
    asked = [
        "strace",
        "-f",
        "-y",
        "-e",
        "trace=fsync,rename,renameat,renameat2,openat",
        "-o",
        tmp_path / "trace",
        sys.executable,
    ]
    subprocess.run([*asked, "-c", SCRIPT, tmp_path], check=True, capture_output=True)
    lines = (tmp_path / "trace").read_text(encoding="utf-8").splitlines()
    begin, told = ([f"/{name}" in line for line in lines].index(True) for name in ("begin", "told"))
    calls = []
    for line in lines[begin:told]:
        if found := re.search(r"fsync\(\d+<(.*?)>\) += 0", line):
            calls.append(("fsync", str(Path(found[1]).relative_to(tmp_path))))
        elif found := re.search(r'rename\w*\(.*"(.*?)"\) += 0', line):
            calls.append(("rename", str(Path(found[1]).relative_to(tmp_path))))
    model = "a/models/" + digest({"x": Buffer("uint8", (1,), b"x")})
    assert calls == [
        ("fsync", "h.jsonl"),
        ("fsync", "."),
        ("fsync", f"{model}.draft"),
        ("rename", model),
        ("fsync", "a/models"),
        ("fsync", "a/commit-00000001.json.draft"),
        ("rename", "a/commit-00000001.json"),
        ("fsync", "a"),
    ]


def test_what_has_not_changed_is_neither_hashed_nor_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same object of bytes costs nothing again; what may change is hashed each time, and
    written when it has changed.
    """
    hashed, told = [], []
    monkeypatch.setattr(
        writers, "digest", lambda some: hashed.append(some["x"].data[0]) or digest(some)
    )
    same, live = weights(1), weights(2, bytearray)
    inodes = set()
    with writing(Store(tmp_path / "a"), tmp_path / "r") as made:
        for cursor in range(4):
            done = Event()
            made.commit(snapshot(cursor, {"home": same, "last": same, "live": live}), done.set)
            assert done.wait(300)
            inodes.add((tmp_path / "a" / "models" / digest(same)).stat().st_ino)
            told.append(len(list((tmp_path / "a" / "models").iterdir())))
        live["x"].data[:] = b"changed!"
        done = Event()
        made.commit(snapshot(9, {"home": same, "live": live}), done.set)
        assert done.wait(300)
    assert hashed == [1, 2, 2, 2, 2, ord("c")]
    assert len(inodes) == 1
    assert told == [2, 2, 2, 2]
    with closing(Store(tmp_path / "a")) as store:
        found = store.latest()
        assert found
        assert bytes(store.weights(found.learner["live"])["x"].data) == b"changed!"


def test_a_model_that_waits_is_kept_as_it_came(tmp_path: Path) -> None:
    """Its memory may be trained in before the disk has it, and a newer commit may replace the
    one that it came with.
    """
    store = Slow(tmp_path / "a")
    arrived = weights(7, bytearray)
    held = Held(arrived, digest(arrived))
    with writing(store, tmp_path / "r") as made:
        made.commit(snapshot(0, {}), lambda: None)
        store.begun.wait()
        made.commit(snapshot(1, {}, m=held), lambda: None)
        arrived["x"].data[:] = b"trained!"
        committed = made.commit(snapshot(2, {}, m=held), lambda: None)
        store.leave.set()
    assert store.written == [0, 2]
    assert committed.models == {"m": held.digest}
    with closing(Store(tmp_path / "a")) as again:
        assert bytes(again.weights(held.digest)["x"].data) == bytes([7]) * 8


def test_a_failed_write_is_told_and_the_next_one_covers_it(tmp_path: Path) -> None:
    """What could not be written is an error for whoever asked to be told; nobody hears of safety
    until a commit is safe.
    """
    errors, told = [], []
    failed, held = Event(), weights(3, bytearray)
    mark = digest(held)

    def fail(error: FedskdError) -> None:
        errors.append(error)
        failed.set()

    with writing(Store(tmp_path / "a"), tmp_path / "r", fail) as made:
        done = Event()
        made.commit(snapshot(1, {"home": weights(1)}), done.set)
        assert done.wait(300)
        models = tmp_path / "a" / "models"
        models.rename(tmp_path / "elsewhere")
        made.commit(snapshot(2, {"home": weights(2)}, m=Held(held, mark)), lambda: told.append(2))
        assert failed.wait(300)
        assert told == []
        (tmp_path / "elsewhere").rename(models)
        held["x"].data[:] = b"trained!"
        made.commit(snapshot(3, {"home": weights(1)}, m=Held(held, mark)), lambda: told.append(3))
    assert told == [2, 3]
    assert [type(error) for error in errors[:1]] == [OutputNotWritable]
    with closing(Store(tmp_path / "a")) as store:
        assert bytes(store.weights(mark)["x"].data) == bytes([3]) * 8


def test_a_folder_that_vanishes_is_told(tmp_path: Path) -> None:
    """Whatever removes the folder under a hospital, its thread says so instead of dying in
    silence, and ends when asked to.
    """
    errors, failed = [], Event()

    def fail(error: FedskdError) -> None:
        errors.append(error)
        failed.set()

    store = Store(tmp_path / "a")
    write = store.write

    def removed(*given: object) -> None:
        write(*given)
        shutil.rmtree(tmp_path / "a")

    store.write = removed
    with writing(store, tmp_path / "r", fail) as made:
        made.commit(snapshot(1, {"home": weights(1)}), lambda: None)
        assert failed.wait(300)
    assert [type(error) for error in errors] == [OutputNotWritable]


def test_an_error_that_nobody_foresaw_is_told_too(tmp_path: Path) -> None:
    """The thread does not die in silence, and goes on with the next commit."""
    errors, failed, done = [], Event(), Event()

    def fail(error: FedskdError) -> None:
        errors.append(error)
        failed.set()

    with writing(Store(tmp_path / "a"), tmp_path / "r", fail) as made:
        made.commit(snapshot(1, {})._replace(numbers={"set": {1}}), lambda: None)
        assert failed.wait(300)
        made.commit(snapshot(2, {}), done.set)
        assert done.wait(300)
    assert [type(error) for error in errors] == [HospitalCrashed]


def test_closing_waits_for_what_was_queued(tmp_path: Path) -> None:
    """The last commit is safe when `close` returns, and one that comes later is not written."""
    made = Writer(
        store := Store(tmp_path / "a"), tmp_path / "r", lambda error: pytest.fail(str(error))
    )
    made.commit(snapshot(1, {}), lambda: None)
    made.close()
    made.commit(snapshot(2, {}), lambda: pytest.fail("told"))
    store.close()
    with closing(Store(tmp_path / "a")) as again:
        found = again.latest()
        assert found
        assert found.machine == {"cursor": 1}
