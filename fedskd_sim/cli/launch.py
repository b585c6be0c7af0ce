"""``fedskd-sim launch`` and ``fedskd-sim resume``: run a scenario somewhere, alone or after the
short run of ``--canary``, watch it to its end and report it.
"""

from __future__ import annotations

import secrets
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from fedskd_sim import clock
from fedskd_sim.cli import common
from fedskd_sim.cli.common import (
    CHANGES,
    CONTEXT,
    DATA,
    NAMESPACE,
    SCENARIO,
    PathArgument,
    Waiting,
    command,
    say_licences,
    short,
    stop_when_terminated,
    with_exit_code,
)
from fedskd_sim.errors import DataMissing, DeviceUnavailable, FedskdError
from fedskd_sim.observe.words import counted
from fedskd_sim.operate.checks import Slowly, apart, asker, load_and_check, of_learning, prove
from fedskd_sim.scenario import Scenario, load
from fedskd_sim.scenario import find as find_scenario

if TYPE_CHECKING:
    from fedskd_sim.kubernetes.runtime import KubernetesRuntime
    from fedskd_sim.observe.outcome import Outcome
    from fedskd_sim.operate.canary import Gauge
    from fedskd_sim.runtimes.base import Order, Watch
    from fedskd_sim.runtimes.folder import InCluster
    from fedskd_sim.scenario import Loaded


class ShortRun(NamedTuple):
    """What is to be tried: the scenario's file, the scenario, how it was changed, and where data
    files are.
    """

    file: Path
    scenario: Scenario
    changes: tuple[str, ...]
    data: Path | None


def check_short_run(runtime: str, place: Any, tried: ShortRun, out: Path | None) -> None:
    """Carry out a scenario's short run and say what it means for the whole one.

    Args:
        runtime: the name of the runtime.
        place: the runtime itself.
        tried: the scenario.
        out: the folder of the short run, new or empty; None makes one in ``runs``.

    Raises:
        CanaryFailed: the whole run would not end well.
        FedskdError: the short run has not.

    """
    from fedskd_sim.operate import canary  # noqa: PLC0415 - only commands that run something pay for it
    from fedskd_sim.runtimes import folder, member  # noqa: PLC0415
    from fedskd_sim.runtimes.base import Order  # noqa: PLC0415

    changes = (*tried.changes, *canary.changes(tried.scenario))
    loaded = load(find_scenario(tried.file), changes)
    run, made = secrets.token_hex(4), folder.make(loaded, out, runtime)
    click.echo(f"canary: a short run of {len(loaded.scenario.hospitals)} hospitals, {runtime}")
    cards = _cards(loaded.scenario)
    gauge = canary.Gauge(lambda: _room(made, cards), member.custody_of(loaded.scenario, run, made))
    began = clock.now()
    _carry_out(place, Order(loaded, run, made, tried.data), gauge)
    measured = canary.Measured(tried.scenario, made, clock.now() - began)
    found = canary.find(measured, loaded.scenario, gauge, at_once=runtime != "memory")
    for line in found.lines():
        click.echo(line)
    found.check()


def _carry_out(place: Any, order: Order, gauge: Gauge) -> None:
    """Carry the short run out, seal it and note how it ended."""
    from fedskd_sim.custody import seal  # noqa: PLC0415 - only commands that run something pay for it
    from fedskd_sim.observe import outcome  # noqa: PLC0415
    from fedskd_sim.runtimes.member import discard_custody  # noqa: PLC0415

    stop_when_terminated()
    begun = outcome.begin(order.folder, command())
    try:
        place.launch(order)
        place.wait(gauge)
        seal.seal(
            order.folder, order.loaded.scenario
        )  # `verify` takes a run that ended well without one for changed
    except BaseException as error:
        with suppress(FedskdError):  # nothing here may hide what ended it
            outcome.note(order.folder, outcome.finish(begun, error))
        error.add_note(f"canary: not good; its folder is {short(order.folder)}")
        raise
    finally:
        place.stop()
    outcome.note(order.folder, outcome.finish(begun))
    discard_custody(order.loaded.scenario, order.run, order.folder)


def _cards(scenario: Scenario) -> Callable[[], Mapping[str, tuple[int, int]]]:
    """Give what looks at the cards on which hospitals compute."""
    if not scenario.learns:
        return dict
    from fedskd_sim.learning.devices import cards_of  # noqa: PLC0415 - the placebo runs without PyTorch

    return partial(cards_of, scenario)


def _room(folder: Path, cards: Callable[[], Mapping[str, tuple[int, int]]]) -> Any:
    """Tell what memory and disk there are."""
    from fedskd_sim.operate.canary import Room  # noqa: PLC0415 - only commands that run something pay for it
    from fedskd_sim.runtimes.folder import memory  # noqa: PLC0415

    return Room(*memory(), shutil.disk_usage(folder).free, cards())


def follow(place: Any, order: Order, *, launch: bool) -> None:
    """Launch a run, or join one, show its progress to the end, and report; custody ends last."""
    from fedskd_sim.observe import outcome as outcomes  # noqa: PLC0415 - only commands that run something pay for it
    from fedskd_sim.observe.progress import LiveView  # noqa: PLC0415
    from fedskd_sim.ring.topology import Topology  # noqa: PLC0415
    from fedskd_sim.runtimes.member import discard_custody  # noqa: PLC0415

    stop_when_terminated()
    begun = outcomes.begin(order.folder, command())
    try:
        with LiveView(Topology.of(order.loaded.scenario), common.console()) as progress:
            _launch_and_wait(place, order, progress, launch=launch)
        proof = _prove(place, order)
    except BaseException as error:
        if (
            isinstance(error, KeyboardInterrupt)
            and hasattr(place, "detach")
            and not error.args
            and _wants_to_detach()
        ):
            place.detach()
            say_detached(order.folder)
            return
        _report_so_far(order, begun, error)
        raise
    finally:
        _stop(place)
    ended = outcomes.finish(begun, remark=place.remark)
    _report(order, outcomes.note(order.folder, ended), proof)
    discard_custody(order.loaded.scenario, order.run, order.folder)


def _prove(place: Any, order: Order) -> str:
    """Verify what a run has left, and say what was proven. A cluster gives nothing up before that;
    raises as `prove`.
    """
    try:
        with Waiting() as waiting:
            waiting.says("verifying what the run has left")
            proof = prove(order.folder, order.loaded.scenario, order.data, place)
    except FedskdError as error:
        if hasattr(place, "release"):
            error.add_note(
                f"nothing was removed from the cluster: 'fedskd-sim collect {short(order.folder)}' "
                f"fetches it again, 'fedskd-sim stop {short(order.folder)}' gives it up"
            )
        raise
    if hasattr(place, "accept"):
        place.accept()
    return proof


def _report(order: Order, ended: Outcome, proof: str) -> None:
    """Report a run that ended well."""
    from fedskd_sim.results import report as reports  # noqa: PLC0415 - drawing is slow to import

    summary = reports.write(order.folder, *_roles(order), reports.Account.of(order.loaded, ended))
    click.echo("\n" + reports.as_text(summary, whole=False))
    click.echo(f"report: {short(order.folder / 'report.html')}")
    click.echo(f"verified: {proof}")
    if ended.reason:
        click.echo(f"note: {ended.reason}")
    disturbed = f"{words}; " if (words := order.loaded.scenario.disturbed) else ""
    click.echo(f"{ended.words}; {disturbed}run folder {short(order.folder)}")


def _launch_and_wait(place: Any, order: Order, watch: Watch, *, launch: bool) -> None:
    from fedskd_sim.runtimes import folder as places  # noqa: PLC0415 - only commands that run something pay for it

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
    from fedskd_sim.observe import outcome as outcomes  # noqa: PLC0415
    from fedskd_sim.results import report as reports  # noqa: PLC0415 - drawing is slow to import

    ended = outcomes.finish(begun, error)
    try:
        outcomes.note(order.folder, ended)
        reports.write(order.folder, *_roles(order), reports.Account.of(order.loaded, ended))
        error.add_note(f"report: {short(order.folder / 'report.html')}")
    except FedskdError as second:
        error.add_note(f"no report: {second.message}")
    disturbed = f"{words}; " if (words := order.loaded.scenario.disturbed) else ""
    error.add_note(f"{ended.words}; {disturbed}run folder {short(order.folder)}")
    if isinstance(error, KeyboardInterrupt) and (order.folder / "custody").is_dir():
        error.add_note(f"'fedskd-sim resume {short(order.folder)}' goes on with it")


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


def say_detached(folder: Path) -> None:
    """Say that a run goes on without this command, and how to find it again."""
    place = short(folder)
    click.echo(
        f"the run goes on in the cluster; 'fedskd-sim status {place}' shows it, 'fedskd-sim "
        f"collect {place}' waits for its results"
    )


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
    type=PathArgument(path_type=Path),
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
    type=PathArgument(path_type=Path, exists=True, dir_okay=False),
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
    from fedskd_sim.runtimes import folder  # noqa: PLC0415

    outcomes.begin(order.folder, command())
    place.launch(order)
    folder.note(order.folder, place.place)
    say_detached(order.folder)


def _runtime(name: str, cluster: dict[str, Any]) -> Any:
    if name == "memory":
        from fedskd_sim.runtimes.memory import MemoryRuntime  # noqa: PLC0415

        return MemoryRuntime()
    if name == "kubernetes":
        from fedskd_sim.kubernetes.runtime import KubernetesRuntime  # noqa: PLC0415

        return KubernetesRuntime(
            cluster["name"],
            cluster["namespace"],
            cluster["context"],
            cluster["values"],
            cluster["keep"],
        )
    from fedskd_sim.runtimes.processes import ProcessRuntime  # noqa: PLC0415

    return ProcessRuntime()


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
    type=PathArgument(path_type=Path, exists=True, dir_okay=False),
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
    from fedskd_sim.operate.resumption import to_resume  # noqa: PLC0415 - only commands that run something pay for it

    def release(was: InCluster | None) -> KubernetesRuntime:
        from fedskd_sim.kubernetes.runtime import KubernetesRuntime  # noqa: PLC0415 - only who has a cluster pays for it

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
