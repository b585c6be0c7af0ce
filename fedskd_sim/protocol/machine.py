"""A hospital's part in a run: `HospitalMachine.step` takes a state and an event and gives the next
state and what to carry out.

The way of a model: `ModelArrived` -> it is judged, persisted, acknowledged -> when its turn comes,
`Work` -> `ModelReleased`: what goes on is sent, and kept until its receiver has it safe ->
`StepFinished`: state and record are persisted together, and the next step begins.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedskd_sim.errors import (
    FedskdError,
    HopTimeout,
    NonFiniteLoss,
    RegistrationTimeout,
    RunAborted,
)
from fedskd_sim.messages import Ack, Done, Failed, HopId, Later, Progress, Ready
from fedskd_sim.program import Program
from fedskd_sim.protocol import delivery
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
    Wait,
    Work,
)
from fedskd_sim.protocol.events import (
    Acked,
    Again,
    Begun,
    Broke,
    Deferred,
    Ended,
    Event,
    Goodbye,
    Joined,
    Knocked,
    Model,
    ModelArrived,
    ModelReleased,
    Overdue,
    Repeated,
    StepFinished,
    TooLate,
    Unanswered,
    Wanted,
)
from fedskd_sim.protocol.judge import Judgement, judge
from fedskd_sim.protocol.state import RECENT, REGISTER_AGAIN_S, State, Terms, without
from fedskd_sim.records import Record
from fedskd_sim.topology import Stop, Topology

Turn = tuple[State, list[Effect]]


@dataclass(frozen=True)
class HospitalMachine:
    """What a hospital knows from the beginning; its state is handed in and out."""

    topology: Topology
    program: Program
    terms: Terms

    @classmethod
    def of(cls, topology: Topology, name: str, terms: Terms) -> HospitalMachine:
        """Give the machine of a hospital."""
        return cls(topology, Program(topology, name), terms)

    @property
    def name(self) -> str:
        """The hospital's name."""
        return self.program.host

    def step(self, state: State, event: Event) -> Turn:
        """Give the state after an event, and what it asks for; an event that no longer matters
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
                if event.hop not in state.outbox:
                    return state, []
                state, effects = delivery.step(state, event, self.terms)
                return self._leaving(*self._failing(state, effects))
            case Begun(again):
                return self._on_begin(state._replace(again=again))
            case Joined():
                return self._on_joined(state)
            case _:
                return self._on_interruption(state, event)

    def judge(self, state: State, hop: HopId, sender: str) -> Judgement:
        """Say what is to be done with a model that is announced, before its weights are taken
        in.
        """
        return judge(self.program, self.terms, state, hop, sender)

    def hop_id(self, stop: Stop) -> HopId:
        """Give the identity of a stop's hop."""
        return HopId(self.terms.run, self.topology.epoch, stop.model, stop.round, stop.hop)

    def needs(self, state: State, hop: HopId) -> bool:
        """Tell whether a model is the next one that is hosted here."""
        stop = self.next_stop(state)
        return stop is not None and self.hop_id(stop) == hop

    def next_stop(self, state: State) -> Stop | None:
        """Give the next stop here that is not over."""
        return self.program.following(state.cursor - 1)

    def _on_begin(self, state: State) -> Turn:
        state = state._replace(
            joined=False, working=False, released=False, parting=None, deferred={}, done=False,
            ended=False
        )  # fmt: skip
        return state, [
            Join(),
            Wait(REGISTER_AGAIN_S, Again()),
            Wait(self.terms.register, TooLate()),
        ]

    def _on_joined(self, state: State) -> Turn:
        if state.joined:
            return state, []
        state, effects = delivery.resume(state._replace(joined=True), self.terms)
        state, effects = self._advance(state, effects)
        return state, [*effects, *self._calls(state)]

    def _calls(self, state: State) -> list[Effect]:
        """Call for the model that a later life waits for: its sender would wait for an answer,
        twice as long each time.
        """
        stop = self.next_stop(state) if state.again else None
        if stop is None or self.hop_id(stop) in state.waiting:
            return []
        return [Call(self.topology.sender(stop), self.hop_id(stop))]

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
        return state, [self._again(state, event)]

    def _again(self, state: State, event: ModelArrived | Knocked | Repeated) -> Effect:
        """Say again that a model is here; if it is not the same as the one that came first,
        refuse it.
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
        if digest and known and digest != known:
            text = f"another model (digest {digest}) than the one that came first (digest {known})"
            return Refuse(event.sender, event.hop, text)
        return Reply(event.sender, Ack(event.hop))

    def _on_release(self, state: State, index: int, model: Model) -> Turn:
        step = self.program.at(index)
        if not state.working or state.released or index != state.cursor or step is None:
            return state, []
        if step.action == "depart":
            onward: Stop | None = self.topology.stop(self.name, step.round, 1)
        else:
            onward = self.topology.onward(step.stop) if step.stop else None
        state = state._replace(released=True)
        if onward is None:
            return state, []
        arrived = step.stop and state.waiting.get(self.hop_id(step.stop))
        if self.terms.repeatable or model == arrived:
            return delivery.send(state, onward.host, self.hop_id(onward), model, self.terms)
        return state._replace(parting=(onward.host, self.hop_id(onward), model)), []

    def _on_finish(self, state: State, index: int, record: Record | None) -> Turn:
        step = self.program.at(index)
        if not state.working or index != state.cursor or step is None:
            return state, []
        state = state._replace(working=False, released=False, cursor=index + 1)
        if step.stop:
            state = self._forget_hosted(state, self.hop_id(step.stop))
        sent: list[Effect] = []
        if state.parting:
            state, sent = delivery.send(state._replace(parting=None), *state.parting, self.terms)
        effects: list[Effect] = []
        if record:
            state, error = self._count_rollbacks(state, record)
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

    def _count_rollbacks(self, state: State, record: Record) -> tuple[State, FedskdError | None]:
        """Count sessions in a row that were undone; too many are an error."""
        if record.outcome in ("evaluated", "passed"):
            return state, None
        state = state._replace(
            rollbacks=state.rollbacks + 1 if record.outcome == "rolled_back" else 0
        )
        if state.rollbacks < self.terms.max_rollbacks:
            return state, None
        text = f"{self.name!r} rolled back {state.rollbacks} sessions in a row: {record.reason}"
        fix = "lower training.optimiser.learning_rate, or look at the data"
        return state, NonFiniteLoss(text, fix=fix, key=("training", "max_rollbacks"))

    def _call_waiting(self, state: State, effects: list[Effect]) -> Turn:
        """Ask for a model that was told to wait, the one that is needed first, if there is room
        now: a step has begun, say.
        """
        positions = {
            hop: self.program.position(hop.model, hop.round, hop.hop) or 0 for hop in state.deferred
        }
        for hop in sorted(positions, key=lambda one: positions[one])[:1]:
            if self.judge(state, hop, state.deferred[hop]).take:
                return state, [*effects, Reply(state.deferred[hop], Ready(hop))]
        return state, effects

    def _advance(self, state: State, effects: list[Effect]) -> Turn:
        """Begin the step at the cursor if it can begin."""
        if state.working or not state.joined:
            return state, effects
        step = self.program.at(state.cursor)
        if step is None:
            return self._leaving(state, effects)
        model = None
        if step.stop:
            hop = self.hop_id(step.stop)
            model = state.waiting.get(hop)
            if model is None:
                return state, [*effects, Wait(self._patience, Overdue(state.cursor))]
        state = state._replace(working=True)
        if step.stop and step.stop.kind == "evaluation" and model:
            state, sent = self._on_release(state, state.cursor, model)
            effects = effects + sent
        return state, [
            *effects,
            Work(state.cursor, step, model, self.program.following(state.cursor)),
        ]

    def _leaving(self, state: State, effects: list[Effect]) -> Turn:
        """Say that everything is done once it is and what was sent has arrived; who comes back
        after that sends nothing more.
        """
        if (
            state.over
            or state.done
            or state.outbox
            or not state.joined
            or self.program.at(state.cursor) is not None
        ):
            return state, effects
        told: list[Effect] = [
            Persist(),
            Tell(Done(self.topology.epoch, self.name)),
            Wait(self.terms.goodbye, Goodbye()),
        ]
        return state._replace(done=True), effects + told

    @property
    def _patience(self) -> float:
        """Give the seconds to wait for a model."""
        return self.terms.hop * self.topology.patience(self.name)

    def _on_interruption(self, state: State, event: Event) -> Turn:
        """Handle the controller's word, an error, or a wait that is over."""
        match event:
            case Ended(code, reason) if code:
                error = RunAborted(reason, fix="see the first error of the run")
                error.second_hand = True
                return self._failing(state, [Fail(error)])
            case Ended() if self.program.at(state.cursor) is None:
                return state._replace(over=True), [Leave("the run has ended")]
            case Ended():
                return state._replace(ended=True), []
            case Broke(error):
                return self._failing(state, [Fail(error)])
            case Again() if not state.joined:
                return state, [Join(), Wait(REGISTER_AGAIN_S, Again())]
            case TooLate() if not state.joined:
                text = f"the controller did not start the run within {self.terms.register:g} s"
                late = RegistrationTimeout(
                    text, fix="see the controller's log", key=("timeouts", "register")
                )
                return self._failing(state, [Fail(late)])
            case Overdue(index) if index == state.cursor and not state.working:
                return self._failing(state, [Fail(self.missing(state))])
            case Goodbye() if state.done:
                return state._replace(over=True), [Leave("no word from the controller")]
        return state, []

    def missing(self, state: State) -> HopTimeout:
        """Say what this hospital has waited for in vain."""
        stop = self.next_stop(state)
        if stop is None:
            return HopTimeout(f"{self.name!r} waits for nothing")
        text = (
            f"{self.name!r} waited {self._patience:g} s for the model of {stop.model!r} "
            f"(round {stop.round}, hop {stop.hop}), which {self.topology.sender(stop)!r} should "
            "have sent"
        )
        fix = (
            "look at the log of the hospital that should have sent it; if its sessions are slow, "
            "raise timeouts.hop"
        )
        error = HopTimeout(text, fix=fix, key=("timeouts", "hop"))
        error.stop = (stop.round, stop.hop)
        return error

    def _failing(self, state: State, effects: list[Effect]) -> Turn:
        """If the last effect is an error, tell the controller before it, unless it was the
        controller's word, and stop.
        """
        last = effects[-1] if effects else None
        if not isinstance(last, Fail):
            return state, effects
        error = last.error
        told = (
            []
            if error.second_hand
            else [Tell(Failed(self.topology.epoch, self.name, error.exit_code, error.message))]
        )
        return state._replace(over=True), [*effects[:-1], *told, last]
