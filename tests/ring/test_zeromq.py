"""Real sockets: what leaves arrives bit for bit, nobody waits for anybody, and what no member
would send changes nothing.
"""

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import pytest
import zmq
from wired import LINKS, PATIENCE_S, End, address, attend, identities, knocking, parts_of, send_all

from fedskd_sim.errors import InvalidValue, PortInUse, SocketPathTooLong
from fedskd_sim.learning.weights import finite
from fedskd_sim.messages import (
    CONTROLLER,
    Ack,
    Buffer,
    Done,
    Failed,
    HopId,
    Later,
    Message,
    Progress,
    Ready,
    Register,
    Start,
    Traveller,
    allocate_plain,
    digest,
    spec,
)
from fedskd_sim.messages import End as Over
from fedskd_sim.transport import NothingReceived, Unwelcome
from fedskd_sim.transport.wire import CONTROL_LIMIT, encode
from fedskd_sim.transport.zeromq import Hub, Incoming, Links, Location
from fedskd_sim.transport.zeromq.links import AT_A_TIME, WORDS_KEPT
from fedskd_sim.transport.zeromq.sockets import ENVELOPE

NAMES = ("north", "south", "east")
WEIGHTS = {
    "w": Buffer("float32", (750, 1000), bytes(range(250)) * 12_000),
    "n": Buffer("int64", (), bytes(8)),
}
INCOMING = Incoming(dict.fromkeys(NAMES, (spec(WEIGHTS),)), allocate_plain, len(NAMES), finite)


def traveller(hop: int = 1, run: str = "run") -> Traveller:
    return Traveller(HopId(run, 1, "north", 1, hop), "north", "cnn", "", WEIGHTS)


class Bed:
    """A hub and the ends of three hospitals on one kind of link, which know where the others
    are.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder, self.identities = kind, folder, identities(kind, NAMES)
        self.hub = Hub(address(kind, folder, "hub"), self.identities[CONTROLLER])
        self.north, self.south, self.east = self.all = [self.end(name) for name in NAMES]
        book = {name: end.links.address for name, end in zip(NAMES, self.all, strict=True)}
        self.start = Start(1, book, {name: self.identities[name].public for name in NAMES})
        for end in self.all:
            end.links.open(self.start)

    def end(self, name: str) -> End:
        place = Location(
            name, address(self.kind, self.folder, name), self.hub.address, self.identities[name]
        )
        return End(Links(place, INCOMING))

    def knocking(self, name: str, peer: str = "south") -> closing:
        at = self.hub.address if peer == CONTROLLER else self.start.addresses[peer]
        return knocking(self.identities[name], name, peer, at)


@contextmanager
def bed(kind: str, folder: Path) -> Iterator[Bed]:
    made = Bed(kind, folder)
    try:
        yield made
    finally:
        for end in made.all:
            end.links.close()
        made.hub.close()


@pytest.mark.parametrize("kind", LINKS)
def test_a_model_arrives_bit_for_bit_and_is_answered(kind: str, tmp_path: Path) -> None:
    """On every kind of link the receiver's weights are the sender's, and each of the three
    answers comes back to it alone.
    """
    with bed(kind, tmp_path) as ring:
        ring.north.links.send("south", traveller())
        attend(ring.south, until=lambda: ring.south.arrivals)
        ((arrived, sender),) = ring.south.arrivals
        assert (sender, arrived.hop, arrived.digest) == ("north", traveller().hop, digest(WEIGHTS))
        assert {name: bytes(buffer.data) for name, buffer in arrived.weights.items()} == {
            name: bytes(buffer.data) for name, buffer in WEIGHTS.items()
        }
        answers = [Later(arrived.hop), Ready(arrived.hop), Ack(arrived.hop)]
        for answer in answers:
            ring.south.links.reply("north", answer)
        attend(ring.north, until=lambda: len(ring.north.answers) == len(answers))
        assert ring.north.answers == [(answer, "south") for answer in answers]
        assert [end.refusals for end in ring.all] == [[], [], []]


@pytest.mark.parametrize("kind", LINKS)
def test_a_call_reaches_the_sender_of_a_model(kind: str, tmp_path: Path) -> None:
    """Who has sent it nothing yet hears it, under the caller's true name; any other answer that
    comes unasked is refused.
    """
    hop = traveller().hop
    with bed(kind, tmp_path) as ring:
        ring.south.links.call("west", Ready(hop))
        ring.south.links.call("north", Ready(hop))
        attend(ring.north, until=lambda: ring.north.answers)
        assert ring.north.answers == [(Ready(hop), "south")]
        for answer in (Ack(hop), Later(hop)):
            ring.south.links._link("north").send_multipart(encode(answer))
        attend(ring.north, until=lambda: len(ring.north.refusals) == 2)
        assert (ring.north.answers, {by for by, _ in ring.north.refusals}) == (
            [(Ready(hop), "south")],
            {"south"},
        )


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_model_that_is_not_finite_is_refused_under_its_senders_name(
    kind: str, value: float, tmp_path: Path
) -> None:
    """One value among 750,000 is enough; the true model that comes after it is taken."""
    poisoned = bytearray(WEIGHTS["w"].data)
    struct.pack_into("<f", poisoned, 4 * 700_000, value)
    with bed(kind, tmp_path) as ring:
        ring.north.links.send(
            "south",
            replace(traveller(), weights={**WEIGHTS, "w": WEIGHTS["w"]._replace(data=poisoned)}),
        )
        ring.north.links.send("south", traveller())
        attend(ring.south, until=lambda: ring.south.arrivals)
        assert [arrived.digest for arrived, _ in ring.south.arrivals] == [digest(WEIGHTS)]
        ((sender, reason),) = ring.south.refusals
        assert (sender, "'w' is not finite" in reason) == ("north", True)


@pytest.mark.parametrize("kind", LINKS)
def test_sending_never_waits(kind: str, tmp_path: Path) -> None:
    """Many more models than a link keeps can be sent to a receiver that takes none; those that
    it keeps arrive whole, in order.
    """
    with bed(kind, tmp_path) as ring:
        sent = 40
        for hop in range(1, sent + 1):
            ring.north.links.send("south", traveller(hop))
        last = traveller(sent + 1)
        attend(ring.south, until=lambda: len(ring.south.arrivals) >= 4)

        def came() -> bool:
            ring.north.links.send("south", last)
            return ring.south.arrivals[-1][0].hop == last.hop

        attend(ring.south, until=came)
        hops = [arrived.hop.hop for arrived, _ in ring.south.arrivals]
        assert hops[:4] == [1, 2, 3, 4]
        assert hops == sorted(hops)
        assert len(hops) < sent


def test_a_neighbour_that_goes_while_its_models_wait_ends_nobody(tmp_path: Path) -> None:
    """What it has left behind is taken in afterwards; no heartbeat is due on its broken
    connection, which would end the process.
    """
    with bed("tcp", tmp_path) as ring:
        for hop in range(1, 21):
            ring.north.links.send("south", traveller(hop))
        attend(ring.south, until=lambda: ring.south.arrivals)
        sockets = (
            ring.south.links._inbox.socket,
            ring.south.links._controller,
            *ring.north.links._links.values(),
        )
        assert [(socket.heartbeat_ivl, socket.tcp_keepalive) for socket in sockets] == [(0, 1)] * 3
        ring.north.links.close()
        ring.all = [ring.south, ring.east]
        ring.east.links.send("south", Traveller(traveller(1).hop, "east", "cnn", "", WEIGHTS))
        attend(ring.south, until=lambda: ring.south.arrivals[-1][1] == "east")


def test_a_model_to_nowhere_is_dropped(tmp_path: Path) -> None:
    """To a hospital that is not in the address book nothing is sent, and what comes after is."""
    with bed("ipc", tmp_path) as ring:
        ring.north.links.send("west", traveller())
        assert not ring.south.links.reply("north", Ack(traveller().hop))
        ring.north.links.send("south", traveller())
        attend(ring.south, until=lambda: ring.south.arrivals)


def test_a_model_that_is_not_taken_in_takes_no_memory(tmp_path: Path) -> None:
    """Its chunks are dropped as they come, only its digest is told, and the next model arrives."""
    with bed("ipc", tmp_path) as ring:
        ring.south.takes = lambda hop: hop.hop == 2
        ring.north.links.send("south", traveller())
        attend(ring.south, until=lambda: ring.south.repeats)
        assert ring.south.repeats == [(traveller().hop, "north", digest(WEIGHTS))]
        assert ring.south.links.arriving == 0
        ring.north.links.send("south", traveller(2))
        attend(ring.south, until=lambda: ring.south.arrivals)
        assert [arrived.hop.hop for arrived, _ in ring.south.arrivals] == [2]
        assert ring.south.refusals == []


def test_a_model_that_begins_anew_arrives_once(tmp_path: Path) -> None:
    """A sender that broke off in the middle and sends all of it again is heard; what was half
    there is forgotten.
    """
    with bed("ipc", tmp_path) as ring, ring.knocking("north") as link:
        parts = parts_of(traveller())
        for frames in (*parts[:2], *parts):
            link.send_multipart(frames)
        attend(ring.south, until=lambda: ring.south.arrivals)
        assert digest(ring.south.arrivals[0][0].weights) == digest(WEIGHTS)
        assert (ring.south.links.arriving, ring.south.refusals) == (0, [])


def test_models_that_arrive_at_once_do_not_mix(tmp_path: Path) -> None:
    """Chunks of two senders may take turns: each belongs to the model of its sender."""
    with (
        bed("ipc", tmp_path) as ring,
        ring.knocking("north") as one,
        ring.knocking("east") as other,
    ):
        for both in zip_longest(parts_of(traveller(1)), parts_of(traveller(2))):
            for link, frames in zip((one, other), both, strict=True):
                link.send_multipart(frames)
        attend(ring.south, until=lambda: len(ring.south.arrivals) == 2)
        assert {(arrived.hop.hop, sender) for arrived, sender in ring.south.arrivals} == {
            (1, "north"),
            (2, "east"),
        }
        assert {digest(arrived.weights) for arrived, _ in ring.south.arrivals} == {digest(WEIGHTS)}
        assert ring.south.refusals == []


@pytest.mark.parametrize(
    "fault", ["a chunk is missing", "a chunk comes twice", "a bit is wrong", "a frame is short"]
)
def test_a_model_that_arrives_damaged_does_not_arrive(fault: str, tmp_path: Path) -> None:
    """It is refused with its sender's name, and when it is sent again it arrives."""
    parts = parts_of(traveller())
    bent = [list(frames) for frames in parts]
    match fault:
        case "a chunk is missing":
            del bent[1]
        case "a chunk comes twice":
            bent.insert(1, bent[1])
        case "a bit is wrong":
            bent[1][-1] = bytes([bent[1][-1][0] ^ 1]) + bent[1][-1][1:]
        case "a frame is short":
            bent[-1][-1] = bent[-1][-1][:-1]
    with bed("ipc", tmp_path) as ring, ring.knocking("north") as link:
        for frames in (*bent, *parts):
            link.send_multipart(frames)
        attend(ring.south, until=lambda: ring.south.arrivals)
        assert {sender for sender, _ in ring.south.refusals} == {"north"}
        assert digest(ring.south.arrivals[0][0].weights) == digest(WEIGHTS)
        assert ring.south.links.arriving == 0


def rubbish() -> dict[str, list[list[bytes]]]:
    """Give what no member would send to a hospital, with how often it is refused."""
    model = parts_of(traveller())
    return {
        "random bytes": [[b"rubbish"]],
        "a pickle": [[b"\x80\x04."]],
        "nothing": [[b""]],
        "an answer": [encode(Ack(traveller().hop))],
        "the controller's word": [encode(Over(1, 0, ""))],
        "a chunk of no model": [model[1]],
        "a header in two parts": [[*model[0], b""]],
        "a model of another form": parts_of(
            Traveller(traveller().hop, "north", "cnn", "", {"w": WEIGHTS["w"]})
        )[:1],
        "a model of nobody": parts_of(
            Traveller(traveller().hop._replace(model="west"), "north", "cnn", "", WEIGHTS)
        )[:1],
        "many parts": [[b"x"] * 5000],
    }


@pytest.mark.parametrize("what", rubbish())
def test_rubbish_does_not_disturb_a_hospital(what: str, tmp_path: Path) -> None:
    """Whatever no member would send is refused with the name of who sent it, and the next model
    arrives.
    """
    with bed("ipc", tmp_path) as ring, ring.knocking("east") as link:
        for frames in rubbish()[what]:
            link.send_multipart(frames)
        attend(ring.south, until=lambda: ring.south.refusals)
        assert {sender for sender, _ in ring.south.refusals} == {"east"}
        ring.north.links.send("south", traveller())
        attend(ring.south, until=lambda: ring.south.arrivals)


def test_answers_and_words_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    """A receiver that answers with anything else, and a controller that says anything else, are
    named.
    """
    with bed("ipc", tmp_path) as ring:
        ring.north.links.send("south", traveller())
        attend(ring.south, until=lambda: ring.south.arrivals)
        wrong: list[list[bytes]] = [encode(Done(1, "south")), [b"rubbish"], [b"x"] * 3]
        for frames in wrong:
            ring.south.links._inbox.send("north", frames)
        attend(ring.north, until=lambda: len(ring.north.refusals) == len(wrong))
        assert {by for by, _ in ring.north.refusals} == {"south"}
        ring.north.links.tell(Register("run", 1, "north", ring.north.links.address, "", ""))
        attend(ring.north, until=lambda: heard(ring.hub, 0))
        for frames in (*wrong, encode(Over(1, 0, "enough"))):
            ring.hub._inbox.send("north", frames)
        attend(ring.north, until=lambda: ring.north.words)
        assert [by for by, _ in ring.north.refusals[len(wrong) :]] == [CONTROLLER] * len(wrong)
        assert ring.north.words == [Over(1, 0, "enough")]


def heard(hub: Hub, seconds: float = PATIENCE_S) -> Message | None:
    """Take the next word of a hospital that is one."""
    try:
        while isinstance(word := hub.receive(seconds), Unwelcome):
            pass
    except NothingReceived:
        return None
    return word


@pytest.mark.parametrize("kind", ["ipc", "curve"])
@pytest.mark.parametrize("stranger", ["without credentials", "with credentials of its own"])
def test_a_stranger_gets_nowhere(kind: str, stranger: str, tmp_path: Path) -> None:
    """Neither a message gets in nor an answer out, even for who knows all public keys; members
    are heard as before.
    """
    with bed(kind, tmp_path) as ring:
        others = identities(kind, NAMES)
        own = None if stranger == "without credentials" else others["north"]
        if own is not None and kind == "curve":
            own = type(own)(own.public, own.secret, ring.identities["north"].members)  # type: ignore[union-attr, call-arg]
        with (
            knocking(own, "north", "south", ring.start.addresses["south"]) as link,
            knocking(own, "north", CONTROLLER, ring.hub.address) as hub_link,
        ):
            for at, message in ((link, traveller()), (hub_link, Done(1, "north"))):
                at.sndtimeo = 0
                with suppress(zmq.Again):  # it is not connected
                    send_all(at, message)
            ring.north.links.send("south", traveller(2))
            attend(ring.south, until=lambda: ring.south.arrivals)
            ring.north.links.tell(Done(1, "north"))
            assert heard(ring.hub) == Done(1, "north")
            assert [arrived.hop.hop for arrived, _ in ring.south.arrivals] == [2]
            assert heard(ring.hub, 0) is None
            assert not link.poll(0)
            assert not hub_link.poll(0)
            assert ring.south.refusals == []


def test_another_key_than_agreed_is_refused(tmp_path: Path) -> None:
    """The controller cannot slip a foreign key into the address book."""
    with bed("curve", tmp_path) as ring:
        foreign = zmq.curve_keypair()[0].decode()
        ring.north.links.open(
            Start(1, {"south": ring.start.addresses["south"]}, {"south": foreign})
        )
        with pytest.raises(InvalidValue, match="not the agreed one"):
            ring.north.links.send("south", traveller())


def test_a_hospital_that_is_elsewhere_now_is_found_there(tmp_path: Path) -> None:
    """After a new address book models go to the new address."""
    with bed("tcp", tmp_path) as ring:
        ring.north.links.send("south", traveller())
        attend(ring.south, until=lambda: ring.south.arrivals)
        ring.south.links.close()
        moved = ring.end("south")
        ring.all = [ring.north, moved, ring.east]
        ring.north.links.open(Start(1, {**ring.start.addresses, "south": moved.links.address}, {}))
        ring.north.links.send("south", traveller(2))
        attend(moved, until=lambda: moved.arrivals)
        assert [arrived.hop.hop for arrived, _ in moved.arrivals] == [2]


@pytest.mark.parametrize("kind", LINKS)
def test_a_dead_controller_stops_nobody(kind: str, tmp_path: Path) -> None:
    """Any number of words can be said to it and models go on; words that matter are kept, and
    heard when it is there again.
    """
    with bed(kind, tmp_path) as ring:
        at = ring.hub.address
        ring.hub.close()
        for hop in range(500):
            ring.north.links.tell(Progress(1, "north", "south", 1, hop, 0.5))
        for _ in range(WORDS_KEPT):
            ring.north.links.tell(Failed(1, "north", 40, "too late"))
        ring.north.links.tell(Done(1, "north"))
        ring.north.links.send("south", traveller())
        attend(ring.north, ring.south, until=lambda: ring.south.arrivals)
        ring.hub = Hub(at, ring.identities[CONTROLLER])
        found: list[Message | None] = []

        def said() -> bool:
            found.append(heard(ring.hub, 0))
            return found[-1] == Done(1, "north")

        attend(ring.north, until=said)
        assert len([word for word in found if isinstance(word, Failed)]) >= WORDS_KEPT - 1


def test_other_duties_are_attended_to_while_something_comes_without_end(tmp_path: Path) -> None:
    """Of a flood only so many messages are taken before the controller and other links are
    heard.
    """
    with bed("ipc", tmp_path) as ring, ring.knocking("east") as link:
        link.set_hwm(0)
        for _ in range(3 * AT_A_TIME):
            link.send(b"x")
        attend(ring.south, until=lambda: ring.south.refusals)
        assert len(ring.south.refusals) <= AT_A_TIME
        attend(ring.south, until=lambda: len(ring.south.refusals) == 3 * AT_A_TIME)


@pytest.mark.parametrize("kind", LINKS)
def test_the_controller_hears_only_small_words_in_the_speakers_own_name(
    kind: str, tmp_path: Path
) -> None:
    """A frame over its limit, a model, another's name and a word that is not for it are all
    dropped.
    """
    with bed(kind, tmp_path) as ring:
        forged = (
            Done(1, "south"),
            Register("run", 1, "south", "ipc:///x", "", ""),
            Failed(1, "south", 42, "no"),
            Over(1, 0, ""),
        )
        with (
            ring.knocking("north", CONTROLLER) as large,
            ring.knocking("north", CONTROLLER) as model,
            ring.knocking("north", CONTROLLER) as link,
        ):
            large.send(b"x" * (CONTROL_LIMIT + ENVELOPE + 1))
            send_all(model, traveller())
            for word in (*forged, Done(1, "north")):
                link.send_multipart(encode(word))
            assert heard(ring.hub) == Done(1, "north")
        assert heard(ring.hub, 0) is None


def test_a_port_in_use_and_a_path_too_long_have_their_own_errors(tmp_path: Path) -> None:
    """The errors name the address, the scenario key and what to do; nothing is left open."""
    with closing(Hub("tcp://127.0.0.1:*")) as hub:
        with pytest.raises(PortInUse, match="is in use") as caught:
            Hub(hub.address)
        assert caught.value.key == ("network", "port")
        with pytest.raises(PortInUse):
            Links(Location("north", hub.address, hub.address), INCOMING)
    with pytest.raises(SocketPathTooLong, match="longer than 107 bytes"):
        Hub(f"ipc://{tmp_path}/{'x' * 120}")
    with pytest.raises(InvalidValue, match="cannot use the address"):
        Links(Location("north", f"ipc://{tmp_path}/north", "nonsense"), INCOMING)


@pytest.mark.parametrize("kind", LINKS)
def test_closing_leaves_no_thread_and_no_address(kind: str, tmp_path: Path) -> None:
    """After closing, the same addresses can be bound again, no thread is left, and waking a
    closed end does nothing.
    """
    before = {*threading.enumerate()}
    for _ in range(2):
        with bed(kind, tmp_path) as ring:
            ring.north.links.send("south", traveller())
            attend(ring.south, until=lambda: ring.south.arrivals)
        ring.north.links.wake()
    assert {*threading.enumerate()} <= before


def test_another_thread_can_wake_an_end(tmp_path: Path) -> None:
    """Who attends to links returns when it is woken, however often the bell rings."""
    with bed("ipc", tmp_path) as ring:
        for _ in range(5000):
            ring.north.links.wake()
        ring.north.links.attend(PATIENCE_S, ring.north)
        thread = threading.Thread(target=ring.north.links.attend, args=(PATIENCE_S, ring.north))
        thread.start()
        ring.north.links.wake()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
