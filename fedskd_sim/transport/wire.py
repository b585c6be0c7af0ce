"""Headers to frames and back; pure.

A header is one msgpack frame ``[version, kind, fields]``. Decoding accepts exactly the fields of
the dataclass, bounded strings and numbers, and a table of tensors that match the architecture
registered for the model; nothing else is interpreted. Limits stand before all work: of a header its
bytes, and of what is in it the items of a list, are known before anything is made from it. The
tensors themselves follow a traveller's header in chunks (`fedskd_sim.transport.chunks`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import isfinite
from typing import Any, NamedTuple, get_args

import msgpack

from fedskd_sim.errors import BadMessage
from fedskd_sim.messages import Chunk, Forms, HopId, Message, Spec, TensorSpec, Traveller

VERSION = 4
NAME_LIMIT = 256
"""Characters of a name, an address, a key or a digest."""
TEXT_LIMIT = 2048
"""Characters of what is meant for people."""
CONTROL_LIMIT = 12 << 10
"""Bytes of any message but a traveller and the address book: the longest names and texts fit,
whatever their characters."""
SHORT = 256
"""Bytes of a header in which nothing large can be promised; an answer and what goes ahead of a
chunk have less."""
ENTRY_BYTES = 768
"""What a member may take in the address book: its name twice, its address and its key."""
COUNT_LIMIT = 1 << 31
CODE_LIMIT = 256
_UTF8 = 4


class Limits(NamedTuple):
    """How large a header may be: its bytes, and the items of any list or map in it."""

    size: int
    items: int


CONTROL = Limits(CONTROL_LIMIT, 16)

_KINDS: Mapping[str, type[Message]] = {kind.__name__: kind for kind in get_args(Message)}
_FIELDS: Mapping[str, Mapping[str, str]] = {
    name: {
        field: getattr(form, "__forward_arg__", str(form))
        for field, form in kind.__annotations__.items()
    }
    for name, kind in {**_KINDS, "HopId": HopId}.items()
}
"""The fields of every kind with their annotations."""
_TEXTS = ("reason", "computes")
"""The fields of several words, meant for people; all other strings are names."""
_BELOW = {"code": CODE_LIMIT}
"""The first whole number that is too large for a field, where that is not `COUNT_LIMIT`."""

Frame = bytes | bytearray | memoryview


def encode(message: Message) -> list[Frame]:
    """Write a message's header; a traveller's lists its tensors, which go by themselves. Texts
    for people are made to fit.
    """
    kind = type(message).__name__
    values = {
        name: _plain(name, form, getattr(message, name))
        for name, form in _FIELDS[kind].items()
        if form != "Weights"
    }
    if isinstance(message, Traveller):
        values["tensors"] = [
            [name, buffer.dtype, list(buffer.shape)] for name, buffer in message.weights.items()
        ]
    return [msgpack.packb([VERSION, kind, values])]


def limit_address_book(members: int) -> Limits:
    """Limit the controller's words, the longest of which is the address book."""
    return Limits(CONTROL.size + members * ENTRY_BYTES, max(CONTROL.items, members))


def limit_travellers(expected: Mapping[str, Forms]) -> Limits:
    """Limit the headers of travellers by the largest table of tensors that any of them has."""
    tables = [
        [[name, *form] for name, form in spec.items()]
        for forms in expected.values()
        for spec in forms
    ]
    size = max((len(msgpack.packb(table)) for table in tables), default=0)
    return Limits(CONTROL.size + size, max([CONTROL.items, *map(len, tables)]))


def decode(frames: Sequence[Frame], limits: Limits = CONTROL) -> Message:
    """Read a message that is nothing but its header.

    Raises:
        BadMessage: anything that a member of the run would not send, and a traveller or a chunk.

    """
    if len(frames) != 1:
        raise bad(f"a message of {len(frames)} frames that should have one")
    kind, values = header(frames, limits)
    if kind in (Traveller, Chunk):
        raise bad(f"a {kind.__name__} where no model may come")
    return kind(**_check_fields(kind, values))


def header(
    frames: Sequence[Frame], limits: Limits = CONTROL
) -> tuple[type[Message], dict[str, Any]]:
    """Read the kind of a message and its fields as they came; raises BadMessage."""
    if not frames or len(frames[0]) > limits.size:
        raise bad("no header, or one that is too large")
    match _unpack(frames[0], limits):
        case [int(version), str(name), dict(values)] if version == VERSION and name in _KINDS:
            return _KINDS[name], values
        case [int(version), str(), dict()] if version != VERSION:
            raise bad(f"it speaks version {version} of the wire, not {VERSION}")
    raise bad("no header, or an unknown kind of message")


def is_foreign(frames: Sequence[Frame]) -> bool:
    """Return whether frames that cannot be read are a header of another version."""
    with suppress(BadMessage, IndexError, TypeError):
        head = _unpack(frames[0], CONTROL)
        return [*map(type, head)] == [int, str, dict] and bool(head[0] != VERSION)
    return False


def read_announcement(
    values: dict[str, Any], expected: Mapping[str, Forms]
) -> tuple[Traveller, Spec]:
    """Read a traveller that is about to arrive, still without weights, and what its tensors are, in
    the order they come in.

    Args:
        values: the fields of its header.
        expected: the forms that the tensors of each model may have; a traveller of any other model
            is refused.

    Raises:
        BadMessage: anything that a member of the run would not send.

    """
    tensors = values.pop("tensors", None)
    parts = _check_fields(Traveller, values, given={"weights": {}})
    forms = expected.get(parts["hop"].model)
    if forms is None:
        raise bad(f"no model {parts['hop'].model!r} belongs to this run")
    if not isinstance(tensors, list):
        raise bad("no table of tensors")
    return Traveller(**parts), _table(tensors, _form(tensors, forms))


def chunk(values: dict[str, Any]) -> Chunk:
    """Read what goes ahead of a part of a traveller; raises BadMessage."""
    return Chunk(**_check_fields(Chunk, values))


def bad(text: str) -> BadMessage:
    """Make the error for what no member of the run would send."""
    return BadMessage(
        text,
        fix="every member of a run must have the same version of fedskd_sim and the same scenario",
    )


def _form(tensors: list[Any], forms: Forms) -> Spec:
    """Choose the form that has the names of the tensors, or the first, which then says what is
    wrong.
    """
    names = {
        entry[0]
        for entry in tensors
        if isinstance(entry, list) and entry and isinstance(entry[0], str)
    }
    return next((form for form in forms if form.keys() == names), forms[0])


def _table(tensors: list[Any], spec: Spec) -> Spec:
    if tensors == [[name, dtype, list(shape)] for name, (dtype, shape) in spec.items()]:
        return spec  # nearly always; one by one takes longer, and says what is wrong
    found: dict[str, TensorSpec] = {}
    for entry in tensors:
        match entry:
            case [str(name), str(dtype), list(shape)] if name in spec and name not in found:
                if (dtype, tuple(shape)) != spec[name]:
                    raise bad(
                        f"tensor {name!r} is {(dtype, tuple(shape))}, the architecture has "
                        f"{tuple(spec[name])}"
                    )
                found[name] = spec[name]
            case _:
                raise bad("a tensor that the architecture does not have")
    if len(found) != len(spec):
        raise bad(f"{len(spec) - len(found)} tensors of the architecture are missing")
    return found


def _unpack(frame: Frame, limits: Limits) -> Any:
    """Read msgpack; what is not short is first read without making anything: lists in lists may
    promise many items and then end.
    """
    try:
        if len(frame) > SHORT:
            whole = msgpack.Unpacker(max_buffer_size=limits.size)
            whole.feed(frame)
            whole.skip()
        return msgpack.unpackb(
            frame,
            object_pairs_hook=_mapping,
            max_str_len=_UTF8 * TEXT_LIMIT,
            max_bin_len=0,
            max_ext_len=0,
            max_array_len=limits.items,
            max_map_len=limits.items,
        )
    except (ValueError, msgpack.UnpackException) as error:
        raise bad("the header is not msgpack, or has what no header of this run has") from error


def _mapping(pairs: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    """Make a mapping of what has names, each once."""
    found = dict(pairs)
    if len(found) != len(pairs) or not {type(name) for name in found} <= {str}:
        raise bad("a key that comes twice, or is no text")
    return found


def _plain(name: str, form: str, value: Any) -> Any:
    """Return a field in the types that msgpack has."""
    match form:
        case "HopId":
            return [getattr(value, part) for part in _FIELDS[form]]
        case "Mapping[str, str]":
            return dict(value)
    return _readable(value) if name in _TEXTS else value


def _readable(text: str) -> str:
    """Make a text one that may be sent and shown: what cannot be printed is written as Python
    does, and what is too long is cut.
    """
    shown = "".join(
        sign if sign.isprintable() or sign == "\n" else sign.encode("unicode_escape").decode()
        for sign in text
    )
    return shown if len(shown) <= TEXT_LIMIT else f"{shown[: TEXT_LIMIT - 1]}…"


def _check_fields(
    kind: type[Message], values: dict[str, Any], *, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Check all header fields of a kind but those that are given."""
    wanted = _FIELDS[kind.__name__]
    if given:
        wanted = {name: form for name, form in wanted.items() if name not in given}
    if values.keys() != wanted.keys():
        raise bad(f"{kind.__name__} must have the fields {', '.join(sorted(wanted))}")
    return {name: _field(name, form, values[name]) for name, form in wanted.items()} | dict(
        given or {}
    )


def _field(name: str, form: str, value: Any) -> Any:
    """Check one header field against its annotation."""
    match form, value:
        case "HopId", list() if len(value) == len(_FIELDS[form]):
            parts = zip(_FIELDS[form].items(), value, strict=True)
            return HopId(**{part: _field(part, kind, item) for (part, kind), item in parts})
        case "Mapping[str, str]", dict():
            return {
                _field(name, "str", key): _field(name, "str", item) for key, item in value.items()
            }
    if not _fits(name, form, value):
        raise bad(f"{name} should be {form}, and is not or is too large")
    return value


def _fits(name: str, form: str, value: Any) -> bool:
    """Return whether a string or a number is one, and neither endless nor absurd; what is shown to
    people can be printed.
    """
    match form, value:
        case "str", str() if name in _TEXTS:
            return len(value) <= TEXT_LIMIT and value.replace("\n", "").isprintable()
        case "str", str():
            return len(value) <= NAME_LIMIT and value.isprintable()
        case "int", int():
            return not isinstance(value, bool) and 0 <= value < _BELOW.get(name, COUNT_LIMIT)
        case "float", float():
            return isfinite(value)
    return False
