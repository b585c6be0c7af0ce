"""Runs that earlier versions have left: every verb reads them, and forged ones, sealed again, are
found out where arithmetic can.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fedskd_sim.cli import main
from fedskd_sim.custody import seal
from fedskd_sim.errors import ChainBroken, RunUnreadable
from fedskd_sim.scenario import load

ALL = Path(__file__).parents[2] / "kept"
KEPT = ALL / "0.1.0"
NAMES = ("0.1.0/learns", "0.1.0/placebo", "1.0.0/learns")
"""Those that have ended; `stopped` and `killed` are gone on with in ``tests/ring``."""


@pytest.fixture(params=NAMES)
def earlier(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a run that an earlier version has left."""
    return Path(shutil.copytree(ALL / request.param, tmp_path / "run"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the one that learned."""
    return Path(shutil.copytree(KEPT / "learns", tmp_path / "run"))


@pytest.fixture(params=["stopped", "killed"])
def left(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of one that was left in its midst."""
    return Path(shutil.copytree(KEPT / request.param, tmp_path / "run"))


def told(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def sealed_again(run: Path) -> Result:
    seal.seal(run, load(run / "scenario.yaml").scenario)
    return told("verify", run)


def changed(run: Path, name: str, kind: str, **values: Any) -> None:
    """Change the first record of a kind in a hospital's file."""
    file = run / "records" / f"{name}.jsonl"
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    next(record for record in records if record["kind"] == kind).update(values)
    lines = [json.dumps(record, separators=(",", ":")) + "\n" for record in records]
    file.write_text("".join(lines), encoding="utf-8")


def swap_predictions(run: Path) -> None:
    """Let two hospitals' predictions stand under each other's name."""
    first, second = run / "predictions" / "aa.npz", run / "predictions" / "bb.npz"
    first.rename(run / "kept")
    second.rename(first)
    (run / "kept").rename(second)


def more_found(run: Path) -> None:
    """Let a hospital have read other classes for its test than its predictions are of."""
    file = run / "samples" / "aa.jsonl"
    counts = json.loads(file.read_text(encoding="utf-8"))
    counts["used"]["test"] = {"lesion-0": 3, "lesion-1": 3}
    file.write_text(json.dumps(counts) + "\n", encoding="utf-8")


@pytest.mark.parametrize("verb", ["status", "report", "verify", "export"])
def test_a_run_of_an_earlier_version_is_read(earlier: Path, tmp_path: Path, verb: str) -> None:
    """By every verb that looks at a run, with nothing of it changed."""
    before = {file: file.read_bytes() for file in earlier.glob("records/*")}
    more = ["--out", tmp_path / "out"] if verb == "export" else []
    result = told(verb, earlier, *more)
    assert result.exit_code == 0, result.output
    assert before == {file: file.read_bytes() for file in earlier.glob("records/*")}


def test_a_run_of_an_earlier_version_that_has_ended_is_not_gone_on_with(earlier: Path) -> None:
    """`resume` says so, and leaves what is there as it is."""
    before = {file: file.read_bytes() for file in earlier.glob("*/*")}
    result = told("resume", earlier)
    assert result.exit_code > 1
    assert "fix:" in result.output
    assert before == {file: file.read_bytes() for file in before}


@pytest.mark.parametrize("verb", ["status", "report", "verify"])
def test_a_run_in_its_midst_is_read(left: Path, verb: str) -> None:
    """By every verb that looks at a run; the proof tells how far it got."""
    result = told(verb, left)
    assert result.exit_code == 0, result.output
    assert verb != "verify" or "is whole as far as it got" in result.output


def test_a_run_that_was_left_elsewhere_is_gone_on_with_there(left: Path) -> None:
    """Its place names another machine, where it may still go on."""
    result = told("resume", left)
    assert result.exit_code == RunUnreadable.exit_code
    assert "launched on elsewhere, and may still go on there" in result.output


@pytest.mark.parametrize("hospitals", ["*", "bb"])
def test_custody_of_a_form_of_tomorrow_is_refused(left: Path, hospitals: str) -> None:
    """The form of commits has a number; one that this version does not read is named with the way
    out, of one hospital as of all, and nothing is begun anew over it.
    """
    for file in left.glob(f"custody/{hospitals}/commit-*.json"):
        file.write_bytes(file.read_bytes().replace(b"commit 1 ", b"commit 2 ", 1))
    before = {file: file.read_bytes() for file in left.rglob("*") if file.is_file()}
    result = told("resume", left, "--anyway")
    assert result.exit_code == RunUnreadable.exit_code, result.output
    assert "this is a commit of form 2, and this version of fedskd_sim reads 1" in result.output
    assert "fix: go on with the version that kept it" in result.output
    assert before == {file: file.read_bytes() for file in before}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda run: changed(run, "aa", "visit", samples=9000), "tells of 9000 samples in 1 steps"),
        (lambda run: changed(run, "aa", "visit", steps=40), "tells of 36 samples in 40 steps"),
        (lambda run: changed(run, "bb", "visit", outcome="rolled_back"), "has trained nothing"),
        (
            lambda run: changed(run, "aa", "visit", measures={"accuracy": [4.0, 60.0]}),
            "tells of accuracy over 60 samples",
        ),
        (
            lambda run: changed(run, "aa", "evaluation", measures={"accuracy": [6.0, 6.0]}),
            "has accuracy 6 of 6, and its predictions",
        ),
        (lambda run: changed(run, "aa", "evaluation", measures={}), "no record tells of the"),
        (swap_predictions, "these are no predictions of"),
        (more_found, "they are of the classes"),
        (
            lambda run: (run / "samples/aa.jsonl").write_text("{}\n"),
            "samples/aa.jsonl:1: altered: damaged line",
        ),
    ],
    ids=["samples", "steps", "outcome", "weight", "accuracy", "gone", "swapped", "classes", "torn"],
)
def test_what_contradicts_itself_is_named_though_it_is_sealed_again(
    run: Path, change: Callable[[Path], object], says: str
) -> None:
    """Counts, steps, outcomes, accuracies and predictions have to agree, whatever the seal says."""
    change(run)
    result = sealed_again(run)
    assert (result.exit_code, says in result.output) == (60, True), result.output


def without_weights(run: Path) -> None:
    shutil.rmtree(run / "weights")


def without_predictions(run: Path) -> None:
    (run / "predictions" / "bb.npz").unlink()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without_weights, "not proven: models at the end: weights are not kept"),
        (without_predictions, "not proven: accuracies of bb: predictions are not kept"),
        (
            lambda run: (run / "scenario.yaml").write_text(
                (run / "scenario.yaml").read_text().replace("epochs: 1", "epochs: 7")
            ),
            "not proven: settings and measures",
        ),
    ],
    ids=["weights", "predictions", "settings"],
)
def test_what_nothing_shows_is_said(run: Path, change: Callable[[Path], object], says: str) -> None:
    """A folder without the files that would show more, or with other settings, is whole as far as
    anybody can tell; that is said, too.
    """
    change(run)
    result = sealed_again(run)
    assert (result.exit_code, says in result.output) == (0, True), result.output


def test_a_run_without_seal_and_end_is_said_not_to_be_sealed(run: Path) -> None:
    """Where nothing tells that it was sealed, `verify` says that nothing does."""
    (run / "seal.json").unlink()
    (run / "outcome.json").unlink()
    result = told("verify", run)
    assert (result.exit_code, "not sealed:" in result.output) == (0, True), result.output


def test_a_seal_tells_what_the_scenario_means(run: Path) -> None:
    """However it is written and whatever has its default: a comment is other bytes, and another
    number of passes is something else.
    """
    file = run / "scenario.yaml"
    text = file.read_text(encoding="utf-8")
    seal.seal(run, load(file).scenario)
    for changed_text, says in (
        (f"# seen\n{text}", "it means the same"),
        (f"{text}on_loss: {{name: wait}}\n", "it means the same"),
        (text.replace("epochs: 1", "epochs: 7"), "it means something else"),
    ):
        file.write_text(changed_text, encoding="utf-8")
        result = told("verify", run)
        assert (result.exit_code, says in result.output) == (60, True), result.output


def test_a_hospital_that_was_cut_out_is_said_to_be_so_only_by_the_others(tmp_path: Path) -> None:
    """Who adds a loss to scenario and records and removes a hospital's file has a whole run, of
    which `verify` says that nothing but the records tells of the loss.
    """
    run = Path(shutil.copytree(KEPT / "placebo", tmp_path / "run"))
    scenario = run / "scenario.yaml"
    text = (
        scenario.read_text(encoding="utf-8") + "on_loss: {name: skip, after: 60, model: retires}\n"
    )
    scenario.write_text(text, encoding="utf-8")
    for folder in ("records", "samples", "timings"):
        (run / folder / "cc.jsonl").unlink()
    (run / "logs" / "cc.jsonl").unlink()
    for name in ("aa", "bb"):
        records = run / "records" / f"{name}.jsonl"
        lines = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
        cut = [json.dumps({**one, "without": {"cc": 1}}) for one in lines if one["model"] != "cc"]
        records.write_text("\n".join(cut) + "\n", encoding="utf-8")
    result = sealed_again(run)
    says = "not proven: that cc was lost"
    assert (result.exit_code, says in result.output) == (0, True), result.output


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_a_signature_is_looked_at(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that fits is told with its key, one of another seal, for something else or of no form
    breaks the proof, and without the tool it is said that none was checked.
    """
    key, file = tmp_path / "key", run / seal.SIGNATURE
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)

    def sign(namespace: str) -> None:
        file.unlink(missing_ok=True)
        command = ["ssh-keygen", "-Y", "sign", "-f", key, "-n", namespace, run / seal.FILE]
        subprocess.run(command, check=True, capture_output=True)

    sign(seal.NAMESPACE)
    good = told("verify", run)
    assert "is a good signature with ED25519 key SHA256:" in good.output
    assert "against somebody who seals again" not in good.output
    with monkeypatch.context() as without:
        without.setenv("PATH", str(tmp_path))
        assert "was not checked: ssh-keygen is not here" in told("verify", run).output
    seal.seal(run, load(run / "scenario.yaml").scenario)
    assert told("verify", run).exit_code == ChainBroken.exit_code
    sign("file")
    assert told("verify", run).exit_code == ChainBroken.exit_code
    file.write_text("garbage", encoding="utf-8")
    assert "this is no signature of seal.json" in told("verify", run).output
