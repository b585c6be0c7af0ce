"""Which small changes of the code no unit test notices: mutants, drawn by a seed that is printed.

Of every mutant the tests of its room are run, first those that name its module; one that they do
not notice survives, and is listed. ``MUTANTS`` says how many are drawn, ``MUTANTS_SEED`` which.
"""

from __future__ import annotations

import ast
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.table import Table

ROOT = Path(__file__).parents[2]
ROOMS = os.environ.get("MUTANTS_ROOMS", "learning,protocol,custody,results").split(",")
COUNT = int(os.environ.get("MUTANTS", "20"))
SEED = int(os.environ.get("MUTANTS_SEED") or 0) or random.randrange(1, 2**31)
LIMIT_S = float(os.environ.get("MUTANTS_LIMIT_S", "600"))
NO_TESTS = 5
"""What pytest ends with where there are none."""
OTHER: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.And: ast.Or,
    ast.Or: ast.And,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A file in which one expression is another."""

    file: Path
    line: int
    before: str
    after: str
    text: str

    def __str__(self) -> str:
        """Name its place and the change."""
        return f"{self.file.relative_to(ROOT)}:{self.line}: {self.before} -> {self.after}"


def changed(node: ast.AST) -> ast.AST | None:
    """Give another expression in place of one, or None where there is none."""
    match node:
        case ast.Compare(left, [operator], rest) if type(operator) in OTHER:
            return ast.Compare(left, [OTHER[type(operator)]()], rest)  # type: ignore[list-item]
        case ast.BinOp(left, operator, right) if type(operator) in OTHER:
            return ast.BinOp(left, OTHER[type(operator)](), right)  # type: ignore[arg-type]
        case ast.BoolOp(operator, values):
            return ast.BoolOp(OTHER[type(operator)](), values)  # type: ignore[arg-type]
        case ast.UnaryOp(ast.Not(), operand):
            return operand
        case ast.Constant(value) if isinstance(value, int):
            return ast.Constant(not value if isinstance(value, bool) else value + 1)
        case _:
            return None


def in_functions(tree: ast.AST) -> Iterator[ast.expr]:
    """Yield the expressions in functions, but not in their signatures."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for statement in function.body:
                yield from (one for one in ast.walk(statement) if isinstance(one, ast.expr))


def mutants_of(file: Path) -> Iterator[Mutant]:
    """Yield all mutants of a file whose expression stands in one line."""
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    for node in dict.fromkeys(in_functions(ast.parse(text))):
        other = changed(node)
        if other is None or node.end_lineno != node.lineno or "f'" in ast.unparse(node):
            continue
        line = lines[node.lineno - 1].encode()
        begin, end = node.col_offset, node.end_col_offset
        after = f"({ast.unparse(other)})"
        new = line[:begin] + after.encode() + line[end:]
        whole = [*lines[: node.lineno - 1], new.decode(), *lines[node.lineno :]]
        try:
            ast.parse("".join(whole))
        except SyntaxError:  # a part of a text
            continue
        yield Mutant(file, node.lineno, line[begin:end].decode(), after, "".join(whole))


def near(mutant: Mutant, room: str) -> list[str]:
    """List the test files of a room that name a mutant's module: they may notice it first."""
    word = re.compile(rf"\b{mutant.file.stem}\b")
    return [
        str(one.relative_to(ROOT))
        for one in sorted((ROOT / "tests" / "unit" / room).glob("test_*.py"))
        if word.search(one.read_text(encoding="utf-8"))
    ]


def passes(copy: Path, *tests: str) -> bool | None:
    """Run unit tests in a copy of the project; None if they did not end in time."""
    command = [sys.executable, "-m", "pytest", "-qx", "-n0", "-p", "no:cacheprovider"]
    command += [*tests, "-m", "not slow"]
    given = {**os.environ, "PYTHONPATH": str(copy)}
    try:
        done = subprocess.run(
            command, cwd=copy, env=given, capture_output=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    return done.returncode in (0, NO_TESTS)


def survives(mutant: Mutant, room: str, copy: Path) -> bool | None:
    """Tell whether the tests of a room pass over a mutant; None where they did not end in time."""
    place = copy / mutant.file.relative_to(ROOT)
    kept = place.read_text(encoding="utf-8")
    place.write_text(mutant.text, encoding="utf-8")
    first = near(mutant, room)
    try:
        if first and (found := passes(copy, *first)) is not True:
            return found
        return passes(copy, f"tests/unit/{room}", *(f"--ignore={one}" for one in first))
    finally:
        place.write_text(kept, encoding="utf-8")


def main() -> list[Table]:
    """Draw mutants, and count those that are noticed; survivors are printed as they are found."""
    print(f"seed {SEED}: {COUNT} mutants of {', '.join(ROOMS)}", flush=True)
    found = [
        (mutant, room)
        for room in ROOMS
        for file in sorted((ROOT / "fedskd_sim" / room).rglob("*.py"))
        for mutant in mutants_of(file)
    ]
    drawn = random.Random(SEED).sample(found, min(COUNT, len(found)))
    told: dict[str, list[float]] = {"noticed": [0.0], "survived": [0.0], "not decided": [0.0]}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        unwanted = shutil.ignore_patterns(".*", "runs", "site", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=unwanted)
        for room in {room for _, room in drawn}:
            if not passes(
                copy, f"tests/unit/{room}"
            ):  # whatever fails without a mutant notices none
                sys.exit(f"the tests of {room} do not pass as they are")
        for mutant, room in drawn:
            end = survives(mutant, room, copy)
            how = "not decided" if end is None else "survived" if end else "noticed"
            told[how][0] += 1
            print(f"{how}: {mutant}", flush=True)
    return [Table(f"mutants of {len(found)}, seed {SEED}", "number", told)]
