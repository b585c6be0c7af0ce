"""A hospital that was lost comes back, in any weather: from a round on it is one of the ring again,
and nobody ever passes it by there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from invariants import Broken
from returning import Story, drawn, drawn_unheard, survived
from transitions import PICTURES, SEEN, WatchedMachine, draw, drawn_in, watched_controllers

from fedskd_sim.member.shell import Shell
from fedskd_sim.messages import Holds
from fedskd_sim.protocol import admission, losses
from fedskd_sim.protocol import state as saved
from fedskd_sim.protocol.admission import RegistrarState
from fedskd_sim.protocol.effects import Effect, Tell
from fedskd_sim.ring.topology import Topology
from fedskd_sim.world import node

SEEDS = int(os.environ.get("FEDSKD_RETURNS", "20"))
"""Of these 400 have been run once; the suite runs the first of them."""


def test_who_was_lost_comes_back_in_any_weather() -> None:
    """One or two hospitals die, stand still or come late, up to three times each; words and models
    are lost, repeated and overtake each other, and another controller may take over: no law is
    broken after any event, every run ends, and no record is missing, twice or from nowhere.
    """
    back = 0
    for seed in range(SEEDS):
        _, sentry = survived(drawn(seed), WatchedMachine)
        back += sentry.returned
    assert back > SEEDS / 4


def test_a_controller_that_does_not_hear_all_breaks_no_law() -> None:
    """Its words and those to it are lost, late and overtake each other, hospitals are cut off from
    it or from everybody, and go on working meanwhile.
    """
    lost = 0
    for seed in range(SEEDS // 2):
        run, _ = survived(drawn_unheard(seed), WatchedMachine)
        lost += len(run.world.controller.state.lost) if run.world.controller else 0
    assert lost > SEEDS / 4


@pytest.mark.parametrize("picture", SEEN)
def test_the_state_diagrams_of_the_manual_are_those_of_the_machines(picture: str) -> None:
    """Whatever changes a phase in the stories above has its arrow; the pictures are drawn as the
    code draws them. Where one is missing, ``python -m tests.world diagrams`` draws them anew.
    """
    kept = (PICTURES / f"{picture}.svg").read_text(encoding="utf-8")
    with watched_controllers():
        survived(drawn(SEEDS), WatchedMachine)
    assert SEEN[picture] <= drawn_in(kept)
    assert draw(picture, drawn_in(kept)) == kept


@pytest.mark.parametrize("seed", [333, 349])
def test_who_is_lost_again_in_the_round_of_its_return_has_left_a_proof(seed: int) -> None:
    """Nobody else names its return any more, and its own records tell what it has missed."""
    survived(drawn(seed))


Patch = Callable[[pytest.MonkeyPatch], None]


def believes_all(patch: pytest.MonkeyPatch) -> None:
    """Take every return in, however far one is."""
    patch.setattr(losses, "believed", lambda _state, _program, word: word.back)


def waits_for_nobody(patch: pytest.MonkeyPatch) -> None:
    """Tell the rejoining one that it is back as the others are asked."""
    ask = admission.ask

    def at_once(state: RegistrarState, name: str, round_: int, ring: Topology) -> admission.Turn:
        state, asked = ask(state, name, round_, ring)
        state, told = admission.admit(state, ring)
        return state, [*asked, *told]

    patch.setattr(admission, "ask", at_once)


def says_so_too_early(patch: pytest.MonkeyPatch) -> None:
    """Say that an epoch is in custody before it is."""
    promises = Shell._promises

    def promised(self: Shell, effect: Effect) -> bool:
        told = isinstance(effect, Tell) and isinstance(effect.message, Holds)
        return promises(self, effect) and not told

    patch.setattr(Shell, "_promises", promised)


def forgets_returns(patch: pytest.MonkeyPatch) -> None:
    """Come back from a death without knowing who is back."""

    def parsed(values: dict[str, Any]) -> saved.State:
        return saved.parse(values | {"back": {}})

    patch.setattr(node, "parse", parsed)


@pytest.mark.parametrize(
    ("wrong", "seed", "law"),
    [
        (believes_all, 28, "every run ends"),
        (waits_for_nobody, 5, "all know who is back"),
        (says_so_too_early, 11, "all know who is back"),
        (forgets_returns, 5, "all know who is back"),
    ],
)
def test_a_return_that_is_wrong_is_caught(
    wrong: Patch, seed: int, law: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checks can fail: without any one part of the agreement a law is broken."""
    story: Story = drawn(seed)
    wrong(monkeypatch)
    with pytest.raises(Broken) as caught:
        survived(story)
    assert caught.value.law == law
