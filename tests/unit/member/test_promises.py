"""What algorithms of one's own have promised to give, and what they are told when they do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedskd_sim import launch
from fedskd_sim.errors import ChainBroken, HospitalCrashed
from fedskd_sim.learning.algorithms.placebo import PlaceboLearner
from fedskd_sim.learning.base import Session
from fedskd_sim.learning.data import Samples
from fedskd_sim.learning.distillation.distill import Taps
from fedskd_sim.learning.sessions.session import make_optimiser
from fedskd_sim.learning.sessions.steps import AddedLoss, Moment, Setting, take
from fedskd_sim.member.crash import PRINTED
from fedskd_sim.messages import Buffer
from fedskd_sim.records import Measure
from fedskd_sim.runtimes.deaths import Endings
from fedskd_sim.scenario import Training

GIVEN: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "nothing": ("visit", lambda _: None, "has to give a Session, not None (is a return missing?)"),
    "weights": ("homecome", lambda one: one.weights, "has to give a Session, not dict"),
    "outcome": ("visit", lambda one: replace(one, outcome="great"), "passed, evaluated, not great"),
    "count": ("warm_up", lambda one: replace(one, samples=2.5), "samples and steps are int"),
    "number": ("visit", lambda one: replace(one, measures={"x": 0.5}), "'x' has to be Measure"),
    "no weights": ("visit", lambda one: replace(one, weights={}), "'buffer' is missing"),
    "another type": (
        "visit",
        lambda one: replace(one, weights={"buffer": Buffer("int8", (1024,), bytes(1024))}),
        "'buffer' is int8 (1024,), not uint8 (1024,)",
    ),
    "one more": (
        "depart",
        lambda one: {**one, "more": Buffer("int8", (1,), b"1")},
        "there is no 'more' in it",
    ),
    "no buffers": ("depart", lambda _: {"buffer": [1, 2]}, "has to give weights, named buffers"),
    "no measures": ("assess", lambda _: None, "has to give measures by name, not None"),
    "a test as a number": ("evaluate", lambda _: {"auc": 0.5}, "'auc' has to be Measure"),
    "a measure twice": (
        "visit",
        lambda one: replace(one, measures={"accuracy": Measure(1.0, 1.0)}),
        "both the session and assess() measure 'accuracy'",
    ),
}


@pytest.mark.parametrize(("method", "spoil", "words"), GIVEN.values(), ids=GIVEN.keys())
def test_a_learner_that_breaks_a_promise_is_told_of_its_method(
    method: str,
    spoil: Callable[[Any], Any],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The error says which hospital, where in the run, and what the method gave instead of what;
    nothing wrong leaves the hospital, and no neighbour waits for it.
    """
    kept = getattr(PlaceboLearner, method)
    monkeypatch.setattr(PlaceboLearner, method, lambda *given: spoil(kept(*given)))
    with pytest.raises(HospitalCrashed) as caught:
        launch("placebo-ok", on="memory", out=tmp_path / "out")
    assert words in caught.value.message
    assert caught.value.message.startswith(f"'{caught.value.culprit}' died ")
    assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.parametrize("kind", [KeyError, SystemExit, AssertionError])
def test_in_memory_an_exception_of_an_algorithm_is_told_as_in_processes(
    kind: type[BaseException], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its hospital, its place and its line are named, the exception itself is the cause, and the
    run folder knows the culprit.
    """

    def visit(_self: Any, stop: Any, _arriving: Any) -> Session:
        if stop.hop == 2 and stop.host == "east":
            raise kind("oops")
        return Session(_arriving)

    monkeypatch.setattr(PlaceboLearner, "visit", visit)
    with pytest.raises(HospitalCrashed, match=r"'east' died in round 1, hop 2 .*oops") as caught:
        launch("placebo-ok", on="memory", out=tmp_path / "out")
    assert type(caught.value.__cause__) is kind
    assert '"culprit": "east"' in (tmp_path / "out" / "outcome.json").read_text()


def test_a_model_that_departs_as_another_than_came_home_is_told_of_depart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The proof at the end says which method broke the chain, beside that a file may have been
    altered.
    """

    def depart(_self: Any, _round: int) -> Any:
        return {"buffer": Buffer("uint8", (1024,), bytes(1024))}

    monkeypatch.setattr(PlaceboLearner, "depart", depart)
    with pytest.raises(ChainBroken) as caught:
        launch("placebo-ok", on="memory", out=tmp_path / "out")
    assert "`depart` has to give" in caught.value.fix


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Taps]:
        maps = images[:, :2]
        return self.head(maps.mean((2, 3))), Taps(maps, maps)


ADDED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "nothing": (lambda _: None, "not None (is a return missing?)"),
    "the loss": (lambda loss: loss, "has to give AddedLoss(total, parts), not Tensor"),
    "a row": (lambda loss: AddedLoss(loss.repeat(3), {}), "total of AddedLoss has to be a scalar"),
    "a number": (lambda loss: AddedLoss(loss, {"x": 0.5}), "x of AddedLoss has to be a scalar"),
    "its name": (lambda loss: AddedLoss(loss, {"loss": loss.detach()}), "rename that part"),
}


@pytest.mark.parametrize(("give", "words"), ADDED.values(), ids=ADDED.keys())
def test_a_teaching_is_told_what_it_has_to_give(give: Callable[[Tensor], Any], words: str) -> None:
    """A forgotten return, a bare loss, a loss per sample, a number and the name of the
    cross-entropy are each told as what they are.
    """
    net, training = Net(), Training()
    models, optimisers = {"own": net}, {"own": make_optimiser(net, training, on_device=False)}

    class Mine:
        def __call__(self, step: Any) -> Any:
            return give(step.logits().mean())

    setting = Setting(models, optimisers, torch.ones(2), training, Mine())
    batch = Samples(torch.ones(4, 2, 3, 3), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(TypeError, match=r"^Mine") as caught:
        take(setting, batch, Moment(0, 1, {"own": True}))
    assert words in str(caught.value)


def test_the_file_with_the_traceback_is_named(tmp_path: Path) -> None:
    """Where a hospital has printed into a file of the run folder, the error points to that file."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "east.err").write_text("Traceback ...\n")
    told = HospitalCrashed("x", fix=PRINTED)
    told.culprit = "east"
    assert Endings(tmp_path).with_file(told).fix == f"see {tmp_path / 'logs' / 'east.err'}"
    assert Endings(tmp_path / "nothing").with_file(None) is None
