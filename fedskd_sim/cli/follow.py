"""Commands on a run that exists: status, logs, stop, collect, report."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from fedskd_sim import clock
from fedskd_sim.cli import streams
from fedskd_sim.cli.common import CONTEXT, NAMESPACE, Place, short, with_exit_code
from fedskd_sim.cli.running import follow as followed
from fedskd_sim.errors import FedskdError, RunUnreadable
from fedskd_sim.scenario import load

if TYPE_CHECKING:
    from fedskd_sim.observe.progress import LiveView
    from fedskd_sim.runtimes.found import Found

WATCH_S = 2.0


def _folders(
    _context: click.Context, _argument: click.Parameter, typed: str
) -> list[CompletionItem]:
    """Complete run folders here and in ``runs``, and whatever folder is typed."""
    from fedskd_sim.runtimes.folder import run_folders  # noqa: PLC0415 - only for completion

    places = [str(place) for place in run_folders() if str(place).startswith(typed)]
    return [*map(CompletionItem, places), CompletionItem(typed, type="dir")]


def _hospitals(
    context: click.Context, _argument: click.Parameter, typed: str
) -> list[CompletionItem]:
    """Complete the members of the run that stands before."""
    file = Path(context.params.get("run") or "") / "scenario.yaml"
    try:
        names = ("controller", *load(file).scenario.names)
    except FedskdError:
        return []
    return [CompletionItem(name) for name in names if name.startswith(typed)]


RUN = click.argument("run", shell_complete=_folders)


@click.command()
@RUN
@NAMESPACE
@CONTEXT
@click.option(
    "--watch", "-w", is_flag=True, help="Show it again every few seconds, until the run has ended."
)
@with_exit_code
def status(run: str, namespace: str, context: str, *, watch: bool) -> None:
    """Show how far a RUN is: a run folder, or the name of a run in a cluster.

    \b
    Examples:
      fedskd-sim status runs/skin
      fedskd-sim status runs/skin --watch
      fedskd-sim status quickstart --namespace fedskd
    """
    from fedskd_sim.runtimes import found  # noqa: PLC0415 - only commands that show a run pay for it

    view: LiveView | None = None
    with closing(found.run(run, namespace, context)) as seen:
        while watch and seen.going:
            streams.console().clear()
            began = clock.now()
            view = _show(seen, view, watch=True)
            clock.sleep(max(WATCH_S, clock.now() - began))  # a large run's logs take long to read
        _show(seen, view, watch=watch)


def _show(seen: Found, view: LiveView | None, *, watch: bool) -> LiveView:
    """Show a run, of which a view knows what was read before; gives the view that knows all."""
    from fedskd_sim.observe.progress import LiveView  # noqa: PLC0415 - only commands that show a run pay for it
    from fedskd_sim.topology import Topology  # noqa: PLC0415

    view = view or LiveView(Topology.of(seen.loaded.scenario), streams.console(), quiet=True)
    for event in seen.news() if watch else seen.events():
        view(event)
    view.show()
    if view.remark and seen.going:  # afterwards the outcome tells it
        click.echo(view.remark)
    for line in seen.remarks():
        click.echo(line)
    return view


@click.command()
@RUN
@click.argument("hospital", default="", shell_complete=_hospitals)
@NAMESPACE
@CONTEXT
@click.option(
    "--follow", "-f", is_flag=True, help="Go on with what is logged, until the run has ended."
)
@with_exit_code
def logs(run: str, hospital: str, namespace: str, context: str, *, follow: bool) -> None:
    """Print the log of a HOSPITAL, or of the controller, of a RUN (folder or name in a cluster).

    \b
    Examples:
      fedskd-sim logs runs/skin
      fedskd-sim logs runs/skin aachen --follow
      fedskd-sim logs quickstart bergen --namespace fedskd
    """
    from fedskd_sim.runtimes import found  # noqa: PLC0415 - needs what runs need

    seen = found.run(run, namespace, context)
    names = seen.loaded.scenario.names
    if hospital and hospital not in (*names, "controller"):
        raise click.UsageError(
            f"{hospital!r} is no hospital of this run; it has {', '.join(names)}"
        )
    for line in seen.lines(hospital or "controller", follow=follow):
        click.echo(line)


@click.command()
@RUN
@NAMESPACE
@CONTEXT
@with_exit_code
def stop(run: str, namespace: str, context: str) -> None:
    """End a RUN (folder or name in a cluster) and free everything it holds; its records so far stay
    in its folder.

    \b
    Examples:
      fedskd-sim stop runs/skin
      fedskd-sim stop quickstart --namespace fedskd
    """
    from fedskd_sim.runtimes import found  # noqa: PLC0415 - needs what runs need

    click.echo(found.run(run, namespace, context).stop())


@click.command()
@RUN
@click.option(
    "--out",
    type=Place(path_type=Path),
    help="Run folder, new or empty, for a run given by name.",
)
@NAMESPACE
@CONTEXT
@click.option(
    "--keep", is_flag=True, help="Leave the run's objects in the cluster when it has ended."
)
@with_exit_code
def collect(run: str, out: Path | None, namespace: str, context: str, *, keep: bool) -> None:
    """Join a RUN in a cluster: show its progress, wait for its end, fetch its results, report.

    \b
    Examples:
      fedskd-sim collect runs/skin                       # launched with --detach
      fedskd-sim collect quickstart --namespace fedskd   # installed with helm
    """
    from fedskd_sim.runtimes import found  # noqa: PLC0415 - needs what runs need

    place, order = found.to_collect(run, out, namespace, context)
    place.keep = keep
    click.echo(f"{order.loaded.scenario.name}: collecting into {short(order.folder)}")
    followed(place, order, launch=False)


@click.command()
@click.argument("run", type=Place(path_type=Path), shell_complete=_folders)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="What to print.",
)
@with_exit_code
def report(run: Path, form: str) -> None:
    """Compute the tables and the HTML page of a RUN folder again, from its records.

    For a run in a cluster that was not collected yet, what its pods have logged so far is read
    first.

    \b
    Examples:
      fedskd-sim report runs/skin
      fedskd-sim report runs/skin --format json | jq .personalization
    """
    from fedskd_sim import report as reports  # noqa: PLC0415 - only this command pays for it
    from fedskd_sim.observe import outcome as outcomes  # noqa: PLC0415
    from fedskd_sim.runtimes import refreshing  # noqa: PLC0415

    if not (run / "scenario.yaml").is_file():
        raise RunUnreadable(
            f"{run} is not a run folder", fix="give the folder that 'fedskd-sim launch' named"
        )
    for line in refreshing.refresh(run):
        click.echo(line, err=True)
    loaded = load(run / "scenario.yaml")
    account = reports.Account.of(loaded, outcomes.read(run))
    summary: Any = reports.write(run, loaded.scenario.members, loaded.scenario.held_out, account)
    click.echo(
        reports.as_text(summary, whole=False)
        if form == "text"
        else json.dumps(reports.as_json(summary), indent=1)
    )
    if form == "text":
        click.echo(f"report: {short(run / 'report.html')}")
