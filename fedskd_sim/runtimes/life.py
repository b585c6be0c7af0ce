"""One life of a hospital, whoever started it: from its order, and what an earlier life has kept,
to the results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from fedskd_sim import clock
from fedskd_sim.custody.store import Store
from fedskd_sim.errors import FedskdError
from fedskd_sim.learning.algorithms.learners import make
from fedskd_sim.learning.base import Learner, LearnerContext
from fedskd_sim.learning.workspace import fix_workspace
from fedskd_sim.ledger import Ledger, check_count, records_of
from fedskd_sim.member.faults import FaultInjector
from fedskd_sim.member.hospital import take_part
from fedskd_sim.member.keeper import Keeper, Past, past
from fedskd_sim.member.mailbox import Mailbox
from fedskd_sim.member.reporter import Reporter
from fedskd_sim.member.schedule import Poison, Schedule, harmless
from fedskd_sim.member.work import Worker
from fedskd_sim.messages import Register
from fedskd_sim.observe import events, lives
from fedskd_sim.observe.log import EventLog
from fedskd_sim.observe.metrics import Exporter, HospitalMetrics
from fedskd_sim.protocol.machine import HospitalMachine
from fedskd_sim.protocol.state import Terms
from fedskd_sim.recordfiles import own_records
from fedskd_sim.runtimes import handover
from fedskd_sim.runtimes.allocator import keep_freed_memory
from fedskd_sim.runtimes.circumstances import code_of, computes, identity_of
from fedskd_sim.runtimes.member import (
    FETCHED,
    MARKS,
    MemberOrder,
    custody_of,
    log_error,
    make_reporter,
)
from fedskd_sim.runtimes.outset import shaped
from fedskd_sim.runtimes.podwords import tell_of_pod
from fedskd_sim.scenario import Loaded, Scenario
from fedskd_sim.topology import FIRST_EPOCH, Topology
from fedskd_sim.transport.chunks import Sound, taken_as_it_is
from fedskd_sim.transport.zeromq import Incoming, Links, Place

HOLD_LOOK_S = 0.5


def run_hospital(order: MemberOrder) -> None:
    """Be a hospital from the first word to the last.

    Raises:
        FedskdError: the run cannot go on, with the place in the scenario file.

    """
    keep_freed_memory()
    fix_workspace()
    with order.log(hospital=order.name) as log:
        log.event(lives.Starting())
        loaded = order.read_and_tell(log)
        try:
            if order.custody:
                handover.wait(order, log)
            with ExitStack() as held:
                _take_part(order, loaded, log, held)
        except FedskdError as error:
            if order.advertise:
                tell_of_pod(error, order.name, order.data)
            log_error(log, loaded.place_error(error))
            if error.told and order.hold:
                log.event(events.Holding(order.hold))
                _hold(order, clock.now())
            raise


class _Told(NamedTuple):
    """Where a hospital writes what it does, and where its metrics can be read."""

    ledger: Ledger
    metrics: HospitalMetrics
    reporter: Reporter
    exporter: Exporter


def _take_part(order: MemberOrder, loaded: Loaded, log: EventLog, held: ExitStack) -> None:
    """Go through the program: with what an earlier life has kept, if there was one, and to the
    results. What is opened is closed with ``held``, in the opposite order.
    """
    began, scenario, topology = clock.unix(), loaded.scenario, Topology.of(loaded.scenario)
    faults = _faults(order, scenario, topology, log)
    faults.come_up()
    machine = HospitalMachine.of(topology, order.name, Terms.of(scenario, order.run))
    code = code_of(scenario, order.name)
    identity = identity_of(order, loaded, code)
    store = _store(order, scenario, held)
    before = _before(order, store, identity)
    kept = None if store is None else before.records if before else 0
    told = _tell(order, scenario, log, held, kept)
    keeper = Keeper(store, identity, told.ledger, before, order.anyway) if store else None
    context = _context(order, topology, scenario, told.ledger, keeper)
    learner = make(context)
    if before:
        log.event(lives.WentOn(before.state.cursor, len(machine.program)))
        _recall(order, told.metrics, learner, before)
        told.reporter.report_resumption(began)
    expected = learner.expected, context.receive_buffers.allocate, len(topology.names)
    incoming = Incoming(*expected, sound_of(scenario))
    links, register = _open_links(order, scenario, incoming, before)
    known = computes(scenario, order.name, learner, code, order.run)
    register = replace(register, metrics=told.exporter.address, computes=known)
    log.event(events.Listening(register.address, told.exporter.address))
    if keeper:
        keeper.address, keeper.learner = links.address, keeper.freeze(learner.state())
    rejoins = order.life == "restarted" or bool(order.advertise)
    again = order.life != "first" or before is not None
    heard = Mailbox(machine, links, told.reporter, register, keeper, before, again, rejoins)
    with closing(heard) as mailbox:
        prepare = context.receive_buffers.prepare
        worker = Worker(scenario, topology, order.name, learner, told.reporter.span, prepare)
        take_part(mailbox, replace(worker, spoil=faults.schedule.spoiled), faults)
    save_results(context, learner, order.folder)
    told.metrics.write(order.folder)
    _stay(order, scenario, log)


def _before(order: MemberOrder, store: Store | None, identity: Mapping[str, str]) -> Past | None:
    """Return what an earlier life has kept, if there was one; raises RunUnreadable for records
    whose custody is gone, which a first life would wipe.
    """
    before = past(store, identity, anyway=order.anyway) if store else None
    if store and not before and not order.anyway:
        check_count(records_of(order.folder, order.name), 1)
    return before


def _tell(
    order: MemberOrder, scenario: Scenario, log: EventLog, held: ExitStack, kept: int | None
) -> _Told:
    """Open the records, which go on behind the ``kept`` bytes of an earlier life, and the metrics,
    which are written down however this life ends.
    """
    metrics = HospitalMetrics(
        scenario.name, order.name, Topology.of(scenario), scenario.instruments.evaluate_on
    )
    ledger = Ledger(order.folder, order.name, _copy(order, log), kept=kept)
    held.enter_context(closing(ledger))
    reporter = replace(make_reporter(scenario, order.name, ledger, log), metrics=metrics)
    reporter.phase("starting")
    held.callback(metrics.write, order.folder)
    exporter = held.enter_context(closing(_exporter(order, metrics)))
    return _Told(ledger, metrics, reporter, exporter)


def _context(
    order: MemberOrder,
    topology: Topology,
    scenario: Scenario,
    ledger: Ledger,
    keeper: Keeper | None,
) -> LearnerContext:
    """Say what a learner is given; the keeper compares the data with those of the earlier life."""
    return LearnerContext(
        scenario,
        order.name,
        order.data,
        own_process=True,
        own_card=bool(order.advertise),  # in a pod
        given=topology,
        counted=ledger.add,
        loaded=keeper.check_data if keeper else None,
    )


def _faults(
    order: MemberOrder, scenario: Scenario, topology: Topology, log: EventLog
) -> FaultInjector:
    """Make what lets the scenario's faults happen here; what has happened is noted in custody."""
    custody = custody_of(scenario, order.run, order.folder)
    schedule = Schedule.of(scenario, topology, order.name, poison_of(scenario))
    marks = custody / f"{order.name}{MARKS}" if scenario.custody.enabled else None
    return FaultInjector(schedule, log.event, marks)


def poison_of(scenario: Scenario) -> Poison:
    """Say how weights are poisoned: not at all where nothing is learned."""
    if not scenario.learns:
        return harmless
    from fedskd_sim.learning.poison import poison  # noqa: PLC0415 - the placebo runs without numpy

    return poison


def _store(order: MemberOrder, scenario: Scenario, held: ExitStack) -> Store | None:
    """Open the hospital's custody; None where the scenario wants none."""
    if not scenario.custody.enabled:
        return None
    folder = custody_of(scenario, order.run, order.folder)
    return held.enter_context(closing(Store(folder / order.name, scenario.custody.keep)))


def _copy(order: MemberOrder, log: EventLog) -> Callable[[str, str], None]:
    """Repeat every entry of the ledger in the log, where that is what a cluster keeps."""
    return (
        (lambda kind, line: log.event(events.Entry(kind, line)))
        if order.to_stdout
        else (lambda *_: None)
    )


def _recall(order: MemberOrder, metrics: HospitalMetrics, learner: Learner, before: Past) -> None:
    """Be what the earlier life was: the learner, and the metrics, which its records hold."""
    for record in own_records(order.folder, order.name):
        metrics.count_step(record)
    learner.restore(before.learner)


def _open_links(
    order: MemberOrder, scenario: Scenario, incoming: Incoming, before: Past | None
) -> tuple[Links, Register]:
    """Open the links, where the run went on meanwhile at the address that the others know; and
    say how to register.
    """
    keys = order.read_keys(scenario)
    bind = before.address if before and order.life == "restarted" else order.bind
    place = Place(order.name, bind, order.controller, keys)
    links = Links(place, incoming, shaped(order, scenario))
    address = order.advertise or links.address
    return links, Register(
        order.run, FIRST_EPOCH, order.name, address, keys.public if keys else "", ""
    )


def sound_of(scenario: Scenario) -> Sound:
    """Give what looks at the numbers that arrive; those of a placebo mean nothing, and it runs
    without numpy.
    """
    if not scenario.learns:
        return taken_as_it_is
    from fedskd_sim.learning.finite import finite  # noqa: PLC0415 - the controller's image has no numpy

    return finite


def _exporter(order: MemberOrder, metrics: HospitalMetrics) -> Exporter:
    host, _, port = order.metrics.rpartition(":")
    return Exporter(metrics, host, int(port))


def save_results(context: LearnerContext, learner: Learner, folder: Path) -> None:
    """Write what was predicted at a hospital and, if it has trained, its final weights; nothing
    where nothing is learned.
    """
    if not context.scenario.learns:
        return
    from fedskd_sim.learning.site import Sited  # noqa: PLC0415 - the placebo runs without PyTorch
    from fedskd_sim.learning.weights import save  # noqa: PLC0415

    if isinstance(learner, Sited):
        learner.site.save_answers(folder)
    if context.host in context.scenario.held_out:
        return
    about = {
        "scenario": context.scenario.name,
        "hospital": context.host,
        "seed": str(context.scenario.seed),
    }
    for suffix, weights in learner.results().items():
        name = ".".join(part for part in (context.host, suffix) if part)
        whose = suffix.removeprefix("ensemble.") if suffix.startswith("ensemble.") else context.host
        about["architecture"] = context.scenario.architecture(whose).name
        (folder / "weights").mkdir(exist_ok=True)
        save(weights, folder / "weights" / f"{name}.safetensors", about)


def _stay(order: MemberOrder, scenario: Scenario, log: EventLog) -> None:
    """Stay up for a last scrape and, meanwhile and longer, until the results have been fetched."""
    began, linger = clock.now(), max(order.linger, scenario.metrics.linger)
    if linger:
        log.event(events.Lingering(linger))
    if order.hold:
        log.event(events.Holding(order.hold))
    clock.sleep(linger)
    _hold(order, began)


def _hold(order: MemberOrder, began: float) -> None:
    while clock.now() < began + order.hold and not (order.folder / FETCHED).exists():
        clock.sleep(HOLD_LOOK_S)
