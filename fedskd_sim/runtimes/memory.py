"""All hospitals in this process, one message at a time: the reference, and the quickest way to try something."""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TextIO

from fedskd_sim.controller import Controller
from fedskd_sim.errors import FedskdError, HopTimeout, HospitalCrashed
from fedskd_sim.hospital import Hospital
from fedskd_sim.learning.base import Ward
from fedskd_sim.learning.learners import make
from fedskd_sim.learning.placebo import Crashed
from fedskd_sim.logs import EventLog
from fedskd_sim.messages import Register
from fedskd_sim.runtimes import folder
from fedskd_sim.runtimes.base import Event, Order, Watch
from fedskd_sim.runtimes.member import Desk, assemble, desk_of, log_error, save_results
from fedskd_sim.scenario import Loaded
from fedskd_sim.transport.base import CONTROLLER
from fedskd_sim.transport.memory import Exchange, MemoryTransport


@dataclass(frozen=True)
class WatchedLog(EventLog):
    """A log whose lines also go to whoever watches the run."""

    watchers: list[Watch] = field(default_factory=list)

    def event(self, name: str, **fields: object) -> None:
        """Write one line and show it."""
        super().event(name, **fields)
        shown: Event = {"event": name, **self.bound, **fields}
        for watch in self.watchers:
            watch(shown)


class MemoryRuntime:
    """Runs every hospital in turn in the calling thread."""

    def __init__(self) -> None:
        """Prepare nothing yet."""
        self._exchange = Exchange()
        self._watchers: list[Watch] = []
        self._stack = ExitStack()
        self._hospitals: dict[str, Hospital] = {}

    def prepare(self, loaded: Loaded) -> None:
        """Do nothing: what a scenario needs is imported when it is checked."""

    @property
    def place(self) -> dict[str, Any]:
        """Say where the run is, for the run folder."""
        return folder.here()

    def launch(self, order: Order) -> None:
        """Make the controller and all hospitals, and let them register."""
        scenario = order.loaded.scenario
        self._order = order
        transport = MemoryTransport(self._exchange, CONTROLLER)
        self._controller = Controller(scenario, order.run, transport, self._log("controller"))
        for name in scenario.names:
            desk = desk_of(scenario, name, order.folder, self._log(name, hospital=name))
            self._stack.enter_context(closing(desk.ledger))
            self._hospitals[name] = self._hospital(Ward(scenario, name, order.data, counted=desk.ledger.add), desk)

    def wait(self, watch: Watch) -> None:
        """Hand out messages until nobody has one; raises the error that ended the run."""
        self._watchers.append(watch)
        try:
            for name in self._hospitals:
                register = Register(self._order.run, name, "memory", "", "")
                MemoryTransport(self._exchange, name).send(CONTROLLER, register)
            while self._deliver():
                pass
            self._check_all_finished()
            for name, hospital in self._hospitals.items():
                save_results(Ward(self._order.loaded.scenario, name), hospital.host.learner, self._order.folder)
        finally:
            self.stop()

    def stop(self) -> None:
        """Close the books."""
        self._stack.close()

    def _deliver(self) -> bool:
        """Let every member that has a message handle one; say whether there was any."""
        names = [name for name in (CONTROLLER, *self._hospitals) if self._exchange.waiting(name)]
        for name in names:
            if name == CONTROLLER:
                self._controller.step(self._controller.transport.receive(0))
            else:
                self._step(name)
        return bool(names) and not (self._controller.ended and self._controller.ended.code)

    def _step(self, name: str) -> None:
        hospital = self._hospitals[name]
        before = hospital.finished
        try:
            hospital.step(hospital.transport.receive(0))
        except Crashed:
            text = f"{name!r} died"
            raise self._placed(HospitalCrashed(text, fix=f"see logs/{name}.jsonl"), hospital) from None
        except FedskdError as error:
            raise self._placed(error, hospital) from error
        if hospital.finished and not before:
            hospital.say_done()

    def _check_all_finished(self) -> None:
        late = [hospital for hospital in self._hospitals.values() if not hospital.finished]
        if late:
            first = min(late, key=Hospital.progress)
            error = HopTimeout(first.missing(0), fix="look at the log of the hospital that should have sent it")
            raise self._placed(error, first)

    def _placed(self, error: FedskdError, hospital: Hospital) -> FedskdError:
        log_error(hospital.log, self._order.loaded.placed(error))
        return error

    def _hospital(self, ward: Ward, desk: Desk) -> Hospital:
        learner = make(ward)
        transport = MemoryTransport(self._exchange, ward.host, learner.expected, desk.transferred)
        return assemble(ward, learner, desk, transport, self._order.run)

    def _log(self, file: str, **bound: str) -> EventLog:
        path = self._order.folder / "logs" / f"{file}.jsonl"
        opened = partial(path.open, "a", encoding="utf-8")
        stream: TextIO = self._stack.enter_context(opened())
        return WatchedLog(stream, {"run": self._order.run, **bound}, self._watchers)
