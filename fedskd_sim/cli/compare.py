"""`fedskd-sim compare`: what an algorithm is worth beside others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedskd_sim import clock
from fedskd_sim.cli.common import (
    DATA,
    SCENARIO,
    PathArgument,
    Waiting,
    say_licences,
    short,
    stop_when_terminated,
    with_exit_code,
)
from fedskd_sim.errors import FedskdError, InvalidValue, Where
from fedskd_sim.exits import rebuilt
from fedskd_sim.observe.words import counted
from fedskd_sim.operate.checks import Slowly, load_and_check, never_met, of_learning
from fedskd_sim.scenario import Loaded, Scenario, ValidParts, nearest
from fedskd_sim.wholefiles import write_text

if TYPE_CHECKING:
    from fedskd_sim.results.comparison.work import Method, PlannedRun, RunResult, Workshop

CONTROL = "circulation"


@click.command()
@SCENARIO
@click.option(
    "--algorithms",
    required=True,
    help="Names with commas: built-in algorithms and the scenario's variants.",
)
@click.option(
    "--seeds",
    type=int,
    default=5,
    show_default=True,
    help="Runs per method: the scenario's seed and the next ones.",
)
@click.option(
    "--control",
    default="",
    help=f"What the others are compared with. Default: {CONTROL}, or the first one.",
)
@click.option(
    "--out",
    type=PathArgument(path_type=Path),
    help="Folder; finished runs in it are kept. Default: runs/compare-NAME.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Runs side by side. Default: as many as there are cores for.",
)
@click.option(
    "--anyway",
    is_flag=True,
    help="Compare finished runs of other code or data, too; the tables say so.",
)
@click.option("--per-hospital", is_flag=True, help="Show every hospital's values too.")
@DATA
@with_exit_code
def compare(scenario: Path, algorithms: str, seeds: int, control: str, **rest: Any) -> None:
    """Compare algorithms at equal work, paired by seed.

    Every method gets the work of SCENARIO as it stands, counted in sample-gradients, the same data,
    training and predictors. Where the data has folds, test and validation fold move on with the
    seed. Runs that have finished are not repeated; of those of other code or data it says so and
    stops.

    \b
    Example:
      fedskd-sim compare quickstart --algorithms fedskd,circulation,local --seeds 3
    """
    from fedskd_sim.results.comparison.work import Workshop, cores, methods, tasks  # noqa: PLC0415 - only who runs something pays

    data: Path | None = rest["data"]
    labels = [label.strip() for label in algorithms.split(",") if label.strip()]
    if not labels:
        raise click.UsageError("--algorithms names nothing")
    control = control or (CONTROL if CONTROL in labels else labels[0])
    find = partial(_find_problems, labels=labels, control=control, seeds=seeds, data=data)
    loaded = _load_checked(scenario, data, find)
    chosen = methods(loaded.scenario, labels, _samples(loaded.scenario, data))
    planned = list(tasks(chosen, seeds))
    say_licences(loaded.scenario)
    out = rest["out"] or Path("runs") / f"compare-{loaded.scenario.name}"
    shop = Workshop(out, data, rest["jobs"] or cores(planned[0]), rest["anyway"])
    stop_when_terminated()
    with _prepared(shop, planned):
        click.echo(
            f"{loaded.scenario.name}: {counted(len(chosen), 'method')}, {counted(seeds, 'seed')}, "
            f"{shop.jobs} at once; folder {short(out)}"
        )
        outcomes = _carry_out(shop, planned)
        _report(shop, chosen, control, outcomes, per_hospital=rest["per_hospital"])
    _raise_first([outcome for outcome in outcomes if outcome.code], len(planned))


def _samples(
    scenario: Scenario, data: Path | None, tell: Callable[[str], None] = lambda _: None
) -> list[int]:
    """Count the training samples of every hospital that trains, where equal work depends on it."""
    from fedskd_sim.results.comparison.work import cut_short  # noqa: PLC0415 - as above

    found: list[int] = []
    if scenario.learns and cut_short(scenario):
        found = _ask(scenario, training_samples, scenario, data, tell=tell)
    return found


def training_samples(
    scenario: Scenario, data: Path | None, tell: Callable[[str], None]
) -> list[int]:
    """Count the training samples of every hospital that trains; none where something is wrong
    with the data of one, which others tell of. Imports PyTorch.
    """
    from fedskd_sim.learning.comparable import require_facts  # noqa: PLC0415 - needs PyTorch

    found = []
    for name in scenario.members:
        tell(name)
        try:
            found.append(len(require_facts(scenario, name, data).train_labels))
        except FedskdError:
            return []
    return found


def _load_checked(
    scenario: Path, data: Path | None, find: Callable[..., Iterator[FedskdError]]
) -> Loaded:
    """Load the scenario and refuse what cannot be compared."""
    with Waiting() as waiting:
        slowly = Slowly(
            lambda rest, *given, **told: _ask(rest.scenario, of_learning, rest, *given, **told),
            waiting.checks,
        )
        also = partial(find, tell=waiting.checks)
        return load_and_check(scenario, data, also=also, slowly=slowly)


@contextmanager
def _prepared(shop: Workshop, planned: list[PlannedRun]) -> Iterator[None]:
    """Have the folder of a comparison, as `Workshop.prepare`, which may read all data."""
    with ExitStack() as held:
        with Waiting() as waiting:
            waiting.says("looking whether code and data are those of runs that have finished")
            held.enter_context(shop.prepare(planned))
        yield


def _raise_first(failed: list[RunResult], total: int) -> None:
    """End with the error of the first run that failed."""
    if failed:
        words = [
            line.partition("error: ")[2]
            for line in failed[0].words.splitlines()
            if line.startswith("error: ")
        ]
        what = words[0] if words else failed[0].words
        fix = f"'fedskd-sim launch {short(failed[0].folder)}.yaml --on memory' repeats it"
        raise rebuilt(
            failed[0].code, f"{len(failed)} of {total} runs failed, the first with: {what}", fix=fix
        )


def _find_problems(
    rest: ValidParts,
    labels: list[str],
    control: str,
    seeds: int,
    data: Path | None,
    *,
    tell: Callable[[str], None],
) -> Iterator[FedskdError]:
    """Find what is wrong with a comparison and with each of its methods, before anything starts."""
    from fedskd_sim.results.comparison.work import choices, find_bad_labels, methods, too_few  # noqa: PLC0415 - as above

    scenario = rest.scenario
    yield from (error for error in find_bad_labels(scenario, labels) if not rest.lacks("variants"))
    yield from too_few(seeds)
    if control not in labels:
        text = f"the control {control!r} is not among {', '.join(labels)}"
        yield InvalidValue(
            text, fix=nearest(control, labels, "add it to --algorithms"), where=Where("--control")
        )
    if len(scenario.members) > 1 and not rest.lacks("algorithm", "name"):
        known = [label for label in dict.fromkeys(labels) if label in choices(scenario)]
        samples = _samples(scenario, data, tell)
        yield from _unfit(rest, methods(scenario, known, samples), data, tell)


def _ask(
    scenario: Scenario,
    question: Callable[..., Any],
    *arguments: Any,
    tell: Callable[[str], None],
) -> Any:
    """Let a process that is forked from that with PyTorch, as runs will be, answer a question."""
    from fedskd_sim.results.comparison.work import threads  # noqa: PLC0415 - as above
    from fedskd_sim.runtimes.commands import ask, prepare  # noqa: PLC0415

    prepare(scenario, threads(scenario))
    return ask(question, *arguments, tell=tell)


def _unfit(
    rest: ValidParts, methods: list[Method], data: Path | None, tell: Callable[[str], None]
) -> Iterator[FedskdError]:
    """Find what keeps methods from running, besides what is wrong with the scenario itself."""
    for method in methods:
        variant = rest.scenario.variants.get(method.label)
        under = ("variants", method.label) if variant and variant.faults else ()
        for fault in never_met(method.scenario, *under):
            rounds = counted(method.scenario.algorithm.rounds, "round")
            fault.message = f"{method.label}, in its {rounds}: {fault.message}"
            yield fault
    learning = [method for method in methods if method.scenario.learns]
    if learning:
        tried = [method.scenario for method in learning]
        found = _ask(tried[0], problems_of, rest, tried, data, tell=tell)
        for method, problems in zip(learning, found, strict=True):
            yield from (_named(rest, method, problem) for problem in problems)


def problems_of(
    rest: ValidParts, scenarios: list[Scenario], data: Path | None, tell: Callable[[str], None]
) -> list[list[FedskdError]]:
    """Find what is wrong with models and data of scenarios and not with that which they were made
    from; imports PyTorch. ``tell`` is told whose data is read.
    """
    from fedskd_sim.learning.preflight import find_problems  # noqa: PLC0415 - needs PyTorch

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


def _named(rest: ValidParts, method: Method, problem: FedskdError) -> FedskdError:
    """Say whose problem it is, and where in the file."""
    if method.label in rest.scenario.variants and problem.key[:1] == ("algorithm",):
        problem.key = ("variants", method.label, *problem.key)
    problem.message = f"{method.label}: {problem.message}"
    if method.scenario.averages:
        problem.fix += (
            f"; or add a variant: {{algorithm: {{name: {method.scenario.algorithm.name}, "
            f"architecture: ...}}}}"
        )
    return problem


def _carry_out(shop: Workshop, planned: list[PlannedRun]) -> list[RunResult]:
    start, done = clock.now(), 0
    fresh = 0

    def tell(outcome: RunResult) -> None:
        nonlocal done, fresh
        done, fresh = done + 1, fresh + outcome.fresh
        passed = clock.now() - start
        left = (
            f", about {passed / fresh * (len(planned) - done):.0f} s left"
            if fresh and done < len(planned)
            else ""
        )
        how = (
            "kept"
            if not outcome.fresh
            else f"failed with {outcome.code}"
            if outcome.code
            else "done"
        )
        place = f"{outcome.task.label}, seed {outcome.task.scenario.seed}"
        click.echo(f"{passed:7.1f} s  {done:>3} of {len(planned)}  {place}: {how}{left}")

    return list(shop.carry_out(planned, tell))


def _report(
    shop: Workshop,
    chosen: list[Method],
    control: str,
    outcomes: list[RunResult],
    *,
    per_hospital: bool,
) -> None:
    from fedskd_sim.results.comparison.summary import comparison  # noqa: PLC0415
    from fedskd_sim.results.comparison.text import as_html, as_json, as_text  # noqa: PLC0415

    found = comparison(chosen, control, outcomes)
    if found is None:
        click.echo("no seed was finished by every method: nothing to compare", err=True)
        return
    text = as_text(found, per_hospital=per_hospital)
    write_text(shop.out / "compare.txt", text)
    write_text(
        shop.out / "compare.json", json.dumps(as_json(found), indent=1, allow_nan=False) + "\n"
    )
    write_text(shop.out / "compare.html", as_html(found))
    click.echo("\n" + text)
    click.echo(f"comparison: {short(shop.out / 'compare.html')}")
