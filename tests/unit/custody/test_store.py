"""Custody on disk: whatever is cut, bent, full or in use, the last good commit stands."""

from __future__ import annotations

import math
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from bending import OTHER, SECRET, SMALL, Bender, commit, forged, judge, kept, restored

from fedskd_sim.custody import files
from fedskd_sim.custody.store import Store
from fedskd_sim.errors import DigestMismatch, OutputNotWritable, RunUnreadable
from fedskd_sim.messages import Buffer, Weights, digest

BENT = 3_000
MEMORY = 64 << 20
LARGE: Weights = {"w": Buffer("float32", (300, 300), random.Random(1).randbytes(360_000))}


def cursor(folder: Path) -> int | None:
    with closing(Store(folder)) as store:
        found = store.latest()
        return found and found.machine["cursor"]


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """Give a folder in memory, where thousands of custodies are opened in seconds; the usual one
    where there is none.
    """
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def test_a_commit_comes_back_as_it_was(tmp_path: Path) -> None:
    """Numbers, digests and weights are read as they were written, the last bit of every float
    and None included.
    """
    made, weights = commit(1, SMALL, OTHER, {})
    numbers = {
        "unspent": 0.1 + 0.2,
        "tiny": 5e-324,
        "endless": math.inf,
        "none": None,
        "list": [1, {"a": True}],
        "text": "ä\n",
    }
    made = made._replace(numbers=numbers)
    with closing(Store(tmp_path / "a")) as store:
        assert store.latest() is None
        store.write(made, weights)
    with closing(Store(tmp_path / "a")) as store:
        assert store.latest() == made
        assert {mark: store.weights(mark) for mark in weights} == weights
        assert all(
            type(buffer.data) is bytes
            for some in weights
            for buffer in store.weights(some).values()
        )


@pytest.mark.parametrize("which", ["commit-00000002.json", "models/" + digest(OTHER)])
def test_a_file_cut_at_any_byte_leaves_the_commit_before(quick: Path, which: str) -> None:
    """Every cut of the last commit, or of weights that only it names, is noticed, said, and the
    one before it is used.
    """
    whole = kept(quick / "a")
    assert cursor(quick / "a") == 2
    for cut in range(len(whole[which])):
        restored(quick / "a", {**whole, which: whole[which][:cut]})
        with closing(Store(quick / "a")) as store:
            found = store.latest()
            assert found
            assert (found.machine["cursor"], len(store.damaged)) == (1, 1), cut
            assert store.weights(digest(SMALL)) == SMALL


def test_large_weights_cut_anywhere_leave_the_commit_before(quick: Path) -> None:
    """The same for 2,000 random cuts of a large file; it is shortened step by step."""
    with closing(Store(quick / "a")) as store:
        store.write(*commit(1, SMALL))
        store.write(*commit(2, LARGE))
    file = quick / "a" / "models" / digest(LARGE)
    for cut in sorted(random.Random(1).sample(range(file.stat().st_size), 2000), reverse=True):
        os.truncate(file, cut)
        with closing(Store(quick / "a")) as store:
            found = store.latest()
            assert found
            assert (found.machine["cursor"], len(store.damaged)) == (1, 1), cut
    with closing(Store(quick / "a")) as store:
        store.write(*commit(3, SMALL))
        store.remove(store.release_unneeded())
    assert not file.exists()


def test_where_no_commit_is_whole_nothing_begins_anew_in_silence(tmp_path: Path) -> None:
    """Commits of which none is good are an error, not an empty custody, and what is there stays
    for whoever wants to look.
    """
    whole = kept(tmp_path / "a")
    bad = {name: data[:-1] if name.startswith("commit") else data for name, data in whole.items()}
    restored(tmp_path / "a", bad)
    with closing(Store(tmp_path / "a")) as store, pytest.raises(RunUnreadable, match="checksum"):
        store.latest()
    assert {
        str(file.relative_to(tmp_path / "a"))
        for file in (tmp_path / "a").rglob("*")
        if file.is_file()
    } == set(whole)


def test_another_version_is_named(tmp_path: Path) -> None:
    """A commit of another form is not guessed at."""
    whole = kept(tmp_path / "a")
    newer = {name: data.replace(b"commit 1 ", b"commit 2 ") for name, data in whole.items()}
    restored(tmp_path / "a", newer)
    with closing(Store(tmp_path / "a")) as store, pytest.raises(RunUnreadable, match="version"):
        store.latest()


def test_thousands_of_bent_custodies_do_no_harm(quick: Path) -> None:
    """Whatever bends a commit or weights, forged checksums included: only our errors, no 64 MiB,
    and nothing read from outside.
    """
    whole = kept(quick / "c" / "a")
    (quick / SECRET).write_bytes(b"secret")
    accepted = 0
    for number in range(BENT):
        restored(quick / "c" / "a", Bender(1, number).bent(whole))
        if number % 10 == 0:
            tracemalloc.start()
        try:
            accepted += judge(quick / "c" / "a") > 0
            assert tracemalloc.get_traced_memory()[1] < MEMORY, number
        except Exception as error:
            error.add_note(f"Bender(1, {number})")
            raise
        finally:
            tracemalloc.stop()
    assert BENT / 4 < accepted < BENT


@pytest.mark.parametrize("body", [b'{"":0},', b"[0],"])
def test_the_largest_commit_costs_less_than_64_mib(quick: Path, body: bytes) -> None:
    """What fits into a commit's limit, however many things it promises, is read and refused in
    less than 64 MiB.
    """
    whole = kept(quick / "a")
    many = b"[" + body * (files.COMMIT_LIMIT // len(body) - 1)
    restored(
        quick / "a", {**whole, "commit-00000002.json": forged((many + b"0]")[: files.COMMIT_LIMIT])}
    )
    tracemalloc.start()
    try:
        assert judge(quick / "a") == 2
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("row", [b"\n", b"%d|bool|(0,)\n", b"|"])
def test_the_largest_table_costs_less_than_64_mib(tmp_path: Path, row: bytes) -> None:
    """A table of tensors as long as it may be is read, or refused, in less than 64 MiB."""
    rows = [
        row.replace(b"%d", str(number).encode()) for number in range(files.TABLE_LIMIT // len(row))
    ]
    table = b"".join(rows)[: files.TABLE_LIMIT]
    file = tmp_path / "w"
    file.write_bytes(files.MAGIC + len(table).to_bytes(4, "little") + table)
    tracemalloc.start()
    try:
        with pytest.raises((RunUnreadable, DigestMismatch)):
            files.read_weights(file, SECRET)
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "forged",
    [
        f"../../{SECRET}",
        "../" * 9 + "etc/passwd",
        "",
        ".",
        SECRET[:-1],
        SECRET.upper() + "G",
        "g" * 32,
    ],
)
def test_a_forged_digest_leads_nowhere(tmp_path: Path, forged: str) -> None:
    """Only 32 hexadecimal digits are a digest: nothing else becomes a path."""
    (tmp_path / SECRET).write_bytes(b"secret")
    with (
        closing(Store(tmp_path / "a" / "b")) as store,
        pytest.raises(RunUnreadable, match="no digest"),
    ):
        store.weights(forged)


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    """A pipe or a link in the place of weights is refused, and nobody waits for it."""
    with closing(Store(tmp_path / "a")) as store:
        place = tmp_path / "a" / "models" / SECRET
        os.mkfifo(place)
        with pytest.raises(RunUnreadable):
            store.weights(SECRET)
        place.unlink()
        place.symlink_to("/etc/passwd")
        with pytest.raises(RunUnreadable):
            store.weights(SECRET)


def test_weights_are_checked_when_they_are_read(tmp_path: Path) -> None:
    """A bit that has flipped on the disk is found by the digest."""
    kept(tmp_path / "a")
    file = tmp_path / "a" / "models" / digest(OTHER)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with closing(Store(tmp_path / "a")) as store, pytest.raises(DigestMismatch):
        store.weights(digest(OTHER))


def test_a_bit_that_has_changed_leaves_the_commit_before(tmp_path: Path) -> None:
    """Weights of which a bit has changed on the disk are noticed when a commit is chosen: the one
    before goes on, they are written again, and where both commits need them nothing does.
    """
    kept(tmp_path / "a")
    for which, chosen in ((OTHER, 1), (SMALL, None)):
        file = tmp_path / "a" / "models" / digest(which)
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        with closing(Store(tmp_path / "a")) as store:
            if chosen is None:
                with pytest.raises(DigestMismatch) as told:
                    store.latest()
                assert "no older commit is whole" in told.value.fix
                continue
            found = store.latest()
            assert found
            assert (found.machine["cursor"], len(store.damaged)) == (chosen, 1)
            store.write(*commit(3, SMALL, OTHER))
            assert store.weights(digest(OTHER)) == OTHER


def test_only_what_kept_commits_name_stays(tmp_path: Path) -> None:
    """After ten commits two are there, with the weights that they name, each once whatever it is
    called; nothing else.
    """
    folder = tmp_path / "a"
    with closing(Store(folder)) as store:
        for number in range(1, 11):
            mine: Weights = {"x": Buffer("uint8", (1,), bytes([number]))}
            store.write(*commit(number, mine, SMALL))
            store.remove(store.release_unneeded())
            assert len(list((folder / "models").iterdir())) == min(number, 2) + 1
        assert {file.name for file in folder.iterdir()} == {
            ".lock",
            "models",
            "commit-00000009.json",
            "commit-00000010.json",
        }


def test_what_a_dead_writer_left_is_collected(tmp_path: Path) -> None:
    """Drafts, and weights whose commit never came, are gone when the custody is opened again;
    the good commits stay.
    """
    whole = kept(tmp_path / "a")
    for name in ("commit-00000003.json.draft", f"models/{SECRET}.draft", "models/" + "1" * 32):
        (tmp_path / "a" / name).write_bytes(b"half")
    assert cursor(tmp_path / "a") == 2
    assert {
        str(file.relative_to(tmp_path / "a"))
        for file in (tmp_path / "a").rglob("*")
        if file.is_file()
    } == set(whole)


def test_one_process_has_a_custody(tmp_path: Path) -> None:
    """A second process is refused while the first lives, however that one ends."""
    code = (
        "from fedskd_sim.custody.store import *; import sys; s = Store(Path(sys.argv[1])); "
        "print(1, flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        with pytest.raises(OutputNotWritable, match="another process"):
            Store(tmp_path / "a")
        other.kill()
    assert cursor(tmp_path / "a") is None


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 256 KiB, or skip where none can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        not shutil.which("mount")
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "none", place], check=False
        ).returncode
    ):
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def filled(place: Path) -> Path:
    """Take all room."""
    filler = place / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as stream:
        while stream.write(bytes(4096)):
            pass
    return filler


def test_a_full_disk_loses_nothing(disk: Path) -> None:
    """Without room the error is that of a full disk (31); the last commit stands and is read,
    and with room it goes on.
    """
    with closing(Store(disk / "a")) as store:
        store.write(*commit(1, SMALL))
        filler = filled(disk)
        for number, weights in ((2, OTHER), (3, LARGE)):
            with pytest.raises(OutputNotWritable, match="no space left on device") as caught:
                store.write(*commit(number, weights))
            assert caught.value.exit_code == 31
            assert not list((disk / "a").rglob("*.draft"))
        assert store.latest() == commit(1, SMALL)[0]
        assert store.weights(digest(SMALL)) == SMALL
        filler.unlink()
        store.write(*commit(4, OTHER))
    assert cursor(disk / "a") == 4


def test_a_disk_that_is_full_at_any_byte_loses_nothing(quick: Path) -> None:
    """Wherever a write is cut short (here by the largest size a file may have), the commit
    before stands.
    """
    made, weights = commit(2, {**SMALL, "more": Buffer("uint8", (300,), bytes(300))}, OTHER)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    whole = {
        name: data
        for name, data in kept(quick / "a").items()
        if "0002" not in name and digest(OTHER) not in name
    }
    refused = 0
    for limit in range(0, 1200, 7):
        restored(quick / "a", whole)
        with closing(Store(quick / "a")) as store:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            try:
                store.write(made, weights)
            except OutputNotWritable:
                refused += 1
                assert store.latest() == commit(1, SMALL)[0]
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert cursor(quick / "a") in ((2,) if limit > 1000 else (1, 2)), limit
    assert 50 < refused < 170


def test_what_cannot_be_read_again_is_not_written(tmp_path: Path) -> None:
    """Names that would break a table and numbers that would break the limit are refused before
    anything is there.
    """
    with closing(Store(tmp_path / "a")) as store:
        odd: Weights = {"a\nb|int8|(1,)": Buffer("uint8", (0,), b"")}
        with pytest.raises(ValueError, match="names"):
            store.write(*commit(1, odd))
        made, weights = commit(1, SMALL)
        with pytest.raises(ValueError, match="limit"):
            store.write(made._replace(numbers={"x": "y" * files.COMMIT_LIMIT}), weights)
        assert store.latest() is None
