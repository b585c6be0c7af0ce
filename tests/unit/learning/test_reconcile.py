"""Reconciliation by hand: the exact margin of the guard, types, and that no other numbers
appear.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fedskd_sim.learning.reconcile import mean, reconcile
from fedskd_sim.learning.weights import buffer_of, tensor_of
from fedskd_sim.messages import Weights

FLOATS = ("float64", "float32", "float16", "bfloat16")


def weights(value: float, dtype: str = "float32") -> Weights:
    return {
        "w": buffer_of(torch.full((2,), value, dtype=getattr(torch, dtype))),
        "n": buffer_of(torch.tensor(int(value))),
    }


def value(of: Weights) -> float:
    return float(tensor_of(of["w"])[0])


def score(*of: float) -> Callable[[Weights], float]:
    """Score the resident (2), the traveller (4) and their mean (3)."""
    known = dict(zip((2.0, 4.0, 3.0), of, strict=True))
    return lambda candidate: known[value(candidate)]


@pytest.mark.parametrize(
    ("validation", "margin"),
    [(1, 0.5), (100, 0.05), (2500, 0.01), (10_000, 0.01), (1_000_000, 0.01)],
)
def test_the_guard_acts_beyond_its_margin_and_not_before(validation: int, margin: float) -> None:
    """A mean worse by just under max(0.01, 0.5 / sqrt(validation)) is taken, by just over it is
    not.
    """
    for loss, home in ((margin - 1e-6, 3.0), (margin + 1e-6, 4.0)):
        joined = reconcile(
            "average", weights(2), weights(4), score(0.1, 0.7, 0.7 - loss), validation
        )
        assert value(joined.home) == home
        assert ("the average was worse by" in joined.note) == (home == 4.0)
        assert joined.general is None


def test_without_validation_data_the_mean_is_taken() -> None:
    """A guard that knows nothing does not speak."""
    assert value(reconcile("average", weights(2), weights(4), score(1.0, 1.0, 0.0), 0).home) == 3.0


def test_the_guard_takes_the_better_parent_and_names_it() -> None:
    """Resident or traveller, whichever scored higher; on a tie the resident."""
    for scores, home, word in (
        ((0.9, 0.1, 0.0), 2.0, "resident"),
        ((0.1, 0.9, 0.0), 4.0, "traveller"),
        ((0.9, 0.9, 0.0), 2.0, "resident"),
    ):
        joined = reconcile("average", weights(2), weights(4), score(*scores), 100)
        assert value(joined.home) == home
        assert f"took the {word}" in joined.note


def test_each_candidate_is_scored_once() -> None:
    """Scoring is an evaluation of a model and costs time: two parents and the mean, no more."""
    asked: list[float] = []
    known = score(0.5, 0.6, 0.1)
    reconcile(
        "average",
        weights(2),
        weights(4),
        lambda candidate: asked.append(value(candidate)) or known(candidate),
        100,
    )
    assert sorted(asked) == [2.0, 3.0, 4.0]


@pytest.mark.parametrize("mode", ["replace", "two_track"])
def test_modes_without_a_choice_never_score(mode: str) -> None:
    """They need no validation data."""
    joined = reconcile(mode, weights(2), weights(4), lambda _: pytest.fail("scored"), 0)
    assert (value(joined.home), joined.general and value(joined.general)) == (
        (4.0, None) if mode == "replace" else (2.0, 4.0)
    )


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_mean_keeps_types_and_is_finite_at_the_ends_of_the_range(dtype: str) -> None:
    """Every floating type is averaged in itself, and the mean of the two largest numbers is not
    infinite.
    """
    kind = getattr(torch, dtype)
    largest = torch.finfo(kind).max
    for one, other, middle in (
        (1.0, 3.0, 2.0),
        (largest, largest, largest),
        (-largest, largest, 0.0),
    ):
        joined = mean(weights_of(one, kind), weights_of(other, kind))
        assert joined["w"].dtype == dtype
        assert joined["w"].shape == (3,)
        assert tensor_of(joined["w"]).tolist() == [middle] * 3


def weights_of(number: float, kind: torch.dtype) -> Weights:
    return {"w": buffer_of(torch.full((3,), number, dtype=kind))}


@pytest.mark.parametrize("dtype", ["int64", "int32", "int16", "int8", "uint8", "bool"])
def test_what_is_no_float_is_the_residents(dtype: str) -> None:
    """Counters and masks have no mean."""
    one, other = (
        {"n": buffer_of(torch.tensor([number]).to(getattr(torch, dtype)))} for number in (0, 1)
    )
    assert mean(one, other)["n"] == one["n"]
    assert mean(other, one)["n"] == other["n"]


def test_a_mean_of_a_model_with_itself_is_itself() -> None:
    """Averaging equal replicas changes no bit, signed zeros included."""
    tensor = torch.tensor([0.0, -0.0, 1e-30, 1 / 3, -7.25, 3e38])
    same = {"w": buffer_of(tensor)}
    assert bytes(mean(same, same)["w"].data) == bytes(same["w"].data)


def test_parents_are_left_alone() -> None:
    """The mean is made in new memory: the traveller's buffers may still be on their way."""
    one, other = weights(2), weights(4)
    reconcile("average", one, other, score(0.5, 0.5, 0.5), 100)
    assert (value(one), value(other)) == (2.0, 4.0)
