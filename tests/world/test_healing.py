"""A hospital is lost for good, at any instant and in any weather: the others go on without it, and
end with a record of every stop that is left, each model once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from nights import part_of
from symbols import Run, lived, scenario_of
from weather import OneDeath, Storm

from fedskd_sim.custody.expected import (
    ExpectedRecords,
    KeptRecord,
    RecordPosition,
    position_of,
    sources,
)
from fedskd_sim.errors import Where
from fedskd_sim.member.schedule import FOR_EVER
from fedskd_sim.messages import CONTROLLER
from fedskd_sim.protocol.effects import Effect
from fedskd_sim.protocol.losses import Healer
from fedskd_sim.protocol.state import Terms
from fedskd_sim.ring.routes import Routes
from fedskd_sim.ring.topology import Topology
from fedskd_sim.scenario import Scenario

STORMS = 40
"""Of these 240 have been run once; the suite runs the first of them: at night all of those, else
a part that the commit draws."""
Fates = Sequence[tuple[str, int]]
CIRCULATING = (
    "circulation", "fedskd", "partial", "shuffled", "sequential", "local", "ensemble", "mutual",
)  # fmt: skip


def skipping(
    folder: Path, shape: str, size: int, held_out: int = 0, model: str = "travels"
) -> Scenario:
    policy = f"{{name: skip, after: 60, model: {model}}}"
    return scenario_of(folder, shape, size=size, held_out=held_out, on_loss=policy)


def faults_of(scenario: Scenario, run: Run) -> Iterator[str]:
    """Say what is wrong with a run that has lost hospitals."""
    assert run.world.controller
    state, ring = run.world.controller.state, Topology.of(scenario)
    yield from () if state.ended and not state.ended.code else [f"it ended as {state.ended}"]
    yield from map(str, run.refusals)
    found: dict[str, dict[RecordPosition, KeptRecord]] = {}
    for name, node in run.world.nodes.items():
        records = node.custody.records
        found[name] = {
            position_of(one): KeptRecord(
                position_of(one), one.digest_in, one.digest_out, Where(name)
            )
            for one in records
        }
        yield from () if len(found[name]) == len(records) else [f"{name} has a record twice"]
    routes = Routes(ring, state.lost)
    by_host = {name: ExpectedRecords(scenario, ring, name) for name in scenario.names}
    for name, expected in by_host.items():
        gone = name in state.lost or run.world.nodes[name].gone
        for wanted, _ in () if gone else expected.positions():
            at_home = not wanted.hop or wanted.kind == "ensemble"
            left_out = not at_home and routes.void(
                ring.stop(wanted.model, wanted.round, wanted.hop)
            )
            if wanted not in found[name] and not left_out:
                yield f"there is no record of {wanted}"
        for wanted, entry in found[name].items():
            if wanted.hop and wanted.kind != "ensemble":
                before, known = sources(wanted, by_host, found, routes)
                came = {one.digest_out for one in before}
                if known and came and entry.digest_in not in came:
                    yield f"{wanted} came from nowhere"


def lost_everywhere(
    scenario: Scenario, every: int = 1, some: Callable[[Fates], Fates] = part_of
) -> Iterator[tuple[tuple[str, int], str]]:
    """Lose every hospital before each of its effects, or every how manieth of them, one loss a run,
    or carry out some of these runs; yields what went wrong.
    """
    counted = OneDeath()
    lived(scenario, counted)
    fates = [(name, at) for name, most in counted.effects.items() for at in range(1, most + 1)]
    assert len(fates[::every]) > 30
    for fate in some(fates[::every]):
        run = lived(scenario, OneDeath(*fate, away=FOR_EVER))
        for fault in faults_of(scenario, run):
            yield fate, fault


@pytest.mark.parametrize(
    ("shape", "size", "held_out", "model", "every"),
    [
        ("circulation", 3, 0, "travels", 1),
        ("fedskd", 4, 1, "travels", 11),
        ("partial", 4, 0, "retires", 7),
        ("shuffled", 4, 0, "travels", 11),
        ("sequential", 3, 0, "retires", 5),
        ("local", 3, 1, "travels", 3),
        ("ensemble", 3, 1, "retires", 7),
    ],
)
def test_a_loss_at_any_instant_is_healed(
    tmp_path: Path, shape: str, size: int, held_out: int, model: str, every: int
) -> None:
    """Whoever is lost and wherever the models are then: all that are left finish their programs,
    and no model is lost but one that never set out. Each effect of all seven was tried once.
    """
    scenario = skipping(tmp_path, shape, size, held_out, model)
    assert list(lost_everywhere(scenario, every)) == []


def test_without_copies_at_the_senders_a_model_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The harness can fail: if a sender forgets a model once its host has it, the loss of that host
    takes the visitor to its grave.
    """
    monkeypatch.setattr(Healer, "keep", lambda _, state, *__: (state, []))
    assert any(lost_everywhere(skipping(tmp_path, "circulation", 3), 5, list))


@dataclass
class LossStorm(Storm):
    """A storm in which one hospital does not come back from a death."""

    fate: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)

    def kills(self, name: str, effect: Effect) -> bool:
        self.seen[name] = self.seen.get(name, 0) + 1
        lost = self.fate.get(name, self.seen[name] + 1) <= self.seen[name]
        self.away = FOR_EVER if lost else None
        return lost or super().kills(name, effect)


def stormy(folder: Path, seed: int) -> tuple[Scenario, LossStorm]:
    """Say what the storm of a seed meets, and who is lost in it when."""
    size, model = 3 + seed // len(CIRCULATING) % 4, ("travels", "retires")[seed // 3 % 2]
    scenario = skipping(folder, CIRCULATING[seed % len(CIRCULATING)], size, seed % 2, model)
    draw = Random(seed)
    return scenario, LossStorm(seed, fate={draw.choice(scenario.names): draw.randint(1, 150)})


def test_storms_with_a_loss_are_healed(tmp_path: Path) -> None:
    """Loss, repeats, delays, deaths that are come back from, and one that is not, from many
    seeds.
    """
    lost = 0
    seeds = part_of(range(STORMS))
    for seed in seeds:
        scenario, storm = stormy(tmp_path, seed)
        run = lived(scenario, storm)
        assert list(faults_of(scenario, run)) == [], seed
        assert {*run.world.lost} <= {*storm.fate}, seed
        lost += len(run.world.lost)
    assert lost > len(seeds) / 2


def test_where_nobody_is_lost_nothing_changes(tmp_path: Path) -> None:
    """Deaths that are come back from give the bytes of an undisturbed run that waits."""
    for seed in range(8):
        shape = CIRCULATING[seed]
        undisturbed = lived(scenario_of(tmp_path, shape), OneDeath())
        run = lived(skipping(tmp_path, shape, 3), Storm(seed))
        assert run.world.over
        assert run.result == undisturbed.result
        assert not run.world.lost


@dataclass
class LostWord(OneDeath):
    """Fair weather in which the first word of the controller to a hospital is lost."""

    deaf: str = "h1"

    def copies(self, sender: str, to: str) -> Iterator[float]:
        if (sender, to) == (CONTROLLER, self.deaf):
            self.deaf = ""
            return
        yield from super().copies(sender, to)


@pytest.mark.parametrize("after", [0.5, 2, 60])
def test_who_has_not_heard_of_the_start_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: float
) -> None:
    """However short a silence is borne, it asks again before it counts as lost; if it asked every
    5 seconds, that were too late for less.
    """
    scenario = scenario_of(
        tmp_path, "circulation", size=3, on_loss=f"{{name: skip, after: {after}}}"
    )
    undisturbed = lived(scenario, OneDeath())
    run = lived(scenario, LostWord())
    assert not run.world.lost
    assert run.result == undisturbed.result
    monkeypatch.setattr(Terms, "register_again", 5.0)
    assert bool(lived(scenario, LostWord()).world.lost) == (after < 5)


def test_who_is_left_out_is_named_in_the_records(tmp_path: Path) -> None:
    """From when on a hospital knows it, and with the round in which the model retires."""
    scenario = skipping(tmp_path, "circulation", 4, model="retires")
    run = lived(scenario, OneDeath("h2", 60, away=FOR_EVER))
    (retired,) = run.world.lost.values()
    assert retired > 1
    for name, node in run.world.nodes.items():
        if name != "h2":
            assert dict(node.custody.records[-1].without) == {"h2": retired}
            assert not node.custody.records[0].without


@pytest.mark.parametrize("fates", [{"h0": 30, "h2": 90}, {"h0": 2, "h1": 80}])
def test_two_losses_one_after_the_other_are_healed(tmp_path: Path, fates: dict[str, int]) -> None:
    """A second hospital is lost once the ring has closed without the first."""
    scenario = skipping(tmp_path, "circulation", 5)
    storm = LossStorm(1, deaths=0, lost=0, repeated=0, fate=fates)
    run = lived(scenario, storm)
    assert list(faults_of(scenario, run)) == []
    assert set(run.world.lost) == set(fates)


def test_too_few_are_an_error(tmp_path: Path) -> None:
    """One hospital that trains is no ring."""
    scenario = skipping(tmp_path, "circulation", 3)
    run = lived(scenario, LossStorm(1, deaths=0, fate={"h0": 20, "h1": 20}))
    assert run.world.controller
    end = run.world.controller.state.ended
    assert end
    assert (end.code, "fewer than 2" in end.reason) == (48, True)
