"""Scenario files: every bad one has file, line, value, fix and its own exit code; good ones load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedskd_sim.errors import (
    DuplicateHospital,
    FedskdError,
    InvalidValue,
    ScenarioSyntaxError,
    TooFewHospitals,
    UnknownKey,
)
from fedskd_sim.scenario import Ham10000, Scenario, SyntheticSkin, load

SCENARIOS = sorted((Path(__file__).parent.parent.parent / "scenarios").glob("*.yaml"))
GOOD = """\
name: good
seed: 7
data: {name: synthetic-skin, samples: 50}
hospitals:
  - {name: a, architecture: cnn-plain}
  - name: b
    architecture: {name: cnn-plain, options: {width: 8}}
    data: {samples: 60}
algorithm:
  name: fedskd
  rounds: 3
  similarity: {batch: 0.5}
"""


def broken(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


BAD = {
    "unknown key": (broken("seed: 7", "sed: 7"), UnknownKey, 2, "did you mean 'seed'?"),
    "unknown nested key": (broken("batch: 0.5", "batsh: 0.5"), UnknownKey, 12, "did you mean 'batch'?"),
    "unknown key of a hospital's data": (broken("{samples: 60}", "{sampels: 60}"), UnknownKey, 8, "did you mean 'samples'?"),
    "unknown key of all data": (broken("samples: 50", "sampels: 50"), UnknownKey, 3, "did you mean 'samples'?"),
    "wrong type": (broken("rounds: 3", "rounds: three"), InvalidValue, 11, '"three"'),
    "number as text": (broken("rounds: 3", "rounds: '3'"), InvalidValue, 11, '"3"'),
    "truth for a number": (broken("rounds: 3", "rounds: true"), InvalidValue, 11, "true"),
    "nothing for a number": (broken("rounds: 3", "rounds:"), InvalidValue, 11, "null"),
    "rounds 0": (broken("rounds: 3", "rounds: 0"), InvalidValue, 11, "greater than or equal to 1"),
    "negative weight": (broken("batch: 0.5", "batch: -0.5"), InvalidValue, 12, "-0.5"),
    "infinite weight": (broken("batch: 0.5", "batch: .inf"), InvalidValue, 12, "finite"),
    "negative seed": (broken("seed: 7", "seed: -7"), InvalidValue, 2, "-7"),
    "missing key": (broken("name: good\n", ""), InvalidValue, 1, "add 'name: ...'"),
    "missing algorithm name": (broken("  name: fedskd\n", ""), InvalidValue, 9, "add 'name: ...'"),
    "unknown algorithm": (broken("name: fedskd", "name: fedskt"), InvalidValue, 10, "did you mean 'fedskd'?"),
    "unknown data": (broken("synthetic-skin", "synthetic-skim"), InvalidValue, 3, "did you mean 'synthetic-skin'?"),
    "architecture as a number": (broken("architecture: cnn-plain}", "architecture: 4}"), InvalidValue, 5, "4"),
    "hospitals as a mapping": (
        GOOD.split("hospitals:", maxsplit=1)[0] + "hospitals: {a: 1}\nalgorithm: {name: fedskd}\n",
        InvalidValue,
        4,
        "",
    ),
    "a hospital's name that is no host name": (broken("name: b\n", "name: B_1\n"), InvalidValue, 6, "B_1"),
    "two hospitals of one name": (broken("name: b\n", "name: a\n"), DuplicateHospital, 6, "hospital number 1"),
    "reserved name": (broken("name: b\n", "name: controller\n"), InvalidValue, 6, "reserved"),
    "one hospital": (GOOD.split("  - name: b", maxsplit=1)[0] + "algorithm: {name: fedskd}\n", TooFewHospitals, 4, "at least two"),
    "no hospitals": ("name: x\nhospitals: []\nalgorithm: {name: fedskd}\n", TooFewHospitals, 2, "no hospitals"),
    "duplicate key": (broken("seed: 7", "seed: 7\nseed: 8"), ScenarioSyntaxError, 3, "first in line 2"),
    "duplicate nested key": (broken("rounds: 3", "rounds: 3\n  rounds: 4"), ScenarioSyntaxError, 12, "stands twice"),
    "tab": (broken("  rounds: 3", "\trounds: 3"), ScenarioSyntaxError, 11, "spaces"),
    "anchor that loops": (broken("seed: 7", "seed: &s [*s]"), ScenarioSyntaxError, 2, "contains itself"),
    "unknown anchor": (broken("seed: 7", "seed: *s"), ScenarioSyntaxError, 2, "undefined alias"),
    "open bracket": (broken("{batch: 0.5}", "{batch: 0.5"), ScenarioSyntaxError, 13, "not YAML"),
    "two documents": (GOOD + "---\nname: other\n", ScenarioSyntaxError, 13, "not YAML"),
    "a list": ("- name: x\n", ScenarioSyntaxError, 1, "mapping"),
    "nothing": ("", ScenarioSyntaxError, 1, "mapping"),
    "ports past the last": (GOOD + "metrics: {port: 65534}\n", InvalidValue, 13, "past port 65535"),
    "plaintext Unix sockets": (GOOD + "network: {plaintext: true}\n", InvalidValue, 13, "transport: tcp"),
    "deadline 0": (GOOD + "timeouts: {hop: 0}\n", InvalidValue, 13, "greater than 0"),
    "a date": (broken("seed: 7", "seed: 2026-01-01"), InvalidValue, 2, "2026-01-01"),
}


@pytest.mark.parametrize(("text", "kind", "line", "words"), BAD.values(), ids=BAD.keys())
def test_bad_scenarios_have_file_line_value_fix_and_code(
    text: str, kind: type[FedskdError], line: int | None, words: str, scenario_file: Callable
) -> None:
    """Each kind of mistake raises its own error at its own line, with words that help."""
    path = scenario_file(text)
    with pytest.raises(FedskdError) as caught:
        load(path)
    assert type(caught.value) is kind
    assert (caught.value.where.file, caught.value.where.line) == (str(path), line)
    assert words in str(caught.value).splitlines()[0] + str(caught.value).splitlines()[1]
    assert caught.value.fix


def test_all_problems_are_listed_in_the_order_of_the_file(scenario_file: Callable) -> None:
    """One run of the check shows every mistake, first lines first."""
    text = broken("rounds: 3", "rounds: 0").replace("seed: 7", "sed: 7").replace("batch: 0.5", "batch: -1")
    with pytest.raises(UnknownKey) as caught:
        load(scenario_file(text))
    assert [error.where.line for error in (caught.value, *caught.value.others)] == [2, 11, 12]


def test_exploding_anchors_are_refused_quickly(scenario_file: Callable) -> None:
    """A billion laughs end at a hundred thousand."""
    levels = "".join(f"  - &l{level} [{', '.join([f'*l{level - 1}'] * 10)}]\n" for level in range(1, 10))
    with pytest.raises(ScenarioSyntaxError, match="too many values"):
        load(scenario_file("name: x\nlaughs:\n  - &l0 [a]\n" + levels))


@pytest.mark.parametrize(("content", "words"), [(b"\xff\xfe\x00", "UTF-8"), (b"#" * (1 << 20) + b"#", "1 MiB")])
def test_files_that_are_no_scenario_are_refused(content: bytes, words: str, tmp_path: Path) -> None:
    """Binary and huge files have a clear error."""
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(ScenarioSyntaxError, match=words):
        load(tmp_path / "x.yaml")


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_missing_file_and_a_folder_are_errors(name: str, tmp_path: Path) -> None:
    """The error says that the scenario cannot be read, and why."""
    with pytest.raises(ScenarioSyntaxError, match="cannot read the scenario"):
        load(tmp_path / name)


def test_hospitals_inherit_the_data_and_override_keys(scenario_file: Callable) -> None:
    """A hospital's data is the top level's with its own keys on top; a bare architecture name has no options."""
    scenario = load(scenario_file(GOOD)).scenario
    first, second = (hospital.data for hospital in scenario.hospitals)
    assert isinstance(first, SyntheticSkin)
    assert (first.samples, second.samples, second.classes) == (50, 60, first.classes)
    assert scenario.hospitals[0].architecture.options == {}
    assert scenario.hospitals[1].architecture.options == {"width": 8}


def test_harmless_anchors_and_merges_of_values_work(scenario_file: Callable) -> None:
    """An anchor that does not loop stands for its value wherever it is used."""
    text = broken("cnn-plain}", "&plain cnn-plain}").replace("{name: cnn-plain, options: {width: 8}}", "*plain")
    assert load(scenario_file(text)).scenario.hospitals[1].architecture.name == "cnn-plain"


def test_a_scenario_cannot_be_changed(scenario_file: Callable) -> None:
    """What was read is frozen."""
    scenario = load(scenario_file(GOOD)).scenario
    with pytest.raises(ValueError, match="frozen"):
        scenario.seed = 8


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.name)
def test_the_scenarios_of_the_project_load_and_fit_on_a_screen(path: Path) -> None:
    """Every file in scenarios/ is good, has a sentence for people, is named as its file, and has under 40 lines."""
    scenario = load(path).scenario
    assert scenario.name == path.stem
    assert scenario.description
    assert path.read_text().count("\n") < 40


def test_the_json_schema_knows_every_key() -> None:
    """Editors get the same keys the program takes, each with a sentence, and unknown ones are marked."""
    schema = Scenario.model_json_schema(by_alias=True)
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == {field.alias or name for name, field in Scenario.model_fields.items()}
    for part in (schema, *schema["$defs"].values()):
        for name, entry in part.get("properties", {}).items():
            assert entry.get("description") or "$ref" in entry, name
    assert json.loads(json.dumps(schema)) == schema
    assert set(Ham10000.model_fields) <= set(schema["$defs"]["Ham10000"]["properties"])
