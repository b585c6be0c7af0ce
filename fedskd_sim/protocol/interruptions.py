"""What ends a hospital's part before its time: the controller's word, an error, or a wait that is
over.
"""

from __future__ import annotations

from fedskd_sim.errors import HopTimeout, LeftBehind, RunAborted
from fedskd_sim.messages import Failed
from fedskd_sim.program import Program
from fedskd_sim.protocol import leaving, returns, troubles
from fedskd_sim.protocol.effects import Effect, Fail, Leave, Tell
from fedskd_sim.protocol.events import Again, Broke, Ended, Event, Goodbye, Overdue, TooLate
from fedskd_sim.protocol.judge import following
from fedskd_sim.protocol.state import State, Terms

Turn = tuple[State, list[Effect]]


def interrupt(state: State, event: Event, program: Program, terms: Terms) -> Turn:
    """Handle what comes in between; the last effect is `Fail` if it is the end."""
    name = program.host
    match event:
        case Ended(LeftBehind.exit_code):
            return state, [Fail(troubles.left_behind(name))]
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
            return returns.register_again(state, name, terms)
        case TooLate() if not state.joined and name not in state.lost:
            return state, [Fail(troubles.never_started(terms))]
        case Overdue(index, _) if index == state.cursor and not state.working:
            return state, [Fail(missing(state, program, terms))]
        case Goodbye() if state.done:
            return leaving.stay(state, program, terms)
    return state, []


def stop_on_failure(state: State, effects: list[Effect], program: Program) -> Turn:
    """If the last effect is an error, tell the controller before it, unless it was the
    controller's word, and stop.
    """
    last = effects[-1] if effects else None
    if not isinstance(last, Fail):
        return state, effects
    error = last.error
    word = Failed(program.topology.epoch, program.host, error.exit_code, error.message)
    told = [] if error.second_hand else [Tell(word)]
    return state._replace(over=True), [*effects[:-1], *told, last]


def patience(state: State, program: Program, terms: Terms) -> float:
    """Give the seconds to wait for a model; who has come back may be early by a round."""
    topology = program.topology
    returned = len(topology.hops(1)) + 1 if program.host in state.lost else 1
    return terms.hop * topology.patience(program.host) * returned


def missing(state: State, program: Program, terms: Terms) -> HopTimeout:
    """Say what a hospital has waited for in vain."""
    routes = state.routes(program.topology)
    stop = following(program, routes, state.cursor)
    sender = routes.sender(stop) if stop else ""
    return troubles.missing(program.host, stop, sender, patience(state, program, terms))
