"""When a run has started, for a hospital of which a life may begin in the middle of it."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path

from fedskd_sim import clock
from fedskd_sim.errors import OutputNotWritable
from fedskd_sim.runtimes.member import STARTED, MemberOrder, custody_of
from fedskd_sim.scenario import Scenario
from fedskd_sim.transport.shaping import Shaping
from fedskd_sim.transport.zeromq import Shaped
from fedskd_sim.wholefiles import PRIVATE_FOLDER, write_text


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
    with suppress(OSError, ValueError):  # there is none yet, or it is damaged
        return clock.now() - (clock.unix() - float(note.read_text(encoding="utf-8")))
    with suppress(OSError, OutputNotWritable):  # a full disk ends the hospital where it keeps more
        note.parent.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
        write_text(note, f"{clock.unix()}\n")
    return clock.now()
