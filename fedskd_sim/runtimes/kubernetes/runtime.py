"""The launcher's side: install the chart, show the pods' progress, bring the results home,
remove what is not needed any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from fedskd_sim import clock
from fedskd_sim.errors import (
    ChartNotInstallable,
    ClusterUnavailable,
    FedskdError,
    HospitalCrashed,
    OutputNotWritable,
    PodCannotStart,
    RegistrationTimeout,
    RunUnreadable,
)
from fedskd_sim.exits import rebuilt
from fedskd_sim.messages import CONTROLLER
from fedskd_sim.observe import events, lives
from fedskd_sim.recordfiles import read_records
from fedskd_sim.runtimes import folder
from fedskd_sim.runtimes import place as places
from fedskd_sim.runtimes.base import Order, Told, Watch, error_of, verdict
from fedskd_sim.runtimes.kubernetes import moving, preview
from fedskd_sim.runtimes.kubernetes.controller_watch import ControllerWatch
from fedskd_sim.runtimes.kubernetes.helm import Helm
from fedskd_sim.runtimes.kubernetes.jobs import HOSPITAL
from fedskd_sim.runtimes.kubernetes.log_collector import LogCollector
from fedskd_sim.runtimes.kubernetes.pods import ENDED, exit_code, finding, finished, newest
from fedskd_sim.runtimes.kubernetes.reach import Reach, Unreachable, translate_errors
from fedskd_sim.runtimes.place import InCluster
from fedskd_sim.scenario import Loaded

LOOK_S, LOOK_PER_POD_S = 1.0, 0.05
BACKOFF_S, LONGEST_BACKOFF_S = 10, 360
AWAY_S = 600.0
DRAIN_S = 60.0
HELD_TRIES = 50
CONCLUDED = (PodCannotStart.exit_code, HospitalCrashed.exit_code, RegistrationTimeout.exit_code)
"""Ends that the controller knows more of than any hospital."""


@dataclass
class KubernetesRuntime:
    """A run in a cluster, launched here or followed from here."""

    release: str
    namespace: str = ""
    context: str = ""
    values: tuple[Path, ...] = ()
    keep: bool = False
    """Leave the release in the cluster when the run has ended."""
    run: str = ""
    """The run that goes on here; empty for a new one."""
    resumed: bool = False
    """It goes on with what it has left earlier, which is in the run folder."""
    custody: Literal["", "in", "out"] = ""
    """Hospitals wait until what they go on from has been brought from the run folder, or taken out
    into it."""
    reach: Reach = field(init=False)
    _installed: bool = False
    _errors: list[Told] = field(default_factory=list)
    _holding: set[str] = field(default_factory=set)
    _order: Order = field(init=False)

    def prepare(self, loaded: Loaded) -> None:
        """Find the cluster, the namespace and helm; raises ClusterUnavailable,
        ChartNotInstallable, RunExists.
        """
        self.release = self.release or loaded.scenario.name
        self.connect()
        self.reach.check()
        self._helm.check_free(self.release)

    def connect(self) -> None:
        """Read the cluster's configuration; raises ClusterUnavailable."""
        self.reach = Reach(self.namespace, self.context)
        self.namespace = self.reach.namespace

    def launch(self, order: Order) -> None:
        """Install the chart; raises RunExists, ChartNotInstallable, InvalidValue."""
        self._order = order
        anyway = "yes" if order.anyway else ""
        more = {
            "resume.run": self.run,
            "resume.custody": self.custody,
            "resume.anyway": anyway,
        }
        asked = (
            self.release,
            order.folder / "scenario.yaml",
            self.values,
            {key: value for key, value in more.items() if value},
        )
        render = partial(self._helm.render, *asked)
        plan = preview.check(order.loaded.scenario, render, self.values)
        if order.resumed and self.custody != "in":
            moving.check_kept(plan, order.loaded.scenario.names)
        self.run, self.resumed = plan.run, order.resumed
        if order.resumed:
            folder.set_logs_aside(order.folder)
        try:
            self._helm.install(*asked)
        except ChartNotInstallable:
            self._helm.remove_failed(self.release)
            raise
        self._installed = True

    def attach(self, order: Order | None) -> None:
        """Take charge of a run that is there already; None only to stop it."""
        self._installed = True
        if order:
            self._order = order

    def exists(self) -> bool:
        """Tell whether the release is in the cluster."""
        return self._helm.exists(self.release)

    def scenario(self) -> str:
        """Read the scenario from the release; raises ChartNotInstallable if there is none."""
        return self._helm.scenario(self.release)

    def goes_on(self) -> bool:
        """Tell whether the run is there and its controller has not ended; raises
        ClusterUnavailable.
        """
        with translate_errors():
            jobs = self.reach.jobs(self.release)
            return bool(jobs) and exit_code(self.reach.pods(self.release), jobs) is None

    def log_of(self, member: str, *, follow: bool = False) -> Iterator[str]:
        """Yield the lines of a member's pods, oldest first, of the newest also those that come;
        raises ClusterUnavailable.
        """
        try:
            pods = [
                pod
                for pod in self.reach.pods(self.release)
                if pod.metadata.labels.get(HOSPITAL, CONTROLLER) == member
            ]
            begun = [
                pod
                for pod in sorted(pods, key=lambda pod: pod.metadata.creation_timestamp)
                if pod.status.phase != "Pending"
            ]
            for pod in begun:
                yield from self.reach.lines(
                    pod.metadata.name, member, follow=follow and pod is begun[-1]
                )
        except Unreachable as error:
            raise ClusterUnavailable(
                f"the API server does not answer: {error}", fix="try again"
            ) from None

    def remarks(self) -> Iterator[str]:
        """Yield lines for people on pods that do not run and on Jobs that wait before another
        try.
        """
        with translate_errors():
            pods, jobs = self.reach.pods(self.release), self.reach.jobs(self.release)
        for pod in pods:
            found = finding(pod)
            if found.standing != "running":
                yield f"{pod.metadata.name}: {found.standing}" + (
                    f", {found.text}" if found.text else ""
                )
        active = {
            pod.metadata.labels.get(HOSPITAL, CONTROLLER)
            for pod in pods
            if pod.status.phase in ("Pending", "Running")
        }
        for job in jobs:
            name = job.metadata.labels.get(HOSPITAL, CONTROLLER)
            if job.status.failed and name not in active and not finished(job):
                pause = min(BACKOFF_S * 2 ** (job.status.failed - 1), LONGEST_BACKOFF_S)
                yield (
                    f"{name}: lost {job.status.failed} pods; the cluster makes the next {pause} s "
                    "after the last was lost"
                )
        place = ControllerWatch(self.reach, self.release).place(pods)
        yield from [place] if place else []
        code = exit_code(pods, jobs) if jobs else None
        yield {
            None: "the run goes on" if jobs else "there is no such run",
            0: "the run has ended well",
        }.get(code, f"the run has ended with exit code {code}")

    @property
    def place(self) -> InCluster:
        """Say where the run is, for the run folder."""
        return InCluster(
            self.release, self.namespace, self.context, run=self.run, resumed=self.resumed
        )

    def take_out(self, order: Order) -> None:
        """Install the chart only to bring what hospitals go on from into the folder; raises
        FedskdError, and the claims keep it.
        """
        self.launch(order)
        left = set(order.loaded.scenario.names)
        controller_watch = ControllerWatch(self.reach, self.release)
        try:
            with closing(LogCollector(self.reach, order.folder, goes_on=True)) as collector:
                while left:
                    with translate_errors():
                        pods, jobs = self.reach.pods(self.release), self.reach.jobs(self.release)
                    collector.follow(pods)
                    self._show(collector, lambda _: None, LOOK_S)
                    left -= moving.take(self.reach, order.folder, pods, left)
                    code = exit_code(pods, jobs)
                    if code is not None and left:
                        raise self._verdict(code)
                    list(controller_watch.look(pods, jobs))
        finally:
            self.stop()

    def wait(self, watch: Watch) -> None:
        """Follow the run to its end and fetch its results; raises the error that ended it.

        Raises:
            OutputNotWritable: another process follows this run into the same folder; the run is
                left to it.

        """
        with ExitStack() as stack:
            try:
                stack.enter_context(folder.hold_lock(self._order.folder, tries=HELD_TRIES))
            except OutputNotWritable:
                self.detach()
                raise
            collector = stack.enter_context(
                closing(LogCollector(self.reach, self._order.folder, self._order.resumed))
            )
            ended = self._follow(collector, watch)
            self._drain(collector, watch)
            if ended == 0:
                self._fetch()
                self._check_whole()
            places.note(self._order.folder, replace(self.place, collected=True))
        if ended:
            raise self._verdict(ended)

    def stop(self) -> None:
        """Remove the release, unless it was to be kept or holds results that were not fetched."""
        if self._installed and not self.keep:
            self._helm.uninstall(self.release)
            self._installed = False

    def detach(self) -> None:
        """Leave the run to itself."""
        self.keep = True

    @property
    def _helm(self) -> Helm:
        return Helm(self.namespace, self.context)

    def _follow(self, collector: LogCollector, watch: Watch) -> int:
        """Show events until the controller's Job has ended; give the run's exit code."""
        answered, next_look = clock.now(), 0.0
        controller_watch = ControllerWatch(self.reach, self.release)
        while True:
            if clock.now() >= next_look:
                try:
                    pods = self.reach.pods(self.release)
                    collector.follow(pods)
                    jobs = self.reach.jobs(self.release)
                    code = exit_code(pods, jobs)
                    answered = clock.now()
                    next_look = answered + max(LOOK_S, LOOK_PER_POD_S * len(pods))
                    if code is not None:
                        return code
                    for logged in controller_watch.look(pods, jobs):
                        watch(logged)
                except Unreachable as error:
                    self._give_up_after(answered, error)
            self._show(collector, watch, LOOK_S)

    def _give_up_after(self, answered: float, error: Unreachable) -> None:
        """Leave the run to itself when the API server has not answered for long."""
        if clock.now() - answered > AWAY_S:
            self.detach()
            text = (
                f"the API server has not answered for {AWAY_S:g} s ({error}); the run goes on "
                "without being watched"
            )
            raise ClusterUnavailable(
                text, fix=f"fedskd-sim collect {self.release} when it is back"
            ) from None

    def _drain(self, collector: LogCollector, watch: Watch) -> None:
        """Read the logs to their end, or until the hospitals hold."""
        deadline = clock.now() + DRAIN_S
        while clock.now() < deadline and not (self._settled(collector) and collector.complete):
            self._show(collector, watch, LOOK_S)

    def _settled(self, collector: LogCollector) -> bool:
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
        return speaking <= self._holding

    def _show(self, collector: LogCollector, watch: Watch, patience: float) -> None:
        for logged in collector.events(patience):
            self._errors += [error] if (error := error_of(logged)) else []
            if isinstance(logged.what, lives.AwaitsCustody) and self.custody == "in":
                moving.bring(self.reach, self.release, self._order.folder, logged.hospital)
            if isinstance(logged.what, events.Holding):
                self._holding.add(logged.hospital)
            watch(logged)

    def _fetch(self) -> None:
        """Bring the final weights home from every hospital, with its records, of which a cluster
        keeps only so much log.
        """
        if not self._order.loaded.scenario.learns and not self._order.resumed:
            return
        missing: dict[str, str] = {}
        kept, self.keep = self.keep, True  # whatever goes wrong now, the release has the results
        for name in self._order.loaded.scenario.names:
            trouble = moving.retry(partial(self._fetch_from, name))
            missing |= {name: trouble} if trouble else {}
        if missing:
            text = (
                f"the run ended well, but the final weights of {', '.join(missing)} could not be "
                f"fetched: {missing.popitem()[1]}"
            )
            raise ClusterUnavailable(
                text,
                fix=f"raise holdSeconds in the chart's values; the release {self.release!r} was "
                "left",
            )
        self.keep = kept

    def _fetch_from(self, name: str) -> None:
        pod = moving.pod_of(self.reach, self.release, name)
        self.reach.fetch(pod, name, self._order.folder)

    def _check_whole(self) -> None:
        """Neither end well nor remove the release while records are missing, whatever became of
        the logs that they were in.
        """
        scenario = self._order.loaded.scenario
        try:
            records = read_records(self._order.folder)
        except RunUnreadable:
            self.detach()
            raise
        tested = {(record.host, record.model) for record in records if record.kind == "evaluation"}
        missing = [
            name
            for name in scenario.names
            if any((name, model) not in tested for model in scenario.members)
        ]
        if missing:
            self.detach()
            text = (
                f"the run ended well, but not all records of {', '.join(missing)} could be read "
                "from the logs of their pods"
            )
            raise ClusterUnavailable(
                text, fix=f"fedskd-sim collect {self.release}; the release was left"
            )

    def _verdict(self, code: int) -> FedskdError:
        """Choose the error that ended the run: a hospital's own, else what the controller has
        concluded.
        """
        own = [one for one in self._errors if one.member != CONTROLLER and one.error.own]
        concluded = [one for one in self._errors if one.member == CONTROLLER]
        chosen = concluded if code in CONCLUDED or not own else own
        found = verdict(chosen)
        if found:
            return self._order.loaded.place_error(found)
        return rebuilt(
            code,
            f"the controller ended with exit code {code}",
            fix=folder.look_at(self._order.folder, CONTROLLER),
        )
