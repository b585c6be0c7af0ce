"""What a comparison takes, forecast and counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedskd_sim.operate import budget
from fedskd_sim.operate.budget import ComparisonBudget, forecast_budget, gpus
from fedskd_sim.operate.comparison import CompareRequest, plan
from fedskd_sim.results.comparison.rings import Rings

CARDS = """\
name: cards
hospitals:
  - {name: a, architecture: buffer, resources: {gpu: 2}}
  - {name: b, architecture: buffer, resources: {gpu: 1}}
algorithm: {name: placebo, rounds: 1}
variants:
  small: {algorithm: {name: placebo, buffer_bytes: 8}}
  large: {algorithm: {name: placebo, buffer_bytes: 16}}
"""


def test_a_budget_is_that_of_runs_that_have_not_finished(
    scenario_file: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each method's short run counts as often as runs of it are due, times the GPUs of a ring; a
    method of which all is there is not tried.
    """
    wanted = CompareRequest(["small", "large"], 3, rings=Rings())
    planned = plan(scenario_file(CARDS), wanted)
    shop = planned.workshop(tmp_path, anyway=False)
    assert gpus(planned.methods[0].scenario, shop) == 3
    takes = {"small": 600.0, "large": 1200.0}

    def canary(method: budget.Method, *_: object) -> SimpleNamespace:
        usual = takes[method.label]
        return SimpleNamespace(usual=usual, at_least=usual / 2, at_most=usual * 2)

    monkeypatch.setattr(budget, "_try", canary)
    told: list[str] = []
    found = forecast_budget(planned, shop, "compare", told.append)
    hours = 3 * (600 + 1200) / 3600
    assert (found.runs, told) == (6, ["small", "large"])
    assert [one / 3600 for one in found.gpu_seconds] == [hours * 3, hours * 1.5, hours * 6]
    done = {shop.folder(run) for run in planned.runs if run.label == "large"}
    monkeypatch.setattr(budget, "finished", done.__contains__)
    found = forecast_budget(planned, shop, "compare", told.append)
    assert (found.runs, told[2:]) == (3, ["small"])
    assert found.words == (
        "budget: 3 runs, together about 30 min 0 s (15 min 0 s to 1 h 0 min), 1.50 GPU-hours (0.75 "
        "to 3.00)"
    )
    assert ComparisonBudget(0, (0, 0, 0), (0, 0, 0)).words.startswith("budget: 0 runs, ")


def test_what_was_used_is_that_of_runs_carried_out_now(
    scenario_file: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that were kept, or failed, are not counted."""
    planned = plan(scenario_file(CARDS), CompareRequest(["small", "large"], 2, rings=Rings()))
    shop = planned.workshop(tmp_path, anyway=False)
    steps = [SimpleNamespace(start=100.0, end=400.0), SimpleNamespace(start=300.0, end=700.0)]
    monkeypatch.setattr(budget, "read_timings", lambda _: steps)
    ended = [
        SimpleNamespace(fresh=fresh, code=code, folder=tmp_path, task=run)
        for run, (fresh, code) in zip(
            planned.runs, [(True, 0), (False, 0), (True, 0), (True, 41)], strict=True
        )
    ]
    assert budget.used(ended, shop) == "used: 2 runs, together 20 min 0 s, 1.00 GPU-hours"
