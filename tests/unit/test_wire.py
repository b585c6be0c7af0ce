"""The wire: exact, strict, and unable to execute or to leak weights to the controller."""

import dataclasses
import pickle
from collections.abc import Mapping
from typing import get_args, get_type_hints

import msgpack
import pytest

from fedskd_sim.errors import BadMessage, DigestMismatch
from fedskd_sim.messages import (
    Buffer,
    Done,
    End,
    Failed,
    HopId,
    Progress,
    Receipt,
    Register,
    Start,
    TensorSpec,
    ToController,
    Traveller,
    digest,
    spec,
)
from fedskd_sim.transport.wire import CONTROL_LIMIT, decode, encode

WEIGHTS = {
    "layer.weight": Buffer("float32", (2, 3), bytes(range(24))),
    "steps": Buffer("int64", (), bytes(8)),
    "empty": Buffer("float32", (0, 4), b""),
}
EXPECTED = {"north": (spec(WEIGHTS),)}
TRAVELLER = Traveller(HopId("r", "north", 1, 2), "south", "cnn", digest(WEIGHTS), ("north", "south"), WEIGHTS)
CONTROL = [
    Receipt(HopId("r", "north", 1, 2)),
    Register("r", "north", "ipc:///x", "", "127.0.0.1:1"),
    Progress("north", "south", 1, 2, 0.5),
    Failed("north", 40, "late"),
    Done("north"),
    Start({"north": "ipc:///x"}, {"north": ""}),
    End(0, "done"),
]


def tampered(**changes: object) -> list[bytes]:
    header, *tensors = encode(TRAVELLER)
    version, kind, values = msgpack.unpackb(header)
    return [msgpack.packb([version, kind, values | changes]), *map(bytes, tensors)]


@pytest.mark.parametrize("message", [TRAVELLER, *CONTROL], ids=lambda message: type(message).__name__)
def test_decoding_inverts_encoding(message: object) -> None:
    """Every message comes back equal, tensors bit for bit."""
    assert decode([bytes(frame) for frame in encode(message)], EXPECTED) == message


def test_tensors_are_sent_as_one_raw_frame_each_without_copying() -> None:
    """The frames behind the header are the very buffers of the weights."""
    frames = encode(TRAVELLER)
    assert all(frame is buffer.data for frame, buffer in zip(frames[1:], WEIGHTS.values(), strict=True))


def test_a_changed_bit_is_found() -> None:
    """Weights whose digest is not the header's are refused."""
    header, first, *rest = map(bytes, encode(TRAVELLER))
    with pytest.raises(DigestMismatch):
        decode([header, bytes([first[0] ^ 1]) + first[1:], *rest], EXPECTED)


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"\xc1"],
        [b"x" * (2 << 20)],
        [pickle.dumps(TRAVELLER)],
        [msgpack.packb([1, "Traveller"])],
        [msgpack.packb([2, "Done", {"hospital": "north"}])],
        [msgpack.packb([1, "Nothing", {}])],
        [msgpack.packb([1, "Done", {}])],
        [msgpack.packb([1, "Done", {"hospital": "north", "weights": b"1"}])],
        [msgpack.packb([1, "Done", {"hospital": b"north"}])],
        [msgpack.packb([1, "Done", {"hospital": "n" * 5000}])],
        [msgpack.packb([1, "Done", {"hospital": "north"}]), b"weights"],
        [msgpack.packb([1, "Failed", {"hospital": "north", "code": True, "reason": ""}])],
        [msgpack.packb([1, "Receipt", {"hop": ["r", "north", 1]}])],
        tampered(tensors=[]),
        tampered(tensors=[["layer.weight", "float32", [2, 3]]] * 3),
        tampered(hop=["r", "stranger", 1, 2]),
        tampered(tensors=[["layer.weight", "object", [2, 3]], ["steps", "int64", []], ["empty", "float32", [0, 4]]]),
        tampered(tensors=[["layer.weight", "float32", [3, 2]], ["steps", "int64", []], ["empty", "float32", [0, 4]]]),
        tampered(extra=1),
        [*tampered()[:1], b"short", bytes(8), b""],
        tampered()[:-1],
    ],
)
def test_anything_a_member_would_not_send_is_refused(frames: list[bytes]) -> None:
    """Wrong versions, kinds, fields, types, sizes, tensors and pickles raise BadMessage and nothing else."""
    with pytest.raises(BadMessage):
        decode(frames, EXPECTED)


def test_a_tensor_of_another_architecture_is_refused() -> None:
    """A traveller must have exactly the tensors its model is registered with."""
    expected = {"north": ({**EXPECTED["north"][0], "more": TensorSpec("float32", (1,))},)}
    with pytest.raises(BadMessage, match="missing"):
        decode(encode(TRAVELLER), expected)


def test_no_message_to_the_controller_can_carry_weights() -> None:
    """Its messages have only short texts and numbers: no field could hold a buffer, and all fit the controller's limit."""
    for kind in get_args(ToController):
        hints = get_type_hints(kind)
        assert set(hints.values()) <= {str, int, float}, kind
        longest = {name: "x" * 4096 if hint is str else 1 for name, hint in hints.items()}
        assert sum(map(len, encode(kind(**longest)))) < CONTROL_LIMIT
        with pytest.raises(BadMessage):
            decode([msgpack.packb([1, kind.__name__, dict.fromkeys(hints, b"\x00" * 64)])], {})
    assert not any(
        isinstance(getattr(message, field.name), Mapping) for message in CONTROL[1:5] for field in dataclasses.fields(message)
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
