"""What a run's controller notes on its own Job, for a controller that may come after it and for
whoever looks at the run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from fedskd_sim.observe.events import Error
from fedskd_sim.ring.routes import (
    NO_RETURN,
    NOBODY,
    Back,
    LostHospitals,
    Returns,
    code,
    decoded,
    merged,
    merged_returns,
)

STARTED, TOOK_PART = "fedskd.io/started", "fedskd.io/pods"
LOST, BACK = "fedskd.io/lost", "fedskd.io/back"
VERDICT = "fedskd.io/verdict"
"""How the run has ended: an `Error` as a log tells it, with code 0 where it has ended well."""
WELL = Error(0, own=True, message="")


class Losses(NamedTuple):
    """Who is or was lost, and who of them is back, or was until it was lost again. Of two views
    none is wrong, one may be older.
    """

    lost: LostHospitals = NOBODY
    back: Returns = NO_RETURN

    @property
    def away(self) -> LostHospitals:
        """Those without whom the ring goes on."""
        return {
            name: retires
            for name, retires in self.lost.items()
            if (back := self.back.get(name)) is None or back.away
        }

    def merged(self, other: Losses) -> Losses:
        """Return what is known by either view."""
        return Losses(merged(self.lost, other.lost), merged_returns(self.back, other.back))

    def losing(self, hospitals: LostHospitals) -> Losses:
        """Return what is known once these are away, whoever of them was back."""
        again = {
            name: Back(back.round, away=True)
            for name, back in self.back.items()
            if name in hospitals
        }
        return Losses(merged(self.lost, hospitals), merged_returns(self.back, again))

    def returning(self, hospital: str, round_: int) -> Losses:
        """Return what is known once a hospital is back from a round on."""
        return self.merged(Losses({hospital: 0}, {hospital: Back(round_)}))

    def notes(self) -> dict[str, str]:
        """Write them as annotations."""
        back = {name: code(one) for name, one in self.back.items()}
        return {LOST: json.dumps(dict(self.lost)), BACK: json.dumps(back)}


class Started(NamedTuple):
    """When an earlier controller started a run (UNIX seconds), with which pods (hospital:
    beginning of the identity), and without whom the ring had gone on since.
    """

    time: float
    pods: Mapping[str, str]
    losses: Losses


def earlier_start(jobs: list[Any], controller: str) -> Started | None:
    """Read whether an earlier controller has started this run."""
    for job in jobs:
        if job.metadata.name == controller:
            notes = job.metadata.annotations or {}
            if STARTED not in notes:
                return None
            pods = json.loads(notes.get(TOOK_PART, "{}"))
            return Started(float(notes[STARTED]), pods, losses_in([job]))
    return None


def verdict_note(verdict: Error) -> dict[str, str]:
    """Write how the run has ended as an annotation."""
    return {VERDICT: json.dumps(asdict(verdict))}


def verdict_in(jobs: Iterable[Any]) -> Error | None:
    """Read how a run has ended from its controller's Job (V1Job), the last one made; None while
    nothing has been concluded.
    """
    noted = [job for job in jobs if VERDICT in (job.metadata.annotations or {})]
    if not noted:
        return None
    last = max(noted, key=lambda job: job.metadata.creation_timestamp)
    try:
        told = json.loads(last.metadata.annotations[VERDICT])
        return Error(**told | {"key": tuple(told["key"]), "stop": tuple(told["stop"])})
    except (ValueError, KeyError, TypeError):  # of another version: its Job's end says it too
        return None


def losses_in(jobs: Iterable[Any]) -> Losses:
    """Read from a run's Jobs (V1Job) who is or was lost."""
    found = Losses()
    for job in jobs:
        notes = job.metadata.annotations or {}
        codes = json.loads(notes.get(BACK, "{}"))
        back = {name: one for name, number in codes.items() if (one := decoded(number))}
        found = found.merged(Losses(json.loads(notes.get(LOST, "{}")), back))
    return found
