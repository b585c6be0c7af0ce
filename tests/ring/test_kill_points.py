"""Every named point at which a hospital can die or find its disk full, in real processes: the
bytes are the undisturbed run's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fates import DEADLY, POINTS, fated, results, scenario
from watching import events

from fedskd_sim.operate.checks import verify_run
from fedskd_sim.privacy.accountant import plan
from fedskd_sim.records.files import own_records
from fedskd_sim.ring.topology import Topology
from fedskd_sim.scenario import load

pytestmark = pytest.mark.usefixtures("temporary")
PLANS = {
    "ensemble and averaged weights": (
        "h0 ensemble 1",
        "h1 torn_record 4",
        "h2 after_acknowledgement 2",
    ),
    "two tracks": (
        "h0 before_registration 1",
        "h1 reconcile 1",
        "h1 reconcile 1",
        "h2 receiving 1",
    ),
    "traveller-first, one after the other, shuffled": (
        "h0 during_visit 2",
        "h1 homecoming 1",
        "h2 evaluation 2",
    ),
    "FedAvg": ("h0 reducing 2", "h1 gathering 1", "h2 before_save 3"),
    "FML": (
        "h0 warm_up 1",
        "h1 during_training 5",
        "h1 during_training 1",
        "h2 after_save 4",
    ),
    "FedProto": ("h0 received_not_delivered 1", "h1 after_send 2", "h2 goodbye 1"),
    "cyclic, audited": ("h0 departing 1", "h2 departing 2"),
    "private": (
        "h0 warm_up 1",
        "h0 during_visit 1",
        "h1 during_training 5",
        "h1 after_save 4",
        "h2 homecoming 1",
        "h2 torn_record 2",
    ),
}
"""By algorithm: who dies where, at the how-manieth time in one life; who is named twice at one
point dies there twice."""


def planned(*lines: str, how: str = "kill") -> list[tuple[str, str, int, str]]:
    return [(name, point, int(number), how) for name, point, number in map(str.split, lines)]


@pytest.mark.parametrize("algorithm", PLANS)
def test_wherever_hospitals_die_nothing_changes(
    algorithm: str, scenario_file: Callable, run: Callable, tmp_path: Path
) -> None:
    """The hospitals of a run die at points of their own; records, weights and predictions are
    the undisturbed run's.
    """
    path, out, deaths = (
        scenario_file(scenario(algorithm)),
        tmp_path / "out",
        planned(*PLANS[algorithm]),
    )
    assert fated(path, out, deaths) == []
    assert len(events(out, name="restarted")) == len(deaths)
    assert results(out) == results(run(path, "memory"))


def test_a_secret_key_outlives_deaths(scenario_file: Callable, tmp_path: Path) -> None:
    """Nobody can repeat the run, yet it is whole, and every session is counted once; the key is in
    none of its files.
    """
    path = scenario_file(scenario("private").replace("key: scenario", "key: secret"))
    out = tmp_path / "out"
    deaths = planned("h0 warm_up 1", "h1 during_training 5", "h1 during_visit 1", "h2 after_save 4")
    assert fated(path, out, deaths) == []
    given = load(path).scenario
    for name in given.members:
        spent = [one.private["queries"] for one in own_records(out, name) if one.private]
        assert spent[-1] == plan(given, Topology.of(given), name, 54, 54).queries
    assert verify_run(out, given, None)[0].broken is None
    assert not [one for one in out.rglob("*") if one.is_file() and b'"key"' in one.read_bytes()]


FULL = ("h1 receiving 1", "h0 during_training 3", "h2 torn_record 1")


def test_a_disk_that_is_full_now_and_then_changes_nothing(
    scenario_file: Callable, run: Callable, tmp_path: Path
) -> None:
    """At an arrival, in training, in the middle of a record: each ends the run with words, and
    each time it is resumed.
    """
    path, out = scenario_file(scenario("ensemble and averaged weights")), tmp_path / "out"
    assert fated(path, out, planned(*FULL, how="full")) == []
    assert results(out) == results(run(path, "memory"))


def test_every_point_is_met() -> None:
    """There is a plan for every point, and no point is only a name."""
    offered = (DEADLY / "sitecustomize.py").read_text(encoding="utf-8")
    assert {line.split()[1] for plan in PLANS.values() for line in plan} == set(POINTS)
    assert [point for point in POINTS if f'"{point}"' not in offered] == []
