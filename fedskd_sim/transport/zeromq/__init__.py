"""Members as processes: a hospital's transport with its post office, and the controller's hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty
from threading import Thread

import zmq

from fedskd_sim import clock
from fedskd_sim.errors import FedskdError, WireError
from fedskd_sim.messages import Done, Failed, Forms, Message, Progress, Register, Room, Transfer, Traveller, plain_room
from fedskd_sim.transport.base import CONTROLLER, NothingReceived
from fedskd_sim.transport.parcels import PARCEL_BYTES
from fedskd_sim.transport.wire import decode, encode
from fedskd_sim.transport.zeromq.office import Goods, Office, Terms
from fedskd_sim.transport.zeromq.sockets import Endpoint, Keys, address_of

__all__ = ["Hub", "Keys", "Place", "Terms", "ZeroMQTransport"]


@dataclass(frozen=True)
class Place:
    """Where a hospital listens, where the controller does, and the keys of the run (None: none)."""

    name: str
    bind: str
    controller: str
    keys: Keys | None = None


class ZeroMQTransport:
    """A hospital's links. `address` is where its inbox really listens."""

    def __init__(
        self,
        place: Place,
        terms: Terms,
        expected: Mapping[str, Forms],
        observe: Callable[[Transfer], None],
        *,
        room: Room = plain_room,
    ) -> None:
        """Bind the inbox, connect to the controller and open the post office; tensors arrive in memory from ``room``.

        Raises:
            FedskdError: the inbox cannot be bound (see `Endpoint.listen`).

        """
        self._terms = terms
        self._endpoint = Endpoint(place.name, place.keys)
        try:
            inbox = self._endpoint.listen(place.bind, PARCEL_BYTES)
            controller = self._endpoint.connect(place.controller, CONTROLLER)
        except FedskdError:
            self._endpoint.close()
            raise
        self._bell, wake = self._endpoint.pair()
        self.address = address_of(inbox)
        self._office = Office(self._endpoint, inbox, controller, wake, terms, Goods(expected, room), observe)
        self._thread = Thread(target=self._office.run, name="post office", daemon=True)
        self._thread.start()

    @property
    def refused(self) -> int:
        """How many messages were dropped because no member of the run would send them."""
        return self._office.refused

    def send(self, to: str, message: Message) -> None:
        """Hand a message to the post office; raises what the office ran into, as `Transport.send` says."""
        self._check()
        self._office.outgoing.put((to, message))
        self._ring()

    def receive(self, timeout: float) -> Message:
        """Wait for the next traveller or the controller's word; raises as `Transport.receive` says."""
        try:
            message = self._office.incoming.get(timeout=timeout)
        except Empty:
            self._check()
            raise NothingReceived from None
        if isinstance(message, FedskdError):
            raise message
        if isinstance(message, Traveller):
            with self._office.lock:
                self._office.waiting -= 1
            self._ring()
        return message

    def abandon(self) -> None:
        """Give up on open receipts: the run has failed, and closing need not wait for them."""
        self._office.abandoned = True

    def close(self) -> None:
        """Close the office after its last receipt; raises ReceiptTimeout if one never came."""
        self._office.outgoing.put(None)
        if self._thread.is_alive():
            self._ring()
        self._thread.join(self._terms.receipt + 1)
        self._endpoint.close()
        while not self._office.incoming.empty():
            left = self._office.incoming.get()
            if isinstance(left, FedskdError):
                raise left

    def _ring(self) -> None:
        """Wake the office; a bell that still rings need not be rung again."""
        with suppress(zmq.Again):
            self._bell.send(b"", zmq.NOBLOCK)

    def _check(self) -> None:
        if not self._thread.is_alive() and self._office.incoming.empty():
            raise WireError("the post office has closed", fix="see the log of this hospital")


class Hub:
    """The controller's end: hospitals register here. Its frames are at most 64 KiB, so that no weights fit through."""

    def __init__(self, bind: str, keys: Keys | None = None) -> None:
        """Listen for hospitals; raises as `Endpoint.listen`."""
        self._endpoint = Endpoint(CONTROLLER, keys)
        try:
            self._socket = self._endpoint.listen(bind)
        except FedskdError:
            self._endpoint.close()
            raise
        self.address = address_of(self._socket)
        self.refused = 0

    def send(self, to: str, message: Message) -> None:
        """Send a word to a hospital that has registered."""
        self._socket.send_multipart([to.encode(), *encode(message)])

    def receive(self, timeout: float) -> Message:
        """Wait for a hospital's word; anything else is dropped and counted. Raises NothingReceived."""
        deadline = clock.now() + timeout
        while self._socket.poll(int(clock.left(deadline) * 1000)):
            sender, *frames = self._socket.recv_multipart()
            try:
                message = decode(frames)
            except WireError:
                self.refused += 1
                continue
            if isinstance(message, Register | Progress | Failed | Done) and message.hospital.encode() == sender:
                return message
            self.refused += 1
        raise NothingReceived

    def close(self) -> None:
        """Free the address."""
        self._endpoint.close()
