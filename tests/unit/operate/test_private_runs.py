"""Runs with private hospitals: what they spend is what was planned, what they tell is no loss, and
a death changes nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fedskd_sim.cli import main
from fedskd_sim.errors import BudgetSpent
from fedskd_sim.learning.base import Learner, LearnerState
from fedskd_sim.operate.checks import verify_run
from fedskd_sim.privacy.accountant import plan
from fedskd_sim.protocol.state import Terms
from fedskd_sim.records import Record, to_line
from fedskd_sim.records.files import own_records, read_records
from fedskd_sim.ring.topology import Topology
from fedskd_sim.runtimes import folder
from fedskd_sim.runtimes.base import Order
from fedskd_sim.runtimes.memory import MemoryRuntime
from fedskd_sim.scenario import Loaded, load

pytest.importorskip("dp_accounting")
TEXT = """\
name: kept
seed: 4
data: {name: synthetic-roi, samples: 50, regions: 12}
hospitals:
  - {name: a, architecture: {name: roi-mlp, options: {width: 8}}}
  - {name: b, architecture: {name: roi-gcn, options: {width: 8}}, privacy: {noise: 0}}
  - {name: c, architecture: {name: roi-mlp, options: {width: 8}}, privacy: null}
algorithm: ALGORITHM
training: {class_weights: none, batch_size: 8, warmup_epochs: 1}
privacy: {unit: sample, noise: 2, key: scenario}
"""
FIRST = "{name: fedskd, preset: traveller-first, rounds: 2, similarity: {batch: 0}}"
ALGORITHMS = {
    "traveller-first": FIRST,
    "both train": "{name: fedskd, rounds: 2, similarity: {batch: 0}, mutual_kl: 0.5}",
    "every third": "{name: fedskd, rounds: 2, similarity: {batch: 0}, resident_every: 3}",
    "circulation": "{name: circulation, rounds: 2}",
    "one after the other": "{name: cyclic, rounds: 2, schedule: {mode: sequential}}",
    "few visits": "{name: mutual, rounds: 2, schedule: {visits: 1}}",
    "local": "{name: local, rounds: 3}",
    "fedavg": "{name: fedavg, rounds: 2, architecture: {name: roi-mlp, options: {width: 8}}}",
}
RECORDED = ("warm_up", "alone", "visit", "homecoming")


def given(tmp_path: Path, algorithm: str = FIRST, *changes: str) -> Loaded:
    path = tmp_path / "kept.yaml"
    path.write_text(TEXT.replace("ALGORITHM", algorithm), encoding="utf-8")
    return load(path, changes)


def ran(loaded: Loaded, out: Path, lives: Any = None) -> list[Record]:
    where = folder.make(loaded, out, "memory")
    runtime = MemoryRuntime(lives) if lives else MemoryRuntime()
    runtime.launch(Order(loaded, "test", where, None))
    runtime.wait(lambda _: None)
    return read_records(out)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_run_spends_what_was_planned(name: str, tmp_path: Path) -> None:
    """Of every algorithm that may be private, with its warm-up, visits and homecomings; and what
    it leaves is proven whole.
    """
    loaded = given(tmp_path, ALGORITHMS[name])
    scenario = loaded.scenario
    found = ran(loaded, tmp_path / "out")
    for host in ("a", "b"):
        due = plan(scenario, Topology.of(scenario), host, 30, 30)
        last = [one.private for one in found if one.host == host and one.private][-1]
        assert (last["queries"], last["epsilon"]) == (due.queries, due.epsilon)
        assert due.queries > 4
    assert all(not one.private for one in found if one.host == "c")
    verdict, _ = verify_run(tmp_path / "out", scenario, None)
    assert verdict.broken is None


def test_nothing_unnoised_is_told(tmp_path: Path) -> None:
    """No loss, part of one or norm of a private hospital is in its records, metrics or log; those
    of the others are, and validation figures stay.
    """
    found = ran(given(tmp_path), tmp_path / "out")
    told = {
        host: {
            name
            for one in found
            if one.host == host and one.kind in RECORDED
            for name in one.measures
        }
        for host in "abc"
    }
    assert "loss" in told["c"]
    for host in "ab":
        assert "accuracy" in told[host]
        assert not [name for name in told[host] if re.search("loss|similarity|kl|distill", name)]
    said = [one.reason for one in found if one.kind == "warm_up"]
    assert "a simulation of privacy, no guarantee" in said[0]
    assert "validation and test figures are not covered" in said[0]
    assert "clipped alone, no guarantee" in said[1]
    for file in (tmp_path / "out").rglob("*"):
        if file.is_file() and file.stem in "ab" and file.suffix in (".prom", ".jsonl"):
            assert not re.search(r"_loss[{ ]|\"loss\"|grad_norm", file.read_text(encoding="utf-8"))


def test_what_is_spent_is_seen_while_a_run_goes(
    scenario_file: Callable, run: Callable, inside: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In metrics and in status: queries, epsilon and budget of each private hospital, as its last
    record has them; one that clips alone has no bound, and others have nothing.
    """
    text = TEXT.replace("ALGORITHM", FIRST).replace("noise: 2,", "target: {epsilon: 8},")
    out = run(scenario_file(text), "processes")
    last = [one.private for one in own_records(out, "a") if one.private][-1]
    told = json.loads(inside("status", out, "--json").stdout)["hospitals"]
    due = {name: last[name] for name in ("queries", "epsilon")}
    assert told["a"]["privacy"] == {**due, "budget": 8.0}
    assert told["b"]["privacy"] == {"queries": last["queries"], "epsilon": None, "budget": None}
    assert told["c"]["privacy"] is None
    monkeypatch.setenv("COLUMNS", "120")
    shown = " ".join(inside("status", out).stdout.split())
    assert f"{last['epsilon']:.3g} of 8" in shown
    assert "no bound" in shown
    lines = {
        name: [
            one.partition("{")[0] + " " + one.rpartition(" ")[2]
            for one in (out / "metrics" / f"{name}.prom").read_text().splitlines()
            if one.startswith("fedskd_privacy")
        ]
        for name in "abc"
    }
    assert lines["a"] == [
        f"fedskd_privacy_queries {float(due['queries'])}",
        f"fedskd_privacy_epsilon {due['epsilon']}",
        "fedskd_privacy_budget_epsilon 8.0",
    ]
    assert lines["b"][1:] == ["fedskd_privacy_epsilon +Inf"]
    assert lines["c"] == []


class Lives:
    """Every step is taken by another life, which has only what custody kept."""

    def __init__(self) -> None:
        self.states: list[LearnerState] = []

    def __call__(
        self, _name: str, _old: Any, fresh: Callable[[], Learner], state: LearnerState
    ) -> Learner:
        learner = fresh()
        kept = state._replace(numbers=json.loads(json.dumps(dict(state.numbers))))
        learner.restore(kept)
        self.states.append(kept)
        return learner


@pytest.mark.parametrize("name", ["traveller-first", "both train", "fedavg"])
def test_every_step_in_another_life_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    """And the same epsilon: each session is counted once, whatever lives took part."""
    loaded, lives = given(tmp_path, ALGORITHMS[name]), Lives()
    once, again = ran(loaded, tmp_path / "once"), ran(loaded, tmp_path / "again", lives)
    assert [to_line(one) for one in once] == [to_line(one) for one in again]
    assert len(lives.states) > 10


def test_a_secret_key_is_in_custody_alone(tmp_path: Path) -> None:
    """Two runs differ, a death changes nothing of either; the key is in the learner's state, and
    in no file of the run, kept sessions included.
    """
    loaded = given(tmp_path, FIRST, "privacy.key=secret", "instruments.keep_hops=1.0")
    lives = Lives()
    once, again = ran(loaded, tmp_path / "once", lives), ran(loaded, tmp_path / "again")
    mine = [[one.digest_out for one in some if one.host == "a"] for some in (once, again)]
    assert mine[0][0] != mine[1][0]
    keys = {one.numbers["private"]["key"] for one in lives.states if "private" in one.numbers}
    assert len(keys) == 2
    assert all(len(one) == 64 for one in keys)
    files = [one for one in (tmp_path / "once").rglob("*") if one.is_file()]
    assert len(files) > 10
    for file in files:
        data = file.read_bytes()
        assert not [key for key in keys if key.encode() in data or bytes.fromhex(key) in data], file
    assert not [*(tmp_path / "once" / "hops" / "a").glob("*")]
    assert [*(tmp_path / "once" / "hops" / "c").glob("*.json")]


def test_a_session_that_is_repeated_is_the_same_and_counted_once(tmp_path: Path) -> None:
    """A hospital dies between a session and its commit: with a secret key, too, the next life
    makes the same bytes of the same visitor, and has spent as much.
    """
    from fedskd_sim.learning.algorithms.learners import make
    from fedskd_sim.learning.base import LearnerContext

    loaded = given(tmp_path, FIRST, "privacy.key=secret")
    context = LearnerContext(loaded.scenario, "a")
    first = make(context)
    first.warm_up()
    kept = first.state()
    stop = Topology.of(loaded.scenario).stop("b", 1, 1)
    guest = make(LearnerContext(loaded.scenario, "b"))
    arriving = guest.warm_up().weights
    stop = next(
        one for hop in (1, 2) for one in [Topology.of(loaded.scenario).stop("b", 1, hop)]
        if one.host == "a"
    )  # fmt: skip

    def visited(learner: Any) -> tuple[Any, Any]:
        copied = {name: one._replace(data=bytearray(one.data)) for name, one in arriving.items()}
        session = learner.visit(stop, copied)
        return {name: bytes(one.data) for name, one in session.weights.items()}, session.private

    once = visited(first)
    second = make(context)
    second.restore(kept)
    assert visited(second) == once


def test_a_spent_budget_lets_visitors_pass(tmp_path: Path) -> None:
    """They go on untrained, and their records say why; the hospital has spent no more than it
    may.
    """
    loaded = given(tmp_path, FIRST, "privacy.budget=1.2")
    found = ran(loaded, tmp_path / "out")
    mine = [one for one in found if one.host == "a" and one.kind in RECORDED]
    passed = [one for one in mine if one.outcome == "passed"]
    assert passed
    assert passed == mine[-len(passed) :]
    for one in passed:
        assert "the budget of epsilon 1.2 is spent" in one.reason
        assert one.digest_in == one.digest_out
        assert (one.samples, one.steps, one.private) == (0, 0, {})
    assert max(one.private["epsilon"] for one in mine if one.private) <= 1.2  # type: ignore[type-var]
    assert verify_run(tmp_path / "out", loaded.scenario, None)[0].broken is None


def test_a_spent_budget_ends_the_run_if_asked(tmp_path: Path) -> None:
    """With a code of its own, the hospital and what would be spent."""
    loaded = given(tmp_path, FIRST, "privacy.budget=1.2", "privacy.spent=stop")
    with pytest.raises(BudgetSpent, match=r"'a': the budget of epsilon 1.2 is spent") as caught:
        ran(loaded, tmp_path / "out")
    assert caught.value.exit_code == 64
    assert "spent: pass" in caught.value.fix


FORGED = {
    '"queries":NUMBER': ('"queries":1', "fewer|counts|has spent"),
    '"noise":2.0': ('"noise":9.0', "was not clipped and noised as the scenario says"),
    '"units":30': ('"units":60', "says that it draws"),
    '"epsilon":NUMBER': ('"epsilon":0.5', "says that epsilon is 0.5"),
    ',"private":{PART}': ("", "does not say what it has spent"),
}


@pytest.mark.parametrize("what", FORGED)
def test_verify_computes_epsilon_anew(what: str, tmp_path: Path) -> None:
    """Whatever is changed of what a record says to have been spent is named."""
    loaded = given(tmp_path, ALGORITHMS["local"])
    ran(loaded, tmp_path / "out")
    file = tmp_path / "out" / "records" / "a.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    pattern = re.escape(what).replace("NUMBER", r"[0-9.]+").replace("PART", "[^}]*")
    changed, said = FORGED[what]
    lines[2], times = re.subn(pattern, changed, lines[2])
    assert times == 1
    file.write_text("".join(lines), encoding="utf-8")
    verdict, _ = verify_run(tmp_path / "out", loaded.scenario, None)
    assert verdict.broken is not None
    assert re.search(said, str(verdict.broken))
    assert "a.jsonl:3" in str(verdict.broken)


def test_privacy_in_the_record_of_another_is_named(tmp_path: Path) -> None:
    """A hospital without privacy has nothing to say of it."""
    loaded = given(tmp_path, ALGORITHMS["local"])
    ran(loaded, tmp_path / "out")
    theirs = own_records(tmp_path / "out", "a")[1].private
    file = tmp_path / "out" / "records" / "c.jsonl"
    text = file.read_text(encoding="utf-8").replace(
        "}\n", f',"private":{json.dumps(theirs)}}}\n', 1
    )
    file.write_text(text, encoding="utf-8")
    verdict, _ = verify_run(tmp_path / "out", loaded.scenario, None)
    assert "tells of privacy where there is none" in str(verdict.broken)


def test_validate_says_what_a_run_will_spend(tmp_path: Path) -> None:
    """A line for every private hospital, and who has none."""
    given(tmp_path)
    done = CliRunner().invoke(main, ["validate", str(tmp_path / "kept.yaml")])
    assert done.exit_code == 0, done.output
    assert re.search(r"a: 30 samples.*noise 2: simulated.*queries spend epsilon", done.output)
    assert re.search(r"b: 30 samples.*clipped alone, no guarantee", done.output)
    assert "none: c" in done.output
    done = CliRunner().invoke(main, ["validate", str(tmp_path / "kept.yaml"), "--no-code"])
    assert "what private hospitals will spend is known once their data is read" in done.output


def test_a_run_without_privacy_says_nothing_of_it(tmp_path: Path) -> None:
    """Neither its records nor its custody have another byte."""
    loaded = given(tmp_path, FIRST, "privacy=null", "hospitals.b.privacy=null")
    lives = Lives()
    for one in ran(loaded, tmp_path / "out", lives):
        assert "private" not in to_line(one)
    assert not [one for one in lives.states if "private" in one.numbers]


def test_compare_refuses_secret_keys_and_methods_that_undo_privacy(tmp_path: Path) -> None:
    """Before anything is run, each with its key and fix."""
    given(tmp_path)
    path = tmp_path / "kept.yaml"
    arms = "fedskd,fedproto"
    done = CliRunner().invoke(
        main, ["compare", str(path), "--algorithms", arms, "--control", "fedskd"]
    )
    assert done.exit_code == 12
    assert "fedproto: algorithm.name" in done.output.replace("'", "") or "fedproto" in done.output
    assert "clipped and noised" in done.output
    text = path.read_text(encoding="utf-8").replace("key: scenario", "key: secret")
    path.write_text(text, encoding="utf-8")
    done = CliRunner().invoke(main, ["compare", str(path), "--algorithms", "local,fedavg"])
    assert "nobody could repeat what 'a' did" in done.output
    assert "set privacy.key: scenario" in done.output


def test_replay_refuses_what_only_a_secret_key_repeats(tmp_path: Path) -> None:
    """Nothing of such hospitals was kept, and the message says why."""
    loaded = given(
        tmp_path, ALGORITHMS["local"], "privacy.key=secret", "hospitals.c.privacy={noise: 2}"
    )
    ran(loaded, tmp_path / "out")
    done = CliRunner().invoke(main, ["verify", str(tmp_path / "out"), "--replay", "1"])
    assert done.exit_code == 34
    assert "they repeat only with a secret key" in done.output


def test_a_kept_session_with_a_known_key_is_repeated(tmp_path: Path) -> None:
    """With key: scenario anybody can execute it again."""
    loaded = given(tmp_path, ALGORITHMS["local"], "instruments.keep_hops=1.0")
    ran(loaded, tmp_path / "out")
    done = CliRunner().invoke(main, ["verify", str(tmp_path / "out"), "--replay", "3"])
    assert done.exit_code == 0, done.output
    assert "3 of" in done.output


def test_with_a_secret_key_nothing_leaves_that_is_not_safe(tmp_path: Path) -> None:
    """A life that has forgotten its key would answer the same question with other noise."""
    for key, at_once in (("secret", False), ("scenario", True)):
        scenario = given(tmp_path, FIRST, f"privacy.key={key}").scenario
        assert Terms.of(scenario, "run").repeatable is at_once


ROWS = """\
name: rows
data: {name: table, file: visits.csv, numbers: {age: [50, 10], chol: [240, 50]}}
hospitals:
  - {name: north, architecture: tab-mlp, data: {site: n}}
  - {name: south, architecture: tab-mlp, data: {site: s}}
algorithm: {name: local, rounds: 2}
training: {class_weights: none, batch_size: 8}
privacy: {noise: 1, key: scenario}
"""


def test_a_patient_with_several_rows_is_one_unit(tmp_path: Path) -> None:
    """By default patients are private, as the reader knows them; before the run and in it they are
    as many.
    """
    lines = ["age,chol,label,site,patient,fold"]
    for row in range(120):
        who = row // 3  # three visits of each
        age, fold = 40 + row % 23, who // 2 % 5
        lines.append(
            f"{age},{200 + row % 31},{'ill' if who % 4 < 2 else 'well'},{'ns'[who % 2]},"
            f"p{who},{fold}"
        )
    (tmp_path / "visits.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    path = tmp_path / "rows.yaml"
    path.write_text(ROWS, encoding="utf-8")
    arguments = ["validate", str(path), "--data", str(tmp_path)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "north: 12 patients, each in a step with chance 0.667" in done.output
    loaded = load(path)
    where = folder.make(loaded, tmp_path / "out", "memory")
    runtime = MemoryRuntime()
    runtime.launch(Order(loaded, "test", where, tmp_path))
    runtime.wait(lambda _: None)
    due = plan(loaded.scenario, Topology.of(loaded.scenario), "north", 12, 36)
    last = [one.private for one in own_records(where, "north") if one.private][-1]
    assert (last["units"], last["queries"]) == (12, due.queries)
