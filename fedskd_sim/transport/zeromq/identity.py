"""Who a member of a run is on its links, so that nobody, not even another member, can take its
name.

Over TCP a member proves itself by its CURVE key pair, which also hides what is said. Where nothing
needs to be hidden, on Unix sockets and on TCP that was asked to be plain, it shows a secret that
only it and the member it speaks to have (PLAIN in ZeroMQ): it costs nothing after the handshake.
Who listens proves itself by CURVE; a plain listener is as trustworthy as its folder or its port.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from hmac import compare_digest
from pathlib import Path
from secrets import token_bytes
from typing import ClassVar, Self

import zmq
from zmq.utils import z85

from fedskd_sim.errors import InvalidValue

SECRET_BYTES = 32


@dataclass(frozen=True, repr=False)
class Keys:
    """CURVE keys of one member (Z85 text): its own pair and the public keys of everybody in the
    run, by name.
    """

    public: str
    secret: str
    members: Mapping[str, str]

    @classmethod
    def for_members(cls, names: tuple[str, ...]) -> dict[str, Keys]:
        """Make a fresh pair of keys for every member of a run."""
        pairs = {name: tuple(key.decode() for key in zmq.curve_keypair()) for name in names}
        members = {name: public for name, (public, _) in pairs.items()}
        return {name: cls(public, secret, members) for name, (public, secret) in pairs.items()}

    @classmethod
    def derive(cls, secret: bytes, run: str, name: str, members: tuple[str, ...]) -> Self:
        """Derive a member's keys, and everybody's public ones, from a secret that all members of a
        run have (BLAKE2b, keyed).

        Raises:
            InvalidValue: the secret has less than 32 bytes.

        """
        key = _long(secret)
        own = {
            one: z85.encode(blake2b(f"{run}/{one}".encode(), key=key, digest_size=32).digest())
            for one in members
        }
        public = {one: zmq.curve_public(private).decode() for one, private in own.items()}
        return cls(public[name], own[name].decode(), public)

    def write(self, path: Path) -> None:
        """Write a new key file that only its owner may read."""
        _write(path, asdict(self))

    def guard(self, socket: zmq.Socket[bytes]) -> None:
        """Make a socket that is about to listen ask who its peers are."""
        socket.curve_server = True
        socket.curve_publickey, socket.curve_secretkey = self.public.encode(), self.secret.encode()

    def present(self, socket: zmq.Socket[bytes], name: str, peer: str, public_key: str) -> None:  # noqa: ARG002 - as Passwords'
        """Make a socket that is about to connect prove who it is, and accept nobody but the peer;
        ``public_key`` if it was told.

        Raises:
            InvalidValue: no key of this peer is known, or another one than was told.

        """
        socket.curve_serverkey = _check_key(
            self.members, peer, public_key, self.members.get(peer, "")
        ).encode()
        socket.curve_publickey, socket.curve_secretkey = self.public.encode(), self.secret.encode()

    def owner(self, mechanism: bytes, credentials: Sequence[bytes]) -> str | None:
        """Return whose credentials a peer has shown in ZeroMQ's handshake; None: no member's."""
        if mechanism != b"CURVE" or len(credentials) != 1:
            return None
        key = z85.encode(credentials[0]).decode()
        return next((name for name, public in self.members.items() if public == key), None)


@dataclass(frozen=True, repr=False)
class Passwords:
    """The secrets of one member: one for every other member, which has the same one for it, and
    nobody else.
    """

    pairs: Mapping[str, str]
    public: ClassVar[str] = ""
    """It has no public key."""

    @classmethod
    def for_members(cls, names: tuple[str, ...]) -> dict[str, Passwords]:
        """Draw secrets for every pair of members of a run."""
        master = token_bytes(SECRET_BYTES)
        return {name: cls.derive(master, "", name, names) for name in names}

    @classmethod
    def derive(cls, secret: bytes, run: str, name: str, members: tuple[str, ...]) -> Self:
        """Derive a member's secrets from the run's (BLAKE2b, keyed, over the two names in order).

        Raises:
            InvalidValue: the secret has less than 32 bytes.

        """
        key = _long(secret)
        pairs = {
            other: "/".join((run, *sorted((name, other)))) for other in members if other != name
        }
        return cls(
            {
                other: blake2b(pair.encode(), key=key, digest_size=32).hexdigest()
                for other, pair in pairs.items()
            }
        )

    def write(self, path: Path) -> None:
        """Write a new key file that only its owner may read."""
        _write(path, asdict(self))

    def guard(self, socket: zmq.Socket[bytes]) -> None:
        """Make a socket that is about to listen ask who its peers are."""
        socket.plain_server = True

    def present(self, socket: zmq.Socket[bytes], name: str, peer: str, public_key: str) -> None:
        """Make a socket that is about to connect prove who it is.

        Raises:
            InvalidValue: there is no secret with this peer, or it was told to have a public key.

        """
        socket.plain_username, socket.plain_password = (
            name.encode(),
            _check_key(self.pairs, peer, public_key, "").encode(),
        )

    def owner(self, mechanism: bytes, credentials: Sequence[bytes]) -> str | None:
        """Return whose credentials a peer has shown in ZeroMQ's handshake; None: no member's."""
        if mechanism != b"PLAIN" or len(credentials) != 2:  # noqa: PLR2004 - user name and password
            return None
        name = credentials[0].decode(errors="replace")
        secret = self.pairs.get(name)
        return (
            name if secret is not None and compare_digest(credentials[1], secret.encode()) else None
        )


Identity = Keys | Passwords


def read(path: Path) -> Identity:
    """Read a key file as the launcher writes it.

    Raises:
        InvalidValue: not a key file.

    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Passwords(**values) if "pairs" in values else Keys(**values)
    except (OSError, ValueError, TypeError) as error:
        raise InvalidValue(
            f"{path} is not a key file", fix="use the file the launcher made"
        ) from error


def _write(path: Path, values: Mapping[str, object]) -> None:
    with os.fdopen(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
    ) as stream:
        json.dump(values, stream)


def _long(secret: bytes) -> bytes:
    if len(secret) < SECRET_BYTES:
        raise InvalidValue(
            f"a run secret of {len(secret)} bytes", fix=f"give it at least {SECRET_BYTES}"
        )
    return blake2b(secret).digest()


def _check_key(known: Mapping[str, str], peer: str, told: str, public: str) -> str:
    """Return what is known of a peer whose public key, if one was told, is the right one."""
    if peer not in known or told not in ("", public):
        raise InvalidValue(f"the key of {peer!r} is not the agreed one", fix="start the run anew")
    return known[peer]
