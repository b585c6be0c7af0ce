"""What the faults of a scenario do to a hospital in simulated time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from fedskd_sim.member.faults import abort, fill_disk
from fedskd_sim.member.schedule import FOR_EVER, Place, Schedule, place_of
from fedskd_sim.observe import lives
from fedskd_sim.program import Step
from fedskd_sim.scenario import Fault


class Killed(Exception):
    """The hospital dies here, before it carries out its next effect; it is away for so many
    seconds, for as long as a restart takes, or for ever.
    """

    def __init__(self, away: float | None = None) -> None:
        """Keep the seconds; None: as long as a restart takes."""
        super().__init__()
        self.away = away


class Stalled(Exception):
    """The hospital never ends the step that it is at."""


class Clock(Protocol):
    """What a fault needs of the world; see `fedskd_sim.world.world.World`."""

    @property
    def seconds(self) -> float:
        """The present moment."""

    def later(self, node: Any, delay: float, happen: Callable[[], None]) -> None:
        """Let something happen to a hospital if it has not died by then."""


class Sufferer(Protocol):
    """What a fault needs of the hospital it strikes; see `fedskd_sim.world.node.Node`."""

    asleep: float

    @property
    def world(self) -> Clock:
        """The simulated world it lives in, for its clock."""

    @property
    def reporter(self) -> Any:
        """Notes faults in the hospital's log."""


@dataclass
class Faults:
    """Lets the faults of one hospital happen, each once in all its lives."""

    schedule: Schedule
    _began: float = 0.0
    _place: Place = (0, 0)
    """Where the step under way, or the last one, is."""

    def come_up(self, node: Sufferer) -> None:
        """Begin to count seconds, and wait for what has a time."""
        self.schedule.come_up_again(node.world.seconds - self._began)
        self._began, self._place = node.world.seconds, (0, 0)
        for index in [number for number, one in self.schedule.left.items() if one.what == "late"]:
            self._log(node, self.schedule.left.pop(index))
        for index, fault in self.schedule.timed.items():
            strike = partial(self._strike, node, index, fault)
            node.world.later(node, fault.after or 0.0, strike)

    def before(self, node: Sufferer, step: Step) -> bool:
        """Let happen what is to happen before a step; tells whether the step can begin now.

        Raises:
            Killed: the hospital dies.
            Stalled: it keeps its visitor.
            RunAborted: it ends the run.
            OSError: its disk is full.

        """
        self._place = place_of(step)
        for _, fault in self.schedule.meet(step, self._seconds(node)):
            self._happens(node, fault)
        return node.asleep <= node.world.seconds

    def slowness(self, node: Sufferer) -> float:
        """Say how many times as long a step takes."""
        return self.schedule.slowness(self._seconds(node))

    def _seconds(self, node: Sufferer) -> float:
        return node.world.seconds - self._began

    def _strike(self, node: Sufferer, index: int, fault: Fault) -> None:
        if index in self.schedule.left:
            self.schedule.strike(index, self._seconds(node))
            self._happens(node, fault)

    def _log(self, node: Sufferer, fault: Fault) -> None:
        node.reporter.log(lives.Fault(fault.what, *self._place, fault.lasts))

    def _happens(self, node: Sufferer, fault: Fault) -> None:
        self._log(node, fault)
        match fault.what:
            case "kill" | "restart":
                raise Killed(fault.lasts)
            case "leave":
                raise Killed(FOR_EVER)
            case "stop":
                node.asleep = node.world.seconds + (fault.lasts or FOR_EVER)
            case "stall":
                raise Stalled
            case "abort":
                abort()
            case "full_disk":
                fill_disk()
