"""The transport seam: send, receive, close."""

from __future__ import annotations

from typing import Protocol

from fedskd_sim.messages import Message

CONTROLLER = "controller"


class NothingReceived(Exception):
    """The time-out of `Transport.receive` passed without a message."""


class Transport(Protocol):
    """One member's link to the others; addresses are names, learned from the controller's `Start` as it passes through."""

    def send(self, to: str, message: Message) -> None:
        """Hand a message over and return at once; a traveller is kept until its receipt and sent again if need be.

        Raises:
            FedskdError: an earlier message could not be delivered, or the link broke.

        """

    def receive(self, timeout: float) -> Message:
        """Wait up to ``timeout`` seconds for the next message: a traveller whose digest is right, or the controller's word.

        Raises:
            NothingReceived: nothing came in time.
            FedskdError: an earlier message could not be delivered, or the link broke.

        """

    def close(self) -> None:
        """Wait for open receipts up to their deadline, then free everything.

        Raises:
            ReceiptTimeout: a departed traveller was never confirmed.

        """
