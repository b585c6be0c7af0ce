"""Shared by the unit tests: tiny tensors compute on one thread."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from kubernetes.client import ApiClient, V1Job, V1Pod


def _of_an_older_client(model: type) -> Any:
    """Read an object of the API as tests do with pydantic's models, which came with version 37."""

    def read(body: Any) -> Any:
        return ApiClient().deserialize(SimpleNamespace(data=json.dumps(body, default=str)), model)

    return read


for model in (V1Job, V1Pod):
    if not hasattr(model, "model_validate"):
        model.model_validate = staticmethod(_of_an_older_client(model))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """More threads gain nothing on tiny tensors, and wait for each other on a busy machine:
    seven times slower there.
    """
    torch.set_num_threads(1)


@pytest.fixture
def removed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note the releases that are uninstalled; nobody waits long for a word."""
    from fedskd_sim.kubernetes import follower
    from fedskd_sim.kubernetes.helm import Helm

    names: list[str] = []
    monkeypatch.setattr(Helm, "uninstall", lambda _, release: names.append(release))
    monkeypatch.setattr(follower, "LOOK_S", 0.01)
    return names
