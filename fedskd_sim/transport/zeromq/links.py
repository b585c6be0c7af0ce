"""A hospital's inbox and its links: what may arrive, and who is told of it. One thread owns them,
and no call here ever waits for a peer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from threading import Lock
from typing import Protocol

import zmq

from fedskd_sim.errors import FedskdError, WireError
from fedskd_sim.messages import (
    CONTROLLER,
    Alive,
    Allocate,
    Answer,
    Chunk,
    Forms,
    FromController,
    HopId,
    Progress,
    Ready,
    Start,
    ToController,
    Traveller,
)
from fedskd_sim.transport.chunks import (
    CHUNK_BYTES,
    FRAMES,
    Assembly,
    ChunkCheck,
    count,
    pack_message,
    taken_as_it_is,
)
from fedskd_sim.transport.wire import (
    Frame,
    Limits,
    bad,
    chunk,
    decode,
    encode,
    header,
    limit_address_book,
    limit_travellers,
    read_announcement,
)
from fedskd_sim.transport.zeromq.identity import Identity
from fedskd_sim.transport.zeromq.shaped import Shaped
from fedskd_sim.transport.zeromq.sockets import Endpoint, take

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
    sound: ChunkCheck = taken_as_it_is

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
        """Return whether to take in the weights of a model that is about to arrive."""

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


STREAM_MS = 2
"""While a model arrives, how long nothing else is looked at before other duties are attended to."""
AT_A_TIME = 64
"""... and after how many messages that happens anyway."""
WORDS_KEPT = 16
"""How many words that matter wait for a controller which does not take them."""


@dataclass(frozen=True)
class Location:
    """Where a hospital listens, where the controller does, and the keys of the run (None: none)."""

    name: str
    bind: str
    controller: str
    keys: Identity | None = None


class Links:
    """A hospital's sockets. `address` is where its inbox really listens; `wake` may be called
    from other threads.
    """

    def __init__(self, place: Location, incoming: Incoming, shaped: Shaped | None = None) -> None:
        """Bind the inbox and connect to the controller; ``shaped`` disturbs what is said to
        others, and what the controller says.

        Raises:
            FedskdError: the inbox cannot be bound (see `Endpoint.listen`).

        """
        self._incoming, self._shaped = incoming, shaped
        self._lock, self._closed = Lock(), False
        self._endpoint = Endpoint(place.name, place.keys)
        try:
            self._inbox = self._endpoint.listen(
                place.bind, max(CHUNK_BYTES, incoming.limits.size), FRAMES
            )
            self._controller = self._endpoint.connect(
                place.controller, CONTROLLER, largest=incoming.words.size
            )
        except FedskdError:
            self._endpoint.close()
            raise
        self.address = self._inbox.address
        self._bell, self._wake = self._endpoint.pair()
        self._book: dict[str, tuple[str, str]] = {}
        """Address and public key of every hospital."""
        self._links: dict[str, zmq.Socket[bytes]] = {}
        self._arriving: dict[str, Assembly] = {}
        self._passing: dict[str, HopId] = {}
        self._words: deque[list[Frame]] = deque(maxlen=WORDS_KEPT)

    @property
    def arriving(self) -> int:
        """Count the models that have begun to arrive."""
        return len(self._arriving)

    def wake(self) -> None:
        """Make `attend` return; a bell that still rings need not be rung again."""
        with self._lock, suppress(zmq.Again):
            if not self._closed:
                self._bell.send(b"")

    def open(self, start: Start) -> None:
        """Learn where the others are; a link to one that is elsewhere now is opened anew when it
        is used.
        """
        for name, address in start.addresses.items():
            entry = (address, start.keys.get(name, ""))
            if name in self._links and self._book[name] != entry:
                self._links.pop(name).close()
            self._book[name] = entry
        if self._shaped:
            self._shaped.begin()

    def let_go(self, names: Collection[str]) -> None:
        """Forget half of a model that somebody did not end sending, and what waits for somebody who
        does not take it: these are lost. A link that is used again is opened anew.
        """
        for name in names:
            self._arriving.pop(name, None)
            if name in self._links:
                self._links.pop(name).close()

    def send(self, to: str, traveller: Traveller) -> None:
        """Hand a model to the link; what does not fit its queue is dropped, and the receiver
        will not confirm it.
        """
        if self._shaped and self._shaped.model(to, traveller, partial(self._hand, to)):
            return
        if link := self._link(to):
            with suppress(zmq.Again):
                for frames in pack_message(traveller):
                    link.send_multipart(frames, copy=False)

    def call(self, to: str, word: Ready) -> None:
        """Call the sender of a model, over a link of this hospital's: it is waited for
        here; lost if the sender is gone.
        """
        frames = encode(word)
        if not (self._shaped and self._shaped.word(to, frames, partial(self._hand, to))):
            self._hand(to, frames)

    def reply(self, to: str, answer: Answer) -> None:
        """Answer the sender of a model; lost if it is gone, and then the model comes again."""
        frames = encode(answer)
        if not (self._shaped and self._shaped.word(to, frames, partial(self._inbox.send, to))):
            self._inbox.send(to, frames)

    def tell(self, word: ToController) -> None:
        """Send a word to the controller. Progress and signs of life are dropped if it does not
        listen; other words are kept and tried again.
        """
        hand = self._say if isinstance(word, Progress | Alive) else self._insist
        frames = encode(word)
        if not (self._shaped and self._shaped.word(CONTROLLER, frames, hand)):
            hand(frames)

    def attend(self, seconds: float, receiver: Receiver) -> None:
        """Wait up to so long for something to come, and hand on all that has."""
        if self._shaped:
            self._shaped.release()
            seconds = self._shaped.patience(seconds)
        poller = zmq.Poller()
        for socket in (self._wake, self._controller, self._inbox.socket, *self._links.values()):
            poller.register(socket, zmq.POLLIN)
        ready = dict(poller.poll(int(seconds * 1000) + 1))
        if self._wake in ready:
            self._wake.recv()
        if self._inbox.socket in ready:
            self._arrivals(receiver)
        if self._controller in ready:
            word: list[Frame] = [*take(self._controller)]
            hand = partial(self._word, receiver)
            if not (self._shaped and self._shaped.hear(word, hand)):
                hand(word)
        for name, link in list(self._links.items()):
            if link in ready:
                self._answer(name, take(link), receiver)
        if self._shaped:
            self._shaped.release()
        self._speak()

    def say_goodbye(self) -> None:
        """Wait, before the links are closed, until words to the controller that are under way have
        arrived; only where the scenario delays them, and not for long.
        """
        if self._shaped:
            self._shaped.flush(CONTROLLER)

    def close(self) -> None:
        """Close every socket; to be called by the thread that attends to them, or when it has
        ended.
        """
        with self._lock:
            self._closed = True
            self._endpoint.close()

    def _link(self, to: str) -> zmq.Socket[bytes] | None:
        """Return the link to a hospital, opened if it was not; None as long as nobody knows where
        it is.
        """
        if to not in self._book:
            return None
        if to not in self._links:
            address, public_key = self._book[to]
            self._links[to] = self._endpoint.connect(
                address, to, public_key, queue=self._incoming.queue
            )
        return self._links[to]

    def _hand(self, to: str, frames: list[Frame]) -> bool:
        """Return a message, or a part of one, to a link; False if that takes nothing more."""
        if link := self._link(to):
            with suppress(zmq.Again):
                link.send_multipart(frames, copy=False)
                return True
        return False

    def _say(self, word: list[Frame]) -> bool:
        """Send a word to the controller, if it listens."""
        with suppress(zmq.Again):
            self._controller.send_multipart(word)
        return True

    def _insist(self, word: list[Frame]) -> bool:
        """Send a word to the controller, now or when it listens."""
        self._words.append(word)
        self._speak()
        return True

    def _speak(self) -> None:
        with suppress(zmq.Again):
            while self._words:
                self._controller.send_multipart(self._words[0])
                self._words.popleft()

    def _arrivals(self, receiver: Receiver) -> None:
        """Take what comes until a model is complete, the link is silent, or other duties have
        waited for long enough.
        """
        for _ in range(AT_A_TIME):
            came = self._inbox.receive(STREAM_MS if self._arriving else 0)
            if self._shaped:
                self._shaped.release()
            if came is None:
                return
            try:
                traveller = self._arrival(came.sender, came.frames, receiver)
            except WireError as error:
                self._arriving.pop(came.sender, None)
                receiver.on_refusal(came.sender, error.message)
                continue
            if traveller:
                del self._arriving[came.sender]
                receiver.on_model(traveller, came.sender)
                return

    def _arrival(
        self, sender: str, frames: list[memoryview], receiver: Receiver
    ) -> Traveller | None:
        """Take a header, a chunk or a call; gives the model that it completes. Raises WireError
        for what no member would send.
        """
        kind, values = header(frames, self._incoming.limits)
        if kind is Traveller:
            if len(frames) > 1:
                raise bad("a model with its header in parts")
            traveller, table = read_announcement(values, self._incoming.expected)
            self._arriving.pop(sender, None)  # it begins anew
            if receiver.announced(traveller.hop, sender):
                self._passing.pop(sender, None)
                self._arriving[sender] = Assembly(
                    traveller, table, self._incoming.allocate, self._incoming.sound
                )
            else:
                self._passing[sender] = traveller.hop
            return None
        if kind is Ready:
            self._answer(sender, frames, receiver)
            return None
        if kind is not Chunk:
            raise bad(f"{kind.__name__} from nowhere")
        label = chunk(values)
        if sender in self._arriving:
            return self._arriving[sender].add(label, frames[1:])
        if self._passing.get(sender) != label.hop:
            raise bad("a part of a model from nowhere")
        if label.digest:
            receiver.on_repeat(self._passing.pop(sender), sender, label.digest)
        return None

    def _word(self, receiver: Receiver, frames: list[Frame]) -> bool:
        """Hear a word of the controller."""
        try:
            message = decode(frames, self._incoming.words)
        except WireError as error:
            receiver.on_refusal(CONTROLLER, error.message)
            return True
        if isinstance(message, FromController):
            receiver.on_word(message)
        else:
            receiver.on_refusal(CONTROLLER, f"{type(message).__name__} from the controller")
        return True

    def _answer(self, by: str, frames: list[memoryview], receiver: Receiver) -> None:
        try:
            message = decode(frames)
        except WireError as error:
            receiver.on_refusal(by, error.message)
            return
        if isinstance(message, Answer):
            receiver.on_answer(message, by)
        else:
            receiver.on_refusal(by, f"{type(message).__name__} in answer to a model")
