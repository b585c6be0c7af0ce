"""`fedskd-sim verify`: the proof that what a run has left is whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedskd_sim.cli.common import DATA, short, shown
from fedskd_sim.errors import FedskdError, RunUnreadable
from fedskd_sim.scenario import Placebo, Scenario, load

if TYPE_CHECKING:
    from fedskd_sim.custody.verify import Verdict


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@DATA
@shown
def verify(run: Path, data: Path | None) -> None:
    """Prove that the records and weights of a RUN folder are whole, or name the first break by file and line.

    Every step of every hospital has left one record, every model has arrived as it left, and the final weights are those that were
    evaluated. Models are compared in the order of their networks' tensors, for which the scenario's data must be here.

    \b
    Example:
      fedskd-sim verify runs/skin
    """
    if not (run / "scenario.yaml").is_file():
        raise RunUnreadable(f"{run} is not a run folder", fix="give the folder that 'fedskd-sim launch' named")
    verdict, remark = verified(run, load(run / "scenario.yaml").scenario, data)
    if verdict.broken:
        raise verdict.broken
    click.echo(f"{short(run)} is {verdict}")
    if remark:
        click.echo(remark)


def verified(run: Path, scenario: Scenario, data: Path | None) -> tuple[Verdict, str]:
    """Verify the folder of a scenario's run; gives what was found and, if weights could not be compared, why.

    Raises:
        RunUnreadable: it is no run folder, or has no records.

    """
    from fedskd_sim.custody.verify import verify as prove  # noqa: PLC0415 - only commands that look at a run pay for it

    tables, remark = _tables(scenario, data)
    return prove(run, scenario, tables, [*_ended(run)]), remark


def _tables(scenario: Scenario, data: Path | None) -> tuple[Mapping[str, Any], str]:
    """Describe the networks' tensors, or say why that cannot be."""
    if isinstance(scenario.algorithm, Placebo):
        return {}, ""
    from fedskd_sim.learning.admission import image_shape  # noqa: PLC0415 - needs PyTorch
    from fedskd_sim.learning.site import specs_of  # noqa: PLC0415

    try:
        return specs_of(scenario, image_shape(scenario, scenario.members[0], data)), ""
    except FedskdError as error:
        return {}, f"weights were not compared: {error}"


def _ended(run: Path) -> Iterator[str]:
    """List the hospitals whose log says that they have finished."""
    from fedskd_sim.observe import events  # noqa: PLC0415 - only commands that look at a run pay for it
    from fedskd_sim.runtimes.folder import Tail  # noqa: PLC0415

    for file in sorted(run.glob("logs/*.jsonl")):
        if any(isinstance(logged.what, events.Done) for logged in Tail(file).events()):
            yield file.stem
