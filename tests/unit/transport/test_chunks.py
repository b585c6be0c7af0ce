"""Chunks: both ends cut alike, nothing is copied on the way out, and only the very bytes that
left arrive.
"""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from unpacking import unpack_message

from fedskd_sim.errors import BadMessage, DigestMismatch
from fedskd_sim.messages import (
    Buffer,
    Done,
    HopId,
    TensorSpec,
    Traveller,
    allocate_plain,
    bytes_of,
    digest,
    spec,
)
from fedskd_sim.transport.chunks import CHUNK_BYTES, Frame, count, cut, pack_message
from fedskd_sim.transport.wire import limit_travellers

DRAW = random.Random(1)
WEIGHTS = {
    "small": Buffer("float32", (2, 3), DRAW.randbytes(24)),
    "large": Buffer("uint8", (3 * CHUNK_BYTES + 5,), DRAW.randbytes(3 * CHUNK_BYTES + 5)),
    "empty": Buffer("float32", (0, 4), b""),
    "steps": Buffer("int64", (), bytes(8)),
}
EXPECTED = {"north": (spec(WEIGHTS),)}
LIMITS = limit_travellers(EXPECTED)
TRAVELLER = Traveller(HopId("r", 1, "north", 1, 2), "south", "cnn", "", WEIGHTS)


def on_the_link(traveller: Traveller = TRAVELLER) -> list[list[Frame]]:
    return [[bytes(frame) for frame in frames] for frames in pack_message(traveller)]


def test_a_model_arrives_bit_for_bit_with_its_digest() -> None:
    """What was packed without a digest is unpacked with the digest of all its bytes."""
    arrived = unpack_message(on_the_link(), EXPECTED, allocate_plain, LIMITS)
    assert arrived == replace(TRAVELLER, digest=digest(WEIGHTS))
    assert list(arrived.weights) == list(WEIGHTS)
    assert digest(arrived.weights) == digest(WEIGHTS)


def test_frames_are_views_of_the_senders_memory() -> None:
    """Nothing large is copied on the way out; small neighbours share a frame."""
    frames = [frame for frames in list(pack_message(TRAVELLER))[1:] for frame in frames[1:]]
    views = [frame for frame in frames if isinstance(frame, memoryview)]
    assert {id(view.obj) for view in views} == {
        id(WEIGHTS["small"].data),
        id(WEIGHTS["large"].data),
    }
    assert [len(frame) for frame in frames if isinstance(frame, bytes)] == [
        24 + 5 + 8
    ]  # the last of "large", and "steps"


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [0],
        [1],
        [CHUNK_BYTES],
        [CHUNK_BYTES, 0],
        [CHUNK_BYTES - 1, 1, 1],
        [0, 5 * CHUNK_BYTES + 1, 3],
    ],
)
def test_every_byte_is_in_one_chunk_of_bounded_size(sizes: list[int]) -> None:
    """Pieces follow one another without gap or overlap, every tensor has one, and no chunk is
    larger than the limit.
    """
    table = {str(index): TensorSpec("uint8", (size,)) for index, size in enumerate(sizes)}
    plan = cut(table)
    assert len(plan) == count(table) - 1 >= 1
    assert all(
        sum(end - start for frame in chunk for _, start, end in frame) <= CHUNK_BYTES
        for chunk in plan
    )
    for name, form in table.items():
        pieces = [
            (start, end)
            for chunk in plan
            for frame in chunk
            for tensor, start, end in frame
            if tensor == name
        ]
        assert pieces[0][0] == 0
        assert pieces[-1][1] == bytes_of(form)
        assert all(before[1] == after[0] for before, after in pairwise(pieces))


def test_a_changed_bit_is_found() -> None:
    """Weights that are not the ones that left are refused, whichever chunk they are in."""
    for number in range(1, count(EXPECTED["north"][0])):
        messages = on_the_link()
        last = messages[number][-1]
        if last:
            messages[number][-1] = bytes([last[0] ^ 1]) + last[1:]
            with pytest.raises(DigestMismatch):
                unpack_message(messages, EXPECTED, allocate_plain, LIMITS)


def test_a_digest_that_the_sender_knows_is_kept() -> None:
    """Who passes a model on as it came sends the digest it came with, so that a change in its
    own memory is found too.
    """
    assert unpack_message(
        on_the_link(replace(TRAVELLER, digest=digest(WEIGHTS))), EXPECTED, allocate_plain, LIMITS
    ).digest == digest(WEIGHTS)
    with pytest.raises(DigestMismatch):
        unpack_message(
            on_the_link(replace(TRAVELLER, digest="0" * 32)), EXPECTED, allocate_plain, LIMITS
        )


def broken() -> dict[str, list[list[Frame]]]:
    header, *chunks = on_the_link()
    other = on_the_link(replace(TRAVELLER, hop=HopId("r", 1, "north", 1, 3)))
    return {
        "one is missing": [header, *chunks[1:]],
        "the last is missing": [header, *chunks[:-1]],
        "one comes twice": [header, chunks[0], *chunks],
        "two change places": [header, chunks[1], chunks[0], *chunks[2:]],
        "one is of another hop": [header, other[1], *chunks[1:]],
        "a frame is short": [header, [*chunks[0][:-1], chunks[0][-1][:-1]], *chunks[1:]],
        "a frame is missing": [header, chunks[0][:-1], *chunks[1:]],
        "a frame is too many": [header, [*chunks[0], b""], *chunks[1:]],
        "a header comes again": [header, header, *chunks],
    }


@pytest.mark.parametrize("how", broken())
def test_chunks_that_do_not_fit_are_refused(how: str) -> None:
    """Missing, repeated, foreign or misshapen chunks raise BadMessage."""
    with pytest.raises(BadMessage):
        unpack_message(broken()[how], EXPECTED, allocate_plain, LIMITS)


def test_other_messages_are_their_header() -> None:
    """What has no weights goes and comes as one frame."""
    messages = list(pack_message(Done(1, "north")))
    assert [len(frames) for frames in messages] == [1]
    assert unpack_message(messages, {}, allocate_plain, LIMITS) == Done(1, "north")
