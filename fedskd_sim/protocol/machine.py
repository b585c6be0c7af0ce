"""A hospital's part in a run: `HospitalMachine.step` takes a state and an event and gives the next
state and what to carry out.

The way of a model: `ModelArrived` -> it is judged, persisted, acknowledged -> when its turn comes,
`Work` -> `ModelReleased`: what goes on is sent, and kept until its receiver has it safe ->
`StepFinished`: state and record are persisted together, and the next step begins.

A sender whose model is here already, or has no room here, is told so. A hospital that has gone
through its program takes its leave; the controller's word, an error, or a wait that is over ends
its part before its time.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedskd_sim.errors import HopTimeout, LeftBehind, RunAborted
from fedskd_sim.messages import Ack, Done, Failed, HopId, Later, Progress, Ready
from fedskd_sim.protocol import delivery, losses
from fedskd_sim.protocol.delivery import Judgement, following, judge
from fedskd_sim.protocol.effects import (
    Call,
    Effect,
    Fail,
    Join,
    Leave,
    Persist,
    Refuse,
    Reply,
    Tell,
    Turn,
    Wait,
    Work,
    count_rollbacks,
    left_behind,
    never_arrived,
    never_started,
)
from fedskd_sim.protocol.events import (
    Acked,
    Again,
    Beat,
    Begun,
    Broke,
    Deferred,
    Ended,
    Event,
    Goodbye,
    Healed,
    Joined,
    Knocked,
    Model,
    ModelArrived,
    ModelReleased,
    Overdue,
    PassedOn,
    Repeated,
    StepFinished,
    TooLate,
    Unanswered,
    Wanted,
)
from fedskd_sim.protocol.losses import Healer
from fedskd_sim.protocol.state import RECENT, REGISTER_AGAIN_S, State, Terms, without
from fedskd_sim.records import Record
from fedskd_sim.ring.program import Program
from fedskd_sim.ring.topology import Stop, Topology

TRIES = 3
"""A word or its answer may get lost: so many without an answer mean that the controller is gone."""


def say_done(state: State, effects: list[Effect], program: Program, terms: Terms) -> Turn:
    """Report to the controller that everything is done, once it is and what was sent has arrived;
    who comes back after that sends nothing more.

    Nothing is added while steps are left, something is under way, or it was said already.
    """
    over = state.over or state.done or state.outbox or not state.joined
    if over or program.at(state.cursor) is not None:
        return state, effects
    done = Tell(Done(program.topology.epoch, program.host))
    told: list[Effect] = [Persist(), done, Wait(terms.goodbye, Goodbye())]
    return state._replace(done=True), effects + told


def stay(state: State, program: Program, terms: Terms) -> Turn:
    """Stay while the controller answers: others may need to hear again that something is here.

    Called whenever the timer of the last word is over: it asks again, or leaves after `TRIES` words
    without an answer, and at the latest when nobody can wait any more.

    Not for ever: who was to end the run may wait in vain itself.
    """
    most = (2 * terms.hop + terms.acknowledgement) / terms.goodbye
    if state.unanswered >= TRIES or state.asked > most:
        return state._replace(over=True), [Leave("no word from the controller")]
    again = Tell(Done(program.topology.epoch, program.host))
    state = state._replace(unanswered=state.unanswered + 1, asked=state.asked + 1)
    return state, [again, Wait(terms.goodbye, Goodbye())]


def arrive_again(
    state: State, event: ModelArrived | Knocked | Repeated, *, relayed: bool
) -> Effect:
    """Acknowledge again that a model is here; if it is not the same as the one that came first,
    refuse it.

    A digest that is not known on one of the sides is taken for the same.

    Where it is ``relayed``, since the host in between is lost, it may be another: as it was before
    that host, which may have sent its own before it was lost.
    """
    digest = (
        event.model.digest
        if isinstance(event, ModelArrived)
        else event.digest
        if isinstance(event, Repeated)
        else ""
    )
    known = (
        state.waiting[event.hop].digest
        if event.hop in state.waiting
        else state.recent.get(event.hop, "")
    )
    if digest and known and digest != known and not relayed:
        text = f"another model (digest {digest}) than the one that came first (digest {known})"
        return Refuse(event.sender, event.hop, text)
    return Reply(event.sender, Ack(event.hop))


def call_waiting(state: State, program: Program, terms: Terms) -> list[Effect]:
    """Ask for a model that was told to wait, the one that is needed first, if there is room now: a
    step has begun, say.

    One call at most, or none; the model stays among the deferred until it arrives.
    """
    positions = {
        hop: program.position(hop.model, hop.round, hop.hop) or 0 for hop in state.deferred
    }
    for hop in sorted(positions, key=lambda one: positions[one])[:1]:
        if judge(program, terms, state, hop, state.deferred[hop]).take:
            return [Reply(state.deferred[hop], Ready(hop))]
    return []


def interrupt(state: State, event: Event, program: Program, terms: Terms) -> Turn:
    """Handle what comes in between; the last effect is `Fail` if it is the end.

    The controller's end, an error from outside, and timers: an event that no longer matters gives
    the state as it was and no effects.
    """
    name = program.host
    match event:
        case Ended(LeftBehind.exit_code):
            return state, [Fail(left_behind(name))]
        case Ended(code, reason) if code:
            error = RunAborted(reason, fix="see the first error of the run")
            error.second_hand = True
            return state, [Fail(error)]
        case Ended() if program.at(state.cursor) is None:
            return state._replace(over=True), [Leave("the run has ended")]
        case Ended():
            return state._replace(ended=True), []
        case Broke(error):
            return state, [Fail(error)]
        case Again() if not state.joined:
            return losses.register_again(state, name, terms)
        case TooLate() if not state.joined and name not in state.lost:
            return state, [Fail(never_started(terms))]
        case Overdue(index, _) if index == state.cursor and not state.working:
            return state, [Fail(missing(state, program, terms))]
        case Goodbye() if state.done:
            return stay(state, program, terms)
    return state, []


def stop_on_failure(state: State, effects: list[Effect], program: Program) -> Turn:
    """If the last effect is an error, tell the controller before it, unless it was the
    controller's word, and stop.

    Effects before the error stay: a record that is to be kept is kept. Without an error at the end
    nothing is changed.
    """
    last = effects[-1] if effects else None
    if not isinstance(last, Fail):
        return state, effects
    error = last.error
    word = Failed(program.topology.epoch, program.host, error.exit_code, error.message)
    told = [] if error.second_hand else [Tell(word)]
    return state._replace(over=True), [*effects[:-1], *told, last]


def waiting_time(state: State, program: Program, terms: Terms) -> float:
    """Return the seconds to wait for a model; who has come back may be early by a round.

    ``timeouts.hop``, times the sessions of others that may come first, see `Topology.patience`.

    >>> terms = Terms("run", 60, 600, 120, 10, 5, inbox=2, max_rollbacks=3)
    >>> program = Program(Topology(("a", "b"), rounds=1), "a")
    >>> waiting_time(State(), program, terms)
    600
    >>> waiting_time(State(lost={"a": 0}), program, terms)
    1800

    """
    topology = program.topology
    returned = len(topology.hops(1)) + 1 if program.host in state.lost else 1
    return terms.hop * topology.patience(program.host) * returned


def missing(state: State, program: Program, terms: Terms) -> HopTimeout:
    """Return the error that names what a hospital has waited for in vain.

    Called when `waiting_time` is over; it names the hospital that should have sent it.
    """
    routes = state.routes(program.topology)
    stop = following(program, routes, state.cursor)
    sender = routes.sender(stop) if stop else ""
    return never_arrived(program.host, stop, sender, waiting_time(state, program, terms))


@dataclass(frozen=True)
class HospitalMachine:
    """What a hospital knows from the beginning; its state is handed in and out.

    >>> terms = Terms("run", 60, 600, 120, 10, 5, inbox=2, max_rollbacks=3)
    >>> machine = HospitalMachine.of(Topology(("a", "b"), rounds=1), "a", terms)
    >>> state, effects = machine.step(State(), Begun())
    >>> [type(one).__name__ for one in effects]
    ['Join', 'Wait', 'Wait']
    >>> state, effects = machine.step(state, Joined())
    >>> effects[0].step
    Step(action='warm_up', round=0, stop=None)
    >>> state, effects = machine.step(state, StepFinished(0, record=None))
    >>> effects[-1].step
    Step(action='depart', round=1, stop=None)
    >>> state, effects = machine.step(state, ModelReleased(1, Model(1)))
    >>> effects[0].to, effects[0].hop
    ('b', HopId(run='run', epoch=1, model='a', round=1, hop=1))

    """

    topology: Topology
    program: Program
    terms: Terms

    @classmethod
    def of(cls, topology: Topology, name: str, terms: Terms) -> HospitalMachine:
        """Return the machine of a hospital."""
        return cls(topology, Program(topology, name), terms)

    @property
    def name(self) -> str:
        """The hospital's name."""
        return self.program.host

    def step(self, state: State, event: Event) -> Turn:
        """Return the state after an event, and what it asks for; an event that no longer matters
        changes nothing.
        """
        if state.over or (isinstance(event, Overdue) and state.is_past(event)):
            return state, []
        match event:
            case ModelArrived() | Knocked() | Repeated():
                return self._on_visit(state, event)
            case ModelReleased(index, model):
                return self._on_release(state, index, model)
            case StepFinished(index, record):
                return self._on_finish(state, index, record)
            case Acked() | Deferred() | Wanted() | Unanswered():
                return self._on_answer(state, event)
            case PassedOn(hop, by):
                return self._healer.release(state, hop, by), []
            case Healed():
                return self._on_epoch(state, event)
            case Begun(again):
                return self._on_begin(state._replace(again=again))
            case Joined():
                return self._on_joined(state)
            case Beat(number):
                return state, self._healer.beat(state, number)
            case _:
                interrupted = interrupt(state, event, self.program, self.terms)
                return self._failing(*interrupted)

    def judge(self, state: State, hop: HopId, sender: str) -> Judgement:
        """Return what is to be done with a model that is announced, before its weights are taken
        in.
        """
        return judge(self.program, self.terms, state, hop, sender)

    def hop_id(self, stop: Stop) -> HopId:
        """Return the identity of a stop's hop.

        Messages and files name a model on its way by it.
        """
        return HopId(self.terms.run, self.topology.epoch, stop.model, stop.round, stop.hop)

    def needs(self, state: State, hop: HopId) -> bool:
        """Return whether a model is the next one that is hosted here.

        Such a model comes in before others, however many wait.

        >>> terms = Terms("run", 60, 600, 120, 10, 5, inbox=2, max_rollbacks=3)
        >>> machine = HospitalMachine.of(Topology(("a", "b", "c"), rounds=1), "a", terms)
        >>> machine.needs(State(), HopId("run", 1, "c", 1, 1))
        True
        >>> machine.needs(State(), HopId("run", 1, "b", 1, 2))
        False

        """
        stop = self.next_stop(state)
        return stop is not None and self.hop_id(stop) == hop

    def next_stop(self, state: State) -> Stop | None:
        """Return the next stop here that is not over.

        None where nothing more is hosted here.
        """
        return following(self.program, state.routes(self.topology), state.cursor)

    @property
    def _healer(self) -> Healer:
        return Healer(self.program, self.terms)

    def _on_begin(self, state: State) -> Turn:
        state = state._replace(
            joined=False, working=False, released=False, parting=None, deferred={}, done=False,
            asked=0, unanswered=0, ended=False, beats=False
        )  # fmt: skip
        rejoining = losses.is_rejoining(state, self.program)
        state, beats = self._healer.begin_to_beat(state) if rejoining else (state, [])
        again = Wait(REGISTER_AGAIN_S if rejoining else self.terms.register_again, Again())
        return state, [Join(), again, Wait(self.terms.register, TooLate()), *beats]

    def _on_joined(self, state: State) -> Turn:
        if state.joined or losses.is_rejoining(state, self.program):
            return state._replace(unanswered=0), []
        state, effects = delivery.resume(state._replace(joined=True), self.terms)
        state, beats = self._healer.begin_to_beat(state)
        state, effects = self._advance(state, [*effects, *beats])
        return self._call_waiting(state, [*effects, *self._calls(state)])

    def _calls(self, state: State) -> list[Effect]:
        """Call for the model that a later life waits for: its sender would wait for an answer,
        twice as long each time.
        """
        stop = self.next_stop(state) if state.again else None
        if stop is None or self.hop_id(stop) in state.waiting:
            return []
        return [Call(state.routes(self.topology).sender(stop), self.hop_id(stop))]

    def _on_answer(self, state: State, event: Acked | Deferred | Wanted | Unanswered) -> Turn:
        """Handle an answer about a model that has left, or that there was none."""
        departure = state.outbox.get(event.hop)
        if departure is None:
            return state, []
        state, effects = delivery.step(state, event, self.terms)
        if self.terms.heals and event.hop not in state.outbox:
            state, told = self._healer.keep(state, event.hop, departure)
            effects = [*effects, *told]
        return self._leaving(*self._failing(state, effects))

    def _on_epoch(self, state: State, word: Healed) -> Turn:
        """Go on without hospitals that the controller has declared lost, or with them again."""
        state = state._replace(unanswered=0)
        healed, effects = self._healer.heal(state, word)
        effects += losses.answer(healed, self.program, word)
        if healed is state:
            return state, effects
        return self._call_waiting(*self._advance(healed, effects))

    def _on_visit(self, state: State, event: ModelArrived | Knocked | Repeated) -> Turn:
        """Judge a model: keep it and say so, in this order; or ask for patience, say again that
        it is here, or refuse it.
        """
        hop, sender = event.hop, event.sender
        verdict = self.judge(state, hop, sender)
        if verdict.reason:
            return state, [Refuse(sender, hop, verdict.reason)]
        if isinstance(event, ModelArrived) and verdict.take:
            state = state._replace(
                waiting={**state.waiting, hop: event.model}, deferred=without(state.deferred, hop)
            )
            return self._call_waiting(*self._advance(state, [Persist(), Reply(sender, Ack(hop))]))
        if verdict.later or (isinstance(event, Knocked) and event.crowded and verdict.take):
            return state._replace(deferred={**state.deferred, hop: sender}), [
                Reply(sender, Later(hop))
            ]
        if verdict.take:
            return state, [Reply(sender, Ready(hop))]
        stop = self.topology.stop(hop.model, hop.round, hop.hop)
        relayed = state.routes(self.topology).sender(stop) != self.topology.sender(stop)
        return state, [arrive_again(state, event, relayed=relayed)]

    def _on_release(self, state: State, index: int, model: Model) -> Turn:
        step = self.program.at(index)
        if not state.working or state.released or index != state.cursor or step is None:
            return state, []
        routes = state.routes(self.topology)
        if step.round and routes.away(self.name, step.round):
            onward = None
        elif step.action == "depart":
            onward = routes.departure(self.name, step.round)
        else:
            onward = routes.onward(step.stop) if step.stop else None
        state = state._replace(released=True)
        if onward is None:
            return state, []
        arrived = step.stop and state.waiting.get(self.hop_id(step.stop))
        if self.terms.repeatable or model == arrived:
            return self._depart(state, onward, model)
        return state._replace(parting=(onward, model)), []

    def _depart(self, state: State, onward: Stop, model: Model) -> Turn:
        """Send a model to its next stop."""
        stop = state.routes(self.topology).next_living(onward) if state.lost else onward
        if stop is None:
            return state, []
        return self._healer.depart(state, stop, self.hop_id(stop), model)

    def _on_finish(self, state: State, index: int, record: Record | None) -> Turn:
        step = self.program.at(index)
        if not state.working or index != state.cursor or step is None:
            return state, []
        state = state._replace(working=False, released=False, cursor=index + 1)
        if step.stop:
            state = self._forget_hosted(state, self.hop_id(step.stop))
        sent: list[Effect] = []
        if state.parting:
            state, sent = self._depart(state._replace(parting=None), *state.parting)
        effects: list[Effect] = []
        if record and state.lost:
            record = losses.marked(record, state.routes(self.topology))
        if record:
            most = self.terms.max_rollbacks
            state, error = count_rollbacks(self.name, most, state, record)
            accuracy = record.measures["accuracy"].mean if "accuracy" in record.measures else 0.0
            told = Progress(
                self.topology.epoch, self.name, record.model, record.round, record.hop, accuracy
            )
            effects = [Persist(record), *sent, Tell(told)]
            if error:
                return self._failing(state, [*effects, Fail(error)])
        else:
            effects = [Persist(), *sent]
        return self._call_waiting(*self._advance(state, effects))

    def _forget_hosted(self, state: State, hop: HopId) -> State:
        """Forget a model that was hosted, but for its digest."""
        recent = dict(list(state.recent.items())[1 - RECENT :]) | {hop: state.waiting[hop].digest}
        return state._replace(waiting=without(state.waiting, hop), recent=recent)

    def _call_waiting(self, state: State, effects: list[Effect]) -> Turn:
        """Ask for a model that was told to wait, if there is room now."""
        return state, [*effects, *call_waiting(state, self.program, self.terms)]

    def _advance(self, state: State, effects: list[Effect]) -> Turn:
        """Begin the step at the cursor if it can begin."""
        if state.working or not state.joined:
            return state, effects
        step, routes = self.program.at(state.cursor), state.routes(self.topology)
        # steps whose model is lost, or that a lost hospital would have taken, are done with
        while step and losses.passes_over(routes, self.name, step):
            if step.stop:
                waiting = without(state.waiting, self.hop_id(step.stop))
                state = state._replace(waiting=waiting)
            state = state._replace(cursor=state.cursor + 1)
            step = self.program.at(state.cursor)
        if step is None:
            return self._leaving(state, effects)
        model = None
        if step.stop:
            hop = self.hop_id(step.stop)
            model = state.waiting.get(hop)
            if model is None:
                patience = waiting_time(state, self.program, self.terms)
                return state, [*effects, Wait(patience, Overdue(state.cursor, state.epoch))]
        state = state._replace(working=True)
        # an evaluation changes nothing, so that the model goes on while it is tested
        if step.stop and step.stop.kind == "evaluation" and model:
            state, sent = self._on_release(state, state.cursor, model)
            effects = effects + sent
        return state, [
            *effects,
            Work(state.cursor, step, model, following(self.program, routes, state.cursor + 1)),
        ]

    def _leaving(self, state: State, effects: list[Effect]) -> Turn:
        """Report to the controller that everything is done, once it is."""
        return say_done(state, effects, self.program, self.terms)

    def missing(self, state: State) -> HopTimeout:
        """Return the error that names what this hospital has waited for in vain."""
        return missing(state, self.program, self.terms)

    def _failing(self, state: State, effects: list[Effect]) -> Turn:
        return stop_on_failure(state, effects, self.program)
