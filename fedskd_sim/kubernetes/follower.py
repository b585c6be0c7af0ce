"""A run in a cluster as its launcher follows it: pods and logs, to the end of its controller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fedskd_sim import clock
from fedskd_sim.errors import ClusterUnavailable
from fedskd_sim.kubernetes.folders import PodFolders
from fedskd_sim.kubernetes.inspection import ControllerWatch, started
from fedskd_sim.kubernetes.job_annotations import Losses, losses_in, verdict_in
from fedskd_sim.kubernetes.log_collector import LogCollector
from fedskd_sim.kubernetes.pods import ENDED, exit_code, newest
from fedskd_sim.kubernetes.reach import Reach, Unreachable
from fedskd_sim.messages import CONTROLLER
from fedskd_sim.observe import events
from fedskd_sim.runtimes.base import Order, Watch
from fedskd_sim.runtimes.supervisor import LoggedError, error_of

LOOK_S, LOOK_PER_POD_S = 1.0, 0.05
AWAY_S = 600.0
DRAIN_S, LATE_S = 60.0, 15.0
"""So long logs may take to be read to their end; so much later than hospitals."""


@dataclass
class Follower:
    """Shows what the members of a run log, and remembers what decides how it is brought home."""

    reach: Reach
    release: str
    order: Order
    brings: PodFolders | None
    """Hospitals wait for what they go on from, which is in the run folder, and is brought here."""
    leave: Callable[[], None]
    """Is called when the run is to be left to itself."""
    errors: list[LoggedError] = field(default_factory=list)
    holding: set[str] = field(default_factory=set)
    """Hospitals that wait until their results have been fetched."""
    logged: Losses = field(default_factory=Losses)
    """Who is or was lost, and who is back, as far as it has been logged: a controller that is no
    more may have taken some of it along."""
    noted: Losses = field(default_factory=Losses)
    """... and as it is noted on the controller's Job."""
    verdict: events.Error | None = None
    """How the controller says that the run has ended."""
    started: bool = False
    """It has been noted on the controller's Job that the run has begun."""

    @property
    def losses(self) -> Losses:
        """Who is or was lost, and who is back."""
        return self.logged.merged(self.noted)

    def follow(self, collector: LogCollector, watch: Watch) -> int:
        """Show events until the controller's Job has ended; give the run's exit code."""
        answered, next_look = clock.now(), 0.0
        controller_watch = ControllerWatch(self.reach, self.release)
        while True:
            if clock.now() >= next_look:
                try:
                    pods = self.reach.pods(self.release)
                    collector.follow(pods)
                    jobs = self.reach.jobs(self.release)
                    self.noted, self.verdict = losses_in(jobs), verdict_in(jobs)
                    self.started = started(jobs)
                    code = exit_code(pods, jobs)
                    answered = clock.now()
                    next_look = answered + max(LOOK_S, LOOK_PER_POD_S * len(pods))
                    if code is not None:
                        return code
                    for logged in controller_watch.look(pods, jobs):
                        watch(logged)
                except Unreachable as error:
                    self._give_up_after(answered, error)
            self.show(collector, watch)

    def drain(self, collector: LogCollector, watch: Watch) -> None:
        """Read the logs to their end, or until the hospitals hold; of a run that has failed, no
        longer than hospitals have for their goodbye, since one may be why it has failed.
        """
        failed = self.verdict if self.verdict and self.verdict.code else None
        patience = self.order.loaded.scenario.timeouts.goodbye + LATE_S if failed else DRAIN_S
        deadline = clock.now() + patience
        while clock.now() < deadline and not (self.settled(collector) and collector.complete):
            self.show(collector, watch)
        collector.join()
        if failed and not any(told.member == CONTROLLER for told in self.errors):
            self.errors.append(LoggedError(clock.unix(), CONTROLLER, failed))

    def settled(self, collector: LogCollector) -> bool:
        """Return whether nobody is left from whom there is more to come: who is lost may be silent
        for ever.
        """
        try:
            pods = self.reach.pods(self.release)
        except Unreachable:
            return False
        collector.follow(pods)
        speaking = {
            name
            for name, pod in newest(pods).items()
            if pod.status.phase not in (*ENDED, "Pending")
        }
        return speaking <= self.holding | {*self.losses.away}

    def show(self, collector: LogCollector, watch: Watch) -> None:
        """Hand out what was logged since the last call."""
        for logged in collector.events(LOOK_S):
            self.errors += [error] if (error := error_of(logged)) else []
            match logged.what:
                case events.AwaitsCustody() if self.brings:
                    self.brings.bring(self.order.folder, logged.hospital)
                case events.Holding():
                    self.holding.add(logged.hospital)
                case events.LostEvent(_, hospitals):
                    self.logged = self.logged.losing(hospitals)
                case events.BackEvent(_, hospital, round_):
                    self.logged = self.logged.returning(hospital, round_)
            watch(logged)

    def _give_up_after(self, answered: float, error: Unreachable) -> None:
        """Leave the run to itself when the API server has not answered for long."""
        if clock.now() - answered > AWAY_S:
            self.leave()
            text = (
                f"the API server has not answered for {AWAY_S:g} s ({error}); the run goes on "
                "without being watched"
            )
            raise ClusterUnavailable(
                text, fix=f"fedskd-sim collect {self.release} when it is back"
            ) from None
