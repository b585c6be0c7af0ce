"""Whatever happens in whatever order, a run ends as if it had not: Hypothesis chooses, and
shrinks what it finds.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from nights import NIGHT
from symbols import SHAPES, Run, lived, prepared, scenario_of
from weather import OneDeath

from fedskd_sim.protocol.effects import Effect, Persist, Reply
from fedskd_sim.protocol.events import Event, Goodbye, Overdue, TooLate, Unanswered
from fedskd_sim.protocol.machine import HospitalMachine, Turn
from fedskd_sim.protocol.state import State
from fedskd_sim.scenario import Scenario
from fedskd_sim.world.world import Weather

Item = tuple[float, int, Any, Any]
HURRIED = 10
"""How many retries may come before their time; each makes the next one wait twice as long."""
TOGETHER = 20
"""How many things that are about to happen a rule may choose from, and how many it lets happen at
most."""


@cache
def undisturbed(shape: str, size: int, held_out: int) -> tuple[Scenario, Run]:
    """Give a scenario and its run in fair weather."""
    with TemporaryDirectory() as folder:
        scenario = scenario_of(Path(folder), shape, size=size, held_out=held_out)
    return scenario, lived(scenario, OneDeath())


class Fate(Weather):
    """Weather in which a hospital dies before its next effect when it was told to."""

    persists = True
    away = None

    def __init__(self) -> None:
        self.doomed: set[str] = set()

    def copies(self, sender: str, to: str) -> Iterator[float]:  # noqa: ARG002 - as weather has it
        yield 0.05

    def kills(self, name: str, effect: Effect) -> bool:  # noqa: ARG002 - as weather has it
        dies = name in self.doomed
        self.doomed.discard(name)
        return dies

    def disk(self) -> float:
        return 0.0


def kind_of(happen: Any) -> str:
    """Tell what an entry of the agenda is: a message, a timer that ends something, one that
    sends again, or anything else.
    """
    if happen.func.__name__ == "_arrives":
        return "message"
    inner = happen.args[-1] if happen.func.__name__ == "_lives" else None
    event = inner.args[0] if isinstance(inner, partial) and inner.args else None
    return (
        "last"
        if isinstance(event, Overdue | TooLate | Goodbye)
        else "retry"
        if isinstance(event, Unanswered)
        else "other"
    )


class AnyOrder(RuleBasedStateMachine):
    """A world whose agenda is no order any more."""

    hospital: type[HospitalMachine] = HospitalMachine

    def __init__(self) -> None:
        super().__init__()
        self.run: Run | None = None
        self.hurried = 0

    @initialize(
        shape=st.sampled_from(sorted(SHAPES)), size=st.integers(2, 4), held_out=st.integers(0, 1)
    )
    def begin(self, shape: str, size: int, held_out: int) -> None:
        self.scenario, self.undisturbed = undisturbed(shape, size, held_out)
        self.fate = Fate()
        self.run = prepared(self.scenario, self.fate, self.hospital)
        self.world = self.run.world

    def items(self, *kinds: str) -> list[Item]:
        """List what may happen now: messages in any order, of what a hospital hands itself only
        the first.
        """
        found: list[Item] = []
        busy = set()
        for item in sorted(self.world._agenda):
            kind, inside = kind_of(item[2]), item[2].args[0]
            if kind in kinds and not (kind == "other" and id(inside) in busy):
                found.append(item)
            if kind == "other":
                busy.add(id(inside))
        return found[:TOGETHER]

    def take(self, item: Item) -> None:
        self.world._agenda.remove(item)
        heapq.heapify(self.world._agenda)

    def possible(self) -> list[Item]:
        return self.items("message", "other", *(["retry"] if self.hurried < HURRIED else []))

    def going_on(self) -> bool:
        return not self.world.over and bool(self.possible())

    def messages(self) -> bool:
        return not self.world.over and bool(self.items("message"))

    @precondition(going_on)
    @rule(choices=st.lists(st.integers(0, TOGETHER - 1), min_size=1, max_size=TOGETHER))
    def anything_happens(self, choices: list[int]) -> None:
        for choice in choices:
            if not self.going_on():
                return
            items = self.possible()
            item = items[choice % len(items)]
            self.hurried += kind_of(item[2]) == "retry"
            self.take(item)
            self.world.seconds = max(self.world.seconds, item[0])
            item[2]()

    @precondition(messages)
    @rule(choice=st.integers(0, TOGETHER - 1))
    def a_message_is_lost(self, choice: int) -> None:
        items = self.items("message")
        self.take(items[choice % len(items)])

    @precondition(messages)
    @rule(choice=st.integers(0, TOGETHER - 1), delay=st.sampled_from((0.0, 10.0, 1000.0)))
    def a_message_comes_again(self, choice: int, delay: float) -> None:
        items = self.items("message")
        self.world._at(delay, items[choice % len(items)][2])

    @rule(choice=st.integers(0, 9))
    def a_hospital_dies_before_its_next_effect(self, choice: int) -> None:
        names = self.scenario.names
        self.fate.doomed.add(names[choice % len(names)])

    def teardown(self) -> None:
        """Let everything else happen as it should, and compare."""
        if self.run is not None:
            self.world.run()
            assert self.world.over
            assert self.world.errors == []
            assert self.run.refusals == []
            assert self.run.result == self.undisturbed.result


BOUNDS = settings(
    deadline=None,
    max_examples=60 if NIGHT else 20,
    stateful_step_count=30,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def test_any_order_ends_alike() -> None:
    """Chosen orders, losses, repeats and deaths of every algorithm's runs end with the
    undisturbed run's records and weights.
    """
    run_state_machine_as_test(AnyOrder, settings=BOUNDS)


class Forgetful(HospitalMachine):
    """A machine that acknowledges and does not persist what it has acknowledged."""

    def step(self, state: State, event: Event) -> Turn:
        state, effects = super().step(state, event)
        if any(isinstance(effect, Reply) for effect in effects):
            effects = [
                effect for effect in effects if not isinstance(effect, Persist) or effect.record
            ]
        return state, effects


class ForgetfulOrder(AnyOrder):
    hospital = Forgetful


def test_a_machine_that_forgets_is_caught() -> None:
    """The choices are bad enough to find a machine that acknowledges what it will not remember."""
    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            ForgetfulOrder, settings=settings(BOUNDS, max_examples=1000, phases=[Phase.generate])
        )
