"""The last values of hospitals reach a Pushgateway; no run fails for one that is away."""

from __future__ import annotations

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

from prometheus_client.parser import text_string_to_metric_families as families
from watching import events

TEXT = (
    "name: pushed\nhospitals: [{name: a, architecture: buffer}, {name: b, architecture: buffer}]\n"
    "algorithm: {name: placebo, rounds: 1}\n"
)


def test_hospitals_push_their_last_values(scenario_file: Callable, run: Callable) -> None:
    """Each hospital says once that it is done, with as many stops as there were to be; without the
    gateway the run ends as well, and its log says why nothing came.
    """
    taken = dict[str, str]()

    class Gateway(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            assert taken.setdefault(self.path, body) == body
            self.send_response(202)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Write nothing."""

    with HTTPServer(("127.0.0.1", 0), Gateway) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        path = scenario_file(TEXT + f'metrics: {{push: "{address}"}}\n')
        out = run(path, "processes")
        assert events(out, "*", "unpushed") == []
        server.shutdown()
    assert {*taken} == {f"/metrics/job/fedskd/hospital/{name}/scenario/pushed" for name in "ab"}
    for body in taken.values():
        found = {
            sample.name: sample.value
            for family in families(body)
            for sample in family.samples
            if sample.labels.get("fedskd_phase", "done") == "done" and "model" not in sample.labels
        }
        hops = sum(
            sample.value
            for family in families(body)
            for sample in family.samples
            if sample.name == "fedskd_hops_total"
        )
        assert found["fedskd_phase"] == 1
        assert found["fedskd_stops"] == hops > 0
    away = run(path, "processes")
    assert {event["hospital"] for event in events(away, "*", "unpushed")} == {"a", "b"}
