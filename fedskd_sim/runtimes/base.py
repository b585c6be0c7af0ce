"""The runtime seam: launch a run, wait for it while watching its events, stop it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from fedskd_sim.errors import FedskdError
from fedskd_sim.exits import rebuilt
from fedskd_sim.observe.events import Logged
from fedskd_sim.runtimes.location import RunLocation
from fedskd_sim.runtimes.supervisor import LoggedError
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
        """Return where the run is, once it has been launched, for the run folder."""

    @property
    def remark(self) -> str:
        """Return what of a run that ended well was not as it should be; '' for nothing."""

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
        """Ask that process a question that takes PyTorch.

        Raises:
            FedskdError: what the question raises, or the death of the process.

        """


@runtime_checkable
class Detachable(Protocol):
    """What a runtime can do whose runs go on without this process, as in a cluster. It holds the
    run folder by itself while it follows a run, and gives nothing up before `accept`.
    """

    @property
    def holds(self) -> bool:
        """Whether the cluster has what has not been found whole here: `stop` does nothing then."""

    def detach(self) -> None:
        """Leave the run to itself: `stop` does nothing then."""

    def accept(self) -> None:
        """Take note that what has come home is whole: nothing there is needed any more."""


def verdict(error: LoggedError | None) -> FedskdError | None:
    """Make the error that a member has logged again; None where there is none."""
    if error is None:
        return None
    what = error.error
    found = rebuilt(what.code, what.message, fix=what.fix, key=what.key)
    found.culprit = error.member
    return found
