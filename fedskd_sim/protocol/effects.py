"""What is to be carried out, in the order in which it is given."""

from __future__ import annotations

from typing import NamedTuple

from fedskd_sim.errors import FedskdError
from fedskd_sim.messages import Alive, Answer, Done, Failed, Gone, Holds, HopId, Progress
from fedskd_sim.program import Step
from fedskd_sim.protocol.events import Model, Timer
from fedskd_sim.records import Record
from fedskd_sim.topology import Stop


class Join(NamedTuple):
    """Tell the controller that this hospital is up, and where."""


class Persist(NamedTuple):
    """Make the state safe as it is after this event, with the record of the step that it ends,
    before anything that follows.
    """

    record: Record | None = None


class Tell(NamedTuple):
    """Say something to the controller; `Progress` and `Alive` are advice and may be dropped."""

    message: Progress | Failed | Done | Alive | Gone | Holds


class Reply(NamedTuple):
    """Answer the sender of a model."""

    to: str
    answer: Answer


class Call(NamedTuple):
    """Tell the host before this one that its model is waited for here: this hospital is back,
    and it may not have heard of that.
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
    """Give a timer's event back after some seconds; the machine itself knows which of them no
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
