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
from typing import TYPE_CHECKING, Any, Self

from fedskd_sim import clock
from fedskd_sim.errors import InvalidValue
from fedskd_sim.observe.words import duration
from fedskd_sim.operate.checks import Slowly, licences, unused_card
from fedskd_sim.results.runs import Run, read_run
from fedskd_sim.scenario import Loaded, Scenario, examine, find

if TYPE_CHECKING:
    from fedskd_sim.observe.events import Logged
    from fedskd_sim.operate.canary import Findings
    from fedskd_sim.operate.comparison import ComparedRuns
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
    """Read and check a scenario. Nothing is started, and no data are read.

    Architectures and their options are not checked, because that needs PyTorch. So `launch` may
    still refuse what loads: it builds every model first. ``fedskd-sim validate`` does so too, and
    lists all problems at once.

    >>> load("quickstart", "seed=7").scenario.seed
    7

    Args:
        scenario: a file, or the name of a scenario that comes with the program, such as
            ``quickstart``.
        changes: keys with new values, each a text such as ``"training.epochs=3"`` or
            ``"hospitals.aachen.device=cuda"``.

    Returns:
        The frozen scenario as ``.scenario``, together with the text that it came from.

    Raises:
        ScenarioError: the first problem, by line; all others are listed under it.
        InvalidValue: a change is no text.

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
    watch: Callable[[Logged], None] | None = None,
    cluster: Cluster | None = None,
) -> Run:
    """Run a scenario to its end, write its report, and verify its records and weights. Warn of
    licences that forbid some uses of the data, and of a GPU that no hospital uses.

    Args:
        scenario: a file, a name, or what `load` returned.
        on: ``processes``: each hospital is its own process; ``memory``: all in this one;
            ``kubernetes``: each its own pod. The records are the same.
        out: the run folder, new or empty; None makes ``runs/NAME-DATE-TIME-ID``.
        data: the folder with data files; None takes that of FEDSKD_DATA.
        code: classes and functions that `algorithm`, `architecture`, `loss` or `reader` have
            marked. In ``memory`` they may stand anywhere, else they must be defined in files.
        watch: is called with every event. None shows progress in an interactive Python.
        cluster: name, namespace and values of a run on ``kubernetes``.

    Raises:
        FedskdError: the error with which the command line would end. If the run had started, the
            notes of the error name its folder, which holds what there is so far.

    """
    from fedskd_sim.operate import execution  # noqa: PLC0415 - imported by who runs something

    runtime = execution.runtime_of(on, cluster or execution.HERE)
    with _APART:
        given = _given(scenario, code, on)
        loaded = execution.check(given, on, runtime, _path(data))
        _warn(loaded.scenario, runtime, on)
        order = execution.make_order(loaded, on, _path(out), _path(data))
        call = f"launch({_name(scenario)!r}, on={on!r})"
        execution.carry_out(runtime, order, _attendant(call, loaded.scenario, watch))
    return Run(order.folder, loaded.scenario)


def resume(
    folder: str | Path,
    *,
    on: str = "",
    data: str | Path | None = None,
    anyway: bool = False,
    trust_code: str = "",
    watch: Callable[[Logged], None] | None = None,
    cluster: Cluster | None = None,
) -> Run:
    """Resume an interrupted run, and take it to its end. Every hospital continues from its last
    state in custody. Records and weights become those of the undisturbed run, byte for byte.

    Args:
        folder: its run folder.
        on: ``processes`` or ``kubernetes``; empty for where it was.
        data: the folder with data files; None for where they were.
        anyway: resume even if versions, code, processor, data or threads have changed, or the
            machine has another name. If all custody is gone, begin again. Without it each of these
            is an error.
        trust_code: the digest of code in the folder that may be run, although somebody else
            launched it.
        watch: is called with every event. None shows progress in an interactive Python.
        cluster: name, namespace and values of a run on ``kubernetes``; what is empty is as it was.

    Raises:
        RunUnreadable: there is nothing to resume, or the run still goes on.
        FedskdError: the error that ended the run.

    """
    from fedskd_sim.operate import execution  # noqa: PLC0415 - imported by who runs something
    from fedskd_sim.operate.resumption import to_resume  # noqa: PLC0415

    run, where = Path(folder).expanduser(), cluster or execution.HERE
    wanted = to_resume(run, where, on=on, data=_path(data), anyway=anyway, trust_code=trust_code)
    with _APART, wanted as (runtime, order):
        execution.follow(
            runtime, order, _attendant(f"resume({str(folder)!r})", order.loaded.scenario, watch)
        )
    return Run(order.folder, order.loaded.scenario)


def try_out(
    scenario: str | Path | Loaded,
    *,
    on: str = "processes",
    out: str | Path | None = None,
    data: str | Path | None = None,
    code: Sequence[Any] = (),
) -> Findings:
    """Make a short run of a scenario, and forecast the whole run from it, as
    ``launch --canary-only`` does. It has two rounds of a few batches, with every model at every
    hospital.

    Args:
        scenario: a file, a name, or what `load` returned.
        on: ``processes`` or ``memory``.
        out: the folder of the short run, new or empty; None makes one in ``runs``.
        data: the folder with data files; None takes that of FEDSKD_DATA.
        code: classes and functions of your own, as for `launch`.

    Returns:
        A forecast of the whole run, with ``.usual``, ``.at_least`` and ``.at_most`` in seconds,
        ``.sent``, ``.stored`` and ``.memory`` in bytes. ``.problems`` lists what would go wrong;
        ``.good`` is True without any, and ``.check()`` raises the first. ``.lines()`` is a text.

    Raises:
        FedskdError: the error that ended the short run.

    """
    from fedskd_sim.operate import canary, execution  # noqa: PLC0415 - imported by who runs something

    if on == "kubernetes":
        raise InvalidValue("a short run is not for a cluster", fix="try it out on 'processes'")
    runtime = execution.runtime_of(on)
    with _APART:
        given = _given(scenario, code, on)
        loaded = execution.check(given, on, runtime, _path(data))
        called = f"fedskd_sim.try_out({loaded.scenario.name!r}, on={on!r})"
        return canary.try_out(loaded, on, runtime, data=_path(data), out=_path(out), called=called)


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`, over all seeds that every method has finished."""

    folder: Path
    """The folder with the runs, ``compare.html`` and ``compare.json``."""
    text: str = field(repr=False)
    """The tables, as the command line prints them."""
    values: dict[str, Any] = field(repr=False, hash=False)
    """The content of ``compare.json``: every number of the tables, and the values of every seed."""

    @property
    def differences(self) -> list[dict[str, Any]]:
        """One row per method, measure and place, with the paired difference to the control: mean,
        ends of the interval, p and so on, as in ``compare.json``. Null there is None here.
        """
        return [
            {"method": method["label"], "measure": measure, "place": place, **found}
            for method in self.values["methods"]
            for measure, places in method["differences"].items()
            for place, found in places.items()
        ]


def compare(  # noqa: PLR0913 - each is an option of the command
    scenario: str | Path | Loaded,
    algorithms: Sequence[str] | str,
    *,
    seeds: int = 5,
    control: str = "",
    out: str | Path | None = None,
    data: str | Path | None = None,
    code: Sequence[Any] = (),
    jobs: int | None = None,
    anyway: bool = False,
    watch: Callable[[RunResult], object] | None = None,
) -> Comparison:
    """Compare algorithms at equal work, paired by seed. Finished runs are not repeated.

    Args:
        scenario: a file, a name, or what `load` returned.
        algorithms: of the program or of ``code``, variants, ``grid``; a list or a text with commas.
        seeds: how many runs per method: with the scenario's seed and the next ones.
        control: compare the others with it; empty for ``circulation``, or else the first one.
        out: the folder; None for ``runs/compare-NAME``, of a grid ``runs/grid-NAME``.
        data: the folder with data files; None takes that of FEDSKD_DATA.
        code: classes and functions as for `launch`, defined in files: each run is a process.
        jobs: runs side by side; None for as many as there are cores for.
        anyway: accept finished runs of other code or data; the tables say so.
        watch: is called with the result of every run that has ended.

    Raises:
        FedskdError: the comparison cannot be made, or the error of the first run that failed.

    """
    from fedskd_sim.operate import comparison  # noqa: PLC0415 - imported by who runs something

    with _APART:
        wanted = comparison.CompareRequest(_labels(algorithms), seeds, control, _path(data))
        plan = comparison.plan(_given(scenario, code), wanted)
        _warn(plan.loaded.scenario)
        shop = plan.workshop(_path(out), jobs, anyway=anyway)
        found = comparison.carry_out(plan, shop, watch or (lambda _: None))
        return _compared(shop.out, found)


def _compared(folder: Path, found: ComparedRuns) -> Comparison:
    """Return what came of the runs; raises the error of the first one that failed."""
    from fedskd_sim.operate import comparison  # noqa: PLC0415 - imported by who runs something

    if failed := comparison.failure(found.ended):
        raise failed
    return Comparison(folder, found.text, found.plain)


def _labels(algorithms: Sequence[str] | str) -> list[str]:
    """List the names in a list, or in a text with commas; raises InvalidValue for none."""
    labels = algorithms.split(",") if isinstance(algorithms, str) else algorithms
    if found := [one.strip() for one in labels if one.strip()]:
        return found
    raise InvalidValue("algorithms names nothing", fix='give a list such as ["fedskd", "local"]')


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


def _name(scenario: str | Path | Loaded) -> str:
    return scenario.scenario.name if isinstance(scenario, Loaded) else str(scenario)


def _given(
    scenario: str | Path | Loaded, code: Sequence[Any] = (), on: str = "processes"
) -> Path | Loaded:
    if code:
        return _with_code(scenario, code, on)
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


def _attendant(call: str, scenario: Scenario, watch: Callable[[Logged], None] | None) -> Attendant:
    from fedskd_sim.operate.execution import Attendant  # noqa: PLC0415 - imported by who runs something

    if watch:
        return Attendant(f"fedskd_sim.{call}", watch)
    shown = _Progress(scenario)
    return Attendant(f"fedskd_sim.{call}", shown, following=lambda: shown)


OFTEN_S = 0.5
"""Seconds between two changes of a line in a notebook."""


class _Progress:
    """How far a run is: a line that changes in a notebook, and one for each tenth in an interactive
    Python. A script is shown nothing.
    """

    def __init__(self, scenario: Scenario) -> None:
        from fedskd_sim.observe.progress import LiveView  # noqa: PLC0415 - imported by who runs something
        from fedskd_sim.ring.topology import Topology  # noqa: PLC0415 - as above

        self._name, self._view = scenario.name, LiveView.unseen(Topology.of(scenario))
        shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
        self._notebook = hasattr(shell, "kernel")
        self._shows = self._notebook or hasattr(sys, "ps1")
        self._handle: Any = None
        self._due, self._tenth = 0.0, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._notebook:
            self._show(self._line())

    def __call__(self, event: Logged) -> None:
        if not self._shows:
            return
        self._view(event)
        rows = self._view.rows.values()
        tenth = 10 * sum(row.behind_it for row in rows) // sum(row.total for row in rows)
        if self._notebook:
            if clock.now() >= self._due:
                self._due = clock.now() + OFTEN_S
                self._show(self._line())
        elif tenth > self._tenth:
            self._tenth = tenth
            sys.stderr.write(self._line() + "\n")

    def _line(self) -> str:
        rows = self._view.rows.values()
        done, total = sum(row.behind_it for row in rows), sum(row.total for row in rows)
        left = self._view.seconds_left() if done < total else None
        rest = f", about {duration(left)} left" if left else ""
        return f"{self._name}: {done} of {total} stops{rest}"

    def _show(self, line: str) -> None:
        from IPython.display import display  # noqa: PLC0415 - only where there is a notebook

        if self._handle:
            self._handle.update({"text/plain": line}, raw=True)
        else:
            self._handle = display({"text/plain": line}, raw=True, display_id=True)
