"""The controller of a run: carries out what its machine asks for on the hub's socket and in the
log, and keeps count of who has given a sign of life when; whoever has not for too long is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Protocol

from fedskd_sim import clock
from fedskd_sim.errors import AcknowledgementTimeout, CodeDiffers, FedskdError, HospitalLost
from fedskd_sim.exits import final_codes
from fedskd_sim.member.reporter import Throttle
from fedskd_sim.messages import (
    Alive,
    Done,
    End,
    Failed,
    FromController,
    Holds,
    Progress,
    Register,
    ToController,
)
from fedskd_sim.observe import events
from fedskd_sim.observe.events import EventLog
from fedskd_sim.protocol.admission import FIX, ControllerTurn, MayReturn, RegistrarState
from fedskd_sim.protocol.controller import CONSEQUENCES, Registrar, refuse
from fedskd_sim.protocol.effects import (
    Admitted,
    Closed,
    ControllerEffect,
    Declared,
    Noted,
    Opened,
    Opening,
    Rejected,
    Say,
)
from fedskd_sim.ring.program import Program
from fedskd_sim.ring.routes import NO_RETURN, NOBODY, LostHospitals, Returns
from fedskd_sim.ring.topology import FIRST_EPOCH, Stop, Topology
from fedskd_sim.scenario import Scenario
from fedskd_sim.transport import NothingReceived, Unwelcome
from fedskd_sim.transport.wire import bad


class Heartbeats:
    """The last sign of life of every hospital, on the clock ``now`` (seconds)."""

    def __init__(self, limit: float, now: Callable[[], float]) -> None:
        """Bear a silence of up to ``limit`` seconds."""
        self._limit, self._now = limit, now
        self._heard: dict[str, float] = {}

    def hear(self, *names: str) -> None:
        """Note that hospitals live."""
        self._heard |= dict.fromkeys(names, self._now())

    def silent(self, but: Collection[str]) -> list[str]:
        """List who was heard once, and then not for too long."""
        since = self._now() - self._limit
        return [name for name, last in self._heard.items() if last < since and name not in but]


LOOK_S = 1.0


class Wire(Protocol):
    """The controller's end of the links; see `fedskd_sim.transport.zeromq.Hub`."""

    def send(self, to: str, message: FromController) -> None:
        """Send a word to a hospital."""

    def receive(self, timeout: float) -> ToController | Unwelcome:
        """Wait up to ``timeout`` seconds, none if it is negative, for a hospital's word; raises
        NothingReceived.
        """


class Controller:
    """The registrar of one run; ``opening`` is called when the first `Start` is about to leave,
    ``losing`` with all that are or were lost, and who of them is back, when that changes; ``now``
    tells the time in seconds.
    """

    def __init__(
        self,
        scenario: Scenario,
        run: str,
        wire: Wire,
        log: EventLog,
        opening: Callable[[], None] = lambda: None,
        *,
        losing: Callable[[LostHospitals, Returns], None] = lambda *_: None,
        now: Callable[[], float] = clock.now,
    ) -> None:
        """Know the scenario; nobody has registered yet."""
        self._registrar = Registrar(
            scenario, run, FIRST_EPOCH, frozenset(final_codes()), Topology.of(scenario)
        )
        self._wire, self._log, self._opening, self._losing = wire, log, opening, losing
        self._refusals, self._registrations = Throttle(), Throttle()
        self._refused: dict[str, str] = {}
        """Why what a member said last was refused."""
        self._reached: dict[str, int] = {}
        self._seen: dict[str, tuple[Progress, frozenset[str]]] = {}
        """The last step that was told of each model, and who was lost by then."""
        self._told: dict[str, str] = {}
        """Which models were said to be gone, and how."""
        self._in_vain: list[Failed] = []
        """Words of hospitals that have waited in vain."""
        self._now, self._began, self._looked = now, now(), now()
        self._heartbeats = Heartbeats(scenario.on_loss.after, now)
        self.watches = scenario.on_loss.beat > 0
        """Whether hospitals give signs of life, so that `look` is worth calling now and then."""
        self.state = RegistrarState()
        self._renew()

    def admit_only(self, may_return: MayReturn) -> None:
        """Ask before a hospital that was lost is taken in again."""
        self._registrar = replace(self._registrar, may_return=may_return)

    def resume(
        self,
        addresses: Mapping[str, str],
        keys: Mapping[str, str],
        lost: LostHospitals = NOBODY,
        back: Returns = NO_RETURN,
    ) -> None:
        """Take a run over that has been started before, by a controller that is no more, and has
        gone on without those that are lost since, and again with those that were admitted; all
        mappings are by name.
        """
        admitted = frozenset(name for name, one in back.items() if not one.away)
        begun = self._registrar.resume(addresses, keys)
        self.state = replace(begun, lost=lost, back=back, admitted=admitted)
        self._heartbeats.hear(*addresses)

    def serve(self) -> End:
        """Lead one run from the first registration to its end, and return that end.

        Raises:
            RegistrationTimeout: hospitals are missing at the deadline.
            HopTimeout: no hospital has said a word for longer than any hop may take.
            HospitalLost: one gives no sign of life, and the run cannot or may not go on without it.
            CodeDiffers: hospitals compute with different code.

        """
        self._renew()
        while self.state.ended is None:
            try:
                message = self._wire.receive(self._wait())
            except NothingReceived:
                if self.watches and (self.look() or self._now() < self._deadline):
                    continue
                if self.conclude():
                    break
                raise self._end_with(self._late()) from None
            self.step(message)
        end = self.state.ended or End(FIRST_EPOCH, 0, "")
        if end.code == CodeDiffers.exit_code:
            raise CodeDiffers(end.reason, fix=FIX)
        if end.code == HospitalLost.exit_code:
            raise HospitalLost(end.reason, fix="see its log", key=("on_loss",))
        return end

    def _renew(self) -> None:
        self._deadline = self._now() + self._registrar.patience(self.state)

    def _wait(self) -> float:
        """Return how long to listen before the next look at who is silent."""
        left = self._deadline - self._now()
        return min(left, max(0.0, self._looked + LOOK_S - self._now())) if self.watches else left

    def look(self) -> bool:
        """Declare lost whoever has not registered in time, or given no sign of life for too long;
        tells whether there was anybody.
        """
        away, before = self._now() - self._looked, self.state
        self._looked = self._now()
        if not self.watches or before.ended:
            return False
        if away > self._registrar.scenario.on_loss.beat + LOOK_S:  # it stood still itself
            self._heartbeats.hear(*before.registered)
        if not before.opened:
            late = self._now() - self._began >= self._registrar.patience(before)
            turn = self._registrar.begin_without(before) if late else (before, [])
        else:
            silent = self._heartbeats.silent(before.away)
            turn = self._registrar.lose(before, silent) if silent else (before, [])
        self._take(turn)
        if self.state is not before:
            self._renew()
        return self.state is not before

    def give_up(self) -> None:
        """End the run if nothing was heard of it for as long as any hop may take."""
        if self._now() >= self._deadline and not self.conclude():
            self._end_with(self._late())

    def conclude(self) -> bool:
        """End the run as it was suspected to end, if it was, in the words of whoever is nearest to
        the culprit; tell whether it has.
        """
        suspected = self.state.suspected
        if suspected is None or self.state.ended:
            return False
        if self._in_vain:
            near = min(self._in_vain, key=self._distance)
            reason = f"{near.hospital!r} failed: {near.reason}"
            stop = self._awaited(near.hospital)
            if stop and (where := self._lost_with(stop.model)[0]):
                reason = f"{where}; {reason}"
            suspected = End(suspected.epoch, near.code, reason)
        self._take(self._registrar.end(self.state, suspected))
        return True

    def _distance(self, word: Failed) -> tuple[int, int, int]:
        """Return how far behind the culprit somebody waits in vain: further on in the ring is
        further away, and who starts to wait first is no sign of it on a busy machine. Nobody is
        nearer than who has sent a model that is never confirmed.
        """
        if word.code == AcknowledgementTimeout.exit_code:
            return 0, 0, 0
        ring = self._registrar.topology
        stop = self._awaited(word.hospital)
        if stop is None:
            return ring.evaluation_round + 1, 0, 0
        tour = ring.seating(stop.round).places[stop.model] if ring.one_by_one(stop.round) else 0
        return stop.round, tour, stop.hop

    def _awaited(self, hospital: str) -> Stop | None:
        """Return the stop to which a hospital comes next, as far as it has told."""
        program = Program(self._registrar.topology, hospital)
        steps = map(program.at, range(self._reached.get(hospital, -1) + 1, len(program)))
        return next((step.stop for step in steps if step and step.stop), None)

    def _lost_with(self, model: str) -> tuple[str, str]:
        """Return where a model was, as far as was told, if its host is lost and so is the one
        before or the next one, and what would save it; '' if not. Whoever was lost by then is
        passed by.

        Only two have a model: its host and the one that sent it there.
        """
        ring = self._registrar.topology
        if model not in self._seen or not ring.travels(model):
            return "", ""
        seen, away = self._seen[model]
        ahead = [(seen.round, hop) for hop in ring.hops(seen.round) if hop > seen.hop]
        if seen.round < ring.evaluation_round:
            ahead += [(seen.round + 1, hop) for hop in ring.hops(seen.round + 1)]
        behind = [ring.stop(model, seen.round, hop).host for hop in range(seen.hop - 1, 0, -1)]
        behind += [model] if seen.hop else []
        near = [host for host in behind if host not in away][:1]
        near += [host for at in ahead if (host := ring.stop(model, *at).host) not in away][:1]
        lost = [host for host in near if host in self.state.away and host != seen.hospital]
        if not lost or seen.hospital not in self.state.away:
            return "", ""
        text = f"the model of {model!r} was at {seen.hospital!r}, lost, as is "
        text += " and ".join(map(repr, dict.fromkeys(lost)))
        left = [f"{host!r} has it" for host in near if host not in self.state.away]
        return text, " or ".join([*left, *(() if seen.hop else ["it has not set out"])])

    def _tell_of_models(self) -> None:
        """Say, once, whose models may be gone with those that are lost."""
        for model in self._registrar.topology.names:
            text, doubt = self._lost_with(model)
            if not text:
                continue
            wait = self._registrar.scenario.timeouts.hop
            there = f"unless {doubt}, " if doubt else ""
            text += f": {there}the run ends once another has waited {wait:g} s for it"
            if self._told.get(model) != text:
                self._told[model] = text
                self._log.event(events.WaitingEvent(text))

    def step(self, message: ToController | Unwelcome) -> bool:
        """Handle one hospital's word; tells whether it is one that a member of the run would say.

        News put off the time at which nothing was heard for too long.
        """
        suspected = self.state.suspected
        known = isinstance(message, Done) and message.hospital in self.state.done
        if isinstance(message, Unwelcome):
            *what, foreign = message
            turn = refuse(self._registrar, self.state, Rejected(*what), foreign=foreign)
        else:
            turn = self._registrar.step(self.state, message)
            if message.hospital in self.state.registered:
                self._heartbeats.hear(message.hospital)
        self._take(turn)
        fits = not any(isinstance(effect, Rejected) for effect in turn[1])
        rejoining = not isinstance(message, Unwelcome) and message.hospital in self.state.rejoining
        news = fits and not (known or rejoining or isinstance(message, Alive | Holds))
        if news and self._registrar.complete(self.state) and not suspected:
            self._renew()
        if self.watches and self._now() >= self._looked + LOOK_S:
            self.look()
        return fits

    def _take(self, turn: ControllerTurn) -> None:
        self.state, effects = turn
        for effect in effects:
            self._carry_out(effect)

    def _carry_out(self, effect: ControllerEffect) -> None:
        match effect:
            case Say(to, message):
                self._wire.send(to, message)
            case Opening():
                self._opening()
            case Opened(hospitals):
                self._heartbeats.hear(*self.state.registered)
                self._log.event(events.StartEvent(hospitals))
            case Declared(epoch, lost):
                self._log.event(events.LostEvent(epoch, dict(lost)))
                self._tell_of_models()
                self._losing(self.state.lost, self.state.returned)
            case Admitted(epoch, hospital, round_):
                self._heartbeats.hear(hospital)
                self._log.event(events.BackEvent(epoch, hospital, round_))
                self._losing(self.state.lost, self.state.returned)
            case Closed(end):
                self._log.event(events.EndEvent(end.code, end.reason))
            case Rejected(hospital, reason):
                if hospital in self._registrar.scenario.names:
                    self._refused[hospital] = reason
                line = self._refusals.line(hospital, reason)
                if line is not None:
                    self._log.event(events.Refused(hospital, line))
            case Noted(Register(_, _, hospital, address, _, metrics)):
                if self._registrations.line(hospital, address) is not None:
                    self._log.event(events.Registered(hospital, address, metrics))
            case Noted(Progress(_, hospital, model, round_, hop, accuracy) as progress):
                last = self._seen[model][0] if model in self._seen else progress
                if (round_, hop) >= (last.round, last.hop):
                    self._seen[model] = progress, frozenset(self.state.away)
                if self._advances(progress):
                    self._log.event(events.ProgressEvent(hospital, model, round_, hop, accuracy))
            case Noted(Failed(_, hospital, code, reason) as failed):
                self._in_vain += [failed] if code in CONSEQUENCES else []
                self._log.event(events.FailedEvent(hospital, code, reason))

    def _advances(self, progress: Progress) -> bool:
        """Return whether a step is behind the last one of its hospital: however often it is said,
        the log has every step once.
        """
        place = self._registrar.place(progress)
        if place is None or place <= self._reached.get(progress.hospital, -1):
            return False
        self._reached[progress.hospital] = place
        return True

    def _late(self) -> FedskdError:
        """Return who is missing; of whom something was refused may be of another version."""
        error = self._registrar.late(self.state)
        told = "; ".join(f"{name}: {why}" for name, why in self._refused.items())
        if told and not self._registrar.complete(self.state):
            error.message += f", and what came was refused ({told})"
            error.fix, error.key = bad("").fix, ()
        return error

    def _end_with(self, error: FedskdError) -> FedskdError:
        self._take(
            self._registrar.end(self.state, End(FIRST_EPOCH, error.exit_code, error.message))
        )
        return error
