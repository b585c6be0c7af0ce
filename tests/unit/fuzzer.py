"""Makes inputs for the decoder from seeds, and judges what it does with them.

An input is what comes over a link: a few messages of a few frames. It begins as messages that a
member could send, of every kind and with all their fields, and is bent: in the tree of its values
(other types, numbers and texts without end, lists in lists, keys that come twice), in its bytes,
and in the frames and their order. The same seed and number make the same input again.
"""

from __future__ import annotations

import math
import random
import struct
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, get_args

import msgpack

from fedskd_sim.errors import BadMessage, DigestMismatch
from fedskd_sim.messages import Buffer, Chunk, HopId, Message, Traveller, allocate_plain, spec
from fedskd_sim.transport.chunks import FRAMES, Assembly, pack_message
from fedskd_sim.transport.wire import (
    _FIELDS,
    CONTROL,
    chunk,
    decode,
    encode,
    header,
    limit_address_book,
    limit_travellers,
    read_announcement,
)

NAMES = ("north", "south", "east")
TABLES = {
    "north": {
        "layer.weight": Buffer("float32", (2, 3), bytes(range(24))),
        "steps": Buffer("int64", (), bytes(8)),
    },
    "south": {
        f"layers.{index}.weight": Buffer("float32", (index % 3, 4), bytes(16 * (index % 3)))
        for index in range(60)
    },
    "east": {
        "large": Buffer("uint8", (70_000,), bytes(70_000)),
        "small": Buffer("bool", (2,), b"\0\1"),
    },
}
EXPECTED = {
    name: (spec(table), spec(table) | spec({"slow": Buffer("int8", (1,), b"1")}))
    for name, table in TABLES.items()
}
LIMITS = limit_travellers(EXPECTED)
BOOK = limit_address_book(len(NAMES))

Frames = list[bytes]
Pairs = list[tuple[Any, Any]]
"""A mapping of the tree of values, in which a key may come twice."""


class Raw(NamedTuple):
    """Bytes that stand for a value."""

    data: bytes


class Fuzzer:
    """Makes one input; `messages` are its messages, each a list of frames."""

    def __init__(self, seed: int, number: int) -> None:
        self.draw = random.Random(f"{seed}/{number}")
        honest = [
            message for _ in range(self.draw.choice((1, 1, 1, 2))) for message in self.honest()
        ]
        steps: list[Callable[[list[Frames]], None]] = [
            self.bend_tree,
            self.bend_bytes,
            self.bend_frames,
            self.replace,
        ]
        for step in self.draw.choices(
            steps, weights=(8, 6, 2, 2), k=self.draw.choice((0, 1, 1, 1, 2, 3))
        ):
            step(honest)
        self.messages = honest

    def honest(self) -> list[Frames]:
        """Write what a member could send: any kind of message, with fields drawn by their
        annotations.
        """
        kind = self.draw.choice(get_args(Message))
        if kind is Chunk:
            kind = Traveller
        values = {name: self.value(form) for name, form in _FIELDS[kind.__name__].items()}
        if kind is Traveller:
            values["weights"] = TABLES[values["hop"].model]
        return [[bytes(frame) for frame in frames] for frames in pack_message(kind(**values))]

    def value(self, form: str) -> Any:
        """Draw a value of a field."""
        draw = self.draw
        makers: dict[str, Callable[[], Any]] = {
            "str": lambda: draw.choice((*NAMES, "", "ipc:///tmp/ü 1", "x" * 40)),
            "int": lambda: draw.randrange(200),
            "float": draw.random,
            "HopId": lambda: HopId(
                **{name: self.value(part) for name, part in _FIELDS[form].items()}
                | {"model": draw.choice(NAMES)}
            ),
            "Mapping[str, str]": lambda: {
                name: self.value("str") for name in draw.sample(NAMES, draw.randrange(4))
            },
            "Weights": dict,
        }
        return makers[form]()

    def bend_tree(self, messages: list[Frames]) -> None:
        """Change values of a header, wherever in it."""
        frames = self.draw.choice(messages)
        try:
            tree = msgpack.unpackb(frames[0], object_pairs_hook=Tree, list_hook=list)
        except (IndexError, ValueError, msgpack.UnpackException):
            return
        for _ in range(self.draw.choice((1, 1, 2, 5))):
            tree = self.bent(tree)
        frames[0] = pack(tree)[: 1 << 20]

    def bent(self, tree: Any) -> Any:
        """Change one value of a tree: this one, or one below."""
        draw = self.draw
        if isinstance(tree, list) and tree and draw.random() < 0.85:
            place = draw.choice((draw.randrange(len(tree)), len(tree) - 1))  # where the fields are
            match draw.randrange(12):
                case 0:
                    del tree[place]
                case 1:
                    tree.insert(place, tree[draw.randrange(len(tree))])
                case 2:
                    tree.insert(
                        place, ("more", self.evil()) if isinstance(tree, Tree) else self.evil()
                    )
                case 3:
                    draw.shuffle(tree)
                case _ if isinstance(tree, Tree):
                    key, value = tree[place]
                    tree[place] = (
                        (self.evil(), value) if draw.random() < 0.1 else (key, self.bent(value))
                    )
                case _:
                    tree[place] = self.bent(tree[place])
            return tree
        return self.evil(tree)

    def evil(self, like: object = None) -> Any:
        """Draw a value that hurts, often of the type of another."""
        draw = self.draw
        tiny = (1 << draw.randrange(1, 9)) - 1
        texts = (
            "",
            "\0",
            "\x1b[2J",
            "\n",
            "\u202e",
            "\u2028",
            "é" * tiny,
            "x" * tiny * 20,
            "💥" * 2048,
            *NAMES,
        )
        alike = {
            int: (-1, 0, 1, 255, 256, (1 << 31) - 1, 1 << 31, 1 << 53, (1 << 64) - 1, -(1 << 63)),
            float: (math.nan, math.inf, -math.inf, 1e308, -0.0, 0.5, 5e-324),
            str: texts,
        }
        if type(like) in alike and draw.random() < 0.6:
            return draw.choice(alike[type(like)])
        rare = (
            None,
            True,
            False,
            b"",
            b"x",
            bytes(tiny * 40),
            msgpack.ExtType(5, b""),
            msgpack.Timestamp(tiny, 0),
        )
        makers: list[Callable[[], Any]] = [
            lambda: draw.choice((*rare, *alike[int], *alike[float], *texts)),
            lambda: [
                self.evil() if draw.random() < 0.2 else 0
                for _ in range(draw.choice((0, 1, 5, tiny)))
            ],
            lambda: Tree(
                [
                    (draw.choice((*NAMES, 1, b"k", None)), 0)
                    for _ in range(draw.choice((0, 1, 3, tiny)))
                ]
            ),
            lambda: Tree([(str(number), number) for number in range(draw.choice((3, tiny * 10)))]),
            lambda: Raw(
                draw.choice((b"\x91", b"\x81\xa1k", b"\x81\x91", b"\xdc\x00\x10"))
                * draw.choice((2, 20, 1500))
                + b"\x90"
            ),
            lambda: Raw(
                draw.choice(OPENERS)
                + struct.pack(">I", draw.choice((0, 1, 1 << 16, 1 << 30, (1 << 32) - 1)))
            ),
            lambda: Raw(b"\xa3" + draw.choice((b"\xed\xa0\x80", b"\xff\xfe\xfd", b"\xc0\x80a"))),
        ]
        return draw.choice(makers)()

    def bend_bytes(self, messages: list[Frames]) -> None:
        """Change bytes of a frame, mostly of a header."""
        draw, frames = self.draw, self.draw.choice(messages)
        if not frames:
            return
        place = 0 if draw.random() < 0.8 else draw.randrange(len(frames))
        data = bytearray(frames[place])
        for _ in range(draw.choice((1, 1, 2, 8))):
            at = draw.randrange(len(data) + 1)
            match draw.randrange(6):
                case 0:
                    data[at : at + 1] = draw.randbytes(1)
                case 1:
                    data[at:at] = draw.randbytes(draw.choice((1, 4, 100)))
                case 2:
                    del data[at : at + draw.choice((1, 4, 100, 10_000))]
                case 3:
                    data[at:at] = draw.choice(OPENERS) + draw.choice(
                        (b"\0\0\0\1", b"\0\1\0\0", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff")
                    )
                case 4:
                    data[at : at + 1] = (
                        bytes([data[at] ^ 1 << draw.randrange(8)]) if at < len(data) else b""
                    )
                case _:
                    other = draw.choice(messages)
                    data[at:] = draw.choice(other)[at:] if other else b""
        frames[place] = bytes(data)

    def bend_frames(self, messages: list[Frames]) -> None:
        """Change which frames come, and in which order."""
        draw, frames = self.draw, self.draw.choice(messages)
        match draw.randrange(7):
            case 0:
                frames.clear()
            case 1:
                frames.extend(
                    [draw.choice((b"", b"x", bytes(5000)))] * draw.choice((1, 3, FRAMES, 600))
                )
            case 2:
                draw.shuffle(messages)
            case 3:
                messages.insert(draw.randrange(len(messages) + 1), list(frames))
            case 4:
                messages.remove(frames)
            case 5 if frames:
                frames.pop(draw.randrange(len(frames)))
            case _:
                draw.shuffle(frames)
        if not messages:
            messages.append([])

    def replace(self, messages: list[Frames]) -> None:
        """Put something in the place of a header that never was one."""
        draw, frames = self.draw, self.draw.choice(messages)
        size = draw.choice((0, 1, 3, 50, LIMITS.size, LIMITS.size + 1, 3 * LIMITS.size))
        several = draw.choice(
            (
                b"\x91",
                b"\x90",
                b"\x80",
                b"\xc0",
                b"\x81\xa1k",
                b"\xdc\xff\xff",
                b"\xdc\x00\x40",
                b"\xdf\0\0\1\0",
                b"\xc7\0\5",
            )
        )
        frames[:1] = [
            draw.choice(
                (draw.randbytes(size), (several * size)[:size], pack(self.evil())[: 1 << 20])
            )
        ]


class Tree(list[Any]):
    """A mapping of the tree of values: pairs, in which a key may come twice."""


PACKER = msgpack.Packer()
OPENERS = (b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9")
"""Lists, mappings, texts, bytes and extensions with 32 bits for their length."""


def pack(tree: Any, packer: msgpack.Packer = PACKER) -> bytes:
    """Write a tree of values, whatever is in it."""
    if isinstance(tree, Raw):
        return tree.data
    if isinstance(tree, Tree):
        return packer.pack_map_header(len(tree)) + b"".join(
            [pack(part) for pair in tree for part in pair]
        )
    if isinstance(tree, list):
        return packer.pack_array_header(len(tree)) + b"".join([pack(part) for part in tree])
    return packer.pack(tree)


def judge(messages: Sequence[Frames]) -> int:
    """Let every place that decodes have the messages, and count what it took in.

    BadMessage is what they may raise, and DigestMismatch for weights that have changed. Anything
    else is passed on, and so is an accepted message that is another one when it is sent on.
    """
    return sum(
        1 for frames in messages for limits in (CONTROL, BOOK) for _ in taken(frames, limits)
    ) + sum(1 for _ in models(messages))


def taken(frames: Frames, limits: Any) -> Iterator[Message]:
    """Take a control word."""
    try:
        message = decode(frames, limits)
    except BadMessage:
        return
    assert decode(encode(message), limits) == message
    assert all(sane(getattr(message, name)) for name in _FIELDS[type(message).__name__])
    yield message


def sane(value: Any) -> bool:
    """Tell whether a value in an accepted message is one that can be shown and counted with."""
    match value:
        case str():
            return len(value) <= 2048 and not {
                unicodedata.category(sign) for sign in value.replace("\n", "")
            } & {"Cc", "Cf", "Cs"}
        case int():
            return not isinstance(value, bool) and 0 <= value < 1 << 31
        case float():
            return math.isfinite(value)
        case dict():
            return all(map(sane, (*value.keys(), *value.values())))
    return all(
        map(
            sane,
            value
            if isinstance(value, tuple)
            else (getattr(value, name) for name in _FIELDS["HopId"]),
        )
    )


def models(messages: Sequence[Frames]) -> Iterator[Traveller]:
    """Take models, as an inbox does."""
    assembly = None
    for frames in messages:
        try:
            kind, values = header(frames, LIMITS)
            if kind is Traveller:
                assembly = None
                traveller, table = read_announcement(values, EXPECTED)
                assembly = Assembly(traveller, table, allocate_plain)
            elif kind is Chunk:
                label = chunk(values)
                arrived = assembly.add(label, frames[1:]) if assembly else None
                if arrived:
                    assert spec(arrived.weights) in EXPECTED[arrived.hop.model]
                    yield arrived
                    assembly = None
        except (BadMessage, DigestMismatch):
            assembly = None
