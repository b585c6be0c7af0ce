"""How a ring goes on without a hospital: who sent a model keeps it until it is safe one host
further, and sends it on if its host is lost.

No two hospitals need to hear of a loss at the same time. A hop means the same host in every epoch,
and a host takes each hop once: a model that comes twice, from the lost host while it still lived
and from whoever kept it, is taken once and acknowledged twice.
"""

from __future__ import annotations

from fedskd_sim.messages import Ack, Gone, HopId, Passed
from fedskd_sim.program import Program
from fedskd_sim.protocol import delivery
from fedskd_sim.protocol.effects import Effect, Persist, Reply, Tell
from fedskd_sim.protocol.events import Model
from fedskd_sim.protocol.judge import judge
from fedskd_sim.protocol.state import Departure, State, Terms, without
from fedskd_sim.routes import Lost, Routes, merged
from fedskd_sim.topology import Stop

Turn = tuple[State, list[Effect]]


def keep(state: State, hop: HopId, departure: Departure, program: Program, routes: Routes) -> Turn:
    """Keep a model that has arrived until it is safe one host further, and tell its last host that
    it is so far.

    Of one model the latest departure is kept: the words that release the others may get lost.
    """
    stop = _stop(routes, hop)
    kept = {
        one: entry
        for one, entry in state.kept.items()
        if one.model != hop.model or _when(one) > _when(hop)
    }
    if routes.goes_on(stop) and not any(one.model == hop.model for one in kept):
        kept[hop] = departure
    was = routes.before(stop)
    told: list[Effect] = []
    if was is not None and was.host == program.host:
        sender = routes.sender(was)
        told = [Reply(sender, Passed(hop._replace(round=was.round, hop=was.hop)))]
    return state._replace(kept=kept), told


def depart(state: State, stop: Stop, hop: HopId, model: Model, terms: Terms, host: str) -> Turn:
    """Let a model go to a stop, which may be at the same hospital again."""
    if stop.host == host:
        return state._replace(waiting={**state.waiting, hop: model}), []
    return delivery.send(state, stop.host, hop, model, terms)


def heal(state: State, lost: Lost, program: Program, terms: Terms) -> Turn:
    """Go on without those that are lost: what was meant for them, or is with them, goes on from
    here.
    """
    lost = merged(state.lost, lost)
    if lost == state.lost:
        return state, []
    routes = Routes(program.topology, lost)
    state = state._replace(
        lost=lost,
        waiting={
            hop: model
            for hop, model in state.waiting.items()
            if not routes.void(_stop(routes, hop))
        },
        deferred={hop: to for hop, to in state.deferred.items() if to not in lost},
    )
    effects: list[Effect] = [Persist()]
    for hop, model in _stranded(state, routes):
        state, more = _forward(state, hop, model, routes, program, terms)
        effects += more
    for hop, to in list(state.deferred.items()):
        if judge(program, terms, state, hop, to).repeat:
            state = state._replace(deferred=without(state.deferred, hop))
            effects.append(Reply(to, Ack(hop)))
    return state, effects + _never_set_out(state, routes, program)


def _stranded(state: State, routes: Routes) -> list[tuple[HopId, Model]]:
    """List the models of which a copy is here, and whose next host is lost or that have retired."""
    departures = {**state.kept, **state.outbox}
    return [
        (hop, entry.model) for hop, entry in departures.items() if routes.void(_stop(routes, hop))
    ]


def _forward(
    state: State, hop: HopId, model: Model, routes: Routes, program: Program, terms: Terms
) -> Turn:
    state = state._replace(kept=without(state.kept, hop), outbox=without(state.outbox, hop))
    stop = routes.next_living(_stop(routes, hop))
    if stop is None:
        return state, []
    onward = hop._replace(round=stop.round, hop=stop.hop)
    position = program.position(stop.model, stop.round, stop.hop)
    if stop.host == program.host and (position or 0) < state.cursor:
        return state, []
    return depart(state, stop, onward, model, terms, program.host)


def _never_set_out(state: State, routes: Routes, program: Program) -> list[Effect]:
    """Say whose model is nowhere: of a lost hospital's, its first host would have had it."""
    ring = routes.topology
    first = 1 if len(ring.hops(1)) else ring.evaluation_round
    told: list[Effect] = []
    for name in state.lost:
        if not ring.travels(name) or 0 < state.lost[name] <= first:
            continue
        stop = routes.next_living(ring.stop(name, first, 1))
        if stop is None or stop.host != program.host:
            continue
        position = program.position(stop.model, stop.round, stop.hop)
        here = any(
            (hop.model, hop.round, hop.hop) == (stop.model, stop.round, stop.hop)
            for hop in state.waiting
        )
        if position is not None and position >= state.cursor and not here:
            told.append(Tell(Gone(ring.epoch, program.host, name)))
    return told


def _when(hop: HopId) -> tuple[int, int]:
    return hop.round, hop.hop


def _stop(routes: Routes, hop: HopId) -> Stop:
    return routes.topology.stop(hop.model, hop.round, hop.hop)
