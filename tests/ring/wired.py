"""Members of a run on real sockets inside a test: ends of links that record what comes, and
whole rings of placebo hospitals.
"""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

import zmq

from fedskd_sim.errors import FedskdError
from fedskd_sim.learning.algorithms.learners import make
from fedskd_sim.learning.base import LearnerContext
from fedskd_sim.learning.weights import finite
from fedskd_sim.member.controller import Controller
from fedskd_sim.member.mailbox import Mailbox
from fedskd_sim.member.reporter import Reporter
from fedskd_sim.member.shell import Task
from fedskd_sim.member.work import Worker, carry_out
from fedskd_sim.messages import (
    CONTROLLER,
    Answer,
    FromController,
    HopId,
    Message,
    Register,
    Traveller,
    digest,
)
from fedskd_sim.observe.events import EventLog
from fedskd_sim.observe.metrics import HospitalMetrics
from fedskd_sim.protocol.machine import HospitalMachine
from fedskd_sim.protocol.state import Terms
from fedskd_sim.records import Record, Timing, to_line
from fedskd_sim.ring.topology import Topology
from fedskd_sim.scenario import Scenario
from fedskd_sim.transport.chunks import pack_message
from fedskd_sim.transport.zeromq import Hub, Identity, Incoming, Keys, Links, Location, Passwords
from fedskd_sim.transport.zeromq.sockets import Inbox, Received

LINKS = ("ipc", "tcp", "curve")
"""Unix sockets and plain TCP with secrets, and TCP with keys."""
PATIENCE_S = 600.0
MARK = b"that was all"
PATIENCE_MS = 180_000


def identities(kind: str, names: tuple[str, ...]) -> dict[str, Identity]:
    made = Keys if kind == "curve" else Passwords
    return {**made.for_members((CONTROLLER, *names))}


def address(kind: str, folder: Path, name: str) -> str:
    return f"ipc://{folder}/{name}" if kind == "ipc" else "tcp://127.0.0.1:*"


@dataclass
class End:
    """A hospital's links and what has come over them; ``takes`` decides about announced models."""

    links: Links
    takes: Callable[[HopId], bool] = lambda _: True
    arrivals: list[tuple[Traveller, str]] = field(default_factory=list)
    repeats: list[tuple[HopId, str, str]] = field(default_factory=list)
    answers: list[tuple[Answer, str]] = field(default_factory=list)
    words: list[FromController] = field(default_factory=list)
    refusals: list[tuple[str, str]] = field(default_factory=list)

    def announced(self, hop: HopId, sender: str) -> bool:  # noqa: ARG002 - as a receiver has it
        return self.takes(hop)

    def on_model(self, traveller: Traveller, sender: str) -> None:
        self.arrivals.append((traveller, sender))

    def on_repeat(self, hop: HopId, sender: str, digest: str) -> None:
        self.repeats.append((hop, sender, digest))

    def on_answer(self, answer: Answer, by: str) -> None:
        self.answers.append((answer, by))

    def on_word(self, word: FromController) -> None:
        self.words.append(word)

    def on_refusal(self, sender: str, reason: str) -> None:
        self.refusals.append((sender, reason))


def attend(*ends: End, until: Callable[[], Any]) -> None:
    """Let ends take what comes until something is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not until():
        assert time.monotonic() < deadline, "it never happens"
        for end in ends:
            end.links.attend(0.002, end)


@contextmanager
def knocking(
    identity: Identity | None, name: str, peer: str, at: str, route: bytes = b""
) -> Iterator[zmq.Socket]:
    """Open a link as a program of its own would, which never waits to send."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger, socket.sndtimeo, socket.rcvtimeo = 0, PATIENCE_MS, PATIENCE_MS
        if route:
            socket.routing_id = route
        if identity:
            identity.present(socket, name, peer, "")
        socket.connect(at)
        yield socket


def parts_of(message: Message) -> list[list[bytes]]:
    """Write a message as its frames."""
    return [[bytes(frame) for frame in frames] for frames in pack_message(message)]


def send_all(link: zmq.Socket, message: Message) -> int:
    """Send a message as a member would; give the number of its parts."""
    parts = parts_of(message)
    for frames in parts:
        link.send_multipart(frames)
    return len(parts)


class RecordList(list[Record]):
    """Keeps records."""

    def add(self, entry: Record | Timing) -> None:
        if isinstance(entry, Record):
            self.append(entry)

    def close(self) -> None:
        pass


@dataclass
class Member:
    """A hospital of a ring: all that is inside it can be looked at."""

    mailbox: Mailbox
    worker: Worker
    log: io.StringIO
    metrics: HospitalMetrics
    seen: list[bytes]
    """Short messages that its inbox has taken."""
    errors: list[FedskdError] = field(default_factory=list)

    @property
    def records(self) -> list[str]:
        return [to_line(record) for record in self.mailbox.reporter.ledger]

    @property
    def weights(self) -> str:
        return digest(self.worker.learner.results()[""])

    @property
    def refused(self) -> int:
        """Give the metric."""
        labels = {"scenario": self.worker.scenario.name, "hospital": self.worker.name}
        return int(self.metrics.registry.get_sample_value("fedskd_refused_total", labels) or 0)

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.getvalue().splitlines()]
        return [line for line in lines if line["event"] == kind]


def watched(inbox: Inbox) -> list[bytes]:
    """List the short messages that an inbox takes."""
    seen: list[bytes] = []
    receive = inbox.receive

    def watching(patience_ms: int = 0) -> Received | None:
        came = receive(patience_ms)
        if came and [len(frame) for frame in came.frames] == [len(MARK)]:
            seen.append(bytes(came.frames[0]))
        return came

    inbox.receive = watching  # type: ignore[method-assign]
    return seen


class Ring:
    """A run of placebo hospitals, each with its threads, and a controller in a thread of its own,
    over one kind of link.

    ``before`` is called by a hospital's thread before it carries out a step, and may keep it
    waiting. ``short_lived``: the controller is gone as soon as it has handed out the address book.
    """

    def __init__(
        self,
        kind: str,
        folder: Path,
        scenario: Scenario,
        *,
        before: Callable[[str, Task], None] = lambda *_: None,
        short_lived: bool = False,
    ) -> None:
        self.kind, self.scenario, self.before, self.short_lived = (
            kind,
            scenario,
            before,
            short_lived,
        )
        self.topology, self.terms = Topology.of(scenario), Terms.of(scenario, "run")
        self.identities = identities(kind, scenario.names)
        self.hub = Hub(address(kind, folder, "hub"), self.identities[CONTROLLER])
        self.log, self.seen = io.StringIO(), watched(self.hub._inbox)
        self.controller = Controller(scenario, "run", self.hub, EventLog(self.log))
        self.members = {
            name: self._member(name, address(kind, folder, name)) for name in scenario.names
        }
        self.started = Event()
        self.threads = [
            Thread(target=self._controls),
            *(Thread(target=self._lives, args=(name,)) for name in self.members),
        ]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def join(self) -> None:
        """Wait for the end."""
        for thread in self.threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    @property
    def result(self) -> dict[str, tuple[list[str], str]]:
        return {name: (member.records, member.weights) for name, member in self.members.items()}

    @property
    def errors(self) -> list[FedskdError]:
        return [error for member in self.members.values() for error in member.errors]

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Give lines of the controller's log."""
        return [
            line
            for line in map(json.loads, self.log.getvalue().splitlines())
            if line["event"] == kind
        ]

    def hop(self, model: str, round_: int, hop: int) -> HopId:
        return HopId("run", self.topology.epoch, model, round_, hop)

    def forged(self, hop: HopId, sender: str, value: int = 7) -> Traveller:
        """Make a model that has the right form and that nobody has trained."""
        (form,) = (
            self.members[sender].worker.learner.expected[hop.model]
            if sender in self.members
            else ({},)
        )
        weights = {
            name: (spec.dtype, spec.shape, bytes([value]) * spec.shape[0])
            for name, spec in form.items()
        }
        from fedskd_sim.messages import Buffer

        return Traveller(
            hop, sender, "buffer", "", {name: Buffer(*parts) for name, parts in weights.items()}
        )

    @contextmanager
    def posing(self, liar: str, victim: str) -> Iterator[zmq.Socket]:
        """Open a link from a member that lies, with its own credentials, to another or to the
        controller.
        """
        at = (
            self.hub.address if victim == CONTROLLER else self.members[victim].mailbox.links.address
        )
        with knocking(self.identities[liar], liar, victim, at) as link:
            yield link

    def _member(self, name: str, bind: str) -> Member:
        context = LearnerContext(self.scenario, name, given=self.topology)
        learner, log, metrics = (
            make(context),
            io.StringIO(),
            HospitalMetrics(self.scenario.name, name, self.topology),
        )
        links = Links(
            Location(name, bind, self.hub.address, self.identities[name]),
            Incoming(
                learner.expected, context.receive_buffers.allocate, len(self.topology.names), finite
            ),
        )
        reporter = Reporter(self.scenario, name, RecordList(), EventLog(log).event, metrics)
        register = Register(
            "run", self.topology.epoch, name, links.address, self.identities[name].public, ""
        )
        mailbox = Mailbox(
            HospitalMachine.of(self.topology, name, self.terms), links, reporter, register
        )
        worker = Worker(
            self.scenario,
            self.topology,
            name,
            learner,
            reporter.span,
            context.receive_buffers.prepare,
        )
        return Member(mailbox, worker, log, metrics, watched(links._inbox))

    def _controls(self) -> None:
        with closing(self.hub):
            while self.short_lived and not self.controller._registrar.complete(
                self.controller.state
            ):
                self.controller.step(self.hub.receive(PATIENCE_S))
            self.started.set()
            if not self.short_lived:
                with suppress(FedskdError):
                    self.controller.serve()

    def _lives(self, name: str) -> None:
        member = self.members[name]
        with closing(member.mailbox):
            member.mailbox.start()
            try:
                while (task := member.mailbox.next_task()) is not None:
                    self.before(name, task)
                    carry_out(member.mailbox, member.worker, task)
            except FedskdError as error:
                member.errors.append(error)


def senders(lines: list[dict[str, Any]]) -> Counter[str]:
    """Count refusals by who is named."""
    return Counter(line["sender"] for line in lines)
