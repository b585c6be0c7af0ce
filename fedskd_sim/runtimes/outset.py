"""When a run has started, for a hospital of which a life may begin in the middle of it."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path

from fedskd_sim import clock
from fedskd_sim.runtimes.member import STARTED, MemberOrder, custody_of
from fedskd_sim.scenario import Scenario
from fedskd_sim.transport.shaping import Shaping
from fedskd_sim.transport.zeromq import Shaped


def shaped(order: MemberOrder, scenario: Scenario) -> Shaped | None:
    """Make what disturbs what a hospital says; None where the scenario's links do not."""
    if not scenario.links:
        return None
    custody = custody_of(scenario, order.run, order.folder)
    note = custody / f"{order.name}{STARTED}" if scenario.custody.enabled else None
    return Shaped(order.name, Shaping(scenario), partial(started, note))


def started(note: Path | None) -> float:
    """Give the moment at which the run started, on the monotonic clock: now, unless an earlier life
    has noted it.
    """
    if note is None:
        return clock.now()
    with suppress(OSError, ValueError):  # a power cut may have left it empty
        return clock.now() - (clock.unix() - float(note.read_text(encoding="utf-8")))
    with suppress(OSError):  # a full disk ends the hospital where it keeps more than this
        note.parent.mkdir(parents=True, exist_ok=True)
        written = note.with_suffix(".new")
        written.write_text(f"{clock.unix()}\n", encoding="utf-8")
        written.replace(note)
    return clock.now()
