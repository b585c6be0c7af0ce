"""A YAML file as plain data, with the line of every key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from fedskd_sim.errors import Key, ScenarioError, ScenarioSyntaxError, Where
from fedskd_sim.scenario.syntax import MOST_LEVELS, MOST_NODES, TOO_DEEP, compose, shorten

LARGEST_FILE = 1 << 18
MERGE = "<<"
YAMLS_OWN = "tag:yaml.org,2002:"
TEXT = frozenset({"str", "timestamp", "merge", "value"})
KNOWN_TAGS = frozenset({"map", "seq", "int", "float", "bool", "null"}) | TEXT


@dataclass(frozen=True)
class Document:
    """The data of a YAML file and where each key of it stands."""

    file: str
    text: str
    data: Any
    lines: dict[tuple[Key, ...], int]
    places: Mapping[tuple[Key, ...], str] = field(default_factory=dict)
    """Keys that were set from outside the file, and by what."""
    faults: tuple[ScenarioError, ...] = ()
    """What is wrong with single keys and values; ``data`` has none of them, or null where a value
    was."""
    merged: frozenset[tuple[Key, ...]] = frozenset()
    """Keys that ``data`` has by a merge key (``<<``), which is one of the faults."""

    def key_in_file(self, key: tuple[Key, ...]) -> tuple[Key, ...]:
        """Give the key as it stands in the file: a hospital may have inherited it from the top
        level's ``data``.
        """
        match key:
            case ("hospitals", _, "data", *rest) if (
                rest and key not in self.lines and ("data", *rest) in self.lines
            ):
                return ("data", *rest)
            case ("hospitals", index, "data", "file") if (
                key not in self.lines and ("data", "name") in self.lines
            ):
                return (
                    key if ("hospitals", index, "data", "name") in self.lines else ("data", "file")
                )
        return key

    def locate(self, key: tuple[Key, ...]) -> Where:
        """Find the line of a key; for one that is not in the file, the line of what should hold
        it.
        """
        written = self.key_in_file(key)
        for size in range(len(written), 0, -1):
            if written[:size] in self.places:
                return Where(self.places[written[:size]])
        known: tuple[Key, ...] = ()
        for part in written:
            if (*known, part) in self.lines:
                known = (*known, part)
        return Where(self.file, self.lines.get(known))


def read(path: Path) -> Document:
    """Read a YAML 1.2 file safely.

    Raises:
        ScenarioSyntaxError: unreadable, not YAML, not a mapping, tabs, looping or exploding
            anchors.

    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(LARGEST_FILE + 1)
        text = raw.decode("utf-8")
    except OSError as error:
        raise ScenarioSyntaxError(
            f"cannot read the scenario: {error.strerror}",
            fix=f"give the path of a YAML file{_of_run(path)}",
            where=Where(str(path)),
        ) from error
    except UnicodeDecodeError as error:
        raise _not_text(path, raw, error.start) from error
    if b"\0" in raw[:4]:
        raise _not_text(path, raw, raw.index(b"\0"))
    if len(raw) > LARGEST_FILE:
        raise ScenarioSyntaxError(
            "larger than 256 KiB", fix="a scenario is a short file", where=Where(str(path))
        )
    return parse(str(path), text)


def _not_text(path: Path, raw: bytes, place: int) -> ScenarioSyntaxError:
    """Say at which byte a file stops being UTF-8, and what it may be instead."""
    utf_16 = raw[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in raw[:4]
    line = None if utf_16 else raw.count(b"\n", 0, place) + 1
    form = "utf-16" if utf_16 else "latin-1"
    text = f"not a text file in UTF-8: byte {place + 1} is 0x{raw[place]:02x}"
    fix = f"save it as UTF-8; if it is {form.upper()}, 'iconv -f {form} -t utf-8' converts it"
    return ScenarioSyntaxError(text, fix=fix, where=Where(str(path), line or 1))


def _of_run(path: Path) -> str:
    """Name the scenario that a run folder, given in its place, holds."""
    inside = path / "scenario.yaml"
    return f", such as {inside}" if inside.is_file() else ""


def parse(file: str, text: str) -> Document:
    """Read YAML 1.2 text safely; raises ScenarioSyntaxError as `read` does."""
    builder = _Builder(file, {})
    data = builder.build(compose(Path(file), text), ())
    faults, merged = tuple(builder.faults), frozenset(builder.merged)
    return Document(file, text, data, builder.lines, faults=faults, merged=merged)


@dataclass
class _Builder:
    """Turn YAML nodes into data while noting lines and faults; refuses anchors that loop or
    explode.
    """

    file: str
    lines: dict[tuple[Key, ...], int]
    faults: list[ScenarioSyntaxError] = field(default_factory=list)
    merged: list[tuple[Key, ...]] = field(default_factory=list)
    nodes: int = 0
    open: tuple[int, ...] = ()

    def build(self, node: Node, path: tuple[Key, ...]) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self.nodes += 1
        if id(node) in self.open or self.nodes > MOST_NODES:
            problem = (
                "an anchor contains itself"
                if id(node) in self.open
                else f"too many values (over {MOST_NODES}): anchors may expand"
            )
            raise self._refusal(problem, "write the values out", path, line)
        if len(path) > MOST_LEVELS:
            raise self._refusal(TOO_DEEP, "a scenario needs five levels at most", path[:3], line)
        if str(node.tag).removeprefix(YAMLS_OWN) not in KNOWN_TAGS:
            tag = str(node.tag).replace(YAMLS_OWN, "!!")
            self._note(
                f"the tag {tag} has no meaning here",
                "remove it; quote a text that begins with '!'",
                path,
                line,
            )
            return None
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
        merges: list[tuple[int, Node]] = []
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, ScalarNode):
                self._note(
                    "a list or a mapping stands where a key should",
                    "write 'key: value'",
                    path,
                    line,
                )
                continue
            key = self._text(key_node, path, line)
            if key is None:
                continue
            if key == MERGE:
                merges.append((line, value_node))
                continue
            if key in seen:
                text = f"key {key!r} stands twice, first in line {seen.get(key)}"
                self._note(text, "keep one of the two", (*path, key), line)
                continue
            seen[key] = line
            self.lines[(*path, key)] = line
            yield key, self.build(value_node, (*path, key))
        for line, node_ in merges:
            yield from self._merge(node_, path, line, seen)

    def _merge(
        self, node: Node, path: tuple[Key, ...], line: int, seen: dict[str, int]
    ) -> Iterator[tuple[str, Any]]:
        """Note a merge key and give what it stands for, lest all of that is missed as well; what is
        wrong with it is told where it is written.
        """
        before = len(self.faults)
        found = self.build(node, (*path, MERGE))
        del self.faults[before:]
        meant: dict[str, Any] = {}
        for one in found if isinstance(found, list) else [found]:
            meant = {**one, **meant} if isinstance(one, dict) else meant
        new = [key for key in meant if key not in seen]
        seen |= dict.fromkeys(new, line)
        self.merged += (places := [(*path, key) for key in new])
        self.lines |= dict.fromkeys(places, line)
        fix = "write the keys out" + (f" in its place: {', '.join(new)}" if new else "")
        self._note("merge keys are not part of YAML 1.2", fix, (*path, MERGE), line)
        yield from ((key, meant[key]) for key in new)

    def _scalar(self, node: ScalarNode, path: tuple[Key, ...], line: int) -> Any:
        kind = str(node.tag).removeprefix(YAMLS_OWN)
        if kind in TEXT:
            return self._text(node, path, line)
        try:
            return YAML(typ="safe", pure=True).load(node.value)
        except (YAMLError, ValueError):
            self._note(
                f"{shorten(node.value)!r} cannot be read as {kind}",
                "quote it if it is text",
                path,
                line,
            )
        return None

    def _text(self, node: ScalarNode, path: tuple[Key, ...], line: int) -> str | None:
        """Give a text; two escapes of which each is half of a character (as in JSON) are that
        character.
        """
        try:
            return str(node.value).encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self._note(
                "a text has half of a character (\\ud800 to \\udfff)",
                "write the character",
                path,
                line,
            )
        return None

    def _note(self, problem: str, fix: str, path: tuple[Key, ...], line: int) -> None:
        self.faults.append(self._refusal(problem, fix, path, line))

    def _refusal(
        self, problem: str, fix: str, path: tuple[Key, ...], line: int
    ) -> ScenarioSyntaxError:
        return ScenarioSyntaxError(problem, fix=fix, key=path, where=Where(self.file, line))
