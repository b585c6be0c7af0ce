"""Commands which the runtimes start; a person need not know them."""

from __future__ import annotations

import signal
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from fedskd_sim.cli.common import DATA, SCENARIO, with_exit_code


@click.command(hidden=True)
@SCENARIO
@click.option("--run", required=True, help="Name of the run; the same for all members.")
@click.option(
    "--out", type=click.Path(path_type=Path, exists=True), required=True, help="Run folder."
)
@click.option(
    "--bind", required=True, help="Where to listen: ipc://PATH, tcp://HOST:PORT or tcp://HOST:*."
)
@click.option(
    "--keys", type=click.Path(path_type=Path, exists=True), help="This member's key file."
)
@with_exit_code
def controller(scenario: Path, run: str, out: Path, bind: str, keys: Path | None) -> None:
    """Be the controller of a run; runtimes start it. Prints the address it listens at."""
    from fedskd_sim.runtimes.member import MemberOrder, run_controller  # noqa: PLC0415

    run_controller(MemberOrder(scenario, "controller", run, out, bind, bind, keys), click.echo)


@click.command(hidden=True)
@SCENARIO
@click.option("--name", required=True, help="Which hospital of the scenario to be.")
@click.option("--run", required=True, help="Name of the run; the same for all members.")
@click.option(
    "--out", type=click.Path(path_type=Path, exists=True), required=True, help="Run folder."
)
@click.option(
    "--bind", required=True, help="Where to listen: ipc://PATH, tcp://HOST:PORT or tcp://HOST:*."
)
@click.option("--controller", "controller_at", required=True, help="Address of the controller.")
@click.option(
    "--keys", type=click.Path(path_type=Path, exists=True), help="This member's key file."
)
@click.option(
    "--metrics", default="127.0.0.1:0", show_default=True, help="Where to serve /metrics."
)
@click.option(
    "--secret",
    type=click.Path(path_type=Path, exists=True),
    help="File with a run secret to derive all keys from.",
)
@click.option(
    "--advertise",
    default="",
    help="Address at which others reach this hospital. Default: where it listens.",
)
@click.option(
    "--patience",
    type=float,
    help="Seconds until all have registered. Default: the scenario's timeouts.register.",
)
@click.option(
    "--hold",
    type=float,
    default=0.0,
    help="Seconds to stay up at the end until the results have been fetched.",
)
@click.option(
    "--linger",
    type=float,
    default=0.0,
    help="Seconds to stay up at the end for a last scrape, at least.",
)
@click.option(
    "--custody",
    type=click.Choice(["in", "out"]),
    default=None,
    help="Wait until it has been brought, or taken.",
)
@click.option("--anyway", is_flag=True, help="Go on from custody of other circumstances.")
@click.option(
    "--serve", type=int, default=0, help="Port of the loopback address to serve the folder at."
)
@click.option(
    "--to-stdout", is_flag=True, help="Write the log, with records and timings, to standard output."
)
@DATA
@with_exit_code
def hospital(**given: Any) -> None:
    """Be one hospital of a run; runtimes start it."""
    from fedskd_sim.member.crash import PRINTED  # noqa: PLC0415
    from fedskd_sim.runtimes.deaths import Terminated, own_words  # noqa: PLC0415
    from fedskd_sim.runtimes.life import run_hospital  # noqa: PLC0415
    from fedskd_sim.runtimes.member import MemberOrder  # noqa: PLC0415

    def stop(number: int, _frame: Any) -> None:
        raise Terminated(128 + number)

    signal.signal(signal.SIGTERM, stop)
    given["folder"], given["controller"] = given.pop("out"), given.pop("controller_at")
    given["custody"] = given["custody"] or ""
    order = MemberOrder(**given)
    with own_words(order, lambda: PRINTED, let=(Terminated, KeyboardInterrupt)):
        run_hospital(order)


@click.command(hidden=True)
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--secret", type=click.Path(path_type=Path, exists=True), help="File with the run secret."
)
@click.option("--check", is_flag=True, help="Only say how the run is, for 'helm test'.")
@with_exit_code
def conduct(folder: Path, secret: Path | None, *, check: bool) -> None:
    """Be the controller of a run in a cluster; FOLDER is what the chart mounts."""
    from fedskd_sim.kubernetes import inspection, run_controller  # noqa: PLC0415

    if check:
        click.echo(inspection.check(folder))
        return
    if secret is None:
        raise click.UsageError("give --secret")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    run_controller.control(folder, secret)


@click.command(hidden=True)
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--name", required=True, help="Whose files they are.")
@click.option("--run", required=True, help="Name of the run.")
@click.option("--serve", "port", type=int, required=True, help="Port of the loopback address.")
@click.option(
    "--secret", type=click.Path(path_type=Path, exists=True), required=True, help="The run secret."
)
@click.option("--takes-data", is_flag=True, help="It is a claim for the hospital's data.")
@with_exit_code
def read_claim(
    folder: Path, name: str, run: str, port: int, secret: Path, *, takes_data: bool
) -> None:
    """Serve what a hospital has left on a claim, until this is told to stop."""
    from fedskd_sim.runtimes import handover, served  # noqa: PLC0415 - only commands that run something pay for it

    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    token = handover.token_of(secret.read_bytes(), run, name)
    what = served.DATA_FOLDER if takes_data else served.RUN_FOLDER
    with closing(handover.FolderServer.start(folder, name, token, port, what)):
        signal.pause()
