"""What a hospital says to the senders of models that it has already, or had no room for."""

from __future__ import annotations

from fedskd_sim.messages import Ack, Ready
from fedskd_sim.program import Program
from fedskd_sim.protocol.effects import Effect, Refuse, Reply
from fedskd_sim.protocol.events import Knocked, ModelArrived, Repeated
from fedskd_sim.protocol.judge import judge
from fedskd_sim.protocol.state import State, Terms


def again(state: State, event: ModelArrived | Knocked | Repeated, *, relayed: bool) -> Effect:
    """Say again that a model is here; if it is not the same as the one that came first, refuse it.

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
    """
    positions = {
        hop: program.position(hop.model, hop.round, hop.hop) or 0 for hop in state.deferred
    }
    for hop in sorted(positions, key=lambda one: positions[one])[:1]:
        if judge(program, terms, state, hop, state.deferred[hop]).take:
            return [Reply(state.deferred[hop], Ready(hop))]
    return []
