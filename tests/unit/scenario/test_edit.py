"""Changes of a scenario from the command line: placed, checked, and kept in the run folder like
keys of the file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

import fedskd_sim
from fedskd_sim.cli import main
from fedskd_sim.errors import FedskdError, InvalidValue, ScenarioError, UnknownKey
from fedskd_sim.scenario import load, scenarios

TEXT = """\
name: ring                 # its name
data: {name: synthetic-skin, samples: 60}
hospitals:
  - {name: a, architecture: cnn-plain}
  - {name: b, architecture: {name: cnn-plain, options: {width: 8}}, resources: &one {gpu: 1}}
  - {name: c, architecture: cnn-plain, resources: *one}
algorithm: {name: fedskd, rounds: 3}
"""
GOOD = {
    "seed=7": lambda scenario: scenario.seed == 7,
    "training.epochs=3": lambda scenario: scenario.training.epochs == 3,
    "training.optimiser.learning_rate=5.0e-4": lambda scenario: (
        scenario.training.optimiser.learning_rate == 5e-4
    ),
    "algorithm={name: local, rounds: 2}": lambda scenario: scenario.algorithm.name == "local",
    "hospitals.a.device=auto": lambda scenario: scenario.hospitals[0].device == "auto",
    "hospitals.1.architecture.options.width=16": lambda scenario: (
        scenario.hospitals[1].architecture.options["width"] == 16
    ),
    "hospitals.b.resources={gpu: 0}": lambda scenario: (
        [one.resources.gpu for one in scenario.hospitals] == [0, 0, 1]
    ),
    "data.samples=80": lambda scenario: (
        {hospital.data.samples for hospital in scenario.hospitals} == {80}
    ),
    "hospitals.c.data.samples=90": lambda scenario: (
        [one.data.samples for one in scenario.hospitals] == [60, 60, 90]
    ),
    "description='# no comment: 3 = 3'": lambda scenario: (
        scenario.description == "# no comment: 3 = 3"
    ),
}
BAD = {
    "training.epochs=0": (
        InvalidValue,
        "--set training.epochs: training.epochs: 0 cannot be used",
        "1 or more",
    ),
    "training.epoch=3": (
        UnknownKey,
        "--set training.epoch: training.epoch: unknown key",
        "did you mean 'epochs'?",
    ),
    "trainnig.epochs=3": (
        UnknownKey,
        "--set trainnig.epochs: trainnig: unknown key",
        "did you mean 'training'?",
    ),
    "hospitals.a.device=gpu": (
        InvalidValue,
        "--set hospitals.a.device: hospitals.0.device",
        "write cpu",
    ),
    "hospitals.b.name=a": (
        ScenarioError,
        "--set hospitals.b.name: hospitals.1.name: 'a' is already",
        "its own name",
    ),
    "data.sampels=80": (
        UnknownKey,
        "--set data.sampels: data.sampels: unknown key",
        "did you mean 'samples'?",
    ),
    "algorithm.name=fedsdk": (
        InvalidValue,
        "--set algorithm.name: algorithm.name: there is no",
        "did you mean 'fedskd'?",
    ),
    "training=": (InvalidValue, "--set training: training: null", "remove the key"),
    "training.epochs": (
        InvalidValue,
        "'training.epochs' names no key and value",
        "--set KEY=VALUE",
    ),
    "=3": (InvalidValue, "'=3' names no key and value", "--set KEY=VALUE"),
    "training..epochs=3": (InvalidValue, "names no key and value", "--set KEY=VALUE"),
    "hospitals.d.device=cpu": (
        UnknownKey,
        "--set hospitals.d.device: there is no 'd' in this list",
        "name one of a, b, c, or count from 0 to 2",
    ),
    "hospitals.3.device=cpu": (UnknownKey, "there is no '3' in this list", "name one of a, b, c"),
    "hospitals.a.architecture.options.width=8": (
        InvalidValue,
        "cannot be set in 'cnn-plain', which is no mapping",
        "to a mapping",
    ),
    "hospitals.b.resources.gpu=0": (
        InvalidValue,
        "is the anchor &one, which is meant in several places",
        "change the file",
    ),
    "seed=[": (InvalidValue, "--set seed: '[' is not YAML", "quote it"),
    "seed=!python/object:os.system 1": (ScenarioError, "", ""),
}


@pytest.mark.parametrize("change", GOOD)
def test_a_change_is_placed(change: str, scenario_file: Callable) -> None:
    """The key has the new value, every other stays, and the text that is kept says the same with
    its comments.
    """
    path = scenario_file(TEXT)
    found, before = load(path, [change]), load(path).scenario
    assert GOOD[change](found.scenario)
    assert not GOOD[change](before)
    assert "# its name" in found.document.text
    assert load(scenario_file(found.document.text, "edited.yaml")).scenario == found.scenario
    changed = {
        name
        for name in type(before).model_fields
        if getattr(before, name) != getattr(found.scenario, name)
    }
    assert changed <= {change.partition("=")[0].partition(".")[0], "hospitals"}


@pytest.mark.parametrize("change", BAD)
def test_a_bad_change_is_named(change: str, scenario_file: Callable) -> None:
    """What is wrong with a change is told at the change, with the fix that a key of the file
    would have.
    """
    kind, words, fix = BAD[change]
    with pytest.raises(kind) as caught:
        load(scenario_file(TEXT), [change])
    assert words in str(caught.value)
    assert fix in caught.value.fix


def test_what_is_wrong_in_the_file_keeps_its_line(scenario_file: Callable) -> None:
    """A change moves no line: another error is told where it stands in the file that the person
    has.
    """
    path = scenario_file(TEXT.replace("rounds: 3", "rounds: 0"))
    with pytest.raises(FedskdError) as caught:
        load(path, ["data={name: synthetic-skin, samples: 80, classes: 3}", "training.epochs=2"])
    assert str(caught.value).startswith(f"{path}:7: algorithm.rounds: 0")


@pytest.mark.parametrize("path", scenarios().values(), ids=lambda path: path.stem)
def test_a_change_touches_nothing_else(path: Path) -> None:
    """In every scenario that comes with the program a changed seed is all that is changed."""
    before, found = fedskd_sim.load(path).scenario, fedskd_sim.load(path, "seed=99").scenario
    assert found == before.model_copy(update={"seed": 99})


def test_the_run_folder_has_the_edited_text(tmp_path: Path) -> None:
    """What ran stands in the run folder, and several changes are made in their order; nothing
    starts on a bad one.
    """
    command = [
        "launch",
        "placebo-ok",
        "--on",
        "memory",
        "--set",
        "algorithm.rounds=3",
        "--set",
        "seed=5",
        "--set",
        "seed=6",
    ]
    done = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    kept = load(tmp_path / "run" / "scenario.yaml").scenario
    assert (kept.seed, kept.algorithm.rounds) == (6, 3)
    assert "placebo-ok: 3 hospitals, 3 rounds" in done.output
    done = CliRunner().invoke(
        main, [*command, "--set", "algorithm.rounds=0", "--out", str(tmp_path / "other")]
    )
    assert done.exit_code == InvalidValue.exit_code
    assert "error: --set algorithm.rounds: algorithm.rounds: 0" in done.stderr
    assert not (tmp_path / "other").exists()


def test_a_change_can_be_validated() -> None:
    """`validate --set` says what `launch --set` would refuse, and what it would take."""
    command = ["validate", "placebo-ok", "--set", "hospitals.east.architecture=bigger", "--set"]
    done = CliRunner().invoke(main, [*command, "seed=5"])
    assert (done.exit_code, "east (bigger)" in done.output) == (0, True)
    done = CliRunner().invoke(main, [*command, "algorithm.rounds=0"])
    assert done.exit_code == InvalidValue.exit_code
    assert "error: --set algorithm.rounds: algorithm.rounds: 0" in done.stderr
