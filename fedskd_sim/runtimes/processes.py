"""Each hospital in a process of its own on this machine, talking over ZeroMQ."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from fedskd_sim import clock
from fedskd_sim.errors import FedskdError, HospitalCrashed, RegistrationTimeout, SocketPathTooLong
from fedskd_sim.runtimes import folder
from fedskd_sim.runtimes.base import Event, Order, Watch, verdict
from fedskd_sim.runtimes.member import MemberOrder, run_controller, run_hospital
from fedskd_sim.scenario import Loaded
from fedskd_sim.transport.base import CONTROLLER
from fedskd_sim.transport.zeromq import Keys

LOOK_S = 0.1
LONGEST_FOLDER = 70


@dataclass
class Tail:
    """Reads the complete new lines of a log file."""

    path: Path
    position: int = 0

    def events(self) -> Iterator[Event]:
        """Yield what has been logged since the last call."""
        if not self.path.exists():
            return
        with self.path.open("rb") as stream:
            stream.seek(self.position)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                self.position += len(line)
                yield json.loads(line)


@dataclass
class ProcessRuntime:
    """Hospital processes forked from a server that has imported PyTorch once."""

    _processes: dict[str, ForkServerProcess] = field(default_factory=dict)
    _tails: list[Tail] = field(default_factory=list)
    _errors: list[Event] = field(default_factory=list)
    _metrics: dict[str, str] = field(default_factory=dict)
    _exits: dict[str, int] = field(default_factory=dict)
    _sockets: Path | None = None

    def prepare(self, loaded: Loaded) -> None:
        """Start the fork server: it imports PyTorch while the caller does the same (tests/benchmarks/start.py).

        Raises:
            SocketPathTooLong: the fork server cannot listen in the folder for temporary files.

        """
        _check_temporary_folder()
        learns = loaded.scenario.algorithm.name != "placebo"
        multiprocessing.set_forkserver_preload([f"fedskd_sim.runtimes.{'preload' if learns else 'member'}"])
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: an interrupt is the launcher's business alone
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    @property
    def place(self) -> dict[str, Any]:
        """Say where the run is, for the run folder."""
        return folder.here()

    def launch(self, order: Order) -> None:
        """Start the controller, wait for its address, then start all hospitals."""
        self._order = order
        self.prepare(order.loaded)
        context = multiprocessing.get_context("forkserver")
        self._sockets = Path(tempfile.mkdtemp(prefix="fedskd-"))
        try:
            controller = self._announced(context)
            for number, name in enumerate(order.loaded.scenario.names, 1):
                member = replace(self._member(name, number), controller=controller)
                self._start(context, name, _hospital_process, member, self._sockets)
        except BaseException:
            self.stop()
            raise

    def wait(self, watch: Watch) -> None:
        """Follow logs and processes until all have ended; raises the error that ended the run."""
        failed_at: float | None = None
        try:
            while any(process.is_alive() for process in self._processes.values()):
                wait([process.sentinel for process in self._processes.values() if process.is_alive()], timeout=LOOK_S)
                self._look(watch)
                self._exits = self._ended()
                if failed_at is None and self._failed():
                    failed_at = clock.now()
                if failed_at is not None and clock.now() - failed_at > self._grace:
                    break
            self._look(watch)
            self._exits = self._ended()
        finally:
            self.stop()
        error = self._verdict()
        if error:
            raise error

    def stop(self) -> None:
        """Ask processes to end, then kill them; remove the sockets."""
        patience = self._grace
        for sign in (signal.SIGTERM, signal.SIGKILL):
            alive = [process for process in self._processes.values() if process.is_alive()]
            for process in alive:
                with suppress(ProcessLookupError):
                    os.kill(process.pid or 0, sign)
            deadline = clock.now() + patience
            for process in alive:
                process.join(clock.left(deadline))
        if self._sockets:
            shutil.rmtree(self._sockets, ignore_errors=True)

    @property
    def _grace(self) -> float:
        return self._order.loaded.scenario.timeouts.stop

    def _start(self, context: Any, name: str, target: Any, *arguments: Any) -> ForkServerProcess:
        process: ForkServerProcess = context.Process(target=target, args=arguments, name=name, daemon=False)
        process.start()
        self._processes[name] = process
        self._tails.append(Tail(self._order.folder / "logs" / f"{name}.jsonl"))
        return process

    def _announced(self, context: Any) -> str:
        """Start the controller and wait until it says where it listens."""
        ours, theirs = context.Pipe()
        process = self._start(context, CONTROLLER, _controller_process, self._member(CONTROLLER, 0), self._sockets, theirs)
        theirs.close()
        seconds = self._order.loaded.scenario.timeouts.register_
        if wait([ours, process.sentinel], timeout=seconds):
            with suppress(EOFError):
                return str(ours.recv())
        process.join(self._grace)
        self._look(lambda _: None)
        self._exits = self._ended()
        raise self._verdict() or RegistrationTimeout(
            f"the controller did not come up within {seconds:g} s", fix="see logs/controller.err"
        )

    def _member(self, name: str, number: int) -> MemberOrder:
        """Say where a member listens, and give it its key file."""
        scenario = self._order.loaded.scenario
        sockets = self._sockets or Path()
        if scenario.network.transport == "ipc":
            bind = f"ipc://{sockets / str(number)}"
        else:
            port = scenario.network.port + number if scenario.network.port else "*"
            bind = f"tcp://127.0.0.1:{port}"
        port = scenario.metrics.port + number if scenario.metrics.port else 0
        file = self._order.folder / "scenario.yaml"
        keys = self._key_file(name)
        return MemberOrder(file, name, self._order.run, self._order.folder, bind, "", keys, self._order.data, f"127.0.0.1:{port}")

    def _key_file(self, name: str) -> Path | None:
        network = self._order.loaded.scenario.network
        if network.transport == "ipc" or network.plaintext:
            return None
        folder = (self._sockets or Path()) / "keys"
        if not folder.exists():
            folder.mkdir(mode=0o700)
            names = (CONTROLLER, *self._order.loaded.scenario.names)
            for member, keys in Keys.for_members(names).items():
                keys.write(folder / member)
        return folder / name

    def _look(self, watch: Watch) -> None:
        """Read new events, keep the errors among them, and write the Prometheus targets when all are known."""
        for tail in self._tails:
            for event in tail.events():
                if event["event"] == "error":
                    self._errors.append(event)
                if event["event"] == "listening" and "metrics" in event:
                    self._metrics[event["hospital"]] = event["metrics"]
                    self._write_targets()
                watch(event)

    def _write_targets(self) -> None:
        """Write a file for Prometheus' file_sd_configs: one target per hospital."""
        if len(self._metrics) == len(self._order.loaded.scenario.hospitals):
            targets = [{"targets": sorted(self._metrics.values()), "labels": {"run": self._order.run}}]
            file = self._order.folder / "metrics" / "targets.json"
            draft = file.with_suffix(".draft")
            draft.write_text(json.dumps(targets, indent=1) + "\n", encoding="utf-8")
            draft.replace(file)

    def _failed(self) -> bool:
        return any(code for name, code in self._exits.items() if name != CONTROLLER)

    def _ended(self) -> dict[str, int]:
        """Give the exit codes of members that have ended by themselves, before anyone was stopped."""
        return {name: process.exitcode for name, process in self._processes.items() if process.exitcode is not None}

    def _verdict(self) -> FedskdError | None:
        """Choose the error that ended the run: a death, then a hospital's own error, then what it made others do."""
        alone = len(self._processes) == 1
        exits = {name: code for name, code in self._exits.items() if code and (name != CONTROLLER or alone)}
        told = {event.get("hospital", CONTROLLER) for event in self._errors}
        for name, code in exits.items():
            if name not in told:
                return self._crash(name, code)
        error = verdict(self._errors) if exits else None
        return self._order.loaded.placed(error) if error else None

    def _crash(self, name: str, code: int) -> FedskdError:
        cause = f"by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"with exit code {code}"
        file = self._order.folder / "logs" / f"{name}.err"
        last = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:] if file.exists() else []
        text = f"{name!r} died {cause}" + (f": {last[0][:200]}" if last else "")
        return HospitalCrashed(text, fix=f"see {file}")


def _check_temporary_folder() -> None:
    """Refuse a folder for temporary files in which Unix sockets cannot have names; the fork server needs one too."""
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > LONGEST_FOLDER:
        text = f"{folder} is too long a path for Unix sockets, {LONGEST_FOLDER} bytes are allowed"
        raise SocketPathTooLong(text, fix="set TMPDIR to a shorter path")


def _hospital_process(order: MemberOrder, sockets: Path) -> None:
    _enter(order, sockets)
    try:
        run_hospital(order)
    except FedskdError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)  # noqa: T201 - into the process's own error file
        sys.exit(error.exit_code)


def _controller_process(order: MemberOrder, sockets: Path, announce: Connection) -> None:
    _enter(order, sockets)
    try:
        run_controller(order, announce.send)
    except FedskdError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)  # noqa: T201 - into the process's own error file
        sys.exit(error.exit_code)


def _enter(order: MemberOrder, sockets: Path) -> None:
    """Give the process its own error file, and make it end, and sockets and keys with it, when the launcher dies."""
    descriptor = os.open(order.folder / "logs" / f"{order.name}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch_parent, args=(sockets,), daemon=True).start()


def _watch_parent(sockets: Path) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        shutil.rmtree(sockets, ignore_errors=True)
        os._exit(1)
