"""`fedskd-sim data`: give every hospital its own part of a data set, here or in a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fedskd_sim.cli.common import (
    CHANGES,
    CONTEXT,
    DATA,
    NAMESPACE,
    SCENARIO,
    VALUES,
    PathArgument,
    Waiting,
    say_code,
    say_licences,
    with_exit_code,
)
from fedskd_sim.observe.words import amount, short_path

VALUES_LINE = "hospitals: {{defaults: {{data: {{claim: '{}'}}}}}}"


@click.group()
def data() -> None:
    """Split a data set into the hospitals' parts, and bring them onto claims of a cluster.

    A part holds the samples of one hospital and nothing of any other's but counts. A run computes
    the same from parts as from the whole, byte for byte.

    \b
    Examples:
      fedskd-sim data split fedskin-ham10000 --data ~/data --out parts
      fedskd-sim data push fedskin-ham10000 --data ~/data -n fedskd
    """


def _load(scenario: Path, folder: Path | None, changes: tuple[str, ...], on: str) -> Any:
    from fedskd_sim.operate.checks import Slowly  # noqa: PLC0415 - only commands that read data pay for it
    from fedskd_sim.operate.poddata import load_for  # noqa: PLC0415

    with Waiting() as waiting:
        slowly = Slowly(tell=waiting.checks, says=say_code)
        loaded = load_for(scenario, folder, changes, slowly, on)
    say_licences(loaded.scenario)
    return loaded


@data.command()
@SCENARIO
@CHANGES
@DATA
@click.option(
    "--out",
    type=PathArgument(path_type=Path),
    required=True,
    help="Folder, new or empty, for a folder with the part of each hospital.",
)
@with_exit_code
def split(scenario: Path, changes: tuple[str, ...], data: Path | None, out: Path) -> None:
    """Write the part of each hospital of SCENARIO into a folder of its name.

    Give that folder as --data, here, or let each hospital's volume hold its own part, as claims,
    host paths and object stores in a cluster do.

    \b
    Examples:
      fedskd-sim data split heart --out parts
      fedskd-sim data split fedskin-ham10000 --data ~/data --out parts
      fedskd-sim launch fedskin-ham10000 --data parts
    """
    from fedskd_sim.operate import poddata  # noqa: PLC0415 - only commands that read data pay for it

    poddata.check_empty(out)
    loaded = _load(scenario, data, changes, "processes")
    with Waiting() as waiting:
        parts = poddata.split(loaded, data, out, waiting.checks)
    for part in parts:
        click.echo(f"{part.hospital}: {amount(part.size)} in {short_path(part.folder)}")


@data.command()
@SCENARIO
@CHANGES
@DATA
@NAMESPACE
@CONTEXT
@VALUES
@click.option("--storage-class", default="", help="Of new claims. Default: the cluster's.")
@click.option(
    "--replace", is_flag=True, help="Take the place of parts of other data that are on the claims."
)
@with_exit_code
def push(scenario: Path, changes: tuple[str, ...], data: Path | None, **claims: Any) -> None:
    """Bring the part of each hospital of SCENARIO onto its claim in a cluster.

    A claim that is missing is made, as data-HOSPITAL, or as the chart's values call it. What is
    there already is left as it is.

    \b
    Examples:
      fedskd-sim data push heart -n fedskd
      fedskd-sim data push fedskin-ham10000 --data ~/data -n fedskd --values data.yaml
    """
    from fedskd_sim.operate import poddata  # noqa: PLC0415 - only commands that read data pay for it

    loaded = _load(scenario, data, changes, "kubernetes")
    given = poddata.Claims(**claims)
    with Waiting() as waiting:
        for one in poddata.push(loaded, data, given, waiting.says):
            words = f"{amount(one.size)} on claim {one.claim}, {one.how}"
            click.echo(f"{one.hospital}: {words}")
    if not given.values:
        from fedskd_sim.kubernetes.loading import CLAIM  # noqa: PLC0415

        click.echo("launch with a file for --values that says:")
        click.echo(f"  {VALUES_LINE.format(CLAIM)}")
