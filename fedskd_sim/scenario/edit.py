"""Changes of a scenario from outside its file, as ``launch --set training.epochs=3`` makes them:
in its text, comments kept.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from fedskd_sim.errors import InvalidValue, Key, ScenarioError, UnknownKey, Where
from fedskd_sim.scenario.document import TOO_DEEP, Document, nodes, parse, shorten

WIDEST = 1 << 16
"""Columns; no line is broken that was not."""


def apply_changes(document: Document, changes: Iterable[str]) -> Document:
    r"""Change a document's values and give the document of the new text; what is wrong with a new
    value is placed at its change.

    >>> document = parse("skin.yaml", "name: skin  # the first\ntraining: {epochs: 3}\n")
    >>> print(apply_changes(document, ["training.epochs=5", "seed=7"]).text, end="")
    name: skin  # the first
    training: {epochs: 5}
    seed: 7

    Args:
        document: the scenario as it was read.
        changes: texts such as ``training.epochs=3``: keys with dots between them, and the new value
            in YAML. Hospitals are named, as in ``hospitals.aachen.device=cuda``, or counted from 0.

    A change that says no key and value, leads through what is no mapping or is meant in several
    places is a fault of the document.

    Raises:
        ScenarioSyntaxError: the new text is too long or nested too deeply.

    """
    changes = [*changes]
    # of a file with two values for one key nobody knows which one a change replaces
    if not changes or document.faults:
        return document
    text, places, faults = _change(document, changes)
    found = parse(document.file, text)
    result = replace(
        found,
        lines={**found.lines, **document.lines},
        places=places,
        faults=(*found.faults, *faults),
        answers=document.answers,
        brought=document.brought,
    )
    for fault in found.faults:
        fault.where = result.locate(fault.key)
    return result


def _change(
    document: Document, changes: Iterable[str]
) -> tuple[str, dict[tuple[Key, ...], str], list[ScenarioError]]:
    """Return the text with all changes that can be made, which of them is to blame for which new
    key, and the errors of the others.
    """
    form = _form()
    root = form.load(document.text)
    places: dict[tuple[Key, ...], str] = {}
    faults: list[ScenarioError] = []
    for change in changes:
        try:
            path = _apply(form, root, change)
        except ScenarioError as error:
            faults.append(error)
            continue
        new = [path[:size] for size in range(1, len(path)) if path[:size] not in document.lines]
        places |= dict.fromkeys([*new, path], _word(change))
    stream = io.StringIO()
    form.dump(root, stream)
    return stream.getvalue(), places, faults


def _apply(form: YAML, root: Any, change: str) -> tuple[Key, ...]:
    """Make a change; gives the keys of its place, raises as `apply_changes` says."""
    written, equals, value = change.partition("=")
    if not equals or not all(written.split(".")):
        text = f"{change!r} names no key and value"
        raise InvalidValue(
            text,
            fix="write --set KEY=VALUE, as in --set training.epochs=3",
            where=Where(f"--set {change}"),
        )
    return _put(root, written.split("."), _value(form, value, _word(change)), _word(change))


def _word(change: str) -> str:
    return f"--set {change.partition('=')[0]}"


def _form() -> YAML:
    form = YAML()
    form.width, form.preserve_quotes = WIDEST, True
    form.indent(mapping=2, sequence=4, offset=2)
    return form


def _value(form: YAML, text: str, word: str) -> Any:
    try:
        nodes(word, text)
        return form.load(text)
    except (YAMLError, ValueError) as error:
        what = TOO_DEEP if getattr(error, "problem", "") == TOO_DEEP else "not YAML"
        raise InvalidValue(
            f"{shorten(text)!r} is {what}", fix="quote it if it is text", where=Where(word)
        ) from error


def _put(root: Any, steps: list[str], value: Any, word: str) -> tuple[Key, ...]:
    """Put a value where the steps lead to, making mappings that are not there; gives the keys of
    its place.
    """
    node, path = root, tuple[Key, ...]()
    for step in steps[:-1]:
        key = _key(node, step, word)
        if isinstance(node, CommentedMap) and key not in node:
            node[key] = CommentedMap()
        node, path = node[key], (*path, key)
        if getattr(node, "anchor", None) is not None and node.anchor.value:
            text = (
                f"{'.'.join(map(str, path))} is the anchor &{node.anchor.value}, which is meant in "
                "several places"
            )
            raise InvalidValue(text, fix="change the file", where=Where(word))
    key = _key(node, steps[-1], word)
    node[key] = value
    return (*path, key)


def _key(node: Any, step: str, word: str) -> Key:
    """Return the key of a step within a mapping, or within a list the place that is counted or
    named.
    """
    if isinstance(node, CommentedMap):
        return step
    if not isinstance(node, CommentedSeq):
        text = f"{step!r} cannot be set in {node!r}, which is no mapping"
        raise InvalidValue(
            text,
            fix="set what stands before it to a mapping, as in --set data='{name: none}'",
            where=Where(word),
        )
    names = [item.get("name") if isinstance(item, CommentedMap) else None for item in node]
    places: dict[str, int] = {
        str(name): place for place, name in enumerate(names) if name is not None
    }
    place = places.get(step, int(step) if step.isdecimal() and int(step) < len(node) else None)
    if place is None:
        raise UnknownKey(
            f"there is no {step!r} in this list",
            fix=f"name one of {', '.join(places)}, or count from 0 to {len(node) - 1}"
            if places
            else "count from 0; what is not there is added in the file",
            where=Where(word),
        )
    return place
