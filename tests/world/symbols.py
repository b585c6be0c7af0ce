"""Whole runs of every algorithm's shape in simulated time, with models whose weights are hashes
of everything that made them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from fedskd_sim.learning.base import Learner, LearnerState, Measures, Session
from fedskd_sim.member.controller import Controller
from fedskd_sim.member.reporter import Reporter
from fedskd_sim.member.work import Worker
from fedskd_sim.messages import Buffer, Forms, TensorSpec, Weights
from fedskd_sim.observe.events import LogEvent
from fedskd_sim.protocol.machine import HospitalMachine
from fedskd_sim.protocol.state import Terms
from fedskd_sim.records import Measure, Record, Timing
from fedskd_sim.ring.topology import Stop, Topology
from fedskd_sim.scenario import Scenario, load
from fedskd_sim.world.node import Node
from fedskd_sim.world.world import World

TEXT = """
name: symbols
seed: {seed}
data: {{name: synthetic-skin, samples: 60, image_size: 16, classes: 3}}
hospitals:
{hospitals}
algorithm: {algorithm}
prediction: {prediction}
on_loss: {on_loss}
timeouts: {{register: {waits}, hop: {waits}, acknowledgement: {waits}, goodbye: {waits}}}
"""
ARCHITECTURE = "architecture: {name: cnn-plain, options: {width: 8}}"
LONG_S, WATCHED_S = 1_000_000, 1_000
"""What a run may wait for; less where signs of life are looked for every second meanwhile."""
SHAPES: Mapping[str, tuple[str, str]] = {
    "fedskd": ("{name: fedskd, rounds: 2}", "{}"),
    "circulation": ("{name: circulation, rounds: 2}", "{}"),
    "mutual": ("{name: mutual, rounds: 2}", "{}"),
    "cyclic": ("{name: cyclic, rounds: 2}", "{}"),
    "sequential": ("{name: cyclic, rounds: 2, schedule: {mode: sequential}}", "{}"),
    "partial": ("{name: circulation, rounds: 3, schedule: {visits: 1}}", "{}"),
    "shuffled": ("{name: circulation, rounds: 3, schedule: {order: shuffled}}", "{}"),
    "local": ("{name: local, rounds: 2}", "{}"),
    "fedavg": (f"{{name: fedavg, rounds: 2, {ARCHITECTURE}}}", "{}"),
    "fedprox": (f"{{name: fedprox, rounds: 2, mu: 0.1, {ARCHITECTURE}}}", "{}"),
    "fml": ("{name: fml, rounds: 2}", "{}"),
    "fedproto": ("{name: fedproto, rounds: 2}", "{}"),
    "placebo": ("{name: placebo, rounds: 2}", "{}"),
    "ensemble": ("{name: fedskd, rounds: 2}", "{ensemble: true}"),
}
"""Algorithm and prediction of a scenario, by what it is about."""


def scenario_of(
    folder: Path,
    shape: str,
    *,
    size: int = 3,
    held_out: int = 0,
    seed: int = 1,
    on_loss: str = "wait",
) -> Scenario:
    """Load a scenario of a shape with so many hospitals that train, and so many that are held
    out.
    """
    algorithm, prediction = SHAPES[shape]
    names = [(f"h{number}", number >= size) for number in range(size + held_out)]
    lines = [
        f"  - {{name: {name}, {ARCHITECTURE}{', held_out: true' if held else ''}}}"
        for name, held in names
    ]
    path = folder / f"{shape}.yaml"
    path.write_text(
        TEXT.format(
            seed=seed,
            hospitals="\n".join(lines),
            algorithm=algorithm,
            prediction=prediction,
            on_loss=on_loss,
            waits=LONG_S if on_loss == "wait" else WATCHED_S,
        )
    )
    return load(path).scenario


def storm_of(seed: int) -> tuple[str, int, int]:
    """Say what the storm of a seed meets: a shape, how many hospitals train, and how many are
    held out.
    """
    names = list(SHAPES)
    return names[seed % len(names)], 2 + seed // len(names) % 6, seed % 2


def mixed(*parts: Any) -> bytes:
    """Hash whatever made something."""
    return blake2b(repr(parts).encode(), digest_size=16).digest()


def weights(value: bytes) -> Weights:
    """Let a hash travel."""
    return {"hash": Buffer("uint8", (16,), value)}


@dataclass
class Symbols:
    """A learner of any algorithm: every model is a hash of all that it has met, in order."""

    scenario: Scenario
    host: str
    topology: Topology
    home: bytes = b""
    visitor: bytes = b""
    share: bytes = b""
    sums: dict[str, bytes] = field(default_factory=dict)
    kept: dict[str, bytes] = field(default_factory=dict)
    expected: Mapping[str, Forms] = field(default_factory=dict)

    def __post_init__(self) -> None:
        form = {"hash": TensorSpec("uint8", (16,))}
        self.expected = dict.fromkeys(self.topology.hospitals, (form,))

    def warm_up(self) -> Session:
        self.home = mixed("warm up", self.host)
        return Session(weights(self.home))

    def alone(self, round_: int) -> Session | None:
        if self.topology.pattern == "circulation":
            return None
        self.home = mixed(self.home, "alone", round_)
        return Session(weights(self.home))

    def depart(self, round_: int) -> Weights:
        if round_ > self.topology.rounds:
            self.kept[self.host] = self.home
        elif self.topology.pattern == "all_reduce":
            self.share, self.sums = self.home, {}
            return weights(mixed(self.share, self.host))
        return weights(self.home)

    def visit(self, stop: Stop, arriving: Weights) -> Session:
        came = bytes(arriving["hash"].data)
        if stop.kind == "visit":
            self.visitor = mixed(came, self.home, self.host, stop.round, stop.hop)
            self.home = mixed(self.home, came, "resident")
            return Session(weights(self.visitor))
        gone = mixed(came, self.share) if stop.kind == "reduce" else came
        if stop.kind == "gather" or stop.hop == self.topology.size - 1:
            self.sums[stop.model] = gone
        if len(self.sums) == self.topology.size:
            self.home = mixed(sorted(self.sums.items()))
        return Session(weights(gone) if stop.kind == "reduce" else arriving, "passed")

    def homecome(self, stop: Stop, arriving: Weights) -> Session:
        self.home = mixed(self.home, bytes(arriving["hash"].data), stop.round)
        return Session(weights(self.home))

    def assess(self) -> Measures:
        return {"accuracy": Measure(float(mixed(self.home, self.visitor)[0]), 256.0)}

    def evaluate(self, model: str, arriving: Weights | None) -> Measures:
        tested = self.home if arriving is None else bytes(arriving["hash"].data)
        self.kept[model] = tested
        return {"accuracy": Measure(float(mixed(self.host, tested)[0]), 256.0)}

    def ensemble(self) -> Measures | None:
        if not self.scenario.prediction.ensemble:
            return None
        return {"accuracy": Measure(float(mixed(sorted(self.kept.items()))[0]), 256.0)}

    def results(self) -> Mapping[str, Weights]:
        return {"": weights(self.home)}

    def state(self) -> LearnerState:
        sums, kept = (
            {name: value.hex() for name, value in part.items()} for part in (self.sums, self.kept)
        )
        numbers = {
            "visitor": self.visitor.hex(),
            "share": self.share.hex(),
            "sums": sums,
            "kept": kept,
        }
        return LearnerState(numbers, {"home": weights(self.home)})

    def restore(self, state: LearnerState) -> None:
        self.home = bytes(state.weights["home"]["hash"].data)
        self.visitor, self.share = (
            bytes.fromhex(state.numbers[name]) for name in ("visitor", "share")
        )
        self.sums = {name: bytes.fromhex(value) for name, value in state.numbers["sums"].items()}
        self.kept = {name: bytes.fromhex(value) for name, value in state.numbers["kept"].items()}


@dataclass
class RecordList:
    """Keeps records in the order in which they are written."""

    records: list[Record] = field(default_factory=list)

    def add(self, entry: Record | Timing) -> None:
        if isinstance(entry, Record):
            self.records.append(entry)


@dataclass
class Silence:
    """A log that keeps what may not be there: refusals and errors."""

    said: list[LogEvent] = field(default_factory=list)

    def event(self, what: LogEvent) -> None:
        if type(what).__name__ in ("Refused", "Error"):
            self.said.append(what)


@dataclass
class Run:
    """A run and what came of it."""

    world: World
    logs: dict[str, Silence]

    @property
    def result(self) -> dict[str, tuple[tuple[Record, ...], Any]]:
        """Give records and the final model of every hospital, from its custody."""
        kept = {name: node.custody for name, node in self.world.nodes.items()}
        return {
            name: (custody.records, custody.learner.weights["home"]["hash"].data)
            for name, custody in kept.items()
        }

    @property
    def refusals(self) -> list[LogEvent]:
        return [event for log in self.logs.values() for event in log.said]


Fresh = Callable[[Scenario, str, Topology], Learner]


def prepared(
    scenario: Scenario,
    weather: Any,
    machine: type[HospitalMachine] = HospitalMachine,
    learner: Fresh = Symbols,
) -> Run:
    """Put a world together."""
    world = World(weather)
    topology, terms = Topology.of(scenario), Terms.of(scenario, "run")
    logs = {name: Silence() for name in scenario.names}
    log: Any = Silence()
    world.controller = Controller(scenario, "run", world, log, now=world.now)
    for name in scenario.names:
        reporter = Reporter(scenario, name, RecordList(), logs[name].event)
        fresh = partial(learner, scenario, name, topology)
        worker = Worker(scenario, topology, name, fresh(), reporter.span, lambda _: None)
        world.add(Node(machine.of(topology, name, terms), worker, reporter, world, fresh))
    return Run(world, logs)


def lived(
    scenario: Scenario, weather: Any, machine: type[HospitalMachine] = HospitalMachine
) -> Run:
    """Let a world run to its end."""
    run = prepared(scenario, weather, machine)
    run.world.run()
    return run
