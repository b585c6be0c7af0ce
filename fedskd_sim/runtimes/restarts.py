"""Which dead hospitals are started again: those that were killed, and not over and over at the
same place.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fedskd_sim.observe.events import Back, Event, Finished, Lost
from fedskd_sim.scenario import Scenario


@dataclass
class Restarts:
    """The restarts of a run; none without custody, from which a hospital goes on."""

    most: int
    """How often in a row, without a record in between."""
    lost: set[str] = field(default_factory=set)
    """Hospitals without which the ring goes on."""
    _tried: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, scenario: Scenario) -> Restarts:
        """Read the policy from the scenario."""
        restarts = scenario.custody.enabled and scenario.on_loss.name != "abort"
        return cls(scenario.custody.restarts if restarts else 0)

    def allow(self, name: str, code: int) -> bool:
        """Tell whether a hospital that ended with an exit code (-N: by signal N) is to be started
        again, and count it.

        An error of its own would only come again; a signal is nobody's word.
        """
        if code >= 0 or self._tried.get(name, 0) >= self.most:
            return False
        self._tried[name] = self._tried.get(name, 0) + 1
        return True

    def note(self, name: str, what: Event) -> None:
        """Note that a hospital has left a record, and who is lost, or back."""
        match what:
            case Finished():
                self._tried.pop(name, None)
            case Lost(_, hospitals):
                self.lost |= {*hospitals}
            case Back(_, hospital):
                self.lost.discard(hospital)

    def attempts(self, name: str) -> int:
        """Count the restarts in a row."""
        return self._tried.get(name, 0)
