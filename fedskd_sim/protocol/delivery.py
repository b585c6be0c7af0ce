"""A model on its way, at both ends: one that left is kept and sent again until its receiver says
that it is safe there; one that knocks may come in if run, epoch, hop and sender are the topology's,
before anything is acknowledged.
"""

from __future__ import annotations

from typing import NamedTuple

from fedskd_sim.errors import AcknowledgementTimeout
from fedskd_sim.messages import HopId
from fedskd_sim.protocol.effects import Delivered, Effect, Fail, Send, Turn, Wait
from fedskd_sim.protocol.events import Acked, Deferred, Model, Unanswered, Wanted
from fedskd_sim.protocol.state import Departure, State, Terms, without
from fedskd_sim.ring.program import Program
from fedskd_sim.ring.routes import Routes
from fedskd_sim.ring.topology import Stop

PATIENT_RETRIES = 8
"""A model that was told to wait is sent again after so many times ``timeouts.retry``, in case that
its call was lost."""


def send(state: State, to: str, hop: HopId, model: Model, terms: Terms) -> Turn:
    """Send a model off and keep it until its receiver has it safe.

    The state has it in its outbox; the effects hand it to the link and set a timer, after which it
    is sent again.

    >>> terms = Terms("run", 60, 600, 120, 10, 5, inbox=2, max_rollbacks=3)
    >>> hop = HopId("run", 1, "a", 1, 1)
    >>> state, effects = send(State(), "b", hop, Model(1), terms)
    >>> hop in state.outbox, [type(one).__name__ for one in effects]
    (True, ['Send', 'Wait'])

    """
    return _attempt(state, hop, Departure(to, model), terms)


def resume(state: State, terms: Terms) -> Turn:
    """Send again everything that was under way when this hospital was interrupted.

    Called when the controller has let a hospital in: attempts count from 1 again, and a receiver
    that has a model already says so.
    """
    effects: list[Effect] = []
    for hop, departure in state.outbox.items():
        state, more = _attempt(state, hop, Departure(departure.to, departure.model), terms)
        effects += more
    return state, effects


def step(state: State, event: Acked | Deferred | Wanted | Unanswered, terms: Terms) -> Turn:
    """Handle an answer about a model in the outbox, or that there was none; an answer counts
    only from the receiver itself.

    `Acked` takes it out of the outbox, `Wanted` sends it at once, `Deferred` waits for the call,
    `Unanswered` of the last attempt sends it again, or fails with AcknowledgementTimeout after
    ``timeouts.acknowledgement``; an answer of anybody else, or the timer of an earlier attempt,
    changes nothing. KeyError for a model that is not in the outbox.

    >>> terms = Terms("run", 60, 600, 120, 10, 5, inbox=2, max_rollbacks=3)
    >>> hop = HopId("run", 1, "a", 1, 1)
    >>> state, _ = send(State(), "b", hop, Model(1), terms)
    >>> step(state, Acked(hop, by="c"), terms)[1]  # not the receiver
    []
    >>> state, effects = step(state, Acked(hop, by="b"), terms)
    >>> hop in state.outbox, [type(one).__name__ for one in effects]
    (False, ['Delivered'])

    """
    departure = state.outbox[event.hop]
    to, model, attempt, silent = departure
    match event:
        case Acked(hop, by) if by == to:
            return state._replace(outbox=without(state.outbox, hop)), [
                Delivered(to, hop, model, attempt)
            ]
        case Wanted(hop, by) if by == to:
            return _attempt(state, hop, Departure(to, model, attempt + 1), terms)
        case Deferred(hop, by) if by == to:
            waiting = Departure(to, model, attempt + 1)
            again = Wait(
                min(terms.acknowledgement, PATIENT_RETRIES * terms.retry),
                Unanswered(hop, attempt + 1),
            )
            return state._replace(outbox={**state.outbox, hop: waiting}), [again]
        case Unanswered(hop, number) if number == attempt:
            if silent >= terms.acknowledgement:
                return state, [Fail(_never_confirmed(hop, departure, terms))]
            return _attempt(state, hop, Departure(to, model, attempt + 1, silent), terms)
    return state, []


def _attempt(state: State, hop: HopId, departure: Departure, terms: Terms) -> Turn:
    """Send a model, and wait for an answer twice as long as the time before, up to
    ``timeouts.acknowledgement`` in all.
    """
    seconds = min(
        departure.silent + terms.retry, max(0.0, terms.acknowledgement - departure.silent)
    )
    kept = departure._replace(silent=departure.silent + seconds)
    effects: list[Effect] = [Send(departure.to, hop, departure.model, departure.attempt)]
    return state._replace(outbox={**state.outbox, hop: kept}), [
        *effects,
        Wait(seconds, Unanswered(hop, departure.attempt)),
    ]


def _never_confirmed(hop: HopId, departure: Departure, terms: Terms) -> AcknowledgementTimeout:
    text = (
        f"{departure.to!r} never confirmed {hop}, in {terms.acknowledgement:g} s and "
        f"{departure.attempt} tries"
    )
    return AcknowledgementTimeout(
        text,
        fix=f"look at the log of {departure.to!r}, or raise timeouts.acknowledgement",
        key=("timeouts", "acknowledgement"),
    )


class Judgement(NamedTuple):
    """``take`` it in, tell it to come ``later``, know it for a ``repeat`` of what is or was
    here, or refuse it for a ``reason``; `judge` asks in this order.

    Another run or epoch, or a hop that does not lead here, is refused; a hospital that is left out
    asks for patience; a sender that is lost or not the right one is refused, or told to come later
    where it may know of a loss that is not known here; what was here is a repeat; what is needed
    next is taken; what is impossibly far ahead is refused; of the rest as many are taken as there
    is room for, the others wait.

    >>> terms = Terms("run", 60, 600, 120, 10, 5, inbox=2, max_rollbacks=3)
    >>> from fedskd_sim.ring.topology import Topology
    >>> program, state = Program(Topology(("a", "b", "c"), rounds=1), "b"), State(cursor=1)
    >>> judge(program, terms, state, HopId("run", 1, "a", 1, 1), "a").take
    True
    >>> judge(program, terms, state, HopId("run", 1, "a", 1, 1), "c").reason
    "'a' should have sent it"
    >>> judge(program, terms, state, HopId("run", 1, "b", 1, 1), "b").reason
    'that hop does not lead here'

    """

    take: bool = False
    later: bool = False
    repeat: bool = False
    reason: str = ""


TAKE, LATER, REPEAT = Judgement(take=True), Judgement(later=True), Judgement(repeat=True)


def following(program: Program, routes: Routes, cursor: int) -> Stop | None:
    """Return the next stop at a hospital that is not over, and at which something happens.

    None where the program has no more of them. ``cursor`` is the step that is next or under way;
    its own stop counts.

    >>> from fedskd_sim.ring.topology import Topology
    >>> ring = Topology(("a", "b", "c"), rounds=1)
    >>> following(Program(ring, "b"), Routes(ring), cursor=0).model
    'a'
    >>> following(Program(ring, "b"), Routes(ring, lost={"a": 1}), cursor=0).model
    'c'

    """
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
    # it is to come, and from its sender: is it its turn, or is there room to wait?
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
    # the model at work stands among those that wait, and takes no place of the inbox
    step = program.at(state.cursor)
    hosts = state.working and step is not None and step.stop is not None
    return TAKE if len(state.waiting) - hosts < terms.inbox else LATER
