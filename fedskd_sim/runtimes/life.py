"""One life of a hospital, whoever started it: from its order, and what an earlier life has kept, to
the results.

Here it is found out what a hospital computes with and for, which its lives, and as far as it is
code all hospitals of a run, must have in common; when its run has started, since a life may begin
in the middle of it; and how the C library gives memory back, which a process through which models
pass should keep.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, cast

from fedskd_sim import __version__, clock
from fedskd_sim.custody.archive import FOLDER, GIB, SessionArchive
from fedskd_sim.custody.seal import as_json
from fedskd_sim.custody.store import Store
from fedskd_sim.errors import FedskdError, OutputNotWritable
from fedskd_sim.learning.algorithms.learners import make
from fedskd_sim.learning.base import Learner, LearnerContext
from fedskd_sim.learning.workspace import fix_workspace
from fedskd_sim.member.faults import FaultInjector
from fedskd_sim.member.keeper import Keeper, KeptPast, past
from fedskd_sim.member.mailbox import Mailbox
from fedskd_sim.member.reporter import Reporter
from fedskd_sim.member.schedule import FaultSchedule, Poison, harmless
from fedskd_sim.member.work import Worker, take_part
from fedskd_sim.messages import Register
from fedskd_sim.observe import events
from fedskd_sim.observe.events import EventLog
from fedskd_sim.observe.metrics import Exporter, HospitalMetrics
from fedskd_sim.protocol.admission import READER, ROWS, text_of, told_of_samples
from fedskd_sim.protocol.machine import HospitalMachine
from fedskd_sim.protocol.state import Terms
from fedskd_sim.records.files import own_records
from fedskd_sim.records.ledger import Ledger, check_count, records_of
from fedskd_sim.ring.topology import FIRST_EPOCH, Topology
from fedskd_sim.runtimes import handover
from fedskd_sim.runtimes.folder import custody_of
from fedskd_sim.runtimes.member import (
    FETCHED,
    MARKS,
    STARTED,
    MemberOrder,
    log_error,
    make_reporter,
)
from fedskd_sim.runtimes.podwords import tell_of_pod
from fedskd_sim.scenario import Loaded, Scenario
from fedskd_sim.transport.chunks import ChunkCheck, taken_as_it_is
from fedskd_sim.transport.shaping import Shaping
from fedskd_sim.transport.zeromq import Incoming, Links, Location, Shaped
from fedskd_sim.wholefiles import PRIVATE_FOLDER, write_text

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
LARGEST_ON_HEAP = 32 << 20
KEPT_BYTES = 256 << 20


def keep_freed_memory() -> None:
    """Make the C allocator keep what is freed for the next message instead of returning it to
    the kernel.

    Receiving and exporting a model otherwise spends more time on fresh pages than on copying
    (tests/benchmarks/hop.py). The price: up to `KEPT_BYTES` of freed memory stay with the process.
    Does nothing where the C library is not glibc.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, LARGEST_ON_HEAP)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def shaped(order: MemberOrder, scenario: Scenario) -> Shaped | None:
    """Make what disturbs what a hospital says and hears; None where the scenario's links do not."""
    if not scenario.links:
        return None
    custody = custody_of(scenario, order.run, order.folder)
    note = custody / f"{order.name}{STARTED}" if scenario.custody.enabled else None
    disturbs = Shaped(order.name, Shaping(scenario), partial(started, note))
    if note and note.exists():  # it is known from when on links are cut, before it is told again
        disturbs.begin()
    return disturbs


def started(note: Path | None) -> float:
    """Return the moment at which the run started, on the monotonic clock: now, unless an earlier
    life has noted it.
    """
    if note is None:
        return clock.now()
    with suppress(OSError, ValueError):  # there is none yet, or it is damaged
        return clock.now() - (clock.unix() - float(note.read_text(encoding="utf-8")))
    with suppress(OSError, OutputNotWritable):  # a full disk ends the hospital where it keeps more
        note.parent.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
        write_text(note, f"{clock.unix()}\n")
    return clock.now()


MEANS_NOTHING = frozenset({"description", "timeouts"})
"""Keys that change nothing of what is computed: who waited in vain may wait longer next time."""
LONGEST_SOURCE = 60


def code_of(loaded: Loaded, name: str) -> Mapping[str, str]:
    """Name the code with which the hospital computes; the scenario's own is imported for it."""
    if not loaded.scenario.learns:
        return {}
    from fedskd_sim.learning.sources import sources  # noqa: PLC0415 - the placebo runs without PyTorch

    return sources(loaded.scenario, name, loaded.code)


def meaning(scenario: Scenario) -> str:
    """Return as JSON what a scenario means for what is computed."""
    return as_json(scenario, *MEANS_NOTHING)


def computes(
    scenario: Scenario, name: str, learner: Learner, code: Mapping[str, str], run: str
) -> str:
    """Return for the controller the code with which the hospital computes and, of what a reader of
    one's own gave it, what no two hospitals of the run may have otherwise, or both.
    """
    given = None
    if scenario.learns:
        from fedskd_sim.learning.site import Sited  # noqa: PLC0415 - the placebo runs without PyTorch

        given = learner.site.given if isinstance(learner, Sited) else None
    if given is None:
        return text_of(code)
    source = given.source
    if len(source) > LONGEST_SOURCE or not source.isprintable():
        source = f"{scenario.hospital(name).data.name} {sha256(source.encode()).hexdigest()[:8]}"
    columns = given.columns.items() if given.parted else ()
    rows = {f"{READER}{source}{ROWS}{what}": digest for what, digest in columns}
    held = (
        mark + one.encode("utf-8", "replace") for mark, (one, _) in given.pictures.items() if one
    )
    return text_of({**code, **rows}) + told_of_samples(held, run)


def identity_of(order: MemberOrder, loaded: Loaded, code: Mapping[str, str]) -> Mapping[str, str]:
    """Return what two lives must have in common to compute the same bytes."""
    found = {"run": order.run, "hospital": order.name, "scenario": meaning(loaded.scenario)}
    return {**found, **circumstances(loaded.scenario, order.name, code)}


def circumstances(scenario: Scenario, name: str, code: Mapping[str, str]) -> dict[str, str]:
    """Return with what a hospital computes: versions, device, threads, and ``code``, as of
    `code_of`.
    """
    if not scenario.learns:
        return {"fedskd_sim": __version__}
    from fedskd_sim.learning.devices import arithmetic  # noqa: PLC0415 - the placebo runs without PyTorch

    return {"fedskd_sim": __version__, **arithmetic(scenario.hospital(name)), **code}


def archive_of(
    scenario: Scenario, name: str, folder: Path, code: Mapping[str, str]
) -> SessionArchive | None:
    """Open what a hospital keeps of its sessions in a run folder; None where it keeps none.

    Raises:
        OutputNotWritable: it cannot be made.

    """
    share = int(scenario.instruments.keep_hops * GIB / len(scenario.members))
    if not (share and scenario.learns and name in scenario.members):
        return None
    made = circumstances(scenario, name, code)
    return SessionArchive(folder / FOLDER / name, share, scenario.seed, made)


HOLD_LOOK_S = 0.5


def run_hospital(order: MemberOrder) -> None:
    """Be a hospital from the first word to the last.

    Raises:
        FedskdError: the run cannot go on, with the place in the scenario file.

    """
    keep_freed_memory()
    fix_workspace()
    with order.log(hospital=order.name) as log, _serving(order):
        log.event(events.Starting())
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


@contextmanager
def _serving(order: MemberOrder) -> Iterator[None]:
    """Serve the run folder meanwhile, where the order says so."""
    if not (order.serve and order.secret):
        yield
        return
    token = handover.token_of(order.secret.read_bytes(), order.run, order.name)
    server = handover.FolderServer.start(order.folder, order.name, token, order.serve)
    with closing(server):
        yield


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
    (faults := _faults(order, scenario, topology, log)).come_up()  # late: nothing happens before
    machine = HospitalMachine.of(topology, order.name, Terms.of(scenario, order.run))
    code = code_of(loaded, order.name)
    identity = identity_of(order, loaded, code)
    store = _store(order, scenario, held)
    before = _before(order, store, identity)
    kept = None if store is None else before.records if before else 0
    told = _tell(order, scenario, log, held, kept)
    keeper = Keeper(store, identity, told.ledger, before, order.anyway) if store else None
    archive = archive_of(scenario, order.name, order.folder, code)
    context = _context(order, topology, loaded, told.ledger, (keeper, archive))
    learner = make(context)  # reads the data, which the keeper compares with the earlier life's
    if before:
        log.event(events.WentOn(before.state.cursor, len(machine.program)))
        _recall(order, told.metrics, learner, before)
        told.reporter.report_resumption(began)
    expected = learner.expected, context.receive_buffers.allocate, len(topology.names)
    incoming = Incoming(*expected, sound_of(scenario))
    links, register = _open_links(order, scenario, incoming, before)  # models may come from here on
    known = computes(scenario, order.name, learner, code, order.run)
    register = replace(register, metrics=told.exporter.address, computes=known)
    log.event(events.Listening(register.address, told.exporter.address))
    if keeper:
        keeper.address, keeper.learner = links.address, keeper.freeze(learner.state())
    rejoins = order.life == "restarted" or bool(order.advertise)
    again = order.life != "first" or before is not None
    heard = Mailbox(machine, links, told.reporter, register, keeper, before, again, rejoins)
    with closing(heard) as mailbox:
        span, prepare = told.reporter.span, context.receive_buffers.prepare
        worker = Worker(scenario, topology, order.name, learner, span, prepare)
        worker = replace(worker, spoil=faults.schedule.spoiled, archive=archive)
        take_part(mailbox, worker, faults)
    save_results(context, learner, order.folder)
    told.metrics.write(order.folder)
    _stay(order, scenario, log, told.exporter)


def _before(
    order: MemberOrder, store: Store | None, identity: Mapping[str, str]
) -> KeptPast | None:
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
    algorithm, evaluate_on = scenario.algorithm.name, scenario.instruments.evaluate_on
    ring = Topology.of(scenario)
    metrics = HospitalMetrics(scenario.name, order.name, ring, evaluate_on, algorithm)
    privacy = scenario.hospital(order.name).privacy
    if privacy and privacy.limit is not None:
        metrics.may_spend(privacy.limit)
    ledger = Ledger(order.folder, order.name, _copy(order, log), kept=kept)
    held.enter_context(closing(ledger))
    reporter = replace(make_reporter(scenario, order.name, ledger, log), metrics=metrics)
    reporter.phase("starting")
    held.callback(metrics.write, order.folder)
    held.callback(_push, scenario.metrics.push, metrics, log)
    exporter = held.enter_context(closing(_exporter(order, metrics)))
    return _Told(ledger, metrics, reporter, exporter)


def _push(gateway: str, metrics: HospitalMetrics, log: EventLog) -> None:
    """Push the last exposition, where the scenario names a Pushgateway; no run fails for it."""
    if gateway and (reason := metrics.push(gateway)):
        log.event(events.Unpushed(gateway, reason))


def _context(
    order: MemberOrder,
    topology: Topology,
    loaded: Loaded,
    ledger: Ledger,
    keeps: tuple[Keeper | None, SessionArchive | None],
) -> LearnerContext:
    """Return what a learner is given; the keeper compares the data with the earlier life's."""
    keeper, archive = keeps
    hear: list[Callable[[str], None]] = [keeper.check_data] if keeper else []
    hear += [archive.note_data] if archive else []
    return LearnerContext(
        loaded.scenario,
        order.name,
        order.data,
        own_process=True,
        own_card=bool(order.advertise),  # in a pod
        given=topology,
        counted=ledger.add,
        loaded=partial(_tell_all, hear) if hear else None,
        code=loaded.code,
        folder=order.folder,
    )


def _tell_all(hear: list[Callable[[str], None]], data: str) -> None:
    """Announce to everybody who wants to know the digest of the data."""
    for one in hear:
        one(data)


def _faults(
    order: MemberOrder, scenario: Scenario, topology: Topology, log: EventLog
) -> FaultInjector:
    """Make what lets the scenario's faults happen here; what has happened is noted in custody."""
    custody = custody_of(scenario, order.run, order.folder)
    schedule = FaultSchedule.of(scenario, topology, order.name, poison_of(scenario))
    marks = custody / f"{order.name}{MARKS}" if scenario.custody.enabled else None
    return FaultInjector(schedule, log.event, marks)


def poison_of(scenario: Scenario) -> Poison:
    """Return how weights are poisoned: not at all where nothing is learned."""
    if not scenario.learns:
        return harmless
    from fedskd_sim.learning.weights import poison  # noqa: PLC0415 - the placebo runs without numpy

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


def _recall(
    order: MemberOrder, metrics: HospitalMetrics, learner: Learner, before: KeptPast
) -> None:
    """Be what the earlier life was: the learner, and the metrics, which its records hold."""
    for record in own_records(order.folder, order.name):
        metrics.count_step(record)
    learner.restore(before.learner)


def _open_links(
    order: MemberOrder, scenario: Scenario, incoming: Incoming, before: KeptPast | None
) -> tuple[Links, Register]:
    """Open the links, where the run went on meanwhile at the address that the others know; and
    say how to register.
    """
    keys = order.read_keys(scenario)
    bind = before.address if before and order.life == "restarted" else order.bind
    place = Location(order.name, bind, order.controller, keys)
    links = Links(place, incoming, shaped(order, scenario))
    address = order.advertise or links.address
    return links, Register(
        order.run, FIRST_EPOCH, order.name, address, keys.public if keys else "", ""
    )


def sound_of(scenario: Scenario) -> ChunkCheck:
    """Return what looks at the numbers that arrive; those of a placebo mean nothing, and it runs
    without numpy.
    """
    if not scenario.learns:
        return taken_as_it_is
    from fedskd_sim.learning.weights import finite  # noqa: PLC0415 - the controller's image has no numpy

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
    if context.scenario.audit:
        from fedskd_sim.learning.audited import Auditing  # noqa: PLC0415 - few runs are

        cast("Auditing", learner).save_losses(folder)
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


def _stay(order: MemberOrder, scenario: Scenario, log: EventLog, exporter: Exporter) -> None:
    """Stay up for a last scrape and, meanwhile and longer, until the results have been fetched.

    Whoever has been scraped regularly stays until the next time: its last values, and that it has
    ended well, would be lost.
    """
    began, linger = clock.now(), max(order.linger, scenario.metrics.linger)
    if linger:
        log.event(events.Lingering(linger))
    if order.hold:
        log.event(events.Holding(order.hold))
    clock.sleep(linger)
    while exporter.scrapes.expected(began):
        clock.sleep(HOLD_LOOK_S)
    _hold(order, began)


def _hold(order: MemberOrder, began: float) -> None:
    while clock.now() < began + order.hold and not (order.folder / FETCHED).exists():
        clock.sleep(HOLD_LOOK_S)
