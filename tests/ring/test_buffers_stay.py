"""Buffers of a network, such as running statistics, that stay where a model trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from loops import files
from safetensors.torch import load_file

from fedskd_sim.custody.verify import verify
from fedskd_sim.errors import InvalidValue, ScenarioError
from fedskd_sim.learning.algorithms.learners import make
from fedskd_sim.learning.base import LearnerContext
from fedskd_sim.learning.weights import buffers_of, export, install_some, snapshot
from fedskd_sim.scenario import load

TEXT = """
name: stay
data: {{name: synthetic-skin, samples: 40, image_size: 16, classes: 2}}
hospitals:
  - {{name: a, architecture: {{name: cnn-plain, buffers: {buffers}, options: {options}}}}}
  - {{name: b, architecture: {{name: cnn-plain, buffers: {buffers}, options: {options}}}}}
  - {{name: c, architecture: {{name: cnn-plain, options: {options}}}}}
algorithm: {algorithm}
training: {{warmup_epochs: 1, batch_size: 12}}
{more}
"""
OPTIONS = "{width: 4, norm: batch}"


def text(buffers: str, algorithm: str = "{name: fedskd, rounds: 2}", more: str = "") -> str:
    return TEXT.format(buffers=buffers, options=OPTIONS, algorithm=algorithm, more=more)


def test_a_model_finds_the_buffers_that_it_left(scenario_file: Callable[[str], Path]) -> None:
    """When it comes again, to train or to be tested, a model has the buffers with which it left;
    what came stays as it is, for that is what goes on. Another model's are its own.
    """
    scenario = load(scenario_file(text("stay"))).scenario
    site = make(LearnerContext(scenario, "c")).site
    trained = site.initialise(scenario.architecture("a"), 1)
    coming = snapshot(site.initialise(scenario.architecture("a"), 2))
    assert export(site.visitor("a", coming)[0]) == coming
    with_others = {name: one for name, one in buffers_of(trained).items() if "running" in name}
    shifted = {name: one._replace(data=bytes(len(one.data))) for name, one in with_others.items()}
    install_some(trained, shifted)
    site.keep_buffers("a", trained)
    for network in (site.visitor("a", coming)[0], site.receive("a", coming)):
        found = export(network)
        assert {name: bytes(found[name].data) for name in shifted} == {
            name: bytes(one.data) for name, one in shifted.items()
        }
        assert all(found[name] == coming[name] for name in coming.keys() - {*buffers_of(network)})
    assert site.visitor("a", coming)[1] == coming
    assert export(site.visitor("b", coming)[0]) == coming
    site.keep_buffers("c", trained)  # whose buffers travel
    assert export(site.visitor("c", coming)[0]) == coming


@pytest.mark.parametrize("algorithm", ["{name: fedskd, rounds: 2}", "{name: cyclic, rounds: 2}"])
def test_what_stays_outlives_a_death(
    algorithm: str, scenario_file: Callable[[str], Path], run: Callable[..., Path]
) -> None:
    """Records and weights are the same in memory and as processes, of which one is killed before
    its second round; the run is whole, and not the one in which buffers travel.
    """
    kill = "faults: [{hospital: b, what: kill, round: 2, hop: 1}]"
    plain = run(scenario_file(text("stay", algorithm)))
    killed = run(scenario_file(text("stay", algorithm, kill)), "processes")
    assert files(plain) == files(killed)
    assert verify(plain, None, {}, "abc").broken is None
    assert files(plain) != files(run(scenario_file(text("travel", algorithm))))


def test_an_average_leaves_own_buffers(
    scenario_file: Callable[[str], Path], run: Callable[..., Path]
) -> None:
    """With fedavg all end with the same parameters, and each with statistics of its own."""
    common = f"{{name: cnn-plain, buffers: stay, options: {OPTIONS}}}"
    algorithm = f"{{name: fedavg, rounds: 1, architecture: {common}}}"
    folder = run(scenario_file(text("travel", algorithm)))
    a, b = (load_file(folder / "weights" / f"{name}.safetensors") for name in "ab")
    differ = {name for name in a if not a[name].equal(b[name])}
    assert differ
    assert all("running" in name for name in differ)


def test_what_takes_buffers_anew_is_refused(scenario_file: Callable[[str], Path]) -> None:
    """Averaged weights have statistics of their own."""
    with pytest.raises((InvalidValue, ScenarioError), match="'averaged' takes the buffers anew"):
        load(scenario_file(text("stay", more="prediction: {model: averaged}")))


def test_they_are_idle_where_models_train_at_home(scenario_file: Callable[[str], Path]) -> None:
    """Nothing stays anywhere else then."""
    idle = load(scenario_file(text("stay", "{name: local}"))).idle
    assert [one.partition(" has no effect")[0] for one in idle] == [
        f"hospitals.{index}.architecture.buffers" for index in (0, 1)
    ]
