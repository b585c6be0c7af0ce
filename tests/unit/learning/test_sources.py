"""A run goes on with the code that it began with, or says that it cannot."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fedskd_sim import load
from fedskd_sim.errors import CustodyForeign
from fedskd_sim.learning import installed
from fedskd_sim.learning.sources import CODE, PACKAGE, TRAINS, digest, sources
from fedskd_sim.member.keeper import compare

SCENARIO = """
name: own
data: {name: synthetic-skin, samples: 40, image_size: 16, classes: 3}
hospitals: [{name: a, architecture: mine-sources}, {name: b, architecture: cnn-plain}]
algorithm: {name: local, rounds: 1}
"""


@pytest.mark.parametrize("package", [True, False])
def test_an_architecture_that_was_edited_is_named(
    package: bool,  # noqa: FBT001 - a parameter of the test
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A byte in any file of its package, or of its module, is another circumstance; what is put
    back is the same again.
    """
    module = f"mine_sources_{'package' if package else 'module'}"
    info = tmp_path / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{installed.GROUP}]\nmine-sources = {module}:build\n")
    file = tmp_path / (f"{module}/__init__.py" if package else f"{module}.py")
    file.parent.mkdir(exist_ok=True)
    file.write_text("def build(channels, image_size, classes): pass\n")
    edited = file.with_name("layers.py") if package else file
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own.yaml").write_text(SCENARIO)
    scenario = load(tmp_path / "own.yaml").scenario
    before, text = sources(scenario), edited.read_text() if edited.exists() else ""
    assert before.keys() == {"learning code", "architecture mine-sources"}
    edited.write_text(text + "width = 8\n")
    with pytest.raises(CustodyForeign, match=r"architecture mine-sources was .* and is "):
        compare(tmp_path, before, sources(scenario), anyway=False)
    compare(tmp_path, before, sources(scenario), anyway=True)


def test_a_file_of_weights_that_was_changed_is_named(tmp_path: Path) -> None:
    """A run does not go on from other initial weights; only who reads a file asks for it."""
    weights = tmp_path / "start.safetensors"
    weights.write_bytes(b"one")
    text = SCENARIO.replace("mine-sources", f"{{name: cnn-plain, weights: {weights}}}")
    (tmp_path / "own.yaml").write_text(text)
    scenario = load(tmp_path / "own.yaml").scenario
    before = sources(scenario, "a")
    assert before.keys() == {"learning code", f"weights {weights}"}
    assert sources(scenario, "b").keys() == {"learning code"}
    weights.write_bytes(b"two")
    with pytest.raises(CustodyForeign, match=r"weights .*start.safetensors was "):
        compare(tmp_path, before, sources(scenario, "a"), anyway=False)


def test_the_code_that_trains_is_that_of_the_import(tmp_path: Path) -> None:
    """It is the digest of all that may teach, and edits of any of it change it."""
    places = [PACKAGE / name for name in TRAINS]
    assert digest(places) == CODE
    for name in TRAINS:
        shutil.copytree(PACKAGE / name, tmp_path / name)
    copies = [tmp_path / name for name in TRAINS]
    before = digest(copies)
    assert before == CODE
    (tmp_path / "learning" / "algorithms" / "local.py").open("a").close()
    assert digest(copies) == before
    (tmp_path / "learning" / "algorithms" / "mine.py").write_text("x = 1\n")
    assert digest(copies) != before
