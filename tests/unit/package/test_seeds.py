"""Named seeds: the only source of randomness."""

from __future__ import annotations

from itertools import product

import pytest

from fedskd_sim.seeds import seed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ((1, "warm-up", "north"), 4491677484493473054),
        ((0, ""), 2441448769829243903),
        ((2**53 - 1, "session", "north", "east", 3, 2), 8169165769201586045),
    ],
)
def test_seeds_are_pinned(name: tuple, value: int) -> None:
    """A release that changed a seed would change every result, so their values stand here."""
    assert seed(*name) == value


def test_no_two_draws_of_a_run_share_a_seed() -> None:
    """Over hospitals, models, rounds, hops and scenario seeds all names give different seeds."""
    hospitals = [f"h{number}" for number in range(9)]
    names = [
        *product(range(3), ["session", "augment"], hospitals, hospitals, range(1, 6), range(1, 9))
    ]
    assert len({seed(*name) for name in names}) == len(names)


def test_names_do_not_run_into_each_other() -> None:
    """Where one part ends and the next begins matters."""
    names = [
        (1, "a", "bc"),
        (1, "ab", "c"),
        (1, "abc"),
        (11, "a"),
        (1, "1a"),
        (1, "a", 1, 1),
        (1, "a", 11),
        (1, "a", ""),
        (1, "a"),
    ]
    assert len({seed(*name) for name in names}) == len(names)


def test_seeds_fit_what_libraries_take() -> None:
    """They are whole numbers in [0, 2^63), which PyTorch and NumPy accept, and use all of that
    range.
    """
    values = [seed(number, "range") for number in range(2000)]
    assert min(values) >= 0
    assert max(values) < 2**63
    assert max(values) > 2**63 * 0.99
    assert abs(sum(value % 2 for value in values) / 2000 - 0.5) < 0.05
