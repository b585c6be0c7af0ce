"""Real sockets: delivery exactly once, receipts, retries, limits, keys and strangers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import zmq
from fedskd_sim.transport.base import CONTROLLER, NothingReceived

from fedskd_sim.errors import InvalidValue, PortInUse, ReceiptTimeout, SocketPathTooLong
from fedskd_sim.messages import (
    Buffer,
    Done,
    End,
    HopId,
    Message,
    Receipt,
    Register,
    Start,
    Transfer,
    Traveller,
    digest,
    spec,
)
from fedskd_sim.transport.parcels import packed
from fedskd_sim.transport.wire import CONTROL_LIMIT, encode
from fedskd_sim.transport.zeromq import Hub, Keys, Place, Terms, ZeroMQTransport

WEIGHTS = {"w": Buffer("float32", (750, 1000), bytes(range(250)) * 12_000), "n": Buffer("int64", (), bytes(8))}
EXPECTED = {"north": (spec(WEIGHTS),), "south": (spec(WEIGHTS),)}
TERMS = Terms("run", receipt=5, retry=0.3, inbox=2)


def traveller(hop: int = 1, run: str = "run") -> Traveller:
    return Traveller(HopId(run, "north", 1, hop), "north", "cnn", digest(WEIGHTS), ("north",), WEIGHTS)


def address(kind: str, folder: Path, name: str) -> str:
    return f"ipc://{folder}/{name}" if kind == "ipc" else "tcp://127.0.0.1:*"


class Members:
    """A hub and two hospitals on one kind of link."""

    def __init__(self, kind: str, folder: Path, terms: Terms) -> None:
        keys = Keys.for_members((CONTROLLER, "north", "south")) if kind == "curve" else {}
        self.keys = keys
        self.hub = Hub(address(kind, folder, "hub"), keys.get(CONTROLLER))
        self.transfers: list[Transfer] = []
        self.ends = {
            name: ZeroMQTransport(
                Place(name, address(kind, folder, name), self.hub.address, keys.get(name)),
                terms,
                EXPECTED,
                self.transfers.append,
            )
            for name in ("north", "south")
        }
        for name, end in self.ends.items():
            public = keys[name].public if keys else ""
            end.send(CONTROLLER, Register("run", name, end.address, public, ""))
        book = [self.hub.receive(5) for _ in self.ends]
        start = Start({entry.hospital: entry.address for entry in book}, {entry.hospital: entry.public_key for entry in book})
        for name, end in self.ends.items():
            self.hub.send(name, start)
            assert end.receive(5) == start


@contextmanager
def members(kind: str, folder: Path, terms: Terms = TERMS) -> Iterator[Members]:
    made = Members(kind, folder, terms)
    try:
        yield made
    finally:
        for end in made.ends.values():
            end.close()
        made.hub.close()


def received(end: ZeroMQTransport) -> Message:
    return end.receive(5)


def until(condition: object, seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.01)
    return bool(condition())  # type: ignore[operator]


@pytest.mark.parametrize("kind", ["ipc", "tcp", "curve"])
def test_a_traveller_arrives_bit_for_bit_and_is_confirmed(kind: str, tmp_path: Path) -> None:
    """On every kind of link the receiver's weights are the sender's, and the sender gets a receipt."""
    with members(kind, tmp_path) as ring:
        ring.ends["north"].send("south", traveller())
        arrived = received(ring.ends["south"])
        assert isinstance(arrived, Traveller)
        assert digest(arrived.weights) == digest(WEIGHTS)
        assert bytes(arrived.weights["w"].data) == bytes(WEIGHTS["w"].data)
        assert until(lambda: ring.transfers)
        assert (ring.transfers[0].to, ring.transfers[0].bytes, ring.transfers[0].tries) == ("south", 3_000_008, 1)


def test_sending_does_not_wait_for_a_receiver_that_trains(tmp_path: Path) -> None:
    """With a receiver that never asks, sending several models returns at once and none is lost."""
    with members("ipc", tmp_path) as ring:
        begun = time.monotonic()
        for hop in range(1, 6):
            ring.ends["north"].send("south", traveller(hop))
        assert time.monotonic() - begun < 1
        assert [received(ring.ends["south"]).hop.hop for _ in range(5)] == [1, 2, 3, 4, 5]


def test_visitors_beyond_the_inbox_stay_with_their_sender(tmp_path: Path) -> None:
    """Only as many models as the scenario allows wait at a hospital; the rest are not confirmed until there is room."""
    with members("ipc", tmp_path) as ring:
        for hop in range(1, 6):
            ring.ends["north"].send("south", traveller(hop))
        assert until(lambda: len(ring.transfers) == TERMS.inbox)
        assert not until(lambda: len(ring.transfers) > TERMS.inbox, 1)
        for _ in range(5):
            received(ring.ends["south"])
        assert until(lambda: len(ring.transfers) == 5)


def test_a_hop_that_is_sent_twice_happens_once(tmp_path: Path) -> None:
    """A repeated hop is confirmed again and dropped."""
    with members("ipc", tmp_path) as ring:
        for _ in range(3):
            ring.ends["north"].send("south", traveller())
        assert received(ring.ends["south"]).hop == traveller().hop
        with pytest.raises(NothingReceived):
            ring.ends["south"].receive(1)


def test_an_unconfirmed_model_is_sent_again(tmp_path: Path) -> None:
    """A receiver that appears late still gets the model, once."""
    late = f"ipc://{tmp_path}/late"
    with members("ipc", tmp_path) as ring:
        ring.hub.send("north", Start({"south": late}, {}))
        assert received(ring.ends["north"]) == Start({"south": late}, {})
        ring.ends["north"].send("south", traveller())
        time.sleep(1)
        place = Place("late", late, ring.hub.address)
        end = ZeroMQTransport(place, TERMS, EXPECTED, lambda _: None)
        try:
            assert received(end).hop == traveller().hop
            assert until(lambda: ring.transfers)
            with pytest.raises(NothingReceived):
                end.receive(0.5)
        finally:
            end.close()


def test_a_receiver_that_never_confirms_is_an_error_in_time(tmp_path: Path) -> None:
    """Without a receipt the deadline of the scenario ends the wait, and the error names receiver and hop."""
    with members("ipc", tmp_path, Terms("run", receipt=0.8, retry=0.2, inbox=2)) as ring:
        ring.hub.send("north", Start({"south": f"ipc://{tmp_path}/nobody"}, {}))
        received(ring.ends["north"])
        begun = time.monotonic()
        ring.ends["north"].send("south", traveller())
        with pytest.raises(ReceiptTimeout, match="'south' never confirmed the model of 'north', round 1 hop 1"):
            ring.ends["north"].receive(5)
        assert 0.5 < time.monotonic() - begun < 3


def test_the_last_word_leaves_after_the_last_receipt(tmp_path: Path) -> None:
    """`Done` reaches the controller only when everything sent is confirmed."""
    with members("ipc", tmp_path) as ring:
        for hop in range(1, 4):
            ring.ends["north"].send("south", traveller(hop))
        ring.ends["north"].send(CONTROLLER, Done("north"))
        with pytest.raises(NothingReceived):
            ring.hub.receive(0.7)
        received(ring.ends["south"])
        received(ring.ends["south"])
        assert ring.hub.receive(5) == Done("north")


def test_a_model_of_another_run_is_refused(tmp_path: Path) -> None:
    """A hop is recognised by its run."""
    with members("ipc", tmp_path) as ring:
        link = raw(ring.ends["south"].address)
        parts = send_all(link, traveller(run="other"))
        assert until(lambda: ring.ends["south"].refused == parts)
        with pytest.raises(NothingReceived):
            ring.ends["south"].receive(0.2)
        link.close()


def raw(to: str, keys: tuple[bytes, bytes, bytes] | None = None) -> zmq.Socket:
    """Open a link as a program would that does not belong to the run."""
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.linger = socket.sndtimeo = 0
    if keys:
        socket.curve_serverkey, socket.curve_publickey, socket.curve_secretkey = keys
    socket.connect(to)
    return socket


def send_all(link: zmq.Socket, message: Message) -> int:
    """Send a message as a member would; give the number of its parts. A link that has been refused takes nothing any more."""
    parts = [[bytes(frame) for frame in frames] for frames in packed(message)]
    with suppress(zmq.Again):
        for frames in parts:
            link.send_multipart(frames)
    return len(parts)


def test_a_model_that_begins_anew_arrives_once(tmp_path: Path) -> None:
    """A sender that broke off in the middle and sends all of it again is heard; what was half there is forgotten."""
    with members("ipc", tmp_path) as ring:
        link = raw(ring.ends["south"].address)
        parts = [[bytes(frame) for frame in frames] for frames in packed(traveller())]
        for frames in (*parts[:2], *parts):
            link.send_multipart(frames)
        arrived = received(ring.ends["south"])
        assert isinstance(arrived, Traveller)
        assert digest(arrived.weights) == digest(WEIGHTS)
        assert link.poll(5000)
        assert ring.ends["south"].refused == 0
        with pytest.raises(NothingReceived):
            ring.ends["south"].receive(0.2)
        link.close()


def test_two_models_that_arrive_at_once_do_not_mix(tmp_path: Path) -> None:
    """Parcels of two senders may take turns: each belongs to the model of its sender."""
    with members("ipc", tmp_path) as ring:
        links = [raw(ring.ends["south"].address) for _ in range(2)]
        parts = [[[bytes(frame) for frame in frames] for frames in packed(traveller(hop))] for hop in (1, 2)]
        for both in zip(*parts, strict=True):
            for link, frames in zip(links, both, strict=True):
                link.send_multipart(frames)
        arrived = [received(ring.ends["south"]) for _ in range(2)]
        assert {message.hop.hop for message in arrived if isinstance(message, Traveller)} == {1, 2}
        assert {digest(message.weights) for message in arrived if isinstance(message, Traveller)} == {digest(WEIGHTS)}
        assert ring.ends["south"].refused == 0
        for link in links:
            link.close()


@pytest.mark.parametrize("fault", ["a parcel is missing", "a bit is wrong"])
def test_a_model_that_arrives_damaged_is_not_confirmed(fault: str, tmp_path: Path) -> None:
    """Nobody gets it and no receipt leaves, so that its sender sends it again; then it arrives."""
    with members("ipc", tmp_path) as ring:
        link = raw(ring.ends["south"].address)
        parts = [[bytes(frame) for frame in frames] for frames in packed(traveller())]
        whole = [list(frames) for frames in parts]
        if fault == "a parcel is missing":
            del parts[1]
        else:
            parts[1][-1] = bytes([parts[1][-1][0] ^ 1]) + parts[1][-1][1:]
        for frames in parts:
            link.send_multipart(frames)
        assert until(lambda: ring.ends["south"].refused > 0)
        assert not link.poll(300)
        for frames in whole:
            link.send_multipart(frames)
        assert received(ring.ends["south"]).hop == traveller().hop
        assert link.poll(5000)
        link.close()


@pytest.mark.parametrize("stranger", ["without keys", "with keys of its own"])
def test_a_stranger_gets_nowhere(stranger: str, tmp_path: Path) -> None:
    """Neither without keys nor with keys outside the run does a message get in or an answer out, even knowing all public keys."""
    with members("curve", tmp_path) as ring:
        pair = zmq.curve_keypair()
        keys = (ring.keys["south"].public.encode(), *pair) if stranger == "with keys of its own" else None
        link = raw(ring.ends["south"].address, keys)
        hub_keys = (ring.keys[CONTROLLER].public.encode(), *pair) if keys else None
        hub_link = raw(ring.hub.address, hub_keys)
        send_all(link, traveller())
        send_all(hub_link, Done("north"))
        assert not link.poll(1000)
        with pytest.raises(NothingReceived):
            ring.ends["south"].receive(0.2)
        with pytest.raises(NothingReceived):
            ring.hub.receive(0.2)
        assert ring.ends["south"].refused == 0
        link.close()
        hub_link.close()
        ring.ends["north"].send("south", traveller())
        assert received(ring.ends["south"]).hop == traveller().hop


def test_another_key_than_agreed_is_refused(tmp_path: Path) -> None:
    """The controller cannot slip a foreign key into the address book."""
    with members("curve", tmp_path) as ring:
        forged = Start({"south": ring.ends["south"].address}, {"south": zmq.curve_keypair()[0].decode()})
        ring.hub.send("north", forged)
        received(ring.ends["north"])
        ring.ends["north"].send("south", traveller())
        with pytest.raises(InvalidValue, match="not the agreed one"):
            ring.ends["north"].receive(5)


def test_the_controller_takes_no_frame_that_could_hold_weights(tmp_path: Path) -> None:
    """A frame over 64 KiB, a model, and a word in another's name are all dropped."""
    with members("ipc", tmp_path) as ring:
        link = raw(ring.hub.address)
        link.send(b"x" * (CONTROL_LIMIT + 1))
        link.close()
        link = raw(ring.hub.address)
        send_all(link, traveller())
        link.send_multipart(encode(Done("north")))
        link.send_multipart(encode(End(0, "")))
        with pytest.raises(NothingReceived):
            ring.hub.receive(1)
        assert ring.hub.refused >= 2
        link.close()
        ring.ends["north"].send(CONTROLLER, Done("north"))
        assert ring.hub.receive(5) == Done("north")


def test_rubbish_does_not_disturb_a_hospital(tmp_path: Path) -> None:
    """Random bytes, pickles and receipts from nobody are counted and dropped."""
    with members("ipc", tmp_path) as ring:
        link = raw(ring.ends["south"].address)
        for frames in ([b"rubbish"], [b"\x80\x04."], [b""], encode(Receipt(traveller().hop))):
            link.send_multipart([bytes(frame) for frame in frames])
        assert until(lambda: ring.ends["south"].refused == 4)
        link.close()
        ring.ends["north"].send("south", traveller())
        assert received(ring.ends["south"]).hop == traveller().hop


def test_a_port_in_use_and_a_path_too_long_have_their_own_errors(tmp_path: Path) -> None:
    """The errors name the address, the scenario key and what to do."""
    hub = Hub("tcp://127.0.0.1:*")
    try:
        with pytest.raises(PortInUse, match="is in use") as caught:
            Hub(hub.address)
        assert caught.value.key == ("network", "port")
    finally:
        hub.close()
    with pytest.raises(SocketPathTooLong, match="longer than 107 bytes"):
        Hub(f"ipc://{tmp_path}/{'x' * 120}")


def test_closing_leaves_no_thread_and_no_socket(tmp_path: Path) -> None:
    """After closing, the same addresses can be bound again and no thread is left."""
    before = threading.active_count()
    for _ in range(2):
        with members("curve", tmp_path) as ring:
            ring.ends["north"].send("south", traveller())
            received(ring.ends["south"])
    assert until(lambda: threading.active_count() <= before + 1)
