"""Whether a run begins anew: after which ends, how often, and what is left of it for the next
controller.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from fedskd_sim.errors import (
    ClusterUnavailable,
    FedskdError,
    HospitalCrashed,
    HospitalLost,
    NonFiniteLoss,
    PodCannotStart,
)
from fedskd_sim.kubernetes.afterwards import RESTARTS, begins_anew, release_goes
from fedskd_sim.kubernetes.job_annotations import STARTED
from fedskd_sim.kubernetes.jobs import HOSPITAL


def job(name: str, notes: Mapping[str, str] | None = None, **labels: str) -> Any:
    return SimpleNamespace(
        metadata=SimpleNamespace(name=name, annotations=notes, labels=dict(labels))
    )


@dataclass
class Jobs:
    """The Jobs of a run, and what was done to them."""

    notes: dict[str, str] = field(default_factory=lambda: {STARTED: "1"})
    refuses: str = ""
    gone: list[str] = field(default_factory=list)
    owned: list[tuple[str, ...]] = field(default_factory=list)

    def jobs(self) -> list[Any]:
        if self.refuses == "jobs":
            raise ClusterUnavailable("away")
        hospitals = [job(f"r-{name}", **{HOSPITAL: name}) for name in "ab"]
        return [job("control", self.notes), *hospitals]

    def note(self, name: str, notes: Mapping[str, str | None], _labels: object) -> None:
        assert name == "control"
        for key, value in notes.items():
            self.notes.pop(key, None)
            if value is not None:
                self.notes[key] = value

    def remove(self, name: str) -> None:
        self.gone.append(name)

    def own(self, *what: str) -> None:
        if what[0] == self.refuses:
            raise ClusterUnavailable("may not")
        self.owned.append(what)


def plan(restarts: int, *made: tuple[str, str]) -> Any:
    return SimpleNamespace(max_restarts=restarts, controller="control", made=made)


def test_a_ring_begins_anew_so_often_and_no_oftener() -> None:
    """Nothing tells the next controller that the run was started, but how many tries there were."""
    jobs = Jobs()
    for number in (1, 2):
        words = begins_anew(jobs, plan(2), HospitalLost("'a' is lost"))  # type: ignore[arg-type]
        assert words == f"the run begins anew, restart {number} of 2: 'a' is lost"
        assert jobs.notes == {RESTARTS: str(number)}
        assert jobs.gone == ["r-a", "r-b"]
        jobs.gone.clear()
        jobs.notes[STARTED] = "1"
    assert begins_anew(jobs, plan(2), HospitalLost("'a' is lost")) == ""  # type: ignore[arg-type]
    assert (jobs.gone, jobs.notes[STARTED]) == ([], "1")


@pytest.mark.parametrize(
    ("error", "restarts", "refuses"),
    [
        (NonFiniteLoss("not finite"), 3, ""),
        (PodCannotStart("no node"), 3, ""),
        (HospitalCrashed("dead"), 0, ""),
        (HospitalCrashed("dead"), 3, "jobs"),
    ],
)
def test_what_would_only_come_again_ends_the_run(
    error: FedskdError, restarts: int, refuses: str
) -> None:
    """As does a loss where nobody asked for more, or the API cannot be asked."""
    jobs = Jobs(refuses=refuses)
    assert begins_anew(jobs, plan(restarts), error) == ""  # type: ignore[arg-type]
    assert jobs.gone == []


def test_what_does_not_go_with_a_release_is_named() -> None:
    """All others do."""
    made = [("Secret", "s"), ("Role", "r"), ("ConfigMap", "c")]
    jobs = Jobs(refuses="Role")
    words = release_goes(jobs, plan(0, *made), "uid")  # type: ignore[arg-type]
    assert words.startswith("will not go with the release: Role r (may not")
    assert jobs.owned == [("Secret", "s", "control", "uid"), ("ConfigMap", "c", "control", "uid")]
    assert release_goes(jobs, plan(0), "uid") == ""  # type: ignore[arg-type]
