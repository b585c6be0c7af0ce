"""The chart's alerts in a real Prometheus beside real runs: one that ends well, one that crashes,
one that stands still.

Prometheus scrapes every 2 s instead of every 15, and every duration in the rules is shorter by the
same factor.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from scraping import Query, scraped
from watching import PATIENCE_S, events, hospitals_of, until

RULES = (
    Path(__file__).parent.parent.parent / "helm" / "fedskd-sim" / "files" / "rules" / "fedskd.yaml"
)
SECONDS = {"s": 1, "m": 60, "h": 3600}
USUAL_S, SCRAPE_S = 15, 2
CONFIG = """
global: {{scrape_interval: {scrape}s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: fedskd
    file_sd_configs: [{{files: [{targets}], refresh_interval: 1s}}]
"""
SCENARIO = """
name: watched
hospitals:
  - {{name: h0, architecture: buffer}}
  - {{name: h1, architecture: buffer}}
  - {{name: h2, architecture: buffer}}
algorithm: {{name: placebo, rounds: {rounds}, session_seconds: 1.5, buffer_bytes: 1000}}
metrics: {{linger: {linger}}}
timeouts: {{register: 300, hop: 90, acknowledgement: 60, retry: 5, goodbye: 5, stop: 5}}
"""
ENDED = "RunHasEnded"

pytestmark = pytest.mark.skipif(not shutil.which("prometheus"), reason="no prometheus on PATH")


def hurried() -> str:
    """Write the chart's rules with shorter durations, and one more alert: that a run, whichever
    way, has ended for long enough.
    """
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]

    def shorter(found: re.Match[str]) -> str:
        return f"{int(found[1]) * SECONDS[found[2]] * 1000 * SCRAPE_S // USUAL_S}ms"

    for rule in rules:
        rule["expr"] = re.sub(r"(?<=[\[ ])(\d+)([smh])\b", shorter, rule["expr"])
        if "for" in rule:
            rule["for"] = re.sub(r"^(\d+)([smh])$", shorter, rule["for"])
    early = next(rule for rule in rules if rule["alert"] == "FedskdRunEndedEarly")
    parts = early["expr"].split("unless")
    rules.append({"alert": ENDED, "expr": "unless".join(parts[:2]), "for": early["for"]})
    assert len(parts) == 3, early["expr"]
    return yaml.safe_dump({"groups": [{"name": "fedskd", "rules": rules}]})


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Query]:
    """Start Prometheus with our rules on the targets that `tell` writes."""
    (tmp_path / "rules.yaml").write_text(hurried())
    (tmp_path / "targets.json").write_text("[]")
    config = CONFIG.format(
        scrape=SCRAPE_S, rules=tmp_path / "rules.yaml", targets=tmp_path / "targets.json"
    )
    with scraped(tmp_path / "prometheus", config) as query:
        yield query


def tell(tmp_path: Path, hospitals: dict[str, str]) -> None:
    """Let Prometheus find hospitals as it finds pods: with labels of who they are, and only
    those that run.
    """
    common = {"namespace": "ns", "run": "r"}
    targets = [
        {"targets": [address], "labels": {**common, "pod": f"r-{name}", "fedskd_io_hospital": name}}
        for name, address in hospitals.items()
    ]
    draft = tmp_path / "draft"
    draft.write_text(json.dumps(targets))
    draft.rename(tmp_path / "targets.json")


def launched(tmp_path: Path, rounds: int = 2, linger: int = 0) -> subprocess.Popen:
    """Launch a placebo and tell Prometheus where its hospitals are."""
    (tmp_path / "scenario.yaml").write_text(SCENARIO.format(rounds=rounds, linger=linger))
    command = [
        sys.executable,
        "-m",
        "fedskd_sim",
        "launch",
        str(tmp_path / "scenario.yaml"),
        "--out",
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: events(tmp_path / "out", "h*", "listening")[2:])
    tell(tmp_path, addresses(tmp_path))
    return process


def addresses(tmp_path: Path) -> dict[str, str]:
    """Find where the hospitals show their metrics."""
    found = events(tmp_path / "out", "h*", "listening")
    return {event["hospital"]: event["metrics"] for event in found}


def ended(run: subprocess.Popen, tmp_path: Path) -> int:
    """Wait for a run's end, and let Prometheus lose each hospital when it leaves, as it loses a
    pod; gives the exit code.
    """
    told = addresses(tmp_path)

    def over() -> bool:
        here = hospitals_of(tmp_path / "out")
        if gone := [name for name in told if name not in here]:
            for name in gone:
                del told[name]
            tell(tmp_path, told)
        return run.poll() is not None

    until(over)
    return int(run.wait())


def fired(prometheus: Query) -> set[tuple[str, str]]:
    """Give all alerts that have fired until now, with the hospitals that they name."""
    found = [
        series["metric"]
        for series in prometheus('last_over_time(ALERTS{alertstate="firing"}[10m])')
    ]
    return {
        (one["alertname"], one.get("fedskd_io_hospital") or one.get("hospital", ""))
        for one in found
    }


@pytest.mark.parametrize("linger", [0, 10 * SCRAPE_S])
def test_a_run_that_ends_well_fires_no_alert(
    linger: int, prometheus: Query, tmp_path: Path
) -> None:
    """Nothing has fired when a run, whose hospitals stayed for some scrapes, or for one because
    they were scraped, has been over for as long as an alert takes.
    """
    run = launched(tmp_path, rounds=8, linger=linger)
    assert ended(run, tmp_path) == 0
    tell(tmp_path, {})
    until(lambda: (ENDED, "") in fired(prometheus))
    assert fired(prometheus) == {(ENDED, "")}


def test_a_run_that_crashes_fires_its_alert(prometheus: Query, tmp_path: Path) -> None:
    """A run whose processes are all killed at once has ended early, and nothing else is said of
    it than who has failed.
    """
    run = launched(tmp_path, rounds=30)
    until(lambda: prometheus("fedskd_ring_size"))
    for process in (run.pid, *hospitals_of(tmp_path / "out").values()):
        with suppress(ProcessLookupError):  # the first takes the others with it
            os.kill(process, signal.SIGKILL)
    assert run.wait(PATIENCE_S) == -signal.SIGKILL
    tell(tmp_path, {})
    until(lambda: (ENDED, "") in fired(prometheus))
    assert ("FedskdRunEndedEarly", "") in fired(prometheus)
    assert {name for name, _ in fired(prometheus)} <= {
        "FedskdRunEndedEarly",
        "FedskdHospitalFailed",
        ENDED,
    }


def test_a_run_that_stands_still_fires_its_alerts_and_is_well_again(
    prometheus: Query, tmp_path: Path
) -> None:
    """Of a hospital that is stopped it is said that it does not answer; when it goes on, so does
    the run, and no alert is left.
    """
    run = launched(tmp_path, rounds=30)
    try:
        until(lambda: prometheus('fedskd_phase{fedskd_phase="visit"} == 1'))
        stopped = hospitals_of(tmp_path / "out")["h1"]
        os.kill(stopped, signal.SIGSTOP)
        until(lambda: fired(prometheus) >= {("FedskdHospitalDown", "h1")})
        assert fired(prometheus) <= {
            ("FedskdHospitalDown", "h1"),
            ("FedskdHospitalMissing", ""),
            ("FedskdRingStalled", ""),
        }
        os.kill(stopped, signal.SIGCONT)
        until(lambda: not prometheus('ALERTS{alertstate="firing"}'))
        assert run.poll() is None
    finally:
        run.send_signal(signal.SIGINT)
        run.wait(PATIENCE_S)
