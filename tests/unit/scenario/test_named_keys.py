"""Every key that a text names exists: in alerts, in the chart, in messages of the program and in
what people read.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from fedskd_sim import methods, scenario
from fedskd_sim.learning.algorithms.learners import _LEARNERS
from fedskd_sim.learning.installed import ALGORITHM, fetch
from fedskd_sim.learning.kept import Keeping
from fedskd_sim.scenario import ALGORITHMS, KEYS, AlgorithmKeys, Scenario, offered_names
from fedskd_sim.scenario.offered import keys_offered
from fedskd_sim.scenario.own import NAMES

HOME = "fedskd_sim.methods."
ROOT = Path(__file__).parents[3]
CHART = ROOT / "helm" / "fedskd-sim"
TOP = sorted(
    {field.alias or name for name, field in Scenario.model_fields.items()}
    - {"name", "description", "seed", "hospitals"}
)
NAMED = re.compile(rf"(?<![\w./$-])((?:{'|'.join(TOP)})(?:\.[a-z]\w*)+)(?![\w(/-]|\.\w)")
FILES = {"py", "yaml", "yml", "json", "jsonl", "npz", "md", "csv", "html", "txt", "safetensors"}
TEXTS = [
    *CHART.glob("files/rules/*.yaml"), *CHART.glob("**/*.md"), CHART / "values.yaml",
    *CHART.glob("templates/*.txt"), *(ROOT / "k8s").rglob("*.md"), *(ROOT / "scenarios").glob("*"),
    ROOT / "README.md", *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "tests" / "chart" / "rules").glob("*.yaml"),
]  # fmt: skip
STYLES = {"grid.color", "grid.linewidth"}
"""Settings of matplotlib, whose first part is a key of scenarios, too."""
MODULES = sorted((ROOT / "fedskd_sim").rglob("*.py"))


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Find the schema's classes in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models(part)


def known(path: list[str], part: Any = Scenario) -> bool:
    """Tell whether a scenario may have a key at a path, whichever algorithm or data set it has."""
    if not path:
        return True
    if get_origin(part) is dict:  # the first word is a name of the scenario's own
        return known(path[1:], get_args(part)[1])
    found = [
        field.annotation
        for model in models(part)
        for name, field in model.model_fields.items()
        if path[0] in (field.alias, None if field.alias else name)
    ]
    if part is Scenario and path[0] == "algorithm":
        found += map(keys_offered, offered_names())
    return any(known(path[1:], annotation) for annotation in found)


def test_every_algorithm_has_its_places() -> None:
    """What the keys offer has a class that teaches it, and keys that other layers can name."""
    kinds = {*models(Scenario.model_fields["algorithm"].annotation)}
    offered = {
        name: kind
        for kind in kinds
        if issubclass(kind, AlgorithmKeys)
        for name in get_args(kind.model_fields["name"].annotation)
    }
    assert offered.keys() == NAMES == {*_LEARNERS, "placebo"}
    assert all(getattr(scenario, kind.__name__) is kind for kind in offered.values())
    assert {kind.__name__ for kind in offered.values()} <= {*scenario.__all__}
    home = "fedskd_sim.learning.algorithms"
    for place in _LEARNERS.values():
        module, _, name = place.partition(".")
        assert issubclass(getattr(import_module(f"{home}.{module}"), name), Keeping)


def test_every_method_is_found_as_a_strangers_is() -> None:
    """Entry points of this program offer every module of `fedskd_sim.methods`: a learner on a
    base, whose keys are those that are offered by themselves.
    """
    modules = {one.name for one in iter_modules(methods.__path__)} - {"keys"}
    offered = [one for one in entry_points(group=ALGORITHMS) if one.value.startswith(HOME)]
    assert {one.module.removeprefix(HOME) for one in offered} == modules
    assert {one.name for one in offered} == {
        one.name for one in entry_points(group=KEYS) if one.value.startswith(HOME)
    }
    for one in offered:
        learner = fetch(ALGORITHM, one.name)
        assert issubclass(learner, Keeping)
        assert learner.keys is keys_offered(one.name)
        own = {*vars(learner)} & {"alone", "visit", "homecome", "depart", "evaluate"}
        assert keys_offered(one.name).base_sessions == (not own)


def in_chart(path: list[str]) -> bool:
    """Tell whether the chart's values have a key at a path."""
    values = YAML(typ="safe", pure=True).load((CHART / "values.yaml").read_text(encoding="utf-8"))
    for step in path:
        if not isinstance(values, dict) or step not in values:
            return False
        values = values[step]
    return True


def unknown(text: str) -> set[str]:
    """Give the dotted keys of a text that neither a scenario nor the chart has, but for those of
    which the text shows the program's word that they are unknown.
    """
    text = re.sub(r"^.*: unknown key \(.*$", "", text, flags=re.MULTILINE)
    paths = {name for name in NAMED.findall(text) if name.rpartition(".")[2] not in FILES}
    return {
        name
        for name in paths - STYLES
        if not known(name.split(".")) and not in_chart(name.split("."))
    }


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_texts_name_keys_that_exist(path: Path) -> None:
    """Rules, chart, scenarios and what people read speak of keys that a scenario or the chart
    may have.
    """
    assert not unknown(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_messages_name_keys_that_exist(path: Path) -> None:
    """So do the texts within the program: messages, fixes, help and docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert not set.union(set(), *map(unknown, texts))


def test_a_key_that_does_not_exist_is_seen() -> None:
    """The check knows a wrong key from a right one, in a sentence and at its end."""
    assert unknown("Lower algorithm.optimiser.learning_rate.") == {
        "algorithm.optimiser.learning_rate"
    }
    assert (
        unknown("Lower training.optimiser.learning_rate, or algorithm.similarity.batch.") == set()
    )
    assert unknown("Set metrics.podMonitor.enabled, timeouts.register, data.py.") == set()
