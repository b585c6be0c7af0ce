"""The code that trains, by its bytes: a run does not go on with another than it began with, which
no version tells of an algorithm, an architecture or a reader of one's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from fedskd_sim.learning.installed import ARCHITECTURE, READER, fetch, names
from fedskd_sim.scenario import OwnData, Scenario

PACKAGE = Path(__file__).parent.parent
TRAINS = ("learning", "scenario")
"""The packages in which an algorithm of one's own is written."""


def digest(places: Iterable[Path]) -> str:
    """Return the digest of files, and of all Python files in folders, with their names."""
    whole = sha256()
    for place in places:
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            whole.update(f"{file.relative_to(place.parent)}\0".encode())
            whole.update(sha256(file.read_bytes()).digest())
    return whole.hexdigest()[:16]


CODE = digest(PACKAGE / name for name in TRAINS)
"""As this module is imported, with the others: hospitals forked later run what was there then."""


def sources(scenario: Scenario, host: str = "") -> dict[str, str]:
    """Name the code that trains the models of a scenario: this package's, and that of each
    architecture and reader of one's own, which every hospital imports anew; at a ``host`` only its
    own reader's, for it need not have those of others. Importing these imports PyTorch.
    """
    used = [scenario.architecture(name) for name in scenario.members]
    common = getattr(scenario.algorithm, "architecture", None)  # of fml, beside theirs
    given = {one.name: one.is_class for one in (*used, common) if one}
    own, classes = {*given} & {*names()}, {name for name in given if given[name]}
    readers = {
        one.data.reader
        for one in scenario.hospitals
        if isinstance(one.data, OwnData) and host in ("", one.name)
    }
    functions = {f"architecture {name}": fetch(ARCHITECTURE, name) for name in sorted(own)} | {
        f"reader {name}": fetch(READER, name) for name in sorted(readers)
    }
    return (
        {"learning code": CODE}
        | {name: digest(_places(function.__module__)) for name, function in functions.items()}
        | {
            f"architecture {name}": digest(_places(name.partition(":")[0]))
            for name in sorted(classes)
        }
    )


def _places(module: str) -> list[Path]:
    """Find the files of the package that a module is in; none where they are no files."""
    spec = find_spec(module.partition(".")[0])
    if spec is None:
        return []
    folders = map(Path, spec.submodule_search_locations or ())
    files = [Path(spec.origin)] if spec.origin and not spec.submodule_search_locations else []
    return [place for place in (*folders, *files) if place.exists()]
