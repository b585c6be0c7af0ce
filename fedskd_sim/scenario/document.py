"""A YAML file as plain data, with the line of every key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from fedskd_sim.errors import Key, ScenarioSyntaxError, Where

LARGEST_FILE = 1 << 20
MOST_NODES = 100_000


@dataclass(frozen=True)
class Document:
    """The data of a YAML file and where each key of it stands."""

    file: str
    text: str
    data: Any
    lines: dict[tuple[Key, ...], int]

    def locate(self, key: tuple[Key, ...]) -> Where:
        """Find the line of a key; for one that is not in the file, the line of what should hold it.

        A hospital's data may stand in the top level's ``data``.
        """
        match key:
            case ("hospitals", _, "data", *rest) if key not in self.lines and ("data", *rest) in self.lines:
                return Where(self.file, self.lines["data", *rest])
        known: tuple[Key, ...] = ()
        for part in key:
            if (*known, part) in self.lines:
                known = (*known, part)
        return Where(self.file, self.lines.get(known))


def read(path: Path) -> Document:
    """Read a YAML 1.2 file safely.

    Raises:
        ScenarioSyntaxError: unreadable, not YAML, not a mapping, duplicate keys, tabs, looping or exploding anchors.

    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(LARGEST_FILE + 1)
        text = raw.decode("utf-8")
    except OSError as error:
        raise ScenarioSyntaxError(
            f"cannot read the scenario: {error.strerror}", fix="give the path of a YAML file", where=Where(str(path))
        ) from error
    except UnicodeDecodeError as error:
        raise ScenarioSyntaxError("not a text file in UTF-8", fix="save it as UTF-8", where=Where(str(path))) from error
    if len(raw) > LARGEST_FILE:
        raise ScenarioSyntaxError("larger than 1 MiB", fix="a scenario is a short file", where=Where(str(path)))
    root = _compose(path, text)
    builder = _Builder(str(path), {})
    data = builder.build(root, ())
    return Document(str(path), text, data, builder.lines)


def _compose(path: Path, text: str) -> Node:
    try:
        root = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        tab = "\t" in text.splitlines()[line - 1] if line and line <= len(text.splitlines()) else False
        fix = "indent with spaces, YAML forbids tabs there" if tab else "correct the YAML at this line"
        raise ScenarioSyntaxError(f"not YAML: {error.problem}", fix=fix, where=Where(str(path), line)) from error
    except (YAMLError, RecursionError, ValueError) as error:
        raise ScenarioSyntaxError(f"not YAML: {error}", fix="correct the YAML", where=Where(str(path))) from error
    if not isinstance(root, MappingNode):
        raise ScenarioSyntaxError(
            "a scenario is a mapping of keys to values", fix="begin with 'name: ...'", where=Where(str(path), 1)
        )
    return root


@dataclass
class _Builder:
    """Turn YAML nodes into data while noting lines; refuses duplicate keys and anchors that loop or explode."""

    file: str
    lines: dict[tuple[Key, ...], int]
    nodes: int = 0
    open: tuple[int, ...] = ()

    def build(self, node: Node, path: tuple[Key, ...]) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self.nodes += 1
        if id(node) in self.open or self.nodes > MOST_NODES:
            problem = "an anchor contains itself" if id(node) in self.open else "anchors expand to too many values"
            raise ScenarioSyntaxError(problem, fix="write the values out", key=path, where=Where(self.file, line))
        if isinstance(node, ScalarNode):
            return self._scalar(node, path, line)
        outer, self.open = self.open, (*self.open, id(node))
        try:
            if isinstance(node, MappingNode):
                return dict(self._pairs(node, path))
            return [self.build(child, (*path, index)) for index, child in enumerate(node.value)]
        finally:
            self.open = outer

    def _pairs(self, node: MappingNode, path: tuple[Key, ...]) -> Iterator[tuple[str, Any]]:
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = key_node.value if isinstance(key_node, ScalarNode) else "?"
            if key in seen:
                raise ScenarioSyntaxError(
                    f"key {key!r} stands twice, first in line {seen[key]}",
                    fix="keep one of the two",
                    key=(*path, key),
                    where=Where(self.file, line),
                )
            seen[key] = line
            self.lines[(*path, key)] = line
            yield key, self.build(value_node, (*path, key))

    def _scalar(self, node: ScalarNode, path: tuple[Key, ...], line: int) -> Any:
        kind = str(node.tag).rpartition(":")[2]
        plain = {"int", "float", "bool", "null"}
        if kind not in plain:
            return node.value
        try:
            return YAML(typ="safe", pure=True).load(node.value)
        except (YAMLError, ValueError) as error:
            raise ScenarioSyntaxError(
                f"{node.value!r} cannot be read as {kind}",
                fix="quote it if it is text",
                key=path,
                where=Where(self.file, line),
            ) from error
