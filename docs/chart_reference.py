"""Writes what the chart says of its values, from values.yaml: the table of its README, and the
defaults that stand in for null. Run it after a change of values.yaml; a test says when to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

CHART = Path(__file__).parent.parent / "helm" / "fedskd-sim"
BEGIN, END = "<!-- values: made by docs/chart_reference.py -->", "<!-- end of values -->"
KEY = re.compile(r"^(?P<indent> *)(?P<key>[\w-]+):(?P<rest>.*)$")
BESIDE = re.compile(r"(?:^|\s{2,})#\s(?P<words>.*)$")
OVER = re.compile(r"^ *# (?P<words>\S.*)$")


class Value(NamedTuple):
    """A key of the values: its place, its default, and what its comments say."""

    place: tuple[str, ...]
    default: Any
    words: str
    is_part: bool
    """It only holds other keys of the chart."""


def values() -> list[Value]:
    """Read every key of values.yaml that the schema knows, in the file's order."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return list(_walk(yaml.safe_load(text), schema, schema, _comments(text), ()))


def _walk(
    part: Mapping[str, Any],
    schema: Mapping[str, Any],
    root: Mapping[str, Any],
    comments: Mapping[tuple[str, ...], str],
    place: tuple[str, ...],
) -> Iterator[Value]:
    for key, default in part.items():
        inner, here = schema["properties"][key], (*place, key)
        name = inner.get("$ref", "").rpartition("/")[2]
        inner = root["$defs"][name] if name else inner
        # a mapping with keys of its own is a part, but for what goes into a pod as it stands
        is_part = bool(default) and inner.get("additionalProperties") is False
        is_part = is_part and name != "resources"
        yield Value(here, default, comments.get(here, ""), is_part)
        if is_part:
            yield from _walk(default, inner, root, comments, here)


def _comments(text: str) -> dict[tuple[str, ...], str]:
    """Collect the comments over and beside every key of a YAML text, by the key's place."""
    found: dict[tuple[str, ...], str] = {}
    place: list[tuple[int, str]] = []
    over: list[str] = []
    for line in text.splitlines():
        if comment := OVER.match(line):
            over.append(comment["words"])
        elif key := KEY.match(line):
            indent = len(key["indent"])
            place = [*(one for one in place if one[0] < indent), (indent, key["key"])]
            beside = BESIDE.search(key["rest"])
            words = [*over, *([beside["words"]] if beside else [])]
            found[tuple(name for _, name in place)] = " ".join(words)
            over = []
        else:
            over = []
    return found


def table() -> str:
    """Write the README's table of values."""
    rows = [
        f"| {_name(value)} | {_default(value)} | {value.words.replace('|', chr(92) + '|')} |"
        for value in values()
        if value.words or not value.is_part
    ]
    return "\n".join(["| value | default | |", "|---|---|---|", *rows])


def _name(value: Value) -> str:
    return f"`{'.'.join(value.place)}`"


def _default(value: Value) -> str:
    if value.is_part:
        return ""
    text = yaml.safe_dump(value.default, default_flow_style=True, width=1000, sort_keys=False)
    return f"`{text.removesuffix(chr(10)).removesuffix('...').strip()}`"


def defaults() -> str:
    """Write what null stands for, by place: of parts their keys, of all others the whole."""
    known = {".".join(one.place): one.default for one in values() if not one.is_part}
    return json.dumps(known, indent=2) + "\n"


def readme(text: str) -> str:
    """Put the table into the README's text."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Write both files."""
    file = CHART / "README.md"
    file.write_text(readme(file.read_text(encoding="utf-8")), encoding="utf-8")
    (CHART / "files" / "defaults.json").write_text(defaults(), encoding="utf-8")


if __name__ == "__main__":
    main()
