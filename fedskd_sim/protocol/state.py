"""What a hospital must remember: all that a restart needs besides its learner's state and the
weights in custody, also as plain values for custody, without what begins anew with a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from fedskd_sim.messages import HopId
from fedskd_sim.protocol.events import Model, Overdue, Timer, Unanswered
from fedskd_sim.ring.routes import (
    NO_RETURN,
    NOBODY,
    LostHospitals,
    Returns,
    Routes,
    code,
    decoded,
    epoch,
)
from fedskd_sim.ring.topology import Stop, Topology
from fedskd_sim.scenario import Scenario

REGISTER_AGAIN_S = 5.0
RECENT = 8
"""Of so many models that were hosted last the digests are kept, to tell a repeat from another model
under the same hop."""
KeyType = TypeVar("KeyType")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Terms:
    """What a hospital may wait for, in seconds, and how much it takes in; see
    `fedskd_sim.scenario.schema.Timeouts`.
    """

    run: str
    register: float
    hop: float
    acknowledgement: float
    retry: float
    goodbye: float
    inbox: int
    max_rollbacks: int
    heals: bool = False
    """The ring goes on without a hospital that is lost."""
    beat: float = 0.0
    """Seconds between two signs of life; 0: nobody asks for them."""
    repeatable: bool = True
    """A session that is forgotten and done again gives the same bytes; where it does not, or where
    it may leave once only since its noise is secret, its result is safe before it leaves."""

    @property
    def register_again(self) -> float:
        """Seconds after which who was not let in asks again; where somebody watches for signs of
        life, often enough to be one: the word that would have let it in may be lost. A
        rejoining hospital gives signs of life besides.
        """
        return min(REGISTER_AGAIN_S, self.beat) if self.beat else REGISTER_AGAIN_S

    @classmethod
    def of(cls, scenario: Scenario, run: str) -> Terms:
        """Read them from the scenario."""
        waits = scenario.timeouts
        return cls(
            run, waits.register_ + waits.goodbye, waits.hop, waits.acknowledgement, waits.retry,
            waits.goodbye, scenario.network.inbox, scenario.training.max_rollbacks,
            scenario.on_loss.heals, scenario.on_loss.beat,
            all(one.device == "cpu" and not one.privacy_is_secret for one in scenario.hospitals),
        )  # fmt: skip


class Departure(NamedTuple):
    """A model that is on its way: to whom, the number of the last attempt, and the seconds
    without an answer before that.
    """

    to: str
    model: Model
    attempt: int = 1
    silent: float = 0.0


NOTHING: Mapping[Any, Any] = MappingProxyType({})


class State(NamedTuple):
    """The state of a hospital's machine.

    >>> hop = HopId("run", 1, "a", 1, 1)
    >>> state = State(cursor=3, waiting={hop: Model(7, "d1")})
    >>> parse(dump(state)) == state
    True
    >>> handles(state)
    {7: Model(number=7, digest='d1')}

    """

    cursor: int = 0
    """Index of the step that is next or under way."""
    again: bool = False
    """This is not its first life: others may have models that it has forgotten to have sent on."""
    joined: bool = False
    """The address book is here."""
    working: bool = False
    """The step at the cursor is under way."""
    released: bool = False
    """... and what goes on from it has left."""
    parting: tuple[Stop, Model] | None = None
    """... or will leave when the step has ended, to where: where it could not be made again."""
    waiting: Mapping[HopId, Model] = NOTHING
    """Models that are safe here and whose step has not ended."""
    deferred: Mapping[HopId, str] = NOTHING
    """Models that were told to wait with their senders, and who these are."""
    outbox: Mapping[HopId, Departure] = NOTHING
    """Models that have left and are not yet safe elsewhere."""
    recent: Mapping[HopId, str] = NOTHING
    """Digests of the models that were hosted last."""
    kept: Mapping[HopId, Departure] = NOTHING
    """Models that are safe elsewhere, but not yet one host further: if that one is lost, they go on
    from here."""
    lost: LostHospitals = NOBODY
    """Hospitals without which the ring goes on, or went on for a while."""
    back: Returns = NO_RETURN
    """... and from when on those are back."""
    beats: bool = False
    """This life gives signs of life."""
    rollbacks: int = 0
    """Sessions in a row that were undone."""
    done: bool = False
    """The program is over, and the controller has been told."""
    asked: int = 0
    """... and asked again so often whether the run goes on."""
    unanswered: int = 0
    """... and so often in a row without an answer."""
    ended: bool = False
    """The controller has ended the run well."""
    over: bool = False
    """It has left or failed: nothing more happens."""

    @property
    def epoch(self) -> int:
        """The number of the epoch that is known here."""
        return epoch(self.lost, self.back)

    def routes(self, topology: Topology) -> Routes:
        """Return the ways that models take now.

        Whatever asks where a model goes, or who sends it, asks these and not the topology.
        """
        return Routes(topology, self.lost, self.back)

    def is_past(self, timer: Timer) -> bool:
        """Return whether what a timer was set for is over, so that it changes nothing."""
        match timer:
            case Overdue(cursor, number):
                return cursor != self.cursor or number != self.epoch
            case Unanswered(hop, attempt):
                departure = self.outbox.get(hop)
                return departure is None or departure.attempt != attempt
        return False


def without(items: Mapping[KeyType, Value], key: KeyType) -> dict[KeyType, Value]:
    """Copy a mapping but for one key.

    >>> without({"a": 1, "b": 2}, "a")
    {'b': 2}

    """
    return {name: value for name, value in items.items() if name != key}


def dump(state: State) -> dict[str, Any]:
    """Write a state as values that JSON has; of models their handles' numbers.

    What begins anew in the next life is left out: joined, working, timers, words to the controller.
    """
    return {
        "cursor": state.cursor,
        "rollbacks": state.rollbacks,
        "waiting": [[*hop, model.number, model.digest] for hop, model in state.waiting.items()],
        "outbox": _dump_departures(state.outbox),
        "kept": _dump_departures(state.kept),
        "recent": [[*hop, digest] for hop, digest in state.recent.items()],
        "lost": dict(state.lost),
        "back": {name: code(back) for name, back in state.back.items()},
    }


def parse(values: Mapping[str, Any]) -> State:
    """Read what `dump` has written.

    Raises:
        ValueError, TypeError, KeyError: it is something else.

    """
    size = len(HopId._fields)
    waiting = {_hop(entry[:size]): _model(*entry[size:]) for entry in values["waiting"]}
    recent = {_hop(entry[:size]): str(entry[size]) for entry in values["recent"]}
    return State(
        cursor=int(values["cursor"]),
        rollbacks=int(values["rollbacks"]),
        waiting=waiting,
        outbox=_departures(values["outbox"]),
        recent=recent,
        kept=_departures(values.get("kept", ())),
        lost={str(name): int(round_) for name, round_ in values.get("lost", {}).items()},
        back={
            str(name): back
            for name, number in values.get("back", {}).items()
            if (back := decoded(int(number)))
        },
    )


def handles(state: State) -> dict[int, Model]:
    """Return the models that a state speaks of, by their numbers.

    Custody has to keep the files of these.
    """
    models = [
        *state.waiting.values(),
        *(one.model for one in (*state.outbox.values(), *state.kept.values())),
        *(state.parting or ())[1:],
    ]
    return {model.number: model for model in models}


def _dump_departures(departures: Mapping[HopId, Departure]) -> list[list[Any]]:
    return [[*hop, to, model.number, model.digest] for hop, (to, model, *_) in departures.items()]


def _departures(entries: Iterable[list[Any]]) -> dict[HopId, Departure]:
    size = len(HopId._fields)
    return {
        _hop(entry[:size]): Departure(str(entry[size]), _model(*entry[size + 1 :]))
        for entry in entries
    }


def _hop(values: list[Any]) -> HopId:
    run, epoch, model, round_, hop = values
    return HopId(str(run), int(epoch), str(model), int(round_), int(hop))


def _model(number: Any, digest: Any) -> Model:
    return Model(int(number), str(digest))
