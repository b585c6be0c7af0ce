"""What can happen to a hospital."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from fedskd_sim.errors import FedskdError
from fedskd_sim.messages import (
    Ack,
    Answer,
    End,
    Epoch,
    FromController,
    HopId,
    Later,
    Passed,
    Ready,
)
from fedskd_sim.records import Record
from fedskd_sim.ring.routes import NO_RETURN, LostHospitals, Returns, decoded
from fedskd_sim.ring.topology import FIRST_EPOCH


class Model(NamedTuple):
    """A model in custody: which one of this hospital's, and its digest, '' as long as nobody has
    asked for it.
    """

    number: int
    digest: str = ""


class Begun(NamedTuple):
    """The hospital is up; its state is what it had in custody. ``again``: it was up before, and
    may be behind what it has done.
    """

    again: bool = False


class Joined(NamedTuple):
    """The controller has handed out the address book."""


class Knocked(NamedTuple):
    """A model has been announced that cannot come in (see `HospitalMachine.judge`); ``crowded``:
    too many others arrive.
    """

    hop: HopId
    sender: str
    crowded: bool = False


class ModelArrived(NamedTuple):
    """A model has arrived whole, with the digest that it was sent with."""

    hop: HopId
    sender: str
    model: Model


class Repeated(NamedTuple):
    """A model has come again that is here or was here; its weights have been dropped unread."""

    hop: HopId
    sender: str
    digest: str


class Acked(NamedTuple):
    """The receiver of a departed model has it safe."""

    hop: HopId
    by: str


class Deferred(NamedTuple):
    """The receiver of a departed model has no room for it now."""

    hop: HopId
    by: str


class Wanted(NamedTuple):
    """The receiver of a departed model has room for it again."""

    hop: HopId
    by: str


class PassedOn(NamedTuple):
    """The receiver of a departed model has it safe one host further."""

    hop: HopId
    by: str


class Healed(NamedTuple):
    """The controller says who is lost, so that the ring goes on without them, and who is back, in
    the epoch ``number``.
    """

    lost: LostHospitals
    back: Returns = NO_RETURN
    number: int = FIRST_EPOCH


ANSWERS: Mapping[type[Answer], Callable[[HopId, str], Acked | Deferred | Wanted | PassedOn]] = {
    Ack: Acked, Later: Deferred, Ready: Wanted, Passed: PassedOn
}  # fmt: skip


def answered(answer: Answer, by: str) -> Acked | Deferred | Wanted | PassedOn:
    """Return what it means to a sender that a receiver has answered.

    ``by`` is who really sent the answer; only the receiver's counts.

    >>> answered(Later(HopId("run", 1, "a", 1, 1)), by="b")
    Deferred(hop=HopId(run='run', epoch=1, model='a', round=1, hop=1), by='b')

    """
    return ANSWERS[type(answer)](answer.hop, by)


class ModelReleased(NamedTuple):
    """The step at ``cursor`` has made what goes on from here; it is still being measured."""

    cursor: int
    model: Model


class StepFinished(NamedTuple):
    """The step at ``cursor`` is done; its record, or None where a step leaves none."""

    cursor: int
    record: Record | None


class Broke(NamedTuple):
    """Something here cannot go on."""

    error: FedskdError


class Ended(NamedTuple):
    """The controller says that the run is over; code 0 for a good end."""

    code: int
    reason: str


def heard(word: FromController) -> Ended | Joined | Healed:
    """Return what the controller's word means to a hospital."""
    match word:
        case End(_, code, reason):
            return Ended(code, reason)
        case Epoch(number, told):
            parts = {name: text.partition(" ") for name, text in told.items()}
            lost = {name: int(round_) for name, (round_, _, _) in parts.items()}
            codes = {name: int(rest) for name, (_, _, rest) in parts.items() if rest}
            back = {name: known for name, one in codes.items() if (known := decoded(one))}
            return Healed(lost, back, number)
    return Joined()


class Again(NamedTuple):
    """Timer: register again."""


class TooLate(NamedTuple):
    """Timer: the controller has not started the run in time."""


class Beat(NamedTuple):
    """Timer: say that this hospital lives, for the time ``number``."""

    number: int = 0


class Overdue(NamedTuple):
    """Timer: the model that the step at ``cursor`` hosts has not come in time, in an epoch."""

    cursor: int
    epoch: int = FIRST_EPOCH


class Unanswered(NamedTuple):
    """Timer: the receiver has not answered to the attempt number ``attempt`` to deliver a model."""

    hop: HopId
    attempt: int


class Goodbye(NamedTuple):
    """Timer: the controller has said nothing since everything here was done."""


Timer = Again | TooLate | Beat | Overdue | Unanswered | Goodbye
Event = (
    Begun
    | Joined
    | Knocked
    | ModelArrived
    | Repeated
    | Acked
    | Deferred
    | Wanted
    | PassedOn
    | Healed
    | ModelReleased
    | StepFinished
    | Broke
    | Ended
    | Timer
)
