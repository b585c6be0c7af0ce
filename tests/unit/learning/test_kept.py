"""What a method keeps, and what it sums, where it is not as the base awaits it."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fedskd_sim import AllReduceLearner, Kept, Total
from fedskd_sim.learning.base import NOTHING
from fedskd_sim.learning.kept import Keeping


class Holder(Keeping):
    """Keeps what is changed in place."""

    protos = Kept[dict[str, torch.Tensor]]({})
    counts = Kept[list[int]]([])


def test_a_default_is_changed_in_place_and_kept() -> None:
    """By every hospital its own, and by its next life."""
    one, other, next_life = Holder(), Holder(), Holder()
    one.protos["a"] = torch.ones(2)
    one.counts.append(3)
    assert (other.protos, other.counts) == ({}, [])
    next_life.take_back(one.keep(NOTHING), SimpleNamespace(device="cpu"))  # type: ignore[arg-type]
    assert next_life.protos["a"].equal(torch.ones(2))
    assert next_life.counts == [3]


def test_a_default_that_cannot_be_copied_is_refused() -> None:
    """Where it is declared."""
    endless: Iterator[int] = (number for number in (1, 2))
    with pytest.raises(
        TypeError, match=r"the default of Kept is generator, which cannot be copied"
    ):
        Kept(endless)


@pytest.mark.parametrize("value", [{3: torch.ones(1)}, {3: 1.0}, [{"a": {3: 1.0}}]])
def test_a_key_that_would_come_back_as_a_text_is_refused(value: Any) -> None:
    """However deep it lies."""
    one = Holder()
    one.protos = value
    with pytest.raises(TypeError, match=r"Holder\.protos has the key 3, .*: write str\(3\)"):
        one.keep(NOTHING)


class Mine(AllReduceLearner):
    """Sums what it is given."""

    given: Any = None
    length = 4  # type: ignore[assignment]

    def __init__(self) -> None:
        """Have no site."""

    def share(self, round_: int) -> Total:  # noqa: ARG002 - the same in every round
        """Give it."""
        return self.given  # type: ignore[no-any-return]

    def take(self, total: Total) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "None (is a return missing?)"),
        (torch.ones(4), "has to give Total(vector, weight), not Tensor"),
        (Total(torch.ones(5), 1.0), "Mine.share gave 5 numbers, and its length is 4"),
        (Total(torch.ones(3), 1.0), "Mine.share gave 3 numbers, and its length is 4"),
        (Total(torch.ones(2, 2), 1.0), "has to give a vector (4,), not a tensor (2, 2)"),
        (Total(torch.ones(4).long(), 1.0), "a vector of floats, a tensor, not torch.int64"),
        (Total([1.0] * 4, 1.0), "a vector of floats, a tensor, not list"),
        (Total(torch.ones(4), float("nan")), "a finite number as weight, not nan"),
        (Total(torch.ones(4), None), "a finite number as weight, not None"),
    ],
)
def test_a_share_that_cannot_be_summed_is_refused(given: Any, words: str) -> None:
    """Right where it was given, with the class's name."""
    mine = Mine()
    mine.given = given
    with pytest.raises((TypeError, ValueError)) as caught:
        mine._checked(mine.share(1))
    assert str(caught.value).startswith("Mine.share")
    assert words in str(caught.value)
    assert mine._checked((torch.ones(4), torch.tensor(2))).weight == 2.0
