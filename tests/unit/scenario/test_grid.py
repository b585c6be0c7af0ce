"""A grid: which methods it stands for, and what may be swept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedskd_sim.errors import InvalidValue, ScenarioError, UnknownKey
from fedskd_sim.operate.comparison import CompareRequest, plan
from fedskd_sim.scenario import load
from fedskd_sim.scenario.grid import MOST_POINTS, points, words

TINY = """\
name: tiny
hospitals:
  - {name: a, architecture: buffer}
  - {name: b, architecture: buffer}
algorithm: {name: placebo, rounds: 1, buffer_bytes: 8}
variants:
  other: {algorithm: {name: placebo, rounds: 2}}
grid:
  algorithm.buffer_bytes: [8, 16]
  training.epochs: [1, 2]
"""
LEARNS = """\
name: learns
data: {name: synthetic-skin}
hospitals: [{name: a, architecture: cnn-plain}, {name: b, architecture: cnn-plain}]
algorithm: {name: fedskd, similarity: {batch: 0.1}}
training: {warmup_epochs: 3}
GRID
"""


def test_points_are_all_combinations_and_keep_their_names() -> None:
    """A label tells keys and values; one that two points would have, or that is no name, is made
    from the point alone, so that none changes when the grid grows.
    """
    found = points({"training.epochs": (1, 2), "algorithm.similarity.pixel": (0.1, 1)})
    assert [*found] == [
        "epochs-1-pixel-0-1", "epochs-1-pixel-1", "epochs-2-pixel-0-1", "epochs-2-pixel-1",
    ]  # fmt: skip
    assert words(found["epochs-2-pixel-0-1"]) == "training.epochs=2, algorithm.similarity.pixel=0.1"
    same = points({"a.x": (0.1, "0-1", None)})
    assert [label[:5] for label in same] == ["grid-", "grid-", "x-nul"]
    more = points({"a.x": (0.1, "0-1", None, 7)})
    assert [*more][:3] == [*same]
    assert points({}) == {}


def test_a_point_is_the_scenario_with_its_values(scenario_file: Callable) -> None:
    """What stands beside a swept key stays, a point has the budget of all, and the whole grid is
    compared on validation data.
    """
    wanted = CompareRequest(["grid", "other"], 2)
    path = scenario_file(TINY)
    planned = plan(path, wanted)
    assert plan(load(path), wanted).methods == planned.methods
    labels = [method.label for method in planned.methods]
    assert labels == [
        "buffer-bytes-8-epochs-1",
        "buffer-bytes-8-epochs-2",
        "buffer-bytes-16-epochs-1",
        "buffer-bytes-16-epochs-2",
        "other",
    ]
    assert planned.wanted.against == labels[0]
    point = planned.methods[3]
    assert (point.scenario.algorithm.buffer_bytes, point.scenario.training.epochs) == (16, 2)
    assert dict(point.point) == {"algorithm.buffer_bytes": 16, "training.epochs": 2}
    assert {method.scenario.instruments.evaluate_on for method in planned.methods} == {"validation"}
    assert not any(method.scenario.grid or method.scenario.variants for method in planned.methods)
    assert planned.workshop(None, anyway=False).out == Path("runs/grid-tiny")
    (chosen, _) = plan(path, CompareRequest(["buffer-bytes-16-epochs-2", "other"], 2)).methods
    assert chosen.scenario == point.scenario.model_copy(
        update={"instruments": load(path).scenario.instruments}
    )


@pytest.mark.parametrize(
    ("grid", "kind", "told"),
    [
        ("{algorithm.similarity.pixle: [1]}", UnknownKey, "(value 1)|did you mean 'pixel'?"),
        ("{training.epochs: [1, 0]}", InvalidValue, "0 cannot be used|give 1 or more"),
        ("{training.epochs: [1, 1]}", InvalidValue, "1 is given twice|name every value once"),
        ("{training.epochs: 3}", InvalidValue, "3 cannot be used|as in [1, 2]"),
        ("{training.epochs: []}", InvalidValue, "[] cannot be used|a list of 1 or more"),
        ("[1]", InvalidValue, "[1] cannot be used|{training.epochs: [1, 2]}"),
        ("{seed: [1, 2]}", InvalidValue, "'seed' cannot be swept|sweep keys of algorithm, "),
        ("{training: [{}]}", InvalidValue, "'training' cannot be swept|with dots"),
        ("{algorithm.rounds: [1]}", InvalidValue, "algorithm.rounds cannot be swept|the budget"),
        ("{algorithm.name: [local]}", InvalidValue, "cannot be swept|name methods with --alg"),
        ("{training.epochs.x: [1]}", InvalidValue, "training.epochs|cannot be"),
    ],
)
def test_what_cannot_be_swept_is_told_with_its_line(
    scenario_file: Callable, grid: str, kind: type[ScenarioError], told: str
) -> None:
    """Key, value and fix are told at the line of the grid, whether it is compared or not."""
    path = scenario_file(LEARNS.replace("GRID", f"grid: {grid}"))
    with pytest.raises(kind) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}:6: grid"), caught.value
    for part in told.split("|"):
        assert part in str(caught.value)


def test_a_grid_has_its_limits(scenario_file: Callable) -> None:
    """More combinations than can be compared, a variant of the same name, and test data for the
    whole grid are refused by line.
    """
    many = json.dumps([*range(1, MOST_POINTS + 2)])
    wrong = {
        f"grid: {{training.epochs: {many}}}": (6, "1001 combinations"),
        "grid: {training.epochs: [1]}\nvariants: {epochs-1: {}}": (7, "is the name of a point"),
    }
    for text, (line, what) in wrong.items():
        path = scenario_file(LEARNS.replace("GRID", text))
        with pytest.raises(InvalidValue, match=what) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}:{line}: "), caught.value
    text = TINY + "instruments: {evaluate_on: test}\n"
    with pytest.raises(InvalidValue, match="'test' cannot be used where a grid is compared"):
        plan(scenario_file(text), CompareRequest(["grid", "other"], 2))
