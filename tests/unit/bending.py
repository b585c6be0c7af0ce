"""Custody that something has bent: cut, flipped, spliced, or forged with checksums that are
right; and whether that does harm.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path

from fedskd_sim.custody.store import Commit, Store
from fedskd_sim.errors import FedskdError
from fedskd_sim.messages import Buffer, Weights, digest

SMALL: Weights = {
    "a.weight": Buffer("float32", (2, 3), bytes(range(24))),
    "a.count": Buffer("int64", (), bytes(8)),
}
OTHER: Weights = {"b": Buffer("uint8", (5,), b"12345"), "none": Buffer("float32", (0, 4), b"")}
SECRET = "0" * 32
"""A file of this name lies outside of the custody, where a forged digest may want to lead."""


def commit(number: int, *weights: Weights) -> tuple[Commit, dict[str, Weights]]:
    """Make a commit that holds weights in both places."""
    marks = {digest(some): some for some in weights}
    named = {f"group{index}": mark for index, mark in enumerate(marks)}
    made = Commit(
        {"scenario": "s"},
        {"cursor": number},
        {"unspent": 0.1, "none": None},
        named,
        {"7": digest(weights[0])},
        100,
        3,
    )
    return made, marks


def kept(folder: Path) -> dict[str, bytes]:
    """Write two commits and give the files that they are, by path."""
    with closing(Store(folder)) as store:
        store.write(*commit(1, SMALL))
        store.write(*commit(2, SMALL, OTHER))
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def restored(folder: Path, files: dict[str, bytes]) -> None:
    """Put files back as they were, and nothing else."""
    for file in [*folder.glob("*.*"), *(folder / "models").iterdir()]:
        file.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)


def forged(body: bytes) -> bytes:
    """Put anything under the first line of a commit, with the checksum that it asks for."""
    return b"fedskd-sim commit 1 " + sha256(body).hexdigest().encode() + b"\n" + body


class Bender:
    """Bends one file of a custody; a seed and a number say how."""

    def __init__(self, seed: int, number: int) -> None:
        self.draw = random.Random(f"{seed}/{number}")

    def bent(self, files: dict[str, bytes]) -> dict[str, bytes]:
        """Give the files with one or two of them bent."""
        files = dict(files)
        for _ in range(self.draw.choice((1, 1, 2))):
            name = self.draw.choice([name for name in files if name != ".lock"])
            forge = self._forged if name.startswith("commit") else self._promising
            bend: Callable[[bytes], bytes] = self.draw.choice(
                (self._cut, self._flipped, self._spliced, forge, forge, forge)
            )
            files[name] = bend(files[name])
        return files

    def _cut(self, data: bytes) -> bytes:
        return data[: self.draw.randrange(len(data) + 1)]

    def _flipped(self, data: bytes) -> bytes:
        found = bytearray(data)
        for _ in range(self.draw.choice((1, 1, 3))):
            if found:
                found[self.draw.randrange(len(found))] ^= 1 << self.draw.randrange(8)
        return bytes(found)

    def _spliced(self, data: bytes) -> bytes:
        at, to = sorted(self.draw.randrange(len(data) + 1) for _ in range(2))
        return (
            data[:at]
            + self.draw.choice((b"", data[at:to] * 2, self.draw.randbytes(9), b"\0" * 9))
            + data[to:]
        )

    def _promising(self, data: bytes) -> bytes:
        """Forge the head of a file of weights: it promises what it has not."""
        rows = (
            b"x|float32|(99999999999,)\n",
            b"x|float64|(-8, -8)\n",
            b"|bool|()\n" * 9,
            b"a|b|c\n",
            b"x|int8|((((\n",
            b"||||\n" * 99,
        )
        table = self.draw.choice((b"", *rows)) + data[12:60]
        length = self.draw.choice((len(table), 0, 1, 1 << 20, (1 << 32) - 1))
        return data[:8] + length.to_bytes(4, "little") + table + data[60:]

    def _forged(self, data: bytes) -> bytes:
        """Forge the contents of a commit under a checksum that is right."""
        body = data.partition(b"\n")[2]
        with suppress(ValueError, RecursionError):
            body = self.draw.choice((self._flipped, self._lists, self._fields))(body)
        return forged(body)

    def _lists(self, _: bytes) -> bytes:
        opener = self.draw.choice((b"[", b'{"a":', b"[[],", b'[{"":0},', b"[0,", b"1", b'"'))
        return opener * self.draw.choice((1, 900, 20_000))

    def _fields(self, body: bytes) -> bytes:
        """Put something else into a place of the tree, or take it away."""
        at = values = json.loads(body)
        while isinstance(at, dict) and at:
            name = self.draw.choice(sorted(at))
            if not isinstance(at[name], dict) or self.draw.random() < 1 / 3:
                break
            at = at[name]
        if isinstance(at, dict) and at:
            wild = (
                None,
                -1,
                1.5,
                True,
                1 << 70,
                float("nan"),
                "",
                [],
                {},
                [[]],
                {"a": 1},
                f"../../{SECRET}",
                SECRET,
                "../x",
                "/",
            )
            if self.draw.random() < 1 / 5:
                del at[name]
            else:
                at[name] = self.draw.choice(wild)
        return json.dumps(values).encode()


def judge(folder: Path) -> int:
    """Open a custody and read everything that its last good commit names; gives how much that was.

    Raises whatever it should not, and AssertionError where weights are not those of their digest or
    a secret was read.
    """
    try:
        with closing(Store(folder)) as store:
            found = store.latest()
            if found is None:
                return 0
            for mark in found.named:
                if digest(store.weights(mark)) != mark:
                    raise AssertionError(mark)
            return 1 + len(found.named)
    except FedskdError:
        return 0
