"""What happened in a run besides its results: what its algorithm is, with which settings, by
which command, and how it ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

from fedskd_sim import clock
from fedskd_sim.observe.outcome import Outcome
from fedskd_sim.observe.words import amount, duration
from fedskd_sim.scenario import Loaded, Scenario

NO_CARDS: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Account:
    """A run's scenario, and what is known of its end; None where nobody has noted it."""

    scenario: Scenario
    outcome: Outcome | None
    in_vain: tuple[str, ...] = ()
    """Keys of the scenario that have no effect, and why."""

    @classmethod
    def of(cls, loaded: Loaded, outcome: Outcome | None) -> Self:
        """Make the account of a run of a scenario's file."""
        told = (
            f"line {where.line}: {text}" if where.line else text
            for text, where in loaded.idle.items()
        )
        return cls(loaded.scenario, outcome, tuple(told))

    @property
    def failed(self) -> bool:
        """Tell whether it is known not to have ended well."""
        return self.outcome is not None and self.outcome.state in ("failed", "stopped")

    @property
    def strange(self) -> bool:
        """Tell whether the first that is to be read is how it ended."""
        return self.failed or bool(self.outcome and self.outcome.reason)

    @property
    def words(self) -> str:
        """Say what the algorithm does, and how the run ended."""
        disturbed = ", disturbed on purpose" if self.scenario.disturbed else ""
        ended = f" The run: {self.outcome.words}{disturbed}." if self.outcome else ""
        return f"{self.scenario.algorithm.name}: {self.scenario.algorithm.words}{ended}"

    def rows(
        self, peaks: Mapping[str, int], runtime: str, cards: Mapping[str, int] = NO_CARDS
    ) -> Iterator[tuple[str, str]]:
        """Give name and value of everything there is to tell.

        Args:
            peaks: the largest resident memory of every hospital's process, in bytes.
            runtime: where the run was: in ``memory`` all hospitals share one process.
            cards: the most that these processes have taken of a card's memory; those that have.

        """
        yield "algorithm", self.scenario.algorithm.name
        yield (
            "its settings",
            settings(
                self.scenario.algorithm.model_dump(mode="json", by_alias=True, exclude={"name"})
            ),
        )
        yield "training", settings(self.scenario.training.model_dump(mode="json", by_alias=True))
        if self.in_vain:
            yield "keys without effect", "; ".join(self.in_vain)
        if self.scenario.faults:
            yield "faults on purpose", self.scenario.faults_in_words
        if self.scenario.links:
            yield "links", self.scenario.links_in_words
        if self.outcome:
            yield from _facts(self.outcome)
        for name, known in (("peak memory", peaks), ("peak GPU memory", cards)):
            if any(known.values()):
                yield name, _largest(known, runtime)


def _largest(known: Mapping[str, int], runtime: str) -> str:
    """Say who took most memory, of bytes by hospital."""
    largest = max(known, key=lambda name: known[name])
    if runtime == "memory":
        return f"{amount(known[largest])} in the one process of all hospitals"
    return f"{amount(known[largest])} in the process of {largest}, the largest"


def _facts(outcome: Outcome) -> Iterator[tuple[str, str]]:
    for command in outcome.commands:
        yield "command", command
    yield "outcome", outcome.words
    yield "started", clock.stamp(outcome.started)
    if outcome.ended:
        yield "ended", clock.stamp(outcome.ended)
        yield "duration", duration(outcome.ended - outcome.started)
    for name, value in (
        ("who failed", outcome.culprit),
        ("reason", outcome.reason),
        ("fix", outcome.fix),
    ):
        if value:
            yield name, value


def settings(values: Mapping[str, Any], under: str = "") -> str:
    """Write nested settings in one line: ``rounds 2, similarity.batch 0.1``."""
    written = (
        settings(value, f"{under}{name}.")
        if isinstance(value, dict) and value
        else f"{under}{name} {_plain(value)}"
        for name, value in values.items()
    )
    return ", ".join(written)


def _plain(value: Any) -> str:
    return (
        {True: "yes", False: "no", None: "default"}[value]
        if value is None or isinstance(value, bool)
        else str(value)
    )
