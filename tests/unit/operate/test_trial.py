"""Code of a user's own that would give something else behind a death is found before it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedskd_sim import launch, load
from fedskd_sim.errors import CanaryFailed, FedskdError, HospitalCrashed
from fedskd_sim.operate import canary
from fedskd_sim.operate.trial import try_own

SCENARIO = """\
name: tried
code: [mine.py]
data: {name: synthetic-skin, samples: 20, image_size: 16, classes: 2}
hospitals:
  - {name: a, architecture: {name: cnn-plain, options: {width: 4}}}
  - {name: b, architecture: {name: cnn-plain, options: {width: 4}}}
training: {warmup_epochs: 1, batch_size: 6}
algorithm: {name: ALGORITHM}
"""
METHOD = """\
import torch
from fedskd_sim import AddedLoss, AlgorithmKeys, Kept, LocalLearner, Loss, algorithm, loss

@algorithm("mine")
class Mine(LocalLearner):
    keys = AlgorithmKeys
    ATTRIBUTE

    def teaching(self, round_):
        return self.near

    def alone(self, round_):
        found = super().alone(round_)
        self.last = self.model.state_dict()["head.weight"].clone()
        return found

    def near(self, step):
        if self.last is None:
            return AddedLoss(None, {})
        return AddedLoss((step.logits() * self.last.mean()).sum(), {})
"""
SHARED = """\
from fedskd_sim import AddedLoss, AlgorithmKeys, LocalLearner, algorithm

@algorithm("mine")
class Mine(LocalLearner):
    keys = AlgorithmKeys
    seen = {}

    def teaching(self, round_):
        return self.more

    def more(self, step):
        self.seen["steps"] = self.seen.get("steps", 0) + 1
        return AddedLoss(step.logits().sum() * self.seen["steps"], {})
"""
LOSS = """\
from fedskd_sim import Kept, Loss, loss

@loss("mean")
class Mean(Loss):
    ATTRIBUTE

    def added(self, step):
        self.count = self.count + 1.0
        return self.count * step.logits().square().mean()
"""
NONE = "last = None"
KEPT = "last = Kept[torch.Tensor | None](None)"


@pytest.fixture(autouse=True)
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the machine have memory, whatever else runs on it meanwhile."""
    monkeypatch.setattr(canary, "memory", lambda: (10**10, 9 * 10**9))


def written(tmp_path: Path, code: str, algorithm: str = "mine") -> Path:
    """Write a scenario with its code."""
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    place = tmp_path / "tried.yaml"
    place.write_text(SCENARIO.replace("ALGORITHM", algorithm), encoding="utf-8")
    return place


@pytest.mark.parametrize(
    ("code", "algorithm", "words"),
    [
        (METHOD.replace("ATTRIBUTE", NONE), "mine", "its next life does not have Mine.last"),
        (SHARED, "mine", "a death changes"),
        (
            LOSS.replace("ATTRIBUTE", "count = 0.0"),
            "local, loss: mean",
            "its next life does not have Mean.count",
        ),
    ],
)
def test_what_a_death_changes_is_told(
    code: str, algorithm: str, words: str, tmp_path: Path
) -> None:
    """Of an attribute that is not kept, of one that a class has for all, and of a loss."""
    given = load(written(tmp_path, code, algorithm))
    with pytest.raises(CanaryFailed, match="a death changes") as caught:
        try_own(given, None)
    assert words in str(caught.value)
    assert "declared with Kept" in caught.value.fix
    assert caught.value.where
    assert caught.value.where.line == 8


@pytest.mark.parametrize(
    ("code", "algorithm"),
    [
        (METHOD.replace("ATTRIBUTE", KEPT), "mine"),
        (LOSS.replace("ATTRIBUTE", "count = Kept[float](0.0)"), "local, loss: mean"),
    ],
)
def test_what_is_kept_outlives_every_death(code: str, algorithm: str, tmp_path: Path) -> None:
    """Of a method and of a loss."""
    try_own(load(written(tmp_path, code, algorithm)), None)


def test_an_attribute_that_is_gone_is_an_error_of_a_death(tmp_path: Path) -> None:
    """The short run that no death disturbs went through."""
    begins = "def warm_up(self):\n        self.last = None\n        return super().warm_up()"
    code = METHOD.replace("ATTRIBUTE", begins)
    with pytest.raises(HospitalCrashed, match="after a death of the hospital 'a' died") as caught:
        try_own(load(written(tmp_path, code)), None)
    assert "no attribute 'last'" in str(caught.value)
    assert "declared with Kept" in caught.value.fix


def test_an_error_of_own_code_is_printed_where_a_process_would(tmp_path: Path) -> None:
    """Into the hospital's file, whose name the error tells."""
    code = METHOD.replace("ATTRIBUTE", NONE).replace("return self.near", "raise KeyError(7)")
    with pytest.raises(FedskdError, match="KeyError: 7") as caught:
        launch(written(tmp_path, code), on="memory", out=tmp_path / "run")
    assert caught.value.fix == f"see {(tmp_path / 'run').resolve() / 'logs' / 'a.err'}"
    printed = (tmp_path / "run" / "logs" / "a.err").read_text(encoding="utf-8")
    assert "raise KeyError(7)" in printed


def test_a_loss_that_is_not_finite_is_named(tmp_path: Path) -> None:
    """The record of an undone session says whose loss it was."""
    code = METHOD.replace("ATTRIBUTE", "pass") + (
        "\n\n@loss('broken', replaces=True)\ndef broken(step, role):\n"
        "    return step.cross_entropy(role) / 0\n"
    )
    path = written(tmp_path, code, "local, loss: broken, rounds: 1")
    run = launch(path, on="memory", out=tmp_path / "run")
    reasons = {row["reason"] for row in run.hops if row["outcome"] == "rolled_back"}
    assert reasons
    assert all("with the loss broken" in reason for reason in reasons)
