"""The runtime seam: launch a run, wait for it while watching its events, stop it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fedskd_sim.scenario import Loaded

Event = Mapping[str, Any]
Watch = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Order:
    """One run to carry out: the scenario, a name for the run, its folder and where data files are."""

    loaded: Loaded
    run: str
    folder: Path
    data: Path | None = None


class Runtime(Protocol):
    """A place where a run can happen. Records, weights and logs are in the order's folder when `wait` returns."""

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
