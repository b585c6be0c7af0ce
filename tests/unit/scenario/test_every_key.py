"""No key without somebody who sets it: a shipped scenario, an example of the manual or a test."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from fedskd_sim.scenario import json_schema

ROOT = Path(__file__).parents[3]
FENCED = re.compile(r"^```ya?ml.*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
CHANGE = re.compile(r"([a-z_]+(?:\.[\w-]+)*)=(.+)")
Key = tuple[str, str]


class Walk:
    """Goes through the values of scenarios along the printed schema and notes every key it meets,
    by the part of a scenario that has it; all algorithms are one part, and all data is.
    """

    def __init__(self) -> None:
        self.schema = json_schema()
        self.parts = {"Scenario": self.schema, **self.schema["$defs"]}
        self.homes = {
            choice["$ref"].rpartition("/")[2]: union
            for union in ("algorithm", "data")
            for choice in self.schema["properties"][union]["oneOf"]
        }
        self.known = {
            (self.homes.get(title, title), key)
            for title, part in self.parts.items()
            for key in part.get("properties", {})
        }
        self.met: set[Key] = set()
        names = Counter(name for _, name in self.known)
        self.alone = {name: (home, name) for home, name in self.known if names[name] == 1}
        self.begins = re.compile(rf"^({'|'.join(self.schema['properties'])}):", re.MULTILINE)

    def text(self, text: str) -> None:
        """Note the keys of a text: a scenario or as much of one as an example shows, a change as
        ``--set`` takes it, or a piece of a line that has keys of a name that no other part knows.
        """
        if change := CHANGE.fullmatch(text):
            *outer, last = change[1].split(".")
            text = "".join(f"{step}: {{" for step in outer)
            text += f"{last}: {change[2]}" + "}" * len(outer)
        if self.begins.search(text):
            with suppress(yaml.YAMLError):
                self.scenario(yaml.load(text, Loader=yaml.CBaseLoader))
        for name in re.findall(r"(?<![\w.])([a-z_]+): ?[\[{\w.'\"-]", text):
            self.met |= {self.alone[name]} if name in self.alone else set()

    def scenario(self, values: Any) -> None:
        if isinstance(values, dict) and values.keys() <= self.schema["properties"].keys():
            self.part("Scenario", values)

    def part(self, title: str, values: dict[str, Any]) -> None:
        properties = self.parts[title].get("properties", {})
        for key in values.keys() & properties.keys():
            self.met.add((self.homes.get(title, title), key))
            self.value(self.forms(title, key), values[key])

    def forms(self, title: str, key: str) -> dict[str, Any]:
        """A hospital's data is that of the top level, in part."""
        part = self.schema if (title, key) == ("Hospital", "data") else self.parts[title]
        form: dict[str, Any] = part["properties"][key]
        return form

    def value(self, form: dict[str, Any], value: Any) -> None:
        if "$ref" in form and isinstance(value, dict):
            self.part(form["$ref"].rpartition("/")[2], value)
        for choice in (*form.get("oneOf", ()), *form.get("anyOf", ()), *form.get("allOf", ())):
            self.value(choice, value)
        named = [*form.get("patternProperties", {}).values(), form.get("additionalProperties")]
        items = form.get("items", named[0])
        inner = [*value.values()] if isinstance(value, dict) else value
        if isinstance(items, dict) and isinstance(inner, list):
            for one in inner:
                self.value(items, one)


def texts() -> Iterator[str]:
    """Yield every text that may be a scenario or a piece of one: files, the manual's blocks and
    strings of tests.
    """
    for folder in ("scenarios", "tests", "examples"):
        for path in (ROOT / folder).rglob("*.yaml"):
            yield path.read_text(encoding="utf-8")
    for path in (ROOT / "docs").rglob("*.md"):
        yield from FENCED.findall(path.read_text(encoding="utf-8"))
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                said = (isinstance(one, ast.Constant) and one.value for one in node.values)
                yield "".join(str(one or "x") for one in said)


def unset(found: Iterable[str]) -> list[Key]:
    walk = Walk()
    for text in found:
        walk.text(text)
    assert len(walk.known) > 150
    return sorted(walk.known - walk.met)


def test_somebody_sets_every_key() -> None:
    """Every key of the schema, those of packages too, is set by a shipped scenario, an example of
    the manual or a test: what nobody writes nobody needs, and nobody has tried.
    """
    found = [*texts()]
    assert unset(found) == []
    without = unset(text for text in found if "mutual_kl" not in text)
    assert ("algorithm", "mutual_kl") in without, "nothing would be missed"
