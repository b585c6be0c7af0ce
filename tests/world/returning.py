"""Hospitals that are lost and come back, from a seed; and what is true of a run with them at every
instant: a `Sentry` looks at its world after every event.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from chaos import Paced
from invariants import Broken
from symbols import Run, prepared, scenario_of
from weather import Cut, Storm

from fedskd_sim.custody.expected import (
    ExpectedRecords,
    KeptRecord,
    RecordPosition,
    position_of,
    sources,
)
from fedskd_sim.custody.verify import verify
from fedskd_sim.errors import LeftBehind, Where
from fedskd_sim.member.controller import Controller
from fedskd_sim.protocol.effects import Effect
from fedskd_sim.protocol.losses import is_rejoining
from fedskd_sim.protocol.machine import HospitalMachine
from fedskd_sim.protocol.state import State
from fedskd_sim.records import Record, to_line
from fedskd_sim.ring.program import Program
from fedskd_sim.ring.routes import Routes, code, merged, merged_returns
from fedskd_sim.ring.topology import Topology
from fedskd_sim.scenario import Fault, Link, Scenario
from fedskd_sim.transport.shaping import Shaping
from fedskd_sim.world.node import InMemoryCustody
from fedskd_sim.world.world import World

AFTER_S = 4.0
SHAPES = ("circulation", "fedskd", "partial", "shuffled", "sequential", "ensemble", "mutual")


@dataclass
class Absences(Storm):
    """A storm in which hospitals die before some of their effects and stay away for a while."""

    fates: dict[tuple[str, int], float] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)

    def kills(self, name: str, effect: Effect) -> bool:  # noqa: ARG002 - the signature of weather
        self.seen[name] = self.seen.get(name, 0) + 1
        self.away = self.fates.get((name, self.seen[name]))
        self.killed += self.away is not None
        return self.away is not None


@dataclass
class Story:
    """What a seed has drawn."""

    seed: int
    scenario: Scenario
    storm: Absences
    takeover: float
    """When another controller takes the run over; 0: never."""
    notes: float | None = None
    """How old what it knows of losses and returns is, in seconds; None: it knows of none."""
    kind: str = "return"
    """By which word it is replayed."""
    links: tuple[Link, ...] = ()
    """Rules of the scenario for links."""

    @property
    def words(self) -> str:
        scenario, storm = self.scenario, self.storm
        faults = "; ".join(fault.words for fault in scenario.faults)
        return (
            f"return {self.seed}: {scenario.algorithm.name}, {len(scenario.members)} that train, "
            f"{len(scenario.held_out)} held out, {scenario.algorithm.rounds} rounds, "
            f"{scenario.on_loss.model}, away {storm.fates}; {faults}; {storm.lost:.0%} lost, "
            f"{storm.repeated:.0%} repeated, delay {storm.delay}, disk {storm.disk_s}, "
            f"another controller at {self.takeover:.1f} s, with notes of {self.notes} s ago; "
            f"{storm.unheard:.0%} unheard, words {storm.late} s late, cut off {storm.cuts}"
        )


@cache
def scenario_with(shape: str, size: int, held_out: int, model: str, rounds: int) -> Scenario:
    """Give a scenario that skips who is silent for some seconds."""
    policy = f"{{name: skip, after: {AFTER_S}, model: {model}}}"
    with TemporaryDirectory() as folder:
        made = scenario_of(Path(folder), shape, size=size, held_out=held_out, on_loss=policy)
    algorithm = made.algorithm.model_copy(update={"rounds": rounds})
    waits = {
        "retry": 2.0,
        "goodbye": 60.0,
        "register_": 60.0,
        "hop": 3000.0,
        "acknowledgement": 3000.0,
    }
    timeouts = made.timeouts.model_copy(update=waits)
    return made.model_copy(update={"algorithm": algorithm, "timeouts": timeouts})


def drawn(seed: int) -> Story:
    """Draw a scenario, its weather, and who is away when."""
    draw = Random(seed)
    shape, size = SHAPES[seed % len(SHAPES)], draw.choice((3, 3, 4, 4, 5, 6))
    model, rounds = draw.choice(("travels", "travels", "retires")), draw.choice((3, 4, 5, 6))
    scenario = scenario_with(shape, size, int(draw.random() < 0.25), model, rounds)
    names = draw.sample(scenario.names, draw.choice((1, 1, 1, 2)))
    fates, faults = {}, []
    for name in names:
        for _ in range(draw.choice((1, 1, 2, 3))):
            lasts = round(draw.uniform(1.0, 3.0) * draw.choice((2.0, 5.0, 10.0)), 2)
            kind = draw.choice(("dies", "dies", "stop", "late"))
            if kind == "dies":
                fates[name, draw.randint(1, draw.choice((20, 100, 300)))] = lasts
            elif kind == "stop":
                after = round(draw.uniform(0.5, 8.0 * rounds), 2)
                faults.append(Fault(hospital=name, what="stop", lasts=lasts, after=after))
            elif not any(one.hospital == name and one.what == "late" for one in faults):
                faults.append(Fault(hospital=name, what="late", lasts=lasts))
    storm = Absences(
        seed, fates=fates, lost=draw.choice((0.0, 0.05, 0.1)),
        repeated=draw.choice((0.0, 0.1, 0.3)), delay=draw.choice((0.05, 0.3, 1.0)),
        disk_s=draw.choice((0.01, 0.2, 1.0)),
    )  # fmt: skip
    network = scenario.network.model_copy(update={"inbox": draw.randint(1, 3)})
    register = scenario.timeouts.model_copy(update={"register_": draw.choice((20.0, 60.0))})
    updated = {"faults": tuple(faults), "network": network, "timeouts": register}
    takeover = draw.choice((0.0, 0.0, 0.0, 1.0)) * draw.uniform(AFTER_S, 10.0 * rounds)
    notes = draw.choice((None, 0.0, 0.0, 2.0, 20.0))
    return Story(seed, scenario.model_copy(update=updated), storm, takeover, notes)


def drawn_unheard(seed: int) -> Story:
    """Draw a story in which words to the controller are lost, late and overtake each other, and
    hospitals are cut off from it, or from everybody, while they work; in every third nobody dies.
    """
    story, draw = drawn(seed), Random(f"unheard {seed}")
    names, rounds = story.scenario.names, story.scenario.algorithm.rounds
    cuts = []
    for _ in range(draw.choice((0, 1, 2, 3))):
        who = draw.sample(names, draw.choice((1, 1, 1, 2)) if len(names) > 3 else 1)
        begin = draw.uniform(0.5, 8.0 * rounds)
        end = begin + draw.uniform(1, 3) * draw.choice((1.0, 3.0, 8.0))
        way = draw.choice(("up", "down", "both", "all"))
        cuts.append(Cut(begin, end, frozenset(who), way))
    storm = replace(
        story.storm, cuts=tuple(cuts), unheard=draw.choice((0.0, 0.05, 0.2)),
        late=draw.choice((0.0, 0.3, 1.0, 5.0)),
    )  # fmt: skip
    story = replace(story, storm=storm, kind="unheard")
    if seed % 3 == 0:
        storm.fates.clear()
        story.scenario = story.scenario.model_copy(update={"faults": ()})
        story.takeover = 0.0
    return story


@dataclass
class Sentry:
    """Looks at a world after every event."""

    world: World
    events: int = 0
    returned: int = 0
    together: bool = False
    """Two hospitals have been away at the same time."""
    _kept: dict[str, InMemoryCustody] = field(default_factory=dict)

    def __post_init__(self) -> None:
        nodes = list(self.world.nodes.values())
        self._ring = nodes[0].machine.topology
        self._programs: dict[str, Program] = {node.name: node.machine.program for node in nodes}
        self._kept = {node.name: node.custody for node in nodes}
        self.world.watch = self.look

    def look(self) -> None:
        """Look at everybody.

        Raises:
            Broken: a law does not hold.

        """
        self.events += 1
        assert self.world.controller
        living = [name for name in self._programs if name not in self._away()]
        self.together |= len(living) < len(self._programs) - 1
        for name, node in self.world.nodes.items():
            self._only_grows(name, self._kept[name], node.custody)
            self._kept[name] = node.custody
            self._rejoining(name, node.shell.state if node.up else node.custody.state)
        self._one_view(living)
        self._one_owner([name for name in living if self.world.nodes[name].up])

    def _away(self) -> set[str]:
        """Name those whom anybody knows to be lost, of all that is known of returns."""
        assert self.world.controller
        told = self.world.controller.state
        states = [node.custody.state for node in self.world.nodes.values()]
        lost, back = told.lost, told.back
        for state in states:
            lost, back = merged(lost, state.lost), merged_returns(back, state.back)
        routes = Routes(self._ring, lost, back)
        return {name for name in lost if routes.left_out(name)}

    def _states(self, name: str) -> list[State]:
        node = self.world.nodes[name]
        return [node.custody.state, *([node.shell.state] if node.up else [])]

    def _only_grows(self, name: str, was: InMemoryCustody, now: InMemoryCustody) -> None:
        """Cursor, records and what is known of losses and returns."""
        if now is was:
            return
        if now.state.cursor < was.state.cursor or now.records[: len(was.records)] != was.records:
            raise Broken("custody only grows", name)
        if now.state.epoch < was.state.epoch:
            raise Broken("what is known only grows", name)

    def _rejoining(self, name: str, state: State) -> None:
        """A rejoining hospital holds nothing that could leave, and takes nothing in."""
        if is_rejoining(state, self._programs[name]) and not state.over:
            step = self._programs[name].at(state.cursor)
            here = step and step.stop and (step.stop.model, step.stop.round, step.stop.hop)
            others = [hop for hop in state.waiting if hop[2:] != here]
            if state.outbox or state.kept or others:
                raise Broken("who rejoins does nothing", f"{name}: {state}")

    def _one_view(self, living: list[str]) -> None:
        """Once a hospital knows that it is back, all others have it in custody: nobody is at work
        in its round, or behind, who would pass it by.
        """
        for name in living:
            back = self._states(name)[-1].back.get(name)
            if back is None or back.away:
                continue
            for other in set(living) - {name}:
                for state in self._states(other):
                    if code(state.back.get(name)) >= code(back):
                        continue
                    if self.world.nodes[other].gone or self.world.nodes[other].ended:
                        continue
                    text = f"{name} is back in round {back.round}, and {other} knows {state.back}"
                    raise Broken("all know who is back", text)

    def _one_owner(self, living: list[str]) -> None:
        """Of those that are left no two are at work on the same model, but for one that has died
        and repeats what it forgot.
        """
        owners: dict[str, tuple[int, int, str]] = {}
        for name in living:
            state, program = self.world.nodes[name].shell.state, self._programs[name]
            step = program.at(state.cursor)
            if not (state.working and step and step.stop) or state.released:
                continue
            if state.routes(self._ring).void(step.stop):
                continue
            mine = step.stop.round, step.stop.hop, name
            other = owners.setdefault(step.stop.model, mine)
            if other != mine and not self.world.nodes[min(other, mine)[2]].life:
                raise Broken("a model has one owner", f"{other} and {mine}")


def raised(story: Story, machine: type[HospitalMachine] = HospitalMachine) -> tuple[Run, Sentry]:
    """Put the world of a story together."""

    def learner(*about: Any) -> Paced:
        return Paced(*about, passes=passes)

    def passes(name: str, seconds: float) -> None:
        run.world.nodes[name].cost += seconds

    def take_over() -> None:
        if run.world.controller and run.world.controller.state.opened:
            if run.world.controller.state.ended:
                return
            names, log = story.scenario.names, run.world.controller._log
            controller = Controller(story.scenario, "run", run.world, log, now=run.world.now)
            age = story.notes
            old = [] if age is None else [one for at, one in notes if at <= run.world.now() - age]
            known = old[-1] if old else ({}, {})
            controller.resume(dict.fromkeys(names, "memory"), dict.fromkeys(names, ""), *known)
            controller._renew()
            run.world.controller = controller

    def note(*losses: Any) -> None:
        notes.append((run.world.now(), losses))

    notes: list[tuple[float, Any]] = []
    run = prepared(story.scenario, story.storm, machine, learner)
    assert run.world.controller
    run.world.controller._losing = note
    if story.links:
        run.world.links = Shaping(story.scenario.model_copy(update={"links": story.links}))
    if story.takeover:
        run.world._at(story.takeover, take_over)
    return run, Sentry(run.world)


def survived(story: Story, machine: type[HospitalMachine] = HospitalMachine) -> tuple[Run, Sentry]:
    """Let a story happen.

    Raises:
        Broken: a law does not hold.

    """
    run, sentry = raised(story, machine)
    try:
        run.world.run()
        judge(story, run, sentry)
    except Broken as error:
        text = (
            f"{error.text}; after event {sentry.events} at {run.world.seconds:.2f} s of "
            f"{story.words}; replay: python -m tests.world {story.kind} {story.seed}"
        )
        raise Broken(error.law, text) from None
    return run, sentry


def judge(story: Story, run: Run, sentry: Sentry) -> None:
    """Say whether a run has ended well; raises Broken if it has not."""
    for law, text in broken(story, run, sentry):
        raise Broken(law, text)


def broken(story: Story, run: Run, sentry: Sentry) -> Iterator[tuple[str, str]]:
    """Say what is wrong with how a run has ended."""
    assert run.world.controller
    state, ring = run.world.controller.state, Topology.of(story.scenario)
    if not state.ended or state.ended.code:
        if not sentry.together:
            yield "every run ends", f"{state.ended}, {run.world.errors}"
        return
    for name, error in run.world.errors:
        if error.exit_code != LeftBehind.exit_code or name not in state.away:
            yield "nobody fails", f"{name}: {error}"
    for refusal in run.refusals:
        if "the run goes on without its sender" not in str(refusal):
            yield "nobody is refused", str(refusal)
    routes = Routes(ring, state.lost, state.back)
    sentry.returned = len([name for name in state.back if name not in state.away])
    yield from _of_records(story.scenario, run, routes)
    yield from _of_proof(story.scenario, run, routes)


def _of_proof(scenario: Scenario, run: Run, routes: Routes) -> Iterator[tuple[str, str]]:
    """Prove the records as `fedskd-sim verify` does, which knows of them alone."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "records").mkdir()
        (folder / "scenario.yaml").touch()
        for name, node in run.world.nodes.items():
            lines = [f"{to_line(one)}\n" for one in node.custody.records]
            (folder / "records" / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        ended = [name for name in scenario.names if not routes.left_out(name)]
        found = verify(folder, scenario, ended=ended)
    if found.broken:
        yield "the proof holds", str(found.broken)


def _of_records(scenario: Scenario, run: Run, routes: Routes) -> Iterator[tuple[str, str]]:
    """Compare the records with each other and with what is due."""
    ring = routes.topology
    found: dict[str, dict[RecordPosition, KeptRecord]] = {}
    for name, node in run.world.nodes.items():
        records = node.custody.records
        found[name] = {
            position_of(one): KeptRecord(
                position_of(one), one.digest_in, one.digest_out, Where(name)
            )
            for one in records
        }
        if len(found[name]) != len(records):
            yield "each record once", name
        yield from _of_names(name, records, routes)
    by_host = {name: ExpectedRecords(scenario, ring, name) for name in scenario.names}
    for name, expected in by_host.items():
        for wanted, _ in expected.positions():
            at_home = not wanted.hop or wanted.kind == "ensemble"
            stop = None if at_home else ring.stop(wanted.model, wanted.round, wanted.hop)
            left_out = routes.away(name, wanted.round) or (stop is not None and routes.void(stop))
            if wanted not in found[name] and not left_out:
                yield "nothing is missing", str(wanted)
        for wanted, entry in found[name].items():
            if wanted.hop and wanted.kind != "ensemble":
                before, known = sources(wanted, by_host, found, routes)
                came = {one.digest_out for one in before}
                if known and came and entry.digest_in not in came:
                    yield "everything came from somewhere", str(wanted)


def _of_names(name: str, records: tuple[Record, ...], routes: Routes) -> Iterator[tuple[str, str]]:
    """A record from a round in which all that are back are so says it of each."""
    for record in records:
        for other, back in routes.back.items():
            if back.away or record.round < back.round or routes.away(name, record.round):
                continue
            if record.back.get(other) != back.round:
                yield "records name who is back", f"{record} of {name}, {other}: {back}"
