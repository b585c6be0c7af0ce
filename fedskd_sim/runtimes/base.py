"""The runtime seam: launch a run, wait for it while watching its events, stop it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from fedskd_sim.errors import FedskdError
from fedskd_sim.exits import rebuilt
from fedskd_sim.messages import CONTROLLER
from fedskd_sim.observe.events import Error, Logged
from fedskd_sim.runtimes.folder import RunLocation
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


class LoggedError(NamedTuple):
    """An error as a member has logged it: when (UNIX seconds), who, what."""

    time: float
    member: str
    error: Error


def error_of(logged: Logged) -> LoggedError | None:
    """Give the error that a line of a log tells of; None for any other line."""
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
