"""A run that has ended well is sealed: whatever is changed in its results afterwards is named."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fedskd_sim import launch
from fedskd_sim.custody import seal
from fedskd_sim.errors import ChainBroken, OutputNotWritable, RunUnreadable
from fedskd_sim.operate.checks import prove, verify_run
from fedskd_sim.scenario import load

TEXT = """
name: sealed
hospitals:
  - {name: a, architecture: {name: placebo}}
  - {name: b, architecture: {name: placebo}}
algorithm: {name: placebo, rounds: 1, session_seconds: 0, buffer_bytes: 9}
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended well."""
    place = tmp_path_factory.mktemp("sealed")
    (place / "scenario.yaml").write_text(TEXT, encoding="utf-8")
    return launch(place / "scenario.yaml", on="memory", out=place / "run").folder


@pytest.fixture
def run(ended: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(ended, tmp_path / "run"))


def broken(run: Path) -> ChainBroken | None:
    return verify_run(run, load(run / "scenario.yaml").scenario, None)[0].broken


def test_a_run_that_ends_well_is_sealed(run: Path) -> None:
    """Every file of its results is in the seal, and `verify` says how many are as they were."""
    sealed = seal.read(run)
    assert sealed
    results = {
        f"{kind}/{file.name}"
        for kind in ("records", "weights", "samples", "predictions")
        for file in (run / kind).glob("*")
    }
    assert set(sealed.files) == {"scenario.yaml", "environment.json"} | results
    found = verify_run(run, load(run / "scenario.yaml").scenario, None)[0]
    assert found.broken is None
    assert str(found).endswith(f", {len(sealed.files)} files as they were sealed")


def test_a_measure_that_was_altered_is_named(run: Path) -> None:
    """What no digest of a model covers cannot be changed either: each value of a record, by its
    file.
    """
    file = run / "records" / "b.jsonl"
    whole = file.read_text(encoding="utf-8")
    first = json.loads(whole.splitlines()[0])
    others = [name for name in first["measures"] if first["measures"][name]]
    assert others
    for name in others:
        changed = json.loads(json.dumps(first))
        changed["measures"][name][0] += 0.25
        lines = [json.dumps(changed, separators=(",", ":")), *whole.splitlines()[1:]]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        found = broken(run)
        assert found, name
        assert (found.message.partition(":")[0], found.where and found.where.file) == (
            "altered",
            str(file),
        )


@pytest.mark.parametrize(
    ("change", "kind", "name"),
    [
        (lambda run: (run / "environment.json").write_text("{}"), "altered", "environment.json"),
        (lambda run: (run / "environment.json").unlink(), "missing", "environment.json"),
        (lambda run: (run / "samples" / "z.npz").write_bytes(b""), "foreign", "samples/z.npz"),
    ],
    ids=["altered", "missing", "foreign"],
)
def test_what_is_not_as_it_was_sealed_is_named(
    run: Path, change: Callable[[Path], object], kind: str, name: str
) -> None:
    """A file that is another one, one that is gone, one that came later."""
    change(run)
    found = broken(run)
    assert found
    assert (found.message.partition(":")[0], found.where and found.where.file) == (
        kind,
        str(run / name),
    )


@pytest.mark.parametrize(
    "text",
    ["", "{}", '{"version": 2, "files": {}}', '{"version": 1, "files": {"a": 1}}', "[" * 5000],
)
def test_a_damaged_seal_is_named(run: Path, text: str) -> None:
    """It is neither taken for whole nor for none."""
    (run / seal.FILE).write_text(text, encoding="utf-8")
    with pytest.raises(RunUnreadable) as caught:
        broken(run)
    assert caught.value.where
    assert caught.value.where.file == str(run / seal.FILE)


def test_of_two_records_that_contradict_the_changed_one_is_named(run: Path) -> None:
    """A digest that was altered where a model left is not laid to the record of where it came."""
    file = run / "records" / "a.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    number = next(place for place, line in enumerate(lines) if json.loads(line)["digest_out"])
    changed = json.loads(lines[number]) | {"digest_out": "1" * 32}
    lines[number] = json.dumps(changed, separators=(",", ":"))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = broken(run)
    assert found
    assert found.where
    assert found.where.file == str(file)


def test_a_seal_that_is_gone_is_named(run: Path) -> None:
    """A run that ended well was sealed; without the seal nothing says its measures are whole."""
    (run / seal.FILE).unlink()
    found = broken(run)
    assert found
    assert (found.message.partition(":")[0], found.where and found.where.file) == (
        "missing",
        str(run / seal.FILE),
    )


def test_what_is_broken_is_not_sealed(run: Path) -> None:
    """A run whose chain is broken has no seal afterwards, not even an earlier one."""
    (run / "records" / "a.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(ChainBroken):
        prove(run, load(run / "scenario.yaml").scenario, None, None)
    assert seal.read(run) is None


def test_a_folder_that_cannot_be_written_is_no_traceback(tmp_path: Path) -> None:
    """Exit 31 with what stands in the way."""
    with pytest.raises(OutputNotWritable, match=r"seal\.json cannot be written"):
        seal.seal(tmp_path / "nowhere")


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_a_seal_is_signed_and_checked_with_a_key_of_ones_own(run: Path, tmp_path: Path) -> None:
    """The commands of the manual hold: a signature of the seal is good, and that of an altered
    seal is not.
    """
    manual = (Path(__file__).parents[3] / "docs" / "reliability.md").read_text(encoding="utf-8")
    commands = [line for line in manual.splitlines() if line.startswith("ssh-keygen ")]
    assert len(commands) == 2
    key = tmp_path / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (tmp_path / "allowed_signers").write_text(
        f"me@clinic.example {key.with_suffix('.pub').read_text()}", encoding="utf-8"
    )
    sign, check = (
        line.replace("runs/skin", str(run)).replace("~/.ssh/", f"{tmp_path}/") for line in commands
    )

    def done(line: str) -> int:
        return subprocess.run(
            line, shell=True, cwd=tmp_path, capture_output=True, check=False
        ).returncode

    assert (done(sign), done(check)) == (0, 0)
    (run / "records" / "a.jsonl").write_bytes(b"")
    seal.seal(run)
    assert done(check) != 0
