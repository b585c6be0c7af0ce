"""All members in one process: messages wait in queues. It makes the same frames and the same checks as the wire."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fedskd_sim import clock
from fedskd_sim.messages import Forms, Message, Transfer, Traveller, plain_room, size
from fedskd_sim.transport.base import NothingReceived
from fedskd_sim.transport.parcels import packed, unpacked


@dataclass
class Exchange:
    """Where the members of one run meet: a queue of messages for each name."""

    queues: dict[str, deque[list[list[bytearray]]]] = field(default_factory=dict)

    def waiting(self, name: str) -> bool:
        """Tell whether a message waits for a member."""
        return bool(self.queues.get(name))


@dataclass
class MemoryTransport:
    """One member's place at the exchange; frames are copied, as a link would."""

    exchange: Exchange
    name: str
    expected: Mapping[str, Forms] = field(default_factory=dict)
    observe: Callable[[Transfer], None] = lambda _: None

    def send(self, to: str, message: Message) -> None:
        """Put a copy of the message into the receiver's queue."""
        start = clock.unix()
        copied = [[bytearray(frame) for frame in frames] for frames in packed(message)]
        self.exchange.queues.setdefault(to, deque()).append(copied)
        if isinstance(message, Traveller):
            self.observe(Transfer(message.hop, to, start, clock.unix(), size(message.weights), 1))

    def receive(self, timeout: float) -> Message:  # noqa: ARG002 - nobody else could put a message while this one waits
        """Take the oldest message.

        Raises:
            NothingReceived: none is there; waiting would not change that, everybody runs in this thread.

        """
        if not self.exchange.waiting(self.name):
            raise NothingReceived
        return unpacked(self.exchange.queues[self.name].popleft(), self.expected, plain_room)

    def close(self) -> None:
        """Drop what nobody took."""
        self.exchange.queues.pop(self.name, None)
