"""The examples in docstrings are run."""

from __future__ import annotations

import ast
import doctest
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[3] / "fedskd_sim"
SHOWN = [path for path in sorted(PACKAGE.rglob("*.py")) if ">>> " in path.read_text("utf-8")]


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.stem)
def test_examples_come_out_as_written(path: Path) -> None:
    """Every example of a module prints what stands below it."""
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried, "no example was found"
    assert failed == 0


def test_docstrings_open_with_what_happens() -> None:
    """No docstring of the rooms that a newcomer reads first leaves open what is said or given."""
    rooms = ("ring", "protocol", "scenario", "records", "custody", "learning")
    vague = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for room in rooms
        for path in sorted((PACKAGE / room).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and (ast.get_docstring(node) or "").startswith(("Say ", "Tell ", "Let ", "Give "))
    ]
    assert vague == []
