"""Members of a run who lie, with their own right keys: all of it is refused, counted, named, and
changes nothing.

South lies to east, whose models come from north, and to the controller; where only east's own
neighbours could, they do. While it does, all hospitals stand still: before any model is on its way,
or while every one hosts its first visitor.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

import msgpack
import pytest
import zmq
from wired import MARK, PATIENCE_S, Ring, parts_of, send_all, senders

from fedskd_sim.member.shell import Task
from fedskd_sim.messages import (
    CONTROLLER,
    Ack,
    Buffer,
    Done,
    Failed,
    HopId,
    Message,
    Progress,
    Ready,
    Register,
    Start,
    Traveller,
)
from fedskd_sim.messages import End as Over
from fedskd_sim.scenario import Scenario, load
from fedskd_sim.transport.chunks import CHUNK_BYTES, FRAMES
from fedskd_sim.transport.wire import CONTROL_LIMIT, VERSION, encode
from fedskd_sim.transport.zeromq.sockets import AT_A_TIME

NAMES = ("north", "east", "south")
TEXT = """\
name: hostile
hospitals: [{name: north, architecture: buffer}, {name: east, architecture: buffer},
  {name: south, architecture: buffer}]
algorithm: {name: placebo, rounds: 2, buffer_bytes: 2200000}
timeouts: {register: 300, hop: 300, acknowledgement: 300, retry: 3, goodbye: 60}
"""
SIZE = 2_200_000
FLOOD = 3000
Messages = Iterable[list[bytes]]


def hop(model: str, round_: int, number: int, *, run: str = "run", epoch: int = 1) -> HopId:
    return HopId(run, epoch, model, round_, number)


TRUE, SECOND = hop("north", 1, 1), hop("south", 1, 2)
"""What east hosts first and second."""


def model(which: HopId, sender: str = "north", value: int = 7, size: int = SIZE) -> Traveller:
    return Traveller(
        which, sender, "buffer", "", {"buffer": Buffer("uint8", (size,), bytes([value]) * size)}
    )


def head(values: Any, kind: str = "Traveller") -> list[bytes]:
    return [msgpack.packb([VERSION, kind, values])]


def forged(*hops: HopId) -> Messages:
    return chain.from_iterable(parts_of(model(one)) for one in hops)


def half(one: HopId = TRUE) -> Messages:
    """Give a model that never ends."""
    return parts_of(model(one))[:-1]


TO_EAST: dict[str, Callable[[], Messages]] = {
    "the true hop": lambda: forged(TRUE),
    "the next hop": lambda: forged(SECOND),
    "a hop that leads elsewhere": lambda: forged(hop("north", 1, 2)),
    "every hop of the run": lambda: chain.from_iterable(
        parts_of(model(hop(name, round_, number)))[:1]
        for name in NAMES
        for round_ in range(5)
        for number in range(5)
    ),
    "another epoch": lambda: forged(hop("north", 1, 1, epoch=2), hop("north", 1, 1, epoch=0)),
    "another run": lambda: forged(hop("north", 1, 1, run="other")),
    "a model of nobody": lambda: forged(hop("west", 1, 1)),
    "an oversized model": lambda: parts_of(model(TRUE, size=2 * SIZE)),
    "an oversized frame": lambda: [[bytes(CHUNK_BYTES << 1)], [b"x"]],
    "a model that never ends": half,
    "chunks of no model": lambda: parts_of(model(TRUE))[1:],
    "parts of its header": lambda: [[b"x"] * FRAMES],
    "a message of many parts": lambda: [[bytes(1000)] * (2 * AT_A_TIME)],
    "thirty messages of many parts": lambda: [[b"x"] * (FRAMES + 1)] * 30,
    "maps without end": lambda: [head({str(number): number for number in range(50_000)})] * 30,
    "arrays without end": lambda: [[b"\xdd\xff\xff\xff\xff" * 200]] * 30,
    "lists in lists": lambda: [[b"\x91" * CONTROL_LIMIT]] * 30,
    "a table without end": lambda: (
        [head({"hop": list(TRUE), "tensors": [["t", "uint8", [1]]] * 50_000})] * 30
    ),
    "a pickle": lambda: [[b"\x80\x04."]],
    "a flood of rubbish": lambda: [[b"x"]] * FLOOD,
    "a flood of announcements": lambda: parts_of(model(TRUE))[:1] * FLOOD,
    "an acknowledgement": lambda: [encode(Ack(hop("east", 1, 1)))],
    "the controller's end": lambda: [encode(Over(1, 42, "stop"))],
    "an address book": lambda: [encode(Start(1, dict.fromkeys(NAMES, "ipc:///nowhere"), {}))],
    "another's failure": lambda: [encode(Failed(1, "north", 42, "no"))],
}
TO_CONTROLLER: dict[str, Callable[[], Messages]] = {
    "another's failure": lambda: [encode(Failed(1, "east", 42, "no"))],
    "a failure with code 0": lambda: [encode(Failed(1, "south", 0, "fine"))],
    "a failure with code 2^52": lambda: [
        head({"epoch": 1, "hospital": "south", "code": 1 << 52, "reason": ""}, "Failed")
    ],
    "a failure of another epoch": lambda: [encode(Failed(2, "south", 42, "no"))],
    "that all are done": lambda: [encode(Done(1, name)) for name in ("north", "east")],
    "a registration in another's name": lambda: (
        [encode(Register("run", 1, "east", "ipc:///nowhere", "", ""))] * 2
    ),
    "a registration for another run": lambda: [
        encode(Register("other", 1, "south", "ipc:///nowhere", "", ""))
    ],
    "a registration of nobody": lambda: [
        encode(Register("run", 1, "west", "ipc:///nowhere", "", ""))
    ],
    "progress of steps that it does not have": lambda: (
        [encode(Progress(1, "south", "north", 1, 1, 0.5))] * FLOOD
    ),
    "another's progress": lambda: [encode(Progress(1, "east", "north", 1, 1, 0.5))],
    "accuracies that are none": lambda: [
        head(
            {
                "epoch": 1,
                "hospital": "south",
                "model": "east",
                "round": 1,
                "hop": 1,
                "accuracy": bad,
            },
            "Progress",
        )
        for bad in (math.nan, math.inf)
    ],
    "a model": lambda: parts_of(model(TRUE, size=8000)),
    "an oversized frame": lambda: [[bytes(CONTROL_LIMIT << 1)], [b"x"]],
    "a message of many parts": lambda: [[bytes(1000)] * (2 * AT_A_TIME)],
    "a flood of rubbish": lambda: [[b"x"]] * FLOOD,
    "the controller's own words": lambda: [encode(Over(1, 0, ""))],
}
KINDS = ("ipc", "curve")
FORGERIES = 5
"""The first tries of each table may do more harm at one moment than at another."""


@cache
def scenario() -> Scenario:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "hostile.yaml"
        path.write_text(TEXT, encoding="utf-8")
        return load(path).scenario


@cache
def undisturbed() -> dict[str, tuple[list[str], str]]:
    """Give every hospital's records and weights of a run in which nobody lies."""
    with TemporaryDirectory() as folder:
        ring = Ring("ipc", Path(folder), scenario())
        ring.start()
        ring.join()
        assert ring.errors == []
        return ring.result


@dataclass
class Moment:
    """All hospitals stand still at a step of their program."""

    index: int
    ready: dict[str, Event]
    go: Event

    def before(self, name: str, task: Task) -> None:
        if task.index == self.index:
            self.ready[name].set()
            assert self.go.wait(PATIENCE_S)


@contextmanager
def standing(kind: str, folder: Path, index: int) -> Iterator[Ring]:
    """Let a ring run until every hospital is at a step; afterwards it must end as if nothing had
    been.
    """
    moment = Moment(index, {name: Event() for name in NAMES}, Event())
    ring = Ring(kind, folder, scenario(), before=moment.before)
    ring.start()
    try:
        assert all(event.wait(PATIENCE_S) for event in moment.ready.values())
        yield ring
    finally:
        moment.go.set()
        ring.join()
    assert ring.errors == []
    assert ring.result == undisturbed()
    assert [line["code"] for line in ring.events("end")] == [0]


def until(what: Callable[[], Any]) -> None:
    """Wait for what another thread does."""
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, "it never happens"
        time.sleep(0.01)


BEFORE, DURING = 1, 2
"""The own model's departure, and the first visitor's stop."""


def cases(tries: Iterable[str]) -> list[tuple[str, int, str]]:
    """Try everything at both moments and on both links: forgeries in all four ways, the others
    in two.
    """
    return [
        (what, moment, kind)
        for number, what in enumerate(tries)
        for moment in (BEFORE, DURING)
        for kind in KINDS
        if number < FORGERIES or (moment == BEFORE) == (kind == "ipc")
    ]


@pytest.mark.parametrize(("what", "moment", "kind"), cases(TO_EAST))
def test_a_liar_cannot_harm_a_hospital(what: str, moment: int, kind: str, tmp_path: Path) -> None:
    """Whatever a member sends that is not its to send is refused in its name, holds no memory,
    and the run is the same.
    """
    with standing(kind, tmp_path, moment) as ring, ring.posing("south", "east") as link:
        east = ring.members["east"]
        for frames in TO_EAST[what]():
            link.send_multipart(frames)
        until(lambda: link.send(MARK) or MARK in east.seen)
        until(lambda: east.refused)
        assert east.mailbox.links.arriving == 0
        assert set(senders(east.events("refused"))) == {"south"}
        assert len(east.events("refused")) < 60
        assert set(east.mailbox.shell.state.waiting) <= {TRUE}


@pytest.mark.parametrize(("what", "moment", "kind"), cases(TO_CONTROLLER))
def test_a_liar_cannot_harm_the_controller(
    what: str, moment: int, kind: str, tmp_path: Path
) -> None:
    """Whatever a member says that is not its to say is refused in its name, fills no log, and
    the run is the same.
    """
    with standing(kind, tmp_path, moment) as ring, ring.posing("south", CONTROLLER) as link:
        for frames in TO_CONTROLLER[what]():
            link.send_multipart(frames)
        until(lambda: link.send(MARK) or MARK in ring.seen)
        until(lambda: ring.events("refused"))
        assert set(senders(ring.events("refused"))) == {"south"}
    assert len(ring.events("refused")) < 60
    assert len(ring.events("registered")) == len(NAMES)
    assert len(ring.events("progress")) <= sum(
        len(records) for records, _ in undisturbed().values()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_unfinished_models_of_many_connections_hold_no_memory(kind: str, tmp_path: Path) -> None:
    """A liar's hundred links, each with two thirds of a model, are refused, and nothing of them
    is kept.
    """
    with standing(kind, tmp_path, BEFORE) as ring, ExitStack() as stack:
        east = ring.members["east"]
        for _ in range(100):
            link = stack.enter_context(ring.posing("south", "east"))
            for frames in half():
                link.send_multipart(frames)
        until(lambda: east.refused >= 100)
        assert east.mailbox.links.arriving == 0
        assert east.mailbox.shell.models == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_neighbour_that_never_finishes_its_models_holds_the_memory_of_one(
    kind: str, tmp_path: Path
) -> None:
    """Of the hospital before, too, only one model is arriving at a time, however many links it
    opens.
    """
    with standing(kind, tmp_path, BEFORE) as ring, ExitStack() as stack:
        east = ring.members["east"]
        for _ in range(20):
            link = stack.enter_context(ring.posing("north", "east"))
            for frames in half():
                link.send_multipart(frames)
        send_all(link, model(hop("north", 1, 1, epoch=2)))
        until(lambda: east.refused)
        assert east.mailbox.links.arriving <= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "other", ["a second model", "many second models", "a hop far ahead", "hops of its own choice"]
)
def test_the_hospital_before_cannot_send_what_it_likes(
    other: str, kind: str, tmp_path: Path
) -> None:
    """Another model under the same hop, or one that cannot have come so far, is refused though
    its sender is the right one.
    """
    lies = {
        "a second model": [model(TRUE)],
        "many second models": [model(TRUE, value=value) for value in range(9)],
        "a hop far ahead": [model(hop("north", 3, 1))],
        "hops of its own choice": [model(hop("east", 1, 1)), model(hop("south", 1, 3))],
    }
    with standing(kind, tmp_path, DURING) as ring, ring.posing("north", "east") as link:
        east = ring.members["east"]
        for lie in lies[other]:
            send_all(link, lie)
        until(lambda: east.refused == len(lies[other]))
        assert senders(east.events("refused")) == {"north": len(lies[other])}
        assert not link.poll(0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_taken_name_is_heard_under_the_true_one(kind: str, tmp_path: Path) -> None:
    """Another's name as routing id steals no answers, and what is sent under it is refused in
    the true name.
    """
    with (
        standing(kind, tmp_path, BEFORE) as ring,
        zmq.Context() as context,
        context.socket(zmq.DEALER) as thief,
    ):
        thief.linger, thief.sndtimeo, thief.routing_id = 0, int(PATIENCE_S * 1000), b"north"
        ring.identities["south"].present(thief, "south", "east", "")
        thief.connect(ring.members["east"].mailbox.links.address)
        send_all(thief, model(TRUE))
        until(lambda: ring.members["east"].refused)
        assert set(senders(ring.members["east"].events("refused"))) == {"south"}
        assert not thief.poll(0)


def answers(to_south: bytes, ring: Ring) -> None:
    """Let south say something to all that have a link to it, as its thread would."""
    south = ring.members["south"].mailbox
    south._hand_in(lambda: south.links._inbox.send("east", [to_south]) and None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "word",
    [
        Ack(hop("north", 1, 1)),
        Ready(hop("south", 2, 1)),
        Done(1, "south"),
        Over(1, 42, "stop"),
        b"rubbish",
    ],
)
def test_a_receiver_cannot_answer_what_it_likes(
    word: Message | bytes, kind: str, tmp_path: Path
) -> None:
    """Acknowledgements for models that are not on their way change nothing; anything else than
    an answer is refused in its name.
    """
    with standing(kind, tmp_path, DURING) as ring:
        east = ring.members["east"]
        until(lambda: not east.mailbox.shell.state.outbox)
        answers(word if isinstance(word, bytes) else bytes(encode(word)[0]), ring)
        if isinstance(word, Ack | Ready):
            answers(b"rubbish", ring)
        until(lambda: east.refused)
        assert senders(east.events("refused")) == {"south": 1}
