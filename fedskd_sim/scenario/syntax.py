"""What is no YAML, or more of it than a scenario needs, refused in words before it is built."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent
from ruamel.yaml.nodes import MappingNode, Node
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.scanner import Scanner, ScannerError

from fedskd_sim.errors import ScenarioSyntaxError, Where

MOST_NODES = 20_000
MOST_LEVELS = 40
LONGEST_SHOWN = 60
TOO_DEEP = f"nested more than {MOST_LEVELS} levels deep"


CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What moves, colours or renames a terminal, breaks its lines or turns text around; line feeds and
tabs are text."""


def escape_controls(text: str) -> str:
    """Write control characters as Python escapes them: ``\\x1b`` for ESC."""
    return CONTROLS.sub(_escape, text)


def escape_unseen(text: str) -> str:
    """Write every character that nobody sees, or takes for a space, as Python escapes it."""
    return "".join(one if one == " " or one.isprintable() else _escape(one) for one in text)


def _escape(found: re.Match[str] | str) -> str:
    one = found if isinstance(found, str) else found.group()
    return one.encode("unicode_escape").decode("ascii")


def shorten(text: str) -> str:
    """Cut a text that is too long to be read in an error."""
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


def compose(path: Path, text: str) -> Node:
    """Read the nodes of a scenario's mapping; raises ScenarioSyntaxError for any other text."""
    try:
        check_extent(str(path), text)
        root = YAML(typ="safe", pure=True).compose(text)
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
    except RecursionError as error:
        raise ScenarioSyntaxError(
            TOO_DEEP, fix="a scenario needs five levels at most", where=Where(str(path), 1)
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
            if root.id == "sequence"
            else "a text"
        )
        problem = f"a scenario is a mapping of keys to values, this file holds {found}"
        raise ScenarioSyntaxError(problem, fix="begin with 'name: ...'", where=Where(str(path), 1))
    return root


def check_extent(file: str, text: str) -> None:
    """Refuse what is nested too deeply, or has too many values once its anchors are written out,
    before any of it is built.

    Raises:
        ScenarioSyntaxError: it is such a text.
        YAMLError: it is none in YAML, or its brackets are nested too deeply.

    """
    sizes: dict[str, int] = {}
    open_: list[tuple[str | None, int]] = []
    total = 0
    reader = YAML(typ="safe", pure=True)
    reader.Scanner = _Shallow
    for event in reader.parse(text):
        if isinstance(event, CollectionEndEvent):
            anchor, before = open_.pop()
            sizes |= {anchor: total - before} if anchor else {}
            continue
        if isinstance(event, NodeEvent):
            total += sizes.get(event.anchor, 1) if isinstance(event, AliasEvent) else 1
        if isinstance(event, CollectionStartEvent):
            open_.append((event.anchor, total - 1))
        line = event.start_mark.line + 1
        if len(open_) > MOST_LEVELS + 1:
            raise ScenarioSyntaxError(
                TOO_DEEP, fix="a scenario needs five levels at most", where=Where(file, line)
            )
        if total > MOST_NODES:
            text = f"too many values (over {MOST_NODES}): anchors may expand"
            raise ScenarioSyntaxError(text, fix="write the values out", where=Where(file, line))


def _explain(error: MarkedYAMLError, path: Path, text: str) -> ScenarioSyntaxError:
    """Say what the parser met in words, at the line where a person has to look."""
    mark, begin = error.problem_mark or error.context_mark, error.context_mark
    line = mark.line + 1 if mark else 1
    problem, fix = (
        f"not YAML: {error.problem}",
        "correct the YAML here: look at the indentation, and quote text that holds ': '",
    )
    last, opened = line, begin is not None and begin.line + 1 < line
    if error.problem == TOO_DEEP:
        problem, fix = TOO_DEEP, "a scenario needs five levels at most"
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
