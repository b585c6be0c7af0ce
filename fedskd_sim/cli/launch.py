"""`fedskd-sim launch`: run a scenario somewhere and watch it."""

from __future__ import annotations

import secrets
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedskd_sim.checks import Slowly, apart, asker, load_and_check, of_learning
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
    with_exit_code,
)
from fedskd_sim.cli.running import follow, say_detached
from fedskd_sim.cli.waiting import Waiting
from fedskd_sim.errors import DataMissing, DeviceUnavailable
from fedskd_sim.observe.words import counted

if TYPE_CHECKING:
    from fedskd_sim.runtimes.base import Order
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
    elif runtime == "kubernetes":
        follow(place, order, launch=True)  # which holds the folder itself
    else:
        from fedskd_sim.runtimes.folder import hold_lock  # noqa: PLC0415 - only commands that run something pay for it

        with hold_lock(order.folder):
            follow(place, order, launch=True)


def _load_checked(
    scenario: Path, data: Path | None, changes: tuple[str, ...], place: Any, runtime: str
) -> Loaded:
    """Load the scenario and refuse it if it cannot work there; data and devices of a cluster are
    looked at by its own pods, unless the data are here too.
    """
    with Waiting() as waiting:
        loaded = load_and_check(
            scenario,
            data,
            place.prepare,
            changes=changes,
            elsewhere=IN_THE_CLUSTER if runtime == "kubernetes" and data is None else (),
            also=partial(apart, runtime=runtime),
            slowly=Slowly(asker(place, of_learning), waiting.checks),
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
        f"{scenario.name}: {len(scenario.hospitals)} hospitals, "
        f"{counted(scenario.algorithm.rounds, 'round')}, {runtime}; run folder "
        f"{short(order.folder)}"
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
    say_detached(order.folder)


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
