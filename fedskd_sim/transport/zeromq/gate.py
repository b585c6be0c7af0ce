"""The gatekeeper of a ZeroMQ context: tells it who its peers are (ZAP,
https://rfc.zeromq.org/spec/27).

What pyzmq has for this brings asyncio along, a seventh of a second at every start, and its thread
ends at the first exception: then nobody gets in any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from threading import Thread

import zmq

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
