"""From an order to a running member: what a hospital's or the controller's process does, whoever
started it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TextIO

from fedskd_sim.custody import store
from fedskd_sim.errors import FedskdError
from fedskd_sim.member.controller import Controller
from fedskd_sim.member.reporter import Reporter, error_event, peak_memory, peak_of_cards
from fedskd_sim.messages import CONTROLLER
from fedskd_sim.observe import events
from fedskd_sim.observe.events import EventLog
from fedskd_sim.records.files import ends_torn
from fedskd_sim.records.ledger import Ledger
from fedskd_sim.runtimes.folder import custody_of
from fedskd_sim.scenario import Loaded, Scenario, load
from fedskd_sim.transport.zeromq import Hub, Identity, Keys, read

FETCHED = "fetched"
OTHER_VERSION = (
    "; if it is good where it was launched, the image has another version of the program: build "
    "both images anew, and give both in the chart's values"
)
MARKS = ".faults"
"""Behind a hospital's name, beside its custody: which faults of the scenario it has met."""
STARTED = ".started"
"""... and when the run has started, where the scenario disturbs links (UNIX seconds)."""
Life = Literal["first", "restarted", "resumed"]
"""A hospital's first life, one after its own death while the run goes on, or one after that of the
whole run."""


@dataclass(frozen=True, slots=True)
class MemberOrder:
    """What a process needs to know to be one member of a run; everything else is in the scenario
    file.
    """

    scenario: Path
    name: str
    run: str
    folder: Path
    bind: str
    controller: str
    keys: Path | None = None
    data: Path | None = None
    metrics: str = "127.0.0.1:0"
    secret: Path | None = None
    """File with the run secret from which all keys are derived; instead of ``keys``."""
    advertise: str = ""
    """The address others reach it at, where that is not the one it binds."""
    patience: float | None = None
    """Seconds until all have registered, where that takes longer than the scenario says."""
    hold: float = 0.0
    """Seconds to stay up at the end until the results have been fetched (the file ``fetched`` in
    the folder)."""
    linger: float = 0.0
    """Seconds to stay up at the end for a last scrape, where that is more than the scenario
    says."""
    life: Life = "first"
    anyway: bool = False
    """Go on from custody even where what it was written with differs from what is here."""
    custody: Literal["", "in", "out"] = ""
    """Wait until what the hospital goes on from has been brought into its folder, or taken out of
    it."""
    serve: int = 0
    """The port of the loopback address at which the folder is served; 0 for none."""
    to_stdout: bool = False
    """Write log, records and timings to standard output too, where a cluster shows them."""

    def read(self) -> Loaded:
        """Load the scenario, with this place's patience; raises as `load`."""
        loaded = load(self.scenario)
        if self.patience is None:
            return loaded
        timeouts = loaded.scenario.timeouts.model_copy(update={"register_": self.patience})
        return replace(loaded, scenario=loaded.scenario.model_copy(update={"timeouts": timeouts}))

    def read_and_tell(self, log: EventLog) -> Loaded:
        """Load the scenario as `read` does, and tell in the log, too, what is wrong with it: in a
        cluster that is mostly a good one, and an image with another version of the program.
        """
        try:
            return self.read()
        except FedskdError as error:
            if self.to_stdout:
                error.fix += OTHER_VERSION
            log_error(log, error)
            raise

    def read_keys(self, scenario: Scenario) -> Identity | None:
        """Read or derive this member's keys; None for a run without."""
        if self.secret:
            return Keys.derive(
                self.secret.read_bytes().strip(), self.run, self.name, (CONTROLLER, *scenario.names)
            )
        return read(self.keys) if self.keys else None

    @contextmanager
    def log(self, **bound: str) -> Iterator[EventLog]:
        """Open this member's log."""
        run = {"run": self.run, **bound}
        if self.to_stdout and self.name == CONTROLLER:  # its folder is the chart's
            with own_stdout() as stdout, closing(EventLog(stdout, run)) as log:
                yield log
        elif self.to_stdout:
            with (
                own_stdout() as stdout, self._log_file() as file,
                closing(EventLog(stdout, run, copy=file)) as log,
            ):  # fmt: skip
                yield log
        else:
            with self._log_file() as file, closing(EventLog(file, run)) as log:
                yield log

    @contextmanager
    def _log_file(self) -> Iterator[TextIO]:
        file = self.folder / "logs" / f"{self.name}.jsonl"
        file.parent.mkdir(exist_ok=True)
        with file.open("a", encoding="utf-8") as stream:
            if ends_torn(file):  # a word after half a line would be part of it
                stream.write("\n")
            yield stream


@contextmanager
def own_stdout() -> Iterator[TextIO]:
    """Keep standard output for the log alone: what a reader or a library prints, be it half a line
    in front of a record, is on standard error meanwhile.
    """
    try:
        real = sys.stdout.fileno() == 1
    except OSError:  # somebody has put another stream in its place
        real = False
    if not real:
        yield sys.stdout
        return
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stream, redirect_stdout(sys.stderr):
        os.dup2(2, 1)
        try:
            yield stream
        finally:
            os.dup2(stream.fileno(), 1)


def discard_custody(scenario: Scenario, run: str, folder: Path) -> None:
    """Remove what the hospitals of a run have kept, where it is theirs (`store.discard`): the last
    thing that is done, once the run is proven, sealed and reported.
    """
    if not run:  # nobody knows which it is
        return
    home = custody_of(scenario, run, folder)
    for name in scenario.names:
        if store.discard(home / name, {"run": run, "hospital": name}):
            for mark in (MARKS, STARTED):
                (home / f"{name}{mark}").unlink(missing_ok=True)
    with suppress(OSError):  # something else is there
        home.rmdir()


def make_reporter(scenario: Scenario, name: str, ledger: Ledger, log: EventLog) -> Reporter:
    """Make a hospital's reporter, without metrics."""
    return Reporter(scenario, name, ledger, log.event, peak=peak_memory, device_peak=peak_of_cards)


def log_error(log: EventLog, error: FedskdError) -> None:
    """Write an error where the launcher will read it."""
    log.event(error_event(error))


def run_controller(order: MemberOrder, announce: Callable[[str], object]) -> None:
    """Be the controller; ``announce`` is called with the address once it listens.

    Raises:
        FedskdError: the run ended with an error.

    """
    loaded = order.read()
    with order.log() as log:
        try:
            with closing(Hub(order.bind, order.read_keys(loaded.scenario))) as hub:
                announce(hub.address)
                log.event(events.Listening(hub.address))
                Controller(loaded.scenario, order.run, hub, log).serve()
        except FedskdError as error:
            log_error(log, loaded.place_error(error))
            raise
