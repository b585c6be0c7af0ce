"""Which tensors from others are taken."""

from __future__ import annotations

import math

import pytest
import torch

from fedskd_sim.learning.weights import buffer_of, finite

TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def taken(values: torch.Tensor) -> bool:
    buffer = buffer_of(values)
    return finite(buffer.dtype, memoryview(buffer.data))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 500, 1000])
def test_one_value_that_is_none_is_found(kind: torch.dtype, value: float, place: int) -> None:
    """Wherever it stands, in every element type that travels."""
    values = torch.linspace(-3, 3, 1001).to(kind)
    assert taken(values)
    values[place] = value
    assert not taken(values)


@pytest.mark.parametrize("kind", TYPES)
def test_the_largest_numbers_are_numbers(kind: torch.dtype) -> None:
    """Numbers whose squares, or whose sum, overflow are finite all the same; so is a tensor
    without any.
    """
    assert taken(torch.full((1001,), torch.finfo(kind).max, dtype=kind))
    assert taken(torch.full((1001,), torch.finfo(kind).min, dtype=kind))
    assert taken(torch.empty(0, dtype=kind))


@pytest.mark.parametrize("kind", [torch.int64, torch.uint8, torch.bool])
def test_whole_numbers_are_always_taken(kind: torch.dtype) -> None:
    """Their bits may look like a float that is none."""
    assert taken(torch.full((64,), -1).to(kind))
