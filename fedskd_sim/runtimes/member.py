"""From an order to a running member: what a hospital's or the controller's process does, whoever started it."""

from __future__ import annotations

import ctypes
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from fedskd_sim import hop
from fedskd_sim.controller import Controller
from fedskd_sim.errors import FedskdError
from fedskd_sim.hospital import Hospital
from fedskd_sim.learning.base import Learner, Ward
from fedskd_sim.learning.learners import make
from fedskd_sim.logs import EventLog
from fedskd_sim.messages import Register, Transfer
from fedskd_sim.metrics import Exporter, HospitalMetrics
from fedskd_sim.records import Ledger, Timing
from fedskd_sim.ring import Ring, Stop
from fedskd_sim.scenario import Loaded, Scenario, load
from fedskd_sim.transport.base import CONTROLLER, Transport
from fedskd_sim.transport.zeromq import Hub, Keys, Place, Terms, ZeroMQTransport

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

    def read_keys(self, scenario: Scenario) -> Keys | None:
        """Read or derive this member's keys; None for a run without."""
        if self.secret:
            return Keys.derived(self.secret.read_bytes().strip(), self.run, self.name, (CONTROLLER, *scenario.names))
        return Keys.read(self.keys) if self.keys else None

    @contextmanager
    def log(self, **bound: str) -> Iterator[EventLog]:
        """Open this member's log."""
        if self.to_stdout:
            yield EventLog(sys.stdout, {"run": self.run, **bound})
            return
        with (self.folder / "logs" / f"{self.name}.jsonl").open("a", encoding="utf-8") as stream:
            yield EventLog(stream, {"run": self.run, **bound})


@dataclass(frozen=True)
class Desk:
    """A hospital's paper work: the ledger, the metrics and the log of one run."""

    name: str
    ledger: Ledger
    metrics: HospitalMetrics
    log: EventLog

    def span(self, what: str, stop: Stop, start: float) -> None:
        """Note that something of a stop took from ``start`` (UNIX seconds) until now."""
        end = time.time()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        place = (self.name, stop.model, stop.round, stop.hop)
        self.ledger.add(Timing(what, *place, start, end, peak_bytes=peak))  # type: ignore[arg-type]
        self.metrics.took(what, end - start)

    def transferred(self, transfer: Transfer) -> None:
        """Note a confirmed departure."""
        place = (self.name, transfer.hop.model, transfer.hop.round, transfer.hop.hop)
        times = (transfer.start, transfer.end, transfer.bytes)
        self.ledger.add(Timing("transfer", *place, *times, to=transfer.to))
        self.metrics.transferred(transfer)


def assemble(ward: Ward, learner: Learner, desk: Desk, transport: Transport, run: str) -> Hospital:
    """Put a hospital together."""
    ring = Ring.of(ward.scenario)
    host = hop.Host(ward.scenario, ward.host, run, ring, learner, transport.send, desk.span, ward.berths.prepare)
    return Hospital(host, transport, desk.ledger, desk.metrics, desk.log)


def desk_of(scenario: Scenario, name: str, folder: Path, log: EventLog, *, to_log: bool = False) -> Desk:
    """Open a hospital's books in the run folder; ``to_log`` repeats every entry in the log."""
    copy = (lambda kind, line: log.event("entry", kind=kind, line=line)) if to_log else (lambda *_: None)
    return Desk(name, Ledger(folder, name, copy), HospitalMetrics(scenario.name, name, Ring.of(scenario)), log)


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
        log.event("starting")
        try:
            _take_part(order, loaded.scenario, log)
        except FedskdError as error:
            log_error(log, loaded.placed(error))
            raise


def _take_part(order: MemberOrder, scenario: Scenario, log: EventLog) -> None:
    ward = Ward(scenario, order.name, order.data, own_process=True)
    desk = desk_of(scenario, order.name, order.folder, log, to_log=order.to_stdout)
    desk.metrics.phase("starting")
    with closing(desk.ledger), closing(_exporter(order, desk)) as exporter:
        learner = make(ward)
        keys = order.read_keys(scenario)
        place = Place(order.name, order.bind, order.controller, keys)
        terms = terms_of(scenario, order.run)
        transport = ZeroMQTransport(place, terms, learner.expected, desk.transferred, room=ward.berths.room)
        with closing(transport):
            address = order.advertise or transport.address
            log.event("listening", address=address, metrics=exporter.address)
            hospital = assemble(ward, learner, desk, transport, order.run)
            public_key = keys.public if keys else ""
            try:
                hospital.serve(Register(order.run, order.name, address, public_key, exporter.address))
            except BaseException:
                transport.abandon()
                raise
        save_results(ward, learner, order.folder)
        _linger(scenario, log)
        _hold(order, log)


def _exporter(order: MemberOrder, desk: Desk) -> Exporter:
    host, _, port = order.metrics.rpartition(":")
    return Exporter(desk.metrics, host, int(port))


def log_error(log: EventLog, error: FedskdError) -> None:
    """Write an error where the launcher will read it."""
    said = {"message": error.message, "fix": error.fix, "key": list(error.key), "stop": list(error.stop)}
    log.event("error", code=error.exit_code, own=not error.second_hand, **said)


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
                log.event("listening", address=hub.address)
                Controller(loaded.scenario, order.run, hub, log).serve()
        except FedskdError as error:
            log_error(log, loaded.placed(error))
            raise


def terms_of(scenario: Scenario, run: str) -> Terms:
    """Read a hospital's link terms from the scenario."""
    return Terms(run, scenario.timeouts.receipt, scenario.timeouts.retry, scenario.network.inbox)


def _linger(scenario: Scenario, log: EventLog) -> None:
    """Stay up for a last scrape."""
    if scenario.metrics.linger:
        log.event("lingering", seconds=scenario.metrics.linger)
        time.sleep(scenario.metrics.linger)


def _hold(order: MemberOrder, log: EventLog) -> None:
    """Stay up until the results have been fetched."""
    deadline = time.monotonic() + order.hold
    if order.hold:
        log.event("holding", seconds=order.hold)
    while time.monotonic() < deadline and not (order.folder / FETCHED).exists():
        time.sleep(HOLD_LOOK_S)
