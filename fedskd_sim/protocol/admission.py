"""The controller's part in the return of a hospital; see `fedskd_sim.protocol.returns`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from fedskd_sim.errors import LeftBehind
from fedskd_sim.messages import Alive, End, Holds, Register, ToController
from fedskd_sim.protocol.controller_effects import Admitted, Effect, Noted, Say
from fedskd_sim.protocol.roll import RegistrarState
from fedskd_sim.routes import Back, Returns, code, decoded
from fedskd_sim.topology import Topology

Turn = tuple[RegistrarState, list[Effect]]
EARLIEST = 2
"""Nobody comes back in the first round: a model that travels has set out in it."""
MayReturn = Callable[[str], bool | None]
"""Tells of a lost hospital that was heard whether it is the one that was lost, with all that it
had: a stranger in its place would begin anew. None: that cannot be seen now."""


def next_round(state: RegistrarState, ring: Topology, name: str) -> int | None:
    """Give the round from which on a hospital could be back; None if there is none: the last one
    in which models train is the last one.
    """
    before = state.back[name].round if name in state.back else 0
    chosen = max(state.round, state.far, before, EARLIEST - 1) + 1
    return chosen if ring.pattern == "circulation" and chosen <= ring.rounds else None


def left_behind(name: str, epoch: int) -> End:
    """Tell a hospital that it will not be taken in again."""
    return End(epoch, LeftBehind.exit_code, f"the run goes on without {name!r}")


def anyone(name: str) -> bool:  # noqa: ARG001 - whoever it is
    """Let everybody come back; a `MayReturn`."""
    return True


def on_guest(
    state: RegistrarState, message: ToController, ring: Topology, may_return: MayReturn
) -> Turn:
    """Let a hospital that is lost know that it is, or that it cannot come back; once it knows, and
    nobody else comes back just now, ask the others.
    """
    name, effects = message.hospital, list[Effect]()
    if isinstance(message, Register):
        effects = [] if state.registered.get(name) == message else [Noted(message)]
        state = replace(state, registered={**state.registered, name: message})
    if isinstance(message, Holds):
        state = replace(state, far=max(state.far, message.round))
    round_ = next_round(state, ring, name)
    if round_ is None:
        return state, [*effects, Say(name, left_behind(name, ring.epoch))]
    if not isinstance(message, Holds):
        return state, [*effects, Say(name, state.word)]
    knows = state.opened and name in state.registered and message.epoch == state.epoch
    may = None
    if knows and not state.asked:
        forgot = not message.round and state.told.get(name, 0) > 0
        may = False if forgot else may_return(name)
    if may:
        return ask(state, name, round_, ring)
    return state, [] if may is None else [Say(name, left_behind(name, ring.epoch))]


def ask(state: RegistrarState, name: str, round_: int, ring: Topology) -> Turn:
    """Ask all that are left to take in that a guest is back from a round on, and where it is."""
    back = {**state.back, name: Back(round_)}
    state = replace(state, back=back, admitted=state.admitted - {name}, asking=name)
    left = [one for one in state.registered if one not in state.away and one != name]
    books: list[Effect] = [Say(one, state.book(ring.epoch)) for one in left]
    return state, [*books, *(Say(one, state.word) for one in left)]


def hear(state: RegistrarState, word: Holds, ring: Topology, may_return: MayReturn) -> Turn:
    """Hear that a hospital has an epoch, or cannot take it in."""
    state = replace(state, far=max(state.far, word.round))
    if word.epoch == state.epoch:
        state = replace(state, holds={**state.holds, word.hospital: word.epoch})
        holding = {name for name in state.registered if state.holds.get(name) == state.epoch}
        left = {*state.registered} - state.away - holding
        agreed = len(state.asked) == 1 and left <= state.asked
        if not agreed:
            return state, []
        return admit(state, ring) if may_return(*state.asked) else call_off(state, state.asked)
    late = {name for name in state.asked if word.round >= state.back[name].round}
    return (state, []) if word.epoch or not late else call_off(state, late)


def tells_of_itself(state: RegistrarState, word: ToController) -> bool:
    """Tell whether a hospital that this controller takes for lost knows that it is back: one
    before it has told it so, and did not live to note it.
    """
    if not isinstance(word, Alive) or word.lost != word.hospital:
        return False
    back = decoded(word.back)
    return back is not None and not back.away and word.back > code(state.back.get(word.hospital))


def knows_itself(state: RegistrarState, word: Alive) -> Turn:
    """Learn from a hospital that it is back, where a controller before this one has told it so."""
    name, back = word.hospital, state.back.get(word.hospital)
    if word.lost != name or back is None or back.away or code(back) != word.back:
        return state, []
    told: list[Effect] = [Admitted(state.epoch, name, back.round)]
    return (
        replace(state, admitted=state.admitted | {name}),
        [] if name in state.admitted else told,
    )


def called_off(state: RegistrarState, names: Collection[str]) -> Returns:
    """Give the returns without those that came to nothing, or are over."""
    ended = {name: Back(state.back[name].round, away=True) for name in names}
    return {**state.back, **ended}


def call_off(state: RegistrarState, names: Collection[str]) -> Turn:
    """Tell all that some returns came to nothing."""
    state = replace(state, back=called_off(state, names))
    return state, [Say(name, state.word) for name in state.registered]


def admit(state: RegistrarState, ring: Topology) -> Turn:
    """Tell the guest that it is back, and where the others are."""
    (name,) = state.asked
    told: list[Effect] = [Say(name, state.word), Say(name, state.book(ring.epoch))]
    admitted = Admitted(state.epoch, name, state.back[name].round)
    return replace(state, admitted=state.admitted | {name}), [admitted, *told]
