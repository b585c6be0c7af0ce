"""The controller in a cluster: one Job per hospital, made suspended once what an earlier run of the
release has left is gone, released together, watched until the run has ended.

It survives its own restart: Jobs that exist are not made again, and a run that has been started is
taken over.

A hospital that was lost may be taken in again. On a claim any pod of a hospital goes on from what
the one before it kept. Without one, only the pod with which the run began has what the hospital
had: another one, which its Job makes, would begin anew under its name, and train what its records
say is trained already. A word does not say from which pod it comes, so the cluster is asked which
ones there are, when a hospital asks to be taken in and again just before it is: whoever speaks has
been there before it spoke.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event as Flag
from threading import Lock, Thread
from typing import Any

from kubernetes.client.exceptions import ApiException

from fedskd_sim import clock
from fedskd_sim.errors import FedskdError, HospitalLost, PodCannotStart, RegistrationTimeout
from fedskd_sim.exits import rebuilt
from fedskd_sim.kubernetes.afterwards import AGAIN, begins_anew, release_goes
from fedskd_sim.kubernetes.cluster import AT_ONCE, KubernetesApi
from fedskd_sim.kubernetes.job_annotations import WELL, Losses, Started, earlier_start, verdict_in
from fedskd_sim.kubernetes.jobs import FINISHING, HOSPITAL, job
from fedskd_sim.kubernetes.plan import Plan
from fedskd_sim.kubernetes.pod_tracker import PodTracker
from fedskd_sim.kubernetes.pods import ENDED, finished
from fedskd_sim.kubernetes.reasons import fix_of
from fedskd_sim.kubernetes.run_state import ENDED_WELL, FAILED, NotedLog, RunState, StateInApi
from fedskd_sim.kubernetes.suspension import go_on, pause
from fedskd_sim.member.controller import Controller
from fedskd_sim.member.reporter import error_event
from fedskd_sim.messages import CONTROLLER, Failed, FromController, ToController
from fedskd_sim.observe import events
from fedskd_sim.observe.events import EventLog
from fedskd_sim.protocol.controller import CONSEQUENCES
from fedskd_sim.ring.routes import LostHospitals, Returns
from fedskd_sim.ring.topology import Topology
from fedskd_sim.runtimes.member import MemberOrder, log_error
from fedskd_sim.runtimes.supervisor import UID, Rules
from fedskd_sim.scenario import Loaded, raise_all, spaceless
from fedskd_sim.transport import NothingReceived, Unwelcome
from fedskd_sim.transport.zeromq import Hub, Keys

EARLIER_LOOK_S = 2.0


def await_gone(cluster: KubernetesApi, plan: Plan, owner: str, log: EventLog) -> None:
    """Wait until pods of hospitals of earlier runs have gone, which hold their GPUs until then, and
    Jobs of this run's names, which a run that goes on right after it was stopped meets.

    Pods that are still there when all hospitals should be up are left alone.

    Args:
        cluster: the API, for objects of this run.
        plan: the place of the run.
        owner: the identity of the run's ConfigMap; Jobs that it owns were made by this controller
            before it was restarted.
        log: is told what is waited for.

    Raises:
        PodCannotStart: Jobs of these names are still there by then.

    """
    hospitals = f"app.kubernetes.io/instance={plan.release},{HOSPITAL}"
    deadline, told = clock.now() + plan.startup_seconds, ""
    while True:
        jobs = [job for job in cluster.jobs() if job.metadata.name != plan.controller]
        earlier = sorted(job.metadata.name for job in jobs if not is_own(job, owner))
        own = {job.metadata.uid for job in jobs if is_own(job, owner)}
        pods = [pod for pod in cluster.pods_of(hospitals) if not own & {*_owners(pod)}]
        late = clock.now() > deadline
        if late and earlier:
            raise _in_the_way(plan, earlier)
        if late or not (earlier or pods):
            return
        words = f"{len(pods)} pods and {len(earlier)} Jobs of an earlier run have not gone yet"
        if words != told:
            log.event(events.WaitingEvent(words))
        told = words
        clock.sleep(EARLIER_LOOK_S)


def check_own(cluster: KubernetesApi, plan: Plan, names: tuple[str, ...], owner: str) -> None:
    """Refuse to go on with Jobs that somebody else has made; raises PodCannotStart."""
    own = {job.metadata.name for job in cluster.jobs() if is_own(job, owner)}
    strange = sorted({plan.job(name) for name in names} - own)
    if strange:
        raise _in_the_way(plan, strange)


def is_own(job: Any, owner: str) -> bool:
    """Return whether a Job (V1Job) was made for the ConfigMap of this identity, and stays."""
    return owner in _owners(job) and job.metadata.deletion_timestamp is None


def _owners(found: Any) -> Iterator[str]:
    return (reference.uid for reference in found.metadata.owner_references or ())


def _in_the_way(plan: Plan, jobs: list[str]) -> PodCannotStart:
    return PodCannotStart(
        f"Jobs of other runs have the names of this run's: {', '.join(jobs)}",
        fix=f"kubectl delete job -n {plan.namespace} {' '.join(jobs)}, and see what keeps them: "
        "metadata.finalizers",
    )


AGAIN_S = 10.0
"""After a question that the API server did not answer, how long it is not asked again: the run
waits for the answer."""


@dataclass
class Returners:
    """Compares the pods of lost hospitals with those that took part."""

    cluster: KubernetesApi
    pod_tracker: PodTracker
    _unanswered: float | None = field(default=None, init=False)

    def may_return(self, name: str) -> bool | None:
        """Return whether a lost hospital that was heard is the one that was lost, with all that it
        had; None: that cannot be seen now, or its pod is about to go.
        """
        if name in self.pod_tracker.rules.survivors:
            return True
        if self._unanswered is not None and clock.now() < self._unanswered + AGAIN_S:
            return None
        try:
            pods = self.cluster.pods_now(name)
        except (FedskdError, ApiException):
            self._unanswered = clock.now()
            return None
        return same_pod(pods, self.pod_tracker.took_part(name))


def same_pod(pods: Sequence[Any], first: str) -> bool | None:
    """Return whether of a hospital's pods (V1Pod) only the one runs whose identity begins like
    this; None while it is about to go, or another runs beside it.
    """
    alive = [pod for pod in pods if pod.status.phase not in ENDED]
    if not first or not any(pod.metadata.uid[:UID] == first for pod in alive):
        return False
    return True if len(alive) == 1 and not alive[0].metadata.deletion_timestamp else None


LOOK_S = 0.5
THREADS_LOOKS, THREADS_LOOK_S = 50, 0.1
STUCK = 0.5
"""What the cluster tries again may fail for this part of the time until all must be up."""
COMPLAINTS_S, LONGEST_COMPLAINTS_S, COMPLAINTS_GROW = 3.0, 30.0, 1.2
STARTUP_FIX = "see the logs of these hospitals, or raise startupSeconds of the chart's values"


@dataclass
class PodAwareHub:
    """The controller's transport: what hospitals say, and what their pods show."""

    hub: Hub
    pod_tracker: PodTracker
    queued_s: float = 0.0
    """How long pods have waited in a queue until now, which no time-out counts."""
    _looked: float = field(init=False)

    def __post_init__(self) -> None:
        """Begin to measure."""
        self._looked = clock.now()

    def send(self, to: str, message: FromController) -> None:
        """Send a word to a hospital."""
        self.hub.send(to, message)

    def receive(self, timeout: float) -> ToController | Unwelcome:
        """Wait for a hospital's word or a conclusion from its pod; raises NothingReceived.

        A hospital that has waited in vain for another is told of a moment later: until then its
        pod's end may be known, which is the cause.
        """
        begun = self.time()
        while True:
            concluded = self.pod_tracker.conclusion()
            if concluded:
                return concluded
            left = begun + timeout - self.time()
            try:
                message = self.hub.receive(min(LOOK_S, max(0.0, left)))
            except NothingReceived:
                if left <= 0:
                    raise
                continue
            if not (isinstance(message, Failed) and message.code in CONSEQUENCES):
                return message
            self.pod_tracker.waited_in_vain(message)

    def time(self) -> float:
        """Return the time, which stands still while pods wait in a queue."""
        now = clock.now()
        self.queued_s += now - self._looked if self.pod_tracker.queued() else 0.0
        self._looked = now
        return now - self.queued_s

    def close(self) -> None:
        """Free the address."""
        self.hub.close()


@dataclass
class RunController:
    """Leads one run in a cluster."""

    plan: Plan
    loaded: Loaded
    log: EventLog
    cluster: KubernetesApi
    pod_tracker: PodTracker
    notes: StateInApi
    _losses: Losses = field(default_factory=Losses)
    """Who is or was lost, and who is back."""
    _noting: Lock = field(default_factory=Lock)
    _over: Flag = field(default_factory=Flag)
    """The run has ended."""
    _beside: list[Thread] = field(default_factory=list)
    """What goes on beside, and ends before this process does."""

    def control(self, keys: Keys) -> None:
        """Lead the run to its end, or find that it has ended; raises the error that ended it. What
        is concluded stands in the API before this returns: a controller that finds it there
        concludes the same.
        """
        try:
            jobs = self.cluster.jobs()
            started = earlier_start(jobs, self.plan.controller)
            if started:
                self.pod_tracker.began(started.pods)
                self._losses = started.losses
            own = [job for job in jobs if job.metadata.name == self.plan.controller]
            self.notes.uid = own[-1].metadata.uid if own else ""
            found = verdict_in(own)
            if found is None:
                self._lead(keys, started)
                self._note_verdict(WELL)
            elif found.code:
                self._end_as(found)
        except FedskdError as error:
            if words := begins_anew(self.cluster, self.plan, error):
                self.log.event(events.WaitingEvent(words))
                self.notes.write()
                sys.exit(AGAIN)
            log_error(self.log, self.loaded.place_error(error))
            self._note_verdict(error_event(error))
            self._sweep()
            raise
        except SystemExit:  # somebody takes the pod away
            rules = self.pod_tracker.rules
            mortal = {*rules.names} - {*rules.survivors} - {*self._losses.away}
            pause(self.cluster, self.plan, self.notes, mortal)
            raise
        finally:
            self._end_threads()
            self.log.event(events.Api(dict(self.cluster.calls)))

    def _begin(self, work: Callable[[], None]) -> None:
        """Do something beside."""
        self._beside.append(Thread(target=work, daemon=True))
        self._beside[-1].start()

    def _end_threads(self) -> None:
        """Wait until nothing goes on beside: a thread that is in the middle of a write when Python
        ends makes it abort. One that waits for the API server is in none, and is not waited for.
        """
        self._over.set()
        self.notes.close()
        for _ in range(THREADS_LOOKS):
            self.cluster.close()  # again: a watch may just be about to open
            going = [thread for thread in self._beside if thread.is_alive()]
            if not going:
                return
            going[0].join(THREADS_LOOK_S)

    def _lead(self, keys: Keys, started: Started | None) -> None:
        """Make the hospitals' Jobs, lead the run to its end; raises the error that ended it."""
        with closing(PodAwareHub(Hub(self.plan.bind, keys), self.pod_tracker)) as transport:
            self.log.event(events.Listening(self.plan.hub))
            self._begin(self.notes.keep_written)
            controller = Controller(
                self.loaded.scenario, self.plan.run, transport, self.log, self._mark,
                losing=self._note_lost, now=transport.time,
            )  # fmt: skip
            controller.admit_only(Returners(self.cluster, self.pod_tracker).may_return)
            if started is None:
                owner = self.cluster.owner_uid(self.plan.owner)
                await_gone(self.cluster, self.plan, owner, self.log)
                self._make_hospitals(owner)
            else:
                self.log.event(events.Resumed(started.time))
                names = self.loaded.scenario.names
                addresses = {name: self.plan.address(name) for name in names}
                controller.resume(addresses, keys.members, *started.losses)
                stopped = go_on(self.cluster, self.plan, self._losses.away)
                self.pod_tracker.resuming(stopped, clock.now() + self.plan.startup_seconds)
            for work in (self._watch, self._listen_for_complaints):
                self._begin(work)
            try:
                end = controller.serve()
            except FedskdError as error:
                self._explain(error)
                raise
        if end.code:
            ended = rebuilt(end.code, end.reason, fix=fix_of(end.reason))
            ended.second_hand = end.code != PodCannotStart.exit_code
            raise ended
        self._let_go(controller.state.away)

    def _explain(self, error: FedskdError) -> None:
        """Add to an error what the pods show, and whose patience it was."""
        if isinstance(error, RegistrationTimeout) and error.key:  # not the scenario's
            error.fix, error.key = STARTUP_FIX, ()
        if isinstance(error, RegistrationTimeout | HospitalLost):
            told = self.pod_tracker.summary()
            if told and isinstance(error, RegistrationTimeout):  # no log has more than this
                error.fix = f"{fix_of(told)}; or raise startupSeconds of the chart's values"
            error.message += f" ({told})" if told else ""

    def _make_hospitals(self, owner: str) -> None:
        names = self.loaded.scenario.names
        bodies = [job(self.loaded.scenario, self.plan, name, owner) for name in names]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            if not all(list(pool.map(self.cluster.create, bodies))):
                check_own(self.cluster, self.plan, names, owner)
            self.log.event(events.Created(len(bodies)))
            list(pool.map(self.cluster.release, [self.plan.job(name) for name in names]))
        self.log.event(events.Released(len(bodies)))

    def _note_verdict(self, verdict: events.Error) -> None:
        outcome = FAILED if verdict.code else ENDED_WELL
        told = f"exit code {verdict.code}: {verdict.message}" if verdict.code else ""
        with suppress(FedskdError, ApiException):  # the exit code says it, too
            self.notes.end(outcome, told, verdict)
        if words := release_goes(self.cluster, self.plan, self.notes.uid):
            self.log.event(events.WaitingEvent(words))

    def _end_as(self, verdict: events.Error) -> None:
        """End as an earlier controller did, which has died after that; raises its error."""
        for pod in self.cluster.pods_of(f"{self.cluster.selector},{HOSPITAL}"):
            self.pod_tracker.saw("MODIFIED", pod)
        self._begin(self._watch)
        error = rebuilt(verdict.code, verdict.message, fix=verdict.fix)
        error.second_hand, error.stop = not verdict.own, verdict.stop
        raise error

    def _sweep(self) -> None:
        """Leave no hospital behind that would wait for a run which has failed: a Job whose pod
        crashed makes another one, for which a queue would keep its room. One that took part holds
        what it has recorded, and is given its time.
        """
        if self.plan.queue:
            with suppress(FedskdError):  # what ended the run is what is to be told
                self.cluster.annotate_pods(*FINISHING)
        goodbye = clock.now() + self.loaded.scenario.timeouts.goodbye
        self._await_end_of(self.pod_tracker.at_work, goodbye)
        self._suspend_but(self.pod_tracker.holding())
        if self.pod_tracker.holding():
            self._await_end_of(self.pod_tracker.holding, goodbye + self.plan.hold_seconds)
            self._suspend_but(set())

    def _await_end_of(self, names: Callable[[], set[str]], deadline: float) -> None:
        while clock.now() < deadline and names():
            clock.sleep(LOOK_S)

    def _suspend_but(self, names: set[str]) -> None:
        """Suspend the Jobs of all other hospitals that have not finished."""
        with suppress(FedskdError, ApiException):  # what ended the run is what is to be told
            for found in self.cluster.jobs():
                hospital = found.metadata.labels.get(HOSPITAL)
                others = found.metadata.name != self.plan.controller and hospital not in names
                if others and not finished(found):
                    self.cluster.suspend(found.metadata.name)

    def _let_go(self, lost: Collection[str]) -> None:
        """Suspend the Jobs of hospitals that are lost, which would find nobody; one that
        is there keeps its log.
        """
        if self._losses.lost:
            self._write_lost()
        if not lost:
            return
        with suppress(FedskdError, ApiException):  # the run has ended well all the same
            if self.plan.queue:
                self.cluster.annotate_pods(*FINISHING)
            idle = {*lost} - self.pod_tracker.at_work()
            for found in self.cluster.jobs():
                if found.metadata.labels.get(HOSPITAL) in idle and not finished(found):
                    self.cluster.suspend(found.metadata.name)

    def _note_lost(self, lost: LostHospitals, back: Returns) -> None:
        """Note on the controller's Job who is lost, and who is back; the API server may be away,
        and nobody waits for it.
        """
        for name in {*self._losses.away} - {*Losses(lost, back).away}:
            self.pod_tracker.is_back(name)
        self._losses = Losses(lost, back)
        self._begin(self._write_lost)

    def _write_lost(self) -> None:
        with self._noting, suppress(FedskdError, ApiException):  # hospitals know, too
            self.cluster.mark_lost(self.plan.controller, self._losses)

    def _mark(self) -> None:
        with self._noting:
            started = self.cluster.mark_started(self.plan.controller, self._losses)
        self.pod_tracker.began(started)

    def _watch(self) -> None:
        try:
            for kind, pod in self.cluster.pods():
                self.pod_tracker.saw(kind, pod)
        except Exception as error:  # noqa: BLE001 - the run needs no watch, and its log must say that it is blind now
            if self._over.is_set():
                return
            self.log.event(events.Blind(str(error)))

    def _listen_for_complaints(self) -> None:
        """Look at the namespace's events as long as a hospital has no pod, or one that does not
        start: seldom where that lasts.
        """
        by_job = {self.plan.job(name): name for name in self.loaded.scenario.names}
        pause = COMPLAINTS_S
        while not self._over.wait(pause):
            if not self.pod_tracker.complains():
                pause = COMPLAINTS_S
                continue
            with suppress(FedskdError, ApiException):  # a run needs no word of them
                self.pod_tracker.told(self.cluster.events(), by_job)
            pause = min(LONGEST_COMPLAINTS_S, pause * COMPLAINTS_GROW)


def control(folder: Path, secret: Path) -> None:
    """Be the controller of a cluster's run.

    Args:
        folder: the ConfigMap as mounted: ``scenario.yaml`` and ``plan.json``.
        secret: the file with the run secret.

    Raises:
        FedskdError: the run ended with an error.

    """
    plan = Plan.read(folder / "plan.json")
    order = MemberOrder(
        folder / "scenario.yaml", CONTROLLER, plan.run, folder, plan.bind, plan.hub, secret=secret,
        patience=plan.startup_seconds, to_stdout=True,
    )  # fmt: skip
    with order.log() as log:
        loaded = order.read_and_tell(log)
        try:
            controller, keys = _prepare(plan, order, loaded, log)
        except FedskdError as error:
            log_error(log, loaded.place_error(error))
            raise
        controller.control(keys)


def _prepare(
    plan: Plan, order: MemberOrder, loaded: Loaded, log: EventLog
) -> tuple[RunController, Any]:
    """Make the controller of a run, and read the keys; raises FedskdError."""
    names = loaded.scenario.names
    plan.check_names(names)
    raise_all(loaded.document, spaceless(loaded.scenario.hospitals))
    selector = f"app.kubernetes.io/instance={plan.release},fedskd.io/run={plan.run}"
    aborts = loaded.scenario.on_loss.name == "abort"
    kept = {
        name: plan.startup_seconds
        for name in names
        if loaded.scenario.custody.enabled and plan.custody(name) and not aborts
    }
    cluster = KubernetesApi(plan.namespace, selector)
    state = RunState(Topology.of(loaded.scenario), loaded.scenario.learns)
    notes = StateInApi(cluster, plan.controller, state)
    log = NotedLog.of(log, notes.take)
    rules = Rules(names, survivors=kept, patience={
        "hopeless": 0.0, "stuck": plan.startup_seconds * STUCK,
        "unschedulable": plan.unschedulable_seconds,
    })  # fmt: skip
    controller = RunController(plan, loaded, log, cluster, PodTracker(rules, log), notes)
    return controller, order.read_keys(loaded.scenario)
