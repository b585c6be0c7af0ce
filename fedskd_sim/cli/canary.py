"""The short run of `fedskd-sim launch --canary`: carried out, and what it says of the whole one."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from fedskd_sim import clock
from fedskd_sim.cli.common import command, short, stop_when_terminated
from fedskd_sim.errors import FedskdError
from fedskd_sim.scenario import Scenario, load
from fedskd_sim.scenario import find as find_scenario

if TYPE_CHECKING:
    from fedskd_sim.canary import Gauge
    from fedskd_sim.runtimes.base import Order


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
    from fedskd_sim import canary  # noqa: PLC0415 - only commands that run something pay for it
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
    from fedskd_sim.canary import Room  # noqa: PLC0415 - only commands that run something pay for it
    from fedskd_sim.runtimes.place import memory  # noqa: PLC0415

    return Room(*memory(), shutil.disk_usage(folder).free, cards())
