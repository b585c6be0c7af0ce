"""How a run went in time, as its page tells it: the picture of journeys, and what disturbed
them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedskd_sim.report import lamport
from fedskd_sim.report.absences import Absence, Troubles
from fedskd_sim.report.journeys import Journeys
from fedskd_sim.report.lamport import Scene
from fedskd_sim.report.spans import Spans

MOST_ROWS = 40


@dataclass(frozen=True)
class Course:
    """When hospitals did what, which models went where, and what struck them."""

    spans: Spans
    journeys: Journeys
    troubles: Troubles
    everyone: int
    """How many hospitals there are."""

    @property
    def drawn_whole(self) -> bool:
        """Tell whether the picture of journeys has everything."""
        return self.journeys.whole and len(self.journeys.hosts) == self.everyone

    def on_page(self, models: tuple[str, ...]) -> dict[str, Any]:
        """Give what the page shows of it; ``models``: whose there are, in the order of their
        colours.
        """
        from markupsafe import Markup  # noqa: PLC0415 - only the page needs it

        scene = Scene.of(self.journeys, self.troubles, models)
        zero = self.spans.range[0] if len(self.spans) else 0.0
        struck, repeats = self.troubles.absences, self.journeys.repeats
        return {
            "restarts": self.spans.restarts,
            "names": Markup(lamport.names(scene)) if scene else "",  # noqa: S704 - made here, names escaped
            "lines": Markup(lamport.lines(scene)) if scene else "",  # noqa: S704 - as above
            "looks": Markup(lamport.style(len(models))) if scene else "",  # noqa: S704 - as above
            "some_journeys": self._sampling(scene) if scene else "",
            "drawn_whole": self.drawn_whole,
            "struck": [_row(one, zero) for one in struck[:MOST_ROWS]],
            "repeats": repeats[:MOST_ROWS],
            "more_struck": max(0, len(struck) - MOST_ROWS),
            "more_repeats": self.journeys.more_repeats + max(0, len(repeats) - MOST_ROWS),
            "undisturbed": self.journeys.attempts_known and not struck and not repeats,
            "simulated": self.troubles.simulated,
        }

    def _sampling(self, scene: Scene) -> str:
        """Say what is not drawn; nothing where everything is."""
        drawn = len(self.journeys.hosts)
        some = (
            f"The first {drawn} of {self.everyone} hospitals; models that go to others are not "
            "drawn. "
            if drawn < self.everyone
            else ""
        )
        if self.journeys.whole:
            return some
        rounds = (
            f"up to the end of round {self.journeys.last}"
            if self.journeys.cut and self.journeys.fits
            else "a part of the first round"
        )
        zero, last = self.spans.range
        return (
            f"{some}The beginning of the run, {rounds}: {scene.last - scene.zero:.3g} of "
            f"{last - zero:.3g} seconds."
        )


def _row(one: Absence, zero: float) -> Sequence[str]:
    """Write hospital, what, round, hop, from, to (seconds since the first start) and seconds;
    blank what is not known.
    """
    return (
        one.host,
        one.what.replace("_", " "),
        str(one.round or ""),
        str(one.hop or ""),
        *(
            f"{value:,.3f}" if math.isfinite(value) else ""
            for value in (one.start - zero, one.end - zero)
        ),
        f"{one.seconds:.3g}" if math.isfinite(one.seconds) else "",
    )
