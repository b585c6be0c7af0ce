"""Many placebo hospitals in simulated time: one round and the evaluation, time and memory per
stop.
"""

from __future__ import annotations

import resource
import tempfile
import time
from functools import partial
from pathlib import Path

from fedskd_sim.learning.algorithms.learners import make
from fedskd_sim.learning.base import LearnerContext
from fedskd_sim.member.controller import Controller
from fedskd_sim.member.reporter import Reporter
from fedskd_sim.member.work import Worker
from fedskd_sim.observe.events import LogEvent
from fedskd_sim.protocol.machine import HospitalMachine
from fedskd_sim.protocol.state import Terms
from fedskd_sim.records import Record, Timing
from fedskd_sim.ring.topology import Topology
from fedskd_sim.scenario import Scenario, load
from fedskd_sim.world.node import Node
from fedskd_sim.world.world import World
from tests.benchmarks.table import Table

SIZES = (100, 300, 1000)
TEXT = """
name: many
hospitals: [{hospitals}]
algorithm: {{name: placebo, rounds: 1, buffer_bytes: 16, session_seconds: 1}}
timeouts: {{register: 1000000, hop: 1000000}}
"""


class Counting:
    """A ledger and a log that count."""

    def __init__(self) -> None:
        self.records = 0

    def add(self, entry: Record | Timing) -> None:
        self.records += isinstance(entry, Record)

    def close(self) -> None:
        pass

    def event(self, what: LogEvent) -> None:
        pass


def world_of(scenario: Scenario, ledger: Counting) -> World:
    world, topology, terms = World(), Topology.of(scenario), Terms.of(scenario, "run")
    world.controller = Controller(scenario, "run", world, ledger)  # type: ignore[arg-type]
    for name in scenario.names:
        context = LearnerContext(scenario, name, given=topology, pause=partial(passes, world, name))
        reporter = Reporter(scenario, name, ledger, ledger.event)
        fresh = partial(make, context)
        worker = Worker(scenario, topology, name, fresh(), reporter.span, lambda _: None)
        world.add(Node(HospitalMachine.of(topology, name, terms), worker, reporter, world, fresh))
    return world


def passes(world: World, name: str, seconds: float) -> None:
    world.nodes[name].cost += seconds


def run(size: int) -> tuple[int, float, float, float]:
    """Give stops, CPU seconds to build and to run, and simulated seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "many.yaml"
        entry = "{{name: h{}, architecture: buffer}}"
        path.write_text(
            TEXT.format(hospitals=", ".join(entry.format(number) for number in range(size)))
        )
        scenario = load(path).scenario
    ledger = Counting()
    begun = time.process_time()
    world = world_of(scenario, ledger)
    built = time.process_time()
    world.run()
    if not world.over or world.errors:
        raise RuntimeError(world.errors)
    return ledger.records, built - begun, time.process_time() - built, world.seconds


def main(sizes: tuple[int, ...] = SIZES) -> list[Table]:
    found: dict[str, list[float]] = {}
    ran: dict[str, list[float]] = {}
    peak: dict[str, list[float]] = {}
    for size in sizes:
        row = f"{size} hospitals"
        stops, _, seconds, _ = run(size)
        found[row], ran[row] = [1e6 * seconds / stops], [seconds]
        peak[row] = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]
    return [
        Table("A stop in simulated time, placebo, one round and the evaluation", "CPU us", found),
        Table("The whole run", "CPU s", ran),
        Table("Largest resident memory so far", "MiB", peak),
    ]
