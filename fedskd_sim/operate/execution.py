"""Carry a run out: launch it or join it, follow it to its end, prove what it has left, report it.

The command line and the library both do it through here. What differs between them is who attends
the run: an `Attendant`.
"""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

from fedskd_sim.errors import DataMissing, DeviceUnavailable, FedskdError, InvalidValue
from fedskd_sim.observe import outcome
from fedskd_sim.observe.outcome import Outcome
from fedskd_sim.observe.words import short_path
from fedskd_sim.operate import trust
from fedskd_sim.operate.checks import (
    Slowly,
    apart,
    asker,
    load_and_check,
    of_code,
    of_learning,
    prove,
)
from fedskd_sim.runtimes import folder, location
from fedskd_sim.runtimes.base import AnswersQuestions, Detachable, Order, Runtime, Watch
from fedskd_sim.runtimes.member import discard_custody
from fedskd_sim.scenario import Loaded

if TYPE_CHECKING:
    from fedskd_sim.results.tables import Summary

ELSEWHERE = (DataMissing, DeviceUnavailable)
"""Errors of this machine that say nothing of a cluster, unless the data are here too."""


class Cluster(NamedTuple):
    """How a run is installed in a cluster."""

    name: str = ""
    """The name of the Helm release; empty for the scenario's name."""
    namespace: str = ""
    """Its namespace; empty for the one that kubectl would take."""
    context: str = ""
    """The context of the cluster's configuration; empty for the current one."""
    values: tuple[Path, ...] = ()
    """Files of values for the chart."""
    keep: bool = False
    """Leave the release in the cluster when the run has ended."""


HERE = Cluster()
DRAWING = (
    "fedskd_sim.results.page",
    "matplotlib.figure",
    "matplotlib.backends.backend_svg",
)
"""What draws a run's page. Importing it takes a second, in which a run can go on."""
QUIETLY = Slowly()


def runtime_of(name: str, cluster: Cluster = HERE) -> Runtime:
    """Make the runtime of a name: ``processes``, ``memory`` or ``kubernetes``.

    Raises:
        InvalidValue: there is none of that name.

    """
    if name == "memory":
        from fedskd_sim.runtimes.memory import MemoryRuntime  # noqa: PLC0415 - only who uses it pays

        return MemoryRuntime()
    if name == "processes":
        from fedskd_sim.runtimes.processes import ProcessRuntime  # noqa: PLC0415

        return ProcessRuntime()
    if name == "kubernetes":
        from fedskd_sim.kubernetes.runtime import KubernetesRuntime  # noqa: PLC0415

        return KubernetesRuntime(*cluster)
    fix = "choose 'processes', 'memory' or 'kubernetes'"
    raise InvalidValue(f"nothing runs on {name!r}", fix=fix)


def check(
    scenario: Path | Loaded,
    on: str,
    runtime: Runtime,
    data: Path | None,
    *,
    changes: Iterable[str] = (),
    slowly: Slowly = QUIETLY,
) -> Loaded:
    """Load a scenario and refuse it if it cannot work in a runtime, whose name is ``on``; data and
    devices of a cluster are looked at by its own pods, unless the data are here too.

    Args:
        scenario: a file or name, or what was loaded before.
        on: the runtime's name.
        runtime: the runtime; it gets ready meanwhile.
        data: the folder with data files.
        changes: what to change in the scenario first.
        slowly: who is told what meanwhile.

    Raises:
        ScenarioError: the first problem, by line, with all others listed under it.
        FedskdError: no run can happen in the runtime.

    """
    return load_and_check(
        scenario,
        data,
        runtime.prepare,
        changes=changes,
        elsewhere=ELSEWHERE if on == "kubernetes" and data is None else (),
        also=partial(apart, runtime=on),
        slowly=replace(slowly, asked=asker(runtime, of_learning), code=asker(runtime, of_code)),
    )


def make_order(loaded: Loaded, on: str, out: Path | None, data: Path | None) -> Order:
    """Make the folder of a new run, and say what the run is; raises OutputNotEmpty,
    OutputNotWritable.
    """
    trust.note(loaded.code)
    return Order(loaded, secrets.token_hex(4), folder.make(loaded, out, on), data)


@dataclass(frozen=True)
class Attendant:
    """Who attends a run while it is carried out. What is not given is what suits a script."""

    called: str
    """The command, or the call, that carries the run out: its outcome tells it."""
    watch: Watch = lambda _: None
    """Is called with every event that a member logs."""
    following: Callable[[], AbstractContextManager[object]] = nullcontext
    """Gives what surrounds a run from its launch to its end."""
    proving: Callable[[], AbstractContextManager[object]] = nullcontext
    """Gives what surrounds the proof, which may take long."""
    warn: Callable[[str], None] = warnings.warn
    """Is told what went wrong and does not change how the run ended."""
    leaves: Callable[[], bool] = lambda: False
    """Is asked after Ctrl-C, where the run can go on by itself, whether to leave it to itself."""
    page: bool = True
    """Whether the page is drawn, too: `report` can do that later."""
    results: Callable[[Summary], object] = lambda _: None
    """Is given the results of a run that ended well, before its page is drawn."""

    @property
    def file(self) -> str:
        """Return which report a person opens."""
        return "report.html" if self.page else "report.txt"


class FinishedRun(NamedTuple):
    """A run that ended well: how, and what was proven in one line."""

    outcome: Outcome
    proof: str


def carry_out(runtime: Runtime, order: Order, attendant: Attendant) -> FinishedRun | None:
    """Launch a run and carry it out to its end, as the only process that writes into its folder.

    Returns:
        How it ended; None where it was left to itself.

    Raises:
        FedskdError, KeyboardInterrupt: what ended the run. Its notes say where the report is, and
            the folder holds what there is so far.

    """
    mine = nullcontext() if isinstance(runtime, Detachable) else folder.hold_lock(order.folder)
    with mine:  # a runtime whose runs go on by themselves holds the folder while it follows one
        return follow(runtime, order, attendant)


def follow(
    runtime: Runtime, order: Order, attendant: Attendant, *, launched: bool = False
) -> FinishedRun | None:
    """Carry a run out whose folder this process holds already, or join one that was launched
    before; returns and raises as `carry_out`. Custody is removed last.
    """
    begun = outcome.begin(order.folder, attendant.called)
    try:
        with attendant.following():
            if not launched:
                launch(runtime, order)
            apart = isinstance(runtime, (AnswersQuestions, Detachable))
            if attendant.page and apart:  # in this process the run would wait for it
                Thread(target=_import_drawing, name="drawing", daemon=True).start()
            runtime.wait(attendant.watch)
        with attendant.proving():
            proof = _prove(runtime, order)
    except BaseException as error:
        if _is_left(runtime, error, attendant):
            return None
        if isinstance(error, KeyboardInterrupt):
            say_held(runtime, order, error)
        _report_so_far(order, begun, error, attendant)
        raise
    finally:
        stop(runtime, attendant.warn)
    ended = outcome.note(order.folder, outcome.finish(begun, remark=runtime.remark))
    report(order.folder, order.loaded, ended, page=attendant.page, shown=attendant.results)
    discard_custody(order.loaded.scenario, order.run, order.folder)
    return FinishedRun(ended, proof)


def _import_drawing() -> None:
    """Import what draws the page; what cannot be imported is told when the page is drawn."""
    with suppress(Exception):
        for name in DRAWING:
            import_module(name)


def launch(runtime: Runtime, order: Order) -> None:
    """Start a run and note in its folder where it is; raises FedskdError if it cannot start."""
    runtime.launch(order)
    location.note(order.folder, runtime.place)


def launch_only(runtime: Runtime, order: Order, called: str) -> None:
    """Launch a run that goes on by itself, and do not wait for it."""
    outcome.begin(order.folder, called)
    launch(runtime, order)


def stop(runtime: Runtime, warn: Callable[[str], None]) -> None:
    """Free what a run holds; what cannot be freed is told, and hides neither the results nor the
    error that ended the run.
    """
    try:
        runtime.stop()
    except FedskdError as error:
        warn(str(error))


def report(
    run: Path,
    loaded: Loaded,
    ended: Outcome | None = None,
    figures: Path | None = None,
    *,
    page: bool = True,
    shown: Callable[[Summary], object] = lambda _: None,
) -> Summary:
    """Compute the tables and the page of a run folder, and write them into it.

    Args:
        run: the folder.
        loaded: its scenario.
        ended: how the run ended; None for what the folder says.
        figures: where its figures go as files, too; None for nowhere.
        page: whether the page is drawn, too.
        shown: is given the results before anything is drawn.

    Raises:
        RunUnreadable: something of the folder is missing or damaged.
        OutputNotWritable: the reports cannot be written there.

    """
    from fedskd_sim.results.report import Account, write  # noqa: PLC0415 - drawing is slow to import

    account = Account.of(loaded, ended or outcome.read(run))
    hospitals = loaded.scenario.members, loaded.scenario.held_out
    return write(run, *hospitals, account, figures=figures, page=page, shown=shown)


def closing_words(ended: Outcome, order: Order) -> str:
    """Return in one line how a run ended, whether it was disturbed on purpose, and where it is."""
    disturbed = f"{words}; " if (words := order.loaded.scenario.disturbed) else ""
    return f"{ended.words}; {disturbed}run folder {short_path(order.folder)}"


def _prove(runtime: Runtime, order: Order) -> str:
    """Verify what a run has left, and say what was proven. A cluster gives nothing up before that;
    raises as `prove`.
    """
    try:
        loaded = order.loaded
        proof = prove(order.folder, loaded.scenario, order.data, runtime, loaded.code)
    except FedskdError as error:
        say_held(runtime, order, error)
        raise
    if isinstance(runtime, Detachable):
        runtime.accept()
    return proof


def say_held(runtime: Runtime, order: Order, error: BaseException) -> None:
    """Say it where a run has ended in a cluster that still has what it has left."""
    if isinstance(runtime, Detachable) and runtime.holds:
        run = short_path(order.folder)
        error.add_note(
            f"nothing was removed from the cluster: 'fedskd-sim collect {run}' fetches it "
            f"again, 'fedskd-sim stop {run}' gives it up"
        )


def _is_left(runtime: Runtime, error: BaseException, attendant: Attendant) -> bool:
    """Leave a run to itself if that is what Ctrl-C was for; a signal that stops says so."""
    interrupted = isinstance(error, KeyboardInterrupt) and not error.args
    if not (interrupted and isinstance(runtime, Detachable) and attendant.leaves()):
        return False
    runtime.detach()
    return True


def _report_so_far(
    order: Order, begun: Outcome, error: BaseException, attendant: Attendant
) -> None:
    """Report a run that did not end well as far as it went; nothing here may hide the error that
    ended it.
    """
    ended = outcome.finish(begun, error)
    try:
        outcome.note(order.folder, ended)
        report(order.folder, order.loaded, ended, page=attendant.page)
        error.add_note(f"report: {short_path(order.folder / attendant.file)}")
    except FedskdError as second:
        error.add_note(f"no report: {second.message}")
    error.add_note(closing_words(ended, order))
    if isinstance(error, KeyboardInterrupt) and (order.folder / "custody").is_dir():
        error.add_note(f"'fedskd-sim resume {short_path(order.folder)}' goes on with it")
