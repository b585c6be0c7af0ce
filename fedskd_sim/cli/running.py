"""A run carried out: launched or joined, shown to its end, and reported."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedskd_sim.checks import prove
from fedskd_sim.cli import streams
from fedskd_sim.cli.common import command, short, stop_when_terminated
from fedskd_sim.cli.waiting import Waiting
from fedskd_sim.errors import FedskdError

if TYPE_CHECKING:
    from fedskd_sim.observe.outcome import Outcome
    from fedskd_sim.runtimes.base import Order, Watch


def follow(place: Any, order: Order, *, launch: bool) -> None:
    """Launch a run, or join one, show its progress to the end, and report; custody ends last."""
    from fedskd_sim.observe import outcome as outcomes  # noqa: PLC0415 - only commands that run something pay for it
    from fedskd_sim.observe.progress import LiveView  # noqa: PLC0415
    from fedskd_sim.runtimes.member import discard_custody  # noqa: PLC0415
    from fedskd_sim.topology import Topology  # noqa: PLC0415

    stop_when_terminated()
    begun = outcomes.begin(order.folder, command())
    try:
        with LiveView(Topology.of(order.loaded.scenario), streams.console()) as progress:
            _carry_out(place, order, progress, launch=launch)
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
    from fedskd_sim import report  # noqa: PLC0415 - drawing is slow to import

    summary = report.write(order.folder, *_roles(order), report.Account.of(order.loaded, ended))
    click.echo("\n" + report.as_text(summary, whole=False))
    click.echo(f"report: {short(order.folder / 'report.html')}")
    click.echo(f"verified: {proof}")
    if ended.reason:
        click.echo(f"note: {ended.reason}")
    disturbed = f"{words}; " if (words := order.loaded.scenario.disturbed) else ""
    click.echo(f"{ended.words}; {disturbed}run folder {short(order.folder)}")


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
        report.write(order.folder, *_roles(order), report.Account.of(order.loaded, ended))
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
