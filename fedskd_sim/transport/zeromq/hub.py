"""The controller's end: hospitals register here."""

from __future__ import annotations

from fedskd_sim.errors import FedskdError, WireError
from fedskd_sim.messages import CONTROLLER, FromController, ToController
from fedskd_sim.transport import NothingReceived, Unwelcome
from fedskd_sim.transport.wire import decode, encode, is_foreign
from fedskd_sim.transport.zeromq.identity import Identity
from fedskd_sim.transport.zeromq.sockets import Endpoint


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
