"""Who judges the controller: the launcher looks at its Job and pod as the controller looks at
those of the hospitals.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from fedskd_sim import clock
from fedskd_sim.errors import PodCannotStart
from fedskd_sim.observe import events
from fedskd_sim.observe.events import Logged
from fedskd_sim.runtimes.kubernetes.jobs import FINAL_CODES, HOSPITAL
from fedskd_sim.runtimes.kubernetes.marks import STARTED
from fedskd_sim.runtimes.kubernetes.pods import (
    STARTING,
    Finding,
    finding,
    finished,
    newest,
    of_controller,
    refusal,
)
from fedskd_sim.runtimes.kubernetes.queues import group_of, place
from fedskd_sim.runtimes.kubernetes.reach import Reach

PATIENCE_S = 300.0
"""How long the controller may be without a pod that runs, where the cluster tries again."""
STARTING_S = 20.0
"""A pod whose containers have been made for so long is told of."""
POD = r'pods "[^"]+"'
"""The name that the cluster gives every try."""
MOST_DEATHS = 3
"""A controller that has died so often without a word of its own will die again."""


@dataclass
class ControllerWatch:
    """Tells why a run's controller does not run, and when there is no more hope that it will."""

    reach: Reach
    release: str
    _told: set[str] = field(default_factory=set)
    _place: str = ""
    _since: float | None = None
    _alone: float = 0.0
    """When hospitals were last seen at work without their controller."""

    def look(self, pods: list[Any], jobs: list[Any]) -> Iterator[Logged]:
        """Yield what has changed, for people.

        A ring that has been started goes on without its controller, whose next pod takes it over:
        while any hospital is at work, nothing ends the run from here.

        Raises:
            PodCannotStart: the controller will never run, or has not for long.

        """
        place = self.place(pods)
        if place != self._place and place:
            yield Logged(clock.unix(), "", events.Waiting(place))
        self._place = place
        found = self.diagnose(pods, jobs)
        if found is None:
            self._told, self._since = set(), None
            return
        self._since = clock.now() if self._since is None else self._since
        alone = started(jobs) and at_work(pods)
        words = re.sub(POD, "pods", found.text)
        if words not in self._told and (
            found.text != STARTING or clock.now() - self._since > STARTING_S
        ):
            self._told.add(words)
            text = f"the controller does not run: {found.text}"
            text += "; the hospitals go on without it" if alone else ""
            yield Logged(clock.unix(), "", events.Waiting(text))
        self._alone = clock.now() if alone else self._alone
        waited = clock.now() - max(self._since, self._alone)
        if not alone and (found.standing == "hopeless" or waited > PATIENCE_S):
            fix = (
                f"look at the chart's values, and at the events of namespace {self.reach.namespace}"
            )
            raise PodCannotStart(f"the controller cannot run: {found.text}", fix=fix)

    def place(self, pods: list[Any]) -> str:
        """Say where the ring stands in a queue; empty where it stands in none."""
        group = group_of(pods)
        return place(*group, self.reach.workloads()) if group else ""

    def diagnose(self, pods: list[Any], jobs: list[Any]) -> Finding | None:
        """Say why the controller does not run; None if it does, or has ended."""
        own = [job for job in jobs if HOSPITAL not in (job.metadata.labels or {})]
        if not own or finished(own[-1]) or own[-1].spec.suspend:
            return None
        mine = sorted(of_controller(pods), key=lambda pod: pod.metadata.creation_timestamp)
        if not mine:
            complaint = self.reach.complaint(own[-1].metadata.name)
            return refusal(complaint) if complaint else None
        now, dead = (
            finding(mine[-1]),
            [one for one in map(finding, mine) if one.standing == "failed"],
        )
        if now.standing in ("running", "succeeded", "leaving") or now.code in FINAL_CODES:
            return None  # the last is the run's end, which its Job is about to have
        if dead and len(dead) >= MOST_DEATHS:
            return Finding(
                "hopeless", f"{len(dead)} of its pods have failed, the last because {dead[-1].text}"
            )
        return now if now.text else None


def started(jobs: list[Any]) -> bool:
    """Tell whether a controller has noted on its Job (V1Job) that the run has started."""
    return any(STARTED in (job.metadata.annotations or {}) for job in jobs)


def at_work(pods: list[Any]) -> bool:
    """Tell whether any hospital's pod (V1Pod) runs."""
    return any(finding(pod).standing == "running" for pod in newest(pods).values())
