"""Faults of a scenario and bad weather together, drawn from seeds: the laws hold after every event,
and every run ends as if nothing had happened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from chaos import drawn, survived
from invariants import Broken
from nights import part_of
from symbols import Symbols

from fedskd_sim.member.schedule import unmet
from fedskd_sim.messages import HopId
from fedskd_sim.protocol import delivery
from fedskd_sim.protocol.delivery import TAKE, Judgement
from fedskd_sim.protocol.effects import Effect, Persist, Reply, Send, Wait
from fedskd_sim.protocol.events import (
    Acked,
    Event,
    Model,
    ModelArrived,
    StepFinished,
    Unanswered,
)
from fedskd_sim.protocol.machine import HospitalMachine, Turn
from fedskd_sim.protocol.state import State, Terms
from fedskd_sim.ring.topology import Topology
from fedskd_sim.scenario.faultchecks import faulty
from fedskd_sim.world.node import InMemoryCustody, Node

SEEDS = int(os.environ.get("FEDSKD_CHAOS", "200"))
"""Of these ten thousand have been run once (`python -m tests.benchmarks chaos`); the suite runs the
first of them, in portions: at night all of those, at other times a part that the commit draws."""
PORTIONS = 10
SEARCHED = 60
"""So many seeds are tried until a machine that is wrong is found out."""


@pytest.mark.parametrize("portion", range(PORTIONS))
def test_in_chaos_all_laws_hold_and_every_run_ends(portion: int) -> None:
    """One to six faults, loss, repeats, delay, slow disks and deaths in one run, from each seed:
    no law is broken after any event, and the result is the undisturbed run's.
    """
    deaths = 0
    for seed in part_of(range(portion, SEEDS, PORTIONS)):
        chaos, undisturbed = drawn(seed)
        run, watcher = survived(chaos, undisturbed)
        assert watcher.events > len(run.world.nodes)
        deaths += sum(node.life for node in run.world.nodes.values())
    assert deaths or SEEDS < 10 * PORTIONS


def test_drawn_faults_are_those_that_a_scenario_may_have() -> None:
    """What is drawn is what the product accepts: nothing is refused, and no place never comes."""
    for seed in range(40):
        chaos, _ = drawn(seed)
        scenario = chaos.scenario
        assert 1 <= len(scenario.faults) <= 6, chaos.words
        assert not list(unmet(scenario, Topology.of(scenario))), chaos.words
        custody = scenario.custody.model_copy(update={"restarts": 6})
        allowed = scenario.model_copy(update={"custody": custody})
        assert not list(faulty(allowed, scenario.names)), chaos.words


class WaitsForItsDisk(HospitalMachine):
    """Its arithmetic is not repeatable: a result is in custody before it leaves."""

    @classmethod
    def of(cls, topology: Topology, name: str, terms: Terms) -> HospitalMachine:
        return super().of(topology, name, replace(terms, repeatable=False))


@pytest.mark.parametrize("seed", [51, 101, 130])
def test_a_copy_that_waits_for_the_disk_may_be_confirmed_meanwhile(seed: int) -> None:
    """A model that is to be sent again once the disk is ready arrives before that: it is forgotten
    and not sent, and the run goes on.
    """
    survived(*drawn(seed), WaitsForItsDisk)


class AcknowledgesFirst(HospitalMachine):
    """Says that a model is safe, and then makes it so."""

    def step(self, state: State, event: Event) -> Turn:
        state, effects = super().step(state, event)
        told: list[Effect] = [one for one in effects if isinstance(one, Reply)]
        return state, [*told, *(one for one in effects if one not in told)]


class TakesRepeats(HospitalMachine):
    """Takes in what it has had."""

    def judge(self, state: State, hop: HopId, sender: str) -> Judgement:
        verdict = super().judge(state, hop, sender)
        return TAKE if verdict.repeat else verdict


class TakesAll(HospitalMachine):
    """Has room for everybody."""

    def judge(self, state: State, hop: HopId, sender: str) -> Judgement:
        verdict = super().judge(state, hop, sender)
        return TAKE if verdict.later else verdict


class LetsGo(HospitalMachine):
    """Forgets a model that it has sent."""

    def step(self, state: State, event: Event) -> Turn:
        state, effects = super().step(state, event)
        return state._replace(outbox={}), effects


class SendsOnceOnly(HospitalMachine):
    """Waits for an answer for ever."""

    def step(self, state: State, event: Event) -> Turn:
        return (state, []) if isinstance(event, Unanswered) else super().step(state, event)


class KeepsVisitors(HospitalMachine):
    """Does not forget a model whose step is over."""

    def _forget_hosted(self, state: State, hop: HopId) -> State:  # noqa: ARG002 - the machine's signature
        return state


class PassesOnAtOnce(HospitalMachine):
    """Sends a model on as it comes in, before its session."""

    def step(self, state: State, event: Event) -> Turn:
        had = state.waiting
        state, effects = super().step(state, event)
        if not isinstance(event, ModelArrived):
            return state, effects
        hop = event.hop
        if hop in had or hop not in state.waiting:
            return state, effects
        stop = self.topology.onward(self.topology.stop(hop.model, hop.round, hop.hop))
        if stop is None:
            return state, effects
        state, sent = self.passed(state, self.hop_id(stop), stop.host, event.model)
        return state, [*effects, *sent]

    def passed(self, state: State, hop: HopId, to: str, model: Model) -> Turn:
        return delivery.send(state, to, hop, model, self.terms)


class PassesOnWithoutDigest(PassesOnAtOnce):
    """The same, so that nobody can tell that it is another model."""

    def passed(self, state: State, hop: HopId, to: str, model: Model) -> Turn:
        return super().passed(state, hop, to, model._replace(digest=""))


class ForwardsUntested(PassesOnAtOnce):
    """Sends a model that is to be tested on before the test, which changes nothing of it, and keeps
    none.
    """

    def passed(self, state: State, hop: HopId, to: str, model: Model) -> Turn:
        tested = hop.round == self.topology.evaluation_round and hop not in state.outbox
        return state, [Send(to, hop, model, 1)] if tested else []


class LosesVisitors(HospitalMachine):
    """Forgets whom it has when a departure is confirmed."""

    def step(self, state: State, event: Event) -> Turn:
        state, effects = super().step(state, event)
        return (state._replace(waiting={}) if isinstance(event, Acked) else state), effects


class RefusesTheSecond(HospitalMachine):
    """Refuses whom it has no room for."""

    def judge(self, state: State, hop: HopId, sender: str) -> Judgement:
        verdict = super().judge(state, hop, sender)
        return Judgement(reason="no room") if verdict.later else verdict


class Dawdles(HospitalMachine):
    """Takes a hundred times as long to send again."""

    def step(self, state: State, event: Event) -> Turn:
        state, effects = super().step(state, event)
        return state, [
            one._replace(seconds=100 * one.seconds)
            if isinstance(one, Wait) and isinstance(one.timer, Unanswered)
            else one
            for one in effects
        ]


class RecordsLater(HospitalMachine):
    """Commits a step without its record, and the record after that."""

    def step(self, state: State, event: Event) -> Turn:
        state, effects = super().step(state, event)
        split: list[Effect] = []
        for one in effects:
            split += [Persist(), one] if isinstance(one, Persist) and one.record else [one]
        return state, split


class GoesBack(HospitalMachine):
    """Does a step again when it has no visitor to wait for."""

    def step(self, state: State, event: Event) -> Turn:
        before = state.cursor
        state, effects = super().step(state, event)
        if isinstance(event, StepFinished) and before == 1 and state.cursor == 2:
            return state._replace(cursor=0), effects
        return state, effects


WRONG: Mapping[type[HospitalMachine], str] = {
    AcknowledgesFirst: "safe, then acknowledged",
    TakesRepeats: "nothing comes in twice",
    TakesAll: "an inbox has its size",
    LetsGo: "no model is lost",
    SendsOnceOnly: "every run ends",
    KeepsVisitors: "nothing comes in twice",
    PassesOnAtOnce: "models are those of the undisturbed run",
    PassesOnWithoutDigest: "what leaves has been made",
    ForwardsUntested: "a model has one owner",
    LosesVisitors: "a visitor stays",
    RefusesTheSecond: "nobody is refused",
    Dawdles: "peace ends a run",
    RecordsLater: "records belong to the commit",
    GoesBack: "cursors only grow",
}
"""Machines that are wrong, and the law that each of them breaks first."""


def first_broken(machine: type[HospitalMachine] = HospitalMachine) -> Broken | None:
    """Give the first law that is broken in any of some seeds."""
    for seed in range(SEARCHED):
        try:
            survived(*drawn(seed), machine)
        except Broken as broken:
            return broken
    return None


@pytest.mark.parametrize("machine", WRONG)
def test_a_machine_that_is_wrong_is_caught(machine: type[HospitalMachine]) -> None:
    """The checks can fail: each of these machines breaks the law that is about it, and the error
    says after which event of which seed.
    """
    broken = first_broken(machine)
    assert broken is not None
    assert broken.law == WRONG[machine], broken
    assert "after event " in str(broken)
    assert "replay: python -m tests.world chaos " in str(broken)


def keeps_what_is_older(node: Node, kept: InMemoryCustody) -> None:
    """Have whichever snapshot the disk ends last."""
    node.custody = kept
    node.shell.on_persisted(kept.ticket)


def comes_back_further(node: Node) -> None:
    """Go on one step behind what is in custody."""
    REVIVE(node)
    node.shell.state = node.shell.state._replace(cursor=node.shell.state.cursor + 1)


def comes_back_earlier(node: Node) -> None:
    """Begin from the beginning."""
    REVIVE(node)
    node.shell.state = State()


REVIVE = Node.revive


@pytest.mark.parametrize(
    ("name", "method", "law"),
    [
        ("_safe", keeps_what_is_older, "custody only grows"),
        ("revive", comes_back_further, "a life begins where custody ends"),
        ("revive", comes_back_earlier, "nobody is behind his custody"),
    ],
)
def test_a_custody_that_is_wrong_is_caught(
    name: str, method: Callable[..., None], law: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same with disks that end out of order, and hospitals that come back elsewhere."""
    monkeypatch.setattr(Node, name, method)
    broken = first_broken()
    assert broken is not None
    assert broken.law == law, broken


def test_a_learner_that_forgets_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """... and with a model that a death has changed."""
    monkeypatch.setattr(Symbols, "restore", lambda _, __: None)
    broken = first_broken()
    assert broken is not None
    assert broken.law in ("models are those of the undisturbed run", "records belong to the commit")
