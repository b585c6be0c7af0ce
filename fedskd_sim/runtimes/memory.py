"""All hospitals in this process, in simulated time: the reference, and the quickest way to try
something.
"""

from __future__ import annotations

import math
import os
import resource
import traceback
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TextIO

from fedskd_sim import clock
from fedskd_sim.errors import FedskdError, HospitalCrashed
from fedskd_sim.exits import rebuilt
from fedskd_sim.learning.algorithms.learners import make
from fedskd_sim.learning.base import LearnerContext
from fedskd_sim.learning.workspace import WORKSPACE, fix_workspace
from fedskd_sim.member.controller import Controller
from fedskd_sim.member.crash import ABOVE
from fedskd_sim.member.reporter import forget_peak_of_cards, peak_memory
from fedskd_sim.member.work import Worker
from fedskd_sim.observe.events import EventLog, LogEvent, Logged
from fedskd_sim.protocol.machine import HospitalMachine
from fedskd_sim.protocol.state import Terms
from fedskd_sim.records import SampleCounts, at_once
from fedskd_sim.records.ledger import Ledger
from fedskd_sim.ring.topology import Topology
from fedskd_sim.runtimes.base import Order, Watch
from fedskd_sim.runtimes.folder import look_at
from fedskd_sim.runtimes.life import (
    archive_of,
    code_of,
    poison_of,
    save_results,
    sound_of,
)
from fedskd_sim.runtimes.location import Here
from fedskd_sim.runtimes.member import log_error, make_reporter
from fedskd_sim.scenario import COMES_BACK, Loaded
from fedskd_sim.transport.shaping import Shaping
from fedskd_sim.world.node import Node, Reborn
from fedskd_sim.world.world import World

SELDOM_S = 0.1


@dataclass(frozen=True)
class WatchedLog(EventLog):
    """A log whose lines also go to whoever watches the run."""

    watchers: list[Watch] = field(default_factory=list)

    def event(self, what: LogEvent) -> None:
        """Write one line and show it."""
        super().event(what)
        shown = Logged(
            clock.unix(), getattr(what, "hospital", self.bound.get("hospital", "")), what
        )
        for watch in self.watchers:
            watch(shown)


class Seldom:
    """Spares a run of very many short steps what each of them would ask of the system: files are
    flushed, and the memory of this process looked up, a few times a second.
    """

    def __init__(self) -> None:
        """Begin with the next line, and the next step."""
        self._written: set[TextIO] = set()
        self._flushed = self._looked = -math.inf
        self._peak = 0

    def flush(self, stream: TextIO) -> None:
        """Flush a stream soon, and all others that wait for it."""
        self._written.add(stream)
        if (now := clock.now()) - self._flushed >= SELDOM_S:
            self._flushed = now
            self.flush_all()

    def flush_all(self) -> None:
        """Flush what waits for it."""
        while self._written:
            stream = self._written.pop()
            if not stream.closed:
                stream.flush()

    def peak_memory(self) -> int:
        """Return the most memory that this process had when it was looked up last, in bytes."""
        if (now := clock.now()) - self._looked >= SELDOM_S:
            self._looked, self._peak = now, peak_memory()
        return self._peak


class MemoryRuntime:
    """Runs every hospital in turn in the calling thread."""

    def __init__(self, reborn: Reborn | None = None) -> None:
        """Prepare nothing yet; with ``reborn`` every step is taken by another life of its hospital,
        as `Node` says.
        """
        self._reborn = reborn
        self._world = World()
        self._watchers: list[Watch] = []
        self._stack = ExitStack()
        self._contexts: dict[str, LearnerContext] = {}
        self._seldom: Seldom | None = None
        """For a run that does not learn; steps that do take longer than this saves."""

    def prepare(self, loaded: Loaded) -> None:
        """Do nothing: what a scenario needs is imported when it is checked."""

    remark = ""

    @property
    def place(self) -> Here:
        """Return where the run is, for the run folder."""
        return Here.of_this_process()

    def launch(self, order: Order) -> None:
        """Make the controller and all hospitals."""
        if WORKSPACE not in os.environ:
            self._stack.callback(os.environ.pop, WORKSPACE, None)
        fix_workspace()
        forget_peak_of_cards()
        scenario = order.loaded.scenario
        if scenario.learns:
            from fedskd_sim.learning.devices import CALLERS  # noqa: PLC0415 - the placebo runs without PyTorch

            CALLERS.note()
            self._stack.callback(CALLERS.put_back)
        self._order, self._seldom = order, None if scenario.learns else Seldom()
        _allow_files(4 * len(scenario.names))
        self._world.controller = Controller(
            scenario, order.run, self._world, self._log("controller"), now=self._world.now
        )
        self._world.weather.persists = scenario.custody.enabled and any(
            fault.what in COMES_BACK for fault in scenario.faults
        )
        if any(fault.what == "poison" for fault in scenario.faults):
            self._world.sound = sound_of(scenario)
        if scenario.links:
            self._world.links = Shaping(scenario)
        topology, terms = Topology.of(scenario), Terms.of(scenario, order.run)
        for name in scenario.names:
            self._add(name, topology, terms)

    def wait(self, watch: Watch) -> None:
        """Play the whole run; raises the error that ended the run."""
        self._watchers.append(watch)
        try:
            try:
                self._world.run()
            finally:  # errors are written to the same logs
                if self._seldom:
                    self._seldom.flush_all()
            self._check()
            for name, context in self._contexts.items():
                if not self._world.nodes[name].finished:
                    continue
                save_results(context, self._world.nodes[name].worker.learner, self._order.folder)
        finally:
            self.stop()

    def stop(self) -> None:
        """Close the ledgers, and leave the caller's process as it was."""
        self._stack.close()

    def _check(self) -> None:
        """Raise the first error that was a hospital's own, or say who never finished."""
        own = [(name, error) for name, error in self._world.errors if not error.second_hand]
        lost = self._world.lost
        for name, error in own:
            error.culprit = name
            self._print(name, error)
            log_error(self._log(name, hospital=name), self._order.loaded.place_error(error))
        if mattering := [entry for entry in own if entry[0] not in lost]:
            raise min(mattering, key=lambda entry: entry[1].stop)[1]
        end = self._world.controller and self._world.controller.state.ended
        if end and end.code:
            raise self._order.loaded.place_error(rebuilt(end.code, end.reason))
        late = [
            node for name, node in self._world.nodes.items() if not node.ended and name not in lost
        ]
        if late:
            raise late[0].machine.missing(late[0].shell.state)

    def _print(self, name: str, error: FedskdError) -> None:
        """Write the traceback of a hospital's code where its process would have written it."""
        if isinstance(error, HospitalCrashed) and error.__cause__:
            place = self._order.folder / "logs" / f"{name}.err"
            with suppress(OSError), place.open("a", encoding="utf-8") as stream:
                traceback.print_exception(error.__cause__, file=stream)
            error.fix = look_at(self._order.folder, name) if error.fix == ABOVE else error.fix

    def _add(self, name: str, topology: Topology, terms: Terms) -> None:
        scenario, world = self._order.loaded.scenario, self._world
        seldom = self._seldom
        flush = seldom.flush if seldom else at_once
        ledger = self._stack.enter_context(closing(Ledger(self._order.folder, name, flush=flush)))
        reporter = make_reporter(scenario, name, ledger, self._log(name, hospital=name))
        if seldom:
            reporter = replace(reporter, peak=seldom.peak_memory)
        archive = None
        if scenario.instruments.keep_hops:
            code = code_of(self._order.loaded, name)
            archive = archive_of(scenario, name, self._order.folder, code)
        context = LearnerContext(
            scenario,
            name,
            self._order.data,
            given=topology,
            pause=partial(_pass, world, name),
            counted=partial(_add_once, ledger, []),
            loaded=archive.note_data if archive else None,
            code=self._order.loaded.code,
            folder=self._order.folder,
        )
        self._contexts[name] = context
        fresh = partial(make, context)
        worker = Worker(
            scenario, topology, name, fresh(), reporter.span, context.receive_buffers.prepare
        )
        worker = replace(worker, archive=archive)
        machine = HospitalMachine.of(topology, name, terms)
        poison = poison_of(scenario)
        world.add(Node(machine, worker, reporter, world, fresh, poison=poison, reborn=self._reborn))

    def _log(self, file: str, **bound: str) -> EventLog:
        path = self._order.folder / "logs" / f"{file}.jsonl"
        opened = partial(path.open, "a", encoding="utf-8")
        stream: TextIO = self._stack.enter_context(opened())
        flush = self._seldom.flush if self._seldom else at_once
        return WatchedLog(stream, {"run": self._order.run, **bound}, self._watchers, flush=flush)


def _add_once(ledger: Ledger, told: list[SampleCounts], counts: SampleCounts) -> None:
    """Note what a hospital counts, which another life of it counts again."""
    if counts not in told:
        told.append(counts)
        ledger.add(counts)


def _pass(world: World, name: str, seconds: float) -> None:
    """Spend simulated seconds in a hospital's step."""
    world.nodes[name].cost += seconds


def _allow_files(count: int) -> None:
    """Allow this process so many open files, as far as the system permits."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count + 64:
        wanted = count + 64 if hard == resource.RLIM_INFINITY else min(hard, count + 64)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
