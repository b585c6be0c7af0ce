"""Messages on their way: frames, chunks, and links between processes over ZeroMQ."""

from typing import NamedTuple


class NothingReceived(Exception):
    """A time-out passed without a message."""


class Unwelcome(NamedTuple):
    """Something has come that no member of the run would send: from whom, what is wrong with it,
    and whether it is of another version of the program.
    """

    sender: str
    reason: str
    foreign: bool = False
