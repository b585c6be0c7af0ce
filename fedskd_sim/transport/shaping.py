"""What the links of a scenario do to messages, in real and in simulated time; pure.

A message is a whole model or a word. It is lost, held back, repeated and delayed as a draw says
that depends on the scenario's seed, the link and the message's number among the models or words of
that link, never on time. Of a link with a bandwidth messages leave one after the other, and nothing
overtakes but what is to.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import inf
from random import Random
from typing import Generic, NamedTuple, TypeVar

from fedskd_sim.scenario import Conditions, Scenario, rule_of
from fedskd_sim.seeds import seed

WORD_BYTES = 100
"""What a word counts as."""
What = TypeVar("What")


class Passage(NamedTuple):
    """One copy of a message: when its first and last byte arrive, in seconds of the clock by which
    it was sent, and at which share of its bytes one is another then (None: nowhere).
    """

    begins: float
    ends: float
    flip: float | None = None


class _Copy(NamedTuple, Generic[What]):
    what: What
    size: int
    delay: float
    flip: float | None


@dataclass
class ShapedLine(Generic[What]):
    """A link from one member to another, and what is on its way there."""

    conditions: Conditions
    names: tuple[int, str, str]
    """What all its draws derive from."""
    started: float = 0.0
    """When the run has started, from which outages count; before it there is none."""
    _free: float = 0.0
    """When all that was said before has left."""
    _latest: float = 0.0
    """... and has arrived."""
    _numbers: Counter[str] = field(default_factory=Counter)
    _held: list[_Copy[What]] = field(default_factory=list)

    def carry(self, now: float, what: What, size: int | None = None) -> list[tuple[Passage, What]]:
        """Return what arrives because of a message that is sent now, in order: nothing, or copies
        of it, and what was held back until it came.

        Args:
            now: the present moment, in seconds of any clock, always the same one.
            what: the message.
            size: a model's bytes; None: it is a word.

        """
        asked, kind = self.conditions, "word" if size is None else "model"
        self._numbers[kind] += 1
        number, purpose = self._numbers[kind], (asked.seed, *self.names[1:], kind)
        draw = Random(seed(self.names[0], "link", *purpose, number))  # noqa: S311 - no secret
        shares = (asked.loss, asked.repeat, asked.reorder)
        lost, twice, waits = (draw.random() < share for share in shares)
        copies = [self._copy(draw, what, size) for _ in range(1 + twice)]
        if waits and not self._held and not lost:
            self._held = copies
            return []
        before, self._held = self._held, []
        through = [self._pass(now, copy, lost=lost) for copy in copies]
        through += [self._pass(now, copy) for copy in before]
        return [one for one in through if one]

    def _copy(self, draw: Random, what: What, size: int | None) -> _Copy[What]:
        delay = self.conditions.delay + draw.uniform(-1, 1) * self.conditions.jitter
        broken, place = draw.random() < self.conditions.corrupt, draw.random()
        flip = place if broken and size is not None else None
        return _Copy(what, WORD_BYTES if size is None else size, delay, flip)

    def _pass(
        self, now: float, copy: _Copy[What], *, lost: bool = False
    ) -> tuple[Passage, What] | None:
        """Send a copy behind what was said before; None if it does not arrive."""
        leaves, rate = max(now, self._free), self.conditions.rate
        takes = copy.size / rate if rate else 0.0
        self._free = leaves + takes
        begins = max(leaves + copy.delay, self._latest)
        if lost or self._cut(leaves, begins + takes):
            return None
        self._latest = begins + takes
        return Passage(begins, self._latest, copy.flip), copy.what

    def _cut(self, leaves: float, arrives: float) -> bool:
        """Return whether the link is cut while a copy is under way."""
        begin, end = leaves - self.started, arrives - self.started
        return any(one.meets(begin, end) for one in self.conditions.partition)


@dataclass
class Shaping(Generic[What]):
    """The links of a scenario."""

    scenario: Scenario
    _started: float = inf
    _lines: dict[tuple[str, str], ShapedLine[What] | None] = field(default_factory=dict)

    def begin(self, moment: float) -> None:
        """Note when the run has started, by the clock by which messages are sent; later calls
        change nothing.
        """
        if self._started < inf:
            return
        self._started = moment
        for line in self._lines.values():
            if line:
                line.started = moment

    def line(self, sender: str, to: str) -> ShapedLine[What] | None:
        """Return the link from one member to another; None where messages pass undisturbed, as the
        controller's do where no rule names it.
        """
        if (sender, to) not in self._lines:
            rule = rule_of(self.scenario.links, sender, to)
            names = (self.scenario.seed, sender, to)
            line: ShapedLine[What] | None = None
            if rule:
                line = ShapedLine(rule.conditions, names, self._started)
            self._lines[sender, to] = line
        return self._lines[sender, to]
