"""The JSON Schema that editors get takes what the program takes and refuses what it refuses."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from fedskd_sim.cli import main
from fedskd_sim.scenario import Ham10000, Scenario

SCENARIOS = sorted((Path(__file__).parents[3] / "scenarios").glob("*.yaml"))
GOOD = """\
name: good
data: {name: synthetic-skin}
hospitals:
  - {name: a, architecture: cnn-plain}
  - {name: b, architecture: {name: cnn-plain, options: {width: 8}}, data: {samples: 60},
     device: cpu}
algorithm: {name: fedskd, rounds: 3, similarity: {batch: 0.5}}
timeouts: {register: 60}
"""
CHANGES = {
    "an unknown key": ("name: good", "name: good\nsed: 7"),
    "an unknown key of a hospital": ("device: cpu", "divice: cpu"),
    "an unknown key of a hospital's data": ("samples: 60", "sampels: 60"),
    "an unknown key of an architecture": ("options: {width: 8}", "width: 8"),
    "an unknown key of the data": ("{name: synthetic-skin}", "{name: synthetic-skin, site: x}"),
    "an unknown key of similarity": ("batch: 0.5", "batsh: 0.5"),
    "Python's name of a key": ("register: 60", "register_: 60"),
    "an unknown algorithm": ("name: fedskd", "name: fedavg"),
    "rounds 0": ("rounds: 3", "rounds: 0"),
    "a negative weight": ("batch: 0.5", "batch: -0.5"),
    "a quoted number": ("rounds: 3", "rounds: '3'"),
    "a name with capitals": ("name: good", "name: Good"),
    "a device": ("device: cpu", "device: gpu"),
    "a number for an architecture": ("architecture: cnn-plain}", "architecture: 4}"),
    "no algorithm": ("algorithm: {name: fedskd, rounds: 3, similarity: {batch: 0.5}}\n", ""),
}


@cache
def printed() -> Draft202012Validator:
    schema = json.loads(CliRunner().invoke(main, ["validate", "--schema"]).stdout)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def messages(text: str) -> list[str]:
    return [
        error.message for error in printed().iter_errors(YAML(typ="safe", pure=True).load(text))
    ]


def test_the_json_schema_knows_every_key() -> None:
    """Editors get the same keys the program takes, each with a sentence, and unknown ones are
    marked.
    """
    schema = Scenario.model_json_schema(by_alias=True)
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == {
        field.alias or name for name, field in Scenario.model_fields.items()
    }
    for part in (schema, *schema["$defs"].values()):
        for name, entry in part.get("properties", {}).items():
            assert entry.get("description") or "$ref" in entry, name
    assert json.loads(json.dumps(schema)) == schema
    assert set(Ham10000.model_fields) <= set(schema["$defs"]["Ham10000"]["properties"])


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.name)
def test_the_scenarios_of_the_project_have_no_errors_in_an_editor(path: Path) -> None:
    """An editor that uses the printed schema marks nothing in any of our files."""
    assert messages(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(("old", "new"), CHANGES.values(), ids=CHANGES.keys())
def test_an_editor_marks_what_the_program_refuses(old: str, new: str) -> None:
    """Unknown keys at every depth, wrong types and values out of range are errors of the schema,
    too.
    """
    assert messages(GOOD) == []
    assert GOOD.count(old) == 1
    assert messages(GOOD.replace(old, new))
