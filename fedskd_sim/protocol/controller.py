"""The controller's part: register hospitals, hand out the address book, follow progress, end the
run. It never holds weights.

Once `Start` is out the ring needs it no more: models circulate and hospitals finish without it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from fedskd_sim.errors import AcknowledgementTimeout, FedskdError, HopTimeout, RegistrationTimeout
from fedskd_sim.messages import (
    Done,
    End,
    Failed,
    FromController,
    Progress,
    Register,
    Start,
    ToController,
)
from fedskd_sim.program import Program
from fedskd_sim.scenario import Scenario
from fedskd_sim.topology import Topology


class Say(NamedTuple):
    """Send a word to a hospital."""

    to: str
    message: FromController


class Opening(NamedTuple):
    """The first `Start` is about to leave."""


class Noted(NamedTuple):
    """A hospital's word that is worth a line in the log."""

    message: ToController


class Opened(NamedTuple):
    """The address book has left, to so many."""

    hospitals: int


class Rejected(NamedTuple):
    """A word that no member of the run would say."""

    hospital: str
    reason: str


class Closed(NamedTuple):
    """The run is over."""

    end: End


OTHERS_SPEAK_S = 1.0
"""After a hospital's word that it has waited in vain, how long others may say the same, or what the
cause was."""
CONSEQUENCES = (HopTimeout.exit_code, AcknowledgementTimeout.exit_code)
Effect = Say | Opening | Noted | Opened | Rejected | Closed


@dataclass(frozen=True, slots=True)
class RegistrarState:
    """What the controller must remember."""

    registered: Mapping[str, Register] = field(default_factory=dict)
    done: frozenset[str] = frozenset()
    suspected: End | None = None
    """How the run will end unless a better cause is told soon: others wait in vain for the same
    culprit, some nearer to it."""
    ended: End | None = None


Turn = tuple[RegistrarState, list[Effect]]


@dataclass(frozen=True)
class Registrar:
    """What the controller knows from the beginning; its state is handed in and out."""

    scenario: Scenario
    run: str
    epoch: int
    codes: Collection[int]
    """The exit codes with which a hospital can fail."""
    topology: Topology

    def step(self, state: RegistrarState, message: ToController) -> Turn:
        """Handle a hospital's word, which is known to come from the hospital that it names."""
        if state.ended is not None:
            again = isinstance(message, Register) and message.hospital in self.scenario.names
            return state, [Say(message.hospital, state.ended)] if again else []
        match message:
            case Register(run, epoch, hospital):
                if run != self.run or not self._ours(epoch, hospital):
                    return state, [
                        Rejected(hospital, f"it wants to join run {run!r}, epoch {epoch}")
                    ]
                return self._register(state, message)
            case Progress(epoch, hospital) | Done(epoch, hospital) | Failed(epoch, hospital) if (
                not self._ours(epoch, hospital)
            ):
                return state, [Rejected(hospital, f"{type(message).__name__} of epoch {epoch}")]
            case Progress(_, hospital, model, round_, hop):
                if self.place(message) is None:
                    return state, [
                        Rejected(
                            hospital, f"it has no step for round {round_} hop {hop} of {model!r}"
                        )
                    ]
                return state, [Noted(message)]
            case Failed(_, hospital, code, reason):
                if code not in self.codes:
                    return state, [
                        Rejected(
                            hospital,
                            f"it failed with code {code}, which is no failure of a hospital",
                        )
                    ]
                end = End(self.epoch, code, f"{hospital!r} failed: {reason}")
                if code in CONSEQUENCES:
                    return replace(state, suspected=state.suspected or end), [Noted(message)]
                state, effects = self.end(state, end)
                return state, [Noted(message), *effects]
            case Done(_, hospital):
                state = replace(state, done=state.done | {hospital})
                if len(state.done) == len(self.scenario.hospitals):
                    return self.end(state, End(self.epoch, 0, "all hospitals are done"))
        return state, []

    def _ours(self, epoch: int, hospital: str) -> bool:
        return epoch == self.epoch and hospital in self.scenario.names

    @cached_property
    def _programs(self) -> Mapping[str, Program]:
        return {name: Program(self.topology, name) for name in self.topology.names}

    def place(self, progress: Progress) -> int | None:
        """Give the index of the step that a hospital has finished; None if it has no such step."""
        return self._programs[progress.hospital].index_of_record(
            progress.model, progress.round, progress.hop
        )

    def complete(self, state: RegistrarState) -> bool:
        """Tell whether every hospital has registered."""
        return len(state.registered) == len(self.scenario.hospitals)

    def patience(self, state: RegistrarState) -> float:
        """Give the seconds that may pass: until all have registered, then between two words of
        anybody.
        """
        waits = self.scenario.timeouts
        if state.suspected:
            return OTHERS_SPEAK_S
        return 2 * waits.hop + waits.acknowledgement if self.complete(state) else waits.register_

    def resume(self, addresses: Mapping[str, str], keys: Mapping[str, str]) -> RegistrarState:
        """Take a run over that was started before, by a controller that is no more; both
        mappings are by name.
        """
        names = self.scenario.names
        return RegistrarState(
            {
                name: Register(self.run, self.epoch, name, addresses[name], keys[name], "")
                for name in names
            }
        )

    def end(self, state: RegistrarState, end: End) -> Turn:
        """End the run."""
        said: list[Effect] = [Say(name, end) for name in state.registered]
        return replace(state, ended=end), [Closed(end), *said]

    def late(self, state: RegistrarState) -> FedskdError:
        """Say who is missing when the patience is over."""
        missing = [name for name in self.scenario.names if name not in state.registered]
        if missing:
            text = (
                f"{', '.join(missing)} did not register within "
                f"{self.scenario.timeouts.register_:g} s"
            )
            fix = "see the logs of these hospitals, or raise timeouts.register"
            return RegistrationTimeout(text, fix=fix, key=("timeouts", "register"))
        waiting = [name for name in self.scenario.names if name not in state.done]
        fix = "see the logs of these hospitals, or raise timeouts.hop"
        return HopTimeout(f"no word from {', '.join(waiting)}", fix=fix, key=("timeouts", "hop"))

    def _register(self, state: RegistrarState, message: Register) -> Turn:
        """Take a hospital in; the last one starts the run, one that comes again gets the address
        book again.

        If it comes again from elsewhere, all get the new one.
        """
        late, known = self.complete(state), state.registered.get(message.hospital)
        effects: list[Effect] = [] if known == message else [Noted(message)]
        moved = known is None or (known.address, known.public_key) != (
            message.address,
            message.public_key,
        )
        state = replace(state, registered={**state.registered, message.hospital: message})
        if not self.complete(state):
            return state, effects
        addresses = {name: entry.address for name, entry in state.registered.items()}
        keys = {name: entry.public_key for name, entry in state.registered.items()}
        start = Start(self.epoch, addresses, keys)
        opening: list[Effect] = [] if late else [Opening()]
        opened: list[Effect] = [] if late else [Opened(len(addresses))]
        said = [Say(name, start) for name in (self.scenario.names if moved else [message.hospital])]
        return state, [*effects, *opening, *said, *opened]
