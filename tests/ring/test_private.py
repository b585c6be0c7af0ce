"""The scenario with private hospitals, as processes: the same bytes as in memory, and no key
outside of custody.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from fedskd_sim.records.files import own_records
from fedskd_sim.scenario import scenarios

pytest.importorskip("dp_accounting")
pytestmark = pytest.mark.usefixtures("temporary")


def test_the_shipped_scenario_keeps_its_budgets(
    run: Callable, cli: Callable, tmp_path: Path
) -> None:
    """Each hospital spends what it may at most, or has no bound, or no privacy, as its block says;
    validate has said so before.
    """
    told = cli("validate", "roi-private", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    for line in (
        r"aachen: 180 samples, .* epsilon 8 at delta 0.0005",
        r"bergen: 180 samples, .* epsilon 3 at delta 0.0005",
        r"cork: 180 samples, .* clipped alone, no guarantee",
        r"none: delft",
    ):
        assert re.search(line, told.stdout), told.stdout
    out = run(scenarios()["roi-private"], "processes")
    spent = {
        name: [one.private.get("epsilon") for one in own_records(out, name) if one.private]
        for name in ("aachen", "bergen", "cork", "delft")
    }
    assert 7.9 < spent["aachen"][-1] <= 8
    assert 2.9 < spent["bergen"][-1] <= 3
    assert {*spent["cork"]} == {None}
    assert spent["delft"] == []
    same = run(scenarios()["roi-private"], "memory")
    for file in (out / "records").iterdir():
        assert file.read_bytes() == (same / "records" / file.name).read_bytes()
