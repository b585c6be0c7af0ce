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

import json
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fedskd_sim.errors import InvalidValue
from fedskd_sim.operate.checks import Slowly, licences, unused_card
from fedskd_sim.results.runs import Run, read_run
from fedskd_sim.scenario import Loaded, Scenario, examine, find

if TYPE_CHECKING:
    from fedskd_sim.observe.events import Logged
    from fedskd_sim.operate.canary import Findings
    from fedskd_sim.operate.execution import Attendant, Cluster
    from fedskd_sim.results.comparison.work import RunResult
    from fedskd_sim.runtimes.base import Runtime

__all__ = [
    "Comparison",
    "Loaded",
    "Run",
    "compare",
    "launch",
    "load",
    "read_run",
    "resume",
    "try_out",
]


def load(scenario: str | Path, *changes: str) -> Loaded:
    """Read and check a scenario; nothing is started and no data is read.

    Architectures and options are not looked into, because that takes PyTorch: a scenario that
    loads may still be refused by `launch`, which builds every model first, and by `fedskd-sim
    validate`, which tells everything that is wrong in one go.

    >>> load("quickstart", "seed=7").scenario.seed
    7

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
    return Slowly().resolve(examine(find(Path(scenario).expanduser()), changes)).good()


def launch(
    scenario: str | Path | Loaded,
    *,
    on: str = "processes",
    out: str | Path | None = None,
    data: str | Path | None = None,
    code: Sequence[Any] = (),
    watch: Callable[[Logged], None] = lambda _: None,
    cluster: Cluster | None = None,
) -> Run:
    """Run a scenario to its end, report, and verify what it has left.

    A warning tells of a licence that asks for more than naming its source, and of an unused card.

    Args:
        scenario: a file, a name, or what `load` gave.
        on: ``processes``: each hospital is its own process; ``memory``: all in this one;
            ``kubernetes``: each its own pod. The records are the same.
        out: the run folder, new or empty; None makes ``runs/NAME-DATE-TIME-ID`` here.
        data: the folder with data files.
        code: what `algorithm` and the like have marked; but for memory it has to stand in files.
        watch: is called with every event that a member logs, as it happens.
        cluster: how the run is in its cluster, with ``kubernetes``.

    Raises:
        FedskdError: what the command line would end with; the folder then holds what there is so
            far, and the notes of the error say where.

    """
    from fedskd_sim.operate import execution  # noqa: PLC0415 - imported by who runs something

    what = scenario.scenario.name if isinstance(scenario, Loaded) else str(scenario)
    runtime = execution.runtime_of(on, cluster or execution.HERE)
    with _APART:
        given = _with_code(scenario, code, on) if code else _given(scenario)
        loaded = execution.check(given, on, runtime, _path(data))
        _warn(loaded.scenario, runtime, on)
        order = execution.make_order(loaded, on, _path(out), _path(data))
        execution.carry_out(runtime, order, _attendant(f"launch({what!r}, on={on!r})", watch))
    return Run(order.folder, loaded.scenario)


def resume(
    folder: str | Path,
    *,
    on: str = "",
    data: str | Path | None = None,
    anyway: bool = False,
    trust_code: str = "",
    watch: Callable[[Logged], None] = lambda _: None,
    cluster: Cluster | None = None,
) -> Run:
    """Go on with a run of which nothing runs any more, to its end: every hospital from its last
    state in custody. Records and weights become those of the undisturbed run, byte for byte.

    Args:
        folder: its run folder.
        on: ``processes`` or ``kubernetes``; empty for where it was.
        data: the folder with data files; None for where they were.
        anyway: go on even if versions, code, processor, data or threads have changed, on a machine
            of another name, or from the beginning if all custody is gone.
        trust_code: the digest of code in the folder that may be run, though somebody else launched
            it.
        watch: is called with every event that a member logs, as it happens.
        cluster: how the run is in its cluster; what is empty is as it was.

    Raises:
        RunUnreadable: there is nothing to go on with, or it still goes on.
        FedskdError: what ended the run.

    """
    from fedskd_sim.operate import execution  # noqa: PLC0415 - imported by who runs something
    from fedskd_sim.operate.resumption import to_resume  # noqa: PLC0415

    run, where = Path(folder).expanduser(), cluster or execution.HERE
    wanted = to_resume(run, where, on=on, data=_path(data), anyway=anyway, trust_code=trust_code)
    with _APART, wanted as (runtime, order):
        execution.follow(runtime, order, _attendant(f"resume({str(folder)!r})", watch))
    return Run(order.folder, order.loaded.scenario)


def try_out(
    scenario: str | Path | Loaded,
    *,
    on: str = "processes",
    out: str | Path | None = None,
    data: str | Path | None = None,
) -> Findings:
    """Carry out a short run of a scenario, as ``launch --canary-only`` does: two rounds of a few
    batches, with every model at every hospital.

    Args:
        scenario: a file, a name, or what `load` gave.
        on: ``processes`` or ``memory``.
        out: the folder of the short run, new or empty; None makes one in ``runs``.
        data: the folder with data files.

    Returns:
        A forecast of the whole run: ``.usual``, ``.at_least`` and ``.at_most`` in seconds,
        ``.sent``, ``.stored`` and ``.memory`` in bytes, ``.good`` and ``.problems``;
        ``.lines()`` tells it in words, ``.check()`` raises the first problem.

    Raises:
        FedskdError: what ended the short run.

    """
    from fedskd_sim.operate import canary, execution  # noqa: PLC0415 - imported by who runs something

    if on == "kubernetes":
        raise InvalidValue("a short run is not for a cluster", fix="try it out on 'processes'")
    runtime = execution.runtime_of(on)
    with _APART:
        loaded = execution.check(_given(scenario), on, runtime, _path(data))
        called = f"fedskd_sim.try_out({loaded.scenario.name!r}, on={on!r})"
        return canary.try_out(loaded, on, runtime, data=_path(data), out=_path(out), called=called)


@dataclass(frozen=True)
class Comparison:
    """What a comparison has found, from the runs of all seeds that every method has finished.

    ``folder`` holds the runs, ``compare.html`` and the files that ``text`` and ``values`` are read
    from; ``values`` are explained where ``compare.json`` is.
    """

    folder: Path
    text: str = field(repr=False)
    values: dict[str, Any] = field(repr=False, hash=False)

    @property
    def differences(self) -> list[dict[str, Any]]:
        """Rows with method, measure and place, and the paired difference to the control there, as
        ``compare.json`` has it.
        """
        return [
            {"method": method["label"], "measure": measure, "place": place, **found}
            for method in self.values["methods"]
            for measure, places in method["differences"].items()
            for place, found in places.items()
        ]


def compare(  # noqa: PLR0913 - each is an option of the command
    scenario: str | Path,
    algorithms: Sequence[str],
    *,
    seeds: int = 5,
    control: str = "",
    out: str | Path | None = None,
    data: str | Path | None = None,
    jobs: int | None = None,
    anyway: bool = False,
    watch: Callable[[RunResult], object] = lambda _: None,
) -> Comparison:
    """Compare algorithms at equal work, paired by seed. Runs that have finished are not repeated.

    Args:
        scenario: a file, or a name.
        algorithms: names of built-in algorithms, of the scenario's variants, and ``grid``.
        seeds: runs per method: the scenario's seed and the next ones.
        control: what the others are compared with; empty for ``circulation``, or the first one.
        out: the folder; None for ``runs/compare-NAME``, of a grid ``runs/grid-NAME``.
        data: the folder with data files.
        jobs: runs side by side; None for as many as there are cores for.
        anyway: compare finished runs of other code or data, too.
        watch: is called with every run that has ended.

    Raises:
        FedskdError: what is wrong with the comparison, or the error of the first run that failed.

    """
    from fedskd_sim.operate import comparison  # noqa: PLC0415 - imported by who runs something

    wanted = comparison.CompareRequest(tuple(algorithms), seeds, control, _path(data))
    with _APART:
        plan = comparison.plan(Path(scenario).expanduser(), wanted)
        _warn(plan.loaded.scenario)
        shop = plan.workshop(_path(out), jobs, anyway=anyway)
        found = comparison.carry_out(plan, shop, watch)
    if failed := comparison.failure(found.ended):
        raise failed
    return Comparison(shop.out, found.text, found.plain)


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


def _with_code(scenario: str | Path | Loaded, code: Sequence[Any], on: str) -> Loaded:
    """Load a scenario with code that a program has given; raises ScenarioError, InvalidValue."""
    from fedskd_sim.learning.offers import code_of  # noqa: PLC0415 - only code of one's own needs it

    brought = code_of(code, as_files=on != "memory")
    named = [f"code={json.dumps([*brought.files])}"] if brought.files else []
    if isinstance(scenario, Loaded):  # with what was changed in it
        found = replace(scenario, document=replace(scenario.document, brought=brought))
        return Slowly().resolve(found.changed(named)).good()
    return Slowly().resolve(examine(find(Path(scenario).expanduser()), named, brought)).good()


def _given(scenario: str | Path | Loaded) -> Path | Loaded:
    return scenario if isinstance(scenario, Loaded) else Path(scenario).expanduser()


def _path(place: str | Path | None) -> Path | None:
    return None if place is None else Path(place).expanduser()


def _warn(scenario: Scenario, runtime: Runtime | None = None, on: str = "") -> None:
    """Warn of licences, and of a card of this machine that no hospital will use."""
    told = licences(scenario)
    if runtime and on != "kubernetes" and (text := unused_card(scenario, runtime)):
        told.append(text)
    for text in told:
        warnings.warn(text, stacklevel=3)


def _attendant(call: str, watch: Callable[[Logged], None]) -> Attendant:
    from fedskd_sim.operate.execution import Attendant  # noqa: PLC0415 - imported by who runs something

    return Attendant(f"fedskd_sim.{call}", watch)
