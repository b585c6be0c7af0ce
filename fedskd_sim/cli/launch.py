"""`fedskd-sim launch`: run a scenario somewhere and watch it."""

from __future__ import annotations

import secrets
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedskd_sim.checks import apart, asker, load_and_check, of_learning, prove
from fedskd_sim.cli.canary import ShortRun, check_short_run
from fedskd_sim.cli.common import (
    CHANGES,
    CONTEXT,
    DATA,
    NAMESPACE,
    SCENARIO,
    Place,
    command,
    say_licences,
    short,
    stop_when_terminated,
    with_exit_code,
)
from fedskd_sim.errors import DataMissing, DeviceUnavailable, FedskdError

if TYPE_CHECKING:
    from fedskd_sim.observe.outcome import Outcome
    from fedskd_sim.runtimes.base import Order, Watch
    from fedskd_sim.scenario import Loaded

IN_THE_CLUSTER = (DataMissing, DeviceUnavailable)


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
    type=Place(path_type=Path),
    help="Run folder, new or empty. Default: runs/NAME-DATE-TIME-ID.",
)
@CHANGES
@DATA
@NAMESPACE
@CONTEXT
@click.option("--name", default="", help="Name of the run in the cluster. Default: the scenario's.")
@click.option(
    "--values",
    multiple=True,
    type=Place(path_type=Path, exists=True, dir_okay=False),
    help="Values file for the chart; repeatable.",
)
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
      fedskd-sim launch quickstart
      fedskd-sim launch mine.yaml --on memory --out runs/try
      fedskd-sim launch quickstart --set training.epochs=3 --set hospitals.aachen.device=auto
      fedskd-sim launch quickstart --canary-only
      fedskd-sim launch quickstart --on kubernetes --namespace fedskd
    """
    canary, only = cluster.pop("canary"), cluster.pop("canary_only")
    _check_flags(cluster, in_cluster=runtime == "kubernetes", canary=canary or only)
    place = _runtime(runtime, cluster)
    loaded = _load_checked(scenario, data, changes, place, runtime)
    tried = ShortRun(scenario, loaded.scenario, changes, data)
    if only:
        check_short_run(runtime, place, tried, out)
        return
    order = _begin(loaded, out, runtime, data)
    if canary:
        check_short_run(runtime, _runtime(runtime, {}), tried, order.folder / "canary")
    if cluster["detach"]:
        _leave_to_itself(place, order)
    else:
        follow(place, order, launch=True)


def _load_checked(
    scenario: Path, data: Path | None, changes: tuple[str, ...], place: Any, runtime: str
) -> Loaded:
    """Load the scenario and refuse it if it cannot work there; data and devices of a cluster are
    looked at by its own pods, unless the data are here too.
    """
    loaded = load_and_check(
        scenario,
        data,
        place.prepare,
        changes=changes,
        elsewhere=IN_THE_CLUSTER if runtime == "kubernetes" and data is None else (),
        also=partial(apart, runtime=runtime),
        learning=asker(place, of_learning),
    )
    say_licences(loaded.scenario)
    return loaded


def _begin(loaded: Loaded, out: Path | None, runtime: str, data: Path | None) -> Order:
    """Make the run's folder and say what begins."""
    from fedskd_sim.runtimes import folder  # noqa: PLC0415 - only commands that run something pay for it
    from fedskd_sim.runtimes.base import Order  # noqa: PLC0415

    order = Order(loaded, secrets.token_hex(4), folder.make(loaded, out, runtime), data)
    scenario = loaded.scenario
    click.echo(
        f"{scenario.name}: {len(scenario.hospitals)} hospitals, {scenario.algorithm.rounds} "
        f"rounds, {runtime}; run folder {short(order.folder)}"
    )
    return order


def _check_flags(cluster: dict[str, Any], *, in_cluster: bool, canary: bool) -> None:
    """Refuse what has no meaning where the run is to be."""
    given = [flag for flag, value in cluster.items() if value]
    if given and not in_cluster:
        raise click.UsageError(f"--{given[0]} needs --on kubernetes")
    if canary and in_cluster:
        raise click.UsageError("--canary needs --on processes or --on memory")


def _leave_to_itself(place: Any, order: Order) -> None:
    """Launch a run in a cluster and do not wait for it."""
    from fedskd_sim.observe import outcome as outcomes  # noqa: PLC0415 - only commands that run something pay for it
    from fedskd_sim.runtimes import place as places  # noqa: PLC0415

    outcomes.begin(order.folder, command())
    place.launch(order)
    places.note(order.folder, place.place)
    _say_detached(order.folder)


def follow(place: Any, order: Order, *, launch: bool) -> None:
    """Launch a run, or join one, show its progress to the end, and report."""
    from rich.console import Console  # noqa: PLC0415 - only commands that run something pay for it

    from fedskd_sim.observe import outcome as outcomes  # noqa: PLC0415
    from fedskd_sim.observe.progress import LiveView  # noqa: PLC0415
    from fedskd_sim.topology import Topology  # noqa: PLC0415

    stop_when_terminated()
    begun = outcomes.begin(order.folder, command())
    try:
        with LiveView(Topology.of(order.loaded.scenario), Console()) as progress:
            _carry_out(place, order, progress, launch=launch)
        proof = prove(order.folder, order.loaded.scenario, order.data, place)
    except BaseException as error:
        if (
            isinstance(error, KeyboardInterrupt)
            and hasattr(place, "detach")
            and not error.args
            and _wants_to_detach()
        ):
            place.detach()
            _say_detached(order.folder)
            return
        _report_so_far(order, begun, error)
        raise
    finally:
        _stop(place)
    ended = outcomes.finish(begun, remark=place.remark)
    _report(order, outcomes.note(order.folder, ended), proof)


def _report(order: Order, ended: Outcome, proof: str) -> None:
    """Report a run that ended well."""
    from fedskd_sim import report  # noqa: PLC0415 - drawing is slow to import

    summary = report.write(
        order.folder, *_roles(order), report.Account(order.loaded.scenario, ended)
    )
    click.echo("\n" + report.as_text(summary, whole=False))
    click.echo(f"report: {short(order.folder / 'report.html')}")
    click.echo(f"verified: {proof}")
    if ended.reason:
        click.echo(f"note: {ended.reason}")
    click.echo(f"{ended.words}; run folder {short(order.folder)}")


def _carry_out(place: Any, order: Order, watch: Watch, *, launch: bool) -> None:
    from fedskd_sim.runtimes import place as places  # noqa: PLC0415 - only commands that run something pay for it

    if launch:
        place.launch(order)
        places.note(order.folder, place.place)
    place.wait(watch)


def _stop(place: Any) -> None:
    """Free what the run holds; what cannot be freed is told, and hides neither the results nor
    the error that ended the run.
    """
    try:
        place.stop()
    except FedskdError as error:
        click.echo(f"warning: {error}", err=True)


def _report_so_far(order: Order, begun: Outcome, error: BaseException) -> None:
    """Report a run that did not end well as far as it went; nothing here may hide the error that
    ended it.
    """
    from fedskd_sim import report  # noqa: PLC0415 - drawing is slow to import
    from fedskd_sim.observe import outcome as outcomes  # noqa: PLC0415

    ended = outcomes.finish(begun, error)
    try:
        outcomes.note(order.folder, ended)
        report.write(order.folder, *_roles(order), report.Account(order.loaded.scenario, ended))
        error.add_note(f"report: {short(order.folder / 'report.html')}")
    except FedskdError as second:
        error.add_note(f"no report: {second.message}")
    error.add_note(f"{ended.words}; run folder {short(order.folder)}")


def _roles(order: Order) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return order.loaded.scenario.members, order.loaded.scenario.held_out


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


def _say_detached(folder: Path) -> None:
    place = short(folder)
    click.echo(
        f"the run goes on in the cluster; 'fedskd-sim status {place}' shows it, 'fedskd-sim "
        f"collect {place}' waits for its results"
    )


def _runtime(name: str, cluster: dict[str, Any]) -> Any:
    if name == "memory":
        from fedskd_sim.runtimes.memory import MemoryRuntime  # noqa: PLC0415

        return MemoryRuntime()
    if name == "kubernetes":
        from fedskd_sim.runtimes.kubernetes.runtime import KubernetesRuntime  # noqa: PLC0415

        return KubernetesRuntime(
            cluster["name"],
            cluster["namespace"],
            cluster["context"],
            cluster["values"],
            cluster["keep"],
        )
    from fedskd_sim.runtimes.processes import ProcessRuntime  # noqa: PLC0415

    return ProcessRuntime()
