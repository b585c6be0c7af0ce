"""How the controller reaches its API server."""

from __future__ import annotations

import pytest
from kubernetes import client, config

from fedskd_sim.kubernetes.cluster import KubernetesApi


def test_the_api_server_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that the image or the pod has for the world outside is not asked for an address of
    the cluster's own.
    """

    def inside() -> None:
        settings = client.Configuration()
        settings.host = "https://10.96.0.1:443"
        assert settings.proxy in ("http://proxy:3128", None)  # clients before 35 do not look
        monkeypatch.setattr(client.Configuration, "_default", settings)

    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setattr(config, "load_incluster_config", inside)
    made = KubernetesApi("n", "a=b")
    assert made._core.api_client.configuration.host == "https://10.96.0.1:443"
    assert made._core.api_client.configuration.proxy is None
    assert made._batch.api_client.configuration.proxy is None


def test_a_patch_between_others_changes_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A conflict says that somebody changed the Job meanwhile, not that it may not be patched; what
    is made twice is told at once.
    """
    answers = iter([409, 409, 200])

    def patch(*_: object) -> None:
        if (status := next(answers)) != 200:
            raise client.ApiException(status, "the object has been modified")

    monkeypatch.setattr(config, "load_incluster_config", lambda: None)
    made = KubernetesApi("n", "a=b")
    monkeypatch.setattr(made._batch, "patch_namespaced_job", patch)
    made.suspend("a")
    assert (made.calls["patch jobs"], [*answers]) == (3, [])
    answers = iter([409])
    monkeypatch.setattr(made._batch, "create_namespaced_job", patch)
    assert not made.create({})
