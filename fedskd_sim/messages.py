"""Everything that crosses a process boundary, as frozen dataclasses; nothing here can be executed.

Only `Traveller` has weights, and only hospitals send it to hospitals. What a hospital may say to
the controller is `ToController`: names, numbers and short texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import xxhash


class Buffer(NamedTuple):
    """One tensor as it travels: element type (``float32``), shape, and its raw bytes in C order,
    little-endian.
    """

    dtype: str
    shape: tuple[int, ...]
    data: memoryview | bytearray | bytes


class TensorSpec(NamedTuple):
    """What a tensor must look like."""

    dtype: str
    shape: tuple[int, ...]


CONTROLLER = "controller"
Weights = Mapping[str, Buffer]
Allocate = Callable[[str, str, int], memoryview]
"""Gives writable memory in which a tensor arrives: for which model, which tensor, and how many
bytes."""
Spec = Mapping[str, TensorSpec]
Forms = tuple[Spec, ...]
"""What may travel for one model: exactly the tensors of one of these."""
ITEM_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2,
    "int8": 1, "uint8": 1, "bool": 1,
}  # fmt: skip


class HopId(NamedTuple):
    """What makes a hop unique: the run, the topology's epoch, whose model, and where it is on
    its way.
    """

    run: str
    epoch: int
    model: str
    round: int
    hop: int

    def __str__(self) -> str:
        """Return it in words."""
        return f"the model of {self.model!r}, round {self.round} hop {self.hop}"


@dataclass(frozen=True, slots=True)
class Traveller:
    """A model on its way to ``hop.hop`` of its round.

    Whoever sends one may leave ``digest`` empty: the link then takes it from the bytes as they
    leave. One that has arrived has it.
    """

    hop: HopId
    sender: str
    architecture: str
    digest: str
    weights: Weights


@dataclass(frozen=True, slots=True)
class Chunk:
    """What goes ahead of part ``number`` (from 1) of a traveller's bytes; the last one has the
    digest of all, the others ''.
    """

    hop: HopId
    number: int
    digest: str


@dataclass(frozen=True, slots=True)
class Ack:
    """The receiver has this hop's weights safe, and their digest was right."""

    hop: HopId


@dataclass(frozen=True, slots=True)
class Later:
    """The receiver is alive and has no room for this hop's weights: it will ask with `Ready`."""

    hop: HopId


@dataclass(frozen=True, slots=True)
class Ready:
    """The receiver has room for this hop's weights now."""

    hop: HopId


@dataclass(frozen=True, slots=True)
class Register:
    """A hospital is up: where its inbox listens, its public key (empty without keys), where its
    metrics are served, and with which code it computes (`fedskd_sim.protocol.admission`).
    """

    run: str
    epoch: int
    hospital: str
    address: str
    public_key: str
    metrics: str
    computes: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """A hospital has finished a step; advice only, which a full queue drops."""

    epoch: int
    hospital: str
    model: str
    round: int
    hop: int
    accuracy: float


@dataclass(frozen=True, slots=True)
class Failed:
    """A hospital cannot go on: its exit code and why."""

    epoch: int
    hospital: str
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """A hospital has finished its program and knows that whatever it sent has arrived."""

    epoch: int
    hospital: str


@dataclass(frozen=True, slots=True)
class Start:
    """The address book: every hospital's inbox and public key, by name."""

    epoch: int
    addresses: Mapping[str, str]
    keys: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class End:
    """The run is over: code 0, or another hospital's exit code and reason."""

    epoch: int
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Passed:
    """This hop's model is safe one host further: whoever sent it here need not keep it any more."""

    hop: HopId


@dataclass(frozen=True, slots=True)
class Alive:
    """A hospital lives, and knows this one, of all in turn, to be lost ('': nobody); with the first
    round in which its model does not travel, 0 if it does to the end.
    """

    epoch: int
    hospital: str
    lost: str
    round: int
    back: int = 0
    """... and what it knows of that one's return, as `fedskd_sim.ring.routes.code` writes it."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The model of a lost hospital is nowhere: it never set out."""

    epoch: int
    hospital: str
    model: str


@dataclass(frozen=True, slots=True)
class Holds:
    """A hospital has an epoch in custody just as it was told (0: it cannot take it in), and holds
    no model of a round behind this one.
    """

    epoch: int
    hospital: str
    round: int


@dataclass(frozen=True, slots=True)
class Epoch:
    """The ring goes on without these, by name with that round of `Alive`; behind a blank, `back`
    of `Alive`.
    """

    epoch: int
    lost: Mapping[str, str]


ToController = Register | Progress | Failed | Done | Alive | Gone | Holds
FromController = Start | End | Epoch
Answer = Ack | Later | Ready | Passed
Message = Traveller | Chunk | Answer | ToController | FromController


def allocate_plain(model: str, tensor: str, size: int) -> memoryview:  # noqa: ARG001 - the signature of an Allocate
    """Return memory that is as good as any; `fedskd_sim.learning.receive_buffers` gives that of a
    network.
    """
    return memoryview(bytearray(size))


def write_table(table: Spec) -> bytes:
    """Write a table of tensors as digests and files begin with it: lines ``name|type|shape``."""
    return "".join(f"{name}|{dtype}|{shape}\n" for name, (dtype, shape) in table.items()).encode()


class Fingerprint:
    """The digest of weights as their bytes pass by: XXH3, 128 bit, over the table of names, types
    and shapes, then the bytes.

    It guards against mistakes, not against an adversary: a link that leaves the machine is
    authenticated by CURVE.
    """

    def __init__(self, table: Spec) -> None:
        """Begin with the table; the bytes of its tensors follow in its order."""
        self._state = xxhash.xxh3_128(write_table(table))

    def add(self, data: memoryview | bytearray | bytes) -> None:
        """Add the next bytes, however they are cut."""
        self._state.update(data)

    def text(self) -> str:
        """Write the digest of what was added (32 hexadecimal digits)."""
        return self._state.hexdigest()


def digest(weights: Weights) -> str:
    """Return the digest of weights as a whole."""
    mark = Fingerprint(spec(weights))
    for buffer in weights.values():
        mark.add(buffer.data)
    return mark.text()


def lasting(weights: Weights) -> bool:
    """Return whether nobody can change weights: all their data are ``bytes``."""
    return all(type(buffer.data) is bytes for buffer in weights.values())


def freeze(weights: Weights) -> Weights:
    """Return weights that nobody can change: these themselves if they are `lasting`, or else a
    copy.
    """
    if lasting(weights):
        return weights
    return {name: buffer._replace(data=bytes(buffer.data)) for name, buffer in weights.items()}


def size(weights: Weights) -> int:
    """Count the payload bytes of weights."""
    return sum(len(buffer.data) for buffer in weights.values())


def bytes_of(form: TensorSpec) -> int:
    """Count the bytes of a tensor."""
    return ITEM_BYTES[form.dtype] * prod(form.shape)


def spec(weights: Weights) -> dict[str, TensorSpec]:
    """Describe weights without their contents."""
    return {name: TensorSpec(buffer.dtype, buffer.shape) for name, buffer in weights.items()}
