"""Messages to frames and back; pure.

A message is one msgpack header frame ``[version, kind, fields]`` and, for a traveller only, one raw frame per tensor in the
order of the header's table. Decoding accepts exactly the fields of the dataclass, bounded strings and numbers, and tensors that
match the architecture registered for the model; nothing else is interpreted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import msgpack

from fedskd_sim.errors import BadMessage, DigestMismatch
from fedskd_sim.messages import (
    ITEM_BYTES,
    Buffer,
    Done,
    End,
    Failed,
    Forms,
    HopId,
    Message,
    Progress,
    Receipt,
    Register,
    Spec,
    Start,
    Traveller,
    Weights,
    digest,
)

VERSION = 1
HEADER_LIMIT = 1 << 20
CONTROL_LIMIT = 64 << 10
TEXT_LIMIT = 4096
BOOK_LIMIT = 4096
NUMBER_LIMIT = 1 << 53

_CONTROL = (Receipt, Register, Progress, Failed, Done, Start, End)
_KINDS: Mapping[str, type[Message]] = {kind.__name__: kind for kind in (Traveller, *_CONTROL)}

Frame = bytes | bytearray | memoryview


def encode(message: Message) -> list[Frame]:
    """Write a message as frames; tensor frames are views of the sender's memory, nothing is copied."""
    values = {field.name: getattr(message, field.name) for field in fields(message)}
    frames: list[Frame] = []
    if isinstance(message, Traveller):
        weights = values.pop("weights")
        values["tensors"] = [[name, buffer.dtype, list(buffer.shape)] for name, buffer in weights.items()]
        values["trail"] = list(message.trail)
        frames = [buffer.data for buffer in weights.values()]
    if "hop" in values and isinstance(values["hop"], HopId):
        hop = values["hop"]
        values["hop"] = [hop.run, hop.model, hop.round, hop.hop]
    for name in ("addresses", "keys"):
        if name in values:
            values[name] = dict(values[name])
    return [msgpack.packb([VERSION, type(message).__name__, values]), *frames]


def decode(frames: Sequence[Frame], expected: Mapping[str, Forms], *, verify: bool = True) -> Message:
    """Read frames back into a message; tensor data are views of the frames.

    Args:
        frames: the header and one frame per tensor.
        expected: the forms that the tensors of each model may have; a traveller of any other model is refused.
        verify: check the digest.

    Raises:
        BadMessage: anything that a member of the run would not send.
        DigestMismatch: the weights are not the ones the header speaks of.

    """
    kind, values = _header(frames)
    if kind is Traveller:
        message = _traveller(values, frames[1:], expected)
        if verify and digest(message.weights) != message.digest:
            text = f"the weights of {message.hop.model!r} from {message.sender!r} changed on the way"
            raise DigestMismatch(text, fix="look for failing memory or a program that writes to the link")
        return message
    if len(frames) != 1:
        raise _bad(f"{kind.__name__} has {len(frames) - 1} frames behind its header")
    _check_names(kind, values)
    return kind(**{field.name: _field(str(field.type), values[field.name]) for field in fields(kind)})


def _header(frames: Sequence[Frame]) -> tuple[type[Message], dict[str, Any]]:
    if not frames or len(frames[0]) > HEADER_LIMIT:
        raise _bad("no header, or one that is too large")
    try:
        header = msgpack.unpackb(frames[0], strict_map_key=True, raw=False)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise _bad("the header is not msgpack") from error
    match header:
        case [int(version), str(name), dict(values)] if version == VERSION and name in _KINDS:
            return _KINDS[name], values
    raise _bad("unknown version or kind of message")


def _traveller(values: dict[str, Any], frames: Sequence[Frame], expected: Mapping[str, Forms]) -> Traveller:
    tensors = values.pop("tensors", None)
    if not isinstance(tensors, list) or len(tensors) != len(frames):
        raise _bad("the tensor table does not fit the frames")
    _check_names(Traveller, {**values, "weights": None})
    parts = {field.name: _field(str(field.type), values[field.name]) for field in fields(Traveller) if field.name in values}
    forms = expected.get(parts["hop"].model)
    if forms is None:
        raise _bad(f"no model {parts['hop'].model!r} belongs to this run")
    return Traveller(**parts, weights=_weights(tensors, frames, _form(tensors, forms)))


def _form(tensors: list[Any], forms: Forms) -> Spec:
    """Choose the form that has the names of the tensors, or the first, which then says what is wrong."""
    names = {entry[0] for entry in tensors if isinstance(entry, list) and entry and isinstance(entry[0], str)}
    return next((form for form in forms if form.keys() == names), forms[0])


def _weights(tensors: list[Any], frames: Sequence[Frame], spec: Spec) -> Weights:
    weights: dict[str, Buffer] = {}
    for entry, frame in zip(tensors, frames, strict=True):
        match entry:
            case [str(name), str(dtype), list(shape)] if name in spec and name not in weights:
                found = (dtype, tuple(shape))
            case _:
                raise _bad("a tensor that the architecture does not have")
        if found != spec[name]:
            raise _bad(f"tensor {name!r} is {found}, the architecture has {tuple(spec[name])}")
        count = ITEM_BYTES[dtype]
        for length in shape:
            count *= length
        if len(frame) != count:
            raise _bad(f"tensor {name!r} has {len(frame)} bytes instead of {count}")
        weights[name] = Buffer(dtype, found[1], frame)
    if len(weights) != len(spec):
        raise _bad(f"{len(spec) - len(weights)} tensors of the architecture are missing")
    return weights


def _check_names(kind: type[Message], values: dict[str, Any]) -> None:
    names = {field.name for field in fields(kind)}
    if set(values) != names:
        raise _bad(f"{kind.__name__} must have the fields {', '.join(sorted(names))}")


def _field(kind: str, value: Any) -> Any:
    """Check one header field against its annotation; strings and numbers are bounded."""
    match kind, value:
        case "str", str() if len(value) <= TEXT_LIMIT:
            return value
        case "int", int() if not isinstance(value, bool) and -NUMBER_LIMIT < value < NUMBER_LIMIT:
            return value
        case "float", float() | int() if not isinstance(value, bool):
            return float(value)
        case "HopId", [str(run), str(model), int(round_), int(hop)] if max(len(run), len(model)) <= TEXT_LIMIT:
            return HopId(run, model, round_, hop)
        case "tuple[str, ...]", list() if len(value) <= BOOK_LIMIT:
            return tuple(_field("str", item) for item in value)
        case "Mapping[str, str]", dict() if len(value) <= BOOK_LIMIT:
            return {_field("str", name): _field("str", item) for name, item in value.items()}
    raise _bad(f"a field that should be {kind} is not")


def _bad(text: str) -> BadMessage:
    return BadMessage(text, fix="every member of a run must have the same version of fedskd_sim and the same scenario")
