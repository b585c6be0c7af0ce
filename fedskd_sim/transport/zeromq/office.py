"""The post office of a hospital: a thread that owns its sockets, so that no link ever waits for training.

It confirms arrivals as soon as they are safe in memory and intact, keeps departures until their receipt, sends them again when
none comes, and drops what it has seen before: a hop happens exactly once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Lock

import zmq

from fedskd_sim import clock
from fedskd_sim.errors import BadMessage, FedskdError, ReceiptTimeout, WireError
from fedskd_sim.messages import (
    Done,
    End,
    Forms,
    HopId,
    Message,
    Parcel,
    Receipt,
    Room,
    Start,
    Transfer,
    Traveller,
    size,
)
from fedskd_sim.transport.base import CONTROLLER
from fedskd_sim.transport.parcels import Assembly, count, packed
from fedskd_sim.transport.wire import announced, bad, decode, encode, header, parcel
from fedskd_sim.transport.zeromq.sockets import Endpoint

IDLE_S = 1.0
STREAM_MS = 2
"""While a model arrives, how long the office looks at nothing else before it attends to its other duties."""
AT_A_TIME = 64
"""... and after how many messages it does so anyway."""
MODELS_QUEUED = 4
"""How many of the largest models a link keeps for a receiver that does not take them; a further one is tried again later."""


@dataclass(frozen=True)
class Terms:
    """What a hospital's links must keep: seconds until a receipt, until a second try, and how many visitors may wait."""

    run: str
    receipt: float
    retry: float
    inbox: int


@dataclass(frozen=True)
class Goods:
    """What may arrive, by the name of the model, and the memory it arrives in."""

    expected: Mapping[str, Forms]
    room: Room

    @property
    def queue(self) -> int:
        """Count the messages that a link may keep."""
        return MODELS_QUEUED * max((count(form) for forms in self.expected.values() for form in forms), default=1)


@dataclass
class _Departure:
    traveller: Traveller
    to: str
    started: float
    deadline: float
    again: float
    tries: int = 0


@dataclass
class Office:
    """Runs in its own thread; `outgoing` and `incoming` are its counters, `wake` its bell."""

    endpoint: Endpoint
    inbox: zmq.Socket[bytes]
    controller: zmq.Socket[bytes]
    wake: zmq.Socket[bytes]
    terms: Terms
    goods: Goods
    observe: Callable[[Transfer], None]
    outgoing: SimpleQueue[tuple[str, Message] | None] = field(default_factory=SimpleQueue)
    incoming: SimpleQueue[Message | FedskdError] = field(default_factory=SimpleQueue)
    refused: int = 0
    waiting: int = 0
    abandoned: bool = False
    lock: Lock = field(default_factory=Lock)
    _book: dict[str, tuple[str, str]] = field(default_factory=dict)
    _links: dict[str, zmq.Socket[bytes]] = field(default_factory=dict)
    _departures: dict[HopId, _Departure] = field(default_factory=dict)
    _early: deque[tuple[str, Traveller]] = field(default_factory=deque)
    _seen: set[HopId] = field(default_factory=set)
    _arriving: dict[bytes, Assembly] = field(default_factory=dict)
    _last_word: Done | None = None
    _closing: bool = False

    def __post_init__(self) -> None:
        """Wait no longer for the next parcel of a model than other duties may wait."""
        self.inbox.rcvtimeo = STREAM_MS

    def run(self) -> None:
        """Serve the sockets until told to close and nothing waits for a receipt; errors go to whoever receives next."""
        while not (self._closing and (self.abandoned or not self._departures) and self.outgoing.empty()):
            try:
                self._round()
            except FedskdError as error:
                self._departures.clear()
                self.incoming.put(error)
            except zmq.ZMQError as error:
                self.incoming.put(WireError(f"the link broke: {error}", fix="see the log of this hospital"))
                return

    def _round(self) -> None:
        poller = zmq.Poller()
        for socket in (self.wake, self.controller, *self._links.values()):
            poller.register(socket, zmq.POLLIN)
        with self.lock:
            if self.waiting < self.terms.inbox or self._arriving:
                poller.register(self.inbox, zmq.POLLIN)
        ready = dict(poller.poll(int(self._patience() * 1000) + 1))
        if self.wake in ready:
            self.wake.recv()
        if self.inbox in ready:
            self._arrivals()
        if self.controller in ready:
            self._word(self.controller.recv_multipart())
        for link in [link for link in self._links.values() if link in ready]:
            self._receipt(link.recv_multipart())
        self._take_outgoing()
        self._retry()
        if self._last_word and not self._departures:
            self.controller.send_multipart(encode(self._last_word))
            self._last_word = None

    def _patience(self) -> float:
        times = [min(departure.again, departure.deadline) for departure in self._departures.values()]
        return min(IDLE_S, clock.left(min(times))) if times else IDLE_S

    def _arrivals(self) -> None:
        """Take what comes until a model is complete, the link is silent, or other duties have waited for long enough."""
        for _ in range(AT_A_TIME):
            try:
                sender, *parts = self.inbox.recv_multipart(0 if self._arriving else zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            try:
                traveller = self._arrival(sender.bytes, [part.buffer for part in parts])
            except WireError:
                self.refused += 1
                self._arriving.pop(sender.bytes, None)
                traveller = None
            if traveller:
                del self._arriving[sender.bytes]
                self._deliver(traveller)
                self._confirm(sender.bytes, traveller.hop)
                return

    def _arrival(self, sender: bytes, frames: list[memoryview]) -> Traveller | None:
        """Take a header or a parcel; gives the model that it completes. Raises WireError for what no member would send."""
        kind, values = header(frames)
        if kind is Traveller:
            traveller, table = announced(values, self.goods.expected)
            if traveller.hop.run != self.terms.run or len(frames) > 1:
                raise bad("a model of another run, or with its header in parts")
            self._arriving.pop(sender, None)  # it begins anew
            if traveller.hop in self._seen:
                self._confirm(sender, traveller.hop)
            else:
                self._arriving[sender] = Assembly(traveller, table, self.goods.room)
            return None
        label = parcel(values) if kind is Parcel else None
        if label is None or (sender not in self._arriving and label.hop not in self._seen):
            raise bad(f"{kind.__name__} from nowhere")
        return self._arriving[sender].add(label, frames[1:]) if sender in self._arriving else None

    def _deliver(self, traveller: Traveller) -> None:
        """Hand a model in, once."""
        if traveller.hop not in self._seen:
            self._seen.add(traveller.hop)
            with self.lock:
                self.waiting += 1
            self.incoming.put(traveller)

    def _confirm(self, sender: bytes, hop: HopId) -> None:
        self.inbox.send_multipart([sender, *encode(Receipt(hop))])

    def _word(self, frames: list[bytes]) -> None:
        message = decode(frames)
        if isinstance(message, Start):
            self._book = {name: (address, message.keys.get(name, "")) for name, address in message.addresses.items()}
            for to, traveller in self._early:
                self._depart(to, traveller)
            self._early.clear()
        if isinstance(message, Start | End):
            self.incoming.put(message)

    def _receipt(self, frames: list[bytes]) -> None:
        try:
            message = decode(frames)
        except BadMessage:
            self.refused += 1
            return
        departure = self._departures.pop(message.hop, None) if isinstance(message, Receipt) else None
        if departure:
            traveller = departure.traveller
            payload = size(traveller.weights)
            self.observe(Transfer(traveller.hop, departure.to, departure.started, clock.unix(), payload, departure.tries))

    def _take_outgoing(self) -> None:
        while not self.outgoing.empty():
            item = self.outgoing.get()
            if item is None:
                self._closing = True
            elif isinstance(item[1], Done):
                self._last_word = item[1]
            elif item[0] == CONTROLLER:
                self.controller.send_multipart(encode(item[1]))
            elif isinstance(item[1], Traveller):
                if self._book:
                    self._depart(item[0], item[1])
                else:
                    self._early.append((item[0], item[1]))

    def _depart(self, to: str, traveller: Traveller) -> None:
        if to not in self._links:
            address, public_key = self._book[to]
            self._links[to] = self.endpoint.connect(address, to, public_key, queue=self.goods.queue)
        now = clock.now()
        departure = _Departure(traveller, to, clock.unix(), now + self.terms.receipt, now)
        self._departures[traveller.hop] = departure
        self._send(departure)

    def _send(self, departure: _Departure) -> None:
        departure.tries += 1
        departure.again = clock.now() + self.terms.retry * 2 ** (departure.tries - 1)
        try:
            for frames in packed(departure.traveller):
                self._links[departure.to].send_multipart(frames, flags=zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return  # the queue is full: the receiver gets it whole the next time

    def _retry(self) -> None:
        now = clock.now()
        for departure in list(self._departures.values()):
            if now >= departure.deadline:
                hop = departure.traveller.hop
                text = (
                    f"{departure.to!r} never confirmed the model of {hop.model!r}, round {hop.round} hop {hop.hop}, in "
                    f"{self.terms.receipt:g} s and {departure.tries} tries"
                )
                fix = f"look at the log of {departure.to!r}, or raise timeouts.receipt"
                raise ReceiptTimeout(text, fix=fix, key=("timeouts", "receipt"))
            if now >= departure.again:
                self._send(departure)
