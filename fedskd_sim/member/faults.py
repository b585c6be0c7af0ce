"""What the faults that a scenario wants do to a real process."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event as Flag
from threading import Timer
from typing import NoReturn

from fedskd_sim import clock
from fedskd_sim.errors import RunAborted
from fedskd_sim.member.schedule import FOR_EVER, FaultSchedule, StepPosition, place_of
from fedskd_sim.observe import events
from fedskd_sim.ring.program import Step
from fedskd_sim.scenario import Fault
from fedskd_sim.wholefiles import PRIVATE_FOLDER

CRASHED = 70
KILLED = 128 + signal.SIGKILL
FIRST = 1
"""The number of a container's first process, which the system lets neither kill nor stop itself."""
BACK = "back"
"""Behind the mark of a restart: the hospital has stayed away, and is back."""
AT = "at"
"""Behind the mark of a poison: after which round and hop it left."""
UNTIL = "until"
"""Behind the mark of a hospital that is slow for a while: until which UNIX second."""


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

    schedule: FaultSchedule
    log: Callable[[events.LogEvent], object] = lambda _: None
    marks: Path | None = None
    _began: float = field(default_factory=clock.now)
    _still: float = 0.0
    """Until when the work stands still where the process cannot."""
    _step_began: float = 0.0
    _dragged: float = 0.0
    """Seconds by which the step under way has been made longer."""
    _place: StepPosition = (0, 0)
    """Where the step under way, or the last one, is."""

    def come_up(self) -> None:
        """Forget what has happened in earlier lives but for what lasts, stay away or come up late
        where that is wanted, and wait for what has a time.
        """
        self._remember()
        self.schedule.note = lambda index, place: self._mark(index, AT, *place)
        for index in [number for number, one in self.schedule.left.items() if one.what == "late"]:
            fault = self.schedule.left.pop(index)
            self._mark(index)
            self.log(events.FaultEvent(fault.what, lasts=fault.lasts))
            clock.sleep(fault.lasts or 0.0)
        self._began = clock.now()
        self.schedule.come_up_again(clock.unix())
        for index, fault in self.schedule.timed.items():
            timer = Timer(fault.after or 0.0, self._strike, (index, fault))
            timer.daemon = True
            timer.start()

    def before(self, step: Step) -> None:
        """Cause what is to happen before a step.

        Raises:
            RunAborted: the scenario asks for that.
            OSError: it asks for a full disk.

        """
        self._place = place_of(step)
        for index, fault in self.schedule.meet(step, self._seconds):
            self._happens(index, fault)
        while (left := self._still - clock.now()) > 0:
            Flag().wait(None if left == FOR_EVER else left)
        self._step_began, self._dragged = clock.now(), 0.0

    def drag(self) -> None:
        """Slow a hospital down: wait for what it has done of its step until now."""
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
        if fault.what == "slow" and fault.lasts is not None:
            self._mark(index, UNTIL, clock.unix() + fault.lasts)
        self._mark(index)
        self.log(events.FaultEvent(fault.what, *self._place, fault.lasts))
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
        """Read the marks: what was met does not come again; who was slow still is, as long as was
        wanted; a poison leaves with the model it met, or with the next; who was to stay away does
        so once.
        """
        schedule, lines = self.schedule, [line.split() for line in self._whole_marks()]
        struck = dict.fromkeys(int(index) for index, *more in lines if not more)
        back = {int(index) for index, *more in lines if more == [BACK]}
        until = {int(one[0]): float(one[2]) for one in lines if UNTIL in one}
        for index in [index for index in struck if index in schedule.left]:
            fault = schedule.left.pop(index)
            if fault.what == "slow":
                known = until.get(index, 0.0 if fault.lasts else FOR_EVER)
                schedule.slow_down(fault.factor or 1.0, known)
            if fault.what == "poison":
                schedule.poisons[index] = fault.factor
            if fault.what == "restart" and index not in back:
                clock.sleep(fault.lasts or 0.0)
                self._mark(index, BACK)
        for index, round_, hop in [map(int, (one[0], *one[2:])) for one in lines if AT in one]:
            schedule.departures.setdefault((round_, hop), {})[index] = schedule.poisons.pop(index)

    def _whole_marks(self) -> list[str]:
        """Return the lines of the marks; one that a power cut has torn was never written."""
        if self.marks is None or not self.marks.exists():
            return []
        written = self.marks.read_bytes()
        whole = written[: written.rfind(b"\n") + 1]
        if whole != written:
            os.truncate(self.marks, len(whole))
        return whole.decode("ascii").splitlines()

    def _mark(self, index: int, *more: object) -> None:
        if self.marks is None:
            return
        self.marks.parent.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
        with self.marks.open("a", encoding="ascii") as stream:
            stream.write(" ".join(map(str, (index, *more))) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def stop(seconds: float | None) -> None:
    """Stop this process for so many seconds, or until somebody else lets it go on.

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
