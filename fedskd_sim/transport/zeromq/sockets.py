"""Sockets with manners: keys, limits, heartbeats and errors a person can read."""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Self

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils import z85

from fedskd_sim.errors import FedskdError, InvalidValue, PortInUse, SocketPathTooLong
from fedskd_sim.transport.wire import CONTROL_LIMIT, HEADER_LIMIT

LINGER_MS = 2000
HEARTBEAT_MS = 2000
SILENCE_MS = 15_000
RECONNECT_MS = 50
RECONNECT_MOST_MS = 2000
CONNECT_MS = 3000
"""A member that was restarted elsewhere has another address: without an end to connecting its name is never looked up again."""
QUEUE = 64
ENVELOPE = 256  # what CURVE adds to a frame, and then some
SOCKET_PATH_LIMIT = 107
DOMAIN = "run"
SECRET_BYTES = 32


@dataclass(frozen=True, repr=False)
class Keys:
    """CURVE keys of one member (Z85 text): its own pair and the public keys of everybody in the run, by name."""

    public: str
    secret: str
    members: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a key file as the launcher writes it.

        Raises:
            InvalidValue: not a key file.

        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return cls(values["public"], values["secret"], values["members"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidValue(f"{path} is not a key file", fix="use the file the launcher made") from error

    @classmethod
    def for_members(cls, names: tuple[str, ...]) -> dict[str, Keys]:
        """Make a fresh pair of keys for every member of a run."""
        pairs = {name: tuple(key.decode() for key in zmq.curve_keypair()) for name in names}
        members = {name: public for name, (public, _) in pairs.items()}
        return {name: cls(public, secret, members) for name, (public, secret) in pairs.items()}

    @classmethod
    def derived(cls, secret: bytes, run: str, name: str, members: tuple[str, ...]) -> Self:
        """Derive a member's keys, and everybody's public ones, from a secret that all members of a run have (BLAKE2b, keyed).

        Raises:
            InvalidValue: the secret has less than 32 bytes.

        """
        if len(secret) < SECRET_BYTES:
            raise InvalidValue(f"a run secret of {len(secret)} bytes", fix=f"give it at least {SECRET_BYTES}")
        key = blake2b(secret).digest()
        own = {one: z85.encode(blake2b(f"{run}/{one}".encode(), key=key, digest_size=32).digest()) for one in members}
        public = {one: zmq.curve_public(private).decode() for one, private in own.items()}
        return cls(public[name], own[name].decode(), public)

    def write(self, path: Path) -> None:
        """Write a key file that only its owner may read."""
        path.touch(mode=0o600)
        path.write_text(json.dumps({"public": self.public, "secret": self.secret, "members": dict(self.members)}))

    def callback(self, domain: str, key: bytes) -> bool:  # noqa: ARG002 - the signature that pyzmq's authenticator calls
        """Let a peer in if its public key (Z85) belongs to a member of the run."""
        return key.decode() in self.members.values()


class Endpoint:
    """A ZeroMQ context, its sockets and its gatekeeper; closed together."""

    def __init__(self, name: str, keys: Keys | None) -> None:
        """Open a context for one member; name look-ups block an I/O thread, so there are two."""
        self.name, self.keys = name, keys
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=2)
        self._gate: ThreadAuthenticator | None = None
        if keys:
            self._gate = ThreadAuthenticator(self._context)
            self._gate.start()
            self._gate.configure_curve_callback(DOMAIN, keys)

    def listen(self, address: str, largest: int = CONTROL_LIMIT) -> zmq.Socket[bytes]:
        """Bind an inbox whose frames may have ``largest`` bytes; port 0 or ``*`` takes a free port.

        Raises:
            PortInUse: the address is taken.
            SocketPathTooLong: the operating system allows no socket path of this length.
            InvalidValue: it is no address.

        """
        socket = self._socket(zmq.ROUTER, largest)
        socket.router_handover = True
        if self.keys:
            socket.curve_server = True
            socket.curve_publickey, socket.curve_secretkey = self.keys.public.encode(), self.keys.secret.encode()
            socket.zap_domain = DOMAIN.encode()
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            raise _translated(error, address) from error
        return socket

    def connect(self, address: str, peer: str, public_key: str = "", *, queue: int = QUEUE) -> zmq.Socket[bytes]:
        """Open a link to a member's inbox that keeps ``queue`` messages; it connects in the background and reconnects by itself.

        Raises:
            InvalidValue: no keys for this peer, another key than agreed, or no address.

        """
        socket = self._socket(zmq.DEALER, CONTROL_LIMIT)
        socket.sndhwm = max(queue, QUEUE)
        socket.routing_id = self.name.encode()
        if self.keys:
            agreed = self.keys.members.get(peer)
            if agreed is None or (public_key and public_key != agreed):
                raise InvalidValue(f"the key of {peer!r} is not the agreed one", fix="start the run anew")
            socket.curve_serverkey = agreed.encode()
            socket.curve_publickey, socket.curve_secretkey = self.keys.public.encode(), self.keys.secret.encode()
        try:
            socket.connect(address)
        except zmq.ZMQError as error:
            raise _translated(error, address) from error
        return socket

    def name_of(self, routing: zmq.Frame) -> str:
        """Name who has sent a message, from its first frame."""
        return routing.bytes.decode(errors="replace")

    def pair(self) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        """Make two connected ends inside the process, to wake one thread from another."""
        ends = self._context.socket(zmq.PAIR), self._context.socket(zmq.PAIR)
        ends[0].bind(f"inproc://{id(self)}")
        ends[1].connect(f"inproc://{id(self)}")
        return ends

    def close(self) -> None:
        """Close every socket, giving queued bytes `LINGER_MS` to leave."""
        if self._gate:
            self._gate.stop()
        self._context.destroy(linger=LINGER_MS)

    def _socket(self, kind: int, largest: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.linger = LINGER_MS
        socket.maxmsgsize = max(largest, HEADER_LIMIT if largest > CONTROL_LIMIT else CONTROL_LIMIT) + ENVELOPE
        socket.sndhwm = socket.rcvhwm = QUEUE
        socket.heartbeat_ivl, socket.heartbeat_timeout, socket.heartbeat_ttl = HEARTBEAT_MS, SILENCE_MS, SILENCE_MS
        socket.connect_timeout = CONNECT_MS
        socket.reconnect_ivl, socket.reconnect_ivl_max = RECONNECT_MS, RECONNECT_MOST_MS
        return socket


def address_of(socket: zmq.Socket[bytes]) -> str:
    """Read the address a socket is bound to, with the real port."""
    return socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")


def _translated(error: zmq.ZMQError, address: str) -> FedskdError:
    if error.errno == errno.EADDRINUSE:
        fix = "choose another network.port, 0 for any free ones, or stop the program that holds it"
        return PortInUse(f"{address} is in use", fix=fix, key=("network", "port"))
    if error.errno == errno.ENAMETOOLONG:
        return SocketPathTooLong(f"{address} is longer than {SOCKET_PATH_LIMIT} bytes", fix="set TMPDIR to a shorter path")
    return InvalidValue(f"cannot use the address {address}: {error}", fix="check the address and its permissions")
