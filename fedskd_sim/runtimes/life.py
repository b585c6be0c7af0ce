"""One life of a hospital, whoever started it: from its order, and what an earlier life has kept, to the results."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from fedskd_sim import __version__, clock
from fedskd_sim.custody.store import Store
from fedskd_sim.errors import FedskdError
from fedskd_sim.learning.base import Learner, Ward
from fedskd_sim.learning.learners import make
from fedskd_sim.ledger import Ledger
from fedskd_sim.member.hospital import take_part
from fedskd_sim.member.keeper import Keeper, Past, past
from fedskd_sim.member.mailbox import Mailbox
from fedskd_sim.member.work import Worker
from fedskd_sim.messages import Register
from fedskd_sim.observe import events
from fedskd_sim.observe.log import EventLog
from fedskd_sim.observe.metrics import Exporter, HospitalMetrics
from fedskd_sim.protocol.machine import Hospital
from fedskd_sim.protocol.state import Terms
from fedskd_sim.records import own_records
from fedskd_sim.runtimes import handover
from fedskd_sim.runtimes.member import FETCHED, MemberOrder, custody_of, desk_of, log_error
from fedskd_sim.scenario import Loaded, Scenario
from fedskd_sim.topology import FIRST_EPOCH, Topology
from fedskd_sim.transport.parcels import Sound, taken_as_it_is
from fedskd_sim.transport.zeromq import Goods, Links, Place

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
LARGEST_ON_HEAP = 32 << 20
KEPT_BYTES = 256 << 20
HOLD_LOOK_S = 0.5


def run_hospital(order: MemberOrder) -> None:
    """Be a hospital from the first word to the last.

    Raises:
        FedskdError: the run cannot go on, with the place in the scenario file.

    """
    keep_freed_memory()
    loaded = order.read()
    with order.log(hospital=order.name) as log:
        log.event(events.Starting())
        try:
            if order.custody:
                handover.wait(order, log)
            with ExitStack() as held:
                _take_part(order, loaded, log, held)
        except FedskdError as error:
            log_error(log, loaded.placed(error))
            raise


def _take_part(order: MemberOrder, loaded: Loaded, log: EventLog, held: ExitStack) -> None:
    began, scenario, topology = clock.unix(), loaded.scenario, Topology.of(loaded.scenario)
    machine = Hospital.of(topology, order.name, Terms.of(scenario, order.run))
    store = _store(order, scenario, held)
    identity = _identity(order, loaded)
    before = past(store, identity, anyway=order.anyway) if store else None
    metrics = HospitalMetrics(scenario.name, order.name, topology, scenario.instruments.evaluate_on)
    kept = None if store is None else before.records if before else 0
    books = held.enter_context(closing(Ledger(order.folder, order.name, _copy(order, log), kept=kept)))
    desk = replace(desk_of(scenario, order.name, books, log), metrics=metrics)
    desk.phase("starting")
    held.callback(metrics.write, order.folder)
    exporter = held.enter_context(closing(_exporter(order, metrics)))
    keeper = Keeper(store, identity, books, before, order.anyway) if store else None
    told = keeper.loaded if keeper else None
    ward = Ward(scenario, order.name, order.data, own_process=True, given=topology, counted=books.add, loaded=told)
    learner = make(ward)
    if before:
        log.event(events.WentOn(before.state.cursor, len(machine.program)))
        _recall(order, metrics, learner, before)
        desk.resumed(began)
    goods = Goods(learner.expected, ward.berths.room, len(topology.names), _sound(scenario))
    links, register = _linked(order, scenario, goods, before)
    register = replace(register, metrics=exporter.address)
    log.event(events.Listening(register.address, exporter.address))
    if keeper:
        keeper.address, keeper.learner = links.address, learner.state()
    rejoins = order.life == "restarted" or bool(order.advertise)
    again = order.life != "first" or before is not None
    with closing(Mailbox(machine, links, desk, register, keeper, before, again, rejoins)) as mailbox:
        take_part(mailbox, Worker(scenario, topology, order.name, learner, desk.span, ward.berths.prepare))
    save_results(ward, learner, order.folder)
    metrics.write(order.folder)
    _stay(order, scenario, log)


def _store(order: MemberOrder, scenario: Scenario, held: ExitStack) -> Store | None:
    """Open the hospital's custody; None where the scenario wants none."""
    if not scenario.custody.enabled:
        return None
    folder = custody_of(scenario, order.run, order.folder)
    return held.enter_context(closing(Store(folder / order.name, scenario.custody.keep)))


def _copy(order: MemberOrder, log: EventLog) -> Callable[[str, str], None]:
    """Repeat every entry of the books in the log, where that is what a cluster keeps."""
    return (lambda kind, line: log.event(events.Entry(kind, line))) if order.to_stdout else (lambda *_: None)


def _identity(order: MemberOrder, loaded: Loaded) -> Mapping[str, str]:
    """Say what two lives must have in common to compute the same bytes."""
    scenario = sha256(loaded.document.text.encode()).hexdigest()[:32]
    found = {"run": order.run, "hospital": order.name, "scenario": scenario, "fedskd_sim": __version__}
    if loaded.scenario.algorithm.name == "placebo":
        return found
    from fedskd_sim.learning.arithmetic import arithmetic  # noqa: PLC0415 - the placebo runs without PyTorch

    return found | arithmetic(loaded.scenario.hospital(order.name))


def _recall(order: MemberOrder, metrics: HospitalMetrics, learner: Learner, before: Past) -> None:
    """Be what the earlier life was: the learner, and the metrics, which its records hold."""
    for record in own_records(order.folder, order.name):
        metrics.finished(record)
    learner.restore(before.learner)


def _linked(order: MemberOrder, scenario: Scenario, goods: Goods, before: Past | None) -> tuple[Links, Register]:
    """Open the links, where the run went on meanwhile at the address that the others know; and say how to register."""
    keys = order.read_keys(scenario)
    bind = before.address if before and order.life == "restarted" else order.bind
    links = Links(Place(order.name, bind, order.controller, keys), goods)
    address = order.advertise or links.address
    return links, Register(order.run, FIRST_EPOCH, order.name, address, keys.public if keys else "", "")


def _sound(scenario: Scenario) -> Sound:
    """Give what looks at the numbers that arrive; those of a placebo mean nothing, and it runs without numpy."""
    if scenario.algorithm.name == "placebo":
        return taken_as_it_is
    from fedskd_sim.learning.finite import finite  # noqa: PLC0415 - the controller's image has no numpy

    return finite


def _exporter(order: MemberOrder, metrics: HospitalMetrics) -> Exporter:
    host, _, port = order.metrics.rpartition(":")
    return Exporter(metrics, host, int(port))


def save_results(ward: Ward, learner: Learner, folder: Path) -> None:
    """Write what was predicted at a hospital and, if it has trained, its final weights; nothing where nothing is learned."""
    if ward.scenario.algorithm.name == "placebo":
        return
    from fedskd_sim.learning.site import Sited  # noqa: PLC0415 - the placebo runs without PyTorch
    from fedskd_sim.learning.weights import save  # noqa: PLC0415

    if isinstance(learner, Sited):
        learner.site.save_answers(folder)
    if ward.host in ward.scenario.held_out:
        return
    about = {"scenario": ward.scenario.name, "hospital": ward.host, "seed": str(ward.scenario.seed)}
    for suffix, weights in learner.results().items():
        name = ".".join(part for part in (ward.host, suffix) if part)
        whose = suffix.removeprefix("council.") if suffix.startswith("council.") else ward.host
        about["architecture"] = ward.scenario.architecture(whose).name
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
    while clock.now() < began + order.hold and not (order.folder / FETCHED).exists():
        clock.sleep(HOLD_LOOK_S)


def keep_freed_memory() -> None:
    """Tell the C allocator to keep what is freed for the next message instead of returning it to the kernel.

    Receiving and exporting a model otherwise spends more time on fresh pages than on copying (tests/benchmarks/hop.py). The price:
    up to `KEPT_BYTES` of freed memory stay with the process. Does nothing where the C library is not glibc.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, LARGEST_ON_HEAP)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
