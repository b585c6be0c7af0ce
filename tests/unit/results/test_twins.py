"""What a comparison says of methods with faults."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_compare_tables import QUICKSTART, compared
from test_report import Outline, folder, story

from fedskd_sim.observe import outcome
from fedskd_sim.records import Measure, Record, Timing, to_line
from fedskd_sim.results.account import Absence
from fedskd_sim.results.comparison import tables
from fedskd_sim.results.comparison.planning import methods
from fedskd_sim.results.comparison.statistics import compare_paired, holm
from fedskd_sim.results.comparison.summary import _lost
from fedskd_sim.results.comparison.tables import MethodTable, Score, score
from fedskd_sim.results.comparison.text import as_html, as_text
from fedskd_sim.results.comparison.values import as_json
from fedskd_sim.results.comparison.work import finished
from fedskd_sim.results.memory import average
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
def make(scenario_file: Callable) -> Callable[..., MethodTable]:
    """Make a comparison of methods of the quickstart with variants that have faults."""
    scenario = load(scenario_file(QUICKSTART.read_text("utf-8") + DARK)).scenario

    def go(*labels: str, hurt: Sequence[float] = HURT) -> MethodTable:
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
    effects = tables.effects(found)
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
    assert not tables.effects(found)
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
    assert page.count('<td class="word">restart</td>') == 4
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


def unlike(names: Sequence[str], seed: int, held_out: str) -> list[Record]:
    """Make records of tests whose values all differ, with ensembles and a hospital held out."""
    draw = random.Random(seed)
    found = []
    for record in story((*names, held_out)):
        if record.kind == "evaluation" and record.model != held_out:
            own = replace(record, measures={"auc": Measure(draw.random(), 1)})
            found.append(own)
            if record.host == record.model:
                together = {"auc": Measure(draw.random(), 1)}
                found.append(replace(own, kind="ensemble", measures=together))
    return found


def approx_mean(one: Score, names: Sequence[str]) -> Any:
    """Average own and others by hand."""
    cells = {test[2:]: value for test, value in one.tests.items() if test[1] == "inside"}
    own = [value for (model, host), value in cells.items() if model == host]
    others = [
        np.mean([value for (model, host), value in cells.items() if name == model != host])
        for name in names
    ]
    for where, values in (("own", own), ("others", others)):
        assert one.values["auc", where] == pytest.approx(np.mean(values))
    for where in ("ensemble", "unseen"):
        found = [value for test, value in one.tests.items() if test[1] == where]
        assert one.values["auc", where] == pytest.approx(np.mean(found))
    for name, away in zip(names, others, strict=True):
        at_home = one.hospitals["auc", "own", name]
        assert at_home == cells[name, name] if (name, name) in cells else math.isnan(at_home)
        assert one.hospitals["auc", "others", name] == pytest.approx(away)
    return pytest.approx((np.mean(own) + np.mean(others)) / 2)


def test_a_hospital_that_was_lost_is_no_difference_by_itself(
    make: Callable, tmp_path: Path
) -> None:
    """Where the tests of two methods that both have are the same, so are the methods, whatever
    hospital one of them has lost; the note says it, and by hand the means of both are the same.
    """
    names, held_out = ("north", "east", "south"), "away"
    scores: dict[str, list[Score]] = {"whole": [], "hurt": []}
    for seed in range(4):
        records = unlike(names, seed, held_out)
        for label, some in (
            ("whole", records),
            ("hurt", [one for one in records if one.host != "east"]),
        ):
            place = tmp_path / f"{label}-{seed}"
            place.mkdir()
            folder(place, some, (*names, held_out))
            scores[label].append(score(place, names, (held_out,)))
    for one in scores["whole"] + scores["hurt"]:
        assert one.values["auc", "mean"] == approx_mean(one, names)
    rows = [
        replace(row, scores=found)
        for row, found in zip(make("fedskd", "dark").rows, scores.values(), strict=True)
    ]
    found = replace(make("fedskd", "dark"), rows=tuple(rows), control="fedskd")
    for where in ("mean", "ensemble", "unseen"):
        difference = found.differences("auc")["dark", where]
        assert (difference.mean, difference.seeds) == (0.0, 4)
    whole, hurt = rows
    assert whole.mean("auc", "mean") != pytest.approx(hurt.mean("auc", "mean"))
    tests = {test[2:]: value for test, value in scores["hurt"][0].tests.items()
             if test[1] == "inside"}  # fmt: skip
    own = np.mean([tests["north", "north"], tests["south", "south"]])
    others = np.mean(
        [
            tests["north", "south"],
            (tests["east", "north"] + tests["east", "south"]) / 2,
            tests["south", "north"],
        ]
    )
    assert whole.beside(hurt, "auc", "mean")[0][0] == pytest.approx((own + others) / 2)
    assert tables.effects(found)["dark", "auc"].mean == 0.0
    assert found.best("auc", "mean") == ""
    (note,) = _lost(rows)
    assert note.startswith("dark lacks up to 4 tests of a run, of hospitals that it lost")
    assert not [*_lost(rows[:1])]


def test_a_run_that_lost_hospitals_and_ended_well_is_not_repeated(tmp_path: Path) -> None:
    """Its report is not complete, and never will be; one that did not end well, or whose end is
    not known, is.
    """
    (tmp_path / "report.json").write_text('{"complete": false}')
    assert not finished(tmp_path)
    begun = outcome.begin(tmp_path, "launch")
    assert not finished(tmp_path)
    outcome.note(tmp_path, outcome.finish(begun, ValueError()))
    assert not finished(tmp_path)
    outcome.note(tmp_path, outcome.finish(begun))
    assert finished(tmp_path)
    (tmp_path / outcome.FILE).write_text("{")
    assert not finished(tmp_path)


def touring(seed: int, lost: str) -> list[Record]:
    """Make records of two rounds in which models forget, each another amount at each hospital, and
    ``lost`` is visited by nobody.
    """
    draw, names, found = random.Random(seed), ("north", "east", "south", "west"), list[Record]()
    probes = {
        (model, round_, hop, host): draw.random()
        for model in names
        for round_ in range(3)
        for hop in range(5)
        for host in names
    }
    for record in story(names, rounds=2):
        there = {
            f"{'probe' if record.kind == 'visit' else 'leaving'}/{host}": Measure(
                probes[record.model, record.round, record.hop, host], 1
            )
            for host in names
            if record.kind != "evaluation" and host != lost
        }
        if lost not in (record.host, record.model):
            found.append(replace(record, measures={**record.measures, **there}))
    return found


def test_what_a_lost_hospital_would_have_forgotten_is_no_difference(
    make: Callable, tmp_path: Path
) -> None:
    """Forgetting is compared over what both methods have: at hospitals that the models of both have
    visited, after as many visits.
    """
    scores: list[list[Score]] = [[], []]
    for seed in range(3):
        for found, lost in zip(scores, ("", "west"), strict=True):
            place = tmp_path / f"{seed}-{lost}"
            place.mkdir()
            folder(place, touring(seed, lost), ("north", "east", "south", "west"))
            found.append(score(place, ("north", "east", "south", "west"), ()))
    whole, hurt = (
        replace(row, scores=found)
        for row, found in zip(make("fedskd", "dark").rows, scores, strict=True)
    )
    one, other = whole.scores[0], hurt.scores[0]
    both = one.memory.keys() & other.memory.keys()
    assert 0 < len(both) < min(len(one.memory), len(other.memory))
    by_hand = [
        average({part: found.memory[part] for part in both}, "forgetting") for found in (one, other)
    ]
    beside = [values[0] for values in whole.beside(hurt, "forgetting", "mean")]
    assert beside == by_hand
    assert beside != [one.values["forgetting", "mean"], other.values["forgetting", "mean"]]
    assert whole.versus(hurt, "forgetting", "mean").seeds == 3
