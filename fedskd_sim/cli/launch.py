"""``fedskd-sim launch`` and ``resume``: carry a run out, alone or after the short run
of ``--canary``, show it to its end and report it.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedskd_sim.cli import common
from fedskd_sim.cli.common import (
    CHANGES,
    CONTEXT,
    DATA,
    NAMESPACE,
    SCENARIO,
    VALUES,
    PathArgument,
    Waiting,
    command,
    say_code,
    say_licences,
    stop_when_terminated,
    with_exit_code,
)
from fedskd_sim.cli.watch import page_of
from fedskd_sim.observe.words import counted, short_path

if TYPE_CHECKING:
    from fedskd_sim.operate.canary import Findings
    from fedskd_sim.operate.execution import Attendant, FinishedRun
    from fedskd_sim.results.tables import Summary
    from fedskd_sim.runtimes.base import Order, Runtime
    from fedskd_sim.scenario import Loaded


FLAGS = ("canary", "canary_only", "watch", "no_page")
"""Flags of ``launch`` that say nothing of a cluster."""


def attendant(order: Order, *, page: bool = True) -> Attendant:
    """Make who attends a run that a command carries out: its progress on the terminal."""
    from fedskd_sim.observe.progress import LiveView  # noqa: PLC0415 - only commands that run something pay for it
    from fedskd_sim.operate.execution import Attendant  # noqa: PLC0415
    from fedskd_sim.ring.topology import Topology  # noqa: PLC0415

    stop_when_terminated()
    if common.wanted("quiet"):
        return Attendant(command(), leaves=_wants_to_detach, results=_show)
    view = LiveView(Topology.of(order.loaded.scenario), common.console())
    return Attendant(
        command(),
        watch=view,
        following=lambda: view,
        proving=_verifying,
        warn=lambda text: click.echo(f"warning: {text}", err=True),
        leaves=_wants_to_detach,
        page=page,
        results=_show,
    )


def _show(summary: Summary) -> None:
    """Show what a run was worth."""
    from fedskd_sim.results.report import as_text  # noqa: PLC0415 - only commands that run something pay for it

    click.echo("\n" + as_text(summary, whole=False, width=common.width()))


def _verifying() -> AbstractContextManager[object]:
    waiting = Waiting()
    waiting.says("verifying what the run has left")
    return waiting


def _wants_to_detach() -> bool:
    """Ask once; without a terminal, or on a second Ctrl-C, the run is stopped."""
    if not sys.stdin.isatty():
        return False
    try:
        return not click.confirm(
            "\nstop the run? (no leaves it running in the cluster)", default=True
        )
    except click.Abort:
        return False


def tell_end(order: Order, ended: FinishedRun | None) -> None:
    """Tell how a run ended, or that it goes on without this command."""
    from fedskd_sim.operate.execution import closing_words  # noqa: PLC0415 - only commands that run something pay for it

    if ended is None:
        _say_detached(order.folder)
        return
    page, text = (order.folder / f"report.{form}" for form in ("html", "txt"))
    click.echo(f"report: {short_path(page if page.is_file() else text)}")
    click.echo(f"verified: {ended.proof}")
    if ended.outcome.reason:
        click.echo(f"note: {ended.outcome.reason}")
    click.echo(closing_words(ended.outcome, order))


def _say_detached(folder: Path) -> None:
    """Print that a run goes on without this command, and how to find it again."""
    place = short_path(folder)
    click.echo(
        f"the run goes on in the cluster; 'fedskd-sim status {place}' shows it, 'fedskd-sim "
        f"collect {place}' waits for its results"
    )


@click.command()
@SCENARIO
@click.option(
    "--on",
    "runtime",
    type=click.Choice(["processes", "memory", "kubernetes"]),
    default="processes",
    show_default=True,
    help="processes: each hospital is its own process; memory: all in this one; kubernetes: each "
    "its own pod. Same records.",
)
@click.option(
    "--out",
    type=PathArgument(path_type=Path),
    help="Run folder, new or empty. Default: runs/NAME-DATE-TIME-ID.",
)
@CHANGES
@DATA
@NAMESPACE
@CONTEXT
@click.option("--name", default="", help="Name of the run in the cluster. Default: the scenario's.")
@VALUES
@click.option(
    "--detach", is_flag=True, help="Install the run in the cluster and do not wait for it."
)
@click.option(
    "--canary",
    is_flag=True,
    help="First a short run: a few batches with every model at every hospital, and a forecast; go "
    "on if it is good.",
)
@click.option("--canary-only", is_flag=True, help="The short run alone; exit code 0 if it is good.")
@click.option(
    "--keep", is_flag=True, help="Leave the run's objects in the cluster when it has ended."
)
@click.option("--watch", is_flag=True, help="Serve the live page of the run, as watch does.")
@click.option("--no-page", is_flag=True, help="Draw no report.html; report can do it later.")
@with_exit_code
def launch(
    scenario: Path,
    runtime: str,
    out: Path | None,
    data: Path | None,
    changes: tuple[str, ...],
    **cluster: Any,
) -> None:
    """Run SCENARIO, a file or the name of one that comes with the program, to its end and report.

    Ctrl-C stops the run; in a cluster it asks whether to stop it or to leave it to itself.

    \b
    Examples:
      fedskd-sim launch quickstart --watch
      fedskd-sim launch mine.yaml --on memory --out runs/try
      fedskd-sim launch quickstart --set training.epochs=3 --set hospitals.aachen.device=auto
      fedskd-sim launch quickstart --canary-only
      fedskd-sim launch quickstart --on kubernetes --namespace fedskd
    """
    from fedskd_sim.operate import execution  # noqa: PLC0415 - only commands that run something pay for it

    canary, only, watched, pageless = map(cluster.pop, FLAGS)
    _check_flags(cluster, data, in_cluster=runtime == "kubernetes", canary=canary or only)
    detach = cluster.pop("detach")
    _check_watch(wanted=watched, detach=detach, only=only)
    place = execution.runtime_of(runtime, execution.Cluster(**cluster))
    loaded = _check(scenario, runtime, place, data, changes)
    if only:
        _point_to_tune(loaded, _try(loaded, runtime, place, data, out), data)
        return
    order = _begin(loaded, out, runtime, data)
    if canary:
        _try(loaded, runtime, execution.runtime_of(runtime), data, order.folder / "canary")
    if detach:
        execution.launch_only(place, order, command())
        _say_detached(order.folder)
        return
    with page_of(order.folder, wanted=watched):
        tell_end(order, execution.carry_out(place, order, attendant(order, page=not pageless)))


def _check_watch(*, wanted: bool, detach: bool, only: bool) -> None:
    if wanted and (only or detach):
        raise click.UsageError("--watch shows a run that this command carries out to its end")


def _check(
    scenario: Path, on: str, runtime: Runtime, data: Path | None, changes: tuple[str, ...]
) -> Loaded:
    """Load the scenario and refuse it if it cannot work there; say what its data's licences ask,
    which maps are too coarse to compare, and that a card of this machine will not be used.
    """
    from fedskd_sim.operate.checks import Slowly, unused_card  # noqa: PLC0415
    from fedskd_sim.operate.execution import check  # noqa: PLC0415 - only commands that run something pay for it

    notes = list[str]()
    with Waiting() as waiting:
        slowly = Slowly(tell=waiting.checks, note=notes.append, says=say_code)
        loaded = check(scenario, on, runtime, data, changes=changes, slowly=slowly)
    say_licences(loaded.scenario)
    for text in notes:
        click.echo(text, err=True)
    if on != "kubernetes" and (text := unused_card(loaded.scenario, runtime)):
        click.echo(f"note: {text}", err=True)
    return loaded


def _try(
    loaded: Loaded, on: str, runtime: Runtime, data: Path | None, out: Path | None
) -> Findings:
    """Carry a scenario's short run out, say what it means for the whole one, and return it.

    Raises:
        CanaryFailed: the whole run would not end well.
        FedskdError: the short run has not.

    """
    from fedskd_sim.operate.canary import try_out  # noqa: PLC0415 - only commands that run something pay for it

    stop_when_terminated()
    click.echo(f"canary: a short run of {len(loaded.scenario.hospitals)} hospitals, {on}")
    found = try_out(loaded, on, runtime, data=data, out=out, called=command())
    for line in found.lines():
        click.echo(line)
    found.check()
    return found


def _point_to_tune(loaded: Loaded, found: Findings, data: Path | None) -> None:
    """Say it if the slowest hospital could save more than a tenth of its steps."""
    if not loaded.scenario.learns:
        return
    from fedskd_sim.operate.tune import hint  # noqa: PLC0415 - needs PyTorch, for which only this waits

    slowest = max(found.hospitals, key=lambda one: one.session)
    if text := hint(loaded, slowest.name, data=data):
        click.echo(text)


def _begin(loaded: Loaded, out: Path | None, runtime: str, data: Path | None) -> Order:
    """Make the run's folder and say what begins."""
    from fedskd_sim.operate.execution import make_order  # noqa: PLC0415 - only commands that run something pay for it

    order, scenario = make_order(loaded, runtime, out, data), loaded.scenario
    click.echo(
        f"{scenario.name}: {len(scenario.hospitals)} hospitals, "
        f"{counted(scenario.algorithm.rounds, 'round')}, {runtime}; run folder "
        f"{short_path(order.folder)}"
    )
    return order


def _check_flags(
    cluster: dict[str, Any], data: Path | None, *, in_cluster: bool, canary: bool
) -> None:
    """Refuse what has no meaning where the run is to be."""
    from fedskd_sim.operate.poddata import check_seen  # noqa: PLC0415 - only commands that run something pay for it

    given = [flag for flag, value in cluster.items() if value]
    if given and not in_cluster:
        raise click.UsageError(f"--{given[0]} needs --on kubernetes")
    if canary and in_cluster:
        raise click.UsageError("--canary needs --on processes or --on memory")
    if in_cluster:
        check_seen(data, cluster["values"])


@click.command()
@click.argument("run", type=PathArgument(path_type=Path))
@click.option(
    "--anyway",
    is_flag=True,
    help="Go on even if versions, code, processor, data or threads have changed: so may the bytes; "
    "on a machine of another name; from the beginning if all custody is gone.",
)
@click.option(
    "--on",
    type=click.Choice(["processes", "kubernetes"]),
    help="Where to go on. Default: where it was.",
)
@click.option(
    "--trust-code",
    default="",
    metavar="DIGEST",
    help="Run the code in the folder, which has this digest, though somebody else launched it.",
)
@DATA
@NAMESPACE
@CONTEXT
@click.option(
    "--name",
    default="",
    help="Name of the run in the cluster. Default: as it was, or the scenario's.",
)
@VALUES
@click.option(
    "--keep", is_flag=True, help="Leave the run's objects in the cluster when it has ended."
)
@with_exit_code
def resume(
    run: Path,
    on: str | None,
    data: Path | None,
    trust_code: str,
    *,
    anyway: bool,
    **cluster: Any,
) -> None:
    """Resume an interrupted run from its RUN folder.

    A power cut, Ctrl-C, a full disk or a removed release can interrupt a run.

    Every hospital goes on from its last state in custody; records and weights become those of the
    undisturbed run, byte for byte. A run of processes may go on in a cluster. One of a cluster
    whose hospitals keep that state on claims may go on as processes.

    \b
    Examples:
      fedskd-sim resume runs/skin
      fedskd-sim resume runs/skin --on kubernetes --namespace fedskd
      fedskd-sim resume runs/skin --on processes --values claims.yaml
    """
    from fedskd_sim.operate.execution import Cluster, follow  # noqa: PLC0415 - only commands that run something pay for it
    from fedskd_sim.operate.resumption import to_resume  # noqa: PLC0415

    stop_when_terminated()
    wanted = to_resume(
        run, Cluster(**cluster), on=on or "", data=data, anyway=anyway, trust_code=trust_code
    )
    with wanted as (runtime, order):
        if order.loaded.code:
            say_code(order.loaded.code)
        click.echo(f"{order.loaded.scenario.name}: going on in {short_path(order.folder)}")
        ended = follow(runtime, order, attendant(order))
    tell_end(order, ended)
