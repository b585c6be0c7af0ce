"""What a log can say of the lives of a hospital: how they begin and end, and what strikes it; and
how the controller's ended.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedskd_sim.records import Place

UNWATCHED = "nobody can be declared lost any more: who dies now ends the run"
"""What the death of the controller means where the ring would go on without who is lost."""


@dataclass(frozen=True, slots=True)
class Starting:
    """A hospital's process is up."""


@dataclass(frozen=True, slots=True)
class Restarted:
    """A hospital that died is started again, for the time ``number`` in a row without a record
    in between; and how it died.
    """

    number: int
    cause: str


@dataclass(frozen=True, slots=True)
class ControllerDied:
    """The controller has died without a word after the start, and how: the models go on;
    ``watched``: it was to declare hospitals lost, and nobody is any more.
    """

    cause: str
    watched: bool = False


@dataclass(frozen=True, slots=True)
class AwaitsCustody:
    """A hospital waits for its custody to be brought into its pod ("in"), or out of it ("out")."""

    direction: str


@dataclass(frozen=True, slots=True)
class WentOn:
    """A hospital goes on from what it had in custody, with so many of its steps done."""

    steps: int
    of: int


@dataclass(frozen=True, slots=True)
class Fault:
    """Something goes wrong as the scenario wants it: before or, where it has a time, within a step
    of a round and hop (hop 0: one that is no stop, round 0: before the first round); ``lasts`` are
    the seconds for which it is to last, by the hospital's own clock, None where it has none.
    """

    what: str
    round: Place = 0
    hop: Place = 0
    lasts: float | None = None
