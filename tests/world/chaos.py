"""Chaos from a seed: a scenario with faults that a run survives, and weather that passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from invariants import Broken, Watcher
from symbols import SHAPES, Run, Symbols, lived, prepared, scenario_of
from weather import OneDeath, Storm

from fedskd_sim.learning.base import Session
from fedskd_sim.messages import Weights
from fedskd_sim.protocol.effects import Effect
from fedskd_sim.protocol.machine import HospitalMachine
from fedskd_sim.records import Record
from fedskd_sim.ring.program import Program, Step
from fedskd_sim.ring.topology import Stop, Topology
from fedskd_sim.scenario import Fault, Scenario

Result = Mapping[str, tuple[tuple[Record, ...], Any]]
"""Records and the final model, by hospital."""
SESSION_S = 1.0
RETRY_S = 10.0
GOODBYE_S = 5.0
SLOWEST = 5
SIZES = (2, 2, 3, 3, 3, 4, 4, 5, 6, 7)
ROUNDS = (1, 1, 2, 2, 3, 4)
WHAT = ("kill", "kill", "restart", "stop", "late", "slow")
"""Faults that a run survives."""


@dataclass
class Passing(Storm):
    """A storm that is over at ``calm``; afterwards a message takes no time to speak of."""

    calm: float = 0.0
    messages: int = 0
    gone: int = 0
    """Messages of which no copy arrived."""
    now: Callable[[], float] = field(default=lambda: 0.0)

    def copies(self, sender: str, to: str) -> Iterator[float]:
        """Give the delay of every copy of a message."""
        self.messages += 1
        if self.now() >= self.calm:
            return iter((0.05,))
        delays = list(super().copies(sender, to))
        self.gone += not delays
        return iter(delays)

    def kills(self, name: str, effect: Effect) -> bool:
        """Tell whether a hospital dies before an effect."""
        return self.now() < self.calm and super().kills(name, effect)

    def disk(self) -> float:
        """Give the seconds that a disk takes."""
        return super().disk() if self.now() < self.calm else 0.05


@dataclass
class Paced(Symbols):
    """Symbols whose sessions take a while."""

    passes: Callable[[str, float], None] = lambda _name, _seconds: None

    def alone(self, round_: int) -> Session | None:
        self.passes(self.host, SESSION_S)
        return super().alone(round_)

    def visit(self, stop: Stop, arriving: Weights) -> Session:
        self.passes(self.host, SESSION_S)
        return super().visit(stop, arriving)

    def homecome(self, stop: Stop, arriving: Weights) -> Session:
        self.passes(self.host, SESSION_S)
        return super().homecome(stop, arriving)


@dataclass
class Chaos:
    """What a seed has drawn."""

    seed: int
    shape: str
    scenario: Scenario
    storm: Passing

    @property
    def words(self) -> str:
        """Say what happens, for who replays it."""
        scenario, storm = self.scenario, self.storm
        faults = "; ".join(fault.words for fault in scenario.faults)
        return (
            f"chaos {self.seed}: {self.shape}, {len(scenario.members)} hospitals that train, "
            f"{len(scenario.held_out)} held out, {scenario.algorithm.rounds} rounds, inbox "
            f"{scenario.network.inbox}, on {scenario.hospitals[0].device}; {faults}; "
            f"a storm of {storm.calm:.1f} s: {storm.lost:.0%} lost, {storm.repeated:.0%} repeated, "
            f"{storm.deaths:.1%} deaths"
        )


@cache
def whole(shape: str, size: int, held_out: int, rounds: int) -> tuple[Scenario, Result]:
    """Give a scenario without faults, and what comes of it undisturbed."""
    with TemporaryDirectory() as folder:
        scenario = scenario_of(Path(folder), shape, size=size, held_out=held_out)
    algorithm = scenario.algorithm.model_copy(update={"rounds": rounds})
    waits = {"retry": RETRY_S, "goodbye": GOODBYE_S}
    timeouts = scenario.timeouts.model_copy(update=waits)
    scenario = scenario.model_copy(update={"algorithm": algorithm, "timeouts": timeouts})
    return scenario, lived(scenario, OneDeath()).result


TEXT = """
name: chaos
seed: {seed}
hospitals: [{hospitals}]
algorithm: {{name: placebo, rounds: {rounds}, session_seconds: {session}}}
network: {{inbox: {inbox}}}
custody: {{restarts: 6}}
timeouts: {{register: 120, hop: 120, acknowledgement: 120, retry: 1, goodbye: 60, stop: 2}}
faults: [{faults}]
"""


def text_of(seed: int) -> str:
    """Write a scenario of the placebo with faults, for real processes: all of it ten times as
    quick.
    """
    draw, scale = Random(seed), 0.1
    size, held_out, rounds = draw.randint(2, 4), int(draw.random() < 0.3), draw.choice(ROUNDS)
    scenario, _ = whole("placebo", size, held_out, rounds)
    faults = [
        ", ".join(f"{key}: {value}" for key, value in fault.model_dump().items() if value)
        for fault in faults_of(draw, scenario, scale)
    ]
    return TEXT.format(
        seed=seed, rounds=rounds, session=scale * SESSION_S, inbox=draw.randint(1, 3),
        hospitals=", ".join(
            f"{{name: {one.name}, architecture: buffer, held_out: {str(one.held_out).lower()}}}"
            for one in scenario.hospitals
        ),
        faults=", ".join(f"{{{keys}}}" for keys in faults),
    )  # fmt: skip


def drawn(seed: int) -> tuple[Chaos, Result]:
    """Draw a scenario, its faults and its weather; gives the undisturbed result too.

    On another device than a processor nothing is computed otherwise here, but what leaves waits
    for the disk.
    """
    draw = Random(seed)
    shape = sorted(SHAPES)[seed % len(SHAPES)]
    size, held_out = draw.choice(SIZES), int(draw.random() < 0.3)
    scenario, undisturbed = whole(shape, size, held_out, draw.choice(ROUNDS))
    network = scenario.network.model_copy(update={"inbox": draw.randint(1, 3)})
    faults = tuple(faults_of(draw, scenario))
    calm = draw.choice((0.0, 1.0, 1.0, 1.0)) * draw.uniform(0, 3 * span(scenario))
    storm = Passing(
        seed, deaths=draw.choice((0.0, 0.003, 0.02)), lost=draw.choice((0.0, 0.1, 0.3)),
        repeated=draw.choice((0.0, 0.1, 0.3)), delay=draw.choice((0.05, 0.5, 2.0)),
        disk_s=draw.choice((0.01, 0.2, 2.0)), calm=calm,
    )  # fmt: skip
    device = draw.choice(("cpu", "cpu", "cuda"))
    hospitals = tuple(one.model_copy(update={"device": device}) for one in scenario.hospitals)
    chosen = scenario.model_copy(
        update={"faults": faults, "network": network, "hospitals": hospitals}
    )
    return Chaos(seed, shape, chosen, storm), undisturbed


def span(scenario: Scenario) -> float:
    """Give about the seconds that an undisturbed run takes."""
    return SESSION_S * len(Program(Topology.of(scenario), scenario.names[0]))


def faults_of(draw: Random, scenario: Scenario, scale: float = 1.0) -> Iterator[Fault]:
    """Draw one to six faults, with all their seconds times ``scale``."""
    late = set()
    for _ in range(draw.randint(1, 6)):
        name, what = draw.choice(scenario.names), draw.choice(WHAT)
        if what == "late" and name in late:
            continue
        late |= {name} if what == "late" else set()
        keys: dict[str, Any] = {} if what == "late" else place_of(draw, scenario, name, scale)
        if what in ("restart", "stop", "late") or (what == "slow" and draw.random() < 0.5):
            keys["lasts"] = round(scale * draw.uniform(0.5, 20), 2)
        if what == "slow":
            keys["factor"] = round(draw.uniform(1, SLOWEST), 1)
        yield Fault(hospital=name, what=what, **keys)


def place_of(draw: Random, scenario: Scenario, name: str, scale: float) -> dict[str, Any]:
    """Draw when a fault strikes: at a hop, in a round, after a time, or where its own seed says."""
    program = Program(Topology.of(scenario), name)
    steps: list[Step] = [step for index in range(len(program)) if (step := program.at(index))]
    step = draw.choice([one for one in steps if one.round])
    hop = {"hop": step.stop.hop} if step.stop else {}
    return draw.choice(
        [
            {"round": step.round, **hop},
            {"round": step.round},
            {"after": round(scale * draw.uniform(0, span(scenario)), 2)},
            {"seed": draw.randint(0, 99)},
        ]
    )


def raised(
    chaos: Chaos, undisturbed: Result, machine: type[HospitalMachine] = HospitalMachine
) -> tuple[Run, Watcher]:
    """Put the world of a chaos together, with a watcher that looks at it after every event."""

    def learner(*about: Any) -> Paced:
        return Paced(*about, passes=passes)

    def passes(name: str, seconds: float) -> None:
        run.world.nodes[name].cost += seconds

    run = prepared(chaos.scenario, chaos.storm, machine, learner)
    chaos.storm.now = lambda: run.world.seconds
    wanted = {name: records for name, (records, _) in undisturbed.items()}
    return run, Watcher(run.world, wanted)


def survived(
    chaos: Chaos, undisturbed: Result, machine: type[HospitalMachine] = HospitalMachine
) -> tuple[Run, Watcher]:
    """Let chaos happen.

    Raises:
        Broken: a law does not hold, after which event of which seed.

    """
    run, watcher = raised(chaos, undisturbed, machine)
    try:
        run.world.run()
        judge(chaos, run, undisturbed, watcher)
    except Broken as broken:
        text = (
            f"{broken.text}; after event {watcher.events} at {run.world.seconds:.2f} s of "
            f"{chaos.words}; replay: python -m tests.world chaos {chaos.seed}"
        )
        raise Broken(broken.law, text) from None
    return run, watcher


def judge(chaos: Chaos, run: Run, undisturbed: Result, watcher: Watcher) -> None:
    """Say whether a run has ended, in time, with all that it should have.

    Raises:
        Broken: it has not.

    """
    world = run.world
    if not world.over or world.errors:
        raise Broken("every run ends", f"{world.errors or 'nothing happens any more'}")
    if run.refusals:
        raise Broken("nobody is refused", f"{run.refusals}")
    if run.result != undisturbed:
        differing = [name for name in run.result if run.result[name] != undisturbed[name]]
        raise Broken("the result is the undisturbed run's", f"{differing}")
    limit = patience(chaos.scenario, max(chaos.storm.calm, watcher.disturbed))
    if watcher.finished > limit:
        raise Broken("peace ends a run", f"at {watcher.finished:.1f} s, not by {limit:.1f}")


def patience(scenario: Scenario, quiet: float) -> float:
    """Give the latest end of a run that is left in peace from ``quiet`` on: a wait for an answer is
    as long as those before it together, a deferral lasts eight times the retry, and then all the
    work is to be done, if need be by one after the other.
    """
    ring = Topology.of(scenario)
    steps = sum(len(Program(ring, name)) for name in scenario.names)
    return 2 * quiet + 10 * RETRY_S + SLOWEST * SESSION_S * steps
