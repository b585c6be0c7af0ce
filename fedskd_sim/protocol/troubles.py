"""What a hospital says when it cannot go on."""

from __future__ import annotations

from fedskd_sim.errors import (
    FedskdError,
    HopTimeout,
    LeftBehind,
    NonFiniteLoss,
    RegistrationTimeout,
)
from fedskd_sim.protocol.state import State, Terms
from fedskd_sim.records import Record
from fedskd_sim.topology import Stop


def missing(name: str, stop: Stop | None, sender: str, patience: float) -> HopTimeout:
    """Say what a hospital has waited for in vain, and for how many seconds."""
    if stop is None:
        return HopTimeout(f"{name!r} waits for nothing")
    text = (
        f"{name!r} waited {patience:g} s for the model of {stop.model!r} "
        f"(round {stop.round}, hop {stop.hop}), which {sender!r} should have sent"
    )
    fix = (
        "look at the log of the hospital that should have sent it; if its sessions are slow, "
        "raise timeouts.hop"
    )
    error = HopTimeout(text, fix=fix, key=("timeouts", "hop"))
    error.stop = (stop.round, stop.hop)
    return error


def left_behind(name: str) -> LeftBehind:
    """Say that the ring has closed without this hospital."""
    error = LeftBehind(
        f"the run goes on without {name!r}, which was lost and is not taken in any more",
        fix="raise on_loss.after above what such a hospital may be away; in a cluster its next pod "
        "goes on only from a claim (hospitals.defaults.custody.claim)",
        key=("on_loss", "after"),
    )
    error.second_hand = True
    return error


def never_started(terms: Terms) -> RegistrationTimeout:
    """Say that the controller has not let a hospital begin."""
    text = f"the controller did not start the run within {terms.register:g} s"
    fix, key = "see the controller's log", ("timeouts", "register")
    return RegistrationTimeout(text, fix=fix, key=key)


def count_rollbacks(
    name: str, most: int, state: State, record: Record
) -> tuple[State, FedskdError | None]:
    """Count sessions in a row that were undone; ``most`` of them are an error.

    The error comes with the step's record, when its model has left. Nothing is wrong with that
    model: an undone session sends on the weights with which it came, and whoever waits for it need
    not wait for a time-out. The record, kept before the run fails, says what was not finite.
    """
    if record.outcome in ("evaluated", "passed"):
        return state, None
    state = state._replace(rollbacks=state.rollbacks + 1 if record.outcome == "rolled_back" else 0)
    if state.rollbacks < most:
        return state, None
    text = f"{name!r} rolled back {state.rollbacks} sessions in a row: {record.reason}"
    fix = "lower training.optimiser.learning_rate, or look at the data"
    return state, NonFiniteLoss(text, fix=fix, key=("training", "max_rollbacks"))
