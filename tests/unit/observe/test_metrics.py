"""What a hospital exports to Prometheus."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from prometheus_client import generate_latest

from fedskd_sim import __version__, clock
from fedskd_sim.observe.metrics import HospitalMetrics, Scrapes
from fedskd_sim.records import Measure, Record
from fedskd_sim.ring.topology import Topology


def test_validation_and_test_are_never_one_series() -> None:
    """A session's accuracy and that of the evaluation round stand side by side, and all models
    together are no model.
    """

    def shares(evaluate_on: str) -> dict[str, float]:
        metrics = HospitalMetrics("s", "north", Topology(("north", "south"), 1), evaluate_on)
        for kind, right in (("homecoming", 1.0), ("evaluation", 2.0), ("ensemble", 3.0)):
            record = Record(
                "s",
                1,
                kind,
                1,
                1,
                "north",
                "north",
                "net",
                "trained",
                measures={"accuracy": Measure(right, 4.0)},
            )
            metrics.count_step(record)
        families = {family.name: family for family in metrics.registry.collect()}
        return {
            sample.labels["split"]: sample.value
            for sample in families["fedskd_accuracy_ratio"].samples
        }

    assert shares("test") == {"validation": 0.25, "test": 0.5}
    assert shares("validation") == {"validation": 0.5}


def test_the_last_exposition_is_what_a_scrape_would_have_seen(tmp_path: Path) -> None:
    """The file has every sample as Prometheus reads it, is written again as a whole, and no full
    disk ends a run over it.
    """
    metrics = HospitalMetrics("s", "north", Topology(("north", "south"), 1))
    metrics.write(tmp_path)
    metrics.count_step(
        Record("s", 1, "visit", 1, 1, "north", "south", "net", "trained", bytes=70, samples=5)
    )
    metrics.phase("done")
    metrics.write(tmp_path)
    lines = (tmp_path / "metrics" / "north.prom").read_text().splitlines()
    assert 'fedskd_received_bytes_total{hospital="north",model="south",scenario="s"} 70.0' in lines
    assert 'fedskd_phase{fedskd_phase="done",hospital="north",scenario="s"} 1.0' in lines
    assert [file.name for file in (tmp_path / "metrics").iterdir()] == ["north.prom"]
    metrics.write(tmp_path / "metrics" / "north.prom")


def test_memory_of_a_card_is_told_with_the_card() -> None:
    """``auto`` is the CUDA device that there was."""
    metrics = HospitalMetrics("s", "north", Topology(("north", "south"), 1))
    metrics.takes_of_card("auto", 70)
    metrics.takes_of_card("cuda:1", 80)
    text = generate_latest(metrics.registry).decode()
    for device, size in (("cuda", 70), ("cuda:1", 80)):
        of = f'device="{device}",hospital="north",scenario="s"'
        assert f"fedskd_device_memory_bytes{{{of}}} {size}.0" in text


def test_the_run_is_told_once_and_no_moment_of_creation() -> None:
    """Algorithm, seed and version stand beside scenario and hospital; counters and histograms have
    no series of when they were made.
    """
    ring = Topology(("north", "south"), 1, seed=7)
    metrics = HospitalMetrics("s", "north", ring, algorithm="fedskd")
    metrics.took("session", 1.0)
    text = generate_latest(metrics.registry).decode()
    about = f'algorithm="fedskd",hospital="north",scenario="s",seed="7",version="{__version__}"'
    assert f"fedskd_run_info{{{about}}} 1.0" in text
    assert "fedskd_session_seconds_count" in text
    assert "_created" not in text


def test_place_stops_in_all_and_hop_are_told() -> None:
    """Who is next in the ring, how many records the hospital will have, and at which hop it saw a
    model last; the evaluation round is no such hop.
    """
    ring = Topology(("north", "east", "south"), 2)
    metrics = HospitalMetrics("s", "south", ring)
    for kind, hop in (("warm_up", 0), ("visit", 2), ("evaluation", 1)):
        metrics.count_step(Record("s", 1, kind, 1, hop, "south", "east", "net", "trained"))
    text = generate_latest(metrics.registry).decode()
    assert 'fedskd_ring_next{hospital="south",next="north",scenario="s"} 1.0' in text
    assert 'fedskd_hop{hospital="south",model="east",scenario="s"} 2.0' in text
    records = 1 + 2 * 3 + 1 + 2  # warm-up, three stops in each round, the evaluation of all
    assert f'fedskd_stops{{hospital="south",scenario="s"}} {records}.0' in text


def test_the_last_exposition_is_pushed_to_a_gateway() -> None:
    """It replaces what this hospital of the scenario has pushed; a gateway that is away or refuses
    is told in words, and no error.
    """
    taken = list[tuple[str, str, bytes]]()

    class Gateway(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken.append((self.path, self.headers["Content-Type"], body))
            self.send_response(200 if len(taken) == 1 else 400)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Write nothing."""

    metrics = HospitalMetrics("s", "north", Topology(("north", "south"), 1))
    metrics.phase("done")
    with HTTPServer(("127.0.0.1", 0), Gateway) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert metrics.push(address) == ""
        assert "400" in metrics.push(address)
        server.shutdown()
    assert "refused" in metrics.push(address)
    path, kind, body = taken[0]
    assert path == "/metrics/job/fedskd/hospital/north/scenario/s"
    assert kind.startswith("text/plain")
    assert b'fedskd_phase{fedskd_phase="done",hospital="north",scenario="s"} 1.0' in body


def test_a_scrape_is_waited_for_only_by_those_that_are_scraped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody waits who was never scraped, or is scraped seldom; else until the next scrape is
    late, and not once it has come.
    """
    scrapes = Scrapes(HospitalMetrics("s", "north", Topology(("north", "south"), 1)).registry)
    assert not scrapes.expected(clock.now())
    now = [100.0]
    monkeypatch.setattr(clock, "now", lambda: now[0])
    [*scrapes.collect()]
    assert scrapes.expected(101.0)
    assert not scrapes.expected(99.0)
    now[0] = 100.0 + 1.5 * 15
    assert not scrapes.expected(101.0)
    now[0] = 140.0
    [*scrapes.collect()]
    now[0] += 1.5 * 40 - 1
    assert scrapes.expected(141.0)
    now[0] += 1
    assert not scrapes.expected(141.0)
    now[0] = 300.0
    [*scrapes.collect()]
    assert not scrapes.expected(301.0)
