"""Whether a model that knocks may come in: run, epoch, hop and sender against the topology,
before anything is acknowledged.
"""

from __future__ import annotations

from typing import NamedTuple

from fedskd_sim.messages import HopId
from fedskd_sim.program import Program
from fedskd_sim.protocol.state import State, Terms
from fedskd_sim.routes import Routes
from fedskd_sim.topology import Stop


class Judgement(NamedTuple):
    """``take`` it in, tell it to come ``later``, know it for a ``repeat`` of what is or was
    here, or refuse it for a ``reason``.
    """

    take: bool = False
    later: bool = False
    repeat: bool = False
    reason: str = ""


TAKE, LATER, REPEAT = Judgement(take=True), Judgement(later=True), Judgement(repeat=True)


def following(program: Program, routes: Routes, cursor: int) -> Stop | None:
    """Give the next stop at a hospital that is not over, and at which something happens."""
    stop = program.following(cursor - 1)
    while stop is not None and routes.void(stop):
        position = program.position(stop.model, stop.round, stop.hop)
        stop = program.following(position or 0)
    return stop


def judge(program: Program, terms: Terms, state: State, hop: HopId, sender: str) -> Judgement:
    """Judge a model by its hop and by who really sent it.

    The model that is needed next is always taken in; of others, as many may wait as the scenario's
    ``network.inbox`` says.
    """
    ring, routes = program.topology, state.routes(program.topology)
    if (hop.run, hop.epoch) != (terms.run, ring.epoch):
        return Judgement(reason=f"it belongs to run {hop.run!r}, epoch {hop.epoch}")
    position = program.position(hop.model, hop.round, hop.hop)
    if position is None:
        return Judgement(reason="that hop does not lead here")
    stop = ring.stop(hop.model, hop.round, hop.hop)
    if routes.left_out(program.host):
        return LATER  # until it is back itself
    if routes.away(sender, hop.round):
        return Judgement(reason="the run goes on without its sender")
    if sender != (wanted := routes.sender(stop)):
        if terms.heals and sender in ring.names and not routes.void(stop):
            return LATER  # it may have heard of a loss before this hospital
        return Judgement(reason=f"{wanted!r} should have sent it")
    if position < state.cursor or hop in state.waiting or routes.void(stop):
        return REPEAT
    awaited = following(program, routes, state.cursor)
    if awaited is None or awaited == stop:
        return TAKE
    if ring.far_ahead(stop, awaited):
        if state.again or terms.heals:
            return LATER
        return Judgement(
            reason=f"it cannot have come so far while round {awaited.round} hop {awaited.hop} has "
            "not been here"
        )
    step = program.at(state.cursor)
    hosts = state.working and step is not None and step.stop is not None
    return TAKE if len(state.waiting) - hosts < terms.inbox else LATER
