"""What a run's controller notes on its own Job, for a controller that may come after it and for
whoever looks at the run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from fedskd_sim.routes import NOBODY, Lost, merged

STARTED, TOOK_PART, LOST = "fedskd.io/started", "fedskd.io/pods", "fedskd.io/lost"


class Started(NamedTuple):
    """When an earlier controller started a run (UNIX seconds), with which pods (hospital:
    beginning of the identity), and without whom the ring had gone on since.
    """

    time: float
    pods: Mapping[str, str]
    lost: Lost


def earlier_start(jobs: list[Any], controller: str) -> Started | None:
    """Read whether an earlier controller has started this run."""
    for job in jobs:
        if job.metadata.name == controller:
            notes = job.metadata.annotations or {}
            if STARTED not in notes:
                return None
            pods = json.loads(notes.get(TOOK_PART, "{}"))
            return Started(float(notes[STARTED]), pods, lost_in([job]))
    return None


def lost_in(jobs: Iterable[Any]) -> Lost:
    """Read from a run's Jobs (V1Job) who is lost."""
    found: Lost = NOBODY
    for job in jobs:
        found = merged(found, json.loads((job.metadata.annotations or {}).get(LOST, "{}")))
    return found
