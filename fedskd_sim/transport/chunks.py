"""A model on its way over a link: its header, then its bytes in chunks of at most two mebibytes;
pure.

While one end still sends, the other has copied and checked what has arrived
(tests/benchmarks/hop.py). Both ends cut a model by the table of its header alone. A chunk is a
header with its number and one raw frame per tensor in it, or per part of one; small tensors that
follow one another share a frame. The last chunk has the digest of them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from fedskd_sim.errors import DigestMismatch
from fedskd_sim.messages import (
    Allocate,
    Buffer,
    Chunk,
    Fingerprint,
    Message,
    Spec,
    TensorSpec,
    Traveller,
    bytes_of,
    spec,
)
from fedskd_sim.transport.wire import (
    Frame,
    bad,
    encode,
)

CHUNK_BYTES = 2 << 20
"""Of 1 to 8 MiB, 1 and 2 were fastest, and 2 need fewer messages; less than 1 was slower in a
prototype."""
SMALL_BYTES = 64 << 10
"""Smaller pieces are copied on their way out anyway."""
FRAMES = 2 + 2 * CHUNK_BYTES // SMALL_BYTES
"""The most frames that any chunk has: its header, larger pieces, and small ones joined before,
between and behind them."""


class Piece(NamedTuple):
    """The bytes ``start`` to ``end`` of a tensor."""

    tensor: str
    start: int
    end: int


Cut = Sequence[Sequence[Sequence[Piece]]]
"""The pieces of every frame of every chunk; of the same table always the same one, so do not write
to it."""


def cut(table: Spec) -> Cut:
    """Share tensors out to chunks and frames, in order: every tensor to one, empty ones too, and
    to at least one chunk.
    """
    return _cut(tuple(table.items()), CHUNK_BYTES)


@lru_cache(maxsize=128)
def _cut(table: tuple[tuple[str, TensorSpec], ...], most: int) -> Cut:
    chunks: list[list[list[Piece]]] = [[]]
    left, joins = most, False
    for name, form in table:
        end, whole = -1, bytes_of(form)
        while end < whole:
            if not left:
                chunks.append([])
                left, joins = most, False
            start, end = max(end, 0), min(whole, max(end, 0) + left)
            small = end - start < SMALL_BYTES
            if not (small and joins):
                chunks[-1].append([])
            chunks[-1][-1].append(Piece(name, start, end))
            left, joins = left - (end - start), small
    return chunks


def count(table: Spec) -> int:
    """Count the messages that a model goes in."""
    return 1 + len(cut(table))


def pack_message(message: Message) -> Iterator[list[Frame]]:
    """Write a message as it goes over a link, a traveller in chunks; only small pieces are
    copied from the sender's memory.
    """
    yield encode(message)
    if isinstance(message, Traveller):
        yield from _chunks(message)


def _chunks(traveller: Traveller) -> Iterator[list[Frame]]:
    table = spec(traveller.weights)
    data = {name: memoryview(buffer.data) for name, buffer in traveller.weights.items()}
    mark = None if traveller.digest else Fingerprint(table)
    plan = cut(table)
    for number, parts in enumerate(plan, 1):
        frames: list[Frame] = [
            _join([data[name][start:end] for name, start, end in pieces]) for pieces in parts
        ]
        if mark:
            for frame in frames:
                mark.add(frame)
        last = (mark.text() if mark else traveller.digest) if number == len(plan) else ""
        yield [*encode(Chunk(traveller.hop, number, last)), *frames]


def _join(views: list[memoryview]) -> Frame:
    return views[0] if len(views) == 1 else b"".join(views)


ChunkCheck = Callable[[str, memoryview], bool]
"""Tells whether a tensor of an element type may come in; see `fedskd_sim.learning.weights`."""


def taken_as_it_is(dtype: str, data: memoryview) -> bool:  # noqa: ARG001 - the signature of a Sound
    """Accept any numbers: where nothing is learned they mean nothing."""
    return True


class Assembly:
    """A traveller that is arriving."""

    def __init__(
        self,
        traveller: Traveller,
        table: Spec,
        allocate: Allocate,
        sound: ChunkCheck = taken_as_it_is,
    ) -> None:
        """Wait for the first chunk; see `read_announcement` for the arguments. Memory is asked for
        as tensors begin.
        """
        self._traveller, self._table, self._allocate, self._sound = (
            traveller,
            table,
            allocate,
            sound,
        )
        self._unsound = ""
        self._plan = cut(table)
        self._mark = Fingerprint(table)
        self._memory: dict[str, memoryview] = {}
        self._taken = 0

    def add(self, label: Chunk, frames: Sequence[Frame]) -> Traveller | None:
        """Copy the next chunk's frames to where they belong; gives the traveller when it was the
        last.

        Raises:
            BadMessage: another chunk than the next one, frames of other sizes than the table says,
                or unsound numbers.
            DigestMismatch: the weights are not the ones that were sent.

        """
        parts = self._plan[self._taken] if self._taken < len(self._plan) else []
        if (
            label.hop != self._traveller.hop
            or label.number != self._taken + 1
            or len(frames) != len(parts)
        ):
            raise bad(
                f"part {label.number} of the model of {label.hop.model!r} is not the one that "
                "should come"
            )
        for pieces, frame in zip(parts, frames, strict=True):
            wanted = sum(end - start for _, start, end in pieces)
            if len(frame) != wanted:
                raise bad(
                    f"a part from tensor {pieces[0].tensor!r} on has {len(frame)} bytes instead of "
                    f"{wanted}"
                )
            self._mark.add(frame)
            self._keep(pieces, memoryview(frame))
        self._taken += 1
        return self._finish(label) if self._taken == len(self._plan) else None

    def _keep(self, pieces: Sequence[Piece], frame: memoryview) -> None:
        place = 0
        for name, start, end in pieces:
            if start == 0:
                self._memory[name] = self._allocate(
                    self._traveller.hop.model, name, bytes_of(self._table[name])
                )
            self._memory[name][start:end] = frame[place : place + end - start]
            place += end - start
            form = self._table[name]
            # while it is still in the cache
            if end == bytes_of(form) and not self._sound(form.dtype, self._memory[name]):
                self._unsound = self._unsound or name

    def _finish(self, label: Chunk) -> Traveller:
        # What is not finite is refused only now, behind the digest: bytes that changed on the way
        # may be no numbers either, and for those the link is to blame and not the sender.
        traveller = self._traveller
        if self._mark.text() != label.digest:
            text = (
                f"the weights of {traveller.hop.model!r} from {traveller.sender!r} changed on the "
                "way"
            )
            raise DigestMismatch(
                text, fix="look for failing memory or a program that writes to the link"
            )
        if self._unsound:
            raise bad(
                f"the model of {traveller.hop.model!r}, whose tensor {self._unsound!r} is not "
                "finite"
            )
        weights = {name: Buffer(*form, self._memory[name]) for name, form in self._table.items()}
        return replace(traveller, digest=label.digest, weights=weights)
