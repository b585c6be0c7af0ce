"""One hop: an arriving model in, a departing model and a record out; no sockets.

A trained traveller leaves first; its digest for the record is taken, and it is measured, while it is on its way: on the copy that
stays here until the receipt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from fedskd_sim import clock
from fedskd_sim.learning.base import Learner, Measures, Session
from fedskd_sim.messages import HopId, Traveller, Weights, digest, size
from fedskd_sim.records import Record
from fedskd_sim.ring import Ring, Stop
from fedskd_sim.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Host:
    """A hospital as a hop sees it.

    ``send`` hands a traveller to the next hospital, ``span`` notes what took how long, ``expect`` makes ready for a model.
    """

    scenario: Scenario
    name: str
    run: str
    ring: Ring
    learner: Learner
    send: Callable[[str, Traveller], None]
    span: Callable[[str, Stop, float], None]
    expect: Callable[[str], None]

    def architecture(self, model: str) -> str:
        """Name the architecture of a hospital's model."""
        return self.scenario.architecture(model).name


def receive(host: Host, stop: Stop, arriving: Traveller) -> Record:
    """Host one model for one stop, send it on, and say what happened."""
    match stop.kind:
        case "visit" | "reduce" | "gather":
            return _visit(host, stop, arriving)
        case "homecoming":
            return _homecoming(host, stop, arriving)
        case "evaluation":
            return _evaluation(host, stop, arriving)


def depart(host: Host, round_: int) -> None:
    """Send the own traveller off to the first hop of a round."""
    _send(host, host.ring.stop(host.name, round_, 1), "", (host.name,), host.learner.depart(round_))


def warm_up(host: Host) -> Record:
    """Train the own model alone before the first round."""
    stop = Stop(0, 0, host.name, host.name, "homecoming")
    start = clock.unix()
    session = host.learner.warm_up()
    host.span("warm_up", stop, start)
    marks = "", digest(session.weights)
    return replace(_record(host, stop, session, marks, _assessed(host, stop)), kind="warm_up")


def alone(host: Host, round_: int) -> Record | None:
    """Train the own model without a visitor, where the algorithm begins its rounds so."""
    stop = Stop(round_, 0, host.name, host.name, "homecoming")
    start = clock.unix()
    session = host.learner.alone(round_)
    if session is None:
        return None
    host.span("session", stop, start)
    return replace(_record(host, stop, session, ("", digest(session.weights)), _assessed(host, stop)), kind="alone")


def council(host: Host) -> Record | None:
    """Ask all finished models together about the own test data, where hospitals keep them."""
    hop = len(host.ring.hops(host.ring.evaluation_round)) + 1
    stop = Stop(host.ring.evaluation_round, hop, host.name, host.name, "evaluation")
    start = clock.unix()
    measures = host.learner.council()
    if measures is None:
        return None
    host.span("evaluation", stop, start)
    return replace(_record(host, stop, Session({}, "evaluated"), ("", ""), measures), kind="council")


def evaluate_at_home(host: Host) -> Record:
    """Measure the own home model on the own test data: the diagonal of the K x K matrix."""
    stop = Stop(host.ring.evaluation_round, 0, host.name, host.name, "evaluation")
    start = clock.unix()
    measures = host.learner.evaluate(host.name, None)
    host.span("evaluation", stop, start)
    return _record(host, stop, Session({}, "evaluated"), ("", ""), measures)


def _visit(host: Host, stop: Stop, arriving: Traveller) -> Record:
    start = clock.unix()
    session = host.learner.visit(stop, arriving.weights)
    host.span("session", stop, start)
    mark = arriving.digest if session.weights is arriving.weights else ""
    _forward(host, stop, arriving, (mark, session.weights))
    mark = mark or digest(session.weights)
    return _record(host, stop, session, (arriving.digest, mark), _assessed(host, stop))


def _homecoming(host: Host, stop: Stop, arriving: Traveller) -> Record:
    start = clock.unix()
    session = host.learner.homecome(stop, arriving.weights)
    host.span("session", stop, start)
    marks = arriving.digest, digest(session.weights)
    return _record(host, stop, session, marks, _assessed(host, stop))


def _evaluation(host: Host, stop: Stop, arriving: Traveller) -> Record:
    _forward(host, stop, arriving, (arriving.digest, arriving.weights))
    start = clock.unix()
    measures = host.learner.evaluate(stop.model, arriving.weights)
    host.span("evaluation", stop, start)
    marks = arriving.digest, arriving.digest
    return _record(host, stop, Session(arriving.weights, "evaluated"), marks, measures)


def _assessed(host: Host, stop: Stop) -> Measures:
    start = clock.unix()
    measures = host.learner.assess()
    host.span("evaluation", stop, start)
    return measures


def _forward(host: Host, stop: Stop, arriving: Traveller, leaving: tuple[str, Weights]) -> None:
    onward = host.ring.onward(stop)
    if onward is not None:
        mark, weights = leaving
        _send(host, onward, mark, (*arriving.trail, host.name), weights)


def _send(host: Host, stop: Stop, mark: str, trail: tuple[str, ...], weights: Weights) -> None:
    hop = HopId(host.run, stop.model, stop.round, stop.hop)
    host.send(stop.host, Traveller(hop, host.name, host.architecture(stop.model), mark, trail, weights))


def _record(host: Host, stop: Stop, session: Session, marks: tuple[str, str], measures: Measures) -> Record:
    """Fill in a record; ``marks`` are the digests of the weights that came and of those that go on."""
    return Record(
        scenario=host.scenario.name,
        seed=host.scenario.seed,
        kind=stop.kind,
        round=stop.round,
        hop=stop.hop,
        host=host.name,
        model=stop.model,
        architecture=host.architecture(stop.model),
        outcome=session.outcome,
        reason=session.reason,
        samples=session.samples,
        steps=session.steps,
        bytes=size(session.weights) if marks[0] else 0,
        digest_in=marks[0],
        digest_out=marks[1],
        measures={**session.measures, **measures},
    )
