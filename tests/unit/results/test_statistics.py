"""Student's t over paired seeds: known values, what cannot be said, and simulations of how often
it is wrong.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pytest
from scipy import stats

from fedskd_sim.results.comparison.statistics import (
    Difference,
    best,
    compare_paired,
    correct,
    holm,
    student,
)

METHODS = 9


def drawn(seeds: int, repeats: int) -> np.ndarray:
    """Draw (repeats, seeds) differences that are 0 on average."""
    return np.random.default_rng(seeds).normal(0, 0.02, (repeats, seeds))


def tables(seeds: int, count: int, ahead: Mapping[int, float] = MappingProxyType({})) -> np.ndarray:
    """Draw (count, methods, seeds) scores of methods that are equal but for those that are
    ahead.
    """
    draw = np.random.default_rng(seeds)
    scores = draw.normal(0, 0.05, (count, 1, seeds)) + draw.normal(
        0.7, 0.02, (count, METHODS, seeds)
    )
    for method, lead in ahead.items():
        scores[:, method] += lead
    return scores


def claims(scores: np.ndarray) -> np.ndarray:
    """Tell (count, methods - 1) which methods a table says differ from the first one."""
    return holm(student(scores[:, 1:] - scores[:, :1]).p) <= 0.05


def sized(size: float, comparisons: int = 1) -> Difference:
    """Make a difference of so many standard deviations, 1 each."""
    return Difference(size, 0.5, 4, math.nan, math.nan, 0.5, beside=comparisons)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_interval_holds_the_true_difference_in_95_of_100_cases(seeds: int) -> None:
    """Over 100,000 simulated comparisons the 95 % interval covers the truth in 94 to 96 %,
    however few seeds there are.
    """
    found = student(drawn(seeds, 100_000))
    assert np.mean((found.low <= 0) & (found.high >= 0)) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(("seeds", "share"), [(3, 0.75), (5, 0.84), (10, 0.91)])
def test_a_percentile_bootstrap_of_few_seeds_would_not(seeds: int, share: float) -> None:
    """The simulation can tell: resampling the seeds gives an interval that covers the truth far
    too seldom.
    """
    differences = drawn(seeds, 2000)
    rows = np.random.default_rng(0).integers(0, seeds, (500, seeds))
    low, high = np.percentile(differences[:, rows].mean(axis=2), [2.5, 97.5], axis=1)
    assert np.mean((low <= 0) & (high >= 0)) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_at_most_one_table_of_equal_methods_in_twenty_makes_a_claim(seeds: int) -> None:
    """Of 50,000 tables of nine equal methods at most 5 % call any of them different from the
    control.
    """
    assert claims(tables(seeds, 50_000)).any(axis=1).mean() <= 0.05


def test_two_standard_errors_would_claim_in_every_second_table() -> None:
    """The simulation can tell: without t and correction half of all tables of nine equal methods
    over five seeds hold a claim.
    """
    scores = tables(5, 50_000)
    found = student(scores[:, 1:] - scores[:, :1])
    assert (np.abs(found.mean) > 2 * found.error).any(axis=1).mean() > 0.45


def test_without_correction_a_fifth_of_all_tables_would_make_a_claim() -> None:
    """The simulation can tell: Student's p as it is, for eight comparisons at once, is wrong in
    one table of five.
    """
    scores = tables(5, 50_000)
    assert (student(scores[:, 1:] - scores[:, :1]).p <= 0.05).any(axis=1).mean() > 0.2


@pytest.mark.parametrize(
    "ahead", [{1: 0.05}, {1: 0.1, 2: 0.1, 3: 0.1, 4: 0.1}], ids=["one is better", "four are"]
)
def test_tables_with_true_differences_hold_false_claims_as_seldom(ahead: dict[int, float]) -> None:
    """With some methods truly better, which is often found, at most 5 % of tables call one of
    the others different.
    """
    found = claims(tables(5, 50_000, ahead))
    better = [method - 1 for method in ahead]
    assert np.delete(found, better, axis=1).any(axis=1).mean() <= 0.05
    assert found[:, better].all(axis=1).mean() > 0.1


@pytest.mark.parametrize(
    "ahead",
    [{}, {1: 0.1, 2: 0.1}, {1: 0.1, 2: 0.12, 3: 0.12}],
    ids=["none", "two alike", "two and a third"],
)
def test_one_of_equals_is_seldom_called_the_best(ahead: dict[int, float]) -> None:
    """Where no method is better than all others, one is called so in at most 2.5 % of tables."""
    scores = tables(5, 1000, ahead)
    called = [
        best({str(method): values for method, values in enumerate(table)}) for table in scores
    ]
    assert np.mean([bool(name) for name in called]) <= 0.025


def test_the_seeds_that_are_said_to_be_needed_find_a_difference_in_four_of_five_cases() -> None:
    """A size of one standard deviation needs 10 seeds alone and 21 beside 23 others; one seed
    fewer finds it more seldom.
    """
    for comparisons, seeds in ((1, 10), (24, 21)):
        assert sized(1.0, comparisons).needed == seeds
        found = [
            student(np.random.default_rng(1).normal(1, 1, (100_000, count))).p
            for count in (seeds - 1, seeds)
        ]
        fewer, enough = (np.mean(p <= 0.05 / comparisons) for p in found)
        assert fewer < 0.8 <= enough


@pytest.mark.parametrize(("size", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.5, 6), (1e9, 2)])
def test_the_seeds_of_one_comparison_are_those_of_the_books(size: float, seeds: int) -> None:
    """Paired t-tests at the two-sided level 0.05 with a power of 80 % need what power tables
    give.
    """
    assert sized(size).needed == seeds


def test_a_tiny_difference_needs_more_seeds_than_are_counted() -> None:
    """Nothing, or next to nothing, is never found: the number of seeds is infinite."""
    assert sized(0.0).needed == sized(0.001).needed == math.inf


def test_a_paired_difference_is_students() -> None:
    """Mean, standard error sd / sqrt(n), t interval and two-sided p are those of scipy's paired
    t-test.
    """
    values, control = [0.81, 0.79, 0.84, 0.80], [0.78, 0.77, 0.79, 0.80]
    found, test = compare_paired(values, control), stats.ttest_rel(values, control)
    assert found.mean == pytest.approx(0.025)
    assert found.error == pytest.approx(np.std([0.03, 0.02, 0.05, 0.0], ddof=1) / 2)
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert found.p == pytest.approx(test.pvalue)
    assert found.seeds == 4
    assert (found.low, found.high) == pytest.approx((-0.008, 0.058), abs=5e-4)


def test_seeds_without_a_value_are_left_out_and_counted() -> None:
    """A seed counts where both have a value; what is left over is compared as if there were no
    others.
    """
    found = compare_paired([3.0, 5.0, math.nan, 4.0, 1.0], [1.0, 2.0, 0.0, 3.0, math.nan])
    assert str(found) == str(compare_paired([3.0, 5.0, 4.0], [1.0, 2.0, 3.0]))
    assert found.seeds == 3


@pytest.mark.parametrize(
    ("values", "control", "seeds", "mean"),
    [
        ([], [], 0, math.nan),
        ([math.nan, 1.0], [1.0, math.nan], 0, math.nan),
        ([math.inf, 1.0], [1.0, 0.0], 1, 1.0),
        ([0.7], [0.5], 1, 0.2),
        ([0.7, 0.7, 0.7], [0.7, 0.7, 0.7], 3, 0.0),
        ([0.85, 0.75, 0.65], [0.80, 0.70, 0.60], 3, 0.05),
    ],
    ids=[
        "nothing",
        "no pair",
        "infinite",
        "one seed",
        "the same",
        "the same lead, but for rounding",
    ],
)
def test_where_nothing_can_be_tested_nothing_is_claimed(
    values: list, control: list, seeds: int, mean: float
) -> None:
    """Without a pair, a second seed or any spread there is neither interval nor p nor a number
    of seeds, and no warning either.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (found,) = correct([compare_paired(values, control)])
    assert found.seeds == seeds
    assert found.mean == pytest.approx(mean, nan_ok=True)
    assert all(
        math.isnan(value)
        for value in (found.low, found.high, found.p, found.corrected, found.needed)
    )
    assert not found.claimed


def test_two_seeds_have_an_interval_and_it_is_wide() -> None:
    """On one degree of freedom the interval reaches 12.7 standard errors to each side."""
    found = compare_paired([0.8, 0.9], [0.7, 0.7])
    assert (found.low, found.high) == pytest.approx(
        (0.15 - 12.706 * 0.05, 0.15 + 12.706 * 0.05), abs=1e-4
    )
    assert found.p == pytest.approx(2 / math.pi * math.atan(1 / 3))


def test_holm_steps_down() -> None:
    """The smallest of m p-values counts m times, the next m - 1 times, never less than the one
    before; order is kept.
    """
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([[0.4, 0.9], [0.9, 0.8]])) == pytest.approx(np.array([[0.8, 0.9], [1, 1]]))
    assert correct([]) == []


def test_what_cannot_be_tested_counts_in_the_correction() -> None:
    """A comparison without a p stays without one, and the others are corrected for it too."""
    adjusted = holm(np.array([math.nan, 0.01, math.nan]))
    assert adjusted[1] == pytest.approx(0.03)
    assert math.isnan(adjusted[0])
    assert math.isnan(adjusted[2])


def test_the_best_is_ahead_of_every_other_method() -> None:
    """A name is given only if the lead over each of the others is beyond chance, and only where
    there are others.
    """
    clear, noisy, low = [0.80, 0.81, 0.83], [0.79, 0.83, 0.78], [0.70, 0.71, 0.72]
    assert best({"clear": clear, "low": low}) == "clear"
    assert best({"noisy": noisy, "clear": clear, "low": low}) == ""
    assert best({"clear": clear}) == best({"nothing": [math.nan]}) == best({}) == ""
    assert best({"clear": clear, "nothing": [math.nan] * 3, "low": low}) == "clear"
    assert best({"clear": clear, "hardly": [0.7, math.nan, math.nan]}) == ""
