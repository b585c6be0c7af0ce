"""The controller: registers hospitals, hands out the address book, follows progress, ends the run. It never holds weights.

Once `Start` is out the ring needs it no more: models circulate and hospitals finish without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fedskd_sim import clock
from fedskd_sim.errors import FedskdError, HopTimeout, RegistrationTimeout
from fedskd_sim.logs import EventLog
from fedskd_sim.messages import Done, End, Failed, Message, Progress, Register, Start
from fedskd_sim.scenario import Scenario
from fedskd_sim.transport.base import NothingReceived, Transport


@dataclass
class Controller:
    """The registrar of one run; ``started`` is called when the first `Start` is about to leave."""

    scenario: Scenario
    run: str
    transport: Transport
    log: EventLog
    started: Callable[[], None] = lambda: None
    ended: End | None = None
    _registered: dict[str, Register] = field(default_factory=dict)
    _done: set[str] = field(default_factory=set)

    def serve(self) -> End:
        """Lead one run from the first registration to its end, and return that end.

        Raises:
            RegistrationTimeout: hospitals are missing at the deadline.
            HopTimeout: no hospital has said a word for longer than any hop may take.

        """
        timeouts = self.scenario.timeouts
        deadline = clock.now() + (2 * timeouts.hop + timeouts.receipt if self._complete else timeouts.register_)
        while self.ended is None:
            try:
                message = self.transport.receive(clock.left(deadline))
            except NothingReceived:
                raise self._told(self._late()) from None
            self.step(message)
            if self._complete:
                deadline = clock.now() + 2 * timeouts.hop + timeouts.receipt
        return self.ended

    def resume(self, addresses: Mapping[str, str], keys: Mapping[str, str]) -> None:
        """Take a run over that has been started before, by a controller that is no more; both mappings are by name."""
        self._registered = {name: Register(self.run, name, addresses[name], keys[name], "") for name in self.scenario.names}

    def step(self, message: Message) -> None:
        """Handle one hospital's word."""
        match message:
            case Register(run, hospital) if run == self.run and hospital in self.scenario.names:
                self._register(message)
            case Progress(hospital, model, round_, hop, accuracy):
                self.log.event("progress", hospital=hospital, model=model, round=round_, hop=hop, accuracy=accuracy)
            case Failed(hospital, code, reason):
                self.log.event("failed", hospital=hospital, code=code, reason=reason)
                self._end(End(code, f"{hospital!r} failed: {reason}"))
            case Done(hospital):
                self._done.add(hospital)
                if len(self._done) == len(self.scenario.hospitals):
                    self._end(End(0, "all hospitals are done"))

    @property
    def _complete(self) -> bool:
        return len(self._registered) == len(self.scenario.hospitals)

    def _register(self, message: Register) -> None:
        late = self._complete
        if self._registered.get(message.hospital) != message:
            self._registered[message.hospital] = message
            self.log.event("registered", hospital=message.hospital, address=message.address, metrics=message.metrics)
        if not self._complete:
            return
        if not late:
            self.started()
        addresses = {name: entry.address for name, entry in self._registered.items()}
        keys = {name: entry.public_key for name, entry in self._registered.items()}
        for name in [message.hospital] if late else self.scenario.names:
            self.transport.send(name, Start(addresses, keys))
        self.log.event("start", hospitals=len(addresses))

    def _end(self, end: End) -> None:
        if self.ended is None:
            self.ended = end
            self.log.event("end", code=end.code, reason=end.reason)
            for name in self._registered:
                self.transport.send(name, end)

    def _late(self) -> FedskdError:
        missing = [name for name in self.scenario.names if name not in self._registered]
        if missing:
            text = f"{', '.join(missing)} did not register within {self.scenario.timeouts.register_:g} s"
            fix = "see the logs of these hospitals, or raise timeouts.register"
            return RegistrationTimeout(text, fix=fix, key=("timeouts", "register"))
        waiting = [name for name in self.scenario.names if name not in self._done]
        fix = "see the logs of these hospitals, or raise timeouts.hop"
        return HopTimeout(f"no word from {', '.join(waiting)}", fix=fix, key=("timeouts", "hop"))

    def _told(self, error: FedskdError) -> FedskdError:
        self._end(End(error.exit_code, error.message))
        return error
