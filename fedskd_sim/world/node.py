"""A hospital in simulated time: its shell and its learner, what it has in custody, from which it
comes back, and what the faults of a scenario do to it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from fedskd_sim.errors import FedskdError
from fedskd_sim.learning.base import Learner, LearnerState
from fedskd_sim.member.crash import in_step
from fedskd_sim.member.faults import abort, fill_disk
from fedskd_sim.member.keeper import Freezer
from fedskd_sim.member.reporter import Reporter
from fedskd_sim.member.schedule import (
    FOR_EVER,
    FaultSchedule,
    Poison,
    StepPosition,
    harmless,
    place_of,
)
from fedskd_sim.member.shell import Shell, Task
from fedskd_sim.member.work import Arrival, Worker
from fedskd_sim.messages import (
    Answer,
    Buffer,
    FromController,
    Ready,
    Register,
    ToController,
    Traveller,
    Weights,
    digest,
    freeze,
)
from fedskd_sim.observe import events
from fedskd_sim.protocol.effects import Effect
from fedskd_sim.protocol.events import (
    Begun,
    Broke,
    StepFinished,
    Timer,
    answered,
    heard,
)
from fedskd_sim.protocol.machine import HospitalMachine
from fedskd_sim.protocol.state import State, dump, handles, parse
from fedskd_sim.records import Record
from fedskd_sim.ring.program import Step
from fedskd_sim.scenario import Fault


class Killed(Exception):
    """The hospital dies here, before it carries out its next effect; it is away for so many
    seconds, for as long as a restart takes, or for ever.
    """

    def __init__(self, away: float | None = None) -> None:
        """Keep the seconds; None: as long as a restart takes."""
        super().__init__()
        self.away = away


class Stalled(Exception):
    """The hospital never ends the step that it is at."""


class Clock(Protocol):
    """What a fault needs of the world; see `fedskd_sim.world.world.World`."""

    @property
    def seconds(self) -> float:
        """The present moment."""

    def later(self, node: Any, delay: float, happen: Callable[[], None]) -> None:
        """Do something to a hospital if it has not died by then."""


class Sufferer(Protocol):
    """What a fault needs of the hospital it strikes; see `fedskd_sim.world.node.Node`."""

    asleep: float

    @property
    def world(self) -> Clock:
        """The simulated world it lives in, for its clock."""

    @property
    def reporter(self) -> Any:
        """Notes faults in the hospital's log."""


@dataclass
class Faults:
    """Lets the faults of one hospital happen, each once in all its lives."""

    schedule: FaultSchedule
    _began: float = 0.0
    _place: StepPosition = (0, 0)
    """Where the step under way, or the last one, is."""

    def come_up(self, node: Sufferer) -> None:
        """Begin to count seconds, and wait for what has a time."""
        self.schedule.come_up_again(node.world.seconds - self._began)
        self._began, self._place = node.world.seconds, (0, 0)
        for index in [number for number, one in self.schedule.left.items() if one.what == "late"]:
            self._log(node, self.schedule.left.pop(index))
        for index, fault in self.schedule.timed.items():
            strike = partial(self._strike, node, index, fault)
            node.world.later(node, fault.after or 0.0, strike)

    def before(self, node: Sufferer, step: Step) -> bool:
        """Cause what is to happen before a step; returns whether the step can begin now.

        Raises:
            Killed: the hospital dies.
            Stalled: it keeps its visitor.
            RunAborted: it ends the run.
            OSError: its disk is full.

        """
        self._place = place_of(step)
        for _, fault in self.schedule.meet(step, self._seconds(node)):
            self._happens(node, fault)
        return node.asleep <= node.world.seconds

    def slowness(self, node: Sufferer) -> float:
        """Return how many times as long a step takes."""
        return self.schedule.slowness(self._seconds(node))

    def _seconds(self, node: Sufferer) -> float:
        return node.world.seconds - self._began

    def _strike(self, node: Sufferer, index: int, fault: Fault) -> None:
        if index in self.schedule.left:
            self.schedule.strike(index, self._seconds(node))
            self._happens(node, fault)

    def _log(self, node: Sufferer, fault: Fault) -> None:
        node.reporter.log(events.FaultEvent(fault.what, *self._place, fault.lasts))

    def _happens(self, node: Sufferer, fault: Fault) -> None:
        self._log(node, fault)
        match fault.what:
            case "kill" | "restart":
                raise Killed(fault.lasts)
            case "leave":
                raise Killed(FOR_EVER)
            case "stop":
                node.asleep = node.world.seconds + (fault.lasts or FOR_EVER)
            case "stall":
                raise Stalled
            case "abort":
                abort()
            case "full_disk":
                fill_disk()


Reborn = Callable[[str, Learner, Callable[[], Learner], LearnerState], Learner]
"""Makes the next life of a hospital's learner: from its name, the learner, what makes a fresh one,
and what is in custody of the old one."""
IsPast = Callable[[], bool]
"""Tells whether what a timer was set for is over."""


class Surroundings(Protocol):
    """What a node needs of its world; see `fedskd_sim.world.world.World`."""

    def later(
        self, node: Node, delay: float, happen: Callable[[], None], past: IsPast | None = None
    ) -> None:
        """Do something to a hospital if it has not died by then."""

    def carry(self, sender: str, to: str, what: Any, take: Callable[[Node], None]) -> None:
        """Carry a message to a hospital."""

    def tell(self, message: ToController) -> None:
        """Carry a word to the controller."""

    def fails(self, name: str, error: FedskdError) -> None:
        """Note that a hospital has failed."""

    def kills(self, name: str, effect: Effect) -> bool:
        """Return whether a hospital dies before an effect."""

    @property
    def persists(self) -> bool:
        """Whether hospitals keep custody."""

    @property
    def away(self) -> float | None:
        """How long a hospital stays away that dies of the weather; None: as long as a restart."""

    seconds: float
    """The present moment."""

    def disk(self) -> float:
        """Return the seconds that a disk takes for what is to be kept."""


@dataclass(frozen=True)
class InMemoryCustody:
    """What outlives a death: the machine's state, the learner's as the last finished step left
    it, the models, the records.
    """

    state: State
    learner: LearnerState
    models: dict[int, Weights] = field(default_factory=dict)
    records: tuple[Record, ...] = ()
    ticket: int = 0


@dataclass
class Node:
    """A hospital in simulated time: what its `Shell` finds outside instead of a mailbox, links
    and a disk, and what dies and comes back as the scenario says.

    ``fresh`` makes the learner of another life; with ``reborn`` every step is taken by another one,
    as if the hospital had died before it.
    """

    machine: HospitalMachine
    worker: Worker
    reporter: Reporter
    world: Surroundings
    fresh: Callable[[], Learner]
    up: bool = True
    life: int = 0
    ended: bool = False
    gone: bool = False
    """It has died, and never comes back."""
    cost: float = 0.0
    """Seconds that the step under way takes, as its learner has asked to let pass."""
    poison: Poison = harmless
    reborn: Reborn | None = None
    asleep: float = 0.0
    """Until when it stands still."""
    faults: Faults = field(init=False)
    shell: Shell = field(init=False)
    custody: InMemoryCustody = field(init=False)
    _finished: LearnerState | None = None
    _asked: InMemoryCustody | None = None
    """What was last to be put into custody, in this life."""
    _freeze: Freezer = field(default_factory=Freezer)

    def __post_init__(self) -> None:
        """Put everything that there is at the beginning into custody."""
        ring, scenario = self.machine.topology, self.worker.scenario
        self.faults = Faults(FaultSchedule.of(scenario, ring, self.name, self.poison))
        self.worker = replace(self.worker, spoil=self.faults.schedule.spoiled)
        self.custody = InMemoryCustody(State(), self.worker.learner.state())
        self.shell = self._shell(State(), {})

    @property
    def finished(self) -> bool:
        """Return whether it has gone through its whole program."""
        return self.shell.state.done

    @property
    def name(self) -> str:
        """The hospital's name."""
        return self.machine.name

    def begin(self) -> None:
        """Come up."""
        self.faults.come_up(self)
        self.shell.handle(Begun(self.life > 0))

    def die(self) -> None:
        """Forget everything that is not in custody, and take in nothing more."""
        self.up, self.life = False, self.life + 1

    def revive(self) -> None:
        """Go on from custody."""
        kept = self.custody = replace(self.custody, ticket=0)
        self._asked = self._finished = None
        learner, self._freeze = self.fresh(), Freezer()
        learner.restore(kept.learner)
        self.worker = replace(self.worker, learner=learner)
        self.shell = self._shell(kept.state, dict(kept.models))
        self.up = True

    def hear(self, word: FromController) -> None:
        """Hear the controller's word."""
        self.shell.handle(heard(word))

    def _shell(self, state: State, models: dict[int, Weights]) -> Shell:
        shell = Shell(
            self.machine,
            self,
            self.reporter,
            state,
            models,
            self._before if self.world.persists else None,
        )
        shell.numbers = max(models, default=0)
        return shell

    def _before(self, effect: Effect) -> None:
        if self.world.kills(self.name, effect):
            raise Killed(self.world.away)

    def _carry_out(self, task: Task) -> None:
        """Carry a step out at once; its consequences come when its time is over."""
        arrival = None if task.weights is None else Arrival(task.weights, task.digest)
        left: list[tuple[Weights, str]] = []
        self.cost = 0.0
        try:
            if not self.faults.before(self, task.step):
                self.world.later(self, 0.0, partial(self._carry_out, task))
                return
            if self.reborn:
                state = self._round_trip(self.worker.learner.state())
                learner = self.reborn(self.name, self.worker.learner, self.fresh, state)
                self.worker, self._freeze = replace(self.worker, learner=learner), Freezer()
            record = self.worker.carry_out(
                task.step, arrival, lambda weights, mark: left.append((weights, mark))
            )
            if self.world.persists:
                self._finished = self._round_trip(self.worker.learner.state())
        except Stalled:
            return
        except Killed:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's algorithm may raise anything
            broke = Broke(in_step(self.name, task.step, error))
            self.world.later(self, 0.0, partial(self.shell.handle, broke))
            return
        self.cost *= self.faults.slowness(self)
        self.world.later(self, self.cost, partial(self._hand_in, task.index, left, record))

    def _round_trip(self, state: LearnerState) -> LearnerState:
        """Keep a learner's state as a disk would: text, bytes, no order."""
        numbers, groups = self._freeze(state)
        return LearnerState(
            json.loads(json.dumps(numbers, sort_keys=True)), dict(sorted(groups.items()))
        )

    def _hand_in(self, index: int, left: list[tuple[Weights, str]], record: Record | None) -> None:
        """Return what came of a step."""
        for weights, mark in left:
            self.shell.release(index, weights, mark)
        self.shell.handle(StepFinished(index, record))

    # what the shell asks for

    def register(self) -> None:
        """Register with the controller: this hospital is up."""
        ring = self.machine.topology
        self.world.tell(Register(self.machine.terms.run, ring.epoch, self.name, "memory", "", ""))

    def tell(self, word: ToController) -> None:
        """Send a word to the controller."""
        self.world.tell(word)

    def reply(self, to: str, answer: Answer) -> None:
        """Answer the sender of a model."""
        event = answered(answer, self.name)
        self.world.carry(self.name, to, answer, lambda node: node.shell.handle(event))

    def call(self, to: str, word: Ready) -> None:
        """Call the host before this one: a model is waited for."""
        self.reply(to, word)

    def send(self, to: str, traveller: Traveller) -> None:
        """Carry a copy of a model to its next host."""
        copied = {
            name: Buffer(buffer.dtype, buffer.shape, bytearray(buffer.data))
            for name, buffer in traveller.weights.items()
        }
        whole = replace(traveller, digest=traveller.digest or digest(copied), weights=copied)
        self.world.carry(self.name, to, whole, lambda node: node.shell.arrive(whole, self.name))

    def work(self, task: Task) -> None:
        """Have a step carried out."""
        self.world.later(self, 0.0, partial(self._carry_out, task))

    def wait(self, seconds: float, timer: Timer) -> None:
        """Set a timer."""
        happen = partial(self.shell.handle, timer)
        self.world.later(self, seconds, happen, lambda: self.shell.state.is_past(timer))

    def persist(self, state: State, record: Record | None, ticket: int) -> None:
        """Put a state into custody: with its models, the learner as of the last finished step,
        and a record.
        """
        if not self.world.persists:
            self.shell.on_persisted(ticket)
            return
        before = self._asked or self.custody
        learner = (
            self._finished
            if state.cursor != before.state.cursor and self._finished
            else before.learner
        )
        models = {number: freeze(self.shell.models[number]) for number in handles(state)}
        records = (*before.records, record) if record else before.records
        self._asked = InMemoryCustody(
            parse(json.loads(json.dumps(dump(state)))), learner, models, records, ticket
        )
        seconds = self.world.disk()
        if seconds:
            self.world.later(self, seconds, partial(self._safe, self._asked))
        else:
            self._safe(self._asked)

    def _safe(self, kept: InMemoryCustody) -> None:
        """Have a snapshot on the disk, unless a newer one is: that one has all that is in it."""
        if kept.ticket > self.custody.ticket:
            self.custody = kept
            self.shell.on_persisted(kept.ticket)

    def over(self, error: FedskdError | None) -> None:
        """End."""
        self.ended = True
        if error:
            self.world.fails(self.name, error)
