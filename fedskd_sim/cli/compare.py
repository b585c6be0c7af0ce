"""`fedskd-sim compare`: what an algorithm is worth beside others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedskd_sim import clock
from fedskd_sim.checks import checked
from fedskd_sim.cli.common import DATA, SCENARIO, say_licences, short, shown, stop_when_terminated
from fedskd_sim.errors import InvalidValue
from fedskd_sim.exits import rebuilt

if TYPE_CHECKING:
    from fedskd_sim.compare.plan import Method, PlannedRun
    from fedskd_sim.compare.work import RunResult, Workshop
    from fedskd_sim.scenario import Loaded

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
    type=click.Path(path_type=Path),
    help="Folder; finished runs in it are kept. Default: runs/compare-NAME.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Runs side by side. Default: as many as there are cores for.",
)
@click.option("--per-hospital", is_flag=True, help="Show every hospital's values too.")
@DATA
@shown
def compare(scenario: Path, algorithms: str, seeds: int, control: str, **rest: Any) -> None:
    """Compare algorithms at equal work, paired by seed.

    Every method gets the work of SCENARIO as it stands, counted in sample-gradients, the same data,
    training and predictors. Where the data has folds, test and validation fold move on with the
    seed. Runs that have finished are not repeated.

    \b
    Example:
      fedskd-sim compare quickstart --algorithms fedskd,circulation,local --seeds 3
    """
    from fedskd_sim.compare.plan import methods, tasks  # noqa: PLC0415 - only commands that run something pay for it
    from fedskd_sim.compare.work import Workshop, cores  # noqa: PLC0415

    data: Path | None = rest["data"]
    loaded = checked(scenario, data)
    labels = [label.strip() for label in algorithms.split(",") if label.strip()]
    chosen = methods(loaded.scenario, labels)
    control = _control(control, labels)
    planned = list(tasks(chosen, seeds))
    _check(loaded, chosen, data)
    say_licences(loaded.scenario)
    out = rest["out"] or Path("runs") / f"compare-{loaded.scenario.name}"
    shop = Workshop(out, data, rest["jobs"] or cores(planned[0]))
    stop_when_terminated()
    with shop.prepared(planned):
        click.echo(
            f"{loaded.scenario.name}: {len(chosen)} methods, {seeds} seeds, {shop.jobs} at once; "
            f"folder {short(out)}"
        )
        outcomes = _carried_out(shop, planned)
        _report(shop, chosen, control, outcomes, per_hospital=rest["per_hospital"])
    _raise_first([outcome for outcome in outcomes if outcome.code], len(planned))


def _control(given: str, labels: list[str]) -> str:
    if not labels:
        raise click.UsageError("--algorithms names nothing")
    control = given or (CONTROL if CONTROL in labels else labels[0])
    if control not in labels:
        raise InvalidValue(
            f"the control {control!r} is not among {', '.join(labels)}",
            fix="add it to --algorithms",
        )
    return control


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


def _check(loaded: Loaded, chosen: list[Method], data: Path | None) -> None:
    """Refuse a comparison of which a method cannot run, before anything starts."""
    from fedskd_sim.learning.preflight import find_problems  # noqa: PLC0415 - needs PyTorch

    for method in chosen:
        for problem in find_problems(method.scenario, data):
            where = ("variants", method.label, *problem.key)
            problem.key = (
                where
                if method.label in loaded.scenario.variants and problem.key[:1] == ("algorithm",)
                else problem.key
            )
            problem.message = f"{method.label}: {problem.message}"
            if method.scenario.algorithm.name in ("fedavg", "fedprox"):
                problem.fix += (
                    f"; or add a variant: {{algorithm: {{name: {method.scenario.algorithm.name}, "
                    f"architecture: ...}}}}"
                )
            raise loaded.placed(problem)


def _carried_out(shop: Workshop, planned: list[PlannedRun]) -> list[RunResult]:
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
    from fedskd_sim.compare.page import as_html  # noqa: PLC0415 - drawing is slow to import
    from fedskd_sim.compare.summary import comparison  # noqa: PLC0415
    from fedskd_sim.compare.text import as_json, as_text  # noqa: PLC0415

    found = comparison(chosen, control, outcomes)
    if found is None:
        click.echo("no seed was finished by every method: nothing to compare", err=True)
        return
    text = as_text(found, per_hospital=per_hospital)
    (shop.out / "compare.txt").write_text(text, encoding="utf-8")
    (shop.out / "compare.json").write_text(
        json.dumps(as_json(found), indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    (shop.out / "compare.html").write_text(as_html(found), encoding="utf-8")
    click.echo("\n" + text)
    click.echo(f"comparison: {short(shop.out / 'compare.html')}")
