"""Headers: exact, strict, and unable to execute or to leak weights to the controller."""

import dataclasses
import pickle
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

import msgpack
import pytest

from fedskd_sim.errors import BadMessage
from fedskd_sim.messages import (
    Ack,
    Buffer,
    Chunk,
    Done,
    End,
    Failed,
    HopId,
    Later,
    Progress,
    Ready,
    Register,
    Start,
    TensorSpec,
    ToController,
    Traveller,
    digest,
    spec,
)
from fedskd_sim.transport.wire import (
    CONTROL_LIMIT,
    NAME_LIMIT,
    VERSION,
    chunk,
    decode,
    encode,
    header,
    is_foreign,
    read_announcement,
)

WEIGHTS = {
    "layer.weight": Buffer("float32", (2, 3), bytes(range(24))),
    "steps": Buffer("int64", (), bytes(8)),
    "empty": Buffer("float32", (0, 4), b""),
}
EXPECTED = {"north": (spec(WEIGHTS),)}
HOP = HopId("r", 1, "north", 1, 2)
TRAVELLER = Traveller(HOP, "south", "cnn", digest(WEIGHTS), WEIGHTS)
CONTROL = [
    Register("r", 1, "north", "ipc:///x", "", "127.0.0.1:1", "code 12\nreader x 34"),
    Progress(1, "north", "south", 1, 2, 0.5),
    Failed(1, "north", 40, "late"),
    Done(1, "north"),
    Start(1, {"north": "ipc:///x"}, {"north": ""}),
    End(1, 0, "done"),
    Ack(HOP),
    Later(HOP),
    Ready(HOP),
]


def tampered(**changes: object) -> dict[str, object]:
    _, _, values = msgpack.unpackb(encode(TRAVELLER)[0])
    return values | changes


@pytest.mark.parametrize("message", CONTROL, ids=lambda message: type(message).__name__)
def test_decoding_inverts_encoding(message: object) -> None:
    """Every message comes back equal."""
    assert decode([bytes(frame) for frame in encode(message)]) == message


def test_a_traveller_announces_its_tensors_and_a_chunk_its_number() -> None:
    """Their headers come back equal, a traveller's with a table in place of its weights."""
    kind, values = header(encode(TRAVELLER))
    traveller, table = read_announcement(values, EXPECTED)
    assert kind is Traveller
    assert traveller == dataclasses.replace(TRAVELLER, weights={})
    assert list(table.items()) == list(EXPECTED["north"][0].items())
    label = Chunk(TRAVELLER.hop, 3, "abc")
    assert chunk(header(encode(label))[1]) == label


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"\xc1"],
        [b"x" * (2 << 20)],
        [pickle.dumps(TRAVELLER)],
        [msgpack.packb([VERSION, "Traveller"])],
        [msgpack.packb([VERSION + 1, "Done", {"epoch": 1, "hospital": "north"}])],
        [msgpack.packb([VERSION, "Nothing", {}])],
        [msgpack.packb([VERSION, "Done", {}])],
        [msgpack.packb([VERSION, "Done", {"epoch": 1, "hospital": "north", "weights": b"1"}])],
        [msgpack.packb([VERSION, "Done", {"epoch": 1, "hospital": b"north"}])],
        [msgpack.packb([VERSION, "Done", {"epoch": 1, "hospital": "n" * 5000}])],
        [msgpack.packb([VERSION, "Done", {"epoch": 1, "hospital": "north"}]), b"weights"],
        [
            msgpack.packb(
                [VERSION, "Failed", {"epoch": 1, "hospital": "north", "code": True, "reason": ""}]
            )
        ],
        [msgpack.packb([VERSION, "Done", {"hospital": "north"}])],
        [msgpack.packb([VERSION, "Done", {"epoch": -1, "hospital": "north"}])],
        [msgpack.packb([VERSION, "Ack", {"hop": ["r", 1, "north", 1]}])],
        [msgpack.packb([VERSION, "Ack", {"hop": ["r", "1", "north", 1, 2]}])],
        encode(TRAVELLER),
        encode(Chunk(TRAVELLER.hop, 1, "")),
    ],
)
def test_anything_a_member_would_not_send_is_refused(frames: list[bytes]) -> None:
    """Wrong versions, kinds, fields, types, sizes and pickles raise BadMessage and nothing else;
    so do weights out of place.
    """
    with pytest.raises(BadMessage):
        decode(frames)


@pytest.mark.parametrize(
    ("head", "foreign"),
    [
        ([VERSION - 1, "Register", {"run": "r"}], True),
        ([VERSION + 1, "Anything", {}], True),
        ([VERSION, "Anything", {}], False),
        ([VERSION - 1, "Register"], False),
        ([None, "Register", {}], False),
        ({"version": 1}, False),
        (VERSION - 1, False),
    ],
)
def test_words_of_another_version_are_known_as_such(head: Any, foreign: bool) -> None:  # noqa: FBT001
    """Whatever their kind and fields; what has no form of a header is only refused."""
    frames = [msgpack.packb(head)]
    assert is_foreign(frames) == foreign
    with pytest.raises(BadMessage, match="speaks version" if foreign else "no header"):
        decode(frames)


def test_what_is_no_message_is_of_no_version() -> None:
    """Neither nothing nor bytes that are no msgpack."""
    assert not any(map(is_foreign, ([], [b""], [b"\xc1"], [b"\x93" * 5000])))


@pytest.mark.parametrize(
    "values",
    [
        tampered(tensors=[]),
        tampered(tensors=None),
        tampered(tensors=[["layer.weight", "float32", [2, 3]]] * 3),
        tampered(hop=["r", 1, "stranger", 1, 2]),
        tampered(
            tensors=[
                ["layer.weight", "object", [2, 3]],
                ["steps", "int64", []],
                ["empty", "float32", [0, 4]],
            ]
        ),
        tampered(
            tensors=[
                ["layer.weight", "float32", [3, 2]],
                ["steps", "int64", []],
                ["empty", "float32", [0, 4]],
            ]
        ),
        tampered(tensors=["layer.weight", 7, None]),
        tampered(extra=1),
        tampered(trail=["north", "south"]),
    ],
)
def test_a_model_that_does_not_belong_here_is_refused(values: dict[str, object]) -> None:
    """Other tensors than the architecture's, other models than the run's, other fields:
    BadMessage, before any memory is taken.
    """
    with pytest.raises(BadMessage):
        read_announcement(values, EXPECTED)


def test_a_tensor_of_another_architecture_is_refused() -> None:
    """A traveller must have exactly the tensors its model is registered with."""
    expected = {"north": ({**EXPECTED["north"][0], "more": TensorSpec("float32", (1,))},)}
    with pytest.raises(BadMessage, match="missing"):
        read_announcement(tampered(), expected)


def test_no_message_to_the_controller_can_carry_weights() -> None:
    """Its messages have only short texts and numbers: no field could hold a buffer, and all fit
    the controller's limit.
    """
    for kind in get_args(ToController):
        hints = get_type_hints(kind)
        assert set(hints.values()) <= {str, int, float}, kind
        longest = {
            name: "\U00020000" * (9999 if name == "reason" else NAME_LIMIT)
            if hint is str
            else hint(1)
            for name, hint in hints.items()
        }
        assert 1 < sum(map(len, encode(kind(**longest)))) < CONTROL_LIMIT
        assert decode(encode(kind(**longest)))
        with pytest.raises(BadMessage):
            decode([msgpack.packb([VERSION, kind.__name__, dict.fromkeys(hints, b"\x00" * 64)])])
    assert not any(
        isinstance(getattr(message, field.name), Mapping)
        for message in CONTROL[:4]
        for field in dataclasses.fields(message)
    )


def test_the_digest_depends_on_names_types_shapes_and_bytes() -> None:
    """Two weights have the same digest only if they are the same."""
    buffer = Buffer("float32", (2,), bytes(8))
    variants = [
        {"a": buffer},
        {"b": buffer},
        {"a": buffer._replace(dtype="int32")},
        {"a": buffer._replace(shape=(1, 2))},
        {"a": buffer._replace(data=bytes(7) + b"\1")},
    ]
    assert len({digest(weights) for weights in variants}) == len(variants)
