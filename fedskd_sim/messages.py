"""Everything that crosses a process boundary, as frozen dataclasses; nothing here can be executed.

Only `Traveller` has weights, and only hospitals send it to hospitals. What a hospital may say to the controller is
`ToController`: names, numbers and short texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import xxhash


class Buffer(NamedTuple):
    """One tensor as it travels: element type (``float32``), shape, and its raw bytes in C order, little-endian."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview | bytearray | bytes


class TensorSpec(NamedTuple):
    """What a tensor must look like."""

    dtype: str
    shape: tuple[int, ...]


Weights = Mapping[str, Buffer]
Spec = Mapping[str, TensorSpec]
Forms = tuple[Spec, ...]
"""What may travel for one model: exactly the tensors of one of these."""
ITEM_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1,
    "bool": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class HopId:
    """What makes a hop unique: a repeated one is recognised by it and dropped."""

    run: str
    model: str
    round: int
    hop: int


@dataclass(frozen=True, slots=True)
class Traveller:
    """A model on its way to ``hop.hop`` of its round; ``trail`` lists the hospitals since it left home."""

    hop: HopId
    sender: str
    architecture: str
    digest: str
    trail: tuple[str, ...]
    weights: Weights


@dataclass(frozen=True, slots=True)
class Receipt:
    """The receiver has this hop's weights safe, and their digest was right."""

    hop: HopId


@dataclass(frozen=True, slots=True)
class Register:
    """A hospital is up: where its inbox listens, its public key (empty without keys), where its metrics are served."""

    run: str
    hospital: str
    address: str
    public_key: str
    metrics: str


@dataclass(frozen=True, slots=True)
class Progress:
    """A hospital has finished a stop."""

    hospital: str
    model: str
    round: int
    hop: int
    accuracy: float


@dataclass(frozen=True, slots=True)
class Failed:
    """A hospital cannot go on: its exit code and why."""

    hospital: str
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """A hospital has finished all its stops and knows that whatever it sent has arrived."""

    hospital: str


@dataclass(frozen=True, slots=True)
class Start:
    """The address book: every hospital's inbox and public key, by name."""

    addresses: Mapping[str, str]
    keys: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class End:
    """The run is over: code 0, or another hospital's exit code and reason."""

    code: int
    reason: str


ToController = Register | Progress | Failed | Done
FromController = Start | End
Message = Traveller | Receipt | ToController | FromController


@dataclass(frozen=True, slots=True)
class Transfer:
    """A hop that was confirmed: the times (UNIX seconds) of handing it over and of its receipt, and its payload bytes."""

    hop: HopId
    to: str
    start: float
    end: float
    bytes: int
    tries: int


def digest(weights: Weights) -> str:
    """Fingerprint names, types, shapes and bytes of weights (XXH3, 128 bit, hexadecimal).

    It guards against mistakes, not against an adversary: a link that leaves the machine is authenticated by CURVE.
    """
    state = xxhash.xxh3_128()
    for name, (dtype, shape, data) in weights.items():
        state.update(f"{name}|{dtype}|{shape}\n".encode())
        state.update(data)
    return state.hexdigest()


def size(weights: Weights) -> int:
    """Count the payload bytes of weights."""
    return sum(len(buffer.data) for buffer in weights.values())


def spec(weights: Weights) -> dict[str, TensorSpec]:
    """Describe weights without their contents."""
    return {name: TensorSpec(buffer.dtype, buffer.shape) for name, buffer in weights.items()}
