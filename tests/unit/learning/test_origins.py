"""A comparison notices that the data behind it have changed: by what files hold, not by when they
were written.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_ids import KINDS, scenario, skin

from fedskd_sim import Cohort
from fedskd_sim.errors import CustodyForeign
from fedskd_sim.learning.data import load
from fedskd_sim.learning.readers import reading
from fedskd_sim.results.comparison import origins
from fedskd_sim.results.comparison.planning import methods, tasks
from fedskd_sim.results.comparison.work import Workshop
from fedskd_sim.scenario import OwnData, Scenario

QUICKSTART = Path(__file__).parents[3] / "scenarios" / "quickstart.yaml"
READ = [kind for kind, (write, *_) in KINDS.items() if write.__name__ != "<lambda>"]
OPENED: list[str] = []


def note(event: str, arguments: tuple) -> None:
    if event == "open" and isinstance(arguments[0], str | os.PathLike):
        OPENED.append(os.fspath(arguments[0]))


@pytest.fixture(scope="module", autouse=True)
def _listening() -> None:
    """A hook cannot be taken away again: there is one for all tests."""
    sys.addaudithook(note)


def digest_of(found: Scenario, folder: Path) -> str:
    (digest,) = origins.digests(folder, folder / "none" / "x").of(found).values()
    return digest


@pytest.mark.parametrize("kind", READ)
def test_every_file_that_is_read_counts(kind: str, tmp_path: Path, scenario_file: Callable) -> None:
    """Whatever a kind of data opens is among its files, and a byte more in any of them is other
    data; their times, and files that nobody reads, are nothing.
    """
    folder = tmp_path / "data"
    folder.mkdir()
    KINDS[kind][0](folder)
    found = scenario(scenario_file, kind)
    OPENED.clear()
    load(found, "a", folder, "cpu")
    opened = {Path(one) for one in OPENED if Path(one).is_relative_to(folder)}
    data = found.hospital("a").data
    files = origins._files(data, folder)[1]
    assert opened
    assert opened <= {*files}
    before = digest_of(found, folder)
    (folder / "notes.txt").write_text("nobody reads this")
    for file in opened:
        os.utime(file, (1, 1))
    assert digest_of(found, folder) == before
    for file in sorted(opened)[:4]:
        whole = file.read_bytes()
        file.write_bytes(whole + b"0")
        assert digest_of(found, folder) != before, file
        file.write_bytes(whole)
    assert digest_of(found, folder) == before
    min(opened).rename(folder / "gone")
    assert digest_of(found, folder) != before


def test_files_are_read_again_only_if_they_may_have_changed(
    tmp_path: Path, scenario_file: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found is kept for the next comparison, which trusts nothing that is damaged."""
    skin(tmp_path)
    found, read = scenario(scenario_file, "ham10000"), origins._read
    looks: list[object] = []
    monkeypatch.setattr(origins, "_read", lambda *given: looks.append(given) or read(*given))

    def look() -> tuple[dict[str, str], int]:
        looks.clear()
        return origins.digests(tmp_path, tmp_path / "seen").of(found), len(looks)

    first, count = look()
    assert (list(first), count) == (["data skin.npz"], 1)
    assert look() == (first, 0)
    for damage in ("", "[1]", '{"data skin.npz": 7}'):
        (tmp_path / "seen").write_text(damage)
        assert look() == (first, 1)
    os.utime(tmp_path / "skin.npz", (1, 1))
    assert look() == (first, 1)
    (tmp_path / "skin.npz").unlink()
    assert look() == ({"data skin.npz": origins.GONE}, 0)


def test_finished_runs_of_other_data_are_refused(tmp_path: Path, scenario_file: Callable) -> None:
    """They are named as those of other code are; of runs of an earlier version, which did not
    look at data, nothing is known.
    """
    data = tmp_path / "data"
    data.mkdir()
    skin(data)
    chosen = methods(scenario(scenario_file, "ham10000"), ["local", "cyclic"])
    planned = list(tasks(chosen, 2))
    shop = Workshop(tmp_path / "out", data, 1)
    for task in planned:
        folder = shop.folder(task)
        folder.mkdir(parents=True)
        (folder / "scenario.yaml").write_text(task.text)
        (folder / "report.json").write_text('{"complete": true}')
        origins.keep(folder, origins.now(task.scenario, shop._digests))
    before = origins.kept(shop.folder(planned[0]))
    with Workshop(tmp_path / "out", data, 1).prepare(planned):
        pass
    arrays = dict(np.load(data / "skin.npz"))
    arrays["label"][:1] = 2
    np.savez(data / "skin.npz", **arrays)
    words = (
        "4 of 4 finished runs were computed with other data, the first local, seed 1: data "
        f"skin.npz was {before['data skin.npz']} and is "
    )
    with pytest.raises(CustodyForeign, match=words) as caught, shop.prepare(planned):
        pass
    assert "learning code" not in str(caught.value)
    with Workshop(tmp_path / "out", data, 1, anyway=True).prepare(planned):
        pass
    for task in planned:
        origins.keep(shop.folder(task), {"learning code": before["learning code"]})
    with Workshop(tmp_path / "out", data, 1).prepare(planned):
        pass
    origins.keep(shop.folder(planned[0]), {**before, "learning code": "another"})
    with (
        pytest.raises(CustodyForeign, match=r"1 of 4 .* with other code and data"),
        shop.prepare(planned),
    ):
        pass


def test_the_table_says_which_runs_are_of_which_data() -> None:
    """Runs of different data, and those of which it is not known, are listed."""
    code = {"learning code": "c"}
    found = {
        ("local", 1): {**code, "data x.npz": "old"},
        ("local", 2): {**code, "data x.npz": "new"},
        ("cyclic", 1): code,
    }
    both, unknown = origins.remarks(found)
    assert both == (
        "Runs of different data are compared. The data x.npz was old: local (seed 1); new: local "
        "(seed 2)."
    )
    assert unknown == "Nothing says with which data x.npz cyclic (seed 1) were computed."


@pytest.mark.parametrize("what", ["samples", "labels", "sites", "ids"])
def test_what_a_reader_of_ones_own_gives_counts(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows which files it reads: a sample, a label, a site or an id that it gives
    otherwise is other data.
    """
    given = {
        "samples": np.zeros((100, 8, 8), np.uint8),
        "labels": np.arange(100) % 2,
        "sites": np.where(np.arange(100) < 50, "x", "y"),
        "ids": np.arange(100).astype(str),
    }
    monkeypatch.setattr(reading, "names", lambda _: ["mine"])
    monkeypatch.setattr(reading, "options_of", lambda _: {})
    monkeypatch.setattr(reading.places, "folder_of", lambda *_: Path())
    monkeypatch.setattr(reading, "fetch", lambda *_: lambda _: Cohort(**given))
    dataset = OwnData(name="own", reader="mine")
    before = reading.digest(dataset, None)
    assert reading.digest(dataset, None) == before
    changed = np.array(given[what])
    changed[70] = {"samples": 1, "labels": 1, "sites": "x", "ids": "z"}[what]
    given[what] = changed
    assert reading.digest(dataset, None) != before


def test_a_comparison_does_not_import_pytorch() -> None:
    """What it does itself needs none: runs and checks have theirs from the fork server."""
    code = """
import sys
from pathlib import Path
from fedskd_sim.cli.compare import compare
from fedskd_sim.results.comparison import origins, summary, text, work
from fedskd_sim.scenario import load
scenario = load(Path(sys.argv[1])).scenario
assert origins.now(scenario, origins.digests(None, Path("none")))["learning code"]
assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code, QUICKSTART], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
