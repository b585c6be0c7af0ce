"""The program as a library: what the command line does, for scripts and notebooks.

    from fedskd_sim import launch, load, read_run

    run = launch("quickstart", on="memory", out="runs/try")
    [row for row in run.matrix if row["own"]]
    read_run("runs/try").frame("hops")            # where pandas is installed

Threads may launch runs at the same time; until the last run has ended ``sys.modules["__main__"]``
is an empty module, because `multiprocessing` imports the main module into every process of a run.

The names are re-exported by `fedskd_sim` itself, which imports this module when one of them is
first used.
"""

from __future__ import annotations

import secrets
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fedskd_sim.errors import FedskdError, InvalidValue
from fedskd_sim.operate.checks import (
    Slowly,
    apart,
    asker,
    licences,
    load_and_check,
    of_learning,
    prove,
)
from fedskd_sim.results.runs import Run, read_run
from fedskd_sim.scenario import Loaded, find
from fedskd_sim.scenario import load as load_file

if TYPE_CHECKING:
    from fedskd_sim.observe.events import Logged
    from fedskd_sim.observe.outcome import Outcome
    from fedskd_sim.runtimes.base import Order

__all__ = ["Loaded", "Run", "launch", "load", "read_run"]


def load(scenario: str | Path, *changes: str) -> Loaded:
    """Read and check a scenario; nothing is started and no data is read.

    Architectures and options are not looked into, because that takes PyTorch: a scenario that
    loads may still be refused by `launch`, which builds every model first, and by `fedskd-sim
    validate`, which tells everything that is wrong in one go.

    Args:
        scenario: a file, or the name of a scenario that comes with the program, such as
            ``quickstart``.
        changes: what to change in it, such as ``"training.epochs=3"`` or
            ``"hospitals.aachen.device=cuda"``.

    Returns:
        The frozen scenario as ``.scenario``, together with the text that it came from.

    Raises:
        ScenarioError: the first problem, by line, with all others listed under it.

    """
    strange = [type(change).__name__ for change in changes if not isinstance(change, str)]
    if strange:  # a list of all of them, most likely
        fix = 'give each by itself, as in load("quickstart", "training.epochs=3", "seed=2")'
        raise InvalidValue(f"a change is a text, not {strange[0]}", fix=fix)
    return load_file(find(Path(scenario).expanduser()), changes)


def launch(
    scenario: str | Path | Loaded,
    *,
    on: str = "processes",
    out: str | Path | None = None,
    data: str | Path | None = None,
    watch: Callable[[Logged], None] = lambda _: None,
) -> Run:
    """Run a scenario to its end on this machine, report, and verify what it has left.

    A licence of the data that asks for more than naming its source is told as a warning.

    Args:
        scenario: a file, a name, or what `load` gave.
        on: ``processes``: each hospital is its own process; ``memory``: all in this one. The
            records are the same.
        out: the run folder, new or empty; None makes ``runs/NAME-DATE-TIME-ID`` here.
        data: the folder with data files.
        watch: is called with every event that a member logs, as it happens.

    Raises:
        FedskdError: what the command line would end with; the folder then holds what there is so
            far.

    """
    from fedskd_sim.runtimes import folder  # noqa: PLC0415 - imported by who runs something
    from fedskd_sim.runtimes.base import Order  # noqa: PLC0415

    runtime, where = _runtime(on), Path(data).expanduser() if data is not None else None
    given = scenario if isinstance(scenario, Loaded) else Path(scenario).expanduser()
    with _APART:
        fits, slowly = partial(apart, runtime=on), Slowly(asker(runtime, of_learning))
        loaded = load_and_check(given, where, runtime.prepare, also=fits, slowly=slowly)
    for licence in licences(loaded.scenario):
        warnings.warn(licence, stacklevel=2)
    made = folder.make(loaded, Path(out).expanduser() if out is not None else None, on)
    what = loaded.scenario.name if isinstance(scenario, Loaded) else str(scenario)
    called = f"fedskd_sim.launch({what!r}, on={on!r})"
    _carry_out(runtime, Order(loaded, secrets.token_hex(4), made, where), watch, called)
    return Run(made, loaded.scenario)


def _carry_out(runtime: Any, order: Order, watch: Callable[[Logged], None], called: str) -> None:
    """Launch, follow, verify and report a run; one that fails is reported as far as it went."""
    from fedskd_sim.observe import outcome  # noqa: PLC0415 - imported by who runs something
    from fedskd_sim.runtimes import folder  # noqa: PLC0415
    from fedskd_sim.runtimes.folder import hold_lock  # noqa: PLC0415
    from fedskd_sim.runtimes.member import discard_custody  # noqa: PLC0415

    with hold_lock(order.folder):
        begun = outcome.begin(order.folder, called)
        try:
            with _APART:
                runtime.launch(order)
                folder.note(order.folder, runtime.place)
                runtime.wait(watch)
                prove(order.folder, order.loaded.scenario, order.data, runtime)
        except BaseException as error:
            with suppress(FedskdError):  # a report must not hide the error that ended the run
                _report(order, outcome.note(order.folder, outcome.finish(begun, error)))
            raise
        finally:
            runtime.stop()
        ended = outcome.finish(begun, remark=runtime.remark)
        _report(order, outcome.note(order.folder, ended))
        discard_custody(order.loaded.scenario, order.run, order.folder)


class _Apart:
    """Keeps the caller's program from the members that are started meanwhile.

    They need nothing of it, but multiprocessing imports the main module into every process that it
    starts: a script that launches a run at its top level would launch another one in each member.
    There is one main module, whatever the number of threads that launch: the first of them sets it
    aside, and the last one puts it back.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._program = sys.modules["__main__"]

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._program = sys.modules["__main__"]
                sys.modules["__main__"] = ModuleType("__main__")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                sys.modules["__main__"] = self._program


_APART = _Apart()


def _runtime(name: str) -> Any:
    """Give a runtime of this machine."""
    if name == "memory":
        from fedskd_sim.runtimes.memory import MemoryRuntime  # noqa: PLC0415

        return MemoryRuntime()
    if name == "processes":
        from fedskd_sim.runtimes.processes import ProcessRuntime  # noqa: PLC0415

        return ProcessRuntime()
    fix = "choose 'processes' or 'memory'; 'fedskd-sim launch --on kubernetes' runs it in a cluster"
    raise InvalidValue(f"a library runs nothing on {name!r}", fix=fix)


def _report(order: Order, ended: Outcome) -> None:
    from fedskd_sim.results import report as reports  # noqa: PLC0415 - only who runs something pays for it

    scenario = order.loaded.scenario
    reports.write(
        order.folder, scenario.members, scenario.held_out, reports.Account.of(order.loaded, ended)
    )
