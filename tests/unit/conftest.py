"""Shared by the unit tests: tiny tensors compute on one thread."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """More threads gain nothing on tiny tensors, and wait for each other on a busy machine:
    seven times slower there.
    """
    torch.set_num_threads(1)
