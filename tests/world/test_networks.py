"""Links of any kind, drawn from seeds, in simulated time: runs end as over perfect links; and so
they do, or by the laws of losses, where the controller's words cross such links, too.
"""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest
from returning import SHAPES as HEALED
from returning import Absences, Story, scenario_with, survived
from symbols import SHAPES, prepared, scenario_of
from weather import OneDeath

from fedskd_sim.messages import CONTROLLER
from fedskd_sim.scenario import Link, Scenario
from fedskd_sim.transport.shaping import Shaping

NETWORKS = int(os.environ.get("FEDSKD_NETWORKS", "42"))
HEALS = int(os.environ.get("FEDSKD_HEALS", "7"))


def link_of(draw: Random, scenario: Scenario) -> Link:
    """Draw a rule that a run survives."""
    one, other = draw.sample(scenario.names, 2)
    where = draw.choice([{}, {"from": one}, {"to": one}, {"between": (one, other)}])
    delay = draw.choice([0.0, draw.uniform(0, 3)])
    shares = {name: draw.choice([0.0, 0.3 * draw.random()]) for name in ("loss", "corrupt")}
    shares |= {name: draw.choice([0.0, draw.random()]) for name in ("repeat", "reorder")}
    cut = {"begin": draw.uniform(0, 20), "lasts": draw.uniform(0, 60)}
    values = where | shares | {"delay": delay, "jitter": draw.random() * delay}
    values |= {"bandwidth": draw.choice([None, "10", "1k"]), "seed": draw.randint(0, 9)}
    return Link.model_validate(values | {"partition": draw.choice([(), (cut,)])})


@pytest.mark.parametrize("shape", SHAPES)
def test_over_any_links_a_run_ends_undisturbed(shape: str, tmp_path: Path) -> None:
    """Up to three rules of any kind: all runs end without an error, with the same records and
    models, and nothing is refused but what was changed on the way.
    """
    names, runs = list(SHAPES), []
    scenario = scenario_of(tmp_path, shape, held_out=1)
    for seed in (-1, *range(names.index(shape), NETWORKS, len(names))):
        draw = Random(seed)
        links = tuple(link_of(draw, scenario) for _ in range(draw.randint(1, 3)))
        run = prepared(scenario, OneDeath())
        if seed >= 0:
            run.world.links = Shaping(scenario.model_copy(update={"links": links}))
        run.world.run()
        assert run.world.over, (seed, links)
        assert not run.world.errors, (seed, links)
        assert all(str(one.reason).endswith("changed on the way") for one in run.refusals)
        runs.append(run)
    assert all(run.result == runs[0].result for run in runs)


def rule_for_words(draw: Random, name: str, *, lossy: bool) -> Link:
    """Draw a rule for words between one hospital, or all, and the controller."""
    where = draw.choice([{"from": CONTROLLER}, {"to": CONTROLLER}, {"between": (name, CONTROLLER)}])
    delay = draw.choice([0.0, draw.uniform(0, 1)])
    values = where | {"delay": delay, "jitter": draw.random() * delay, "repeat": draw.random()}
    values |= {"bandwidth": draw.choice([None, "1k"]), "seed": draw.randint(0, 9)}
    if lossy:
        cut = {"begin": draw.uniform(0, 20), "lasts": draw.uniform(0, 20)}
        shares = {"loss": 0.2 * draw.random(), "reorder": 0.5 * draw.random()}
        values |= shares | {"partition": draw.choice([(), (cut,)])}
    return Link.model_validate(values)


@pytest.mark.parametrize("shape", SHAPES)
def test_late_words_of_the_controller_change_nothing(shape: str, tmp_path: Path) -> None:
    """Words to it and from it are late, repeated and slow: records and models are the same."""
    scenario, runs = scenario_of(tmp_path, shape, held_out=1), []
    for seed in (-1, 0, 1):
        draw, run = Random(seed), prepared(scenario, OneDeath())
        names = draw.sample(scenario.names, 2)
        links = tuple(rule_for_words(draw, name, lossy=False) for name in names)
        if seed >= 0:
            run.world.links = Shaping(scenario.model_copy(update={"links": links}))
        run.world.run()
        assert run.world.over, (seed, links)
        assert not run.world.errors, (seed, links)
        assert not run.refusals, (seed, links)
        runs.append(run)
    assert all(run.result == runs[0].result for run in runs)


def test_lost_words_of_the_controller_break_no_law() -> None:
    """Where signs of life are given, words are lost, held back and cut off by rules as well: who
    is not heard of for too long is lost and comes back, and no law is broken after any event.
    """
    lost = 0
    for seed in range(HEALS):
        draw = Random(seed)
        scenario = scenario_with(HEALED[seed % len(HEALED)], draw.choice((3, 4)), 0, "travels", 4)
        links = tuple(rule_for_words(draw, name, lossy=True) for name in scenario.names[:2])
        story = Story(seed, scenario, Absences(seed, lost=0.0, repeated=0.0), 0.0, links=links)
        run, _ = survived(story)
        lost += len(run.world.controller.state.lost) if run.world.controller else 0
    assert lost > 0
