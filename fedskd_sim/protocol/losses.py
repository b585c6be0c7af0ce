"""How a ring goes on without a hospital: who sent a model keeps it until it is safe one host
further, and sends it on if its host is lost.

No two hospitals need to hear of a loss at the same time. A hop means the same host in every epoch,
and a host takes each hop once: a model that comes twice, from the lost host while it still lived
and from whoever kept it, is taken once and acknowledged twice.
"""

from __future__ import annotations

from typing import NamedTuple

from fedskd_sim.messages import Ack, Alive, Gone, HopId, Passed
from fedskd_sim.program import Program
from fedskd_sim.protocol import delivery, returns
from fedskd_sim.protocol.effects import Effect, Persist, Reply, Tell, Wait
from fedskd_sim.protocol.events import Beat, Healed, Model
from fedskd_sim.protocol.judge import judge
from fedskd_sim.protocol.state import Departure, State, Terms, without
from fedskd_sim.routes import Routes, code, merged, merged_returns
from fedskd_sim.topology import Stop

Turn = tuple[State, list[Effect]]


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
        """Forget a model that its receiver has passed on."""
        kept = state.kept.get(hop)
        if kept is None or kept.to != by:
            return state
        return state._replace(kept=without(state.kept, hop))

    def beat(self, state: State, number: int = 0) -> list[Effect]:
        """Say that this hospital lives, and do so again, where anybody watches for it."""
        if not self.terms.beat:
            return []
        known = sorted(state.lost.items()) or [("", 0)]
        name, retires = known[number % len(known)]
        back = code(state.back.get(name))
        alive = Alive(state.epoch, self.program.host, name, retires, back)
        missing = self._never_set_out(state, state.routes(self.program.topology))
        return [Tell(alive), *missing, Wait(self.terms.beat, Beat(number + 1))]

    def begin_to_beat(self, state: State) -> Turn:
        """Give signs of life from now on, if this life does not yet."""
        return state._replace(beats=True), [] if state.beats else self.beat(state)

    def depart(self, state: State, stop: Stop, hop: HopId, model: Model) -> Turn:
        """Let a model go to a stop, which may be at the same hospital again."""
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
        back = merged_returns(state.back, returns.believed(state, self.program, word))
        if lost == state.lost and back == state.back:
            return state, []
        known, host = returns.absence(state, self.program.host), self.program.host
        state = state._replace(lost=lost, back=back)
        routes = state.routes(self.program.topology)
        if routes.left_out(host):
            return self._stand_aside(state, known)
        waiting = {
            hop: model
            for hop, model in state.waiting.items()
            if not routes.void(_stop(routes, hop)) or self._at_work(state, hop)
        }
        deferred = {hop: to for hop, to in state.deferred.items() if not routes.away(to, hop.round)}
        state = state._replace(waiting=waiting, deferred=deferred)
        effects: list[Effect] = [Persist()]
        for hop, model in _stranded(state, routes):
            state, more = self._forward(state, hop, model, routes)
            effects += more
        for hop, to in list(state.deferred.items()):
            if judge(self.program, self.terms, state, hop, to).repeat:
                state = state._replace(deferred=without(state.deferred, hop))
                effects.append(Reply(to, Ack(hop)))
        return state, effects + self._never_set_out(state, routes)  # and with every beat

    def _stand_aside(self, state: State, known: int) -> Turn:
        """Be a guest; ``known`` is the absence of which this hospital knew before."""
        if known == returns.absence(state, self.program.host):
            return state, [Persist()]
        at_work = {hop: one for hop, one in state.waiting.items() if self._at_work(state, hop)}
        state, effects = returns.step_out(state._replace(waiting=at_work))
        state, beats = self.begin_to_beat(state)
        return state, [*effects, *beats]

    def _at_work(self, state: State, hop: HopId) -> bool:
        """Tell whether a model is in the step that is under way, which will end."""
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
        """Say whose model is nowhere: of a lost hospital's, its first host would have had it."""
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
