"""The runtime seam: launch a run, wait for it while watching its events, stop it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fedskd_sim.errors import FedskdError
from fedskd_sim.exits import rebuilt
from fedskd_sim.scenario import Loaded

Event = Mapping[str, Any]
Watch = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Order:
    """One run to carry out: the scenario, a name for the run, its folder and where data files are.

    ``resumed``: the folder has the custody of the run's hospitals, and they go on from it; ``anyway``: even where what they run on
    has changed since.
    """

    loaded: Loaded
    run: str
    folder: Path
    data: Path | None = None
    resumed: bool = False
    anyway: bool = False


class Runtime(Protocol):
    """A place where a run can happen. Records, weights and logs are in the order's folder when `wait` returns."""

    @property
    def place(self) -> Mapping[str, Any]:
        """Say where the run is, once it has been launched, for the run folder."""

    def prepare(self, loaded: Loaded) -> None:
        """Get ready in the background for a scenario that is still being checked; `launch` may follow or not.

        Raises:
            FedskdError: no run can happen here.

        """

    def launch(self, order: Order) -> None:
        """Start the controller and all hospitals; raises FedskdError if one cannot be started."""

    def wait(self, watch: Watch) -> None:
        """Follow the run to its end, calling ``watch`` with every event of a hospital's or the controller's log.

        Raises:
            FedskdError: the error that ended the run.

        """

    def stop(self) -> None:
        """End everything that still runs; calling it after a finished run does nothing."""


def verdict(errors: Iterable[Event]) -> FedskdError | None:
    """Choose the error that ended a run from those in its logs: a hospital's own before what it caused, early before late."""
    first = sorted(errors, key=lambda event: (not event["own"], event["stop"], event["time"]))
    if not first:
        return None
    return rebuilt(first[0]["code"], first[0]["message"], fix=first[0]["fix"], key=tuple(first[0]["key"]))
