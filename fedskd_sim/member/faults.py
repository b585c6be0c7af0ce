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
AT_ONCE = ("kill", "restart", "stop", "leave")
"""What strikes a hospital whatever it does; of the others those with a time wait for its next
step."""
FOR_EVER = float("inf")
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
            self._slow = fault.factor or 1.0, seconds + (fault.lasts or FOR_EVER)
        if fault.what == "poison":
            self._poisons.append(fault.factor)

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
    stops = [stop for stop in program.stops() if stop.round <= rounds]
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

    def come_up(self) -> None:
        """Forget what has happened in earlier lives, come up late where that is wanted, and wait
        for what has a time.
        """
        met = self._met()
        last = self.schedule.left.get(met[-1]) if met else None
        for index in met:
            self.schedule.left.pop(index, None)
        if last is not None and last.what == "restart":
            clock.sleep(last.lasts or 0.0)
        if not met:
            clock.sleep(self.schedule.late)
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

    def after(self, seconds: float) -> None:
        """Let a slow hospital take longer over a step that took so many seconds."""
        clock.sleep((self.schedule.slowness(self._seconds) - 1.0) * seconds)

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
                os.kill(os.getpid(), signal.SIGKILL)
            case "leave":
                os._exit(CRASHED)
            case "stop":
                stop(fault.lasts)
            case "stall":
                Flag().wait()
            case "abort":
                abort()
            case "full_disk":
                fill_disk()

    def _met(self) -> list[int]:
        if self.marks is None or not self.marks.exists():
            return []
        return [int(line) for line in self.marks.read_text(encoding="utf-8").split()]

    def _mark(self, index: int) -> None:
        if self.marks is None:
            return
        self.marks.parent.mkdir(parents=True, exist_ok=True)
        with self.marks.open("a", encoding="utf-8") as stream:
            stream.write(f"{index}\n")
            stream.flush()
            os.fsync(stream.fileno())


def stop(seconds: float | None) -> None:
    """Let this process stand still for so many seconds, or until somebody else lets it go on.

    A process that stands still cannot count seconds: another one does. The first process of a
    container cannot stop itself; there only the work stands still.
    """
    own = os.getpid()
    if own == 1:
        clock.sleep(seconds) if seconds is not None else Flag().wait()
        return
    if seconds is None:
        os.kill(own, signal.SIGSTOP)
        return
    command = ["/bin/sh", "-c", f"sleep {seconds}; kill -CONT {own}"]
    with subprocess.Popen(command, start_new_session=True):  # noqa: S603 - a number and a number
        os.kill(own, signal.SIGSTOP)
