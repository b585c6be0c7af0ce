"""`fedskd-sim resume`: go on with a run of which everything has died."""

from __future__ import annotations

from pathlib import Path

import click

from fedskd_sim.cli.common import short, shown
from fedskd_sim.cli.launch import follow


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--anyway",
    is_flag=True,
    help="Go on even if versions, processor, data or threads have changed: the bytes may, too.",
)
@shown
def resume(run: Path, *, anyway: bool) -> None:
    """Go on with a RUN folder whose processes have ended before the run had: a power cut, Ctrl-C, a
    full disk.

    Every hospital goes on from its last state in custody; records and weights become those of the
    undisturbed run, byte for byte.

    \b
    Examples:
      fedskd-sim resume runs/skin
    """
    from fedskd_sim.runtimes.resuming import to_resume  # noqa: PLC0415 - only commands that run something pay for it

    with to_resume(run, anyway=anyway) as (place, order):
        click.echo(f"{order.loaded.scenario.name}: going on in {short(order.folder)}")
        follow(place, order, launch=True)
