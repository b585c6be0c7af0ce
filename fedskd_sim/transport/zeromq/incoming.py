"""What may arrive at a hospital, and who is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from fedskd_sim.messages import Allocate, Answer, Forms, FromController, HopId, Traveller
from fedskd_sim.transport.chunks import Sound, count, taken_as_it_is
from fedskd_sim.transport.wire import Limits, limit_address_book, limit_travellers

MODELS_QUEUED = 4
"""How many of the largest models a link keeps for a receiver that does not take them; a further one
is tried again later."""


@dataclass(frozen=True)
class Incoming:
    """What may arrive, by the name of the model, the memory it arrives in, the number of
    hospitals, and what its numbers may be.
    """

    expected: Mapping[str, Forms]
    allocate: Allocate
    hospitals: int
    sound: Sound = taken_as_it_is

    @cached_property
    def limits(self) -> Limits:
        """The largest headers that announce a model of this run; a larger one is refused unread."""
        return limit_travellers(self.expected)

    @cached_property
    def words(self) -> Limits:
        """The largest message that the controller of this run can send; a larger one is refused."""
        return limit_address_book(self.hospitals)

    @property
    def queue(self) -> int:
        """How many messages a link keeps for a slow reader: those of `MODELS_QUEUED` of the largest
        models.
        """
        return MODELS_QUEUED * max(
            (count(form) for forms in self.expected.values() for form in forms), default=1
        )


class Receiver(Protocol):
    """Who is told what has come; a sender's name is the one that its key stands for."""

    def announced(self, hop: HopId, sender: str) -> bool:
        """Tell whether to take in the weights of a model that is about to arrive."""

    def on_model(self, traveller: Traveller, sender: str) -> None:
        """Take a model that has arrived whole, its digest proved."""

    def on_repeat(self, hop: HopId, sender: str, digest: str) -> None:
        """Hear of the end of a model whose weights were not taken in, with the digest it was
        sent with.
        """

    def on_answer(self, answer: Answer, by: str) -> None:
        """Hear what the receiver of a departed model says."""

    def on_word(self, word: FromController) -> None:
        """Hear the controller's word."""

    def on_refusal(self, sender: str, reason: str) -> None:
        """Hear of something that no member of the run would send."""
