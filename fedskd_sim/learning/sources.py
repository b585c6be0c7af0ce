"""The code that trains, by its bytes: a run does not go on with another than it began with, which
no version tells of an algorithm, an architecture or a reader of one's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from fedskd_sim.learning.installed import ALGORITHM, ARCHITECTURE, LOSS, READER, fetch, names
from fedskd_sim.learning.offers import OWN
from fedskd_sim.scenario import OwnAlgorithm, OwnCode, OwnData, Scenario

PACKAGE = Path(__file__).parent.parent
TRAINS = ("learning", "scenario", "methods", "datasets")
"""The packages of this program in which algorithms and readers are written."""


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


def sources(scenario: Scenario, host: str = "", code: OwnCode | None = None) -> dict[str, str]:
    """Name the code that trains the models of a scenario: this package's, the scenario's own, and
    that of each package that offers an architecture, a reader, a loss or an algorithm, which every
    hospital imports anew; at a ``host`` only its own reader's, for it need not have those of
    others. Importing these imports PyTorch.
    """
    OWN.use(code)
    algorithm = scenario.algorithm
    used = [scenario.architecture(name) for name in scenario.members]
    common = getattr(algorithm, "architecture", None)  # of fml, beside theirs
    given = {one.name: one.is_class for one in (*used, common) if one}
    own, classes = {*given} & {*names()}, {name for name in given if given[name]}
    readers = {
        one.data.reader
        for one in scenario.hospitals
        if isinstance(one.data, OwnData) and host in ("", one.name)
    }
    used_names = [(ARCHITECTURE, name) for name in sorted(own)]
    used_names += [(READER, name) for name in sorted(readers)]
    used_names += [(LOSS, algorithm.loss)] if algorithm.loss else []
    used_names += [(ALGORITHM, algorithm.name)] if isinstance(algorithm, OwnAlgorithm) else []
    offers = [one for one in used_names if OWN.find(one[0].group, one[1]) is None]
    packages = {
        f"{offered.what} {name}": digest(_places(module))
        for offered, name in offers
        if not (module := fetch(offered, name).__module__).startswith(f"{PACKAGE.name}.")
    }
    packages |= {
        f"architecture {name}": digest(_places(name.partition(":")[0])) for name in sorted(classes)
    }
    own_code = {"own code": code.digest} if code else {}
    return {"learning code": CODE} | own_code | packages | _weights(scenario, host)


def _weights(scenario: Scenario, host: str) -> dict[str, str]:
    """Digest the files of initial weights that a host reads, or all hosts; those that are here."""
    models = [scenario.architecture(name) for name in scenario.members if host in ("", name)]
    common = getattr(scenario.algorithm, "architecture", None)
    named = {str(one.weights or one.options.get("weights", "")) for one in (*models, common) if one}
    return {
        f"weights {file}": digest([Path(file)]) for file in sorted(named) if Path(file).is_file()
    }


def _places(module: str) -> list[Path]:
    """Find the files of the package that a module is in; none where they are no files."""
    spec = find_spec(module.partition(".")[0])
    if spec is None:
        return []
    folders = map(Path, spec.submodule_search_locations or ())
    files = [Path(spec.origin)] if spec.origin and not spec.submodule_search_locations else []
    return [place for place in (*folders, *files) if place.exists()]
