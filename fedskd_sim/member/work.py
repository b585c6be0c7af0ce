"""The steps of a program carried out by a learner: an arriving model in, what goes on and a record
out; no sockets.

What goes on from a step is released first; its digest for the record is taken, and it is measured,
while it is on its way: on the copy that stays here until its receiver has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from fedskd_sim import clock
from fedskd_sim.learning.base import Learner, Measures, Session
from fedskd_sim.member import promises
from fedskd_sim.member.schedule import Place
from fedskd_sim.messages import Weights, digest, size
from fedskd_sim.program import Step
from fedskd_sim.records import Record
from fedskd_sim.scenario import Scenario
from fedskd_sim.topology import Stop, Topology

Result = TypeVar("Result")
Release = Callable[[Weights, str], None]
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
    notes what took how long (what, at which stop, since which UNIX second), ``expect`` makes ready
    for a model.
    """

    scenario: Scenario
    topology: Topology
    name: str
    learner: Learner
    span: Callable[[str, Stop, float], None]
    expect: Callable[[str], None]
    spoil: Callable[[Place, Weights], Weights] = lambda _, weights: weights
    """Gives what goes on, after a round and hop, in place of weights that would."""

    def carry_out(self, step: Step, arrival: Arrival | None, release: Release) -> Record | None:
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

    def _host(self, stop: Stop, arrival: Arrival, release: Release) -> Record:
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
            session = replace(session, weights=spoiled)
            mark = arrival.digest if session.weights is arrival.weights else ""
            release(session.weights, mark)
        marks = arrival.digest, mark or digest(session.weights)
        return self._record(stop, session, marks, self._assess(stop))

    def _alone(
        self, step: Step, kind: str, what: str, train: Callable[[], Session | None]
    ) -> Record | None:
        stop = self._at_home(step)
        given = self._time(what, stop, train)
        if given is None and kind == "alone":
            return None
        session = promises.session(self.learner, kind, given)
        marks = "", digest(session.weights)
        return replace(self._record(stop, session, marks, self._assess(stop)), kind=kind)  # type: ignore[arg-type]

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
        self.span("evaluation", stop, start)
        method = "ensemble" if kind == "ensemble" else "evaluate"
        promises.measures(self.learner, method, measures)
        return replace(self._record(stop, Session({}, "evaluated"), ("", ""), measures), kind=kind)  # type: ignore[arg-type]

    def _session(self, method: str, stop: Stop, train: Callable[[], Session]) -> Session:
        return promises.session(self.learner, method, self._time("session", stop, train))

    def _leaves(self, method: str, model: str, given: Weights) -> Weights:
        """Give back weights of a model that leave this hospital, as its next host awaits them."""
        forms = self.learner.expected.get(model, ())
        return promises.weights(self.learner, method, given, forms)

    def _assess(self, stop: Stop) -> Measures:
        return self._measures("assess", stop, self.learner.assess)

    def _measures(self, method: str, stop: Stop, work: Callable[[], Measures]) -> Measures:
        return promises.measures(self.learner, method, self._time("evaluation", stop, work))

    def _at_home(self, step: Step) -> Stop:
        return Stop(step.round, 0, self.name, self.name, "homecoming")

    def _time(self, what: str, stop: Stop, work: Callable[[], Result]) -> Result:
        start = clock.unix()
        result = work()
        if result is not None:
            self.span(what, stop, start)
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
            measures=promises.together(session.measures, measures),
        )
