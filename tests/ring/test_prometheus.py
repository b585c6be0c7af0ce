"""A real Prometheus scrapes a real run and answers queries about it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scraping import Query, scraped
from watching import until

from fedskd_sim.observe.metrics import GAUGES
from fedskd_sim.records.files import read_records
from fedskd_sim.ring.topology import Topology

SCENARIO = """
name: watched
data: {name: synthetic-skin, samples: 100, image_size: 16}
hospitals:
  - {name: north, architecture: {name: cnn-plain, options: {width: 8}}}
  - {name: south, architecture: {name: cnn-residual, options: {width: 8}}}
algorithm: {name: fedskd, rounds: 2}
metrics: {linger: 20}  # Prometheus takes up to 5 s to act on a new targets file
"""
CONFIG = """
global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}
scrape_configs:
  - job_name: fedskd
    file_sd_configs: [{{files: [{targets}], refresh_interval: 200ms}}]
"""

pytestmark = pytest.mark.skipif(not shutil.which("prometheus"), reason="no prometheus on PATH")


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Query]:
    """Start Prometheus on the targets file of a run and give a function that queries it."""
    targets = tmp_path / "out" / "metrics" / "targets.json"
    targets.parent.mkdir(parents=True)
    with scraped(tmp_path / "prometheus", CONFIG.format(targets=targets)) as query:
        yield query


def test_prometheus_scrapes_a_run_and_the_values_are_those_of_the_records(
    prometheus: Query, tmp_path: Path
) -> None:
    """Accuracy, drift, hops, bytes and times of every hospital and model can be queried and
    equal the records.
    """
    shutil.rmtree(tmp_path / "out" / "metrics")
    (tmp_path / "scenario.yaml").write_text(SCENARIO)
    command = [
        sys.executable,
        "-m",
        "fedskd_sim",
        "launch",
        str(tmp_path / "scenario.yaml"),
        "--out",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    records = read_records(tmp_path / "out")

    def value(text: str) -> float:
        return float(until(lambda: prometheus(f"last_over_time({text}[5m])"))[0]["value"][1])

    for host in ("north", "south"):
        own = [record for record in records if record.host == host]
        for model in ("north", "south"):
            labels = f'{{scenario="watched",hospital="{host}",model="{model}"}}'
            last = [record for record in own if record.model == model][-1]
            trained = [
                record for record in own if record.model == model and record.kind != "evaluation"
            ][-1]
            for split, record in (("test", last), ("validation", trained)):
                found = value(f'fedskd_accuracy_ratio{labels[:-1]},split="{split}"}}')
                assert found == pytest.approx(record.measures["accuracy"].mean)
            assert value(f"fedskd_hops_total{labels}") == len(
                [record for record in own if record.model == model]
            )
            drifts = [
                record.measures["drift"].mean
                for record in own
                if record.model == model and "drift" in record.measures
            ]
            assert value(f"fedskd_drift_ratio{labels}") == pytest.approx(drifts[-1])
            received = sum(record.bytes for record in own if record.model == model)
            assert value(f"fedskd_received_bytes_total{labels}") == received
            assert value(f"fedskd_samples_total{labels}") == sum(
                r.samples for r in own if r.model == model
            )
        place = f'{{scenario="watched",hospital="{host}"}}'
        assert value(f"fedskd_session_seconds_count{place}") == 4
        assert value(f"fedskd_transfer_seconds_count{place}") == 5
        assert value(f"fedskd_ring_position{place}") == ["north", "south"].index(host)
        assert value(f'fedskd_phase{{hospital="{host}",fedskd_phase="done"}}') == 1
    assert {
        series["metric"]["hospital"]
        for series in prometheus("last_over_time(fedskd_ring_size[5m])")
    } == {
        "north",
        "south",
    }


def test_every_metric_has_the_prefix_and_closed_labels() -> None:
    """Names start with fedskd_, labels are scenario, hospital, model, split and the phase, and what
    does not change in a run; none is round or hop.
    """
    from fedskd_sim.observe.metrics import HospitalMetrics

    metrics = HospitalMetrics("s", "north", Topology(("north", "south"), 1))
    metrics.phase("visit", 1)
    for family in metrics.registry.collect():
        assert family.name.startswith("fedskd_")
        for sample in family.samples:
            assert set(sample.labels) <= {
                "scenario",
                "hospital",
                "model",
                "split",
                "fedskd_phase",
                "le",
                "next",
                *(("algorithm", "seed", "version") if family.name == "fedskd_run" else ()),
            }
    assert len(GAUGES) == 10
