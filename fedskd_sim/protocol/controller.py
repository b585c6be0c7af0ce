"""The controller's part: register hospitals, hand out the address book, follow progress, end the
run. It never holds weights.

Once `Start` is out the ring needs it no more: models circulate and hospitals finish without it. A
hospital whose words are of another version of the program, as one from an older image, can never
register, so nobody waits for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from fedskd_sim.errors import (
    AcknowledgementTimeout,
    CodeDiffers,
    FedskdError,
    HopTimeout,
    HospitalLost,
    RegistrationTimeout,
    RunAborted,
)
from fedskd_sim.messages import (
    Alive,
    Done,
    End,
    Failed,
    Gone,
    Holds,
    Progress,
    Register,
    ToController,
)
from fedskd_sim.protocol import admission
from fedskd_sim.protocol.admission import ControllerTurn, RegistrarState, difference
from fedskd_sim.protocol.effects import (
    Closed,
    ControllerEffect,
    Declared,
    Noted,
    Opened,
    Opening,
    Rejected,
    Say,
)
from fedskd_sim.ring.program import Program
from fedskd_sim.ring.routes import NOBODY, LostHospitals, Returns, decoded, merged, merged_returns
from fedskd_sim.ring.topology import Topology
from fedskd_sim.scenario import Scenario

OTHERS_SPEAK_S = 3.0
"""After a hospital's word that it has waited in vain, how long others may say the same, or what the
cause was: a machine may stand still for a moment when the nearest would have spoken."""
FEWEST = 2
"""Fewer hospitals that train are no ring."""
CONSEQUENCES = (HopTimeout.exit_code, AcknowledgementTimeout.exit_code)
"""What a hospital fails with that has waited in vain for another, which may be the cause."""


@dataclass(frozen=True)
class Registrar:
    """What the controller knows from the beginning; its state is handed in and out."""

    scenario: Scenario
    run: str
    epoch: int
    codes: Collection[int]
    """The exit codes with which a hospital can fail."""
    topology: Topology
    may_return: admission.MayReturn = admission.anyone

    def step(self, state: RegistrarState, message: ToController) -> ControllerTurn:
        """Handle a hospital's word, which is known to come from the hospital that it names."""
        if state.ended is not None:
            again = isinstance(message, Register | Alive)
            again &= message.hospital in self.scenario.names
            return state, [self._farewell(state, message.hospital, state.ended)] if again else []
        if isinstance(message, Register) and not self._joins(message):
            text = f"it wants to join run {message.run!r}, epoch {message.epoch}"
            return state, [Rejected(message.hospital, text)]
        if message.hospital in state.away and not admission.tells_of_itself(state, message):
            return admission.on_rejoining(state, message, self.topology, self.may_return)
        match message:
            case Alive(_, hospital) if hospital in state.registered:
                return self._on_alive(state, message)
            case Gone(_, hospital, model) if hospital in state.registered:
                return self.lose(state, [], {model: 1} if model in state.lost else {})
            case Holds(_, hospital) if hospital in state.registered:
                turn = admission.hear(state, message, self.topology, self.may_return)
                return self._ending(*turn)
            case Register():
                return self._register(state, message)
            case Progress(epoch, hospital) | Done(epoch, hospital) | Failed(epoch, hospital) if (
                not self._ours(epoch, hospital)
            ):
                return state, [Rejected(hospital, f"{type(message).__name__} of epoch {epoch}")]
            case Progress():
                return self._on_progress(state, message)
            case Failed():
                return self._on_failure(state, message)
            case Done(_, hospital) if hospital in state.done:
                return state, [Say(hospital, state.book(self.epoch))]
            case Done(_, hospital):
                return self._ending(replace(state, done=state.done | {hospital}))
        return state, []

    def _on_progress(self, state: RegistrarState, message: Progress) -> ControllerTurn:
        """Note how far a hospital is."""
        hospital, round_ = message.hospital, message.round
        if self.place(message) is None:
            text = f"it has no step for round {round_} hop {message.hop} of {message.model!r}"
            return state, [Rejected(hospital, text)]
        if round_ > state.told.get(hospital, -1):  # else all of it is known: copying takes long
            told = {**state.told, hospital: round_}
            state = replace(state, round=max(state.round, round_), told=told)
        return state, [Noted(message)]

    def _on_failure(self, state: RegistrarState, message: Failed) -> ControllerTurn:
        """End the run, or go on without the hospital that failed."""
        hospital, code, reason = message.hospital, message.code, message.reason
        if code not in self.codes:
            text = f"it failed with code {code}, which is no failure of a hospital"
            return state, [Rejected(hospital, text)]
        end = End(self.epoch, code, f"{hospital!r} failed: {reason}")
        if code in CONSEQUENCES:
            return replace(state, suspected=state.suspected or end), [Noted(message)]
        if self.scenario.on_loss.heals and code != RunAborted.exit_code:
            state, effects = self.lose(state, [hospital], why=end.reason)
        else:
            state, effects = self.end(state, end)
        return state, [Noted(message), *effects]

    def _ending(
        self, state: RegistrarState, effects: Collection[ControllerEffect] = ()
    ) -> ControllerTurn:
        """End the run if all are done that are left; behind effects that come first."""
        if state.done.union(state.away) < {*self.scenario.names}:
            return state, [*effects]
        state, ending = self.end(state, End(self.epoch, 0, "all hospitals are done"))
        return state, [*effects, *ending]

    def _on_alive(self, state: RegistrarState, word: Alive) -> ControllerTurn:
        """Learn of a loss that a controller before this one has declared, and say again what a
        hospital does not know.
        """
        known = {word.lost: word.round} if word.lost in self.scenario.names else {}
        one = decoded(word.back) if known else None
        back = merged_returns(state.back, {word.lost: one} if one else {})
        if merged(state.lost, known) != state.lost or back != state.back:
            own = admission.called_off(state, state.asked & {state.asking})
            return self._go_on(state, merged(state.lost, known), merged_returns(own, back))
        state, learned = admission.knows_itself(state, word)
        behind = word.epoch != state.epoch or bool(known.items() - state.lost.items())
        if state.asked:  # who is to hold it may have died before it said so
            behind |= state.holds.get(word.hospital) != state.epoch
        told = behind and word.hospital not in state.asked
        return state, [*learned, *([Say(word.hospital, state.word)] if told else [])]

    def lose(
        self,
        state: RegistrarState,
        names: Collection[str],
        also: LostHospitals = NOBODY,
        why: str = "",
    ) -> ControllerTurn:
        """Declare hospitals lost: the ring goes on without them, or the run ends.

        Args:
            state: what the controller knows.
            names: who has given no sign of life for too long, or has failed.
            also: who is known to be lost, with the rounds in which their models retire.
            why: what happened to the last of them, where it was not silence.

        """
        policy = self.scenario.on_loss
        retire = state.round + 1 if policy.model == "retires" else 0
        fresh = {name: retire for name in names if policy.heals or name not in state.done}
        lost = merged(merged(state.lost, fresh), also)
        again = {*fresh} & {*state.back} - state.away
        if lost == state.lost and not again:
            return state, []
        return self._go_on(state, lost, admission.called_off(state, again | state.asked), why)

    def _go_on(
        self, state: RegistrarState, lost: LostHospitals, back: Returns, why: str = ""
    ) -> ControllerTurn:
        """Declare a loss and go on with whoever is left, or end the run where these cannot."""
        policy, state = self.scenario.on_loss, replace(state, lost=lost, back=back)
        left = {*self.scenario.members} - (state.away - state.done)
        if not policy.heals or len(left) < FEWEST:
            gone = ", ".join(repr(name) for name in lost if name in state.away)
            text = why or f"nothing was heard of {gone} for {policy.after:g} s"
            if policy.heals:
                text += f", and fewer than {FEWEST} hospitals that train are left"
            return self.end(state, End(self.epoch, HospitalLost.exit_code, text))
        said = [Say(name, state.word) for name in state.registered if name not in state.asked]
        away, number = {name: lost[name] for name in sorted(state.away)}, state.epoch
        opening: list[ControllerEffect] = []
        if not state.opened and self.complete(state):
            state, opening = self._open(state)
        state, ending = self._ending(state)
        declared = [Declared(number, away)] if away else []
        return state, [*declared, *opening, *said, *ending]

    def begin_without(self, state: RegistrarState) -> ControllerTurn:
        """Begin without those that did not register.

        Called when the patience for registrations is over; nothing happens where losses end a run,
        see `late`.
        """
        if not self.scenario.on_loss.heals:
            return state, []
        return self.lose(
            state, [name for name in self.scenario.names if name not in state.registered]
        )

    def _farewell(self, state: RegistrarState, name: str, end: End) -> ControllerEffect:
        left_behind = name in state.away
        return Say(name, admission.left_behind(name, self.epoch) if left_behind else end)

    def _joins(self, message: Register) -> bool:
        return message.run == self.run and self._ours(message.epoch, message.hospital)

    def _ours(self, epoch: int, hospital: str) -> bool:
        return epoch == self.epoch and hospital in self._programs

    @cached_property
    def _programs(self) -> Mapping[str, Program]:
        return {name: Program(self.topology, name) for name in self.topology.names}

    def place(self, progress: Progress) -> int | None:
        """Return the index of the step that a hospital has finished; None without such a step."""
        return self._programs[progress.hospital].index_of_record(
            progress.model, progress.round, progress.hop
        )

    def complete(self, state: RegistrarState) -> bool:
        """Return whether every hospital has registered or is lost.

        Then the address book leaves, and models may.
        """
        there, names = state.registered, self.scenario.names
        if not state.lost:  # asked at every word: none registers who is not one of the names
            return len(there) == len(names)
        return {*there, *state.lost} >= {*names}

    def patience(self, state: RegistrarState) -> float:
        """Return the seconds that may pass: until all have registered, then between two words of
        anybody.

        When they are over and nothing came, the run ends as `late` says, or with the cause that was
        told before.
        """
        waits = self.scenario.timeouts
        if state.suspected:
            return OTHERS_SPEAK_S
        return 2 * waits.hop + waits.acknowledgement if self.complete(state) else waits.register_

    def resume(self, addresses: Mapping[str, str], keys: Mapping[str, str]) -> RegistrarState:
        """Take a run over that was started before, by a controller that is no more; both
        mappings are by name.

        The address book has left already: whoever registers gets it at once.
        """
        names = self.scenario.names
        return RegistrarState(
            {
                name: Register(self.run, self.epoch, name, addresses[name], keys[name], "")
                for name in names
            },
            opened=True,
        )

    def end(self, state: RegistrarState, end: End) -> ControllerTurn:
        """End the run.

        All that have registered are told; whoever registers or gives a sign of life later hears the
        same end.
        """
        said = [self._farewell(state, name, end) for name in state.registered]
        return replace(state, ended=end), [Closed(end), *said]

    def late(self, state: RegistrarState) -> FedskdError:
        """Return the error that names who is missing when the patience is over.

        RegistrationTimeout before all have registered, HopTimeout after that.
        """
        known = {*state.registered, *state.lost}
        missing = [name for name in self.scenario.names if name not in known]
        if missing:
            text = (
                f"{', '.join(missing)} did not register within "
                f"{self.scenario.timeouts.register_:g} s"
            )
            fix = "see the logs of these hospitals, or raise timeouts.register"
            return RegistrationTimeout(text, fix=fix, key=("timeouts", "register"))
        waiting = [name for name in self.scenario.names if name not in {*state.done, *state.away}]
        fix = "see the logs of these hospitals, or raise timeouts.hop"
        return HopTimeout(f"no word from {', '.join(waiting)}", fix=fix, key=("timeouts", "hop"))

    def _register(self, state: RegistrarState, message: Register) -> ControllerTurn:
        """Take a hospital in; the last one starts the run, one that comes again gets the address
        book again.

        If it comes again from elsewhere, all get the new one.
        """
        known = state.registered.get(message.hospital)
        effects: list[ControllerEffect] = [] if known == message else [Noted(message)]
        moved = known is None or (known.address, known.public_key) != (
            message.address,
            message.public_key,
        )
        state = replace(state, registered={**state.registered, message.hospital: message})
        if not state.opened and (differs := difference(message, state.registered.values())):
            state, ending = self.end(state, End(self.epoch, CodeDiffers.exit_code, differs))
            return state, [*effects, *ending]
        if not self.complete(state):
            return state, effects
        if not state.opened:
            state, opening = self._open(state)
            return state, [*effects, *opening]
        to = state.registered if moved else [message.hospital]
        start = state.book(self.epoch)
        return state, [*effects, *(Say(name, start) for name in to)]

    def _open(self, state: RegistrarState) -> ControllerTurn:
        """Hand out the address book to all."""
        start = state.book(self.epoch)
        said = [Say(name, start) for name in self.scenario.names if name in state.registered]
        return replace(state, opened=True), [Opening(), *said, Opened(len(said))]


def refuse(
    registrar: Registrar, state: RegistrarState, rejected: Rejected, *, foreign: bool
) -> ControllerTurn:
    """Refuse what no member would say; if it is ``foreign``, the first word of a hospital of the
    run and in another version of the wire, the run ends before it starts.

    Otherwise the word is dropped and counted, and the run goes on.
    """
    first = rejected.hospital in {*registrar.scenario.names} - {*state.registered}
    if not (foreign and first) or state.opened or state.ended is not None:
        return state, [rejected]
    text = f"{rejected.hospital!r} has another version of the program: {rejected.reason}"
    ended, ending = registrar.end(state, End(registrar.epoch, CodeDiffers.exit_code, text))
    return ended, [rejected, *ending]
