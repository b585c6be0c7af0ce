"""How the controller reaches its API server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event as Flag
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes import client, config

from fedskd_sim.kubernetes.cluster import KubernetesApi
from fedskd_sim.kubernetes.run_controller import RunController


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


class Quiet(BaseHTTPRequestHandler):
    """An API server with one pod, of which nothing more is told while it is watched."""

    protocol_version = "HTTP/1.1"
    watched, over = Flag(), Flag()

    def do_GET(self) -> None:
        pod = {"metadata": {"name": "a", "uid": "1"}, "spec": {"containers": [{"name": "a"}]}}
        body = {"apiVersion": "v1", "kind": "PodList", "metadata": {"resourceVersion": "1"}}
        text = json.dumps({**body, "items": [pod]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        if "watch" in self.path:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.flush()
            self.watched.set()
            self.over.wait()
            return
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    """Have the API of a server that is quiet."""
    Quiet.watched.clear()
    Quiet.over.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()

        def inside() -> None:
            settings = client.Configuration()
            settings.host = f"http://127.0.0.1:{server.server_address[1]}"
            monkeypatch.setattr(client.Configuration, "_default", settings)

        monkeypatch.setattr(config, "load_incluster_config", inside)
        yield KubernetesApi("n", "a=b")
        Quiet.over.set()
        server.shutdown()
        thread.join()


def test_nothing_goes_on_beside_when_a_controller_ends(quiet: KubernetesApi) -> None:
    """A watch that waits for news ends with it, at once, and says nothing of it; so does what waits
    for the next look.
    """
    seen, said, over = list[str](), list[object](), Flag()
    notes = SimpleNamespace(close=over.set)
    tracker = SimpleNamespace(saw=lambda kind, pod: seen.append(f"{kind} {pod.metadata.name}"))
    log = SimpleNamespace(event=said.append)
    found: Any = (SimpleNamespace(), SimpleNamespace(), log, quiet, tracker, notes)
    controller = RunController(*found)
    controller._begin(controller._watch)
    controller._begin(lambda: over.wait() and None)
    assert Quiet.watched.wait(60)
    controller._end_threads()
    assert seen == ["MODIFIED a"]
    assert said == []
    assert not [one for one in controller._beside if one.is_alive()]
