"""A network, a reader, a loss and a method of a user's own, from a file beside the scenario: the
same bytes in memory, as processes, killed, and resumed; and nobody else's code without a word.
"""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fedskd_sim import Run, compare, launch, load, resume
from fedskd_sim.errors import FedskdError, HospitalCrashed, RunUnreadable
from fedskd_sim.observe.events import Arrived, Logged
from fedskd_sim.operate.checks import verify_run
from fedskd_sim.records.files import read_records
from fedskd_sim.scenario import begin

ROOT = Path(__file__).parents[2]
LEAVES = ("records", "weights", "predictions", "samples")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The shipped scenario, in memory."""
    return launch("own", on="memory", out=tmp_path_factory.mktemp("own") / "run")


def left(run: Run) -> dict[str, bytes]:
    """Read what a run leaves."""
    files = [file for name in LEAVES for file in run.folder.glob(f"{name}/*")]
    return {str(file.relative_to(run.folder)): file.read_bytes() for file in files}


@pytest.mark.slow
def test_processes_leave_the_same_bytes(reference: Run, tmp_path: Path) -> None:
    """Also where hospitals die and another life of each imports the code anew."""
    first = "{hospital: bonn, what: kill, round: 1, hop: 1}"
    loaded = load("own", f"faults=[{first}, {{hospital: calw, what: kill, round: 2, hop: 1}}]")
    run = launch(loaded, on="processes", out=tmp_path / "run")
    assert left(run) == left(reference)
    assert (run.folder / "code" / "own_parts.py").read_bytes() == (
        reference.folder / "code" / "own_parts.py"
    ).read_bytes()


def stopped(place: Path) -> Path:
    """Launch the scenario and interrupt it in the middle."""
    arrivals = []

    def interrupt(event: Logged) -> None:
        arrivals.append(event) if isinstance(event.what, Arrived) else None
        if len(arrivals) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch("own", out=place, watch=interrupt)
    return place


@pytest.mark.slow
def test_a_stopped_run_is_resumed_with_its_own_code(
    reference: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whoever launched it without a word; by somebody else once they say its digest; edited,
    it is other code.
    """
    folder = stopped(tmp_path / "run")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    shutil.copytree(folder, tmp_path / "given")
    with pytest.raises(RunUnreadable, match=r"not launched by you: own_parts\.py") as caught:
        resume(tmp_path / "given")
    digest = caught.value.fix.rpartition(" ")[2]
    with pytest.raises(RunUnreadable, match=f"its digest is {digest}, not 0123456789abcdef"):
        resume(tmp_path / "given", trust_code="0123456789abcdef")
    edited = folder / "code" / "own_parts.py"
    before = edited.read_text(encoding="utf-8")
    edited.write_text(before + "\nNEW = 1\n", encoding="utf-8")
    with pytest.raises(FedskdError, match="own code"):
        resume(folder, trust_code=load(folder / "scenario.yaml").code.digest)
    edited.write_text(before, encoding="utf-8")
    assert left(resume(folder, trust_code=digest)) == left(reference)


READS = """\
import json, sys
from click.testing import CliRunner
from fedskd_sim.cli import main
done = [CliRunner().invoke(main, [verb, sys.argv[1]]) for verb in sys.argv[2:]]
print(json.dumps([(one.exit_code, one.stderr) for one in done]))
"""


def test_a_run_is_read_without_its_code(reference: Run, tmp_path: Path) -> None:
    """By verify, report, status and export: a module that ends the program is not imported."""
    folder = tmp_path / "run"
    shutil.copytree(reference.folder, folder)
    (folder / "code" / "own_parts.py").write_text("raise SystemExit(99)", encoding="utf-8")
    command = [sys.executable, "-c", READS, folder, "report", "status", "export", "verify"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    *read, broken = json.loads(done.stdout)
    for code, errors in read:
        assert code == 0, errors
        assert "99" not in errors
    assert broken[0] == 60
    assert "code/own_parts.py" in broken[1]
    (folder / "code" / "own_parts.py").write_bytes(
        (reference.folder / "code" / "own_parts.py").read_bytes()
    )
    found, remark = verify_run(folder, reference.scenario, None)
    assert (found.broken, remark) == (None, "")
    (folder / "tensors.json").unlink()
    _, remark = verify_run(folder, reference.scenario, None)
    assert "brings code, which is not run to verify" in remark


def test_everybody_reads_what_the_algorithm_has_said(reference: Run) -> None:
    """The report names its words and its keys."""
    told = json.loads((reference.folder / "resolved.json").read_text(encoding="utf-8"))
    assert [*told["code"]] == ["own_parts.py"]
    page = (reference.folder / "report.html").read_text(encoding="utf-8")
    assert "both learn from each other" in page
    assert "temperature" in page
    assert {row["kind"] for row in reference.hops} >= {"warm_up", "visit", "homecoming"}


LOSSES = """\
import torch
from fedskd_sim import Loss, loss

@loss("twice", replaces=True)
def twice(step, role, *, factor=2.0):
    return factor * step.cross_entropy(role)

@loss("plain", replaces=True)
def plain(step, role):
    return step.cross_entropy(role)

@loss("more")
def more(step, *, weight=0.5):
    return weight * step.logits().square().mean()

@loss("still")
class Still(Loss):
    def before_step(self, step, role):
        for parameter in step.models[role].parameters():
            parameter.grad = torch.zeros_like(parameter)

@loss("grey")
class Grey(Loss):
    def __init__(self, *, value=0.0):
        self.value = value
    def prepare(self, batch):
        return batch._replace(images=torch.full_like(batch.images, self.value))

@loss("vector", replaces=True)
def vector(step, role):
    return step.logits(role)
"""
TINY = """\
name: tiny
code: [losses.py]
data: {name: synthetic-skin, samples: 20, image_size: 16, classes: 2}
hospitals:
  - {name: a, architecture: {name: cnn-plain, options: {width: 4}}}
  - {name: b, architecture: {name: cnn-plain, options: {width: 4}}}
algorithm: {name: NAME, rounds: 1}
training: {warmup_epochs: 1, batch_size: 6, optimiser: {weight_decay: 0.0}}
"""


def first(tmp_path: Path, name: str, *changes: str) -> Run:
    """Run an algorithm with a loss."""
    place = tmp_path / f"{name}-{len([*tmp_path.iterdir()])}"
    place.mkdir()
    (place / "losses.py").write_text(LOSSES, encoding="utf-8")
    (place / "tiny.yaml").write_text(TINY.replace("NAME", name), encoding="utf-8")
    return launch(load(place / "tiny.yaml", *changes), on="memory", out=place / "run")


def measured(run: Run, what: str) -> list[float]:
    """List a measure in all records, in order."""
    found = [one.measures for one in read_records(run.folder)]
    return [one[what].mean for one in found if what in one]


@pytest.mark.parametrize("name", ["circulation", "fml"])
def test_a_loss_holds_in_every_session(name: str, tmp_path: Path) -> None:
    """One that is the cross-entropy changes no bit; one that is twice it shows twice the loss from
    the first session on; without gradients nothing is learned; what is added is told.
    """
    usual = first(tmp_path, name)
    assert left(usual) == left(first(tmp_path, name, "algorithm.loss=plain"))
    larger = first(tmp_path, name, "algorithm.loss=twice", "algorithm.options={factor: 1000.0}")
    assert measured(larger, "loss")[0] > 500 * measured(usual, "loss")[0]
    still = first(tmp_path, name, "algorithm.loss=still")
    drifts = [*measured(still, "drift"), *measured(still, "net_drift")]
    assert drifts
    assert not any(drifts)
    assert any(measured(first(tmp_path, name, "algorithm.loss=more"), "more"))
    grey = first(tmp_path, name, "algorithm.loss=grey", "algorithm.options={value: 1.0}")
    assert left(grey) != left(usual)


def test_a_wrong_loss_ends_the_run_with_its_line(tmp_path: Path) -> None:
    """It names file and line of the function, and what was expected."""
    with pytest.raises(HospitalCrashed, match=r"vector \(losses\.py:29\) has to give a scalar"):
        first(tmp_path, "local", "algorithm.loss=vector")


@pytest.mark.slow
def test_the_manuals_methods_die_and_go_on(tmp_path: Path) -> None:
    """A personal model that is kept outlives a death: records and weights are those of a run
    without one; the manual's loss and its other method do as the manual says.
    """
    pages = [ROOT / "docs" / f"{page}.md" for page in ("own-algorithm", "own-code-reference")]
    found = "".join(page.read_text(encoding="utf-8") for page in pages)
    blocks = re.findall(r"```python\n(?=from |import )(.*?)```", found, re.DOTALL)
    assert len(blocks) == 6
    for number, text in enumerate(blocks):
        (tmp_path / f"block{number}.py").write_text(text, encoding="utf-8")
    code = ", ".join(f"block{number}.py" for number in range(6))
    text = TINY.replace("[losses.py]", f"[{code}]").replace("NAME", "my-ditto")
    (tmp_path / "tiny.yaml").write_text(text, encoding="utf-8")
    loss = "algorithm.loss=focal"
    calm = launch(load(tmp_path / "tiny.yaml", loss), on="memory", out=tmp_path / "calm")
    fault = "faults=[{hospital: b, what: kill, round: 1, hop: 1}]"
    killed = launch(load(tmp_path / "tiny.yaml", loss, fault), out=tmp_path / "killed")
    assert left(killed) == left(calm)
    other = load(tmp_path / "tiny.yaml", "algorithm.name=my-def-kt", "algorithm.weight=0.5")
    assert launch(other, on="memory", out=tmp_path / "other").scenario.schedule.visits == 1
    sums = load(
        tmp_path / "tiny.yaml", "algorithm.name=my-fd", "algorithm.loss=mixup", "algorithm.rounds=2"
    )
    told = launch(sums, on="memory", out=tmp_path / "sums")
    assert any(measured(told, "distance"))
    alone = launch(load(tmp_path / "tiny.yaml", "algorithm.name=alone"), out=tmp_path / "whole")
    assert [row["kind"] for row in alone.hops].count("alone") == 2


@pytest.mark.slow
def test_own_methods_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their name and as variants, with the code beside every run; and classes of an imported
    module are the same code as the file that a scenario names.
    """
    place = begin("mine", "own", tmp_path)
    text = place.read_text(encoding="utf-8")
    hot = "  hot: {algorithm: {name: my-def-kt, temperature: 5.0}}\n"
    place.write_text(text.replace("  turned:", f"{hot}  turned:"), encoding="utf-8")
    labels = ["my-def-kt", "hot"]
    found = compare(place, labels, seeds=2, control="my-def-kt", out=tmp_path / "compared")
    assert {one["method"] for one in found.differences} == {"hot"}
    assert "my-def-kt" in found.text
    monkeypatch.syspath_prepend(tmp_path)
    parts = importlib.import_module("own_parts")
    place.write_text(text.replace("code: ", "# code: ").replace("  turned:", f"{hot}  turned:"))
    code, seen = [parts.TwoLayers, parts.discs, parts.focal, parts.DefKT], list[bool]()
    known = {"control": "my-def-kt", "out": found.folder, "code": code}
    again = compare(place, labels, seeds=2, **known, watch=lambda one: seen.append(one.fresh))
    assert seen == [False] * 4
    assert again.text == found.text
