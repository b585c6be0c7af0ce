"""Each hospital in a process of its own on this machine, talking over ZeroMQ: what members are told
(where each listens, which keys it has), which dead hospitals are started again, and what a launcher
sees of the controller. Nobody can begin without that; once the ring has started the models go on
without it.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from fedskd_sim import clock
from fedskd_sim.errors import FedskdError, RegistrationTimeout
from fedskd_sim.learning.workspace import fix_workspace
from fedskd_sim.messages import CONTROLLER
from fedskd_sim.observe import events
from fedskd_sim.observe.events import BackEvent, EventLog, Finished, LogEvent, LostEvent
from fedskd_sim.runtimes import folder
from fedskd_sim.runtimes.base import LoggedError, Order, Watch, error_of, verdict
from fedskd_sim.runtimes.commands import ask
from fedskd_sim.runtimes.deaths import DONE, Endings, cause, check_temporary_folder, place
from fedskd_sim.runtimes.entry import be_controller, be_hospital
from fedskd_sim.runtimes.folder import Tail
from fedskd_sim.runtimes.forkserver import SINCE_S, UNKNOWN, ForkServer, modules_for, private_folder
from fedskd_sim.runtimes.location import Here
from fedskd_sim.runtimes.member import Life, MemberOrder
from fedskd_sim.scenario import Loaded, Scenario
from fedskd_sim.transport.zeromq import Keys, Passwords

SIGNS_OF_THE_START = (events.StartEvent, events.WarmUp, events.Arrived)
ALONE = "the models went on without it, to the end"


@dataclass
class Leader:
    """How far a run's controller came, and how it ended."""

    started: bool = False
    """Somebody has told that the ring has started."""
    failure: str = ""
    """What it has said of its own failure."""
    cause: str = ""
    """How it died without a word, after the start."""
    watched: bool = False
    """It was to declare hospitals lost."""

    def note(self, name: str, what: events.LogEvent) -> None:
        """Take in what a member has logged."""
        self.started = self.started or isinstance(what, SIGNS_OF_THE_START)
        if name == CONTROLLER and isinstance(what, events.Error):
            self.failure = what.message

    def missing(self, code: int) -> bool:
        """Return whether it died without a word before the start: nobody can begin."""
        return bool(code) and not self.started and not self.failure

    def mourn(self, cause: str, log: EventLog, *, watched: bool = False) -> None:
        """Note how it died without a word after the start, for whoever watches the run."""
        self.cause, self.watched = cause, watched
        log.event(events.ControllerDied(cause, watched))

    def explain(self, error: FedskdError) -> FedskdError:
        """Let an error that ended the run say so where nobody was there any more to declare its
        culprit lost.
        """
        if self.cause and self.watched:
            error.message += f"; the controller had died {self.cause}: {events.UNWATCHED}"
        return error

    @property
    def silent(self) -> bool:
        """Return whether a death of it would be news."""
        return self.started and not (self.failure or self.cause)

    @property
    def remark(self) -> str:
        """Say how it ended, of a run that ended well; '' if as it should."""
        if self.cause:
            return f"the controller died {self.cause} after the start: {ALONE}"
        return f"the controller failed: {self.failure}: {ALONE}" if self.failure else ""


def member_order(order: Order, sockets: Path, name: str, number: int) -> MemberOrder:
    """Say where a member listens, and give it its key file.

    Args:
        order: the run.
        sockets: the run's folder for sockets and keys, which only this user may enter.
        name: the member.
        number: 0 for the controller, and its hospitals' places in the scenario counted from 1: told
            apart by it, no two members share a socket or a port.

    """
    scenario = order.loaded.scenario
    if scenario.network.transport == "ipc":
        bind = f"ipc://{sockets / str(number)}"
    else:
        port = scenario.network.port + number if scenario.network.port else "*"
        bind = f"tcp://127.0.0.1:{port}"
    port = scenario.metrics.port + number if scenario.metrics.port else 0
    life: Life = "resumed" if order.resumed else "first"
    return MemberOrder(
        order.folder / "scenario.yaml",
        name,
        order.run,
        order.folder,
        bind,
        "",
        key_file(scenario, sockets, name),
        order.data,
        f"127.0.0.1:{port}",
        life=life,
        anyway=order.anyway,
    )


def key_file(scenario: Scenario, sockets: Path, name: str) -> Path:
    """Return a member's file of keys, or of secrets where nothing is encrypted, after making
    everybody's.
    """
    network = scenario.network
    kind = Keys if network.transport == "tcp" and not network.plaintext else Passwords
    home = sockets / "keys"
    if not home.exists():
        home.mkdir(mode=0o700)
        for member, keys in kind.for_members((CONTROLLER, *scenario.names)).items():
            keys.write(home / member)
    return home / name


@dataclass
class Restarts:
    """The restarts of a run; none without custody, from which a hospital goes on."""

    most: int
    """How often in a row, without a record in between."""
    lost: set[str] = field(default_factory=set)
    """Hospitals without which the ring goes on."""
    _tried: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, scenario: Scenario) -> Restarts:
        """Read the policy from the scenario."""
        restarts = scenario.custody.enabled and scenario.on_loss.name != "abort"
        return cls(scenario.custody.restarts if restarts else 0)

    def allow(self, name: str, code: int) -> bool:
        """Return whether a hospital that ended with an exit code (-N: by signal N) is to be started
        again, and count it.

        An error of its own would only come again; a signal is nobody's word.
        """
        if code >= 0 or self._tried.get(name, 0) >= self.most:
            return False
        self._tried[name] = self._tried.get(name, 0) + 1
        return True

    def note(self, name: str, what: LogEvent) -> None:
        """Note that a hospital has left a record, and who is lost, or back."""
        match what:
            case Finished():
                self._tried.pop(name, None)
            case LostEvent(_, hospitals):
                self.lost |= {*hospitals}
            case BackEvent(_, hospital):
                self.lost.discard(hospital)

    def attempts(self, name: str) -> int:
        """Count the restarts in a row."""
        return self._tried.get(name, 0)


LONGEST_S = 86_400.0
"""A day, after which no controller comes up any more: the system counts milliseconds in 31 bits."""
LOOK_S = 0.1


@dataclass
class ProcessRuntime:
    """Hospital processes forked from a server that has imported PyTorch once."""

    _processes: dict[str, ForkServerProcess] = field(default_factory=dict)
    _tails: list[Tail] = field(default_factory=list)
    _errors: list[LoggedError] = field(default_factory=list)
    _metrics: dict[str, str] = field(default_factory=dict)
    _exits: dict[str, int] = field(default_factory=dict)
    """Exit codes of members that have ended by themselves, first the first, before anyone was
    stopped."""
    _places: dict[str, str] = field(default_factory=dict)
    _restarts: Restarts = field(default_factory=lambda: Restarts(0))
    _orders: dict[str, MemberOrder] = field(default_factory=dict)
    _endings: Endings = field(default_factory=lambda: Endings(Path()))
    _leader: Leader = field(default_factory=Leader)
    _server_exit: int | None = None
    """The fork server's exit code, once it has died."""
    _sockets: Path | None = None

    def prepare(self, loaded: Loaded) -> None:
        """Start the fork server: it imports PyTorch, once for all members and all checks
        (tests/benchmarks/start.py).

        Raises:
            SocketPathTooLong: the fork server cannot listen in the folder for temporary files.
            OutputNotWritable: nothing can be made in that folder.

        """
        check_temporary_folder()
        fix_workspace()  # before the fork server inherits the environment
        self._server = ForkServer.running(modules_for(loaded.scenario), private_folder().path)

    @property
    def place(self) -> Here:
        """Say where the run is, for the run folder."""
        data = str(self._order.data.resolve()) if self._order.data else ""
        return replace(Here.of_this_process(), run=self._order.run, data=data)

    def ask(self, question: Callable[..., Any], *arguments: Any, **tell: Any) -> Any:
        """Let a process forked from the fork server answer (`fedskd_sim.runtimes.commands`).

        Raises:
            FedskdError: what the question raises, or the death of one of the two.

        """
        self._check_server()
        try:
            return ask(question, *arguments, **tell)
        except (OSError, EOFError):
            self._check_server(SINCE_S)
            raise

    def launch(self, order: Order) -> None:
        """Start the controller, wait for its address, then start all hospitals."""
        self._order = order
        self._restarts = Restarts.of(order.loaded.scenario)
        self.prepare(order.loaded)
        self._endings = Endings(order.folder)
        self._sockets = Path(tempfile.mkdtemp(prefix="", dir=private_folder().path))
        try:
            controller = self._start_controller()
            for number, name in enumerate(order.loaded.scenario.names, 1):
                self._orders[name] = replace(
                    member_order(order, self._sockets, name, number), controller=controller
                )
                self._start(name, be_hospital, self._orders[name], private_folder().lease)
        except BaseException:
            self.stop()
            raise

    def wait(self, watch: Watch) -> None:
        """Follow logs and processes until all have ended; raises the error that ended the run."""
        end: float | None = None
        try:
            while (end is None or clock.now() < end) and (left := self._processes_left()):
                wait([process.sentinel for process in left], timeout=LOOK_S)
                self._note_ends()
                self._look(watch)
                self._note_a_silent_controller()
                if end is None:
                    self._start_again()
                if end is None and self._fatal_exits():
                    end = clock.now() + (
                        0 if self._leader.missing(self._exits.get(CONTROLLER, 0)) else self._grace
                    )
        finally:
            self.stop()
        error = self._verdict()
        if error:
            raise self._leader.explain(error)

    def stop(self) -> None:
        """Ask processes to end, then kill them; remove the sockets. Nothing is there before
        `launch`.
        """
        patience = self._grace if self._processes else 0.0
        for sign in (signal.SIGTERM, signal.SIGKILL):
            alive = [
                process
                for process in self._processes.values()
                if process.is_alive() or self._server_exit is not None
            ]
            for process in alive:
                with suppress(ProcessLookupError):
                    os.kill(process.pid or 0, sign)
            deadline = clock.now() + patience
            for process in alive:
                process.join(clock.seconds_left(deadline))
        if self._sockets:
            shutil.rmtree(self._sockets, ignore_errors=True)

    @property
    def _grace(self) -> float:
        return self._order.loaded.scenario.timeouts.stop

    def _start(self, name: str, target: Any, *arguments: Any) -> ForkServerProcess:
        process = multiprocessing.get_context("forkserver").Process(
            target=target, args=arguments, name=name, daemon=False
        )
        self._check_server()
        try:
            process.start()
        except (OSError, EOFError):
            self._check_server(SINCE_S)
            raise
        log = self._order.folder / "logs" / f"{name}.jsonl"
        if name not in self._processes:
            self._tails.append(Tail(log, log.stat().st_size if log.exists() else 0))
        self._processes[name] = process
        return process

    def _start_again(self) -> None:
        """Start hospitals again that were killed, as far as the scenario allows; they go on from
        what they have in custody.
        """
        for name, code in list(self._exits.items()):
            spoke = any(error.member == name for error in self._errors)
            leaderless = name in self._restarts.lost and CONTROLLER in self._exits
            if name == CONTROLLER or spoke or leaderless or not self._restarts.allow(name, code):
                continue
            with self._orders[name].log(hospital=name) as log:
                log.event(events.Restarted(self._restarts.attempts(name), cause(code)))
            del self._exits[name]
            again = replace(self._orders[name], life="restarted")
            self._start(name, be_hospital, again, private_folder().lease)

    def _check_server(self, patience: float = 0.0) -> None:
        self._server_exit = self._server.death(patience)
        if self._server_exit is not None:
            raise self._endings.server(self._server_exit)

    def _start_controller(self) -> str:
        """Start the controller and wait until it says where it listens."""
        ours, theirs = multiprocessing.Pipe()
        order = member_order(self._order, self._sockets or Path(), CONTROLLER, 0)
        self._orders[CONTROLLER] = order
        process = self._start(CONTROLLER, be_controller, order, private_folder().lease, theirs)
        theirs.close()
        seconds = self._order.loaded.scenario.timeouts.register_
        if ours in wait([ours, process.sentinel], timeout=min(seconds, LONGEST_S)):
            with suppress(EOFError):
                return str(ours.recv())
        process.join(self._grace)
        self._note_ends()
        self._look(lambda _: None)
        raise self._verdict() or RegistrationTimeout(
            f"the controller did not come up within {seconds:g} s",
            fix=folder.look_at(self._order.folder, CONTROLLER),
        )

    def _look(self, watch: Watch) -> None:
        """Read new events, keep the errors among them, and write the Prometheus targets when all
        are known.
        """
        for tail in self._tails:
            for logged in tail.events():
                name = logged.hospital or CONTROLLER
                self._places[name] = place(logged.what) or self._places.get(name, "")
                self._leader.note(name, logged.what)
                self._errors += [error] if (error := error_of(logged)) else []
                self._restarts.note(name, logged.what)
                if isinstance(logged.what, events.Listening) and logged.hospital:
                    self._metrics[logged.hospital] = logged.what.metrics
                    if len(self._metrics) == len(self._order.loaded.scenario.hospitals):
                        folder.write_targets(
                            self._order.folder, self._order.run, self._metrics.values()
                        )
                watch(logged)

    def _processes_left(self) -> list[ForkServerProcess]:
        """List those whose end is not known and will be; but none who is lost, after the run."""
        if self._server_exit is not None:
            return []
        past = {*self._exits, *(self._restarts.lost if CONTROLLER in self._exits else ())}
        return [process for name, process in self._processes.items() if name not in past]

    def _note_ends(self) -> None:
        """Note who has ended, and how; without the fork server nobody can tell."""
        for name, process in self._processes.items():
            if name in self._exits or process.exitcode is None:
                continue
            if process.exitcode == UNKNOWN and (code := self._server.death(SINCE_S)) is not None:
                self._server_exit = code
                return
            self._exits[name] = process.exitcode

    def _note_a_silent_controller(self) -> None:
        code = self._exits.get(CONTROLLER, 0)
        if code and self._leader.silent:
            watched = self._order.loaded.scenario.on_loss.heals
            with self._orders[CONTROLLER].log() as log:
                self._leader.mourn(self._endings.why(code)[0], log, watched=watched)

    @property
    def remark(self) -> str:
        """Say what of a run that ended well was not as it should be."""
        return self._leader.remark

    def _fatal_exits(self) -> dict[str, int]:
        """Return those whose end ends the run: a hospital, with a code or before it was done, or
        the controller before the start; none while a controller lives that lets the ring go on.
        """
        if self._order.loaded.scenario.on_loss.heals and CONTROLLER not in self._exits:
            return {}
        return {
            name: code
            for name, code in self._exits.items()
            if name not in self._restarts.lost
            and (
                not self._leader.started and code
                if name == CONTROLLER
                else code or self._places.get(name) != DONE
            )
        }

    def _verdict(self) -> FedskdError | None:
        """Choose the error that ended the run: a death, then a hospital's own error, then what
        it made others do.
        """
        if self._server_exit is not None:
            return self._endings.server(self._server_exit)
        failed = self._fatal_exits()
        told = {error.member for error in self._errors}
        for name, code in failed.items():
            if name not in told:
                return self._endings.crash(name, code, self._places.get(name, ""))
        error = self._endings.with_file(verdict(self._errors)) if failed else None
        return self._order.loaded.place_error(error) if error else None
