"""Algorithms whose keys a package offers by themselves: a scenario with one is read, explained and
compared without PyTorch, and its keys are in the schema.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from fedskd_sim.errors import InvalidValue, ScenarioError, UnknownKey
from fedskd_sim.operate import comparison
from fedskd_sim.operate.checks import own_parts
from fedskd_sim.results.comparison.planning import choices, methods
from fedskd_sim.scenario import json_schema, load
from fedskd_sim.scenario.elsewhere import ABSENT, RENAMED
from fedskd_sim.scenario.offered import default_of, keys_offered

KEYS = """
from fedskd_sim import AllReduceKeys

class Keys(AllReduceKeys):
    '''A method.'''
    strength: float = 0.5
    '''How much.'''

    @property
    def words(self):
        return f"It is {self.strength} strong."

    @property
    def idle(self):
        return {"strength": "one round is too short for it"} if self.rounds == 1 else {}

wrong = 3
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def offer(**keys: str) -> None:
        info = tmp_path / "strong-1.0.dist-info"
        info.mkdir()
        (tmp_path / "strong_keys.py").write_text(KEYS)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strong\nVersion: 1.0\n")
        lines = "\n".join(f"{name} = {value}" for name, value in keys.items())
        (info / "entry_points.txt").write_text(f"[fedskd_sim.keys]\n{lines}\n")
        monkeypatch.syspath_prepend(tmp_path)

    yield offer
    sys.modules.pop("strong_keys", None)


def text(algorithm: str) -> str:
    return f"""
name: offered
data: {{name: synthetic-skin}}
hospitals:
  - {{name: h0, architecture: cnn-plain}}
  - {{name: h1, architecture: cnn-plain}}
algorithm: {algorithm}
"""


def test_what_keys_say_is_known_without_pytorch(
    package: Callable[..., None], scenario_file: Callable[[str], Path]
) -> None:
    """A scenario is read, and its algorithm knows words, settings, what is idle and what travels;
    defaults of keys that were left out are among the settings.
    """
    package(strong="strong_keys:Keys")
    loaded = load(scenario_file(text("{name: strong, rounds: 3}")))
    algorithm = loaded.scenario.algorithm
    assert algorithm.words == "It is 0.5 strong."
    assert algorithm.pattern == "all_reduce"
    assert algorithm.settings == {
        "name": "strong", "rounds": 3, "loss": None, "options": {}, "strength": 0.5,
    }  # fmt: skip
    assert not loaded.idle
    (idle,) = load(scenario_file(text("{name: strong, rounds: 1, strength: 2}"))).idle
    assert "algorithm.strength has no effect: one round" in idle


def test_its_wrong_keys_are_told_as_those_of_built_in_algorithms(
    package: Callable[..., None], scenario_file: Callable[[str], Path]
) -> None:
    """A misspelt key, a value that cannot be and a key of another place have line and fix."""
    package(strong="strong_keys:Keys")
    with pytest.raises(ScenarioError) as found:
        load(scenario_file(text("{name: strong, strenght: 1, rounds: many, batch_size: 3}")))
    errors = {error.key[-1]: error for error in (found.value, *found.value.others)}
    assert all(error.where.line == 7 for error in errors.values())
    assert isinstance(errors["strenght"], UnknownKey)
    assert "did you mean 'strength'?" in errors["strenght"].fix
    assert "give a whole number" in errors["rounds"].fix
    assert "training: {batch_size: ...}" in errors["batch_size"].fix


def test_a_misspelt_name_is_near_one_that_is_offered(scenario_file: Callable[[str], Path]) -> None:
    """Names that packages offer are among those that are suggested."""
    with pytest.raises(InvalidValue, match="no algorithm") as found:
        load(scenario_file(text("{name: fedprot}")))
    assert "did you mean 'fedproto'?" in found.value.fix


@pytest.mark.parametrize("name", [*ABSENT, *RENAMED])
def test_a_method_of_the_field_is_told_where_it_is(
    scenario_file: Callable[[str], Path], name: str
) -> None:
    """Who asks for it hears in the fix why it is not here, or how it is written; the latter is a
    scenario that loads.
    """
    with pytest.raises(InvalidValue, match=f'no algorithm "{name}"') as found:
        load(scenario_file(text(f"{{name: {name}}}")))
    assert (found.value.key, found.value.where.line) == (("algorithm", "name"), 7)
    fix = found.value.fix
    if name in ABSENT:
        assert fix == f"{name} is not here: it {ABSENT[name]}"
        assert len(fix.split()) <= 30
        return
    assert fix == f"{name} is written {RENAMED[name]}"
    assert load(scenario_file(text(RENAMED[name]))).scenario.algorithm.rounds == 2


def test_what_is_no_class_of_keys_is_refused(package: Callable[..., None]) -> None:
    """A package that offers something else, or cannot be imported, is named."""
    package(three="strong_keys:wrong", gone="strong_keys:gone", fedskd="strong_keys:Keys")
    with pytest.raises(InvalidValue, match="strong_keys:wrong, are int"):
        keys_offered("three")
    with pytest.raises(InvalidValue, match="cannot be imported: AttributeError"):
        keys_offered("gone")
    assert keys_offered("fedskd") is None  # a built-in name is nobody else's
    assert default_of("nobody", 3) is None


def test_it_is_compared_by_its_name_alone(
    package: Callable[..., None], scenario_file: Callable[[str], Path]
) -> None:
    """`compare --algorithms` takes it with its defaults, at equal work."""
    package(strong="strong_keys:Keys")
    scenario = load(scenario_file(text("{name: fedskd, rounds: 3}"))).scenario
    assert {"strong", "fml", "fedproto", "fedprox"} < {*choices(scenario)}
    (method,) = methods(scenario, ["strong"])
    assert method.scenario.algorithm.settings["strength"] == 0.5
    assert method.scenario.algorithm.rounds == 12  # of one pass; fedskd's are of four


@pytest.mark.parametrize("good", ["{name: fml, weight: 2}", "{name: strong, strength: 1}"])
def test_the_schema_has_its_keys(package: Callable[..., None], good: str) -> None:
    """Editors know the keys of every algorithm that a package offers, in variants too."""
    package(strong="strong_keys:Keys")
    schema: Any = Draft202012Validator(json_schema())
    values = YAML(typ="safe", pure=True).load(text(good))
    assert not [*schema.iter_errors(values)]
    variant = {**values, "variants": {"other": {"algorithm": values["algorithm"]}}}
    assert not [*schema.iter_errors(variant)]
    variant["variants"]["other"]["algorithm"] = {**values["algorithm"], "wieght": 1}
    assert [*schema.iter_errors(variant)]
    assert [*schema.iter_errors({**values, "algorithm": {**values["algorithm"], "wieght": 1}})]


def test_reading_imports_no_pytorch(scenario_file: Callable[[str], Path]) -> None:
    """A controller, which has none, reads a scenario with a method of this program."""
    file = scenario_file(text("{name: fedproto, weight: 2}"))
    code = (
        "import sys, pathlib; from fedskd_sim.scenario import load, json_schema;"
        f"print(load(pathlib.Path({str(file)!r})).scenario.algorithm.settings['weight']);"
        "json_schema(); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == 2.0


def test_what_comes_along_is_tried_by_nobody(scenario_file: Callable[[str], Path]) -> None:
    """`validate` makes a short run with a stranger's algorithm, not with this program's own."""
    assert own_parts(load(scenario_file(text("{name: fml}")))) == ""
    assert own_parts(load(scenario_file(text("{name: fml, loss: mine}")))) == "loss mine"


OWN = """
from fedskd_sim import AlgorithmKeys, LocalLearner, algorithm

@algorithm("alone")
class Alone(LocalLearner):
    keys = AlgorithmKeys
"""


def test_a_method_in_a_file_is_compared_by_its_name(tmp_path: Path) -> None:
    """Though the scenario names another algorithm: it is a variant with its defaults. A name that
    the code does not offer is told with those that it does.
    """
    (tmp_path / "mine.py").write_text(OWN)
    path = tmp_path / "own.yaml"
    path.write_text(text("{name: circulation, rounds: 1}") + "code: [mine.py]\n")
    wanted = comparison.CompareRequest(("alone", "circulation"), 2)
    planned = comparison.plan(path, wanted)
    assert [method.label for method in planned.methods] == ["alone", "circulation"]
    assert planned.methods[0].scenario.algorithm.settings["rounds"] == 4
    with pytest.raises(InvalidValue, match="no algorithm 'alnoe'") as found:
        comparison.plan(path, comparison.CompareRequest(("alnoe", "circulation"), 2))
    assert "did you mean 'alone'?" in found.value.fix
