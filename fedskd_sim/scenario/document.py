"""A YAML file as plain data, with the line of every key. What is no YAML, or more of it than a
scenario needs, is refused in words before it is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    Event,
    NodeEvent,
)
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.parser import Parser
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.scanner import Scanner, ScannerError

from fedskd_sim.errors import Key, ScenarioError, ScenarioSyntaxError, Where

MOST_NODES = 20_000
MOST_LEVELS = 40
LONGEST_SHOWN = 60
TOO_DEEP = f"nested more than {MOST_LEVELS} levels deep"
SHALLOW = "a scenario needs five levels at most"
TOO_MANY = f"too many values (over {MOST_NODES}): anchors may expand"


def escape_unseen(text: str) -> str:
    """Write every character that nobody sees, or takes for a space, as Python escapes it."""
    return "".join(
        one if one == " " or one.isprintable() else one.encode("unicode_escape").decode("ascii")
        for one in text
    )


def shorten(text: str) -> str:
    """Cut a text that is too long to be read in an error.

    >>> shorten("cnn-plain"), len(shorten("x" * 1000))
    ('cnn-plain', 60)

    """
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."


class _Shallow(Scanner):
    """Refuses deep brackets when they are read: of a thousand open ones, each looks for a key
    behind all that follow.
    """

    def fetch_flow_collection_start(self, TokenClass: Any, to_push: str) -> None:  # noqa: N803 - the name it overrides
        """Note an opening bracket; raises ScannerError beyond the last level."""
        if len(self.flow_context) > MOST_LEVELS:
            raise ScannerError(None, None, TOO_DEEP, self.reader.get_mark())
        super().fetch_flow_collection_start(TokenClass, to_push)


class _Bounded(Parser):
    """Refuses what is nested too deeply, or has too many values once its anchors are written out,
    before any of it is built.
    """

    def __init__(self, file: str, loader: YAML) -> None:
        self.file = file
        super().__init__(loader)

    def reset_parser(self) -> None:
        """Begin another text, of which nothing has been counted."""
        super().reset_parser()
        self.total = 0
        self.sizes: dict[str, int] = {}
        self.open: list[tuple[str | None, int]] = []

    def get_event(self) -> Event:
        """Read on; raises ScenarioSyntaxError at the first value that is too much."""
        event: Event = super().get_event()
        if isinstance(event, CollectionEndEvent):
            anchor, before = self.open.pop()
            self.sizes |= {anchor: self.total - before} if anchor else {}
        elif isinstance(event, NodeEvent):
            alias = isinstance(event, AliasEvent)
            self.total += self.sizes.get(event.anchor, 1) if alias else 1
        if isinstance(event, CollectionStartEvent):
            self.open.append((event.anchor, self.total - 1))
        deep = len(self.open) > MOST_LEVELS + 1
        if deep or self.total > MOST_NODES:
            text, fix = (TOO_DEEP, SHALLOW) if deep else (TOO_MANY, "write the values out")
            where = Where(self.file, event.start_mark.line + 1)
            raise ScenarioSyntaxError(text, fix=fix, where=where)
        return event


class _Whole(Composer):
    """Reads a text to its end before it refuses it for aliases or for a second document."""

    def get_single_node(self) -> Node:
        """Read the one document; raises YAMLError for what is wrong with its form first."""
        try:
            root: Node = super().get_single_node()
        except ComposerError:
            while self.parser.check_event():
                self.parser.get_event()
            raise
        return root


def nodes(file: str, text: str) -> Node | None:
    """Read the nodes of a YAML text in one pass, or None of an empty one.

    Raises:
        ScenarioSyntaxError: it is nested too deeply or holds too many values.
        YAMLError: it is no YAML, or its brackets are nested too deeply.

    """
    form = YAML(typ="safe", pure=True)
    form.Scanner, form.Parser, form.Composer = _Shallow, partial(_Bounded, file), _Whole
    root: Node | None = form.compose(text)
    return root


def compose(path: Path, text: str) -> Node:
    """Read the nodes of a scenario's mapping; raises ScenarioSyntaxError for any other text."""
    try:
        root = nodes(str(path), text)
    except MarkedYAMLError as error:
        raise _explain(error, path, text) from error
    except ReaderError as error:
        where = Where(str(path), text.count("\n", 0, error.position) + 1)
        found = (
            f"U+{error.character:04X}"
            if isinstance(error.character, int)
            else repr(error.character)
        )
        raise ScenarioSyntaxError(
            f"not YAML: the character {found}", fix="remove it", where=where
        ) from error
    except (YAMLError, ValueError) as error:
        raise ScenarioSyntaxError(
            f"not YAML: {error}", fix="correct the YAML", where=Where(str(path), 1)
        ) from error
    if not isinstance(root, MappingNode):
        found = (
            "nothing"
            if root is None or root.value in ("", "~", "null")
            else "a list"
            if isinstance(root, SequenceNode)
            else "a text"
        )
        problem = f"a scenario is a mapping of keys to values, this file holds {found}"
        raise ScenarioSyntaxError(problem, fix="begin with 'name: ...'", where=Where(str(path), 1))
    return root


def _explain(error: MarkedYAMLError, path: Path, text: str) -> ScenarioSyntaxError:
    """Describe what the parser met in words, at the line where a person has to look."""
    mark, begin = error.problem_mark or error.context_mark, error.context_mark
    line = mark.line + 1 if mark else 1
    problem, fix = (
        f"not YAML: {error.problem}",
        "correct the YAML here: look at the indentation, and quote text that holds ': '",
    )
    last, opened = line, begin is not None and begin.line + 1 < line
    if error.problem == TOO_DEEP:
        problem, fix = TOO_DEEP, SHALLOW
    elif r"\t" in str(error.problem):
        problem, fix = (
            "not YAML: a tab where only spaces may stand",
            "indent with spaces, YAML forbids tabs there",
        )
    elif "another document" in str(error.problem):
        problem, fix = (
            "a second document begins here",
            "one file is one scenario: remove '---' and what follows it",
        )
    elif begin and opened and "simple key" in str(error.context):
        line = begin.line + 1
        problem, fix = (
            f"not YAML: {shorten(text.splitlines()[begin.line].strip())!r} has no ':'",
            "write 'key: value'",
        )
    elif begin and opened and ("flow" in str(error.context) or "quoted" in str(error.context)):
        line = begin.line + 1
        problem, fix = (
            f"not YAML: a bracket or quote that opens here is not closed before line {last}",
            "close it",
        )
    elif "undefined alias" in str(error.problem):
        fix = "define it before with '&', or quote a text that begins with '*'"
    return ScenarioSyntaxError(problem, fix=fix, where=Where(str(path), line))


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
    answers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What algorithms of the user's own have said of themselves, see `own.Asked`."""
    brought: Any = None
    """Code (`own.OwnCode`) that is given beside the file, in the place of what it names."""

    def key_in_file(self, key: tuple[Key, ...]) -> tuple[Key, ...]:
        """Return the key as it stands in the file: a hospital may have inherited it from the top
        level's ``data`` or ``privacy``.
        """
        match key:
            case ("hospitals", _, "privacy", *rest) if (
                key not in self.lines and ("privacy", *rest) in self.lines
            ):
                return ("privacy", *rest)
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
    """Name the byte at which a file stops being UTF-8, and what it may be instead."""
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
    r"""Read YAML 1.2 text safely; raises ScenarioSyntaxError as `read` does.

    >>> found = parse("skin.yaml", "name: skin\ntraining:\n  epochs: 3\n")
    >>> found.data
    {'name': 'skin', 'training': {'epochs': 3}}
    >>> found.locate(("training", "epochs"))
    Where(file='skin.yaml', line=3)
    >>> parse("skin.yaml", "name: skin\nname: other\n").faults[0].message
    "key 'name' stands twice, first in line 1"

    """
    builder = _Builder(file, {})
    data = builder.build(compose(Path(file), text), ())
    if data is None:
        raise builder.faults[0]
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
    open: tuple[int, ...] = ()
    values: Any = field(default_factory=lambda: YAML(typ="safe", pure=True).constructor)
    """Makes numbers and truth values of nodes."""

    def build(self, node: Node, path: tuple[Key, ...]) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        if id(node) in self.open:
            raise self._refusal("an anchor contains itself", "write the values out", path, line)
        if len(path) > MOST_LEVELS:
            raise self._refusal(TOO_DEEP, SHALLOW, path[:3], line)
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
            before = len(self.faults)
            if str(key_node.tag).removeprefix(YAMLS_OWN) not in TEXT:
                self.build(key_node, path)  # for what is wrong with its tag
            key = self._text(key_node, path, line)
            if key is None or len(self.faults) > before:
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
            return self.values.construct_object(node)
        except (YAMLError, ValueError, KeyError):
            self._note(
                f"{shorten(node.value)!r} cannot be read as {kind}",
                "quote it if it is text",
                path,
                line,
            )
        return None

    def _text(self, node: ScalarNode, path: tuple[Key, ...], line: int) -> str | None:
        """Return a text; two escapes of which each is half of a character (as in JSON) are that
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
