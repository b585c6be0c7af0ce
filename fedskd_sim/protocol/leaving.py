"""How a hospital that has gone through its program takes its leave."""

from __future__ import annotations

from fedskd_sim.messages import Done
from fedskd_sim.program import Program
from fedskd_sim.protocol.effects import Effect, Leave, Persist, Tell, Wait
from fedskd_sim.protocol.events import Goodbye
from fedskd_sim.protocol.state import State, Terms

TRIES = 3
"""A word or its answer may get lost: so many without an answer mean that the controller is gone."""
Turn = tuple[State, list[Effect]]


def say_done(state: State, effects: list[Effect], program: Program, terms: Terms) -> Turn:
    """Say that everything is done once it is and what was sent has arrived; who comes back after
    that sends nothing more.
    """
    over = state.over or state.done or state.outbox or not state.joined
    if over or program.at(state.cursor) is not None:
        return state, effects
    done = Tell(Done(program.topology.epoch, program.host))
    told: list[Effect] = [Persist(), done, Wait(terms.goodbye, Goodbye())]
    return state._replace(done=True), effects + told


def stay(state: State, program: Program, terms: Terms) -> Turn:
    """Stay while the controller answers: others may need to hear again that something is here.

    Not for ever: who was to end the run may wait in vain itself.
    """
    most = (2 * terms.hop + terms.acknowledgement) / terms.goodbye
    if state.unanswered >= TRIES or state.asked > most:
        return state._replace(over=True), [Leave("no word from the controller")]
    again = Tell(Done(program.topology.epoch, program.host))
    state = state._replace(unanswered=state.unanswered + 1, asked=state.asked + 1)
    return state, [again, Wait(terms.goodbye, Goodbye())]
