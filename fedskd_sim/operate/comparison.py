"""Compare algorithms: check the plan, carry its runs out, and write what comes of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fedskd_sim.errors import FedskdError, InvalidValue, OutputNotEmpty, Where
from fedskd_sim.exits import rebuilt
from fedskd_sim.observe.words import counted, short_path
from fedskd_sim.operate.checks import (
    Slowly,
    apart,
    examined,
    load_and_check,
    never_met,
    of_learning,
)
from fedskd_sim.operate.execution import ELSEWHERE
from fedskd_sim.records.files import COMPARISON
from fedskd_sim.results.comparison.planning import (
    Method,
    PlannedRun,
    choices,
    cut_short,
    find_bad_labels,
    methods,
    tasks,
    too_few,
    without_canaries,
)
from fedskd_sim.results.comparison.rings import Rings
from fedskd_sim.results.comparison.shards import Shard, ShardNote, join
from fedskd_sim.results.comparison.work import RunResult, Workshop, cores, threads
from fedskd_sim.runtimes.commands import ask, prepare
from fedskd_sim.scenario import (
    ALGORITHMS,
    Examined,
    Loaded,
    OwnCode,
    Scenario,
    ValidParts,
    nearest,
    offers,
    undoing,
)
from fedskd_sim.scenario.grid import GRID, ON_VALIDATION, as_variants, points
from fedskd_sim.wholefiles import unwritable, write_text

if TYPE_CHECKING:
    from fedskd_sim.results.comparison.tables import MethodTable

CONTROL = "circulation"
"""What others are compared with, where it is among them and nobody says otherwise."""
OF_COMPARISON = frozenset({"compare.txt", COMPARISON, "compare.html"})
TellName = Callable[[str], None]


@dataclass(frozen=True)
class CompareRequest:
    """What is to be compared: labels of methods, built-in algorithms, variants of the scenario or
    points of its grid, under so many seeds, with the control that they are compared with. The label
    ``grid`` stands for all points, and means that all is judged on validation data.
    """

    labels: Sequence[str]
    seeds: int = 5
    control: str = ""
    data: Path | None = None
    changes: tuple[str, ...] = ()
    """What to change in the scenario first."""
    per_hospital: bool = False
    """The text shows every hospital's values, too."""
    swept: bool = False
    """The whole grid of the scenario is among the labels: all is judged on validation data."""
    shard: str = ""
    """Which part of the runs is carried out, as ``2/4``; empty for all."""
    join: tuple[Path, ...] = ()
    """Folders of shards, whose runs are compared; nothing is carried out."""
    rings: Rings | None = None
    """Where in a cluster runs are rings of pods; None for this machine."""

    @property
    def against(self) -> str:
        """The label of the control."""
        return self.control or (CONTROL if CONTROL in self.labels else self.labels[0])


@dataclass(frozen=True)
class ComparisonPlan:
    """A comparison that can be carried out: its methods at equal work, and all of its runs."""

    wanted: CompareRequest
    loaded: Loaded
    methods: list[Method]
    whole: list[PlannedRun]
    """All runs, those of other shards among them."""
    shard: Shard | None = None

    @property
    def runs(self) -> list[PlannedRun]:
        """The runs that are carried out here."""
        return self.shard.runs(self.whole) if self.shard else self.whole

    def workshop(self, out: Path | None, jobs: int | None = None, *, anyway: bool) -> Workshop:
        """Return where its runs are carried out.

        Args:
            out: the folder; None for ``runs/compare-NAME``, of a whole grid ``runs/grid-NAME``.
            jobs: so many runs side by side; None for as many as there are cores for, or as suit a
                cluster.
            anyway: compare finished runs of other code or data, too.

        """
        kind = GRID if self.wanted.swept else "compare"
        part = f"-{self.shard.number}-of-{self.shard.of}" if self.shard else ""
        out = out or Path("runs") / f"{kind}-{self.loaded.scenario.name}{part}"
        rings = self.wanted.rings
        jobs = jobs or min(len(self.runs), rings.jobs if rings else cores(self.runs[0]))
        return Workshop(out, self.wanted.data, jobs, anyway, self.loaded.code, rings)


class ComparedRuns(NamedTuple):
    """How every run of a comparison ended, and what comes of those that ended well: as text and as
    the plain values of ``compare.json``, empty for a shard, and if no seed was finished by every
    method.
    """

    ended: list[RunResult]
    text: str
    plain: dict[str, Any]


def plan(
    scenario: Path | Loaded,
    wanted: CompareRequest,
    tell: TellName = lambda _: None,
    says: Callable[[OwnCode], None] = lambda _: None,
) -> ComparisonPlan:
    """Load a scenario and plan its comparison, unless something of it cannot be.

    Args:
        scenario: a file, or the name of a scenario that comes with the program; or one that was
            loaded before.
        wanted: what is to be compared.
        tell: is told of every hospital whose data is about to be read.
        says: is told which code of the user's own is about to be run.

    Raises:
        ScenarioError, InvalidValue: the first problem, with all others listed under it.

    """
    found = examined(scenario, wanted.changes)
    wanted, changes = _with_grid(found, wanted)
    changes = [*wanted.changes, *changes, *_variants_of_code(found, wanted.labels)]
    slowly = Slowly(
        lambda rest, *given, **told: _ask(rest.scenario, of_learning, rest, *given, **told),
        tell,
        says=says,
    )
    also = partial(_find_problems, wanted=wanted, tell=tell)
    elsewhere = ELSEWHERE if wanted.rings and wanted.data is None else ()
    loaded = load_and_check(
        scenario, wanted.data, changes=changes, elsewhere=elsewhere, also=also, slowly=slowly
    )
    samples = _samples(loaded.scenario, wanted.data, loaded.code)
    chosen = methods(loaded.scenario, wanted.labels, samples)
    whole = list(tasks(chosen, wanted.seeds, loaded.scenario.audit))
    shard = Shard.parse(wanted.shard, len(whole)) if wanted.shard else None
    return ComparisonPlan(wanted, loaded, chosen, whole, shard)


def _with_grid(found: Examined, wanted: CompareRequest) -> tuple[CompareRequest, list[str]]:
    """Return what is wanted with the points of the grid by name, and the changes that make variants
    of them and, where all of them are compared, have all methods judged on validation data.

    Raises:
        ScenarioError: what is wrong with the scenario, or it has them judged on test data.

    """
    if found.problems and GRID in wanted.labels:
        found.good()
    grid = found.rest.scenario.grid if found.rest else {}
    known = points(grid)
    swept = bool(known) and GRID in wanted.labels
    labels = [
        one for label in wanted.labels for one in (known if swept and label == GRID else (label,))
    ]
    changes = [
        *as_variants(
            found.document.data, grid, dict.fromkeys(one for one in labels if one in known)
        )
    ]
    if swept:
        key = ("instruments", "evaluate_on")
        if found.document.data.get(key[0], {}).get(key[1]) == "test":
            text = "'test' cannot be used where a grid is compared"
            fix = (
                "remove it: settings are chosen on validation data; compare the chosen point by "
                "its own name on test data"
            )
            raise InvalidValue(text, key=key, fix=fix, where=found.document.locate(key))
        changes.append(ON_VALIDATION)
    return replace(wanted, labels=labels, swept=swept), changes


def _variants_of_code(found: Examined, labels: Sequence[str]) -> Iterator[str]:
    """Yield what makes variants of labels that may be algorithms of which only code, of the
    scenario or of a package, knows more.
    """
    if found.rest is None:
        return
    scenario = found.rest.scenario
    packages = {one.name for one in offers(ALGORITHMS)}
    for label in dict.fromkeys(labels):
        own = found.document.data.get("algorithm", {})
        named = isinstance(own, dict) and label == own.get("name")
        if not named and label not in choices(scenario) and (found.code or label in packages):
            yield f"variants.{label}={{algorithm: {{name: {label}}}}}"


def carry_out(
    planned: ComparisonPlan,
    shop: Workshop,
    tell: Callable[[RunResult], object] = lambda _: None,
    opening: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> ComparedRuns:
    """Carry out the runs of a comparison that have not finished yet, side by side, or join those of
    shards, and write what comes of them: ``compare.txt``, ``compare.json`` and ``compare.html``; a
    shard has none of these.

    Args:
        planned: the comparison.
        shop: where.
        tell: is told of every run that has ended.
        opening: gives what surrounds the look at code and data of finished runs.

    Raises:
        OutputNotEmpty, OutputNotWritable: the folder is of something else, such as another shard,
            or in use.
        CustodyForeign: finished runs are of other code or data.
        RunUnreadable: a finished run is damaged, or one of a shard has not finished.
        InvalidValue: what is to be joined are not all shards of this comparison.

    """
    if planned.shard:
        ShardNote.check_free(shop.out, planned.shard)
    with ExitStack() as held:
        with opening():
            folders = planned.wanted.join
            fill = partial(join, shop, planned.whole, folders) if folders else lambda: None
            held.enter_context(shop.prepare(planned.runs, fill))
        if planned.shard:
            ShardNote.about(planned.shard, planned.whole).write(shop.out)
            return ComparedRuns([*shop.carry_out(planned.runs, tell)], "", {})
        ended = list(shop.carry_out(planned.runs, tell))
        return _write(planned, shop, ended)


def _write(planned: ComparisonPlan, shop: Workshop, ended: list[RunResult]) -> ComparedRuns:
    """Write what comes of runs that have ended, if any seed was finished by every method."""
    from fedskd_sim.results.comparison.summary import comparison  # noqa: PLC0415 - drawing is slow to import

    found = comparison(planned.methods, planned.wanted.against, ended)
    if found is None:
        return ComparedRuns(ended, "", {})
    places = {(one.task.label, one.task.scenario.seed): one.folder for one in ended}
    text, plain = _publish(found, places, shop.out, per_hospital=planned.wanted.per_hospital)
    return ComparedRuns(ended, text, plain)


def _publish(
    found: MethodTable,
    places: Mapping[tuple[str, int], Path],
    out: Path | None,
    *,
    per_hospital: bool,
) -> tuple[str, dict[str, Any]]:
    """Write text, numbers and page of a comparison into a folder; None writes nothing."""
    from fedskd_sim.results.comparison.text import as_html, as_text  # noqa: PLC0415 - drawing is slow to import
    from fedskd_sim.results.comparison.values import as_json  # noqa: PLC0415

    text, plain = as_text(found, per_hospital=per_hospital), as_json(found)
    if out:
        pages = {key: one / "report.html" for key, one in places.items()}
        links = {
            key: os.path.relpath(page if page.exists() else page.with_suffix(".txt"), out)
            for key, page in pages.items()
        }
        write_text(out / "compare.txt", text)
        write_text(out / COMPARISON, json.dumps(plain, indent=1, allow_nan=False) + "\n")
        write_text(out / "compare.html", as_html(found, links))
    return text, plain


def compare_finished(
    folders: Sequence[Path],
    control: str = "",
    *,
    out: Path | None = None,
    anyway: bool = False,
    per_hospital: bool = False,
) -> tuple[str, dict[str, Any]]:
    """Put finished runs side by side; returns the tables as text and as plain values.

    Args:
        folders: the run folders.
        control: as for `fedskd_sim.results.comparison.earlier.compare_runs`.
        out: a folder, new, empty or of an earlier comparison of runs, for text, numbers and page;
            None for none.
        anyway: compare runs of different work, too.
        per_hospital: the text shows every hospital's values, too.

    Raises:
        InvalidValue, RunUnreadable: the runs cannot be compared.
        OutputNotEmpty, OutputNotWritable: the folder holds something else, or cannot be written.

    """
    from fedskd_sim.results.comparison.earlier import compare_runs  # noqa: PLC0415 - as above

    found = compare_runs(folders, control, anyway=anyway)
    if out:
        try:
            out.mkdir(parents=True, exist_ok=True)
            strange = sorted({one.name for one in out.iterdir()} - OF_COMPARISON)
        except OSError as error:
            raise unwritable(out, error) from error
        if strange:
            text = f"{short_path(out)} holds {', '.join(strange[:3])}"
            raise OutputNotEmpty(text, fix="give a new folder as --out")
    return _publish(found.table, found.folders, out, per_hospital=per_hospital)


def failure(ended: Sequence[RunResult], on: str = "memory") -> FedskdError | None:
    """Return the error of the first run that failed, if one did; ``on`` names where it ran."""
    failed = [one for one in ended if one.code]
    if not failed:
        return None
    lines = failed[0].words.splitlines()
    words = [line.partition("error: ")[2] for line in lines if line.startswith("error: ")]
    what = words[0] if words else failed[0].words
    place = short_path(failed[0].folder)
    fix = f"'fedskd-sim launch {place}.yaml --on {on}' repeats it"
    if on == "kubernetes":
        fix += f"; 'fedskd-sim stop {place}' gives up what the cluster may still have of it"
    text = f"{len(failed)} of {len(ended)} runs failed, the first with: {what}"
    return rebuilt(failed[0].code, text, fix=fix)


def _samples(
    scenario: Scenario, data: Path | None, code: OwnCode | None, tell: TellName = lambda _: None
) -> list[int]:
    """Count the training samples of every hospital that trains, where equal work depends on it."""
    found: list[int] = []
    if scenario.learns and cut_short(scenario):
        bare = without_canaries(scenario)
        found = _ask(scenario, training_samples, bare, data, code, tell=tell)
    return found


def training_samples(
    scenario: Scenario, data: Path | None, code: OwnCode | None, tell: TellName
) -> list[int]:
    """Count the training samples of every hospital that trains; none where something is wrong
    with the data of one, which others tell of. Imports PyTorch.
    """
    from fedskd_sim.learning.comparable import require_facts  # noqa: PLC0415 - needs PyTorch
    from fedskd_sim.learning.offers import OWN  # noqa: PLC0415

    OWN.use(code)
    found = []
    for name in scenario.members:
        tell(name)
        try:
            found.append(len(require_facts(scenario, name, data).train_labels))
        except FedskdError:
            return []
    return found


def _find_problems(
    rest: ValidParts, wanted: CompareRequest, *, tell: TellName
) -> Iterator[FedskdError]:
    """Find what is wrong with a comparison and with each of its methods, before anything starts."""
    scenario, labels, control = rest.scenario, wanted.labels, wanted.against
    yield from (error for error in find_bad_labels(scenario, labels) if not rest.lacks("variants"))
    yield from too_few(wanted.seeds)
    if control not in labels:
        text = f"the control {control!r} is not among {', '.join(labels)}"
        yield InvalidValue(
            text, fix=nearest(control, labels, "add it to --algorithms"), where=Where("--control")
        )
    if len(scenario.members) > 1 and not rest.lacks("algorithm", "name"):
        known = [label for label in dict.fromkeys(labels) if label in choices(scenario)]
        samples = _samples(scenario, wanted.data, rest.code, tell)
        if wanted.rings and not samples and scenario.learns and cut_short(scenario):
            text = "work is equal only where it is known how many samples there are, and no data is"
            fix = "give --data: a folder with the files that pods have"
            yield InvalidValue(f"{text} here", key=("training", "batches"), fix=fix)
        yield from _unfit(rest, methods(scenario, known, samples), wanted, tell)


def _ask(scenario: Scenario, question: Callable[..., Any], *arguments: Any, tell: TellName) -> Any:
    """Ask a process that is forked from that with PyTorch, as runs will be."""
    prepare(scenario, threads(scenario))
    return ask(question, *arguments, tell=tell)


def _unfit(
    rest: ValidParts, chosen: list[Method], wanted: CompareRequest, tell: TellName
) -> Iterator[FedskdError]:
    """Find what keeps methods from running, besides what is wrong with the scenario itself."""
    for method in chosen:
        variant = rest.scenario.variants.get(method.label)
        under = ("variants", method.label) if variant and variant.faults else ()
        for fault in never_met(method.scenario, *under):
            rounds = counted(method.scenario.algorithm.rounds, "round")
            fault.message = f"{method.label}, in its {rounds}: {fault.message}"
            yield fault
    yield from _unguarded(rest, chosen)
    if wanted.rings:
        for method in chosen:
            for fault in apart(ValidParts(method.scenario), "kubernetes"):
                yield _named(rest, method, fault)
    learning = [method for method in chosen if method.scenario.learns]
    if learning:
        tried = [method.scenario for method in learning]
        found = _ask(tried[0], problems_of, rest, tried, wanted.data, tell=tell)
        elsewhere = ELSEWHERE if wanted.rings and wanted.data is None else ()
        for method, problems in zip(learning, found, strict=True):
            told = [one for one in problems if not isinstance(one, elsewhere)]
            yield from (_named(rest, method, one) for one in told)


def problems_of(
    rest: ValidParts, scenarios: list[Scenario], data: Path | None, tell: TellName
) -> list[list[FedskdError]]:
    """Find what is wrong with models and data of scenarios and not with that which they were made
    from; imports PyTorch. ``tell`` is told whose data is read.
    """
    from fedskd_sim.learning.offers import OWN  # noqa: PLC0415 - needs PyTorch
    from fedskd_sim.learning.preflight import find_problems  # noqa: PLC0415

    OWN.use(rest.code)
    found = [[*find_problems(one, data, doubtful=rest.doubtful, tell=tell)] for one in scenarios]
    before = (
        {
            (error.key, error.message)
            for error in find_problems(rest.scenario, data, doubtful=rest.doubtful, tell=tell)
        }
        if any(found)
        else set()
    )
    return [
        [problem for problem in problems if (problem.key, problem.message) not in before]
        for problems in found
    ]


def _unguarded(rest: ValidParts, chosen: list[Method]) -> Iterator[FedskdError]:
    """Find methods that would undo the privacy of hospitals, and keys with which nobody could
    repeat a run.
    """
    for method in chosen:
        for wrong in undoing(method.scenario):
            yield _named(rest, method, wrong)
    for index, hospital in enumerate(rest.scenario.hospitals):
        if hospital.privacy_is_secret:
            text = f"'secret' cannot be used: nobody could repeat what {hospital.name!r} did"
            fix = "set privacy.key: scenario, a simulation of privacy"
            yield InvalidValue(text, key=("hospitals", index, "privacy", "key"), fix=fix)


def _named(rest: ValidParts, method: Method, problem: FedskdError) -> FedskdError:
    """Return whose problem it is, and where in the file."""
    if variant := rest.scenario.variants.get(method.label):
        under = ("variants", method.label)
        match problem.key:
            case ("algorithm", *_):
                problem.key = (*under, *problem.key)
            case ("hospitals", int(index), *rest_of_key):
                name = method.scenario.names[index]
                if name in (variant.hospitals or {}):
                    problem.key = (*under, "hospitals", name, *rest_of_key)
                else:
                    problem.key = ("hospitals", rest.scenario.names.index(name), *rest_of_key)
    problem.message = f"{method.label}: {problem.message}"
    if method.scenario.averages:
        problem.fix += (
            f"; or add a variant: {{algorithm: {{name: {method.scenario.algorithm.name}, "
            f"architecture: ...}}}}"
        )
    return problem
