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
from fedskd_sim.runtimes import folder
from fedskd_sim.runtimes.base import Order, Watch, verdict
from fedskd_sim.runtimes.commands import ask
from fedskd_sim.runtimes.deaths import Endings, cause, check_temporary_folder
from fedskd_sim.runtimes.entry import be_controller, be_hospital
from fedskd_sim.runtimes.folder import Tail
from fedskd_sim.runtimes.forkserver import SINCE_S, UNKNOWN, ForkServer, modules_for, private_folder
from fedskd_sim.runtimes.location import Here
from fedskd_sim.runtimes.member import Life, MemberOrder
from fedskd_sim.runtimes.supervisor import (
    Exited,
    Fact,
    LoggedError,
    Lost,
    Orphaned,
    Restart,
    Rules,
    RunEnds,
    Spoke,
    Supervised,
    SupervisorOrder,
    Tick,
    blame,
    left,
    step,
)
from fedskd_sim.scenario import Loaded, Scenario
from fedskd_sim.transport.zeromq import Keys, Passwords

ALONE = "the models went on without it, to the end"


def member_order(order: Order, sockets: Path, name: str, number: int) -> MemberOrder:
    """Return where a member listens, and give it its key file.

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


def rules_of(scenario: Scenario) -> Rules:
    """Read from a scenario who is started again: nobody without custody, from which a hospital
    goes on.
    """
    custody, policy = scenario.custody, scenario.on_loss
    restarts = custody.restarts if custody.enabled and policy.name != "abort" else 0
    return Rules(scenario.names, policy.heals, restarts, scenario.timeouts.stop)


LONGEST_S = 86_400.0
"""A day, after which no controller comes up any more: the system counts milliseconds in 31 bits."""
LOOK_S = 0.1


@dataclass
class ProcessRuntime:
    """Hospital processes forked from a server that has imported PyTorch once."""

    _processes: dict[str, ForkServerProcess] = field(default_factory=dict)
    _tails: list[Tail] = field(default_factory=list)
    _metrics: dict[str, str] = field(default_factory=dict)
    _orders: dict[str, MemberOrder] = field(default_factory=dict)
    _endings: Endings = field(default_factory=lambda: Endings(Path()))
    _rules: Rules = field(default_factory=lambda: Rules(()))
    _state: Supervised = field(default_factory=Supervised)
    _orphaned: str = ""
    """How the controller died without a word, after the start."""
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
        """Return where the run is, for the run folder."""
        data = str(self._order.data.resolve()) if self._order.data else ""
        return replace(Here.of_this_process(), run=self._order.run, data=data)

    def ask(self, question: Callable[..., Any], *arguments: Any, **tell: Any) -> Any:
        """Ask a process forked from the fork server (`fedskd_sim.runtimes.commands`).

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
        self._rules = rules_of(order.loaded.scenario)
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
        end = None
        try:
            while end is None and self._server_exit is None:
                still = [self._processes[name].sentinel for name in left(self._rules, self._state)]
                wait(still, timeout=LOOK_S)
                self._note_ends()
                self._look(watch)
                end = self._tick()
        finally:
            self.stop()
        if error := self._error_of(end.blamed if end else None):
            if end and end.unwatched:
                error.message += f"; the controller had died {self._orphaned}: {events.UNWATCHED}"
            raise error

    def stop(self) -> None:
        """Ask processes to end, then kill them; remove the sockets. Nothing is there before
        `launch`.
        """
        patience = self._rules.grace if self._processes else 0.0
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

    def _hand_in(self, fact: Fact) -> list[SupervisorOrder]:
        self._state, orders = step(self._rules, self._state, fact, clock.now())
        return orders

    def _tick(self) -> RunEnds | None:
        """Carry out what the supervisor orders now, and return the run's end if it has come."""
        end = None
        for order in self._hand_in(Tick()) if self._server_exit is None else ():
            match order:
                case Orphaned(code):
                    self._orphaned = self._endings.why(code)[0]
                    with self._orders[CONTROLLER].log() as log:
                        log.event(events.ControllerDied(self._orphaned, self._rules.heals))
                case Restart(name, number, code):
                    with self._orders[name].log(hospital=name) as log:
                        log.event(events.Restarted(number, cause(code)))
                    again = replace(self._orders[name], life="restarted")
                    self._start(name, be_hospital, again, private_folder().lease)
                case RunEnds():
                    end = order
        return end

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
        process.join(self._rules.grace)
        self._note_ends()
        self._look(lambda _: None)
        blamed = blame(self._rules, self._state, clock.now())
        raise self._error_of(blamed) or RegistrationTimeout(
            f"the controller did not come up within {seconds:g} s",
            fix=folder.look_at(self._order.folder, CONTROLLER),
        )

    def _look(self, watch: Watch) -> None:
        """Read new events, and write the Prometheus targets when all are known."""
        for tail in self._tails:
            for logged in tail.events():
                self._hand_in(Spoke(logged))
                if isinstance(logged.what, events.Listening) and logged.hospital:
                    self._metrics[logged.hospital] = logged.what.metrics
                    if len(self._metrics) == len(self._order.loaded.scenario.hospitals):
                        folder.write_targets(
                            self._order.folder, self._order.run, self._metrics.values()
                        )
                watch(logged)

    def _note_ends(self) -> None:
        """Note who has ended, and how; without the fork server nobody can tell."""
        for name, process in self._processes.items():
            if name in self._state.seen or process.exitcode is None:
                continue
            if process.exitcode == UNKNOWN and (code := self._server.death(SINCE_S)) is not None:
                self._server_exit = code
                return
            self._hand_in(Exited(name, process.exitcode))

    @property
    def remark(self) -> str:
        """Return what of a run that ended well was not as it should be."""
        if self._orphaned:
            return f"the controller died {self._orphaned} after the start: {ALONE}"
        failure = self._state.failure
        return f"the controller failed: {failure}: {ALONE}" if failure else ""

    def _error_of(self, blamed: Lost | LoggedError | None) -> FedskdError | None:
        """Make the error that ended the run; None if it has ended well."""
        if self._server_exit is not None:
            return self._endings.server(self._server_exit)
        if isinstance(blamed, Lost):
            return self._endings.crash(blamed)
        error = self._endings.with_file(verdict(blamed))
        return self._order.loaded.place_error(error) if error else None
