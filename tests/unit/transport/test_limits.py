"""Limits of headers: what a run needs passes, everything beyond is refused before anything is
made of it.
"""

from __future__ import annotations

import math
from typing import Any

import msgpack
import pytest

from fedskd_sim.errors import BadMessage
from fedskd_sim.messages import (
    Buffer,
    Chunk,
    Failed,
    HopId,
    Start,
    TensorSpec,
    Traveller,
    allocate_plain,
    spec,
)
from fedskd_sim.transport.chunks import CHUNK_BYTES, FRAMES, SMALL_BYTES, Assembly, cut
from fedskd_sim.transport.chunks import pack_message as chunks
from fedskd_sim.transport.wire import (
    _FIELDS,
    CODE_LIMIT,
    CONTROL,
    COUNT_LIMIT,
    NAME_LIMIT,
    TEXT_LIMIT,
    VERSION,
    Limits,
    decode,
    encode,
    header,
    limit_address_book,
    limit_travellers,
)

RESNET = {f"layer{index}.0.weight": TensorSpec("float32", (64, 64, 3, 3)) for index in range(122)}
VALUES: dict[str, Any] = {
    "str": "north",
    "int": 1,
    "float": 0.5,
    "Mapping[str, str]": {"north": "x"},
}


def packed(kind: str, **changes: Any) -> bytes:
    hop = [VALUES[form] for form in _FIELDS["HopId"].values()]
    values = {
        name: hop if form == "HopId" else VALUES[form] for name, form in _FIELDS[kind].items()
    }
    return msgpack.packb([VERSION, kind, values | changes], unicode_errors="surrogatepass")


@pytest.mark.parametrize(
    ("kind", "field", "values"),
    [
        ("Progress", "accuracy", [math.nan, math.inf, -math.inf, True, 1, "1", None]),
        ("Progress", "round", [-1, COUNT_LIMIT, 1 << 63, True, 1.0, "1", None]),
        ("Progress", "hop", [-1, COUNT_LIMIT]),
        ("Failed", "code", [-1, CODE_LIMIT, 1 << 52, False]),
        (
            "Failed",
            "hospital",
            [
                "a\0",
                "a\n",
                "\x1b[2J",
                "\u202eabc",
                "x" * (NAME_LIMIT + 1),
                "\ud800",
                b"north",
                7,
                ["north"],
            ],
        ),
        ("Failed", "reason", ["a\0", "\x1b[2J", "x" * (TEXT_LIMIT + 1), "\ud800", b"because"]),
        (
            "Start",
            "addresses",
            [
                [],
                [["north", "x"]],
                {"north": 1},
                {"a\0": "x"},
                {"north": "\n"},
                {"north": {}},
                {1: "x"},
                {b"n": "x"},
            ],
        ),
        ("End", "code", [msgpack.ExtType(1, b""), msgpack.Timestamp(1, 0), b""]),
    ],
)
def test_fields_that_no_member_would_send_are_refused(
    kind: str, field: str, values: list[Any]
) -> None:
    """Numbers that are not finite, negative or absurd, names that cannot be printed, other
    types: BadMessage.
    """
    assert decode([packed(kind)])
    for value in values:
        with pytest.raises(BadMessage):
            decode([packed(kind, **{field: value})])


def test_a_hop_has_exactly_its_fields() -> None:
    """Of the numbers and names that identify a hop none may be missing, too many or out of
    range.
    """
    kind = next(name for name, fields in _FIELDS.items() if list(fields.values()) == ["HopId"])
    hop = [VALUES[form] for form in _FIELDS["HopId"].values()]
    assert decode([packed(kind)]).hop == HopId(*hop)
    for bent in (
        hop[:-1],
        [*hop, 1],
        [*hop[:-1], -1],
        [*hop[:-1], COUNT_LIMIT],
        [7, *hop[1:]],
        dict(enumerate(hop)),
        "north",
        None,
    ):
        with pytest.raises(BadMessage):
            decode([packed(kind, hop=bent)])


def test_keys_come_once_and_are_texts() -> None:
    """A field or an address that comes twice is refused, whichever would win, and so is a key
    that is no text.
    """
    pack = msgpack.Packer().pack
    for keys in (
        (pack("code"), pack("code")),
        (pack("code"), pack(b"code")),
        (pack("code"), pack(1)),
        (pack("code"), pack(None)),
    ):
        fields = (
            b"\x84"
            + pack("reason")
            + pack("")
            + b"".join(key + pack(1) for key in keys)
            + pack("hospital")
            + pack("north")
        )
        with pytest.raises(BadMessage):
            decode([b"\x93" + pack(VERSION) + pack("Failed") + fields])


def test_an_honest_failure_always_fits() -> None:
    """What cannot be printed is escaped, what is too long is cut with a mark; other texts stay
    as they are.
    """
    parts = {name: VALUES[form] for name, form in _FIELDS["Failed"].items()}
    said = Failed(**parts | {"reason": "first\nsecond \x1b[2J\ud800\0 é"})
    assert decode(encode(said)).reason == "first\nsecond \\x1b[2J\\ud800\\x00 é"
    assert decode(encode(decode(encode(said)))) == decode(encode(said))
    long = decode(encode(Failed(**parts | {"reason": "💥" * 10_000}))).reason
    assert (len(long), long[-1]) == (TEXT_LIMIT, "…")


def test_the_limit_of_a_header_comes_from_the_tables_that_are_expected() -> None:
    """It is some kilobytes for a ResNet-18, grows with the largest table of any form, and allows
    as many items as that has.
    """
    small, large = limit_travellers({}), limit_travellers({"north": (RESNET, {}), "south": ({},)})
    table = len(msgpack.packb([[name, *form] for name, form in RESNET.items()]))
    assert small == CONTROL
    assert large == Limits(CONTROL.size + table, len(RESNET))
    assert large.size < 32 << 10
    for bent in (msgpack.packb(list(range(large.items + 1))), b"\x90" * 2, bytes(large.size + 1)):
        with pytest.raises(BadMessage):
            header([bent], large)


@pytest.mark.parametrize("members", [1, 17, 1000])
def test_the_address_book_fits_its_limit_and_no_other(members: int) -> None:
    """A start with the longest names, paths and keys of all members is taken from the
    controller, elsewhere only a small one.
    """
    names = [f"{number:040}" for number in range(members)]
    start = Start(
        1, addresses=dict.fromkeys(names, f"ipc://{'x' * 107}"), keys=dict.fromkeys(names, "k" * 40)
    )
    assert decode(encode(start), limit_address_book(members)) == start
    if members > CONTROL.items:
        with pytest.raises(BadMessage):
            decode(encode(start))


@pytest.mark.parametrize(
    "sizes",
    [
        [SMALL_BYTES, 1] * 64,
        [SMALL_BYTES - 1] * 64,
        [1, SMALL_BYTES] * 64,
        [CHUNK_BYTES + 1, 1] * 3,
    ],
)
def test_no_chunk_has_more_frames_than_an_inbox_takes(sizes: list[int]) -> None:
    """Whatever the tensors are, a chunk and its header have at most `FRAMES` frames; the worst
    case comes near.
    """
    plan = cut({str(index): TensorSpec("uint8", (size,)) for index, size in enumerate(sizes)})
    assert max(len(parts) for parts in plan) + 1 <= FRAMES


def test_a_model_that_never_arrives_takes_the_memory_of_what_has_come() -> None:
    """A header alone takes none; a chunk takes that of the tensors it begins; one of another
    size than announced takes none.
    """
    weights = {
        str(index): Buffer("uint8", (CHUNK_BYTES,), bytes(CHUNK_BYTES)) for index in range(4)
    }
    traveller = Traveller(
        HopId(*(VALUES[form] for form in _FIELDS["HopId"].values())), "south", "cnn", "", weights
    )
    taken: list[tuple[str, int]] = []

    def allocate(model: str, tensor: str, size: int) -> memoryview:
        taken.append((tensor, size))
        return allocate_plain(model, tensor, size)

    assembly = Assembly(traveller, spec(weights), allocate)
    assert taken == []
    messages = list(chunks(traveller))[1:]
    for number in (1, 2):
        assert assembly.add(Chunk(traveller.hop, number, ""), messages[number - 1][1:]) is None
        assert taken == [(str(index), CHUNK_BYTES) for index in range(number)]
    for frames in (
        [bytes(CHUNK_BYTES - 1)],
        [bytes(CHUNK_BYTES + 1)],
        [bytes(CHUNK_BYTES), b""],
        [],
    ):
        with pytest.raises(BadMessage):
            assembly.add(Chunk(traveller.hop, 3, ""), frames)
    assert len(taken) == 2
