"""What a hospital's machine and the controller's ask for, in the order in which it is to be carried
out, and what a hospital says when it cannot go on.
"""

from __future__ import annotations

from typing import NamedTuple

from fedskd_sim.errors import (
    FedskdError,
    HopTimeout,
    LeftBehind,
    NonFiniteLoss,
    RegistrationTimeout,
)
from fedskd_sim.messages import (
    Alive,
    Answer,
    Done,
    End,
    Failed,
    FromController,
    Gone,
    Holds,
    HopId,
    Progress,
    ToController,
)
from fedskd_sim.protocol.events import Model, Timer
from fedskd_sim.protocol.state import State, Terms
from fedskd_sim.records import Record
from fedskd_sim.ring.program import Step
from fedskd_sim.ring.routes import LostHospitals
from fedskd_sim.ring.topology import Stop


class Join(NamedTuple):
    """Register with the controller: this hospital is up, and where."""


class Persist(NamedTuple):
    """Make the state safe as it is after this event, with the record of the step that it ends,
    before anything that follows.
    """

    record: Record | None = None


class Tell(NamedTuple):
    """Send a message to the controller; `Progress` and `Alive` are advice and may be dropped."""

    message: Progress | Failed | Done | Alive | Gone | Holds


class Reply(NamedTuple):
    """Answer the sender of a model."""

    to: str
    answer: Answer


class Call(NamedTuple):
    """Remind the host before this one that its model is waited for here: this hospital is back, and
    it may not have heard of that.
    """

    to: str
    hop: HopId


class Send(NamedTuple):
    """Hand a model over to a link, attempt number ``attempt``."""

    to: str
    hop: HopId
    model: Model
    attempt: int


class Delivered(NamedTuple):
    """A model that was sent is safe with its receiver, after so many attempts."""

    to: str
    hop: HopId
    model: Model
    attempts: int


class Work(NamedTuple):
    """Carry out a step of the program, with the model that it hosts; ``following`` is the stop
    for which to get ready meanwhile.
    """

    cursor: int
    step: Step
    model: Model | None
    following: Stop | None


class Wait(NamedTuple):
    """Bring a timer's event back after some seconds; the machine itself knows which of them no
    longer matter.
    """

    seconds: float
    timer: Timer


class Refuse(NamedTuple):
    """Count and log something that no member of the run should send, with who really sent it."""

    sender: str
    hop: HopId
    reason: str


class Leave(NamedTuple):
    """Everything is done; why it is time to go."""

    reason: str


class Fail(NamedTuple):
    """End with an error."""

    error: FedskdError


Effect = (
    Join | Persist | Tell | Reply | Call | Send | Delivered | Work | Wait | Refuse | Leave | Fail
)
Turn = tuple[State, list[Effect]]
"""What an event comes to: the hospital's next state, and what to carry out for it."""


class Say(NamedTuple):
    """Send a word to a hospital."""

    to: str
    message: FromController


class Opening(NamedTuple):
    """The first `Start` is about to leave."""


class Noted(NamedTuple):
    """A hospital's word that is worth a line in the log."""

    message: ToController


class Opened(NamedTuple):
    """The address book has left, to so many."""

    hospitals: int


class Rejected(NamedTuple):
    """A word that no member of the run would say."""

    hospital: str
    reason: str


class Declared(NamedTuple):
    """The ring goes on without these: a new epoch."""

    epoch: int
    lost: LostHospitals


class Admitted(NamedTuple):
    """A hospital that was lost is back from a round on, which all that are left know."""

    epoch: int
    hospital: str
    round: int


class Closed(NamedTuple):
    """The run is over."""

    end: End


ControllerEffect = Say | Opening | Noted | Opened | Rejected | Declared | Admitted | Closed


def never_arrived(name: str, stop: Stop | None, sender: str, patience: float) -> HopTimeout:
    """Return the error of a hospital that has waited for something in vain, and for how long.

    >>> error = never_arrived("b", Stop(1, 1, "b", "a", "visit"), "a", 600)
    >>> error.message[:40], error.exit_code
    ("'b' waited 600 s for the model of 'a' (r", 40)

    """
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
    """Return the error of a hospital without which the ring has closed.

    It is second-hand: the controller has said so, and need not be told.
    """
    error = LeftBehind(
        f"the run goes on without {name!r}, which was lost and is not taken in any more",
        fix="raise on_loss.after above what such a hospital may be away; in a cluster its next pod "
        "goes on only from a claim (hospitals.defaults.custody.claim)",
        key=("on_loss", "after"),
    )
    error.second_hand = True
    return error


def never_started(terms: Terms) -> RegistrationTimeout:
    """Return the error of a hospital that the controller has not let begin."""
    text = f"the controller did not start the run within {terms.register:g} s"
    fix, key = "see the controller's log", ("timeouts", "register")
    return RegistrationTimeout(text, fix=fix, key=key)


def count_rollbacks(
    name: str, most: int, state: State, record: Record
) -> tuple[State, FedskdError | None]:
    """Count sessions in a row that were undone; ``most`` of them are an error.

    Returns the state with the count, and the error or None; a step that trained well sets the count
    back to 0.

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
