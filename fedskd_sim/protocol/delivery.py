"""Delivery of departed models: each is kept and sent again until its receiver says that it is
safe there.
"""

from __future__ import annotations

from fedskd_sim.errors import AcknowledgementTimeout
from fedskd_sim.messages import HopId
from fedskd_sim.protocol.effects import Delivered, Effect, Fail, Send, Wait
from fedskd_sim.protocol.events import Acked, Deferred, Model, Unanswered, Wanted
from fedskd_sim.protocol.state import Departure, State, Terms, without

Turn = tuple[State, list[Effect]]
PATIENT_RETRIES = 8
"""A model that was told to wait is sent again after so many times ``timeouts.retry``, in case that
its call was lost."""


def send(state: State, to: str, hop: HopId, model: Model, terms: Terms) -> Turn:
    """Let a model depart."""
    return _attempt(state, hop, Departure(to, model), terms)


def resume(state: State, terms: Terms) -> Turn:
    """Send again everything that was under way when this hospital was interrupted."""
    effects: list[Effect] = []
    for hop, departure in state.outbox.items():
        state, more = _attempt(state, hop, Departure(departure.to, departure.model), terms)
        effects += more
    return state, effects


def step(state: State, event: Acked | Deferred | Wanted | Unanswered, terms: Terms) -> Turn:
    """Handle an answer about a model in the outbox, or that there was none; an answer counts
    only from the receiver itself.
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
