"""Fills pages of the manual with what the program says of itself, when the manual is built; so they
cannot be out of date.

A line ``<!-- fill: NAME -->`` of a page, and the sentence in italics under it, which is for whoever
reads the page in a checkout, are replaced by what the function of that name in `FILLINGS` gives.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click

from fedskd_sim import errors
from fedskd_sim.cli import main
from fedskd_sim.scenario import Scenario, load, scenarios

MARK = re.compile(r"^<!-- fill: ([a-z-]+) -->\n(?:\*[^*]+\*$)?", re.MULTILINE)
LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
}


def scenario_reference() -> str:
    """Describe every key of a scenario, part by part, from its schema."""
    schema = Scenario.model_json_schema(by_alias=True)
    parts = {"The scenario": schema, **schema["$defs"]}
    return "\n\n".join(_part(title, part, schema["$defs"]) for title, part in parts.items())


def _part(title: str, part: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    keys = part.get("properties", {})
    rows = "\n".join(_row(key, entry, _default(key, part, parts)) for key, entry in keys.items())
    table = (
        f"| key | value | default | meaning |\n|---|---|---|---|\n{rows}"
        if rows
        else "It has no keys."
    )
    return f"## {title}\n\n{_words(part.get('description', ''))}\n\n{table}"


def _row(key: str, entry: Mapping[str, Any], default: str) -> str:
    cells = (f"`{key}`", _kind(entry), default, _words(entry.get("description", "")))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(key: str, part: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    """Say what a key is when it is not there; a part whose keys have their own defaults is not
    written out.
    """
    if key in part.get("required", ()):
        return "**needed**"
    entry = part["properties"][key]
    inner = parts.get(entry.get("$ref", "").rpartition("/")[2], {}).get("properties", {})
    if inner and entry.get("default") == {
        name: one["default"] for name, one in inner.items() if "default" in one
    }:
        return "see there"
    return f"`{_yaml(entry.get('default', entry.get('const')))}`"


def _kind(entry: Mapping[str, Any]) -> str:
    """Say what a key may hold."""
    if "$ref" in entry:
        name = entry["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if choices := entry.get("oneOf") or entry.get("anyOf") or entry.get("allOf"):
        return " or ".join(dict.fromkeys(_kind(choice) for choice in choices))
    if "const" in entry or "enum" in entry:
        return " or ".join(f"`{_yaml(value)}`" for value in entry.get("enum", [entry.get("const")]))
    if entry.get("type") == "array":
        return f"list of {_kind(entry.get('items', {}))}"
    if entry.get("type") == "object":
        values = entry.get("additionalProperties", {})
        return (
            f"mapping of names to {_kind(values)}"
            if isinstance(values, dict) and values
            else "mapping"
        )
    limits = [
        f"{words} {entry[limit]:g}"
        for limit, words in LIMITS.items()
        if limit in entry and abs(entry[limit]) < 2**31
    ]
    return " ".join([entry.get("type", "anything"), ", ".join(limits)]).strip()


def _yaml(value: Any) -> str:
    """Write a default as one would in a scenario."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_yaml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value) or "''"


def _words(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def exit_codes() -> str:
    """List every exit code with its error and what it means, from the tree of errors."""
    fixed = [
        ("0", "", "success"),
        ("1", "", "an error that nobody foresaw: please report it"),
        ("2", "", "wrong use of the command line"),
    ]
    drawn = re.findall(r"-- (\w+) +(\d+)  (\S.*)$", errors.__doc__ or "", re.MULTILINE)
    rows = [
        *fixed,
        *((code, f"`{name}`", words) for name, code, words in drawn),
        ("130", "", "interrupted"),
    ]
    return "| code | error | meaning |\n|---|---|---|\n" + "\n".join(
        f"| {' | '.join(row)} |" for row in rows
    )


def command_line() -> str:
    """Show the help of every command that a person uses."""
    context = click.Context(main, info_name="fedskd-sim", max_content_width=110)
    shown = ((name, command) for name, command in main.commands.items() if not command.hidden)
    return "\n\n".join(
        f"## {name}\n\n```text\n{_help(command, name, context)}\n```" for name, command in shown
    )


def _help(command: click.Command, name: str, parent: click.Context) -> str:
    return command.get_help(click.Context(command, info_name=name, parent=parent))


def scenario_names() -> str:
    """List the scenarios that come with the program, each with its own sentence."""
    return "\n".join(
        f"| `{name}` | {load(file).scenario.description} |"
        for name, file in sorted(scenarios().items())
    )


def quickstart() -> str:
    """Show the text of the first scenario."""
    return f"```yaml\n{scenarios()['quickstart'].read_text(encoding='utf-8')}```"


FILLINGS: Mapping[str, Callable[[], str]] = {
    "scenario-reference": scenario_reference,
    "exit-codes": exit_codes,
    "command-line": command_line,
    "scenario-names": scenario_names,
    "quickstart": quickstart,
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill a page; mkdocs calls it for each. Raises KeyError for a filling that there is not."""
    return MARK.sub(lambda mark: FILLINGS[mark.group(1)]() + "\n", markdown)


def markers(markdown: str) -> Iterator[str]:
    """List the fillings that a page asks for."""
    return (mark.group(1) for mark in MARK.finditer(markdown))
