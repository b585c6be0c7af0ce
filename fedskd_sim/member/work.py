"""A hospital at work: the thread that trains takes one step of the program after the other from its
mailbox, lets the learner carry it out, and hands back what came of it; no sockets.

What goes on from a step is released first; its digest for the record is taken, and it is measured,
while it is on its way: on the copy that stays here until its receiver has it.

What a learner has promised to give is looked at where it gives it: an algorithm that forgets a
return value, or lets something else go on than the model it was asked for, is told of its method
here, and not of its neighbour's silence two minutes later.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from fedskd_sim import clock
from fedskd_sim.custody.archive import SESSIONS, SessionKey, SessionStart, SessionWatch
from fedskd_sim.errors import FedskdError
from fedskd_sim.learning.base import Learner, Measures, Session
from fedskd_sim.member.crash import PRINTED, crash, whereabouts
from fedskd_sim.member.faults import FaultInjector
from fedskd_sim.member.keeper import Freezer
from fedskd_sim.member.schedule import StepPosition
from fedskd_sim.member.shell import Task
from fedskd_sim.messages import Buffer, Forms, Weights, digest, size
from fedskd_sim.records import Measure, Record, StepOutcome
from fedskd_sim.ring.program import Step
from fedskd_sim.ring.topology import Stop, Topology
from fedskd_sim.scenario import Scenario

if TYPE_CHECKING:
    from fedskd_sim.member.mailbox import Mailbox


def check_session(learner: Learner, method: str, given: Any) -> Session:
    """Return what a method gave; raises TypeError if it is no session that a record can tell
    of.
    """
    what = f"{type(learner).__name__}.{method}"
    if not isinstance(given, Session):
        raise TypeError(f"{what} has to give a Session, not {_kind(given)}")
    if given.outcome not in get_args(StepOutcome):
        known = ", ".join(get_args(StepOutcome))
        raise TypeError(f"{what}: the outcome of a Session is one of {known}, not {given.outcome}")
    if not isinstance(given.reason, str) or not all(
        type(count) is int for count in (given.samples, given.steps)
    ):
        raise TypeError(f"{what}: a Session's samples and steps are int, its reason is str")
    check_measures(learner, method, given.measures)
    check_weights(learner, method, given.weights, ())
    return given


def check_measures(learner: Learner, method: str, given: Any) -> Measures:
    """Return what a method has measured; raises TypeError if these are no measures by name."""
    what = f"{type(learner).__name__}.{method}"
    if not isinstance(given, Mapping):
        raise TypeError(f"{what} has to give measures by name, not {_kind(given)}")
    for name, value in given.items():
        if not isinstance(name, str) or not isinstance(value, Measure):
            text = f"Measure(sum, weight), not {_kind(value)}"
            raise TypeError(f"{what}: what is measured as {name!r} has to be {text}")
    return given


def check_weights(learner: Learner, method: str, given: Any, forms: Forms) -> Weights:
    """Return the weights that a method lets go on; raises TypeError if they are none, or have
    none of the ``forms`` in which others await them (none are given: any may be).
    """
    what = f"{type(learner).__name__}.{method}"
    if not isinstance(given, Mapping) or not all(isinstance(one, Buffer) for one in given.values()):
        raise TypeError(f"{what} has to give weights, named buffers, not {_kind(given)}")
    if forms and not any(_unlike(given, form) is None for form in forms):
        nearest = next((form for form in forms if form.keys() == given.keys()), forms[0])
        raise TypeError(
            f"{what} lets other weights go on than the model's: {_unlike(given, nearest)}"
        )
    return given


def join_measures(trained: Measures, assessed: Measures) -> Measures:
    """Put the measures of a record together; raises TypeError for a name that would be in it
    twice.
    """
    for name in trained.keys() & assessed.keys():
        raise TypeError(f"both the session and assess() measure {name!r}: rename one of the two")
    return {**trained, **assessed}


def _unlike(given: Weights, form: Mapping[str, Any]) -> str | None:
    """Return what of some weights is not as in a form."""
    for name, spec in form.items():
        if name not in given:
            return f"{name!r} is missing"
        found = given[name].dtype, tuple(given[name].shape)
        if found != tuple(spec):
            return f"{name!r} is {_shape(*found)}, not {_shape(*spec)}"
    more = [name for name in given if name not in form]
    return f"there is no {more[0]!r} in it" if more else None


def _shape(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} {tuple(shape)}"


def _kind(given: Any) -> str:
    """Name what was given instead."""
    return "None (is a return missing?)" if given is None else type(given).__name__


Result = TypeVar("Result")
ReleaseWeights = Callable[[Weights, str], None]
"""Lets weights go on, with their digest where it is known."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A model that is hosted: its weights, and the digest with which they came."""

    weights: Weights
    digest: str


@dataclass(frozen=True, slots=True)
class Worker:
    """Carries out the steps of a hospital's program: each one calls the learner and gives the
    record that belongs to it.

    It knows no links, no custody and no protocol; the `Shell` says which step is next. ``span``
    notes what took how long (what, at which stop, since which UNIX second, and its seconds in
    mini-batches), ``expect`` makes ready for a model.
    """

    scenario: Scenario
    topology: Topology
    name: str
    learner: Learner
    span: Callable[[str, Stop, float, float], None]
    expect: Callable[[str], None]
    spoil: Callable[[StepPosition, Weights], Weights] = lambda _, weights: weights
    """Gives what goes on, after a round and hop, in place of weights that would."""
    archive: SessionWatch | None = None
    """Keeps sessions so that they can be executed again."""

    def carry_out(
        self, step: Step, arrival: Arrival | None, release: ReleaseWeights
    ) -> Record | None:
        """Carry out a step; gives its record, or None where it leaves none."""
        match step.action:
            case "warm_up":
                return self._alone(step, "warm_up", "warm_up", self.learner.warm_up)
            case "alone":
                return self._alone(step, "alone", "session", lambda: self.learner.alone(step.round))
            case "depart":
                leaving = self._leaves("depart", self.name, self.learner.depart(step.round))
                release(self.spoil((step.round, 0), leaving), "")
                return None
            case "home":
                return self._test(
                    step, 0, "evaluation", lambda: self.learner.evaluate(self.name, None)
                )
            case "ensemble":
                return self._test(step, self.topology.behind, "ensemble", self.learner.ensemble)
        if step.stop is None or arrival is None:
            raise RuntimeError(step)
        return self._host(step.stop, arrival, release)

    def make_ready(self, stop: Stop | None) -> None:
        """Make ready for the model of the next stop: it may arrive while this one trains."""
        if stop is not None and stop.kind not in ("reduce", "gather"):
            self.expect(stop.model)

    def _host(self, stop: Stop, arrival: Arrival, release: ReleaseWeights) -> Record:
        if not arrival.digest:  # it stayed here, where the stop between was at a lost hospital
            arrival = replace(arrival, digest=digest(arrival.weights))
        if stop.kind == "evaluation":
            measures = self._measures(
                "evaluate", stop, lambda: self.learner.evaluate(stop.model, arrival.weights)
            )
            return self._record(
                stop,
                Session(arrival.weights, "evaluated"),
                (arrival.digest, arrival.digest),
                measures,
            )
        start = self._copied(stop.kind, stop, arrival.weights)
        if stop.kind == "homecoming":
            session = self._session(
                "homecome", stop, lambda: self.learner.homecome(stop, arrival.weights)
            )
            mark = ""
        else:
            session = self._session(
                "visit", stop, lambda: self.learner.visit(stop, arrival.weights)
            )
            self._leaves("visit", stop.model, session.weights)
            spoiled = self.spoil((stop.round, stop.hop), session.weights)
            start = start if spoiled is session.weights else None
            session = replace(session, weights=spoiled)
            mark = arrival.digest if session.weights is arrival.weights else ""
            release(session.weights, mark)
        marks = arrival.digest, mark or digest(session.weights)
        record = self._record(stop, session, marks, self._assess(stop))
        self._keep(start, session)
        return record

    def _alone(
        self, step: Step, kind: str, what: str, train: Callable[[], Session | None]
    ) -> Record | None:
        stop = self._at_home(step)
        start = self._copied(kind, stop)
        given = self._time(what, stop, train)
        if given is None and kind == "alone":
            return None
        session = check_session(self.learner, kind, given)
        marks = "", digest(session.weights)
        record = self._record(stop, session, marks, self._assess(stop))
        self._keep(start, session)
        return replace(record, kind=kind)  # type: ignore[arg-type]

    def _test(
        self, step: Step, hop: int, kind: str, test: Callable[[], Measures | None]
    ) -> Record | None:
        """Test the own model (hop 0: the diagonal of the K x K matrix), or all finished models
        together, on the own test data.
        """
        stop = Stop(step.round, hop, self.name, self.name, "evaluation")
        start = clock.unix()
        measures = test()
        if measures is None:
            return None
        self.span("evaluation", stop, start, 0.0)
        method = "ensemble" if kind == "ensemble" else "evaluate"
        check_measures(self.learner, method, measures)
        return replace(self._record(stop, Session({}, "evaluated"), ("", ""), measures), kind=kind)  # type: ignore[arg-type]

    def _copied(
        self, kind: str, stop: Stop, arriving: Weights | None = None
    ) -> SessionStart | None:
        """Copy what a session begins with, where it may be kept: never a secret key."""
        secret = self.scenario.hospital(self.name).privacy_is_secret
        if self.archive is None or kind not in SESSIONS or secret:
            return None
        key = SessionKey(kind, stop.round, stop.hop, stop.host, stop.model)
        return self.archive.begin(SessionStart(key, *self.learner.state(), arriving))

    def _keep(self, start: SessionStart | None, session: Session) -> None:
        """Keep a session, which has left already."""
        if self.archive is not None and start is not None:
            self.archive.keep(start, session.weights)

    def _session(self, method: str, stop: Stop, train: Callable[[], Session]) -> Session:
        return check_session(self.learner, method, self._time("session", stop, train))

    def _leaves(self, method: str, model: str, given: Weights) -> Weights:
        """Return weights of a model that leave this hospital, as its next host awaits them."""
        forms = self.learner.expected.get(model, ())
        return check_weights(self.learner, method, given, forms)

    def _assess(self, stop: Stop) -> Measures:
        return self._measures("assess", stop, self.learner.assess)

    def _measures(self, method: str, stop: Stop, work: Callable[[], Measures]) -> Measures:
        return check_measures(self.learner, method, self._time("evaluation", stop, work))

    def _at_home(self, step: Step) -> Stop:
        return Stop(step.round, 0, self.name, self.name, "homecoming")

    def _time(self, what: str, stop: Stop, work: Callable[[], Result]) -> Result:
        start = clock.unix()
        result = work()
        if result is not None:
            self.span(what, stop, start, getattr(result, "training", 0.0))
        return result

    def _record(
        self, stop: Stop, session: Session, marks: tuple[str, str], measures: Measures
    ) -> Record:
        """Fill in a record; ``marks`` are the digests of the weights that came and of those that
        go on.
        """
        return Record(
            scenario=self.scenario.name,
            seed=self.scenario.seed,
            kind=stop.kind,
            round=stop.round,
            hop=stop.hop,
            host=self.name,
            model=stop.model,
            architecture=self.scenario.architecture(stop.model).name,
            outcome=session.outcome,
            reason=session.reason,
            samples=session.samples,
            steps=session.steps,
            bytes=size(session.weights) if marks[0] else 0,
            digest_in=marks[0],
            digest_out=marks[1],
            measures=join_measures(session.measures, measures),
            private=session.private,
        )


def take_part(mailbox: Mailbox, worker: Worker, faults: FaultInjector | None = None) -> None:
    """Take part in a run from registration to the end.

    Whoever stops this hospital before knows whether another life follows: nobody is told that it
    has failed.

    Raises:
        FedskdError: the run cannot go on; the controller has been told.

    """
    mailbox.start()
    freeze = mailbox.keeper.freeze if mailbox.keeper else None
    try:
        while (task := mailbox.next_task()) is not None:
            carry_out(mailbox, worker, task, freeze, faults)
    except SystemExit:
        mailbox.leave()
        raise
    except FedskdError as error:
        error.told = True
        raise


def carry_out(
    mailbox: Mailbox,
    worker: Worker,
    task: Task,
    freeze: Freezer | None = None,
    faults: FaultInjector | None = None,
) -> None:
    """Carry out one step; an error is the hospital's own word, whatever its class."""
    try:
        arrival = None if task.weights is None else Arrival(task.weights, task.digest)
        worker.make_ready(task.following if task.step.action in ("depart", "host") else None)
        if faults:
            faults.before(task.step)

        def release(weights: Weights, mark: str) -> None:
            if faults:
                faults.drag()
            mailbox.release(task.index, weights, mark)

        record = worker.carry_out(task.step, arrival, release)
        if faults:
            faults.drag()
        kept = freeze(worker.learner.state()) if freeze else None
    except FedskdError as error:
        mailbox.fail(error)
    except Exception as error:  # noqa: BLE001 - a user's architecture may raise anything, and the others must hear of it
        with suppress(OSError):  # a full disk takes no words
            traceback.print_exception(error)
        mailbox.fail(crash(worker.name, whereabouts(task.step), error, PRINTED))
    else:
        mailbox.finish(task.index, record, kept)
