"""Plan the runs of a comparison (every method at the scenario's budget, every seed with its own
folds) and carry them out, several at once, each a ``fedskd-sim launch --on memory`` in a folder of
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

from fedskd_sim.errors import (
    FedskdError,
    ForkServerDied,
    InvalidValue,
    OutputNotEmpty,
    OutputNotWritable,
    Where,
)
from fedskd_sim.learning.workspace import RUNS_AT_ONCE
from fedskd_sim.observe import outcome
from fedskd_sim.results.comparison import origins
from fedskd_sim.runtimes.commands import Command, prepare
from fedskd_sim.runtimes.forkserver import UNKNOWN
from fedskd_sim.scenario import (
    BUILT_IN,
    Dataset,
    FedSKD,
    OwnAlgorithm,
    OwnCode,
    Planned,
    Scenario,
    Variant,
    at_budget,
    default_of,
    load,
    nearest,
    offered_names,
    passes,
)
from fedskd_sim.scenario.part import Part

FOLDS = 5
FOLD_KEYS = ("test_fold", "validation_fold")
FEWEST_SEEDS = 2


@dataclass(frozen=True, slots=True)
class Method:
    """A label of the comparison with its scenario, cut to the budget."""

    label: str
    planned: Planned
    budget: float
    share: float = 1.0
    """Its budget, in units of the scenario's."""
    given: Scenario | None = None
    """The scenario whose work is the budget."""

    @property
    def scenario(self) -> Scenario:
        """The scenario, under its first seed."""
        return self.planned.scenario

    def off(self, done: int, samples: Sequence[int]) -> float:
        """Tell by which share a run misses the budget.

        Args:
            done: its sample-gradients, of all hospitals, from its records.
            samples: the training samples of every hospital; empty where that is not known, and
                then it is told of the plan.

        """
        if not samples or self.given is None or not self.budget:
            return self.planned.passes / self.budget - 1 if self.budget else 0.0
        return done / (self.share * passes(self.given, samples) * sum(samples)) - 1


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run: a method under one seed."""

    label: str
    index: int
    scenario: Scenario

    @property
    def text(self) -> str:
        """The scenario file of the run (JSON is YAML)."""
        return json.dumps(self.scenario.model_dump(mode="json", by_alias=True), indent=1) + "\n"


def methods(scenario: Scenario, labels: Sequence[str], samples: Sequence[int] = ()) -> list[Method]:
    """Give every label its scenario at equal work.

    Args:
        scenario: what is compared, and whose work is the budget.
        labels: names of algorithms and variants.
        samples: the training samples of every hospital that trains; needed where `cut_short`.

    Raises:
        InvalidValue: an unknown label, or one that is given twice.

    """
    for error in find_bad_labels(scenario, labels):
        raise error
    return [_method(scenario, label, samples) for label in labels]


def cut_short(scenario: Scenario) -> bool:
    """Return whether ``training.batches`` makes some pass shorter than the training data, here or
    in a variant: equal work then depends on how many samples there are.
    """
    known = [variant.training for variant in scenario.variants.values()]
    return any(one and one.batches for one in (scenario.training, *known))


def find_bad_labels(scenario: Scenario, labels: Sequence[str]) -> Iterator[InvalidValue]:
    """Find labels that nothing has, or that are given twice."""
    known, where = choices(scenario), Where("--algorithms")
    for place, label in enumerate(labels):
        if label in labels[:place]:
            yield InvalidValue(
                f"{label!r} is given twice", fix="name every method once", where=where
            )
        elif label not in known:
            there = f"{nearest(label, known, '')} there are {', '.join(known)}".lstrip()
            fix = f"{there}; others can be described under variants"
            yield InvalidValue(f"there is no algorithm or variant {label!r}", fix=fix, where=where)


def choices(scenario: Scenario) -> list[str]:
    """Name what can be compared: the scenario's variants, the built-in algorithms, and those whose
    keys a package offers.
    """
    own = scenario.algorithm.name
    known = [*([own] if isinstance(scenario.algorithm, OwnAlgorithm) else []), *BUILT_IN]
    return [*dict.fromkeys([*scenario.variants, *known, *offered_names()])]


def tasks(methods_: Sequence[Method], seeds: int) -> Iterator[PlannedRun]:
    """List all runs, seed by seed, so that every seed is complete as early as possible.

    Run i has seed ``scenario.seed + i``, and where the data has folds, test and validation fold are
    moved on by i (modulo 5).

    Raises:
        InvalidValue: fewer than two seeds.

    """
    for error in too_few(seeds):
        raise error
    for index in range(seeds):
        for method in methods_:
            yield PlannedRun(method.label, index, _with_seed(method.scenario, index))


def too_few(seeds: int) -> Iterator[InvalidValue]:
    """Refuse a number of seeds of which nothing can be said."""
    if seeds < FEWEST_SEEDS:
        fix = "give 2 or more: one seed has no spread, so nothing can be said"
        yield InvalidValue(f"{seeds} cannot be used", fix=fix, where=Where("--seeds"))


def _method(scenario: Scenario, label: str, samples: Sequence[int]) -> Method:
    bare = scenario.model_copy(update={"variants": {}})
    budget = passes(scenario, samples)
    variant = scenario.variants.get(label)
    if variant is None:
        own = scenario.algorithm
        same = label == (
            own.preset if isinstance(own, FedSKD) and own.preset != "plain" else own.name
        )
        chosen = own if same else BUILT_IN.get(label) or default_of(label, len(scenario.members))
        if chosen is None:
            raise KeyError(label)
        planned = at_budget(bare, chosen, budget, samples)
        return Method(label, planned, budget, given=bare)
    given = {
        name: part
        for name in ("prediction", "training", "faults", "links")
        if (part := getattr(variant, name)) is not None
    }
    size = len(scenario.members)
    share = {"total": 1.0, "per_model": 1 / size, "single": float(size)}[variant.budget]
    given["hospitals"] = variant.of(scenario.hospitals)
    planned = at_budget(
        bare.model_copy(update=given),
        variant.algorithm or scenario.algorithm,
        share * budget,
        samples,
    )
    return Method(label, planned, share * budget, share, bare)


def _with_seed(scenario: Scenario, index: int) -> Scenario:
    hospitals = tuple(
        hospital.model_copy(update={"data": _with_fold(hospital.data, index)})
        for hospital in scenario.hospitals
    )
    changed = {
        "seed": scenario.seed + index,
        "hospitals": hospitals,
        "data": _with_fold(scenario.data, index),
    }
    return scenario.model_copy(update=changed)


def _with_fold(dataset: Dataset, index: int) -> Dataset:
    folds = {
        key: (getattr(dataset, key) + index) % FOLDS for key in FOLD_KEYS if hasattr(dataset, key)
    }
    return dataset.model_copy(update=folds)


def describe(method: Method) -> str:
    """Write what a method is in one line: its algorithm, what of its settings differs from the
    defaults, its faults and its links, and which hospitals are not as the scenario has them.
    """
    scenario = method.scenario
    given = scenario.algorithm.model_dump(mode="json", exclude_defaults=True)
    name = str(given.pop("name"))
    told = name + (f" {json.dumps(given)}" if given else "")
    disturbed = {"faults": scenario.faults_in_words, "links": scenario.links_in_words}
    apart = disturbed | _other_hospitals(scenario, method.given or scenario)
    return told + "".join(f"; {key}: {words}" for key, words in apart.items() if words)


def _other_hospitals(scenario: Scenario, given: Scenario) -> dict[str, str]:
    """Say which hospitals have something else than in the scenario that is given, and in which
    order they stand if in another.
    """
    told = []
    for name in scenario.names:
        before, now = given.hospital(name), scenario.hospital(name)
        parts = [
            part.model_dump_json(exclude_defaults=True) if isinstance(part, Part) else str(part)
            for key in ("architecture", "device", "resources")
            if (part := getattr(now, key)) != getattr(before, key)
        ]
        told += [f"{name} {' '.join(parts)}"] if parts else []
    order = ", ".join(scenario.names) if scenario.names != given.names else ""
    return {"hospitals": ", ".join(told), "order": order}


__all__ = [
    "Method",
    "PlannedRun",
    "Variant",
    "choices",
    "cut_short",
    "describe",
    "find_bad_labels",
    "methods",
    "tasks",
    "too_few",
]


RUNS = "runs"
PLACE = RUNS + "/{label}/seed-{seed}"
"""Where a run of a comparison is, in its folder."""
LOCK, SEEN = ".lock", ".data.json"
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
    stopped: Event = field(default_factory=Event)
    _lock: tuple[int, ...] = ()
    """File descriptor of the folder's lock; its runs hold it too, so that what a killed comparison
    leaves is waited for."""

    def __post_init__(self) -> None:
        """Look after the data, for all runs together."""
        self._digests = origins.digests(self.data, self.out / SEEN)

    @contextmanager
    def prepare(self, tasks: Sequence[PlannedRun]) -> Iterator[None]:
        """Make the folder, or check that what is in it is this comparison's, and keep other
        comparisons from it meanwhile.

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
            for task in tasks:
                file = self.folder(task) / "scenario.yaml"
                if file.exists() and not _same(file, task):
                    text = f"{self.folder(task)} is a run of another scenario"
                    raise OutputNotEmpty(
                        text, fix="give another --out, or remove the runs that you no longer want"
                    )
            self._check_code(tasks)
            self._lock = (lock.fileno(),)
            yield

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
            "compare.txt",
            "compare.json",
            "compare.html",
        }
        if strange:
            text = f"{self.out} holds {', '.join(sorted(strange)[:3])}, which is no comparison's"
            raise OutputNotEmpty(text, fix="give another --out")

    def folder(self, task: PlannedRun) -> Path:
        """Return the run folder of a task."""
        return self.out / PLACE.format(label=task.label, seed=task.scenario.seed)

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
            except BaseException:
                self.stopped.set()
                for future in waiting:
                    future.cancel()
                raise

    def _run(self, task: PlannedRun) -> RunResult:
        folder = self.folder(task)
        if finished(folder):
            return RunResult(task, folder, 0, fresh=False, made_with=origins.kept(folder))
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = folder.parent / f"{folder.name}.yaml"
        draft.write_text(task.text, encoding="utf-8")
        if self.code:
            self.code.write(folder.parent)
        made_with = origins.now(task.scenario, self._digests, self.code)
        origins.keep(folder, made_with)
        command = ["launch", str(draft), "--on", "memory", "--out", str(folder)]
        command += ["--data", str(self.data)] if self.data else []
        ended, words = self._launch(task, command)
        if not ended or (ended == UNKNOWN and finished(folder)):  # nobody was left to tell its code
            draft.unlink()
            return RunResult(task, folder, 0, made_with=made_with)
        if ended == UNKNOWN:
            ended = ForkServerDied.exit_code
            words += "\nerror: the process that starts runs, and learns how they end, died"
        return RunResult(task, folder, ended, "\n".join(words.splitlines()[-LAST_WORDS:]))

    def _launch(self, task: PlannedRun, command: Sequence[str]) -> tuple[int, str]:
        """Return a run's exit code, negative for a signal, and its words."""
        given = {**os.environ, **threads(task.scenario), RUNS_AT_ONCE: str(self.jobs)}
        try:
            run = Command.begin(command, given, self._lock)
        except (OSError, EOFError) as error:  # the fork server has died; the next run has another
            return UNKNOWN, str(error)
        while not run.ended(LOOK_S):
            if self.stopped.is_set():
                run.process.terminate()
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
    """Return whether a run folder holds a complete run, or one that ended well without hospitals
    that it lost.
    """
    try:
        whole = json.loads((folder / "report.json").read_text(encoding="utf-8"))["complete"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    return whole is True or (whole is False and ended_well(folder))


def ended_well(folder: Path) -> bool:
    """Return whether a run says of itself that it ended well."""
    try:
        how = outcome.read(folder)
    except FedskdError:
        return False
    return how is not None and how.state == "ended well"


def cores(task: PlannedRun) -> int:
    """Count the runs that this machine can do side by side without more threads than cores."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, here // max(hospital.resources.cpu for hospital in task.scenario.hospitals))
