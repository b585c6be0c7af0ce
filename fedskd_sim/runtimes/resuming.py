"""Go on with a run of which nothing runs any more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedskd_sim.errors import RunUnreadable
from fedskd_sim.messages import CONTROLLER
from fedskd_sim.observe import events
from fedskd_sim.runtimes import folder as folders
from fedskd_sim.runtimes import place as places
from fedskd_sim.runtimes.base import Order
from fedskd_sim.runtimes.folder import Tail
from fedskd_sim.runtimes.place import Here
from fedskd_sim.runtimes.processes import ProcessRuntime
from fedskd_sim.scenario import Loaded, load


@contextmanager
def to_resume(folder: Path, *, anyway: bool) -> Iterator[tuple[ProcessRuntime, Order]]:
    """Prepare to go on with a run of processes, as the only process that does.

    Args:
        folder: its run folder.
        anyway: go on even where what the run began on differs from what is here.

    Raises:
        RunUnreadable: it is no such run, it still goes on, it has ended well, or its hospitals kept
            nothing.
        OutputNotWritable: another process goes on with it.

    """
    place = places.read(folder)
    loaded = load(folder / "scenario.yaml")
    if not isinstance(place, Here) or not place.run:
        raise RunUnreadable(f"{folder} holds no run of processes", fix="launch its scenario again")
    with folders.held(folder):
        _check(folder, place, loaded)
        runtime = ProcessRuntime()
        runtime.prepare(loaded)
        data = Path(place.data) if place.data else None
        yield runtime, Order(loaded, place.run, folder.resolve(), data, resumed=True, anyway=anyway)


def _check(folder: Path, place: Here, loaded: Loaded) -> None:
    """Refuse a run with which nobody can go on."""
    if place.away:
        text = f"the run in {folder} was launched on {place.machine}, and may still go on there"
        raise RunUnreadable(text, fix="resume it there")
    if place.process():
        raise RunUnreadable(
            f"the run in {folder} still goes on", fix=f"see 'fedskd-sim status {folder}'"
        )
    told = Tail(folder / "logs" / f"{CONTROLLER}.jsonl").events()
    if any(isinstance(logged.what, events.End) and logged.what.code == 0 for logged in told):
        raise RunUnreadable(
            f"the run in {folder} has ended well", fix=f"see 'fedskd-sim report {folder}'"
        )
    if not loaded.scenario.custody.enabled:
        text = f"the hospitals of the run in {folder} kept nothing to go on from"
        raise RunUnreadable(text, fix="launch its scenario again, with custody.enabled true")
