"""What a file of weights and one of a commit look like.

A file of weights is ``MAGIC``, the length of its table (4 bytes, little-endian), the table of
names, types and shapes as `fedskd_sim.messages.write_table` gives it, and the tensors' bytes in the
table's order: from the table on exactly the bytes whose digest is its name. A commit is one line
``fedskd-sim commit 1 SHA256`` and JSON, of which that is the checksum. Both are limited before
anything is made from them, and what is read is never executed.
"""

from __future__ import annotations

import json
import re
import stat
from hashlib import sha256
from pathlib import Path
from typing import Any

from fedskd_sim.errors import DigestMismatch, RunUnreadable, Where
from fedskd_sim.messages import (
    ITEM_BYTES,
    Buffer,
    Fingerprint,
    Spec,
    TensorSpec,
    Weights,
    bytes_of,
    spec,
    write_table,
)

MAGIC = b"fedskdW1"
TABLE_LIMIT = COMMIT_LIMIT = 1 << 20
"""Bytes of a table and of a commit: what is made from so much needs less than 64 MiB, whatever it
holds."""
_LENGTH = 4
_AXES, _SIZE_LIMIT = 16, 1 << 48
_HEAD = 85
"""Bytes of the first line of a commit."""
_COMMIT = re.compile(rb"fedskd-sim commit 1 ([0-9a-f]{64})\n")
_OTHER = re.compile(rb"fedskd-sim commit ([0-9]{1,9}) ")
_FIX = "no older commit is whole: bring custody back from a copy, or run the scenario again"

Bytes = bytes | bytearray | memoryview


def length(file: Path) -> int:
    """Return the bytes of a file; -1 for what is not there, or is no ordinary file."""
    try:
        found = file.lstat()
    except OSError:
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) else -1


def pack_weights(weights: Weights) -> list[Bytes]:
    """Return the parts of a file of weights; raises ValueError for a table that could not be read
    again.
    """
    table = write_table(spec(weights))
    if len(table) > TABLE_LIMIT or _table(table) != spec(weights):
        raise ValueError("tensors whose names no file can hold")
    return [
        MAGIC,
        len(table).to_bytes(_LENGTH, "little"),
        table,
        *(buffer.data for buffer in weights.values()),
    ]


def read_weights(file: Path, digest: str) -> Weights:
    """Read a file of weights; every tensor has memory of its own that nobody changes (``bytes``).

    Raises:
        RunUnreadable: it is not there, cut or no such file. No more than its size is ever
            allocated.
        DigestMismatch: its contents are not what its name says.

    """
    size = length(file)
    if size < 0:
        raise _damage_error(file, "it is not there")
    try:
        with file.open("rb") as stream:
            table = _table_length(stream.read(len(MAGIC) + _LENGTH), size, file)
            text = stream.read(table)
            form = _table(text)
            rest = size - len(MAGIC) - _LENGTH - table
            if form is None or len(text) != table or sum(map(bytes_of, form.values())) != rest:
                raise _damage_error(file, "its table does not fit the rest of it")
            found, mark = {}, Fingerprint(form)
            for name, entry in form.items():
                data = stream.read(bytes_of(entry))
                mark.add(data)
                found[name] = Buffer(entry.dtype, entry.shape, data)
    except OSError as error:
        raise _damage_error(file, error.strerror or str(error)) from error
    if mark.text() != digest:
        raise DigestMismatch(
            f"{file} holds weights with the digest {mark.text()}", fix=_FIX, where=Where(str(file))
        )
    return found


def pack_commit(values: Any) -> list[Bytes]:
    """Return the parts of a commit; raises ValueError for one that is too large: what grows
    belongs into weights.
    """
    body = json.dumps(values, separators=(",", ":")).encode()
    if len(body) > COMMIT_LIMIT:
        raise ValueError(f"a commit of {len(body)} bytes, and {COMMIT_LIMIT} are the limit")
    return [f"fedskd-sim commit 1 {sha256(body).hexdigest()}\n".encode(), body]


def read_commit(file: Path) -> Any:
    """Read the values of a commit; raises RunUnreadable for anything but what `pack_commit`
    gives.
    """
    if not 0 <= length(file) <= COMMIT_LIMIT + _HEAD:
        raise _damage_error(file, "it is not there, or too large")
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise _damage_error(file, error.strerror or str(error)) from error
    head = _COMMIT.match(raw)
    if head is None and (other := _OTHER.match(raw)) and int(other[1]) != 1:
        text = f"this is a commit of form {int(other[1])}, and this version of fedskd_sim reads 1"
        fix = "go on with the version that kept it; environment.json of the run says which"
        raise RunUnreadable(text, fix=fix, where=Where(str(file)))
    if head is None:
        raise _damage_error(file, "it is no commit of this version of fedskd_sim")
    body = memoryview(raw)[head.end() :]
    if sha256(body).hexdigest().encode() != head[1]:
        raise _damage_error(file, "its checksum is another")
    try:
        return json.loads(bytes(body))
    except (ValueError, RecursionError) as error:
        raise _damage_error(file, "it is no JSON") from error


def _table_length(head: bytes, size: int, file: Path) -> int:
    """Return the length of the table that a file promises, if it may have it."""
    promised = int.from_bytes(head[len(MAGIC) :], "little")
    if (
        len(head) < len(MAGIC) + _LENGTH
        or not head.startswith(MAGIC)
        or promised > min(TABLE_LIMIT, size - len(head))
    ):
        raise _damage_error(file, "it does not begin as a file of weights")
    return promised


def _table(text: bytes) -> Spec | None:
    """Read a table of tensors; None for what `write_table` does not give."""
    found: dict[str, TensorSpec] = {}
    try:
        for row in text.decode().split("\n")[:-1]:
            name, dtype, shape = row.rsplit("|", 2)
            sizes = tuple(
                int(part) for part in shape.strip("()").replace(",", " ").split(maxsplit=_AXES)
            )
            if dtype not in ITEM_BYTES or not all(0 <= size < _SIZE_LIMIT for size in sizes):
                return None
            found[name] = TensorSpec(dtype, sizes)
    except ValueError:
        return None
    return found if write_table(found) == text else None


def _damage_error(file: Path, why: str) -> RunUnreadable:
    return RunUnreadable(f"this cannot be read: {why}", fix=_FIX, where=Where(str(file)))
