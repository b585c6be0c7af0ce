"""What a hospital must remember: all that a restart needs besides its learner's state and the
weights in custody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from fedskd_sim.messages import HopId
from fedskd_sim.protocol.events import Model, Overdue, Timer, Unanswered
from fedskd_sim.routes import NO_RETURN, NOBODY, Lost, Returns, Routes, epoch
from fedskd_sim.scenario import Scenario
from fedskd_sim.topology import Stop, Topology

REGISTER_AGAIN_S = 5.0
RECENT = 8
"""Of so many models that were hosted last the digests are kept, to tell a repeat from another model
under the same hop."""
Key = TypeVar("Key")
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
    """A session that is forgotten and done again gives the same bytes; where it does not, its
    result is safe before it leaves."""

    @property
    def register_again(self) -> float:
        """Seconds after which who was not let in asks again; where somebody watches for signs of
        life, often enough to be one: the word that would have let it in may be lost. A guest
        gives signs of life besides.
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
            all(one.device == "cpu" for one in scenario.hospitals),
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
    """The state of a hospital's machine."""

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
    lost: Lost = NOBODY
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
        """Give the ways that models take now."""
        return Routes(topology, self.lost, self.back)

    def is_past(self, timer: Timer) -> bool:
        """Tell whether what a timer was set for is over, so that it changes nothing."""
        match timer:
            case Overdue(cursor, number):
                return cursor != self.cursor or number != self.epoch
            case Unanswered(hop, attempt):
                departure = self.outbox.get(hop)
                return departure is None or departure.attempt != attempt
        return False


def without(items: Mapping[Key, Value], key: Key) -> dict[Key, Value]:
    """Copy a mapping but for one key."""
    return {name: value for name, value in items.items() if name != key}
