"""What goes wrong on purpose at a hospital, as its scenario says: the schedule, which is the same
in real and in simulated time, and what each fault does to a real process.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from threading import Event as Flag
from threading import Timer
from typing import NoReturn, Self

from fedskd_sim import clock
from fedskd_sim.errors import RunAborted
from fedskd_sim.messages import Weights
from fedskd_sim.observe import events
from fedskd_sim.program import Program, Step
from fedskd_sim.scenario import Fault, Scenario
from fedskd_sim.seeds import seed
from fedskd_sim.topology import Topology

CRASHED = 70
KILLED = 128 + signal.SIGKILL
AT_ONCE = ("kill", "restart", "stop", "leave")
"""What strikes a hospital whatever it does; of the others those with a time wait for its next
step."""
FOR_EVER = float("inf")
FIRST = 1
"""The number of a container's first process, which the system lets neither kill nor stop itself."""
BACK = " back"
"""Behind the mark of a restart: the hospital has stayed away, and is back."""
Poison = Callable[[Weights, float | None], Weights]
"""Gives weights times a factor, or without one weights that are no numbers."""


def harmless(weights: Weights, factor: float | None) -> Weights:  # noqa: ARG001 - the signature of `Poison`
    """Leave weights as they are: those of a placebo are none."""
    return weights


@dataclass
class Schedule:
    """The faults of one hospital that are still to come, by their number in the scenario, each with
    its round where it has one; and those that last.
    """

    left: dict[int, Fault]
    poison: Poison = harmless
    _slow: tuple[float, float] = (1.0, 0.0)
    """How many times as long steps take, and until when (seconds since the hospital came up)."""
    _poisons: list[float | None] = field(default_factory=list)

    @classmethod
    def of(
        cls, scenario: Scenario, topology: Topology, name: str, poison: Poison = harmless
    ) -> Self:
        """Take a hospital's faults from the scenario, and draw where those strike that do not say
        it.
        """
        return cls(
            {
                index: _placed(fault, index, scenario.seed, Program(topology, name))
                for index, fault in enumerate(scenario.faults)
                if fault.hospital == name
            },
            poison,
        )

    @property
    def late(self) -> float:
        """Seconds after which the hospital comes up."""
        return sum(fault.lasts or 0.0 for fault in self.left.values() if fault.what == "late")

    @property
    def timed(self) -> Mapping[int, Fault]:
        """Those that strike after a time, whatever the hospital does then."""
        return {
            index: fault
            for index, fault in self.left.items()
            if fault.after is not None and fault.what in AT_ONCE
        }

    def meet(self, step: Step, seconds: float) -> Iterator[tuple[int, Fault]]:
        """Give what strikes before a step, so many seconds after it came up; each once."""
        for index, fault in list(self.left.items()):
            if _strikes(fault, step, seconds):
                self.strike(index, seconds)
                yield index, fault

    def strike(self, index: int, seconds: float) -> None:
        """Let a fault strike: it will not come again."""
        fault = self.left.pop(index)
        if fault.what == "slow":
            self.slow_down(fault.factor or 1.0, seconds + (fault.lasts or FOR_EVER))
        if fault.what == "poison":
            self._poisons.append(fault.factor)

    def slow_down(self, factor: float, until: float = FOR_EVER) -> None:
        """Let steps take so many times as long, until so many seconds after it came up."""
        self._slow = factor, until

    def slowness(self, seconds: float) -> float:
        """Say how many times as long a step takes."""
        factor, until = self._slow
        return factor if seconds < until else 1.0

    def spoiled(self, weights: Weights) -> Weights:
        """Give what really leaves the hospital in place of these weights."""
        while self._poisons:
            weights = self.poison(weights, self._poisons.pop(0))
        return weights


def _placed(fault: Fault, index: int, number: int, program: Program) -> Fault:
    """Draw the round and hop of a fault that has neither those nor a time."""
    if fault.what == "late" or fault.round or fault.after is not None:
        return fault
    draw = Random(seed(number, "fault", index, fault.seed))  # noqa: S311 - no secret
    rounds = program.topology.rounds
    stops = [stop for stop in program.stops() if stop.round <= rounds or not program.member]
    if not stops:
        return fault.model_copy(update={"round": draw.randint(1, rounds)})
    chosen = draw.choice(stops)
    return fault.model_copy(update={"round": chosen.round, "hop": chosen.hop})


def _strikes(fault: Fault, step: Step, seconds: float) -> bool:
    if fault.what == "late":
        return False
    if fault.after is not None:
        return fault.what not in AT_ONCE and seconds >= fault.after
    hop = step.stop.hop if step.stop else None
    return step.round == fault.round and fault.hop in (None, hop)


def abort() -> NoReturn:
    """Raise the error of a hospital that is to end the run."""
    raise RunAborted(
        "the scenario wants this hospital to end the run",
        fix="take the fault out of the scenario",
        key=("faults",),
    )


def fill_disk() -> NoReturn:
    """Raise what a write to a full disk raises."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@dataclass
class FaultInjector:
    """Lets faults happen to this process; ``marks`` is where it notes what has happened, so that
    nothing happens again in its next life.
    """

    schedule: Schedule
    log: Callable[[events.Event], object] = lambda _: None
    marks: Path | None = None
    _began: float = field(default_factory=clock.now)
    _still: float = 0.0
    """Until when the work stands still where the process cannot."""
    _step_began: float = 0.0
    _dragged: float = 0.0
    """Seconds by which the step under way has been made longer."""

    def come_up(self) -> None:
        """Forget what has happened in earlier lives but for what lasts, stay away or come up late
        where that is wanted, and wait for what has a time.
        """
        self._remember()
        late = self.schedule.late
        for index in [number for number, one in self.schedule.left.items() if one.what == "late"]:
            self._mark(index)
            self.schedule.left.pop(index)
        clock.sleep(late)
        self._began = clock.now()
        for index, fault in self.schedule.timed.items():
            timer = Timer(fault.after or 0.0, self._strike, (index, fault))
            timer.daemon = True
            timer.start()

    def before(self, step: Step) -> None:
        """Let happen what is to happen before a step.

        Raises:
            RunAborted: the scenario asks for that.
            OSError: it asks for a full disk.

        """
        for index, fault in self.schedule.meet(step, self._seconds):
            self._happens(index, fault)
        while (left := self._still - clock.now()) > 0:
            Flag().wait(None if left == FOR_EVER else left)
        self._step_began, self._dragged = clock.now(), 0.0

    def drag(self) -> None:
        """Let a slow hospital have taken longer over what it has done of its step until now."""
        worked = clock.now() - self._step_began - self._dragged
        owed = (self.schedule.slowness(self._seconds) - 1.0) * worked - self._dragged
        if owed > 0:
            clock.sleep(owed)
            self._dragged += owed

    @property
    def _seconds(self) -> float:
        return clock.now() - self._began

    def _strike(self, index: int, fault: Fault) -> None:
        if index in self.schedule.left:
            self.schedule.strike(index, self._seconds)
            self._happens(index, fault)

    def _happens(self, index: int, fault: Fault) -> None:
        self._mark(index)
        self.log(events.Fault(fault.what))
        match fault.what:
            case "kill" | "restart":
                die()
            case "leave":
                os._exit(CRASHED)
            case "stop" if os.getpid() == FIRST:
                self._still = clock.now() + (fault.lasts or FOR_EVER)
            case "stop":
                stop(fault.lasts)
            case "stall":
                Flag().wait()
            case "abort":
                abort()
            case "full_disk":
                fill_disk()

    def _remember(self) -> None:
        """Read the marks: what was met does not come again; who was slow still is; who was to stay
        away does so once.
        """
        marks = self.marks
        lines = marks.read_text("utf-8").splitlines() if marks and marks.exists() else []
        for index in [int(line) for line in lines if not line.endswith(BACK)]:
            fault = self.schedule.left.get(index)
            if fault is None:
                continue
            self.schedule.left.pop(index)
            if fault.what == "slow" and fault.lasts is None:
                self.schedule.slow_down(fault.factor or 1.0)
            if fault.what == "restart" and f"{index}{BACK}" not in lines:
                clock.sleep(fault.lasts or 0.0)
                self._mark(index, BACK)

    def _mark(self, index: int, what: str = "") -> None:
        if self.marks is None:
            return
        self.marks.parent.mkdir(parents=True, exist_ok=True)
        with self.marks.open("a", encoding="utf-8") as stream:
            stream.write(f"{index}{what}\n")
            stream.flush()
            os.fsync(stream.fileno())


def stop(seconds: float | None) -> None:
    """Let this process stand still for so many seconds, or until somebody else lets it go on.

    A process that stands still cannot count seconds: another one does, which also kills it when
    whoever has started it is gone, for it could not notice that.
    """
    own, parent = os.getpid(), os.getppid()
    there = f"kill -0 {own} && kill -0 {parent}"
    words = (
        f"while {there}; do sleep 1; done; kill -KILL {own}"
        if seconds is None
        else f"kill -STOP {own}; sleep {seconds}; kill -CONT {own}"
    )
    command, quiet = ["/bin/sh", "-c", words], subprocess.DEVNULL
    with subprocess.Popen(command, start_new_session=True, stderr=quiet) as helper:  # noqa: S603 - made of numbers
        if seconds is None:
            os.kill(own, signal.SIGSTOP)
            helper.kill()


def die() -> NoReturn:
    """Die as by SIGKILL, of which the first process of a container takes no notice."""
    if os.getpid() != FIRST:
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(KILLED)
