"""The house rules, kept by machine: layers, homes of libraries, sizes and docstrings."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fedskd_sim"
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
HOMES = {
    "click": ["cli/"],
    "pandas": ["results/runs.py"],
    "pyarrow": ["results/export.py", "datasets/table.py"],
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
        "methods/keys.py",
    ],
    "ruamel": ["scenario/"],
    "torch": ["learning/", "methods/", "datasets/imagefiles.py", "runtimes/preload.py"],
    "torchvision": ["learning/"],
    "safetensors": ["learning/", "custody/verify.py"],
    "PIL": ["datasets/imagefiles.py"],
    "numpy": ["learning/", "datasets/", "privacy/", "results/"],
    "dp_accounting": ["privacy/accountant.py"],
    "efficientnet_lite_pytorch": ["learning/networks/pretrained.py"],
    "scipy": ["results/"],
    "zmq": ["transport/zeromq/"],
    "msgpack": ["transport/wire.py"],
    "xxhash": ["messages.py", "datasets/imagefiles.py", "learning/networks/pretrained.py"],
    "prometheus_client": ["observe/metrics.py"],
    "rich": ["observe/progress.py", "cli/"],
    "matplotlib": ["results/"],
    "jinja2": ["results/"],
    "IPython": ["api.py"],
    "nibabel": ["datasets/nifti.py"],
    "pydicom": ["datasets/dicomfiles.py"],
    "kubernetes": ["kubernetes/"],
    "urllib3": ["kubernetes/"],
    "websocket": ["kubernetes/"],
    "markupsafe": ["results/"],
    "time": ["clock.py"],
    "datetime": ["clock.py"],
}
CHANGES = ("update", "pop", "popitem", "setdefault", "clear")
REMEMBERED = {
    "learning/networks/models.py:_propose",  # a class with its options has the same maps each time
    "learning/networks/pretrained.py:features",  # a file whose digest is known
    "datasets/abide_rois.py:regions_with_signal",  # a run's files do not change
    "observe/events.py:_forms",
    "observe/events.py:name_of",  # a class has one name
    "scenario/part.py:_said_under_keys",  # the text of a module does not change
    "records/files.py:_forms",
    "scenario/packages.py:_offers",  # as long as nothing is installed or removed
    "privacy/accountant.py:_composed",  # the same numbers spend the same
    "privacy/accountant.py:_losses",
    "runtimes/forkserver.py:private_folder",  # one for all runs that this process launches
    "transport/chunks.py:_cut",  # of few architectures
}
"""Functions that remember what they have found."""
HOP = """\
name: hop
data: {name: synthetic-skin, samples: 40, image_size: 32, classes: 3}
hospitals: [{name: a, architecture: cnn-plain}, {name: b, architecture: cnn-depthwise}]
algorithm: {name: fedskd, rounds: 1}
training: {epochs: 1, warmup_epochs: 1, batch_size: 16}
"""
WALK = """\
import sys
from pathlib import Path
import fedskd_sim
from fedskd_sim import launch

root, calls = str(Path(fedskd_sim.__file__).parent) + "/", []

def note(frame, event, _):
    file = frame.f_code.co_filename
    if event == "call" and file.startswith(root):
        calls.append((file.removeprefix(root), frame.f_code.co_name))

sys.setprofile(note)
launch("hop.yaml", on="memory", out="out", watch=lambda event: None)
sys.setprofile(None)
learns = [number for number, (file, _) in enumerate(calls) if file.startswith("learning/")]
left = next(number for number in learns if calls[number][1] == "depart")
came = next(number for number in learns if number > left and calls[number][1] == "visit")
told = next(i for i, (file, _) in enumerate(calls) if i > came and file == "records/ledger.py")
for_each = ("learning/networks/", "learning/weights.py", "learning/receive_buffers.py")
way = [file for file, _ in calls[left : told + 60] if not file.startswith(for_each)]
print(sorted({*way}))
print(len({pair for pair in zip(way, way[1:]) if pair[0] != pair[1]}))
"""
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


def offenders(rule: Callable[[Path], Iterable[str]], paths: Iterable[Path] = MODULES) -> list[str]:
    """List what breaks a rule, each with its file."""
    return [f"{name(path)}: {what}" for path in paths for what in rule(path)]


def test_outside_libraries_stay_in_their_homes() -> None:
    """Each outside library, and time, is imported in one place only; nothing that unpickles is
    imported anywhere.
    """
    known = {*HOMES, *sys.stdlib_module_names, "fedskd_sim"}

    def strays(path: Path) -> Iterator[str]:
        place = str(path.relative_to(PACKAGE))
        for library in imports(path):
            homes = HOMES.get(library, [""])
            if library not in known or library in WITHOUT_EXCEPTION:
                yield f"{library} has no home: add one to HOMES on purpose"
            elif not any(place.startswith(home) for home in homes):
                yield f"{library} has its home in {', '.join(homes)}"

    assert offenders(strays) == []


def test_modules_and_functions_stay_small() -> None:
    """Modules have at most 500 lines, functions under 40 and at most five positional parameters."""

    def large(path: Path) -> Iterator[str]:
        if (lines := path.read_text(encoding="utf-8").count("\n")) > 500:
            yield f"{lines} lines"
        for function in functions(path):
            assert function.end_lineno is not None
            if (lines := function.end_lineno - function.lineno) >= 40:
                yield f"{function.name} has {lines} lines"
            wanted = [one.arg for one in function.args.args if one.arg not in ("self", "cls")]
            decorated = {ast.unparse(one).partition("(")[0] for one in function.decorator_list}
            if len(wanted) > 5 and "main.command" not in decorated:
                yield f"{function.name} takes {len(wanted)} positional arguments"

    assert offenders(large) == []


def test_the_package_keeps_its_manners() -> None:
    """No assert, no TODO, no utils, no global statement."""

    def bad(path: Path) -> Iterator[str]:
        found = re.search(r"\b(TODO|FIXME|XXX)\b", path.read_text(encoding="utf-8"))
        yield from [found[0]] if found else []
        yield from ["a module of utilities"] if "util" in path.name else []
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Assert | ast.Global):
                yield f"line {node.lineno}: {ast.unparse(node)}"

    assert offenders(bad) == []


def test_nothing_at_the_top_of_a_module_changes() -> None:
    """No list or set stands there, no dict that stands there is changed, and what is remembered
    between calls is on a list that says why.
    """

    def changes(path: Path) -> Iterator[str]:
        module, dicts = tree(path), set[str]()
        for node in module.body:
            if not isinstance(node, ast.Assign | ast.AnnAssign):
                continue
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            lists = isinstance(node.value, ast.List | ast.Set | ast.ListComp | ast.SetComp)
            if lists and ast.unparse(target) != "__all__":
                yield ast.unparse(node)
            if isinstance(node.value, ast.Dict | ast.DictComp):
                dicts.add(ast.unparse(target))
        for node in ast.walk(module):
            stored = isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del)
            called = isinstance(node, ast.Attribute) and node.attr in CHANGES
            if (stored or called) and ast.unparse(node.value) in dicts:
                yield f"line {node.lineno}: {ast.unparse(node)}"
        for function in functions(path):
            decorated = {ast.unparse(one).partition("(")[0] for one in function.decorator_list}
            place = f"{path.relative_to(PACKAGE)}:{function.name}"
            if decorated & {"cache", "lru_cache"} and place not in REMEMBERED:
                yield f"{function.name} remembers: add it to REMEMBERED on purpose"

    assert offenders(changes) == []


def classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    for path in MODULES:
        yield from ((path, node) for node in tree(path).body if isinstance(node, ast.ClassDef))


def test_a_class_name_has_one_meaning() -> None:
    """No two modules define a public class of one name."""
    found = Counter(node.name for _, node in classes() if not node.name.startswith("_"))
    assert [one for one, times in found.items() if times > 1] == []


def test_classes_inherit_once() -> None:
    """A class has at most one class of our own above it; an error and a part of a scenario have
    the kind that they are of between them and the base of all, an algorithm and its keys the
    pattern on which methods stand, too, and these stand on all of them.
    """
    above = {node.name: [ast.unparse(base) for base in node.bases] for _, node in classes()}

    def depth(one: str) -> int:
        return max((1 + depth(base) for base in above[one] if base in above), default=0)

    def most(path: Path, one: str) -> int:
        if "methods/" in str(path) or "AlgorithmKeys" in lineage(one):
            return 4
        if "learning/algorithms" in str(path):
            return 3
        return 1 + path.relative_to(PACKAGE).parts[0].startswith(("errors", "scen"))

    def lineage(one: str) -> list[str]:
        return [one, *(up for base in above.get(one, []) for up in lineage(base))]

    deep = [
        f"{name(path)}: {node.name}"
        for path, node in classes()
        if depth(node.name) > most(path, node.name)
    ]
    assert deep == []


def test_every_test_states_its_claim() -> None:
    """Each test function has a docstring of one sentence; no test is disabled."""

    def silent(path: Path) -> Iterator[str]:
        for function in functions(path):
            claim = ast.get_docstring(function) or ""
            if function.name.startswith("test_") and not claim.rstrip().endswith("."):
                yield function.name
            marks = " ".join(ast.unparse(decorator) for decorator in function.decorator_list)
            if "mark.skip(" in marks or "xfail" in marks:
                yield f"{function.name} is disabled"

    assert offenders(silent, TESTS) == []


@pytest.mark.slow
def test_a_hop_is_walked_in_few_files(tmp_path: Path) -> None:
    """From a model's departure to its record at the next hospital, in memory, a reader opens at
    most 42 files, without those that are called for every layer or tensor.
    """
    (tmp_path / "hop.yaml").write_text(HOP, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", WALK], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    files, arrows = (ast.literal_eval(line) for line in done.stdout.splitlines())
    assert len(files) <= 42, files
    assert arrows <= 145


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
