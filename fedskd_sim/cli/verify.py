"""`fedskd-sim verify`: the proof that what a run has left is whole."""

from __future__ import annotations

from pathlib import Path

import click

from fedskd_sim.checks import not_proven, verify_run
from fedskd_sim.cli.common import DATA, Place, short, with_exit_code
from fedskd_sim.cli.waiting import Waiting
from fedskd_sim.errors import RunUnreadable
from fedskd_sim.scenario import load


@click.command()
@click.argument("run", type=Place(path_type=Path))
@DATA
@with_exit_code
def verify(run: Path, data: Path | None) -> None:
    """Prove that the records and weights of a RUN folder are whole, or name the first break by file
    and line.

    Every step of every hospital has left one record, every model has arrived as it left, the final
    weights are those that were evaluated, and accuracies are those of the predictions. Models are
    compared in the order of their networks' tensors, for which the scenario's data must be here.
    What is not shown is said: of a run that is not sealed, of a signature without its key, of files
    that are not kept.

    \b
    Example:
      fedskd-sim verify runs/skin
    """
    if not (run / "scenario.yaml").is_file():
        raise RunUnreadable(
            f"{run} is not a run folder", fix="give the folder that 'fedskd-sim launch' named"
        )
    scenario = load(run / "scenario.yaml").scenario
    with Waiting() as waiting:
        waiting.says("verifying")
        verdict, remark = verify_run(run, scenario, data)
    if verdict.broken:
        raise verdict.broken
    rest = [*not_proven(run, scenario, verdict)]
    click.echo(f"{short(run)} is {verdict}")
    if remark:
        click.echo(remark)
    for line in rest:
        click.echo(line)
