"""Options of training that do not go together are refused where they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedskd_sim.errors import InvalidValue
from fedskd_sim.scenario import load
from fedskd_sim.scenario.training import Optimiser, RateSchedule, Training

HEAD = """\
name: wrong
hospitals:
  - {name: a, architecture: cnn-plain}
  - {name: b, architecture: cnn-plain}
data: {name: synthetic-skin}
algorithm: {name: fedskd}
"""
WRONG = {
    "optimiser: {momentum: 0.5}": (
        "training.optimiser.momentum: 0.5 cannot be used: adamw has no such option",
        "choose the name sgd beside it",
    ),
    "optimiser: {name: sgd, betas: [0.9, 0.9]}": (
        "training.optimiser.betas: (0.9, 0.9) cannot be used: sgd has no such option",
        "choose the name adamw or adam beside it",
    ),
    "optimiser: {schedule: {name: cosine, factor: 0.5}}": (
        "training.optimiser.schedule.factor: 0.5 cannot be used: cosine has no such option",
        "choose the name step beside it",
    ),
    "optimiser: {name: sgd, momentum: 0.0, nesterov: true}": (
        "training.optimiser.nesterov: true cannot be used: the momentum is 0",
        "set a momentum",
    ),
    "{focal: 2.0, label_smoothing: 0.1}": (
        "training.focal: 2 cannot be used beside a label_smoothing",
        "choose one of the two losses",
    ),
    "optimiser: {name: lamb}": ('training.optimiser.name: "lamb" cannot be used', "sgd"),
    "optimiser: {schedule: linear}": (
        'training.optimiser.schedule.name: "linear" cannot be used',
        "cosine",
    ),
    "patience: 0": ("training.patience: 0 cannot be used", "1 or more"),
}


@pytest.mark.parametrize("place", ["scenario", "variant"])
@pytest.mark.parametrize("text", WRONG)
def test_what_does_not_go_together_is_refused(text: str, place: str, tmp_path: Path) -> None:
    """File, line, key, value and a fix, in the scenario and in a variant."""
    given, path = text if text.startswith("{") else f"{{{text}}}", tmp_path / "wrong.yaml"
    under = "training: " if place == "scenario" else "variants:\n  other: {training: "
    path.write_text(HEAD + under + given + ("" if place == "scenario" else "}") + "\n")
    with pytest.raises(InvalidValue) as caught:
        load(path)
    said, fix = WRONG[text]
    key = said if place == "scenario" else f"variants.other.{said}"
    assert key in str(caught.value)
    assert f"{path}:{7 if place == 'scenario' else 8}" in str(caught.value)
    assert fix in str(caught.value)


def test_records_are_told_what_is_not_as_by_default() -> None:
    """Nothing by default; else optimiser, schedule, loss and end."""
    assert Training().words == ""
    chosen = Optimiser(name="sgd", nesterov=True, schedule=RateSchedule(name="cosine", over="run"))
    told = Training(optimiser=chosen, accumulate=2, focal=2.0, patience=3).words
    assert told == (
        "sgd with Nesterov momentum 0.9; learning rate cosine to 0 of its peak over the run; "
        "gradients of 2 mini-batches; focal loss with gamma 2; "
        "sessions end after 3 passes without a lower validation loss"
    )
