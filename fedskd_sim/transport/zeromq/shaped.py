"""What a hospital has said over links that a scenario disturbs, and what of it has not left yet;
and what the controller has said to it, and of that what it has not heard yet.

Everything leaves at the moment at which it would arrive: nobody waits here, whoever attends to the
links asks how long they may wait, and lets leave what is due.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import inf

from fedskd_sim import clock
from fedskd_sim.messages import CONTROLLER, Traveller, digest, size
from fedskd_sim.transport.chunks import pack_message
from fedskd_sim.transport.shaping import Passage, Shaping
from fedskd_sim.transport.wire import Frame

Frames = list[Frame]
Hand = Callable[[Frames], bool]
"""Gives a message of a model, or a word, to a socket, or to who is to hear it; False if that takes
nothing more."""
EVERY_BIT = 0xFF
LAST_WORDS_S = 5.0
EARLY_S = 0.0005
"""Whoever waits for sockets does so for whole milliseconds: half of one early is on time."""


@dataclass(frozen=True, slots=True)
class Said:
    """A model or a word, and the way it goes."""

    hand: Hand
    word: Frames = field(default_factory=list)
    model: Traveller | None = None

    def messages(self, flip: float | None) -> Iterator[Frames]:
        """Yield what goes over the socket, at which share of a model's bytes one may be another."""
        if self.model is None:
            yield self.word
            return
        place = None if flip is None else int(flip * size(self.model.weights))
        for label, *parts in pack_message(self.model):
            if place is not None:
                place = _spoil(parts, place)
            yield [label, *parts]


def _spoil(parts: Frames, place: int) -> int:
    """Change the byte at a place in a copy of the part where it is; gives the place behind them."""
    for number, part in enumerate(parts):
        if 0 <= place < len(part):
            changed = bytearray(part)
            changed[place] ^= EVERY_BIT
            parts[number] = changed
        place -= len(part)
    return place


@dataclass
class _Leaving:
    """A copy of a message that is leaving, part by part."""

    passage: Passage
    said: Said
    _gone: int = 0
    """Bytes of the model up to the end of the part that is next."""
    _next: Frames | None = None

    def __post_init__(self) -> None:
        """Make the message's first part ready; the parts of a model share the time of its passage
        by their bytes.
        """
        model = self.said.model
        self._whole = size(model.weights) if model else 0
        self._left = self.said.messages(self.passage.flip)
        self._advance()

    @property
    def due(self) -> float:
        """When the next part would have arrived."""
        begins, ends, _ = self.passage
        return begins + (ends - begins) * (self._gone / self._whole if self._whole else 1.0)

    def leave(self, now: float) -> bool:
        """Send what is due; True when nothing is left."""
        while self._next is not None and self.due <= now:
            if not self.said.hand(self._next):
                return True  # as of a link that nobody shapes: its receiver will not confirm it
            self._advance()
        return self._next is None

    def _advance(self) -> None:
        self._next = next(self._left, None)
        self._gone += sum(map(len, (self._next or [])[1:]))


class Shaped:
    """What is on its way over a hospital's links, in order for each; the link from the controller
    is one of them, so that the controller has nothing to do with it.
    """

    def __init__(
        self, name: str, shaping: Shaping[Said], started: Callable[[], float] | None = None
    ) -> None:
        """Shape what a hospital says; ``started`` gives the moment, on the monotonic clock, at
        which the run has started, once it has; None: it starts when `begin` is called.
        """
        self._name, self._shaping, self._starts = name, shaping, started
        self._begun = False
        self._leaving: dict[tuple[str, str], deque[_Leaving]] = {}

    def begin(self) -> None:
        """Start the clock by which links are bad for a time: the run has started. Later calls
        change nothing.
        """
        if not self._begun:
            self._begun = True
            self._shaping.begin(self._starts() if self._starts else clock.now())

    def model(self, to: str, model: Traveller, hand: Hand) -> bool:
        """Send a model on its way; False: that link is not shaped."""
        now = clock.now()
        if not self._shaping.line(self._name, to):
            return False
        if not model.digest:  # by the time that it leaves, its memory may be another model's
            model = replace(model, digest=digest(model.weights))
        return self._carry(now, (self._name, to), Said(hand, model=model), size(model.weights))

    def word(self, to: str, word: Frames, hand: Hand) -> bool:
        """Send a word on its way; False: that link is not shaped."""
        return self._carry(clock.now(), (self._name, to), Said(hand, word))

    def hear(self, word: Frames, hand: Hand) -> bool:
        """Pass on a word of the controller that has just come; False: that link is not
        shaped.
        """
        return self._carry(clock.now(), (CONTROLLER, self._name), Said(hand, word))

    def release(self) -> None:
        """Send what the links have held back for long enough by now, in each link's order."""
        self._release(clock.now() + EARLY_S, list(self._leaving.values()))

    def flush(self, to: str) -> None:
        """Send the last words to a member when they are due, but wait for that at most
        `LAST_WORDS_S` seconds: what is left then arrives at once.
        """
        queue = self._leaving.get((self._name, to), deque())
        deadline = clock.now() + LAST_WORDS_S
        while queue and (left := clock.seconds_left(deadline)) > 0:
            clock.sleep(min(left, max(0.0, queue[0].due - clock.now())))
            self._release(clock.now() + EARLY_S, [queue])
        self._release(inf, [queue])

    def patience(self, seconds: float) -> float:
        """Return how long nothing is due, at most so many seconds."""
        due = min((queue[0].due for queue in self._leaving.values() if queue), default=None)
        return seconds if due is None else min(seconds, max(0.0, due - EARLY_S - clock.now()))

    def _release(self, now: float, queues: list[deque[_Leaving]]) -> None:
        """Send what is due; who hears a word may say something that is not due yet."""
        for queue in queues:
            while queue and queue[0].leave(now):
                queue.popleft()

    def _carry(
        self, now: float, ends: tuple[str, str], said: Said, bytes_: int | None = None
    ) -> bool:
        line = self._shaping.line(*ends)
        if line is None:
            return False
        queue = self._leaving.setdefault(ends, deque())
        queue.extend(_Leaving(*one) for one in line.carry(now, said, bytes_))
        return True
