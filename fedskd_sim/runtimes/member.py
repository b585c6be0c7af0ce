"""From an order to a running member: what a hospital's or the controller's process does, whoever started it."""

from __future__ import annotations

import ctypes
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from fedskd_sim import clock
from fedskd_sim.errors import FedskdError
from fedskd_sim.learning.base import Learner, Ward
from fedskd_sim.learning.learners import make
from fedskd_sim.member.controller import Controller
from fedskd_sim.member.desk import Desk, error_event
from fedskd_sim.member.hospital import take_part
from fedskd_sim.member.mailbox import Mailbox
from fedskd_sim.member.work import Worker
from fedskd_sim.messages import CONTROLLER, Register
from fedskd_sim.observe import events
from fedskd_sim.observe.log import EventLog
from fedskd_sim.observe.metrics import Exporter, HospitalMetrics
from fedskd_sim.protocol.machine import Hospital
from fedskd_sim.protocol.state import Terms
from fedskd_sim.records import Ledger, ends_torn
from fedskd_sim.scenario import Loaded, Scenario, load
from fedskd_sim.topology import Topology
from fedskd_sim.transport.zeromq import Goods, Hub, Identity, Keys, Links, Place, read

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
LARGEST_ON_HEAP = 32 << 20
KEPT_BYTES = 256 << 20
FETCHED = "fetched"
HOLD_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class MemberOrder:
    """What a process needs to know to be one member of a run; everything else is in the scenario file."""

    scenario: Path
    name: str
    run: str
    folder: Path
    bind: str
    controller: str
    keys: Path | None = None
    data: Path | None = None
    metrics: str = "127.0.0.1:0"
    secret: Path | None = None
    """File with the run secret from which all keys are derived; instead of ``keys``."""
    advertise: str = ""
    """The address others reach it at, where that is not the one it binds."""
    patience: float | None = None
    """Seconds until all have registered, where that takes longer than the scenario says."""
    hold: float = 0.0
    """Seconds to stay up at the end until the results have been fetched (the file ``fetched`` in the folder)."""
    to_stdout: bool = False
    """Write log, records and timings to standard output too, where a cluster keeps them."""

    def read(self) -> Loaded:
        """Load the scenario, with this place's patience; raises as `load`."""
        loaded = load(self.scenario)
        if self.patience is None:
            return loaded
        timeouts = loaded.scenario.timeouts.model_copy(update={"register_": self.patience})
        return replace(loaded, scenario=loaded.scenario.model_copy(update={"timeouts": timeouts}))

    def read_keys(self, scenario: Scenario) -> Identity | None:
        """Read or derive this member's keys; None for a run without."""
        if self.secret:
            return Keys.derived(self.secret.read_bytes().strip(), self.run, self.name, (CONTROLLER, *scenario.names))
        return read(self.keys) if self.keys else None

    @contextmanager
    def log(self, **bound: str) -> Iterator[EventLog]:
        """Open this member's log."""
        if self.to_stdout:
            yield EventLog(sys.stdout, {"run": self.run, **bound})
            return
        file = self.folder / "logs" / f"{self.name}.jsonl"
        with file.open("a", encoding="utf-8") as stream:
            if ends_torn(file):  # a word after half a line would be part of it
                stream.write("\n")
            yield EventLog(stream, {"run": self.run, **bound})


def desk_of(scenario: Scenario, name: str, folder: Path, log: EventLog, *, to_log: bool = False) -> Desk:
    """Open a hospital's books in the run folder, without metrics; ``to_log`` repeats every entry in the log."""
    copy = (lambda kind, line: log.event(events.Entry(kind, line))) if to_log else (lambda *_: None)
    return Desk(scenario, name, Ledger(folder, name, copy), log.event, peak=_peak)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


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
            _take_part(order, loaded.scenario, log)
        except FedskdError as error:
            log_error(log, loaded.placed(error))
            raise


def _take_part(order: MemberOrder, scenario: Scenario, log: EventLog) -> None:
    topology = Topology.of(scenario)
    metrics = HospitalMetrics(scenario.name, order.name, topology)
    desk = replace(desk_of(scenario, order.name, order.folder, log, to_log=order.to_stdout), metrics=metrics)
    desk.phase("starting")
    with closing(desk.books), closing(_exporter(order, metrics)) as exporter:
        ward = Ward(scenario, order.name, order.data, own_process=True, given=topology, counted=desk.books.add)
        learner = make(ward)
        keys = order.read_keys(scenario)
        links = Links(
            Place(order.name, order.bind, order.controller, keys), Goods(learner.expected, ward.berths.room, len(topology.names))
        )
        address = order.advertise or links.address
        log.event(events.Listening(address, exporter.address))
        machine = Hospital.of(topology, order.name, Terms.of(scenario, order.run))
        register = Register(order.run, topology.epoch, order.name, address, keys.public if keys else "", exporter.address)
        with closing(Mailbox(machine, links, desk, register)) as mailbox:
            take_part(mailbox, Worker(scenario, topology, order.name, learner, desk.span, ward.berths.prepare))
        save_results(ward, learner, order.folder)
        _linger(scenario, log)
        _hold(order, log)


def _exporter(order: MemberOrder, metrics: HospitalMetrics) -> Exporter:
    host, _, port = order.metrics.rpartition(":")
    return Exporter(metrics, host, int(port))


def log_error(log: EventLog, error: FedskdError) -> None:
    """Write an error where the launcher will read it."""
    log.event(error_event(error))


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


def run_controller(order: MemberOrder, announce: Callable[[str], object]) -> None:
    """Be the controller; ``announce`` is called with the address once it listens.

    Raises:
        FedskdError: the run ended with an error.

    """
    loaded = order.read()
    with order.log() as log:
        try:
            with closing(Hub(order.bind, order.read_keys(loaded.scenario))) as hub:
                announce(hub.address)
                log.event(events.Listening(hub.address))
                Controller(loaded.scenario, order.run, hub, log).serve()
        except FedskdError as error:
            log_error(log, loaded.placed(error))
            raise


def _linger(scenario: Scenario, log: EventLog) -> None:
    """Stay up for a last scrape."""
    if scenario.metrics.linger:
        log.event(events.Lingering(scenario.metrics.linger))
        clock.sleep(scenario.metrics.linger)


def _hold(order: MemberOrder, log: EventLog) -> None:
    """Stay up until the results have been fetched."""
    deadline = clock.now() + order.hold
    if order.hold:
        log.event(events.Holding(order.hold))
    while clock.now() < deadline and not (order.folder / FETCHED).exists():
        clock.sleep(HOLD_LOOK_S)
