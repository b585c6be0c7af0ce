"""What the controller's machine asks for, in the order in which it is to be carried out."""

from __future__ import annotations

from typing import NamedTuple

from fedskd_sim.messages import End, FromController, ToController
from fedskd_sim.routes import Lost


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
    lost: Lost


class Admitted(NamedTuple):
    """A hospital that was lost is back from a round on, which all that are left know."""

    epoch: int
    hospital: str
    round: int


class Closed(NamedTuple):
    """The run is over."""

    end: End


Effect = Say | Opening | Noted | Opened | Rejected | Declared | Admitted | Closed
