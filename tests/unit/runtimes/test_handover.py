"""What a hospital goes on from, on its way to another place."""

from __future__ import annotations

from base64 import b64decode
from hashlib import sha256
from pathlib import Path

import pytest

from fedskd_sim.errors import RegistrationTimeout, RunUnreadable
from fedskd_sim.observe.events import EventLog
from fedskd_sim.runtimes import handover
from fedskd_sim.runtimes.member import MemberOrder

SCENARIO = """
name: moves
hospitals: [{name: a, architecture: buffer}, {name: b, architecture: buffer}]
algorithm: {name: placebo, rounds: 1}
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with the custody and the records of two hospitals."""
    for name in "ab":
        (tmp_path / "run" / "custody" / name / "models").mkdir(parents=True)
        (tmp_path / "run" / "custody" / name / "commit-00000007.json").write_text(
            f"seven of {name}"
        )
        (tmp_path / "run" / "custody" / name / "models" / "d1").write_bytes(b"weights" * 30_000)
        (tmp_path / "run" / "records").mkdir(exist_ok=True)
        (tmp_path / "run" / "records" / f"{name}.jsonl").write_text(f"records of {name}\n")
        (tmp_path / "run" / "custody" / f"{name}.started").write_text("1795804664.8\n")
        (tmp_path / "run" / "custody" / f"{name}.faults").write_text("0\n")
    return tmp_path / "run"


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_it_arrives_as_it_was(run: Path, tmp_path: Path) -> None:
    """Custody and books of one hospital, and nothing of another's; what an older life had kept
    there is gone.
    """
    there = tmp_path / "pod"
    (there / "custody" / "a").mkdir(parents=True)
    (there / "custody" / "a" / "commit-00000009.json").write_text("of another life")
    (there / "custody" / "c").mkdir()
    (there / "custody" / "c" / "commit-00000001.json").write_text("of somebody else")
    handover.unpack(handover.pack(handover.list_kept(run, "a")), there)
    mine = {name: data for name, data in files(run).items() if "/a" in name}
    assert len(mine) == 5
    assert files(there) == mine | {"custody/c/commit-00000001.json": b"of somebody else"}


def test_what_comes_in_part_changes_nothing(run: Path, tmp_path: Path) -> None:
    """However many of its lines have come, without the last one nothing is written; neither is
    what is no archive.
    """
    lines = list(handover.pack(handover.list_kept(run, "a")))
    assert len(lines) > 3
    there = tmp_path / "pod"
    there.mkdir()
    for count in range(len(lines)):
        with pytest.raises(ValueError, match="only in part"):
            handover.unpack(lines[:count], there)
    for bad in (["not base64!"], ["QUJD"], []):
        data = b"".join(b64decode(line) for line in bad if line.isalnum())
        with pytest.raises(ValueError, match="cannot be read"):
            handover.unpack([*bad, f".{sha256(data).hexdigest()}"], there)
    for bad in ([*lines[1:]], [lines[1], lines[0], *lines[2:]], [*lines[:-1], "."]):
        with pytest.raises(ValueError, match="not what was sent"):
            handover.unpack(bad, there)
    assert list(there.iterdir()) == []


def test_nothing_is_written_outside_of_the_folder(run: Path, tmp_path: Path) -> None:
    """An archive with a way out of its folder is refused whole."""
    there = tmp_path / "pod"
    there.mkdir()
    lines = list(handover.pack([(run / "records" / "a.jsonl", "../outside")]))
    with pytest.raises(ValueError, match="leads elsewhere"):
        handover.unpack(lines, there)
    (run / "link").symlink_to("/etc")
    with pytest.raises(ValueError, match="is no file"):
        handover.unpack(handover.pack([(run / "link", "records")]), there)
    assert not (tmp_path / "outside").exists()
    assert list(there.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["place.json", "records/b.jsonl", "custody/b/commit-1.json", "a/b", "logs/a.jsonl"]
)
def test_a_hospital_writes_its_own_files_only(run: Path, tmp_path: Path, name: str) -> None:
    """What comes out of its pod is refused whole if a file of it is another's, or the run's."""
    there = tmp_path / "there"
    there.mkdir()
    good = handover.list_kept(run, "a")
    assert len(handover.unpack(handover.pack(good), there, "a")) == 5
    before = files(there)
    bad = [*good, (run / "records" / "a.jsonl", name)]
    with pytest.raises(ValueError, match="is not a file of 'a'"):
        handover.unpack(handover.pack(bad), there, "a")
    assert files(there) == before


def test_a_hospital_of_which_nothing_was_kept_is_named(run: Path) -> None:
    """Words instead of an empty archive."""
    with pytest.raises(RunUnreadable, match="'c' could go on"):
        handover.list_kept(run, "c")


def order(folder: Path, direction: str) -> MemberOrder:
    (folder / "scenario.yaml").write_text(SCENARIO, encoding="utf-8")
    return MemberOrder(
        folder / "scenario.yaml", "a", "r", folder, "", "", patience=0.3, custody=direction
    )  # type: ignore[arg-type]


@pytest.mark.parametrize("direction", ["in", "out"])
def test_nobody_waits_for_ever(direction: str, tmp_path: Path) -> None:
    """A hospital says that it waits, and ends with words when nobody comes."""
    said = []
    log = EventLog(
        type("Stream", (), {"write": lambda _, text: said.append(text), "flush": lambda _: None})(),
        {},
    )  # type: ignore[arg-type]
    with pytest.raises(RegistrationTimeout, match="nobody has"):
        handover.wait(order(tmp_path, direction), log)
    assert "awaits_custody" in said[0]


def test_what_is_there_is_not_waited_for(run: Path, tmp_path: Path) -> None:
    """The next pod of a hospital on a claim finds what was brought to the one before, which is
    further by now.
    """
    with (tmp_path / "log").open("w") as stream:
        handover.wait(order(run, "in"), EventLog(stream, {}))
    assert (tmp_path / "log").read_text() == ""
