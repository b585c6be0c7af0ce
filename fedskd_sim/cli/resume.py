"""`fedskd-sim resume`: go on with a run of which everything has died."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedskd_sim.cli.common import (
    CONTEXT,
    DATA,
    NAMESPACE,
    Place,
    short,
    stop_when_terminated,
    with_exit_code,
)
from fedskd_sim.cli.running import follow

if TYPE_CHECKING:
    from fedskd_sim.runtimes.kubernetes.runtime import KubernetesRuntime
    from fedskd_sim.runtimes.place import InCluster


@click.command()
@click.argument("run", type=Place(path_type=Path))
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
@DATA
@NAMESPACE
@CONTEXT
@click.option(
    "--name",
    default="",
    help="Name of the run in the cluster. Default: as it was, or the scenario's.",
)
@click.option(
    "--values",
    multiple=True,
    type=Place(path_type=Path, exists=True, dir_okay=False),
    help="Values file for the chart, as at the launch; repeatable.",
)
@click.option(
    "--keep", is_flag=True, help="Leave the run's objects in the cluster when it has ended."
)
@with_exit_code
def resume(run: Path, on: str | None, data: Path | None, *, anyway: bool, **cluster: Any) -> None:
    """Go on with a RUN folder of which nothing runs any more: a power cut, Ctrl-C, a full disk, a
    release that was removed.

    Every hospital goes on from its last state in custody; records and weights become those of the
    undisturbed run, byte for byte. A run of processes may go on in a cluster. One of a cluster
    whose hospitals keep that state on claims may go on as processes.

    \b
    Examples:
      fedskd-sim resume runs/skin
      fedskd-sim resume runs/skin --on kubernetes --namespace fedskd
      fedskd-sim resume runs/skin --on processes --values claims.yaml
    """
    from fedskd_sim.runtimes.resuming import to_resume  # noqa: PLC0415 - only commands that run something pay for it

    def release(was: InCluster | None) -> KubernetesRuntime:
        from fedskd_sim.runtimes.kubernetes.runtime import KubernetesRuntime  # noqa: PLC0415 - only who has a cluster pays for it

        name, namespace, context = (
            (was.release, was.namespace, was.context) if was else ("", "", "")
        )
        chosen = (
            cluster["name"] or name,
            cluster["namespace"] or namespace,
            cluster["context"] or context,
        )
        return KubernetesRuntime(*chosen, cluster["values"], cluster["keep"])

    stop_when_terminated()
    with to_resume(run, release, on=on or "", data=data, anyway=anyway) as (place, order):
        click.echo(f"{order.loaded.scenario.name}: going on in {short(order.folder)}")
        follow(place, order, launch=True)
