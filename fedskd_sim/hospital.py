"""One hospital: `step` handles one message, `serve` repeats it until the end.

The way of a model through it: `Start` -> warm-up -> the own traveller sets out -> visitors arrive, each is hosted when its turn
comes (`fedskd_sim.hop`) -> the own traveller comes home -> next round -> evaluation round -> done.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from fedskd_sim import clock, hop
from fedskd_sim.errors import (
    BadMessage,
    FedskdError,
    HopTimeout,
    HospitalCrashed,
    NonFiniteLoss,
    RegistrationTimeout,
    RunAborted,
)
from fedskd_sim.learning.placebo import Stalled
from fedskd_sim.logs import EventLog
from fedskd_sim.messages import Done, End, Failed, HopId, Message, Progress, Register, Start, Traveller
from fedskd_sim.metrics import HospitalMetrics
from fedskd_sim.records import Ledger, Record
from fedskd_sim.ring import Stop
from fedskd_sim.transport.base import CONTROLLER, NothingReceived, Transport

PATIENCE_OF_THE_STALLED = 3
REGISTER_AGAIN_S = 5.0


@dataclass
class Hospital:
    """A member of the ring; `host` is what its hops see of it."""

    host: hop.Host
    transport: Transport
    ledger: Ledger
    metrics: HospitalMetrics
    log: EventLog
    stopped: End | None = None
    _started: bool = False
    _stalled: bool = False
    _rollbacks: int = 0
    _waiting: dict[HopId, Traveller] = field(default_factory=dict)
    _stops: Iterator[Stop] = field(init=False)
    _next: Stop | None = field(init=False)

    def __post_init__(self) -> None:
        """Look up the first stop."""
        self._stops = self.host.ring.stops(self.host.name)
        self._next = next(self._stops)

    @property
    def finished(self) -> bool:
        """Tell whether every stop of the run is behind it."""
        return self._next is None

    def serve(self, register: Register) -> None:
        """Take part in one run from registration to the end.

        Raises:
            FedskdError: the run cannot go on; the controller has been told.

        """
        timeouts = self.host.scenario.timeouts
        try:
            self._join(register, timeouts.register_ + timeouts.goodbye)
            while not (self.finished or self.stopped):
                self.step(self._awaited(self._patience))
            self._leave(timeouts.goodbye)
        except FedskdError as error:
            self.fail(error)
            raise
        except SystemExit:
            if self._started:
                self.fail(HospitalCrashed(f"{self.host.name!r} was told to stop"))
            raise

    def step(self, message: Message) -> None:
        """Handle one message, and host every visitor whose turn it then is.

        Raises:
            RunAborted: the controller ended the run because another hospital failed.
            BadMessage: a model that has no business here.
            NonFiniteLoss: too many sessions in a row were rolled back.

        """
        match message:
            case Start():
                if not self._started:
                    self._started = True
                    self._begin()
            case Traveller():
                self._waiting[self._checked(message)] = message
            case End(code, reason):
                self.stopped = message
                if code:
                    error = RunAborted(reason, fix="see the first error of the run")
                    error.second_hand = True
                    raise error
        while self._started and not self._stalled and self._next is not None and self._key(self._next) in self._waiting:
            self._receive(self._next, self._waiting.pop(self._key(self._next)))

    def say_done(self) -> None:
        """Tell the controller that nothing is left to do; it leaves after the last receipt."""
        self.metrics.phase("done")
        self.log.event("done")
        self.transport.send(CONTROLLER, Done(self.host.name))

    def fail(self, error: FedskdError) -> None:
        """Tell the controller of an error, unless it was the controller's own word."""
        self.metrics.phase("failed")
        if not error.second_hand:
            self.transport.send(CONTROLLER, Failed(self.host.name, error.exit_code, error.message))

    def _join(self, register: Register, patience: float) -> None:
        """Register until the controller says `Start`: it may itself have been restarted in between."""
        deadline = clock.now() + patience
        while not (self._started or self.stopped):
            self.transport.send(CONTROLLER, register)
            try:
                self.step(self.transport.receive(min(REGISTER_AGAIN_S, clock.left(deadline))))
            except NothingReceived:
                if clock.now() >= deadline:
                    text = f"the controller did not start the run within {patience:g} s"
                    raise RegistrationTimeout(text, fix="see the controller's log", key=("timeouts", "register")) from None

    @property
    def _patience(self) -> float:
        """How long to wait for the next model: with one traveller at a time for whole tours, held out for all rounds."""
        ring = self.host.ring
        stops = 2 * ring.size if ring.schedule.mode == "sequential" else 1
        if self.host.name in ring.held_out:
            stops *= sum(len(ring.hops(round_)) + 1 for round_ in range(1, ring.rounds + 1))
        return self.host.scenario.timeouts.hop * stops * (PATIENCE_OF_THE_STALLED if self._stalled else 1)

    def _begin(self) -> None:
        if self.host.name in self.host.ring.held_out:
            self.metrics.phase("waiting", self.host.ring.evaluation_round)
            return
        self.metrics.phase("warm_up", 0)
        self.log.event("warm_up")
        self._note(hop.warm_up(self.host))
        if self._next is not None:
            self._go_on(0, self._next)
            self._expect(self._next)

    def _go_on(self, before: int, following: Stop) -> None:
        """Begin the rounds up to the next stop's: train alone where the algorithm does so; then send the own traveller off."""
        ring = self.host.ring
        for round_ in range(before + 1, following.round + 1):
            if ring.lap != "circulation":
                self.metrics.phase("alone", round_)
            record = hop.alone(self.host, round_) if round_ <= ring.rounds else None
            if record:
                self._note(record)
            self.metrics.phase("waiting", round_)
        if ring.sets_out(before, following):
            hop.depart(self.host, following.round)
            if following.round == ring.evaluation_round:
                self._note(hop.evaluate_at_home(self.host))

    def _receive(self, stop: Stop, arriving: Traveller) -> None:
        self.metrics.phase("averaging" if stop.kind in ("reduce", "gather") else stop.kind, stop.round)
        self.log.event("arrived", round=stop.round, hop=stop.hop, model=stop.model, kind=stop.kind)
        following = next(self._stops, None)
        try:
            self._expect(following)
            self._note(hop.receive(self.host, stop, arriving))
        except Stalled:
            self._stalled = True
            return
        self.metrics.phase("waiting")
        if following is None:
            record = hop.council(self.host)
            if record:
                self._note(record)
        else:
            self._go_on(stop.round, following)
        self._next = following

    def _expect(self, stop: Stop | None) -> None:
        """Make ready for the next model: it may arrive while this one trains."""
        if stop is not None and stop.kind not in ("reduce", "gather"):
            self.host.expect(stop.model)

    def _note(self, record: Record) -> None:
        self.ledger.add(record)
        self.metrics.finished(record)
        accuracy = record.measures["accuracy"].mean if "accuracy" in record.measures else None
        place = {"round": record.round, "hop": record.hop, "model": record.model}
        self.log.event("finished", **place, kind=record.kind, outcome=record.outcome, accuracy=accuracy)
        self.transport.send(CONTROLLER, Progress(self.host.name, record.model, record.round, record.hop, accuracy or 0.0))
        if record.outcome in ("evaluated", "passed"):
            return
        self._rollbacks = self._rollbacks + 1 if record.outcome == "rolled_back" else 0
        if self._rollbacks >= self.host.scenario.training.max_rollbacks:
            text = f"{self.host.name!r} rolled back {self._rollbacks} sessions in a row: {record.reason}"
            fix = "lower training.optimiser.learning_rate, or look at the data"
            raise NonFiniteLoss(text, fix=fix, key=("training", "max_rollbacks"))

    def _awaited(self, seconds: float) -> Message:
        try:
            return self.transport.receive(seconds)
        except NothingReceived:
            pass
        fix = "look at the log of the hospital that should have sent it; if its sessions are slow, raise timeouts.hop"
        error = HopTimeout(self.missing(seconds), fix=fix, key=("timeouts", "hop"))
        if self._next is not None:
            error.stop = (self._next.round, self._next.hop)
        raise error

    def progress(self) -> tuple[bool, bool, int, int]:
        """Order hospitals by how far they are; of those that wait, one whose predecessor keeps a visitor comes first."""
        stop = self._next
        return (self._stalled, stop is None, stop.round if stop else 0, stop.hop if stop else 0)

    def missing(self, seconds: float) -> str:
        """Say in words what this hospital has waited for."""
        stop = self._next
        if stop is None:
            return f"{self.host.name!r} waits for nothing"
        sender = self.host.ring.sender(stop)
        return (
            f"{self.host.name!r} waited {seconds:g} s for the model of {stop.model!r} (round {stop.round}, hop {stop.hop}), "
            f"which {sender!r} should have sent"
        )

    def _leave(self, seconds: float) -> None:
        """Wait for the controller's end; without a controller, leave when the time is over."""
        self.say_done()
        deadline = clock.now() + seconds
        while self.stopped is None and clock.now() < deadline:
            try:
                self.step(self.transport.receive(clock.left(deadline)))
            except NothingReceived:
                self.log.event("left", reason="no word from the controller")
                return

    def _key(self, stop: Stop) -> HopId:
        return HopId(self.host.run, stop.model, stop.round, stop.hop)

    def _checked(self, traveller: Traveller) -> HopId:
        """Refuse a model whose hop does not lead here."""
        key = traveller.hop
        ring = self.host.ring
        known = key.model in ring.hospitals and 1 <= key.round <= ring.evaluation_round and key.hop in ring.hops(key.round)
        if not known or ring.stop(key.model, key.round, key.hop).host != self.host.name:
            text = f"{traveller.sender!r} sent the model of {key.model!r} for round {key.round} hop {key.hop} here"
            raise BadMessage(text, fix="every member of a run must have the same scenario")
        return key
