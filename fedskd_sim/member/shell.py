"""Carries out what a hospital's machine asks for: the one place where events become messages, work,
records, metrics and log lines.

The shell belongs to one thread and never waits; whatever takes time is done `Outside`, which hands
events back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from fedskd_sim import clock
from fedskd_sim.errors import FedskdError
from fedskd_sim.member.reporter import Reporter
from fedskd_sim.messages import (
    Ack,
    Answer,
    Done,
    Holds,
    HopId,
    Ready,
    ToController,
    Traveller,
    Weights,
    size,
)
from fedskd_sim.observe.metrics import Transfer
from fedskd_sim.protocol.effects import (
    Call,
    Delivered,
    Effect,
    Fail,
    Join,
    Leave,
    Persist,
    Refuse,
    Reply,
    Send,
    Tell,
    Wait,
    Work,
)
from fedskd_sim.protocol.events import Event, Model, ModelArrived, ModelReleased, Timer
from fedskd_sim.protocol.machine import HospitalMachine
from fedskd_sim.protocol.state import State, handles
from fedskd_sim.records import Record
from fedskd_sim.ring.program import Step
from fedskd_sim.ring.topology import Stop


@dataclass(frozen=True, slots=True)
class Task:
    """A step to carry out, with the model that it hosts, if any, and the stop for which to get
    ready.
    """

    index: int
    step: Step
    weights: Weights | None
    digest: str
    following: Stop | None


class Outside(Protocol):
    """Everything around a shell; no call may wait for anybody."""

    def register(self) -> None:
        """Register with the controller: this hospital is up."""

    def tell(self, word: ToController) -> None:
        """Send a word to the controller; progress may be dropped."""

    def reply(self, to: str, answer: Answer) -> None:
        """Answer the sender of a model."""

    def call(self, to: str, word: Ready) -> None:
        """Call the host before this one, unasked: a model is waited for."""

    def send(self, to: str, traveller: Traveller) -> None:
        """Hand a model over to its next host."""

    def work(self, task: Task) -> None:
        """Have a step carried out; `ModelReleased` and `StepFinished` come back."""

    def wait(self, seconds: float, timer: Timer) -> None:
        """Return a timer's event after some seconds."""

    def persist(self, state: State, record: Record | None, ticket: int) -> None:
        """Make a state safe, and the weights it speaks of, and a record; `Shell.on_persisted` is
        then called with the ticket.
        """

    def over(self, error: FedskdError | None) -> None:
        """End, well or with an error."""


@dataclass
class Shell:
    """A hospital while it runs: keeps the state, hands events to the pure `HospitalMachine`, and
    carries out the effects that come back.

    What an effect needs is elsewhere: `Worker` trains and measures, ``outside`` (a `Mailbox`, or a
    `Node` in simulated time) sends and keeps, `Reporter` notes. Real and simulated hospitals have
    the same shell, so they do the same.
    """

    machine: HospitalMachine
    outside: Outside
    reporter: Reporter
    state: State = field(default_factory=State)
    models: dict[int, Weights] = field(default_factory=dict)
    """Weights in custody, by the number of their handle."""
    before: Callable[[Effect], None] | None = None
    """Is told of every effect before it is carried out."""
    numbers: int = 0
    _left: dict[HopId, float] = field(default_factory=dict)
    _asked: int = 0
    """Ticket of the last state that was to be made safe."""
    _safe: int = 0
    """... and of the last one that is."""
    _held: deque[tuple[int, Effect]] = field(default_factory=deque)
    """What may only be said once a state is safe."""

    def handle(self, event: Event) -> None:
        """Step the machine, and carry out what it asks for."""
        self.state, effects = self.machine.step(self.state, event)
        for effect in effects:
            if self._safe < self._asked and self._promises(effect):
                self._held.append((self._asked, effect))
            else:
                self._begin(effect)
        kept = handles(self.state)
        if len(self.models) > len(kept):
            self.models = {
                number: weights for number, weights in self.models.items() if number in kept
            }

    def on_persisted(self, ticket: int) -> None:
        """Hear that a state is safe, and all before it: what was promised on it can be said now."""
        self._safe = max(self._safe, ticket)
        while self._held and self._held[0][0] <= self._safe:
            effect = self._held.popleft()[1]
            # what was to be sent may have been confirmed or forwarded, and forgotten, meanwhile
            if not isinstance(effect, Send) or effect.model.number in self.models:
                self._begin(effect)

    def arrive(self, traveller: Traveller, sender: str) -> None:
        """Take a model in that has come over a link from ``sender``."""
        model = self._keep(traveller.weights, traveller.digest)
        self.handle(ModelArrived(traveller.hop, sender, model))

    def release(self, index: int, weights: Weights, digest: str) -> None:
        """Take in what a step has made to go on from here."""
        self.handle(ModelReleased(index, self._keep(weights, digest)))

    def _promises(self, effect: Effect) -> bool:
        """Return whether somebody will rely on what an effect says.

        A model may leave before what made it is safe, for it can be made again; but not where
        arithmetic is not repeatable, or where a visitor that is forgotten may come again as it was
        before a host that is lost.
        """
        match effect:
            case Reply(_, Ack()) | Tell(Done() | Holds()) | Leave():
                return True
            case Send():
                return self.machine.terms.heals or not self.machine.terms.repeatable
        return False

    def _begin(self, effect: Effect) -> None:
        if self.before:
            self.before(effect)
        self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Persist(record):
                if record:
                    self.reporter.report_step(record)
                self._asked += 1
                self.outside.persist(self.state, record, self._asked)
            case Send(to, hop, model, _):
                self._send(to, hop, model)
            case Delivered(to, hop, model, attempts):
                sent, start = size(self.models[model.number]), self._left.pop(hop, clock.unix())
                told = Transfer(hop, to, start, clock.unix(), sent, attempts)
                self.reporter.report_transfer(told)
            case Reply(to, answer):
                self.outside.reply(to, answer)
            case Call(to, hop):
                self.outside.call(to, Ready(hop))
            case Tell(word):
                if isinstance(word, Done):
                    self.reporter.done()
                self.outside.tell(word)
            case Work(index, step, arrived, following):
                self.reporter.begins(step)
                weights = None if arrived is None else self.models[arrived.number]
                self.outside.work(
                    Task(index, step, weights, arrived.digest if arrived else "", following)
                )
            case Wait(seconds, timer):
                self.outside.wait(seconds, timer)
            case Join():
                self.outside.register()
            case Refuse(sender, hop, reason):
                self.reporter.report_refusal(sender, f"{hop}: {reason}")
            case Leave(reason):
                self.reporter.leaves(reason)
                self.outside.over(None)
            case Fail(error):
                self.reporter.fails()
                self.outside.over(error)

    def _send(self, to: str, hop: HopId, model: Model) -> None:
        self._left.setdefault(hop, clock.unix())
        architecture = self.reporter.scenario.architecture(hop.model).name
        weights = self.models[model.number]
        sent = Traveller(hop, self.machine.name, architecture, model.digest, weights)
        self.outside.send(to, sent)

    def _keep(self, weights: Weights, digest: str) -> Model:
        self.numbers += 1
        self.models[self.numbers] = weights
        return Model(self.numbers, digest)
