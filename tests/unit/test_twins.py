"""What a comparison says of methods with faults."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_compare_tables import QUICKSTART, compared
from test_report import Outline, folder, story

from fedskd_sim.compare import twins
from fedskd_sim.compare.page import as_html
from fedskd_sim.compare.plan import methods
from fedskd_sim.compare.statistics import compare_paired, holm
from fedskd_sim.compare.tables import Comparison, score
from fedskd_sim.compare.text import as_json, as_text
from fedskd_sim.records import Timing, to_line
from fedskd_sim.report.absences import Absence
from fedskd_sim.scenario import load

DARK = """
variants:
  dark: {faults: [{hospital: cork, what: poison, round: 1, factor: 9}]}
  grey: {algorithm: {name: cyclic}, faults: [{hospital: cork, what: kill}]}
"""
CALM = (0.70, 0.72, 0.71, 0.74)
HURT = (0.60, 0.64, 0.61, 0.66)
WORSE = (0.20, 0.22, 0.23, 0.21)
SPOILED = Absence("cork", "poison", 1, 2, 1e9)
STAYED = Absence("cork", "restart", 2, 0, 1e9, seconds=20.0)


@pytest.fixture
def make(scenario_file: Callable) -> Callable[..., Comparison]:
    """Make a comparison of methods of the quickstart with variants that have faults."""
    scenario = load(scenario_file(QUICKSTART.read_text("utf-8") + DARK)).scenario

    def go(*labels: str, hurt: Sequence[float] = HURT) -> Comparison:
        def places(values: Sequence[float]) -> dict[str, Sequence[float]]:
            return dict.fromkeys(("own", "others", "mean"), values)

        bare = ("circulation", "fedskd", "local")[: len(labels)]
        found = compared(dict(zip(bare, (places(CALM), places(hurt), places(CALM)), strict=False)))
        rows = []
        for method, row in zip(methods(scenario, labels), found.rows, strict=True):
            dark = bool(method.scenario.faults)
            scores = [
                replace(
                    one,
                    values={**one.values, ("forgetting", "mean"): WORSE[seed] if dark else 0.1},
                    costs={**one.costs, "again": 3.0 if dark else 0.0},
                    struck=(SPOILED, STAYED) if dark else (),
                )
                for seed, one in enumerate(row.scores)
            ]
            rows.append(replace(row, method=method, scores=scores))
        return replace(found, rows=tuple(rows), control=labels[0])

    return go


def test_a_method_with_faults_is_compared_with_its_twin(make: Callable) -> None:
    """Accuracy and forgetting, each as a paired difference to the same method without faults,
    corrected for all of them.
    """
    found = make("fedskd", "dark")
    effects = twins.effects(found)
    assert effects.keys() == {("dark", "auc"), ("dark", "forgetting")}
    by_itself = compare_paired(HURT, CALM)
    assert (effects["dark", "auc"].mean, effects["dark", "auc"].low) == (
        by_itself.mean,
        by_itself.low,
    )
    ps = [one.p for one in effects.values()]
    assert [one.corrected for one in effects.values()] == pytest.approx(holm(np.array(ps)).tolist())
    text = as_text(found)
    line = next(one for one in text.splitlines() if one.startswith("dark") and "forgetting" in one)
    assert line.split()[:6] == ["dark", "fedskd", "forgetting", "21.5", "10.0", "+11.5"]
    assert "dark: in a run 3 times, on average, a model was sent" in text
    assert "cannot be said" not in text


def test_without_its_twin_nothing_is_said_of_what_faults_did(make: Callable) -> None:
    """A method with other settings, or with faults of its own, is no twin."""
    found = make("circulation", "dark", "grey")
    assert not twins.effects(found)
    text = as_text(found)
    for label in ("dark", "grey"):
        assert f"What its faults did to {label} cannot be said" in text
    assert "what faults did\n" not in text
    assert Outline(as_html(found)).open == []


def test_where_faults_struck_is_told_for_every_seed(make: Callable) -> None:
    """In the text, on the page and as plain values; a comparison without faults has no word of
    them.
    """
    found = make("fedskd", "dark")
    lines = [line.split() for line in as_text(found).splitlines()]
    for seed in ("1", "2", "3", "4"):
        assert ["dark", seed, "cork", "poison", "1", "2"] in lines
        assert ["dark", seed, "cork", "restart", "2", "20"] in lines
    page = as_html(found)
    assert Outline(page).open == []
    assert page.count("<td>restart</td>") == 4
    plain = json.loads(json.dumps(as_json(found), allow_nan=False))["methods"]
    assert plain[0]["faults"] is None
    assert plain[1]["faults"]["twin"] == "fedskd"
    assert plain[1]["faults"]["differences"]["forgetting"]["mean"] == pytest.approx(0.115)
    assert plain[1]["faults"]["struck"][1]["seconds"] == 20.0
    calm = make("circulation", "fedskd")
    assert "faults" not in as_text(calm) + as_html(calm)


def test_a_score_has_what_struck_its_run_and_what_was_done_again(tmp_path: Path) -> None:
    """Read from log and timings, and only of a run that was meant to have faults."""
    names = ("north", "east", "south")
    folder(tmp_path, story(names), names)
    (tmp_path / "logs").mkdir()
    line = {"time": 1e9, "event": "fault", "what": "kill", "round": 1, "hop": 2, "lasts": 5.0}
    (tmp_path / "logs" / "east.jsonl").write_text(json.dumps(line) + "\n")
    with (tmp_path / "timings" / "north.jsonl").open("a") as stream:
        for attempts in (3, 1):
            one = Timing("transfer", "north", "east", 1, 2, 1e9, 2e9 + attempts, attempts=attempts)
            stream.write(to_line(one) + "\n")
    found = score(tmp_path, names, (), faulty=True)
    assert [(one.host, one.what, one.round, one.hop, one.seconds) for one in found.struck] == [
        ("east", "kill", 1, 2, 5.0)
    ]
    assert math.isnan(found.struck[0].end)
    assert found.costs["again"] == 3
    assert score(tmp_path, names, ()).struck == ()
