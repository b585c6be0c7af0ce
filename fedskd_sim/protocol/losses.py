"""How a ring goes on without a hospital: who sent a model keeps it until it is safe one host
further, and sends it on if its host is lost.

No two hospitals need to hear of a loss at the same time. A hop means the same host in every epoch,
and a host takes each hop once: a model that comes twice, from the lost host while it still lived
and from whoever kept it, is taken once and acknowledged twice.

A hospital that was lost comes back at the beginning of a round. A *rejoining* hospital is one that
knows that the ring goes on without it. It does nothing, takes nothing in and sends nothing, and
says so (`Holds`). Then the controller, one return at a time, chooses a round R behind all of which
it has heard, and declares an epoch in which the rejoining one is back from R on. A hospital takes
that in only if it has begun nothing of round R or later and holds no model that goes there; from
then on, whatever it forgets by a death, it sends models of R to the rejoining one and believes
nobody who has passed the rejoining one by. It says so once that is in custody. When all have said
so that are not lost, of this same epoch, the rejoining one hears of it, which is its return. If one
cannot take it in, or anybody is lost meanwhile, the controller declares the rejoining one away
again, and tries a later round, or none.

So there are never two views of a stop. A model that passed the rejoining one by in round R or later
is at a hospital that has not agreed: whoever hosts it, or has it in its outbox, or has hosted it,
is past the beginning of R. It may be on its way from one that has died and forgotten that it sent
it: who agreed puts it off, for it did not come from the rejoining one. If its host was lost, a copy
is with whoever sent it there, who has not agreed either, or has forgotten it too and will send it
to the rejoining one. The rejoining one takes nothing in before all agree, so if they do not, what
was sent to it goes on as from any other lost hospital. If the controller dies in between, nobody is
misled: who comes to round R waits for the rejoining one, and a controller after it (`fedskd-sim
resume`) learns from the others how far it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from fedskd_sim.messages import Ack, Alive, Gone, Holds, HopId, Passed
from fedskd_sim.protocol import delivery
from fedskd_sim.protocol.delivery import judge
from fedskd_sim.protocol.effects import (
    Effect,
    Fail,
    Join,
    Persist,
    Reply,
    Tell,
    Turn,
    Wait,
    never_started,
)
from fedskd_sim.protocol.events import Again, Beat, Healed, Model
from fedskd_sim.protocol.state import REGISTER_AGAIN_S, Departure, State, Terms, without
from fedskd_sim.records import Record
from fedskd_sim.ring.program import Program, Step
from fedskd_sim.ring.routes import Returns, Routes, code, merged, merged_returns
from fedskd_sim.ring.topology import Stop


def is_rejoining(state: State, program: Program) -> bool:
    """Return whether a hospital knows that the ring goes on without it.

    Its own loss is in its state; it takes part again once it hears of its return.
    """
    return state.routes(program.topology).left_out(program.host)


def absence(state: State, name: str) -> int:
    """Number a hospital's absences and returns, as far as it knows of them itself.

    0: never lost. It grows with every loss and every return, so that a hospital notices that it was
    lost again.
    """
    return 1 + code(state.back.get(name)) if name in state.lost else 0


def reached(state: State, program: Program) -> int:
    """Return the last round of which a hospital has begun anything, or holds a model."""
    step, before = program.at(state.cursor), program.at(state.cursor - 1) if state.cursor else None
    if step is None:
        return program.topology.evaluation_round
    begun = step.round if state.working else before.round if before else 0
    rounds = [hop.round for hop in (*state.waiting, *state.outbox, *state.kept)]
    parting = [state.parting[0].round] if state.parting else []
    return max([begun, *rounds, *parting])


def believed(state: State, program: Program, word: Healed) -> Returns:
    """Return what a hospital can take in of the controller's word on returns: none from a round
    that it has reached; but a rejoining hospital's view binds nobody, until it is back itself.
    """
    far, host = reached(state, program), program.host
    rejoining = is_rejoining(state, program)
    known = {name: code(back) for name, back in state.back.items()}
    return {
        name: back
        for name, back in word.back.items()
        if back.away
        or code(back) <= known.get(name, 0)
        or far < back.round
        or (rejoining and name != host)
    }


def answer(state: State, program: Program, word: Healed) -> list[Effect]:
    """Answer whether an epoch is known here as it was told; nothing if more is known here."""
    told = Routes(program.topology, word.lost, word.back)
    if dict(told.lost) == dict(state.lost) and dict(told.back) == dict(state.back):
        return [Tell(Holds(word.number, program.host, reached(state, program)))]
    if any(code(back) > code(state.back.get(name)) for name, back in word.back.items()):
        return [Tell(Holds(0, program.host, reached(state, program)))]
    return []


def step_out(state: State) -> Turn:
    """Become rejoining: ask to be taken in again; the step under way ends, and nothing leaves."""
    effects: list[Effect] = [Persist(), Join()]
    if state.joined:
        effects.append(Wait(REGISTER_AGAIN_S, Again()))
    state = state._replace(
        outbox={}, kept={}, deferred={}, parting=None, joined=False, unanswered=0
    )
    return state, effects


def register_again(state: State, host: str, terms: Terms) -> Turn:
    """Ask again to be let in; who was lost gives up once the controller has said nothing for as
    long as one may wait for the start.
    """
    silence = state.unanswered * REGISTER_AGAIN_S
    if host in state.lost and silence >= terms.register:
        return state, [Fail(never_started(terms))]
    state = state._replace(unanswered=state.unanswered + (host in state.lost))
    pause = REGISTER_AGAIN_S if host in state.lost else terms.register_again
    return state, [Join(), Wait(pause, Again())]


def passes_over(routes: Routes, host: str, step: Step) -> bool:
    """Return whether nothing happens at a step of a hospital's program.

    Its stop is void, or no own model sets out; the cursor moves on without a record.
    """
    if step.stop:
        return routes.void(step.stop)
    return step.action == "depart" and routes.stays(host, step.round)


def marked(record: Record, routes: Routes) -> Record:
    """Name in a record who was left out in its round, and who is or will be back; or was, where the
    hospital itself is lost again, and nobody else names its return any more.
    """
    left_out: Mapping[str, int] = {
        name: retires
        for name, retires in routes.lost.items()
        if retires or routes.away(name, record.round)
    }
    back = {
        name: one.round
        for name, one in routes.back.items()
        if not one.away or (name == record.host and one.round <= record.round)
    }
    return replace(record, without=left_out, back=back)


class Healer(NamedTuple):
    """What a hospital does for those that are lost."""

    program: Program
    terms: Terms

    def keep(self, state: State, hop: HopId, departure: Departure) -> Turn:
        """Keep a model that has arrived until it is safe one host further, and tell its last host
        that it is so far.

        Of one model the latest departure is kept: the words that release the others may get lost.
        """
        routes = state.routes(self.program.topology)
        stop, host = _stop(routes, hop), self.program.host
        kept = {
            one: entry
            for one, entry in state.kept.items()
            if one.model != hop.model or _when(one) > _when(hop)
        }
        if routes.goes_on(stop) and not any(one.model == hop.model for one in kept):
            kept[hop] = departure
        was = routes.before(stop)
        told: list[Effect] = []
        if was is not None and was.host == host:
            word = Passed(hop._replace(round=was.round, hop=was.hop))
            told = [Reply(routes.sender(was), word)]
        return state._replace(kept=kept), told

    def release(self, state: State, hop: HopId, by: str) -> State:
        """Forget a model that its receiver has passed on.

        What was kept for somebody else than ``by``, or is not kept, stays as it is.
        """
        kept = state.kept.get(hop)
        if kept is None or kept.to != by:
            return state
        return state._replace(kept=without(state.kept, hop))

    def beat(self, state: State, number: int = 0) -> list[Effect]:
        """Send a sign of life, and set the timer of the next, where anybody watches for it.

        Each tells one of the losses that are known here, in turn, so that a new controller learns
        of all; where nobody asks for signs of life nothing is said.
        """
        if not self.terms.beat:
            return []
        known = sorted(state.lost.items()) or [("", 0)]
        name, retires = known[number % len(known)]
        back = code(state.back.get(name))
        alive = Alive(state.epoch, self.program.host, name, retires, back)
        missing = self._never_set_out(state, state.routes(self.program.topology))
        return [Tell(alive), *missing, Wait(self.terms.beat, Beat(number + 1))]

    def begin_to_beat(self, state: State) -> Turn:
        """Return signs of life from now on, if this life does not yet."""
        return state._replace(beats=True), [] if state.beats else self.beat(state)

    def depart(self, state: State, stop: Stop, hop: HopId, model: Model) -> Turn:
        """Send a model to a stop, which may be at the same hospital again."""
        if stop.host == self.program.host:
            if hop in state.waiting:
                return state, []
            return state._replace(waiting={**state.waiting, hop: model}), []
        return delivery.send(state, stop.host, hop, model, self.terms)

    def heal(self, state: State, word: Healed) -> Turn:
        """Go on without those that are lost: what was meant for them, or is with them, goes on from
        here; and with those that are back.
        """
        lost = merged(state.lost, word.lost)
        back = merged_returns(state.back, believed(state, self.program, word))
        if lost == state.lost and back == state.back:
            return state, []
        known, host = absence(state, self.program.host), self.program.host
        state = state._replace(lost=lost, back=back)
        routes = state.routes(self.program.topology)
        if routes.left_out(host):
            return self._stand_aside(state, known)
        # what no longer leads here goes, but for the step under way; so does what the lost offered
        waiting = {
            hop: model
            for hop, model in state.waiting.items()
            if not routes.void(_stop(routes, hop)) or self._at_work(state, hop)
        }
        deferred = {hop: to for hop, to in state.deferred.items() if not routes.away(to, hop.round)}
        state = state._replace(waiting=waiting, deferred=deferred)
        effects: list[Effect] = [Persist()]
        # what left for a lost hospital sets out again, to the next one that lives
        for hop, model in _stranded(state, routes):
            state, more = self._forward(state, hop, model, routes)
            effects += more
        # what somebody still offers may be a repeat now
        for hop, to in list(state.deferred.items()):
            if judge(self.program, self.terms, state, hop, to).repeat:
                state = state._replace(deferred=without(state.deferred, hop))
                effects.append(Reply(to, Ack(hop)))
        return state, effects + self._never_set_out(state, routes)  # and with every beat

    def _stand_aside(self, state: State, known: int) -> Turn:
        """Be rejoining; ``known`` is the absence of which this hospital knew before."""
        if known == absence(state, self.program.host):
            return state, [Persist()]
        at_work = {hop: one for hop, one in state.waiting.items() if self._at_work(state, hop)}
        state, effects = step_out(state._replace(waiting=at_work))
        state, beats = self.begin_to_beat(state)
        return state, [*effects, *beats]

    def _at_work(self, state: State, hop: HopId) -> bool:
        """Return whether a model is in the step that is under way, which will end."""
        here = self.program.position(hop.model, hop.round, hop.hop) == state.cursor
        return state.working and here

    def _forward(self, state: State, hop: HopId, model: Model, routes: Routes) -> Turn:
        state = state._replace(kept=without(state.kept, hop), outbox=without(state.outbox, hop))
        stop = routes.next_living(_stop(routes, hop))
        if stop is None:
            return state, []
        position = self.program.position(stop.model, stop.round, stop.hop)
        if stop.host == self.program.host and (position or 0) < state.cursor:
            return state, []
        onward = hop._replace(round=stop.round, hop=stop.hop)
        return self.depart(state, stop, onward, model)

    def _never_set_out(self, state: State, routes: Routes) -> list[Effect]:
        """Report whose model is nowhere: of a lost hospital's, its first host would have had it."""
        ring, host = routes.topology, self.program.host
        first = 1 if len(ring.hops(1)) else ring.evaluation_round
        told: list[Effect] = []
        for name, retires in state.lost.items() if not routes.left_out(host) else ():
            if not ring.travels(name) or 0 < retires <= first:
                continue
            stop = routes.next_living(ring.stop(name, first, 1))
            if stop is None or stop.host != host:
                continue
            position = self.program.position(stop.model, stop.round, stop.hop) or 0
            here = any(_stop(routes, hop) == stop for hop in state.waiting)
            if position >= state.cursor and not here:
                told.append(Tell(Gone(ring.epoch, host, name)))
        return told


def _stranded(state: State, routes: Routes) -> list[tuple[HopId, Model]]:
    """List the models of which a copy is here, and whose next host is lost or that have retired."""
    departures = {**state.kept, **state.outbox}
    return [
        (hop, entry.model) for hop, entry in departures.items() if routes.void(_stop(routes, hop))
    ]


def _when(hop: HopId) -> tuple[int, int]:
    return hop.round, hop.hop


def _stop(routes: Routes, hop: HopId) -> Stop:
    return routes.topology.stop(hop.model, hop.round, hop.hop)
