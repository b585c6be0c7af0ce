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


@pytest.fixture
def removed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note the releases that are uninstalled; nobody waits long for a word."""
    from fedskd_sim.runtimes.kubernetes import following
    from fedskd_sim.runtimes.kubernetes.helm import Helm

    names: list[str] = []
    monkeypatch.setattr(Helm, "uninstall", lambda _, release: names.append(release))
    monkeypatch.setattr(following, "LOOK_S", 0.01)
    return names
