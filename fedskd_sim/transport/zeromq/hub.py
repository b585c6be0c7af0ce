"""The controller's end: hospitals register here."""

from __future__ import annotations

from contextlib import suppress

import zmq

from fedskd_sim import clock
from fedskd_sim.errors import FedskdError, WireError
from fedskd_sim.messages import CONTROLLER, Done, Failed, FromController, Progress, Register, ToController
from fedskd_sim.transport import NothingReceived
from fedskd_sim.transport.wire import decode, encode
from fedskd_sim.transport.zeromq.sockets import Endpoint, Keys, address_of


class Hub:
    """A socket whose messages are small, so that no weights fit through."""

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

    def send(self, to: str, message: FromController) -> None:
        """Send a word to a hospital that has registered; it is lost if nobody takes it, and never waited for."""
        with suppress(zmq.Again):
            self._socket.send_multipart([to.encode(), *encode(message)], zmq.NOBLOCK)

    def receive(self, timeout: float) -> ToController:
        """Wait up to ``timeout`` seconds for a hospital's word; anything else is dropped and counted.

        Raises:
            NothingReceived: nothing came in time.

        """
        deadline = clock.now() + timeout
        while self._socket.poll(int(clock.left(deadline) * 1000)):
            sender, *parts = self._socket.recv_multipart(copy=False)
            name = self._endpoint.name_of(sender)
            try:
                message = decode([part.buffer for part in parts])
            except WireError:
                self.refused += 1
                continue
            if isinstance(message, Register | Progress | Failed | Done) and message.hospital == name:
                return message
            self.refused += 1
        raise NothingReceived

    def close(self) -> None:
        """Free the address."""
        self._endpoint.close()
