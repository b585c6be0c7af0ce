"""How a hospital that was lost comes back, at the beginning of a round.

A *guest* is a hospital that knows that the ring goes on without it. It does nothing, takes nothing
in and sends nothing, and says so (`Holds`). Then the controller, one return at a time, chooses a
round R behind all of which it has heard, and declares an epoch in which the guest is back from R
on. A hospital takes that in only if it has begun nothing of round R or later and holds no model
that goes there; from then on, whatever it forgets by a death, it sends models of R to the guest and
believes nobody who has passed the guest by. It says so once that is in custody. When all have said
so that are not lost, of this same epoch, the guest hears of it, which is its return. If one cannot
take it in, or anybody is lost meanwhile, the controller declares the guest away again, and tries a
later round, or none.

So there are never two views of a stop. A model that passed the guest by in round R or later is at a
hospital that has not agreed: whoever hosts it, or has it in its outbox, or has hosted it, is past
the beginning of R. It may be on its way from one that has died and forgotten that it sent it: who
agreed puts it off, for it did not come from the guest. If its host was lost, a copy is with whoever
sent it there, who has not agreed either, or has forgotten it too and will send it to the guest. The
guest takes nothing in before all agree, so if they do not, what was sent to it goes on as from any
other lost hospital. If the controller dies in between, nobody is misled: who comes to round R waits
for the guest, and a controller after it (`fedskd-sim resume`) learns from the others how far it
was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from fedskd_sim.messages import Holds
from fedskd_sim.program import Program, Step
from fedskd_sim.protocol import troubles
from fedskd_sim.protocol.effects import Effect, Fail, Join, Persist, Tell, Wait
from fedskd_sim.protocol.events import Again, Healed
from fedskd_sim.protocol.state import REGISTER_AGAIN_S, State, Terms
from fedskd_sim.records import Record
from fedskd_sim.routes import Returns, Routes, code

Turn = tuple[State, list[Effect]]


def is_guest(state: State, program: Program) -> bool:
    """Tell whether a hospital knows that the ring goes on without it."""
    return state.routes(program.topology).left_out(program.host)


def absence(state: State, name: str) -> int:
    """Number a hospital's absences and returns, as far as it knows of them itself."""
    return 1 + code(state.back.get(name)) if name in state.lost else 0


def reached(state: State, program: Program) -> int:
    """Give the last round of which a hospital has begun anything, or holds a model."""
    step, before = program.at(state.cursor), program.at(state.cursor - 1) if state.cursor else None
    if step is None:
        return program.topology.evaluation_round
    begun = step.round if state.working else before.round if before else 0
    rounds = [hop.round for hop in (*state.waiting, *state.outbox, *state.kept)]
    parting = [state.parting[0].round] if state.parting else []
    return max([begun, *rounds, *parting])


def believed(state: State, program: Program, word: Healed) -> Returns:
    """Give what a hospital can take in of the controller's word on returns: none from a round that
    it has reached; but a guest's view binds nobody, until it is back itself.
    """
    far, host = reached(state, program), program.host
    guest = is_guest(state, program)
    known = {name: code(back) for name, back in state.back.items()}
    return {
        name: back
        for name, back in word.back.items()
        if back.away
        or code(back) <= known.get(name, 0)
        or far < back.round
        or (guest and name != host)
    }


def answer(state: State, program: Program, word: Healed) -> list[Effect]:
    """Say whether an epoch is known here as it was told; nothing if more is known here."""
    told = Routes(program.topology, word.lost, word.back)
    if dict(told.lost) == dict(state.lost) and dict(told.back) == dict(state.back):
        return [Tell(Holds(word.number, program.host, reached(state, program)))]
    if any(code(back) > code(state.back.get(name)) for name, back in word.back.items()):
        return [Tell(Holds(0, program.host, reached(state, program)))]
    return []


def step_out(state: State) -> Turn:
    """Become a guest, and ask to be taken in again; the step under way ends, and nothing leaves."""
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
        return state, [Fail(troubles.never_started(terms))]
    state = state._replace(unanswered=state.unanswered + (host in state.lost))
    pause = REGISTER_AGAIN_S if host in state.lost else terms.register_again
    return state, [Join(), Wait(pause, Again())]


def passes_over(routes: Routes, host: str, step: Step) -> bool:
    """Tell whether nothing happens at a step of a hospital's program."""
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
