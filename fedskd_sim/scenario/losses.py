"""What a run does when a hospital is lost, as keys of the scenario."""

from __future__ import annotations

from typing import Literal

from fedskd_sim.scenario.part import Part, SomeSeconds

BEATS = 4
"""Signs of life in the time after which a hospital without one is lost."""
MOST_BEAT_S = 2.5


class OnLoss(Part):
    """What happens when a hospital dies for good, or gives no sign of life."""

    name: Literal["wait", "skip", "abort"] = "wait"
    """wait: it is started again as ``custody.restarts`` permits and waited for as ``timeouts`` say,
    then the run ends with an error; skip: so it is, but once nothing was heard of it for ``after``
    seconds the ring goes on without it, until it is back at the beginning of a round; abort: nobody
    is started again, and whoever is not heard of for so long, or fails, ends the run at once."""
    after: SomeSeconds = 60.0
    """Seconds without a sign of life after which a hospital is lost."""
    model: Literal["travels", "retires"] = "travels"
    """With skip, what becomes of the model whose home is lost: it travels on among the others and
    is tested in the end, or its stops are left out from the next round on."""

    @property
    def heals(self) -> bool:
        """Whether the ring goes on without a hospital that is lost."""
        return self.name == "skip"

    @property
    def beat(self) -> float:
        """Seconds between two signs of life; 0 where nobody watches for them."""
        return 0.0 if self.name == "wait" else min(self.after / BEATS, MOST_BEAT_S)
