"""The transport in memory makes the same checks as the wire."""

from __future__ import annotations

import pytest
from fedskd_sim.transport.base import NothingReceived
from fedskd_sim.transport.memory import Exchange, MemoryTransport

from fedskd_sim.errors import BadMessage, DigestMismatch
from fedskd_sim.messages import Buffer, Done, HopId, Transfer, Traveller, digest, spec

WEIGHTS = {"w": Buffer("uint8", (4,), b"1234")}
TRAVELLER = Traveller(HopId("r", "north", 1, 1), "north", "cnn", digest(WEIGHTS), ("north",), WEIGHTS)


def pair(transfers: list[Transfer] | None = None) -> tuple[MemoryTransport, MemoryTransport]:
    exchange = Exchange()
    observe = transfers.append if transfers is not None else lambda _: None
    return MemoryTransport(exchange, "north", observe=observe), MemoryTransport(exchange, "south", {"north": (spec(WEIGHTS),)})


def test_messages_arrive_in_order_and_nothing_is_invented() -> None:
    """What is sent is received once, in order; then there is nothing."""
    north, south = pair()
    north.send("south", TRAVELLER)
    north.send("south", Done("north"))
    assert south.receive(0) == TRAVELLER
    assert south.receive(0) == Done("north")
    with pytest.raises(NothingReceived):
        south.receive(0)


def test_the_receiver_has_a_copy() -> None:
    """Changing the sender's memory afterwards does not change what arrived."""
    north, south = pair()
    memory = bytearray(b"1234")
    north.send("south", Traveller(**{**fields(), "weights": {"w": Buffer("uint8", (4,), memoryview(memory))}}))
    memory[:] = b"9999"
    assert bytes(south.receive(0).weights["w"].data) == b"1234"


def fields() -> dict[str, object]:
    return {name: getattr(TRAVELLER, name) for name in TRAVELLER.__slots__}


def test_wrong_weights_are_refused_as_on_the_wire() -> None:
    """A wrong digest and an unknown model raise the wire's errors."""
    north, south = pair()
    north.send("south", Traveller(**{**fields(), "digest": "0" * 32}))
    with pytest.raises(DigestMismatch):
        south.receive(0)
    south.send("north", TRAVELLER)
    with pytest.raises(BadMessage):
        north.receive(0)


def test_departures_are_observed_with_their_bytes() -> None:
    """Each traveller is one transfer of its payload; control messages are none."""
    transfers: list[Transfer] = []
    north, _ = pair(transfers)
    north.send("south", TRAVELLER)
    north.send("south", Done("north"))
    assert [(transfer.to, transfer.bytes) for transfer in transfers] == [("south", 4)]


def test_closing_drops_what_nobody_took() -> None:
    """After closing, the member's queue is empty."""
    north, south = pair()
    north.send("south", TRAVELLER)
    south.close()
    with pytest.raises(NothingReceived):
        south.receive(0)
