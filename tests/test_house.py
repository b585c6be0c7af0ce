"""The house rules, kept by machine: layers, homes of libraries, sizes and docstrings."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fedskd_sim"
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
HOMES = {
    "click": ["cli/"],
    "pandas": ["results/runs.py"],
    "pyarrow": ["results/export.py"],
    "tensorboard": ["results/export.py"],
    "mlflow": ["results/export.py"],
    "psutil": ["runtimes/location.py"],
    "pydantic": [
        "scenario/",
        "records/",
        "observe/events.py",
        "observe/outcome.py",
        "runtimes/location.py",
        "custody/seal.py",
    ],
    "ruamel": ["scenario/"],
    "torch": ["learning/", "runtimes/preload.py"],
    "torchvision": ["learning/"],
    "safetensors": ["learning/", "custody/verify.py"],
    "PIL": ["learning/readers/imagefiles.py"],
    "numpy": ["learning/", "results/"],
    "scipy": ["results/"],
    "zmq": ["transport/zeromq/"],
    "msgpack": ["transport/wire.py"],
    "xxhash": ["messages.py", "learning/readers/imagefiles.py"],
    "prometheus_client": ["observe/metrics.py"],
    "rich": ["observe/progress.py", "cli/"],
    "matplotlib": ["results/"],
    "jinja2": ["results/"],
    "nibabel": ["learning/readers/nifti"],
    "kubernetes": ["kubernetes/"],
    "urllib3": ["kubernetes/"],
    "websocket": ["kubernetes/"],
    "markupsafe": ["results/"],
    "time": ["clock.py"],
    "datetime": ["clock.py"],
}
WITHOUT_EXCEPTION = ("pickle", "marshal", "shelve", "dill", "cloudpickle")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (
        node
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_layers_hold() -> None:
    """Every module imports only from rows under its own, as pyproject.toml draws them."""
    tool = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [tool, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_outside_libraries_stay_in_their_homes(path: Path) -> None:
    """Each outside library, and time, is imported in one place only; nothing that unpickles is
    imported anywhere.
    """
    place = str(path.relative_to(PACKAGE))
    known = {*HOMES, *sys.stdlib_module_names, "fedskd_sim"}
    for library in imports(path):
        assert library in known, f"{library} has no home: add one to HOMES on purpose"
        assert library not in WITHOUT_EXCEPTION
        assert library not in HOMES or any(place.startswith(home) for home in HOMES[library]), (
            library
        )


def sizes(path: Path) -> Iterator[tuple[str, int, int]]:
    """Give a module and its functions, each with its lines and the lines that it must stay
    under.
    """
    place = str(path.relative_to(PACKAGE))
    yield place, path.read_text(encoding="utf-8").count("\n"), 501
    for function in functions(path):
        assert function.end_lineno is not None
        yield f"{place}:{function.name}", function.end_lineno - function.lineno, 40


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_and_functions_stay_small(path: Path) -> None:
    """Modules have at most 500 lines, functions under 40 and at most five positional parameters."""
    for place, lines, limit in sizes(path):
        assert lines < limit, place
    for function in functions(path):
        wanted = [one.arg for one in function.args.args if one.arg not in ("self", "cls")]
        decorated = {ast.unparse(one).partition("(")[0] for one in function.decorator_list}
        assert len(wanted) <= 5 or "main.command" in decorated, function.name


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_the_package_keeps_its_manners(path: Path) -> None:
    """No assert, no TODO, no utils, no mutable state of a module, at most one level of
    inheritance of our own.
    """
    text, module = path.read_text(encoding="utf-8"), tree(path)
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(module))
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text)
    assert "util" not in path.name
    for node in module.body:
        mutable = isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(
            node.value, ast.List | ast.Set | ast.ListComp
        )
        assert not mutable or ast.unparse(node).startswith("__all__"), ast.unparse(node)
    assert not any(isinstance(node, ast.Global) for node in ast.walk(module))


@pytest.mark.parametrize("path", TESTS, ids=name)
def test_every_test_states_its_claim(path: Path) -> None:
    """Each test function has a docstring of one sentence; no test is disabled."""
    for function in functions(path):
        if function.name.startswith("test_"):
            claim = ast.get_docstring(function)
            assert claim, function.name
            assert claim.rstrip().endswith("."), function.name
        marks = " ".join(ast.unparse(decorator) for decorator in function.decorator_list)
        assert "mark.skip(" not in marks
        assert "xfail" not in marks


def test_nothing_speaks_of_one_machine() -> None:
    """No tracked text file holds a path of a user's or a build's home."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    for file in listed.stdout.split():
        path = ROOT / file
        if path.suffix in {".py", ".md", ".yaml", ".toml", ".j2", ""} and path.is_file():
            found = re.search(
                r"/(home|root|work|Users)/\w", path.read_text(encoding="utf-8", errors="replace")
            )
            assert not found, f"{file}: {found.group(0) if found else ''}"


def test_no_two_files_of_tests_share_a_name() -> None:
    """Rooms are no packages: of two files of one name only the first would be collected."""
    names = [path.name for path in TESTS]
    assert sorted({*names}) == sorted(names)
