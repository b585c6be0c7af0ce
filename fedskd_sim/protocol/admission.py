"""The controller's part in who belongs to a run: who is there, who is lost and who is coming back
(see `fedskd_sim.protocol.losses`), and whether all compute with the same code.

Code is that of the program, of each architecture of one's own and, where several use one, of a
reader. In a cluster each hospital may have an image of its own, and what comes of two versions is
the result of none. A hospital tells its code as it registers, as lines of a name and a digest. What
only one of them has, such as the reader of its own data, is its own. Where hospitals share what a
reader gives by parts, digests of its columns are such lines too, and so that no sample is at two
hospitals each tells a few salted digests of samples with their ids.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256

from fedskd_sim.errors import LeftBehind
from fedskd_sim.messages import Alive, End, Epoch, Holds, Register, Start, ToController
from fedskd_sim.protocol.effects import Admitted, ControllerEffect, Noted, Say
from fedskd_sim.ring.routes import (
    NO_RETURN,
    NOBODY,
    Back,
    LostHospitals,
    Returns,
    code,
    decoded,
    epoch,
)
from fedskd_sim.ring.topology import Topology


@dataclass(frozen=True, slots=True)
class RegistrarState:
    """What the controller must remember."""

    registered: Mapping[str, Register] = field(default_factory=dict)
    done: frozenset[str] = frozenset()
    suspected: End | None = None
    """How the run will end unless a better cause is told soon: others wait in vain for the same
    culprit, some nearer to it."""
    ended: End | None = None
    lost: LostHospitals = field(default_factory=lambda: NOBODY)
    """Hospitals that are or were lost; see `fedskd_sim.ring.routes`."""
    back: Returns = field(default_factory=lambda: NO_RETURN)
    """Their returns, those too of which not all have heard."""
    admitted: frozenset[str] = frozenset()
    """Those who have been told that they are back."""
    asking: str = ""
    """Whose return this controller has asked about last."""
    holds: Mapping[str, int] = field(default_factory=dict)
    """The epoch that each hospital is known to have in custody."""
    opened: bool = False
    """The address book has left."""
    round: int = 0
    """The last round of which a hospital has told."""
    told: Mapping[str, int] = field(default_factory=dict)
    """... and that each of them has told of."""
    far: int = 0
    """The last round that a hospital is known to have begun."""

    @property
    def away(self) -> frozenset[str]:
        """Hospitals without which the ring goes on."""
        return frozenset(
            name for name in self.lost if (back := self.back.get(name)) is None or back.away
        )

    @property
    def asked(self) -> frozenset[str]:
        """Hospitals whose return the others are asked to take in."""
        return frozenset(self.back) - self.away - self.admitted

    @property
    def returned(self) -> Returns:
        """Returns that are facts: of which all that are left have known, or that are over."""
        return {name: back for name, back in self.back.items() if name not in self.asked}

    @property
    def rejoining(self) -> frozenset[str]:
        """Hospitals that are not, or not yet, of the ring."""
        return self.away | self.asked

    @property
    def epoch(self) -> int:
        """The number of the present epoch."""
        return epoch(self.lost, self.back)

    @property
    def word(self) -> Epoch:
        """Return the word of who is lost and who is back."""
        texts = {
            name: f"{retires} {code(self.back[name])}" if name in self.back else f"{retires}"
            for name, retires in self.lost.items()
        }
        return Epoch(self.epoch, texts)

    def book(self, epoch: int) -> Start:
        """Return the address book."""
        addresses = {name: entry.address for name, entry in self.registered.items()}
        keys = {name: entry.public_key for name, entry in self.registered.items()}
        return Start(epoch, addresses, keys)


ControllerTurn = tuple[RegistrarState, list[ControllerEffect]]
EARLIEST = 2
"""Nobody comes back in the first round: a model that travels has set out in it."""
MayReturn = Callable[[str], bool | None]
"""Tells of a lost hospital that was heard whether it is the one that was lost, with all that it
had: a stranger in its place would begin anew. None: that cannot be seen now."""


def next_round(state: RegistrarState, ring: Topology, name: str) -> int | None:
    """Return the round from which on a hospital could be back; None if there is none: the last one
    in which models train is the last one.
    """
    before = state.back[name].round if name in state.back else 0
    chosen = max(state.round, state.far, before, EARLIEST - 1) + 1
    return chosen if ring.pattern == "circulation" and chosen <= ring.rounds else None


def left_behind(name: str, epoch: int) -> End:
    """Refuse a hospital for good: it will not be taken in again."""
    return End(epoch, LeftBehind.exit_code, f"the run goes on without {name!r}")


def anyone(name: str) -> bool:  # noqa: ARG001 - whoever it is
    """Return true for everybody who wants to come back; a `MayReturn`."""
    return True


def on_rejoining(
    state: RegistrarState, message: ToController, ring: Topology, may_return: MayReturn
) -> ControllerTurn:
    """Answer a hospital that is lost that it is, or that it cannot come back; once it knows, and
    nobody else comes back just now, ask the others.

    One return is asked for at a time; whoever else wants to come back tries again.
    """
    name, effects = message.hospital, list[ControllerEffect]()
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


def ask(state: RegistrarState, name: str, round_: int, ring: Topology) -> ControllerTurn:
    """Ask all that are left to take in from when on a rejoining hospital is back, and where it is.

    They answer with `Holds`, see `hear`; until all have, the rejoining one is not told.
    """
    back = {**state.back, name: Back(round_)}
    state = replace(state, back=back, admitted=state.admitted - {name}, asking=name)
    left = [one for one in state.registered if one not in state.away and one != name]
    books: list[ControllerEffect] = [Say(one, state.book(ring.epoch)) for one in left]
    return state, [*books, *(Say(one, state.word) for one in left)]


def hear(
    state: RegistrarState, word: Holds, ring: Topology, may_return: MayReturn
) -> ControllerTurn:
    """Hear that a hospital has an epoch, or cannot take it in.

    When the last of those that are left has it, the rejoining one is admitted, if it still may;
    where one has come too far, the return is called off. In all other cases the state changes and
    nothing is said.
    """
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
    """Return whether a hospital that this controller takes for lost knows that it is back: one
    before it has told it so, and did not live to note it.
    """
    if not isinstance(word, Alive) or word.lost != word.hospital:
        return False
    back = decoded(word.back)
    return back is not None and not back.away and word.back > code(state.back.get(word.hospital))


def knows_itself(state: RegistrarState, word: Alive) -> ControllerTurn:
    """Learn from a hospital that it is back, where a controller before this one has told it so."""
    name, back = word.hospital, state.back.get(word.hospital)
    if word.lost != name or back is None or back.away or code(back) != word.back:
        return state, []
    told: list[ControllerEffect] = [Admitted(state.epoch, name, back.round)]
    return (
        replace(state, admitted=state.admitted | {name}),
        [] if name in state.admitted else told,
    )


def called_off(state: RegistrarState, names: Collection[str]) -> Returns:
    """Return the returns without those that came to nothing, or are over."""
    ended = {name: Back(state.back[name].round, away=True) for name in names}
    return {**state.back, **ended}


def call_off(state: RegistrarState, names: Collection[str]) -> ControllerTurn:
    """Inform all that some returns came to nothing.

    The rejoining one may ask again, for a later round.
    """
    state = replace(state, back=called_off(state, names))
    return state, [Say(name, state.word) for name in state.registered]


def admit(state: RegistrarState, ring: Topology) -> ControllerTurn:
    """Answer the rejoining one that it is back, and where the others are."""
    (name,) = state.asked
    told: list[ControllerEffect] = [Say(name, state.word), Say(name, state.book(ring.epoch))]
    admitted = Admitted(state.epoch, name, state.back[name].round)
    return replace(state, admitted=state.admitted | {name}), [admitted, *told]


LONGEST = 1000
"""Characters of all lines; a message has room for so many, whatever they are."""
READER = "reader "
ROWS = ": "
"""What stands between a reader and a column that it gives."""
SAMPLES = "samples"
"""The line with digests of samples."""
MOST, BYTES = 64, 8
"""So many digests of so many bytes are told: of more samples the smallest, which are the same ones
at every hospital. Of a share s of all that two have, one is found with 1 - (1 - s) ** `MOST`."""
FIX = (
    "give all hospitals the same image (images.hospital of the chart's values). Where they share a "
    "data set, give them the same files in the same order. Name differently what shall differ"
)


def text_of(code: Mapping[str, str]) -> str:
    """Write digests of code, by what it is, as a hospital tells them. Many are told as one, but for
    readers, which may be the hospital's own.
    """
    if len(lines := _lines(code)) <= LONGEST:
        return lines
    readers = {name: digest for name, digest in code.items() if name.startswith(READER)}
    shared = _lines({name: digest for name, digest in code.items() if name not in readers})
    return _lines({**readers, "code": sha256(shared.encode()).hexdigest()[:16]})


def told_of_samples(samples: Iterable[bytes], salt: str) -> str:
    """Write digests of samples as a hospital tells them, salted with the run; empty without any."""
    salted = sorted(sha256(salt.encode() + one).digest()[:BYTES] for one in samples)
    return f"\n{SAMPLES} {b64encode(b''.join(salted[:MOST])).decode()}" * bool(salted)


def _lines(code: Mapping[str, str]) -> str:
    return "\n".join(f"{name} {digest}" for name, digest in sorted(code.items()))


def difference(one: Register, others: Iterable[Register]) -> str:
    """Describe in what a hospital's code differs from that of the first that has another; empty
    where it does from none.
    """
    own = _digests(one.computes)
    for other in others:
        for name, theirs in _digests(other.computes).items():
            if own.get(name, theirs) != theirs:
                what = (
                    "other rows" if name.startswith(READER) and ROWS in name else "different code"
                )
                return (
                    f"the {name} of {one.hospital!r} is {own[name]}, that of {other.hospital!r} is "
                    f"{theirs}: they compute with {what}"
                )
        same = one.hospital == other.hospital
        if not same and (twice := _samples(one.computes) & _samples(other.computes)):
            return (
                f"{one.hospital!r} and {other.hospital!r} have the same samples under the same ids:"
                f" {len(twice)} of those that were compared"
            )
    return ""


def _samples(text: str) -> set[bytes]:
    """Read the digests of samples that a hospital has told; a text that is none has none."""
    told = "".join(line for line in text.splitlines() if line.startswith(f"{SAMPLES} "))
    try:
        data = b64decode(told.removeprefix(f"{SAMPLES} ").encode(), validate=True)
    except ValueError:
        return set()
    return {data[at : at + BYTES] for at in range(0, len(data) - BYTES + 1, BYTES)}


def _digests(text: str) -> dict[str, str]:
    parted = (line.rpartition(" ") for line in text.splitlines())
    return {name: digest for name, _, digest in parted if name != SAMPLES}
