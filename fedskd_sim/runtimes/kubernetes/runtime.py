"""The launcher's side: install the chart, show the pods' progress, bring the results home,
remove what is not needed any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from fedskd_sim.errors import (
    ChartNotInstallable,
    CodeDiffers,
    FedskdError,
    HospitalCrashed,
    HospitalLost,
    OutputNotWritable,
    PodCannotStart,
    RegistrationTimeout,
)
from fedskd_sim.exits import rebuilt
from fedskd_sim.messages import CONTROLLER
from fedskd_sim.runtimes import folder
from fedskd_sim.runtimes import place as places
from fedskd_sim.runtimes.base import Order, Told, Watch, verdict
from fedskd_sim.runtimes.kubernetes import inspection, moving, preview, results
from fedskd_sim.runtimes.kubernetes.controller_watch import ControllerWatch
from fedskd_sim.runtimes.kubernetes.following import Follower
from fedskd_sim.runtimes.kubernetes.helm import Helm
from fedskd_sim.runtimes.kubernetes.log_collector import LogCollector
from fedskd_sim.runtimes.kubernetes.pods import exit_code
from fedskd_sim.runtimes.kubernetes.reach import Reach, translate_errors
from fedskd_sim.runtimes.place import InCluster
from fedskd_sim.scenario import Loaded

HELD_TRIES = 50
CONCLUDED = (
    PodCannotStart.exit_code,
    HospitalCrashed.exit_code,
    RegistrationTimeout.exit_code,
    HospitalLost.exit_code,
    CodeDiffers.exit_code,
)
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
    _holds: bool = False
    """The release is left to itself, or has what has not been found whole here."""
    remark: ClassVar = ""
    """Where the controller dies another pod takes over."""
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
        return inspection.goes_on(self.reach, self.release)

    def log_of(self, member: str, *, follow: bool = False) -> Iterator[str]:
        """Yield the lines of a member's pods (`inspection.lines`); raises ClusterUnavailable."""
        return inspection.lines(self.reach, self.release, member, follow=follow)

    def remarks(self) -> Iterator[str]:
        """Yield lines for people on how the run is; raises ClusterUnavailable."""
        return inspection.remarks(self.reach, self.release)

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
        left, follower = set(order.loaded.scenario.names), self._follower()
        controller_watch = ControllerWatch(self.reach, self.release)
        try:
            with closing(LogCollector(self.reach, order.folder, goes_on=True)) as collector:
                while left:
                    with translate_errors():
                        pods, jobs = self.reach.pods(self.release), self.reach.jobs(self.release)
                    collector.follow(pods)
                    follower.show(collector, lambda _: None)
                    left -= moving.take(self.reach, order.folder, pods, left)
                    code = exit_code(pods, jobs)
                    if code is not None and left:
                        raise self._verdict(code, follower.errors)
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
            follower = self._follower()
            ended = follower.follow(collector, watch)
            follower.drain(collector, watch)
            self._holds = True
            missing = results.NONE
            if ended == 0 or follower.started:
                missing = results.fetch(self.reach, self.release, self._order)
            if ended == 0:
                if self._order.loaded.scenario.learns or self._order.resumed:
                    results.check_fetched(self.release, missing, follower.losses.away)
                results.check_whole(self.release, self._order, follower.losses)
        if ended:
            raise self._with_what_is_missing(self._verdict(ended, follower.errors), missing)

    def _with_what_is_missing(self, error: FedskdError, missing: results.Missing) -> FedskdError:
        """Say in the error of a failed run whose records did not come home whole; where all that
        pods hold has come, nothing in the cluster is needed any more.
        """
        if missing.left:
            names = ", ".join(missing.left)
            error.add_note(f"of {names} there is what was logged: no pod holds more")
        if missing.held:
            error.add_note(
                f"what {', '.join(missing.held)} have recorded could not be fetched; the "
                f"release was left: 'fedskd-sim collect {self.release}' tries again"
            )
        else:
            self.accept()
        return error

    def accept(self) -> None:
        """Take note that what has come home is whole: nothing in the cluster is needed any more."""
        self._holds = False
        places.note(self._order.folder, replace(self.place, collected=True))
        if self.keep:
            results.let_go(self.reach, self.release, self._order)

    def stop(self) -> None:
        """Remove the release, unless it was to be kept, or holds what may not be whole here."""
        if self._installed and not self.keep and not self._holds:
            self._helm.uninstall(self.release)
            self._installed = False

    def detach(self) -> None:
        """Leave the run to itself."""
        self._holds = True

    @property
    def _helm(self) -> Helm:
        return Helm(self.namespace, self.context)

    def _follower(self) -> Follower:
        return Follower(self.reach, self.release, self._order, self.custody == "in", self.detach)

    def _verdict(self, code: int, errors: list[Told]) -> FedskdError:
        """Choose the error that ended the run: a hospital's own, else what the controller has
        concluded.
        """
        own = [one for one in errors if one.member != CONTROLLER and one.error.own]
        concluded = [one for one in errors if one.member == CONTROLLER]
        chosen = concluded if code in CONCLUDED or not own else own
        found = verdict(chosen)
        if found:
            return self._order.loaded.place_error(found)
        return rebuilt(
            code,
            f"the controller ended with exit code {code}",
            fix=folder.look_at(self._order.folder, CONTROLLER),
        )
