"""Carry the runs of a comparison out, several at once, each a ``fedskd-sim launch`` in a folder of
its own, by a process of its own that is forked with PyTorch in it.

A run that has finished with the very same scenario, code and data is not run again; one that was
interrupted is. Nothing else is remembered.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from fedskd_sim.errors import FedskdError, ForkServerDied, OutputNotEmpty, OutputNotWritable
from fedskd_sim.learning.workspace import RUNS_AT_ONCE
from fedskd_sim.observe import outcome
from fedskd_sim.records.files import COMPARISON
from fedskd_sim.results.comparison import origins
from fedskd_sim.results.comparison.planning import PlannedRun
from fedskd_sim.results.comparison.rings import Rings
from fedskd_sim.runtimes.commands import Command, prepare
from fedskd_sim.runtimes.folder import usable_cores
from fedskd_sim.runtimes.forkserver import UNKNOWN
from fedskd_sim.scenario import OwnCode, Scenario, load

RUNS = "runs"
PLACE = RUNS + "/{label}/seed-{seed}"
"""Where a run of a comparison is, in its folder."""
AUDITED = RUNS + "/{label}/canaries-{seed}"
"""Where the same run with canaries is."""
LOCK, SEEN, SHARD = ".lock", ".data.json", ".shard.json"
EXPORT = "export"
"""Where `fedskd-sim export` puts tables by default, of a run too."""
LAST_WORDS = 5
LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came of a run: its folder, its exit code (0 is success) and, if it failed, its last
    words.
    """

    task: PlannedRun
    folder: Path
    code: int
    words: str = ""
    fresh: bool = True
    """It was run now, and not found finished."""
    made_with: origins.Code | None = None
    """With which code and data; None if that is not known."""


@dataclass
class Workshop:
    """A comparison's folder, and how its runs are carried out."""

    out: Path
    data: Path | None
    jobs: int
    anyway: bool = False
    """Runs that were computed with other code or data count, too."""
    code: OwnCode | None = None
    """What the scenario brings along, and every run gets."""
    rings: Rings | None = None
    """Where in a cluster runs are rings of pods; None for this machine."""
    stopped: Event = field(default_factory=Event)
    _lock: tuple[int, ...] = ()
    """File descriptor of the folder's lock; its runs hold it too, so that what a killed comparison
    leaves is waited for."""

    def __post_init__(self) -> None:
        """Look after the data, for all runs together."""
        self._digests = origins.digests(self.data, self.out / SEEN)

    @contextmanager
    def prepare(
        self, tasks: Sequence[PlannedRun], fill: Callable[[], None] = lambda: None
    ) -> Iterator[None]:
        """Make the folder, or check that what is in it is this comparison's, and keep other
        comparisons from it meanwhile; ``fill`` puts more into it before code and data are looked
        at.

        Raises:
            OutputNotEmpty: it holds something else, or runs of another scenario.
            OutputNotWritable: it cannot be made, or another comparison is at work in it.
            CustodyForeign: runs in it have finished with other code or data.

        """
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            self._check_names()
            (self.out / RUNS).mkdir(exist_ok=True)
            lock = (self.out / LOCK).open("w", encoding="utf-8")
        except OSError as error:
            fix = "give an --out that you may write to"
            raise OutputNotWritable(
                f"{self.out} cannot be written: {error.strerror}", fix=fix
            ) from error
        with lock:
            try:
                # ends with the processes that hold it, however they end
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                fix = "wait until it has ended, or give another --out"
                raise OutputNotWritable(
                    f"another comparison, or a run of one, is at work in {self.out}", fix=fix
                ) from error
            self._check_scenarios(tasks)
            fill()
            self._check_code(tasks)
            self._lock = (lock.fileno(),)
            yield

    def _check_scenarios(self, tasks: Sequence[PlannedRun]) -> None:
        for task in tasks:
            file = self.folder(task) / "scenario.yaml"
            if file.exists() and not _same(file, task):
                text = f"{self.folder(task)} is a run of another scenario"
                raise OutputNotEmpty(
                    text, fix="give another --out, or remove the runs that you no longer want"
                )

    def _check_code(self, tasks: Sequence[PlannedRun]) -> None:
        """Refuse runs that have finished with other code or data."""
        if self.anyway:
            return
        one_each = {task.label: task.scenario for task in tasks}
        here = {
            label: origins.now(scenario, self._digests, self.code)
            for label, scenario in one_each.items()
        }
        origins.refuse_other(
            [
                ((task.label, task.scenario.seed), origins.kept(folder), here[task.label])
                for task in tasks
                if finished(folder := self.folder(task))
            ]
        )

    def _check_names(self) -> None:
        strange = {path.name for path in self.out.iterdir()} - {
            RUNS,
            LOCK,
            SEEN,
            SHARD,
            EXPORT,
            "compare.txt",
            COMPARISON,
            "compare.html",
        }
        if strange:
            text = f"{self.out} holds {', '.join(sorted(strange)[:3])}, which is no comparison's"
            raise OutputNotEmpty(text, fix="give another --out")

    def folder(self, task: PlannedRun) -> Path:
        """Return the run folder of a task."""
        place = AUDITED if task.audited else PLACE
        return self.out / place.format(label=task.label, seed=task.scenario.seed)

    def carry_out(
        self, tasks: Sequence[PlannedRun], done: Callable[[RunResult], object]
    ) -> Iterator[RunResult]:
        """Run what is not finished yet, ``jobs`` at a time, and yield all outcomes in the order in
        which they come.

        Args:
            tasks: the runs.
            done: is called with every outcome.

        Raises:
            SocketPathTooLong, OutputNotWritable: no fork server fits the temporary folder.

        """
        due = [task for task in tasks if not finished(self.folder(task))]
        if due:
            prepare(due[0].scenario, threads(due[0].scenario))
        with ThreadPoolExecutor(self.jobs) as pool:
            waiting: set[Future[RunResult]] = {pool.submit(self._run, task) for task in tasks}
            try:
                while waiting:
                    ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in ended:
                        done(future.result())
                        yield future.result()
            except BaseException as error:
                if self.rings:
                    error.add_note(
                        "rings that had ended keep what has not come home; the same command goes on"
                    )
                self.stopped.set()
                for future in waiting:
                    future.cancel()
                raise

    def _run(self, task: PlannedRun) -> RunResult:
        folder = self.folder(task)
        if finished(folder):
            return RunResult(task, folder, 0, fresh=False, made_with=origins.kept(folder))
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = folder.parent / f"{folder.name}.yaml"
        made_with = self._made_with(task)
        if self.rings and self.rings.goes_on(folder):
            ended, words = self._launch(task, self.rings.collect(folder))
        else:
            shutil.rmtree(folder, ignore_errors=True)
            ended, words = self._launch(task, self._command(task, draft))
        if not ended or (ended == UNKNOWN and finished(folder)):  # nobody was left to tell its code
            draft.unlink(missing_ok=True)
            return RunResult(task, folder, 0, made_with=made_with)
        if ended == UNKNOWN:
            ended = ForkServerDied.exit_code
            words += "\nerror: the process that starts runs, and learns how they end, died"
        return RunResult(task, folder, ended, "\n".join(words.splitlines()[-LAST_WORDS:]))

    def _made_with(self, task: PlannedRun) -> origins.Code:
        found = origins.now(task.scenario, self._digests, self.code)
        origins.keep(self.folder(task), found)
        return found

    def _command(self, task: PlannedRun, draft: Path) -> list[str]:
        """Write the scenario of a run, with what it brings along, and return what launches it."""
        draft.write_text(task.text, encoding="utf-8")
        if self.code:
            self.code.write(draft.parent)
        folder = self.folder(task)
        more = ["--no-page", *(["--data", str(self.data)] if self.data else [])]
        if self.rings:
            return [*self.rings.launch(task, draft, folder), *more]
        return ["launch", str(draft), "--on", "memory", "--out", str(folder), *more]

    def _launch(self, task: PlannedRun, command: Sequence[str]) -> tuple[int, str]:
        """Return a run's exit code, negative for a signal, and its words."""
        given = {**os.environ, **threads(task.scenario), RUNS_AT_ONCE: str(self.jobs)}
        try:
            run = Command.begin(command, given, self._lock)
        except (OSError, EOFError) as error:  # the fork server has died; the next run has another
            return UNKNOWN, str(error)
        told = False
        while not run.ended(LOOK_S):
            if self.stopped.is_set() and not told:
                run.process.terminate()  # once: the next would interrupt it as it cleans up
                told = True
        return run.process.exitcode or 0, run.words


def threads(scenario: Scenario) -> dict[str, str]:
    """Let a run have as many threads as its largest hospital."""
    most = max(hospital.resources.cpu for hospital in scenario.hospitals)
    return {"OMP_NUM_THREADS": str(most)}


def _same(file: Path, task: PlannedRun) -> bool:
    """Return whether a run's scenario is the task's; a key that it did not know yet has its
    default.
    """
    try:
        kept = load(file).scenario.model_dump(mode="json", by_alias=True)
    except FedskdError:
        return False
    return bool(kept == json.loads(task.text))


def finished(folder: Path) -> bool:
    """Return whether a run folder holds a report of a run that ended well, with all hospitals or
    without those that it lost. One that was stopped or failed after its last record is not
    finished: its weights may be elsewhere, and nothing was proven. One of which nobody has noted
    how it ended counts if it is complete.
    """
    try:
        whole = json.loads((folder / "report.json").read_text(encoding="utf-8"))["complete"]
        how = outcome.read(folder)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, FedskdError):
        return False
    return whole is True if how is None else how.state == "ended well"


def cores(task: PlannedRun) -> int:
    """Count the runs that this machine can do side by side without more threads than cores."""
    most = max(hospital.resources.cpu for hospital in task.scenario.hospitals)
    return max(1, usable_cores() // most)
