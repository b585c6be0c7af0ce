"""`fedskd-sim init`: a scenario to begin with."""

from __future__ import annotations

import click

from fedskd_sim.cli.common import short, with_exit_code
from fedskd_sim.errors import FedskdError
from fedskd_sim.scenario import begin, load


@click.command()
@click.argument("name")
@click.option(
    "--from",
    "source",
    default="quickstart",
    show_default=True,
    help="Scenario to begin with: a name, or a file.",
)
@with_exit_code
def init(name: str, source: str) -> None:
    """Write NAME.yaml, a scenario to change, from one that comes with the program or another file.

    \b
    Examples:
      fedskd-sim init mine
      fedskd-sim init skin --from fedskin-ham10000
      fedskd-sim init again --from mine.yaml
    """
    file = begin(name, source)
    try:
        load(file)
        next_ = f"'fedskd-sim launch {short(file)}' runs it"
    except FedskdError:
        next_ = f"'fedskd-sim validate {short(file)}' names what is wrong with it, as with {source}"
    click.echo(f"{short(file)} is written; {next_}")
