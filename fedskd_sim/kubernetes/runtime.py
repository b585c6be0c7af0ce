"""The launcher's side of a run in a cluster: check what an installation would send, so that pods
that the API does not know are told by line; install the chart, show the pods' progress, bring the
results home, which every hospital holds until they have come, and remove what is not needed any
more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from pathlib import Path
from typing import Any, ClassVar, Literal

from kubernetes.client.exceptions import ApiException

from fedskd_sim.custody.expected import ways_left
from fedskd_sim.errors import (
    ChartNotInstallable,
    ClusterUnavailable,
    FedskdError,
    Key,
    OutputNotWritable,
    ScenarioError,
    Where,
)
from fedskd_sim.exits import rebuilt
from fedskd_sim.kubernetes import inspection
from fedskd_sim.kubernetes.folders import NONE, SILENT_S, Missing, PodFolders, check_kept
from fedskd_sim.kubernetes.follower import Follower
from fedskd_sim.kubernetes.helm import Helm
from fedskd_sim.kubernetes.inspection import ControllerWatch, started
from fedskd_sim.kubernetes.job_annotations import Losses
from fedskd_sim.kubernetes.jobs import HOSPITAL, check_pod, job
from fedskd_sim.kubernetes.log_collector import LogCollector
from fedskd_sim.kubernetes.overlay import Patch, anywhere
from fedskd_sim.kubernetes.overlay import check as check_patch
from fedskd_sim.kubernetes.plan import Plan
from fedskd_sim.kubernetes.pods import exit_code
from fedskd_sim.kubernetes.reach import Reach, Unreachable, translate_errors
from fedskd_sim.messages import CONTROLLER
from fedskd_sim.records.files import read_records
from fedskd_sim.ring.routes import LostHospitals, Routes
from fedskd_sim.ring.topology import Topology
from fedskd_sim.runtimes import folder, location
from fedskd_sim.runtimes.base import Order, Watch, verdict
from fedskd_sim.runtimes.location import InCluster
from fedskd_sim.runtimes.supervisor import LoggedError, blame_of_pods
from fedskd_sim.scenario import Loaded, Scenario
from fedskd_sim.scenario.document import Document, parse, read

CONTROLLER_POD = ("controller", "pod")
POD_KEYS = (("pod",), ("gpu", "pod"))


def check(scenario: Scenario, render: Callable[[], Iterable[str]], values: Iterable[Path]) -> Plan:
    """Check the pods of all members.

    Args:
        scenario: of the run.
        render: gives the run's ConfigMap and the controller's Job, as the chart writes them; it
            refuses mistaken patches too, but knows no files, and is asked when they are checked.
        values: files of the chart's values; the last one that has a key is to blame for it.

    Returns:
        The place of the run, as the chart makes it.

    Raises:
        InvalidValue: a pod is none, or a patch has mistakes; the error names file and line of the
            values, or the key.

    """
    documents = list(_read(values))

    def locate(key: tuple[Key, ...]) -> Where:
        return next(
            (Where(one.file, one.lines[key]) for one in reversed(documents) if key in one.lines),
            anywhere(key),
        )

    for patch in _patches(documents):
        check_patch(patch, locate)
    objects: dict[str, Any] = {
        body["kind"]: body for body in (parse("the chart", text).data for text in render())
    }
    plan = Plan.parse("plan.json", objects["ConfigMap"]["data"]["plan.json"]).check_names(
        scenario.names
    )
    patches = [one for one in _patches(documents) if one.place == CONTROLLER_POD]
    check_pod("the controller", objects["Job"]["spec"]["template"]["spec"], patches, locate)
    for name in scenario.names:
        job(scenario, plan, name, "", locate)
    return plan


def _patches(documents: Iterable[Document]) -> Iterator[Patch]:
    """List the patches of pods that stand in files of values; whatever else is wrong with one is
    helm's to say.
    """
    for document in documents:
        named = _part(_part(document.data, "hospitals"), "overrides")
        members = [("defaults",), *(("overrides", name) for name in named)]
        places = [("hospitals", *member, *key) for member in members for key in POD_KEYS]
        for place in (*places, CONTROLLER_POD):
            yield Patch(place, reduce(_part, place, document.data))


def _part(values: Any, key: Key) -> Mapping[str, Any]:
    inner = values.get(key) if isinstance(values, Mapping) else None
    return inner if isinstance(inner, Mapping) else {}


def _read(values: Iterable[Path]) -> Iterable[Document]:
    """Read files for the sake of their lines; what helm reads and this program does not has no
    lines.
    """
    for file in values:
        try:
            yield read(file)
        except ScenarioError:
            continue


def check_fetched(release: str, missing: Missing, lost: LostHospitals) -> None:
    """Refuse to end well while final weights are missing; who was lost may have left them nowhere.

    Raises:
        ClusterUnavailable: something is missing; the release has it still.

    """
    whose = {**missing.left, **missing.held}
    owed = {name: why for name, why in whose.items() if name not in lost}
    if owed:
        text = (
            f"the run ended well, but the final weights of {', '.join(owed)} could not be "
            f"fetched: {[*owed.values()][-1]}"
        )
        fix = (
            f"fedskd-sim collect {release}; the release was left"
            if any(name in missing.held for name in owed)
            else "raise holdSeconds in the chart's values, or let hospitals keep what they have on "
            f"claims; the release {release!r} was left"
        )
        raise ClusterUnavailable(text, fix=fix)


def check_whole(release: str, order: Order, losses: Losses) -> None:
    """Refuse to end well while records are missing, whatever became of the logs that they were
    in.

    Raises:
        RunUnreadable: there are none.
        ClusterUnavailable: some are missing.

    """
    records = read_records(order.folder)
    tested = {(record.host, record.model) for record in records if record.kind == "evaluation"}
    missing = [
        name
        for name, models in _owed(order, losses).items()
        if any((name, model) not in tested for model in models)
    ]
    if missing:
        text = (
            f"the run ended well, but not all records of {', '.join(missing)} could be read from "
            "the logs of their pods"
        )
        raise ClusterUnavailable(text, fix=f"fedskd-sim collect {release}; the release was left")


def _owed(order: Order, losses: Losses) -> dict[str, list[str]]:
    """Return which models every hospital must have tested: all, but for those that have retired,
    and nobody who was lost and is not back.
    """
    scenario: Scenario = order.loaded.scenario
    ring = Topology.of(scenario)
    ways = ways_left(order.folder, ring) if scenario.on_loss.heals else Routes(ring)
    known = Losses(ways.lost, ways.back).merged(losses)
    ways = replace(ways, lost=known.lost, back=known.back)
    models = [model for model in scenario.members if not ways.retired(model, ring.evaluation_round)]
    return {name: models for name in scenario.names if not ways.left_out(name)}


HELD_TRIES = 50


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
    _owes: bool = False
    """Its hospitals may have what was not fetched."""
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
        plan = check(order.loaded.scenario, render, self.values)
        if order.resumed and self.custody != "in":
            check_kept(plan, order.loaded.scenario.names)
        self.run, self.resumed = plan.run, order.resumed
        if order.resumed:
            folder.set_logs_aside(order.folder)
        try:
            self._helm.install(*asked)
        except ChartNotInstallable:
            self._helm.remove_failed(self.release)
            raise
        self._installed = self._owes = True

    def attach(self, order: Order | None) -> None:
        """Take charge of a run that is there already; None only to stop it."""
        self._installed = True
        if order:
            self._order, self._owes = order, True

    def exists(self) -> bool:
        """Return whether the release is in the cluster."""
        return self._helm.exists(self.release)

    def given(self) -> dict[str, str]:
        """Read the scenario from the release, and what lies beside it, by the names of the files;
        raises ChartNotInstallable if there is none.
        """
        return self._helm.given(self.release)

    def goes_on(self) -> bool:
        """Return whether the run is there and its controller has not ended; raises
        ClusterUnavailable.
        """
        return inspection.goes_on(self.reach, self.release)

    def is_spent(self) -> bool:
        """Return whether the run has ended and its pods have left, without claims: what is not home
        does not come any more; raises ClusterUnavailable.
        """
        with translate_errors():
            pods, jobs = self.reach.pods(self.release), self.reach.jobs(self.release)
            if not jobs or exit_code(pods, jobs) is None:
                return False
            worn = [one.metadata.labels for one in jobs]
            return self._folders().have_left(one[HOSPITAL] for one in worn if HOSPITAL in one)

    def log_of(self, member: str, *, follow: bool = False) -> Iterator[str]:
        """Yield the lines of a member's pods (`inspection.lines`); raises ClusterUnavailable."""
        return inspection.lines(self.reach, self.release, member, follow=follow)

    def remarks(self) -> Iterator[str]:
        """Yield lines for people on how the run is; raises ClusterUnavailable."""
        return inspection.remarks(self.reach, self.release)

    @property
    def place(self) -> InCluster:
        """Return where the run is, for the run folder."""
        return InCluster(
            self.release, self.namespace, self.context, run=self.run, resumed=self.resumed
        )

    def take_out(self, order: Order) -> None:
        """Install the chart only to bring what hospitals go on from into the folder; raises
        FedskdError, and the claims keep it.
        """
        self.launch(order)
        left, follower = set(order.loaded.scenario.names), self._follower()
        controller_watch, folders = ControllerWatch(self.reach, self.release), self._folders()
        self._owes = False
        try:
            with closing(LogCollector(self.reach, order.folder, goes_on=True)) as collector:
                while left:
                    with translate_errors():
                        pods, jobs = self.reach.pods(self.release), self.reach.jobs(self.release)
                    collector.follow(pods)
                    follower.show(collector, lambda _: None)
                    left -= folders.take(order.folder, pods, left)
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
            missing = NONE
            if ended == 0 or follower.started:
                missing = self._folders().fetch_all(
                    self._order.loaded.scenario, self._order.folder, follower.losses.away
                )
            self._owes = False
            if ended == 0:
                if self._order.loaded.scenario.learns or self._order.resumed:
                    check_fetched(self.release, missing, follower.losses.away)
                check_whole(self.release, self._order, follower.losses)
        if ended:
            raise self._with_what_is_missing(self._verdict(ended, follower.errors), missing)

    def _with_what_is_missing(self, error: FedskdError, missing: Missing) -> FedskdError:
        """Add to the error of a failed run whose records did not come home whole; where all that
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
        location.note(self._order.folder, replace(self.place, collected=True))
        if self.keep:
            self._folders().let_go(self._order.loaded.scenario.names)

    @property
    def holds(self) -> bool:
        """Whether the release was left to itself, or has what has not been found whole here."""
        return self._holds

    def stop(self) -> None:
        """Remove the release, unless it was to be kept, or holds what may not be whole here."""
        if not self._installed or self.keep or self._holds:
            return
        try:
            if self._owes:
                self._save()
        finally:
            self._helm.uninstall(self.release)
            self._installed = self._owes = False

    def _save(self) -> None:
        """Bring home what hospitals have recorded of a run that is stopped; who does not answer
        soon is not waited for.
        """
        order, folders = self._order, PodFolders(self.reach, self.release, 1, SILENT_S)
        with suppress(FedskdError, Unreachable, ApiException), folder.hold_lock(order.folder):
            if started(self.reach.jobs(self.release)):
                folders.fetch_all(order.loaded.scenario, order.folder, claims=False)

    def detach(self) -> None:
        """Leave the run to itself."""
        self._holds = True

    @property
    def _helm(self) -> Helm:
        return Helm(self.namespace, self.context)

    def _follower(self) -> Follower:
        brings = self._folders() if self.custody == "in" else None
        return Follower(self.reach, self.release, self._order, brings, self.detach)

    def _folders(self) -> PodFolders:
        return PodFolders(self.reach, self.release)

    def _verdict(self, code: int, errors: list[LoggedError]) -> FedskdError:
        """Choose the error that ended the run: a hospital's own, else what the controller has
        concluded.
        """
        found = verdict(blame_of_pods(code, errors))
        if found:
            return self._order.loaded.place_error(found)
        return rebuilt(
            code,
            f"the controller ended with exit code {code}",
            fix=folder.look_at(self._order.folder, CONTROLLER),
        )
