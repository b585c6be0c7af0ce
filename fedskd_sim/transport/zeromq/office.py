"""The post office of a hospital: a thread that owns its sockets, so that no link ever waits for training.

It confirms arrivals as soon as they are safe in memory and intact, keeps departures until their receipt, sends them again when
none comes, and drops what it has seen before: a hop happens exactly once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Lock

import zmq

from fedskd_sim.errors import BadMessage, FedskdError, ReceiptTimeout, WireError
from fedskd_sim.messages import Done, End, Forms, HopId, Message, Receipt, Start, Transfer, Traveller, size
from fedskd_sim.transport.base import CONTROLLER
from fedskd_sim.transport.wire import Frame, decode, encode
from fedskd_sim.transport.zeromq.sockets import Endpoint

IDLE_S = 1.0


@dataclass(frozen=True)
class Terms:
    """What a hospital's links must keep: seconds until a receipt, until a second try, and how many visitors may wait."""

    run: str
    receipt: float
    retry: float
    inbox: int


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
    expected: Mapping[str, Forms]
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
    _last_word: Done | None = None
    _closing: bool = False

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
            if self.waiting < self.terms.inbox:
                poller.register(self.inbox, zmq.POLLIN)
        ready = dict(poller.poll(int(self._patience() * 1000) + 1))
        if self.wake in ready:
            self.wake.recv()
        if self.inbox in ready:
            self._arrival()
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
        return min(IDLE_S, max(0.0, min(times) - time.monotonic())) if times else IDLE_S

    def _arrival(self) -> None:
        sender, *parts = self.inbox.recv_multipart(copy=False)
        frames = [part.buffer for part in parts]
        try:
            message = decode(frames, self.expected)
        except WireError:
            self.refused += 1
            return
        if not isinstance(message, Traveller) or message.hop.run != self.terms.run:
            self.refused += 1
            return
        if message.hop not in self._seen:
            self._seen.add(message.hop)
            with self.lock:
                self.waiting += 1
            self.incoming.put(message)
        self.inbox.send_multipart([sender.bytes, *encode(Receipt(message.hop))])

    def _word(self, frames: list[bytes]) -> None:
        message = decode(frames, {})
        if isinstance(message, Start):
            self._book = {name: (address, message.keys.get(name, "")) for name, address in message.addresses.items()}
            for to, traveller in self._early:
                self._depart(to, traveller)
            self._early.clear()
        if isinstance(message, Start | End):
            self.incoming.put(message)

    def _receipt(self, frames: list[bytes]) -> None:
        try:
            message = decode(frames, {})
        except BadMessage:
            self.refused += 1
            return
        departure = self._departures.pop(message.hop, None) if isinstance(message, Receipt) else None
        if departure:
            traveller = departure.traveller
            payload = size(traveller.weights)
            self.observe(Transfer(traveller.hop, departure.to, departure.started, time.time(), payload, departure.tries))

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
            self._links[to] = self.endpoint.connect(address, to, public_key)
        now = time.monotonic()
        departure = _Departure(traveller, to, time.time(), now + self.terms.receipt, now)
        self._departures[traveller.hop] = departure
        self._send(departure)

    def _send(self, departure: _Departure) -> None:
        departure.tries += 1
        departure.again = time.monotonic() + self.terms.retry * 2 ** (departure.tries - 1)
        frames: list[Frame] = encode(departure.traveller)
        try:
            self._links[departure.to].send_multipart(frames, flags=zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return

    def _retry(self) -> None:
        now = time.monotonic()
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
