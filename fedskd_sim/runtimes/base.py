"""The runtime seam: launch a run, wait for it while watching its events, stop it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from fedskd_sim.errors import FedskdError
from fedskd_sim.exits import rebuilt
from fedskd_sim.messages import CONTROLLER
from fedskd_sim.observe.events import Error, Logged
from fedskd_sim.runtimes.location import RunLocation
from fedskd_sim.scenario import Loaded

Watch = Callable[[Logged], None]


@dataclass(frozen=True, slots=True)
class Order:
    """One run to carry out: the scenario, a name for the run, its folder and where data files are.

    ``resumed``: the folder has the custody of the run's hospitals, and they go on from it;
    ``anyway``: even where what they run on has changed since.
    """

    loaded: Loaded
    run: str
    folder: Path
    data: Path | None = None
    resumed: bool = False
    anyway: bool = False


class Runtime(Protocol):
    """A place where a run can happen. Records, weights and logs are in the order's folder when
    `wait` returns.
    """

    @property
    def place(self) -> RunLocation:
        """Say where the run is, once it has been launched, for the run folder."""

    @property
    def remark(self) -> str:
        """Say what of a run that ended well was not as it should be; '' for nothing."""

    def prepare(self, loaded: Loaded) -> None:
        """Get ready in the background for a scenario that is still being checked; `launch` may
        follow or not.

        Raises:
            FedskdError: no run can happen here.

        """

    def launch(self, order: Order) -> None:
        """Start the controller and all hospitals; raises FedskdError if one cannot be started."""

    def wait(self, watch: Watch) -> None:
        """Follow the run to its end, calling ``watch`` with every event of a hospital's or the
        controller's log.

        Raises:
            FedskdError: the error that ended the run.

        """

    def stop(self) -> None:
        """End everything that still runs; calling it after a finished run does nothing."""


@runtime_checkable
class AnswersQuestions(Protocol):
    """What a runtime can do that has PyTorch in a process of its own."""

    def ask(self, question: Callable[..., Any], *arguments: Any, **tell: Any) -> Any:
        """Let that process answer a question that takes PyTorch.

        Raises:
            FedskdError: what the question raises, or the death of the process.

        """


@runtime_checkable
class Detachable(Protocol):
    """What a runtime can do whose runs go on without this process, as in a cluster. It holds the
    run folder by itself while it follows a run, and gives nothing up before `accept`.
    """

    def detach(self) -> None:
        """Leave the run to itself: `stop` does nothing then."""

    def accept(self) -> None:
        """Take note that what has come home is whole: nothing there is needed any more."""


class LoggedError(NamedTuple):
    """An error as a member has logged it: when (UNIX seconds), who, what."""

    time: float
    member: str
    error: Error


def error_of(logged: Logged) -> LoggedError | None:
    """Return the error that a line of a log tells of; None for any other line."""
    return (
        LoggedError(logged.time, logged.hospital or CONTROLLER, logged.what)
        if isinstance(logged.what, Error)
        else None
    )


def verdict(errors: Iterable[LoggedError]) -> FedskdError | None:
    """Choose the error that ended a run from those in its logs: a hospital's own before what it
    caused, early before late.
    """
    first = min(errors, key=lambda one: (not one.error.own, one.error.stop, one.time), default=None)
    if first is None:
        return None
    found = rebuilt(first.error.code, first.error.message, fix=first.error.fix, key=first.error.key)
    found.culprit = first.member
    return found
