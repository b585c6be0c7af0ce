"""One table as text and as plain values."""

from __future__ import annotations

import math

import pytest

from fedskd_sim.results.rows import Column, Table, digits, percent


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "0"),
        (7.9e-5, "0.000079"),
        (0.1234, "0.123"),
        (999.4, "999"),
        (1250.0, "1,250"),
        (math.nan, ""),
    ],
)
def test_no_number_has_a_power_of_ten(value: float, words: str) -> None:
    """A small number has as many digits as it needs, a large one is whole, a missing one blank."""
    assert digits(value) == words


def test_a_table_is_the_same_as_text_and_as_values() -> None:
    """Columns are as wide as their cells and the titles above them; a missing number is blank in
    text and None among values, which have only what has a key.
    """
    shares = [Column(side, percent, group="a long title", key=side) for side in ("own", "others")]
    table = Table(
        (Column("name", words=True), *shares), [("north", 0.5, math.nan)], [("mean", "50.0", "")]
    )
    assert [*table.lines()] == [
        "       a long title",
        "name    own  others",
        "north  50.0",
        "mean   50.0",
    ]
    assert table.values() == [{"own": 0.5, "others": None}]
