"""Sockets with manners, and the controller's hub, where hospitals register: a name that can be
trusted for every message, limits, signs of life and errors a person can read.

No socket here ever waits: sending to a peer that takes nothing, and receiving when nothing is
there, raises `zmq.Again` at once.

ZeroMQ limits the size of a frame and the number of messages that wait, but it puts a message of
many frames together before anybody sees it, with no limit of its own: while a member sends one,
memory grows by what it sends. All of it is given back when the message ends, whose sender is known
then. Where that is too much, the operating system must limit the process.

The gatekeeper of a ZeroMQ context (ZAP, https://rfc.zeromq.org/spec/27) tells it who its peers are.
What pyzmq has for this brings asyncio along, a seventh of a second at every start, and its thread
ends at the first exception: then nobody gets in any more.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from contextlib import suppress
from secrets import token_bytes
from threading import Thread
from typing import NamedTuple

import zmq

from fedskd_sim.errors import FedskdError, InvalidValue, PortInUse, SocketPathTooLong, WireError
from fedskd_sim.messages import CONTROLLER, FromController, ToController
from fedskd_sim.transport import NothingReceived, Unwelcome
from fedskd_sim.transport.wire import CONTROL_LIMIT, Frame, decode, encode, is_foreign
from fedskd_sim.transport.zeromq.identity import Identity

DOMAIN = b"run"
_ADDRESS = "inproc://zeromq.zap.01"


class Gate:
    """Answers in a thread of its own; when it has been closed nobody gets in any more."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], identity: Identity) -> None:
        """Take the place of the one gatekeeper that a context may have, before any of its
        sockets listens.
        """
        self._context, self._identity = context, identity
        self._socket = context.socket(zmq.REP)
        self._socket.linger = 0
        self._socket.bind(_ADDRESS)
        self._thread = Thread(target=self._serve, name="gate", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wake the thread, which waits for the next question, and let it end."""
        with self._context.socket(zmq.REQ) as bell:
            bell.linger = bell.sndtimeo = 0
            bell.connect(_ADDRESS)
            with suppress(zmq.Again):
                bell.send(b"")
            self._thread.join()

    def _serve(self) -> None:
        with self._socket, suppress(zmq.ContextTerminated):
            while len(question := self._socket.recv_multipart()) > 1:
                self._socket.send_multipart(self._answer(question))

    def _answer(self, question: Sequence[bytes]) -> list[bytes]:
        version, request, _domain, _address, _socket, mechanism, *credentials = question
        name = self._identity.owner(mechanism, credentials)
        if name is None:
            return [version, request, b"400", b"no member of this run", b"", b""]
        return [version, request, b"200", b"OK", name.encode(), b""]


LINGER_MS = 2000
HANDSHAKE_MS = 30_000
KEEPALIVE_S = 2
KEEPALIVES = 7
"""After so many unanswered ones a TCP connection is taken for broken. ZeroMQ's own heartbeats end
the process (an assertion in libzmq 4.3) if a peer is gone while more of its messages wait than are
taken in, and the next heartbeat is due."""
SILENCE_MS = (KEEPALIVES + 1) * KEEPALIVE_S * 1000
"""How long what was sent over TCP may stay unacknowledged."""
RECONNECT_MS = 50
RECONNECT_MOST_MS = 2000
CONNECT_MS = 3000
"""A member that was restarted elsewhere has another address: without an end to connecting its name
is never looked up again."""
QUEUE = 64
UNREAD = 8
"""How many messages of one peer wait unread; the rest stays with it."""
ENVELOPE = 256  # what CURVE adds to a frame, and then some
BACKLOG = 4096
SOCKET_PATH_LIMIT = 107
ROUTE_BYTES = 16
LONGEST_POLL_MS = 86_400_000
"""A day: the system counts a poll's milliseconds in 31 bits, so a longer wait is several polls."""
AT_A_TIME = 4096
"""How many parts of a message that has too many are dropped at a time."""


class Received(NamedTuple):
    """A message and who sent it; of one with too many parts, some of which ``dropped`` counts,
    ``frames`` has none.
    """

    sender: str
    frames: list[memoryview]
    dropped: int = 0


class Inbox:
    """A socket that listens, and knows who speaks: the owner of the key or secret that was shown,
    whatever the message says.

    Answers go where the last message of that member came from. What a connection calls itself (its
    routing id) is no name: links of ours draw it at random, so nobody can take the place of
    another's connection.
    """

    def __init__(self, socket: zmq.Socket[bytes], parts: int, *, guarded: bool) -> None:
        """Take over a socket that is bound; a message may have so many parts, and names can be
        trusted only if it is guarded.
        """
        self.socket, self._parts, self._guarded = socket, parts, guarded
        self.address = socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
        """Where it really listens, with the real port."""
        self._routes: dict[str, bytes] = {}
        self._overlong: str | None = None

    def receive(self, patience_ms: int = 0) -> Received | None:
        """Take the next message; None: nothing came in ``patience_ms`` milliseconds."""
        try:
            return self._next()
        except zmq.Again:
            for waits in range(patience_ms, 0, -LONGEST_POLL_MS):
                if self.socket.poll(min(waits, LONGEST_POLL_MS)):
                    return self._next()
            return None

    def send(self, to: str, frames: Sequence[Frame]) -> bool:
        """Answer a member; False if it has not been heard from, is gone, or takes nothing more."""
        route = self._routes.get(to) if self._guarded else to.encode(errors="surrogateescape")
        if route is None:
            return False
        try:
            self.socket.send_multipart([route, *frames])
        except zmq.ZMQError as error:
            if error.errno in (errno.EAGAIN, errno.EHOSTUNREACH):
                return False
            raise
        return True

    def _next(self) -> Received:
        if self._overlong is not None:
            return self._drop(self._overlong, 0)
        first = self.socket.recv(copy=False)
        sender, more = self._name(first), first.more
        frames: list[memoryview] = []
        while more and len(frames) < self._parts:
            frame = self.socket.recv(copy=False)
            frames.append(frame.buffer)
            more = frame.more
        return self._drop(sender, len(frames)) if more else Received(sender, frames)

    def _drop(self, sender: str, dropped: int) -> Received:
        """Drop some parts; the rest is an arrival of its own, so that other duties are attended
        to in between.
        """
        more, most = True, dropped + AT_A_TIME
        while more and dropped < most:
            more = self.socket.recv(copy=False).more
            dropped += 1
        self._overlong = sender if more else None
        return Received(sender, [], dropped)

    def _name(self, first: zmq.Frame) -> str:
        if not self._guarded:
            return first.bytes.decode(errors="surrogateescape")
        name = str(first.get("User-Id"))
        self._routes[name] = first.bytes
        return name


def take(link: zmq.Socket[bytes]) -> list[memoryview]:
    """Take what the peer of a link says, which is one frame; [] if it is more. What is left of very
    many is the next message.

    Raises:
        zmq.Again: nothing has come.

    """
    first = frame = link.recv(copy=False)
    taken = 1
    while frame.more and taken < AT_A_TIME:
        frame = link.recv(copy=False)
        taken += 1
    return [] if first.more else [first.buffer]


class Endpoint:
    """A ZeroMQ context, its sockets and its gatekeeper; made, used and closed by one thread."""

    def __init__(self, name: str, identity: Identity | None) -> None:
        """Open a context for one member; without an identity nobody's name is known for certain.

        Name look-ups block an I/O thread, so there are two.
        """
        self.name, self._identity = name, identity
        self._ipv6 = False
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=2)
        self._gate = Gate(self._context, identity) if identity else None

    def listen(self, address: str, largest: int = CONTROL_LIMIT, parts: int = 1) -> Inbox:
        """Bind an inbox for messages of up to ``parts`` frames of ``largest`` bytes; port 0 or
        ``*`` takes a free port.

        An address with brackets (``tcp://[::]:5555``) is one of IPv6: links that are made later
        look for such addresses, too.

        Raises:
            PortInUse: the address is taken.
            SocketPathTooLong: the operating system allows no socket path of this length.
            InvalidValue: it is no address.

        """
        self._ipv6 = address.startswith("tcp://[")
        socket = self._socket(zmq.ROUTER, largest)
        socket.router_handover = socket.router_mandatory = True
        socket.backlog = BACKLOG
        if self._identity:
            self._identity.guard(socket)
            socket.zap_domain = DOMAIN
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            raise _translate(error, address) from error
        return Inbox(socket, parts, guarded=self._identity is not None)

    def connect(
        self,
        address: str,
        peer: str,
        public_key: str = "",
        *,
        queue: int = QUEUE,
        largest: int = CONTROL_LIMIT,
    ) -> zmq.Socket[bytes]:
        """Open a link to a member's inbox that keeps ``queue`` messages; it connects in the
        background and reconnects by itself.

        Answers come in frames of at most ``largest`` bytes (see `take`).

        Raises:
            InvalidValue: no keys for this peer, another key than agreed, or no address.

        """
        socket = self._socket(zmq.DEALER, largest)
        socket.sndhwm = max(queue, QUEUE)
        socket.routing_id = self.name.encode()
        try:
            if self._identity:
                self._identity.present(socket, self.name, peer, public_key)
                # an empty one, or one that begins with 0, is ZeroMQ's own
                socket.routing_id = b"." + token_bytes(ROUTE_BYTES)
            socket.connect(address)
        except zmq.ZMQError as error:
            socket.close()
            raise _translate(error, address) from error
        except InvalidValue:
            socket.close()
            raise
        return socket

    def pair(self) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        """Make two connected ends inside the process, to wake one thread from another."""
        ends = self._context.socket(zmq.PAIR), self._context.socket(zmq.PAIR)
        for end in ends:
            end.linger = end.sndtimeo = end.rcvtimeo = 0
        ends[0].bind(f"inproc://{id(self)}")
        ends[1].connect(f"inproc://{id(self)}")
        return ends

    def close(self) -> None:
        """Close every socket, giving queued bytes `LINGER_MS` to leave."""
        if self._gate:
            self._gate.close()
        self._context.destroy(linger=LINGER_MS)

    def _socket(self, kind: int, largest: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.linger = LINGER_MS
        socket.ipv6 = self._ipv6
        socket.sndtimeo = socket.rcvtimeo = 0
        socket.maxmsgsize = largest + ENVELOPE
        socket.sndhwm, socket.rcvhwm = QUEUE, UNREAD
        socket.handshake_ivl = HANDSHAKE_MS
        socket.tcp_keepalive, socket.tcp_keepalive_idle, socket.tcp_keepalive_intvl = (
            1,
            KEEPALIVE_S,
            KEEPALIVE_S,
        )
        socket.tcp_keepalive_cnt, socket.tcp_maxrt = KEEPALIVES, SILENCE_MS
        socket.connect_timeout = CONNECT_MS
        socket.reconnect_ivl, socket.reconnect_ivl_max = RECONNECT_MS, RECONNECT_MOST_MS
        return socket


def _translate(error: zmq.ZMQError, address: str) -> FedskdError:
    if error.errno == errno.EADDRINUSE:
        fix = "choose another network.port, 0 for any free ones, or stop the program that holds it"
        return PortInUse(f"{address} is in use", fix=fix, key=("network", "port"))
    if error.errno == errno.ENAMETOOLONG:
        return SocketPathTooLong(
            f"{address} is longer than {SOCKET_PATH_LIMIT} bytes",
            fix="set TMPDIR to a shorter path",
        )
    return InvalidValue(
        f"cannot use the address {address}: {error}", fix="check the address and its permissions"
    )


class Hub:
    """An inbox whose messages are one frame of at most 12 KiB, so that no weights fit through."""

    def __init__(self, bind: str, keys: Identity | None = None) -> None:
        """Listen for hospitals; raises as `Endpoint.listen`."""
        self._endpoint = Endpoint(CONTROLLER, keys)
        try:
            self._inbox = self._endpoint.listen(bind)
        except FedskdError:
            self._endpoint.close()
            raise
        self.address = self._inbox.address

    def send(self, to: str, message: FromController) -> None:
        """Send a word to a hospital that has registered; it is lost if nobody takes it, and
        never waited for.
        """
        self._inbox.send(to, encode(message))

    def receive(self, timeout: float) -> ToController | Unwelcome:
        """Wait up to ``timeout`` seconds, none if negative, for a hospital's word; of anything else
        only who has sent it is told.

        Raises:
            NothingReceived: nothing came in time.

        """
        arrival = self._inbox.receive(max(0, int(timeout * 1000)))
        if arrival is None:
            raise NothingReceived
        try:
            message = decode(arrival.frames)
        except WireError as error:
            return Unwelcome(arrival.sender, error.message, is_foreign(arrival.frames))
        if not isinstance(message, ToController):
            return Unwelcome(arrival.sender, f"{type(message).__name__} to the controller")
        if message.hospital != arrival.sender:
            return Unwelcome(
                arrival.sender, f"{type(message).__name__} in the name of {message.hospital!r}"
            )
        return message

    def close(self) -> None:
        """Free the address."""
        self._endpoint.close()
