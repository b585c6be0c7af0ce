"""A short run before a long one: every model goes through every hospital with a few batches of the
real data, and what that took says what the whole run will take.

The short run is the scenario with a few batches a pass and `ROUNDS` rounds, by the runtime that
the long one will have: architectures that do not fit each other and data that cannot be read end
it. Its first round pays for what is done once, so the second is what counts; the larger and the
smaller of both are the ends of the forecast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import NamedTuple

from fedskd_sim.canary.measured import ROUNDS, Measured, Part, changes, size_of
from fedskd_sim.errors import CanaryFailed, FedskdError
from fedskd_sim.observe.words import amount, duration
from fedskd_sim.scenario import Scenario
from fedskd_sim.world.forecast import forecast

__all__ = ["ROUNDS", "Findings", "Gauge", "Measured", "Room", "changes", "find"]
SPARE_MEMORY = 0.05
"""The share of the machine's memory that must have stayed free."""


class Room(NamedTuple):
    """What the place has, in bytes: memory in all and free, free disk, and of each card on which a
    hospital computes its memory in all and free.
    """

    memory: int
    free_memory: int
    free_disk: int
    cards: Mapping[str, tuple[int, int]] = MappingProxyType({})


@dataclass
class Gauge:
    """Watches what a short run takes of the place: called with every event of its logs, it keeps
    the least memory that was free, of cards too, and the most that custody held.

    ``look`` measures the place, ``custody`` is where hospitals keep what they need to go on.
    """

    look: Callable[[], Room]
    custody: Path
    least: int = field(init=False)
    least_of_cards: dict[str, int] = field(init=False)
    kept: int = 0

    def __post_init__(self) -> None:
        """Measure the place before the short run: what is free then, the whole run may use."""
        self.before = self.look()
        self.least = self.before.free_memory
        self.least_of_cards = {name: free for name, (_, free) in self.before.cards.items()}

    def __call__(self, _: object = None) -> None:
        """Measure the place again, when a hospital has logged something."""
        now = self.look()
        self.least = min(self.least, now.free_memory)
        for name, (_, free) in now.cards.items():
            self.least_of_cards[name] = min(self.least_of_cards[name], free)
        self.kept = max(self.kept, size_of(self.custody))


@dataclass(frozen=True)
class Findings:
    """What a short run says of the whole one, which will take ``usual`` seconds, between
    ``at_least`` and ``at_most``; sizes in bytes.
    """

    seconds: float
    """What the short run itself took."""
    usual: float
    at_least: float
    at_most: float
    sent: int
    stored: int
    memory: int
    """How much less memory was free."""
    room: Room
    cards: Mapping[str, int]
    """How much less memory of each card was free."""
    hospitals: tuple[Part, ...]
    problems: tuple[FedskdError, ...]

    @property
    def good(self) -> bool:
        """Tell whether the run may begin."""
        return not self.problems

    def lines(self) -> Iterator[str]:
        """Write for people what was found: times, sizes, the slowest hospital, and whether it is
        good.
        """
        yield f"canary: {ROUNDS} short rounds took {duration(self.seconds)}"
        width = max(len(one.name) for one in self.hospitals)
        for one in self.hospitals:
            memory = amount(one.peak) + (f", {amount(one.card)} of a card" if one.card else "")
            yield f"  {one.name:<{width}}  {duration(one.session)} a session, {memory}"
        yield (
            f"whole run: about {duration(self.usual)} ({duration(self.at_least)} to "
            f"{duration(self.at_most)}), {amount(self.sent)} sent, {amount(self.stored)} on disk "
            f"({amount(self.room.free_disk)} free)"
        )
        yield (
            f"memory: {amount(self.memory)} of the {amount(self.room.free_memory)} that were free"
        )
        for name, taken in self.cards.items():
            yield (
                f"memory of {name}: {amount(taken)} of the {amount(self.room.cards[name][1])} that "
                f"were free"
            )
        slowest = max(self.hospitals, key=lambda one: one.session)
        others = [one.session for one in self.hospitals if one is not slowest]
        times = slowest.session / median(others) if others and median(others) else 1.0
        yield f"slowest: {slowest.name}, {times:.1f} times the others' session"
        yield f"canary: {'good' if self.good else 'not good'}"

    def check(self) -> None:
        """Do nothing where all is good.

        Raises:
            CanaryFailed: the first problem, with the others listed under it.

        """
        if self.problems:
            first = self.problems[0]
            first.others = self.problems[1:]
            raise first


def find(measured: Measured, short: Scenario, gauge: Gauge, *, at_once: bool) -> Findings:
    """Forecast the whole run from its short run.

    Args:
        measured: what the short run was like.
        short: its scenario.
        gauge: has watched it.
        at_once: hospitals work beside each other; else one after the other, in one process.

    """
    scenario = measured.scenario
    usual, least, most = (
        forecast(scenario, measured.cost(choose), measured.delay) for choose in (last, min, max)
    )
    itself = forecast(short, replace(measured, short=True).cost(last), measured.delay)
    around, beside = measured.between(itself.seconds if at_once else itself.work)
    seconds = [
        around + beside * measured.steps + (one.seconds if at_once else one.work)
        for one in (usual, least, most)
    ]
    room, stored = gauge.before, measured.stored(gauge.kept)
    return Findings(
        measured.seconds,
        seconds[0],
        min(seconds),
        max(seconds),
        measured.sent,
        stored,
        max(0, room.free_memory - gauge.least),
        room,
        {name: max(0, free - gauge.least_of_cards[name]) for name, (_, free) in room.cards.items()},
        tuple(measured.hospitals),
        tuple(_problems(usual.error if at_once else None, stored, gauge)),
    )


def last(seconds: tuple[float, ...]) -> float:
    """Choose what a step took in the last round."""
    return seconds[-1]


def _problems(end: FedskdError | None, stored: int, gauge: Gauge) -> Iterator[FedskdError]:
    room = gauge.before
    if end:
        text = f"the whole run would end with exit code {end.exit_code}: {end.message}"
        yield CanaryFailed(text, fix=end.fix, key=end.key)
    if stored > room.free_disk:
        yield CanaryFailed(
            f"the whole run keeps {amount(stored)} and {amount(room.free_disk)} are free",
            fix="make room, or give an --out with more of it",
        )
    if gauge.least < SPARE_MEMORY * room.memory:
        yield CanaryFailed(
            f"{amount(gauge.least)} of {amount(room.memory)} of memory were left",
            fix="use a machine with more memory, or smaller models and batches",
        )
    for name, (whole, _) in room.cards.items():
        if (least := gauge.least_of_cards[name]) < SPARE_MEMORY * whole:
            yield CanaryFailed(
                f"{amount(least)} of {amount(whole)} of {name}'s memory were left",
                fix="use a smaller training.batch_size, or let fewer hospitals share the card",
            )
