"""What a launcher sees of the controller: nobody can begin without it, and once the ring has
started the models go on without it.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedskd_sim.errors import FedskdError
from fedskd_sim.messages import CONTROLLER
from fedskd_sim.observe import events, lives
from fedskd_sim.observe.log import EventLog

SIGNS_OF_THE_START = (events.Start, events.WarmUp, events.Arrived)
ALONE = "the models went on without it, to the end"


@dataclass
class Leader:
    """How far a run's controller came, and how it ended."""

    started: bool = False
    """Somebody has told that the ring has started."""
    failure: str = ""
    """What it has said of its own failure."""
    cause: str = ""
    """How it died without a word, after the start."""
    watched: bool = False
    """It was to declare hospitals lost."""

    def note(self, name: str, what: events.Event) -> None:
        """Take in what a member has logged."""
        self.started = self.started or isinstance(what, SIGNS_OF_THE_START)
        if name == CONTROLLER and isinstance(what, events.Error):
            self.failure = what.message

    def missing(self, code: int) -> bool:
        """Tell whether it died without a word before the start: nobody can begin."""
        return bool(code) and not self.started and not self.failure

    def mourn(self, cause: str, log: EventLog, *, watched: bool = False) -> None:
        """Note how it died without a word after the start, for whoever watches the run."""
        self.cause, self.watched = cause, watched
        log.event(lives.ControllerDied(cause, watched))

    def explain(self, error: FedskdError) -> FedskdError:
        """Let an error that ended the run say so where nobody was there any more to declare its
        culprit lost.
        """
        if self.cause and self.watched:
            error.message += f"; the controller had died {self.cause}: {lives.UNWATCHED}"
        return error

    @property
    def silent(self) -> bool:
        """Tell whether a death of it would be news."""
        return self.started and not (self.failure or self.cause)

    @property
    def remark(self) -> str:
        """Say how it ended, of a run that ended well; '' if as it should."""
        if self.cause:
            return f"the controller died {self.cause} after the start: {ALONE}"
        return f"the controller failed: {self.failure}: {ALONE}" if self.failure else ""
