"""`fedskd-sim compare`: what an algorithm is worth beside others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from fedskd_sim import clock
from fedskd_sim.cli import common
from fedskd_sim.cli.common import (
    AS_JSON,
    CHANGES,
    CONTEXT,
    DATA,
    NAMESPACE,
    VALUES,
    PathArgument,
    Waiting,
    command,
    complete_runs,
    complete_scenarios,
    say_code,
    say_licences,
    stop_when_terminated,
    with_exit_code,
)
from fedskd_sim.observe.words import counted, short_path

if TYPE_CHECKING:
    from fedskd_sim.operate.comparison import ComparedRuns, ComparisonPlan
    from fedskd_sim.results.comparison.rings import Rings
    from fedskd_sim.results.comparison.work import RunResult, Workshop

Say = Callable[[str], None]
OF_FINISHED = frozenset({"control", "out", "anyway", "per_hospital", "as_json"})
"""Options that go with finished runs."""


def complete_either(
    context: click.Context, argument: click.Parameter, typed: str
) -> list[CompletionItem]:
    """Complete scenarios and run folders."""
    return [
        *complete_runs(context, argument, typed),
        *complete_scenarios(context, argument, typed),
    ]


@click.command()
@click.argument(
    "given",
    nargs=-1,
    required=True,
    metavar="SCENARIO|RUN...",
    type=PathArgument(path_type=Path),
    shell_complete=complete_either,
)
@click.option(
    "--algorithms",
    help="For a SCENARIO: names with commas, of built-in algorithms and the scenario's variants, "
    "and 'grid' for every point of its grid.",
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
    help="What the others are compared with. Default: circulation, or the first one.",
)
@click.option(
    "--out",
    type=PathArgument(path_type=Path),
    help="Folder; finished runs in it are kept. Default: runs/compare-NAME, or runs/grid-NAME.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Runs side by side. Default: as many as there are cores for; in a cluster 4, with a queue "
    "32.",
)
@click.option(
    "--on",
    type=click.Choice(["memory", "kubernetes"]),
    default="memory",
    show_default=True,
    help="memory: each run in a process of this machine; kubernetes: each a ring of pods.",
)
@NAMESPACE
@CONTEXT
@VALUES
@click.option(
    "--shard",
    default="",
    metavar="I/N",
    help="Only every N-th run, from the I-th on: for batch systems. --join puts shards together.",
)
@click.option(
    "--join",
    multiple=True,
    type=PathArgument(path_type=Path, exists=True, file_okay=False),
    help="Compare the runs of this shard's folder; once for each shard. Nothing is run.",
)
@click.option(
    "--anyway",
    is_flag=True,
    help="Compare finished runs of other code or data, too; the tables say so.",
)
@click.option(
    "--canary",
    is_flag=True,
    help="First a short run of every method: what the comparison will take, in GPU-hours too.",
)
@click.option("--per-hospital", is_flag=True, help="Show every hospital's values too.")
@CHANGES
@DATA
@AS_JSON
@click.pass_context
@with_exit_code
def compare(called: click.Context, /, given: tuple[Path, ...], **options: Any) -> None:
    """Compare algorithms at equal work, paired by seed; or RUN folders that have finished.

    Every method gets the work of SCENARIO as it stands, counted in sample-gradients, the same data,
    training and predictors. Where the data has folds, test and validation fold move on with the
    seed. Runs that have finished are not repeated; of those of other code or data it says so and
    stops.

    Of finished runs nothing is run: they are put side by side if their data and their work are the
    same. --out makes a page of them.

    \b
    Examples:
      fedskd-sim compare quickstart --algorithms fedskd,circulation,local --seeds 3
      fedskd-sim compare quickstart --algorithms fedskd,local --on kubernetes --namespace fedskd
      fedskd-sim compare quickstart --algorithms fedskd,local --shard 2/4
      fedskd-sim compare runs/fedskd-1 runs/local-1 --out runs/both
    """
    if len(given) > 1 or (given[0] / "scenario.yaml").is_file():
        _compare_finished(called, given, options)
    else:
        _compare(given[0], **options)


def _compare_finished(
    called: click.Context, folders: tuple[Path, ...], options: dict[str, Any]
) -> None:
    """Put finished runs side by side."""
    from fedskd_sim.operate import comparison  # noqa: PLC0415 - only who compares something pays for it

    typed = click.core.ParameterSource.COMMANDLINE
    for name in options.keys() - OF_FINISHED:
        if called.get_parameter_source(name) is typed:
            flag = "--set" if name == "changes" else f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{flag} is for a SCENARIO: these are runs that have finished")
    out = options["out"]
    text, plain = comparison.compare_finished(
        folders,
        options["control"],
        out=out,
        anyway=options["anyway"],
        per_hospital=options["per_hospital"],
    )
    as_json = options["as_json"]
    click.echo(json.dumps(plain, indent=1, allow_nan=False) if as_json else text)
    if out:
        click.echo(f"comparison: {short_path(out / 'compare.html')}", err=as_json)


def _compare(scenario: Path, algorithms: str | None, seeds: int, control: str, **rest: Any) -> None:
    """Carry out the runs of a comparison."""
    from fedskd_sim.operate import comparison  # noqa: PLC0415 - only who compares something pays for it
    from fedskd_sim.operate.poddata import check_seen  # noqa: PLC0415 - as above

    if algorithms is None:
        raise click.UsageError("a SCENARIO needs --algorithms; or give two RUN folders or more")
    labels = [label.strip() for label in algorithms.split(",") if label.strip()]
    if not labels:
        raise click.UsageError("--algorithms names nothing")
    _check_flags(rest)
    if rest["on"] == "kubernetes":
        check_seen(rest["data"], rest["values"])
    given = {key: rest[key] for key in ("data", "changes", "per_hospital", "shard", "join")}
    wanted = comparison.CompareRequest(labels, seeds, control, **given, rings=_rings(rest))
    with Waiting() as waiting:
        plan = comparison.plan(scenario, wanted, waiting.checks, say_code)
    say_licences(plan.loaded.scenario)
    shop = plan.workshop(rest["out"], rest["jobs"], anyway=rest["anyway"])
    stop_when_terminated()
    say: Say = partial(click.echo, err=rest["as_json"])
    if rest["canary"]:
        _say_budget(plan, shop, say)
    teller = _Teller(plan, shop, (lambda _: None) if common.wanted("quiet") else say)
    found = comparison.carry_out(plan, shop, teller, teller.opening)
    if rest["as_json"] and found.plain:
        click.echo(json.dumps(found.plain, indent=1, allow_nan=False))
    else:
        _tell(plan, shop, found)
    _say_used(plan, shop, found, say, asked=rest["canary"])
    if error := comparison.failure(found.ended, rest["on"]):
        raise error


def _say_budget(plan: ComparisonPlan, shop: Workshop, say: Say) -> None:
    """Show what the comparison will take, from a short run of every method."""
    from fedskd_sim.operate.budget import forecast_budget  # noqa: PLC0415 - only who asks for it pays

    found = forecast_budget(
        plan, shop, command(), lambda label: say(f"canary: a short run of {label}")
    )
    say(found.words)


def _say_used(
    plan: ComparisonPlan, shop: Workshop, found: ComparedRuns, say: Say, *, asked: bool
) -> None:
    """Show what the runs have taken, where they had GPUs, or it was forecast."""
    from fedskd_sim.operate import budget  # noqa: PLC0415 - as above

    if asked or any(budget.gpus(method.scenario, shop) for method in plan.methods):
        say(budget.used(found.ended, shop))


def _tell(plan: ComparisonPlan, shop: Workshop, found: ComparedRuns) -> None:
    """Show what has come of a comparison, or what becomes of a shard."""
    if plan.shard:
        click.echo(
            f"shard {plan.shard}: 'fedskd-sim compare' with --join {short_path(shop.out)}, and one "
            "for each other shard, makes the tables"
        )
    elif found.text:
        click.echo("\n" + found.text)
        click.echo(f"comparison: {short_path(shop.out / 'compare.html')}")
    else:
        click.echo("no seed was finished by every method: nothing to compare", err=True)


def _check_flags(given: dict[str, Any]) -> None:
    """Refuse what has no meaning together."""
    if given["on"] == "memory":
        for flag in ("namespace", "context", "values"):
            if given[flag]:
                raise click.UsageError(f"--{flag} needs --on kubernetes")
    if given["shard"] and given["join"]:
        raise click.UsageError("--join puts shards together: give it without --shard")


def _rings(given: dict[str, Any]) -> Rings | None:
    from fedskd_sim.results.comparison.rings import Rings  # noqa: PLC0415 - only who has pods pays for it

    place = Rings(given["namespace"], given["context"], given["values"])
    return place if given["on"] == "kubernetes" else None


@dataclass
class _Teller:
    """Says what is waited for, what begins, and of every run that it has ended and how long the
    rest will take.
    """

    plan: ComparisonPlan
    shop: Workshop
    say: Say
    start: float = 0.0
    done: int = 0
    fresh: int = 0

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Surround the look at runs that have finished."""
        with Waiting() as waiting:
            waiting.says("looking whether code and data are those of runs that have finished")
            yield
        self.start = clock.now()
        self.say(
            f"{self.plan.loaded.scenario.name}: {counted(len(self.plan.methods), 'method')}, "
            f"{counted(self.plan.wanted.seeds, 'seed')}, {self.shop.jobs} at once; folder "
            f"{short_path(self.shop.out)}"
        )

    def __call__(self, ended: RunResult) -> None:
        """Show that a run has ended."""
        self.done, self.fresh = self.done + 1, self.fresh + ended.fresh
        passed, planned = clock.now() - self.start, len(self.plan.runs)
        rest = planned - self.done
        left = f", about {passed / self.fresh * rest:.0f} s left" if self.fresh and rest else ""
        how = "kept" if not ended.fresh else f"failed with {ended.code}" if ended.code else "done"
        self.say(f"{passed:7.1f} s  {self.done:>3} of {planned}  {ended.task.name}: {how}{left}")
