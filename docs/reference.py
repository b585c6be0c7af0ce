"""Fills pages of the manual with what the program says of itself, and with kept results.

Pages are read in a checkout too, so fillings stand in them. What is between ``<!-- fill: NAME -->``
and ``<!-- end of filling -->`` is what the function of that name in `FILLINGS` gives. Only the
signatures and docstrings of the API are filled in when the manual is built (`BUILT`).

In `results.md`, what is between ``<!-- table: NAME -->`` and ``<!-- end of table -->`` is what
`result_tables` makes of ``results/NAME.json``, the ``compare.json`` of a comparison.

Run this file after a change of one, or of a network, whose row of ``fedskd-sim models`` it writes.
A test says when to.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from inspect import getdoc
from pathlib import Path
from typing import Any, get_args

import click

import fedskd_sim
from fedskd_sim import errors
from fedskd_sim.cli import main
from fedskd_sim.learning.networks.listed import LISTED
from fedskd_sim.learning.networks.listing import shipped
from fedskd_sim.observe.words import amount
from fedskd_sim.privacy.attacks import Guesses
from fedskd_sim.results.comparison.price import SHOWN
from fedskd_sim.results.comparison.statistics import Difference, compare_paired, seed_mean
from fedskd_sim.results.comparison.tables import COMPARED, SCORES
from fedskd_sim.results.comparison.text import NAMES, format_difference
from fedskd_sim.results.rows import percent
from fedskd_sim.scenario import json_schema, scenarios
from fedskd_sim.scenario.datasets import BUILT_IN_READERS, KINDS
from fedskd_sim.scenario.document import read
from fedskd_sim.scenario.elsewhere import ABSENT, RENAMED

RESULTS = Path(__file__).parent / "results"
TABLE = re.compile(
    r"^<!-- table: (?P<name>[a-z0-9-]+) -->\n(?P<rows>.*?)^<!-- end of table -->$",
    re.MULTILINE | re.DOTALL,
)
FILLING = re.compile(
    r"^<!-- fill: (?P<name>[a-z-]+) -->\n(?P<text>.*?)^<!-- end of filling -->$",
    re.MULTILINE | re.DOTALL,
)
BUILT = "python-api"
"""The filling for which Sphinx is needed."""
ALIASES = {
    "NamedArchitecture": "The type of a key that holds an `Architecture` or null. In a file it may "
    "be a mapping, or the architecture's name alone. Use it for a key of your own algorithm."
}
"""Public names of types, which have no docstring that could be read, and what they are."""
LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
}


def scenario_reference() -> str:
    """Describe every key of a scenario, part by part, from its schema."""
    schema = json_schema()
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
        *kinds, last = dict.fromkeys(_kind(choice) for choice in choices)
        return f"{', '.join(kinds)} or {last}" if kinds else last
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
    """Show the help of every command that a person uses, whatever this terminal's width."""
    wide: dict[str, Any] = {**main.context_settings, "terminal_width": 100}
    context = click.Context(main, info_name="fedskd-sim", **wide)
    shown = ((name, command) for name, command in main.commands.items() if not command.hidden)
    return "\n\n".join(
        f"## {name}\n\n```text\n{_help(command, name, context)}\n```" for name, command in shown
    )


def _help(command: click.Command, name: str, parent: click.Context) -> str:
    return command.get_help(click.Context(command, info_name=name, parent=parent))


def datasets() -> str:
    """Show what every built-in reader says of its files, and where its keys are."""
    return "\n\n".join(map(_dataset, sorted(BUILT_IN_READERS)))


def _dataset(name: str) -> str:
    file = Path(fedskd_sim.__file__).parent / "datasets" / f"{name.replace('-', '_')}.py"
    told = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").replace("``", "`")
    (kind,) = (one for one in KINDS if name in get_args(one.model_fields["name"].annotation))
    keys = f"[{kind.__name__}](scenario-reference.md#{kind.__name__.lower()})"
    return f"## {name}\n\n{told}\n\nKeys: {keys}."


def scenario_names() -> str:
    """List the scenarios that come with the program, each with its own sentence."""
    return "\n".join(f"| `{name}` | {_about(file)} |" for name, file in sorted(scenarios().items()))


def _about(file: Path) -> str:
    """Return what a scenario says of itself; its own code is not run."""
    return str(read(file).data["description"])


def quickstart() -> str:
    """Show the text of the first scenario."""
    return f"```yaml\n{scenarios()['quickstart'].read_text(encoding='utf-8')}```"


def own() -> str:
    """Show the text of the scenario that brings code."""
    return f"```yaml\n{scenarios()['own'].read_text(encoding='utf-8')}```"


def python_api() -> str:
    """List the public names, each for Sphinx to show with its signature and docstring."""
    return "\n\n".join(f"## {name}\n\n```{{eval-rst}}\n{_shown(name)}\n```" for name in _names())


def _shown(name: str) -> str:
    if name in ALIASES:
        return f".. py:data:: fedskd_sim.{name}\n\n   {ALIASES[name]}"
    if isinstance(getattr(fedskd_sim, name), type):
        return f".. autoclass:: fedskd_sim.{name}\n   :members:"
    return f".. autofunction:: fedskd_sim.{name}"


def comparisons() -> dict[str, dict[str, Any]]:
    """Read what is kept of comparisons, by the name of its table."""
    return {
        file.stem: json.loads(file.read_text(encoding="utf-8"))
        for file in sorted(RESULTS.glob("*.json"))
    }


def result_tables(found: Mapping[str, Any]) -> str:
    """Write the tables of a kept comparison: one for every measure, and what the methods cost."""
    measured = [metric for metric in SCORES if any(_series(found, metric, "own"))]
    tables = [*(_measure(found, metric) for metric in measured), _work(found)]
    return "\n\n".join("\n".join(f"| {' | '.join(row)} |" for row in table) for table in tables)


def differences(method: Mapping[str, Any], metric: str) -> dict[str, Difference]:
    """Give a method's differences to the control as they were kept, by place."""
    names = [one.name for one in fields(Difference)]
    return {
        place: Difference(**{name: _number(kept[name]) for name in names})
        for place, kept in method["differences"][metric].items()
    }


def _measure(found: Mapping[str, Any], metric: str) -> Iterator[Sequence[str]]:
    control = found["control"]
    places = [place for place in COMPARED if any(_series(found, metric, place))]
    heads = [f"{NAMES[metric]}, {len(found['seeds'])} seeds", "own", "others"]
    for place in places:
        shown = "held out" if place == "unseen" else place
        heads += [shown, f"{shown} - {control}"]
    yield heads
    yield ["---"] * len(heads)
    for method in found["methods"]:
        values = method["values"][metric]
        cells = [percent(_mean(values[place])) for place in ("own", "others")]
        for place in places:
            difference = differences(method, metric).get(place)
            own = method["label"] == control
            cells += [_with_interval(values[place]), "control" if own else _claim(difference)]
        yield [method["label"], *cells]


def _claim(difference: Difference | None) -> str:
    """Write a difference, its p and, where it may not be called one, the seeds that would do."""
    points, p, seeds = format_difference(difference)
    if difference is None or not p:
        return points
    chance = f"p {p}" if p[0].isdigit() else f"p {p[0]} {p[1:]}"
    return f"{points}, {chance}" + (" *" if difference.claimed else f"; {seeds}")


def _work(found: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    yield ["work of a run", "sample-gradients", "off", "passes", "teachers' passes", "bytes"]
    yield ["---"] * 6
    for method in found["methods"]:
        costs = method["costs"]
        planned = method["passes"] / method["budget"] - 1
        off = method.get("off", planned)  # by its records, where compare has kept that
        teachers = costs["forwards"] / costs["samples"] if costs["samples"] else 0
        yield [
            method["label"],
            f"{costs['samples']:,.0f}",
            f"{off:+.1%}" if f"{abs(off):.1%}" != "0.0%" else "0",
            f"{method['passes']:g}",
            f"{teachers:.0%}",
            amount(costs["bytes"]),
        ]


def _with_interval(series: Sequence[float | None]) -> str:
    """Write a mean over seeds with its 95 % interval."""
    told = seed_mean(_number(value) for value in series)
    if not math.isfinite(told.low):
        return percent(told.mean)
    return f"{percent(told.mean)} [{percent(told.low)}, {percent(told.high)}]"


def _series(found: Mapping[str, Any], metric: str, place: str) -> list[float | None]:
    return [value for method in found["methods"] for value in method["values"][metric][place]]


def _mean(series: Sequence[float | None]) -> float:
    known = [value for value in series if value is not None]
    return math.fsum(known) / len(known) if known else math.nan


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def with_tables(markdown: str) -> str:
    """Fill the tables of a page from what is kept. Raises KeyError for one that is not kept."""
    kept = comparisons()
    return TABLE.sub(
        lambda mark: (
            f"<!-- table: {mark['name']} -->\n{result_tables(kept[mark['name']])}\n"
            "<!-- end of table -->"
        ),
        markdown,
    )


NAMED = {"clip": "none, clipped"}
"""What has no epsilon."""


def privacy_on(name: str) -> str:
    """Write what privacy costs every method on some data, and what attackers tell where runs were
    audited, from values of every seed.
    """
    kept = json.loads((RESULTS / "privacy" / f"{name}.json").read_text(encoding="utf-8"))
    places, shown = ("own", "others", "ensemble"), SHOWN if kept["audited_seeds"] else {}
    heads = ["method", "epsilon", *places, "ensemble, difference to none", *shown]
    rows = [heads, ["---"] * len(heads)]
    for method in kept["methods"]:
        none = method["arms"][0]["auc"]["ensemble"]
        for arm in method["arms"]:
            found = compare_paired(arm["auc"]["ensemble"], none)
            points = f"{100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
            points = points if arm is not method["arms"][0] else ""
            means = [percent(_mean(arm["auc"][place])) for place in places]
            told = [_told(arm["attackers"].get(score)) for score in shown.values()]
            rows.append(
                [method["label"], NAMED.get(arm["epsilon"], arm["epsilon"]), *means, points, *told]
            )
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def _told(found: Mapping[str, Sequence[float]] | None) -> str:
    """Write the membership AUC of an attacker and the least epsilon that canaries prove."""
    if found is None:
        return ""
    guessed, right = (int(sum(found[name])) for name in ("guessed", "right"))
    bound = Guesses(2 * guessed, guessed, right).epsilon()
    return f"{_mean(found['auc']):.2f}, {bound:.1f}"


def python_names() -> str:
    """List the public names, each with the first sentence of its docstring."""
    rows = (f"| `{name}` | {_first_sentence(name)} |" for name in _names())
    return "| name | what it is |\n|---|---|\n" + "\n".join(rows)


def _names() -> list[str]:
    names = set(fedskd_sim.__all__) - {"__version__"}
    return sorted(names, key=lambda name: (name.lower(), name))


def _first_sentence(name: str) -> str:
    told = ALIASES.get(name) or getdoc(getattr(fedskd_sim, name)) or ""
    first = re.split(r"(?<=\.)\s+(?=[A-Z])", _words(told.partition("\n\n")[0]))[0]
    return first.replace("|", "\\|")


def elsewhere() -> str:
    """Write the methods that have another name here, and those that are not here."""
    here = (f"| {name} | `{written}` |" for name, written in RENAMED.items())
    absent = (f"| {name} | not here: it {why} |" for name, why in ABSENT.items())
    return "\n".join(["| asked for | here |", "|---|---|", *here, *absent]).replace("'", "`")


FILLINGS: Mapping[str, Callable[[], str]] = {
    "scenario-reference": scenario_reference,
    "exit-codes": exit_codes,
    "command-line": command_line,
    "datasets": datasets,
    "scenario-names": scenario_names,
    "quickstart": quickstart,
    "own": own,
    "elsewhere": elsewhere,
    "privacy-on-abide": partial(privacy_on, "abide"),
    "privacy-on-skin": partial(privacy_on, "skin"),
    "python-names": python_names,
    BUILT: python_api,
}


def fill(markdown: str) -> str:
    """Return a page as it is built. Raises KeyError for a filling that does not exist."""
    return FILLING.sub(lambda mark: FILLINGS[mark["name"]]() + "\n", markdown)


def as_kept(markdown: str) -> str:
    """Return a page as it stands in a checkout, with its tables and fillings but `BUILT`.

    Raises KeyError for one that does not exist.
    """
    return FILLING.sub(
        lambda mark: (
            mark[0]
            if mark["name"] == BUILT
            else f"<!-- fill: {mark['name']} -->\n{FILLINGS[mark['name']]()}\n"
            "<!-- end of filling -->"
        ),
        with_tables(markdown),
    )


if __name__ == "__main__":
    for page in Path(__file__).parent.glob("*.md"):
        page.write_text(as_kept(page.read_text(encoding="utf-8")), encoding="utf-8")
    LISTED.write_text(shipped(), encoding="utf-8")
