"""Headers to frames and back; pure.

A header is one msgpack frame ``[version, kind, fields]``. Decoding accepts exactly the fields of the dataclass, bounded strings and
numbers, and a table of tensors that match the architecture registered for the model; nothing else is interpreted. The tensors
themselves follow a traveller's header in parcels (`fedskd_sim.transport.parcels`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import msgpack

from fedskd_sim.errors import BadMessage
from fedskd_sim.messages import (
    Ack,
    Done,
    End,
    Failed,
    Forms,
    HopId,
    Later,
    Message,
    Parcel,
    Progress,
    Ready,
    Register,
    Spec,
    Start,
    TensorSpec,
    Traveller,
)

VERSION = 3
HEADER_LIMIT = 1 << 20
CONTROL_LIMIT = 64 << 10
TEXT_LIMIT = 4096
BOOK_LIMIT = 4096
NUMBER_LIMIT = 1 << 53

_KINDS: Mapping[str, type[Message]] = {
    kind.__name__: kind for kind in (Traveller, Parcel, Ack, Later, Ready, Register, Progress, Failed, Done, Start, End)
}
_FIELDS: Mapping[str, Mapping[str, str]] = {
    name: {field.name: str(field.type) for field in fields(kind)} for name, kind in _KINDS.items()
}
"""The fields of every kind with their annotations."""

Frame = bytes | bytearray | memoryview


def encode(message: Message) -> list[Frame]:
    """Write a message's header; a traveller's lists its tensors, which go by themselves."""
    values = {name: getattr(message, name) for name in _FIELDS[type(message).__name__]}
    if isinstance(message, Traveller):
        weights = values.pop("weights")
        values["tensors"] = [[name, buffer.dtype, list(buffer.shape)] for name, buffer in weights.items()]
    if "hop" in values and isinstance(values["hop"], HopId):
        values["hop"] = list(values["hop"])
    for name in ("addresses", "keys"):
        if name in values:
            values[name] = dict(values[name])
    return [msgpack.packb([VERSION, type(message).__name__, values])]


def decode(frames: Sequence[Frame]) -> Message:
    """Read a message that is nothing but its header.

    Raises:
        BadMessage: anything that a member of the run would not send, and a traveller or a parcel.

    """
    kind, values = header(frames)
    if len(frames) != 1 or kind in (Traveller, Parcel):
        raise bad(f"{kind.__name__} with {len(frames) - 1} frames behind its header")
    return kind(**_checked(kind, values))


def header(frames: Sequence[Frame]) -> tuple[type[Message], dict[str, Any]]:
    """Read the kind of a message and its fields as they came; raises BadMessage."""
    if not frames or len(frames[0]) > HEADER_LIMIT:
        raise bad("no header, or one that is too large")
    try:
        read = msgpack.unpackb(frames[0], strict_map_key=True, raw=False)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise bad("the header is not msgpack") from error
    match read:
        case [int(version), str(name), dict(values)] if version == VERSION and name in _KINDS:
            return _KINDS[name], values
    raise bad("unknown version or kind of message")


def announced(values: dict[str, Any], expected: Mapping[str, Forms]) -> tuple[Traveller, Spec]:
    """Read a traveller that is about to arrive, still without weights, and what its tensors are, in the order they come in.

    Args:
        values: the fields of its header.
        expected: the forms that the tensors of each model may have; a traveller of any other model is refused.

    Raises:
        BadMessage: anything that a member of the run would not send.

    """
    tensors = values.pop("tensors", None)
    parts = _checked(Traveller, values, given={"weights": {}})
    forms = expected.get(parts["hop"].model)
    if forms is None:
        raise bad(f"no model {parts['hop'].model!r} belongs to this run")
    if not isinstance(tensors, list):
        raise bad("no table of tensors")
    return Traveller(**parts), _table(tensors, _form(tensors, forms))


def parcel(values: dict[str, Any]) -> Parcel:
    """Read what goes ahead of a part of a traveller; raises BadMessage."""
    return Parcel(**_checked(Parcel, values))


def bad(text: str) -> BadMessage:
    """Make the error for what no member of the run would send."""
    return BadMessage(text, fix="every member of a run must have the same version of fedskd_sim and the same scenario")


def _form(tensors: list[Any], forms: Forms) -> Spec:
    """Choose the form that has the names of the tensors, or the first, which then says what is wrong."""
    names = {entry[0] for entry in tensors if isinstance(entry, list) and entry and isinstance(entry[0], str)}
    return next((form for form in forms if form.keys() == names), forms[0])


def _table(tensors: list[Any], spec: Spec) -> Spec:
    if tensors == [[name, dtype, list(shape)] for name, (dtype, shape) in spec.items()]:
        return spec  # nearly always; one by one takes longer, and says what is wrong
    found: dict[str, TensorSpec] = {}
    for entry in tensors:
        match entry:
            case [str(name), str(dtype), list(shape)] if name in spec and name not in found:
                if (dtype, tuple(shape)) != spec[name]:
                    raise bad(f"tensor {name!r} is {(dtype, tuple(shape))}, the architecture has {tuple(spec[name])}")
                found[name] = spec[name]
            case _:
                raise bad("a tensor that the architecture does not have")
    if len(found) != len(spec):
        raise bad(f"{len(spec) - len(found)} tensors of the architecture are missing")
    return found


def _checked(kind: type[Message], values: dict[str, Any], *, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Check all header fields of a kind but those that are given."""
    given = given or {}
    wanted = {name: form for name, form in _FIELDS[kind.__name__].items() if name not in given}
    if values.keys() != wanted.keys():
        raise bad(f"{kind.__name__} must have the fields {', '.join(sorted(wanted))}")
    return {name: _field(form, values[name]) for name, form in wanted.items()} | dict(given)


def _field(kind: str, value: Any) -> Any:
    """Check one header field against its annotation; strings and numbers are bounded."""
    match kind, value:
        case "str", str() if len(value) <= TEXT_LIMIT:
            return value
        case "int", int() if not isinstance(value, bool) and -NUMBER_LIMIT < value < NUMBER_LIMIT:
            return value
        case "float", float() | int() if not isinstance(value, bool):
            return float(value)
        case "HopId", [str(run), int(epoch), str(model), int(round_), int(hop)] if max(len(run), len(model)) <= TEXT_LIMIT:
            return HopId(run, epoch, model, round_, hop)
        case "tuple[str, ...]", list() if len(value) <= BOOK_LIMIT:
            return tuple(_field("str", item) for item in value)
        case "Mapping[str, str]", dict() if len(value) <= BOOK_LIMIT:
            return {_field("str", name): _field("str", item) for name, item in value.items()}
    raise bad(f"a field that should be {kind} is not")
