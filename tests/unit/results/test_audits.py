"""What `fedskd-sim audit` says of a run folder, and when it refutes what a hospital claims."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from fedskd_sim.errors import BoundExceeded, RunUnreadable
from fedskd_sim.privacy.attacks import Guesses
from fedskd_sim.privacy.losses import read_kept
from fedskd_sim.results.audit import audit, claim_of
from fedskd_sim.scenario import load

TEXT = """
name: told
seed: 4
data: {name: synthetic-roi, samples: 90, regions: 10}
hospitals: [{name: a, architecture: roi-mlp}, {name: b, architecture: roi-mlp},
            {name: c, architecture: roi-mlp}]
algorithm: {name: cyclic, rounds: 2}
training: {epochs: 4, warmup_epochs: 4, batch_size: 16, optimiser: {learning_rate: 3.0e-3}}
prediction: {ensemble: true}
"""
AUDIT = "audit: {canaries: 40}\n"
Called = Callable[..., "subprocess.CompletedProcess[str]"]


def claimed(run: Path, host: str, epsilon: float) -> None:
    """Write a claim into the records of a hospital, as its private sessions do."""
    file = run / "records" / f"{host}.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["private"] = {
        "units": 54,
        "rate": 0.3,
        "noise": 1.0,
        "clip": 1.0,
        "queries": 9,
        "epsilon": epsilon,
    }
    lines[1]["private"] = {**lines[0]["private"], "epsilon": epsilon / 2}
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_an_audit_tells_who_can_tell_what(
    scenario_file: Callable, run: Callable, inside: Called
) -> None:
    """Table and values name every attacker, for each hospital and for all; of two audits of a run
    that is repeated the bytes are the same.
    """
    path = scenario_file(TEXT + AUDIT)
    one, other = run(path), run(path)
    found = inside("audit", one, "--json")
    assert found.returncode == 0
    assert found.stdout == inside("audit", other, "--json").stdout
    told = json.loads(found.stdout)
    attackers = [
        "next hospital, last visitor", "next hospital, all models", "two neighbours, last visitor",
        "two neighbours, all models", "everybody, its final model", "everybody, mean of finals",
    ]  # fmt: skip
    assert [(row["hospital"], row["attacker"]) for row in told["attacks"]] == [
        (host, attacker) for host in ("all", "a", "b", "c") for attacker in attackers
    ]
    assert [[*row.values()] for row in told["sees"]] == [
        ["a", "c", "b", 4], ["b", "a", "c", 4], ["c", "b", "a", 4]
    ]  # fmt: skip
    assert told["canaries"] == 40
    for row in told["attacks"]:
        canaries = 120 if row["hospital"] == "all" else 40
        assert row["guessed"] == canaries / 2
        guesses = Guesses(canaries, row["guessed"], row["right"])
        assert (row["epsilon"], row["ceiling"]) == (guesses.epsilon(), guesses.ceiling())
        assert 0 <= row["auc"] <= 1
        members = sum(one["members"] for one in told["hospitals"])
        rate = row["tpr"]["0.01"]
        assert (rate is None) == (row["hospital"] != "all")
        assert rate is None or round(rate[0] * members) == pytest.approx(rate[0] * members)
    pooled = {row["attacker"]: row for row in told["attacks"] if row["hospital"] == "all"}
    assert max(row["epsilon"] for row in pooled.values()) > 0.5
    assert {"all models", "ensemble"} <= told["sites"].keys()
    shown = inside("audit", one).stdout
    assert max(map(len, shown.splitlines()[:10])) <= 100
    for words in (*attackers, "Who sees whom", "ceiling", "name the hospital of"):
        assert words in shown


def test_accuracies_of_a_run_with_canaries_are_marked_first(
    scenario_file: Callable, run: Callable, inside: Called
) -> None:
    """The report's first line says that they are not the method's; without canaries they are. Its
    page shows what the run reveals.
    """
    marked = "Disturbed on purpose: trained with canaries (40 for each hospital), not the method's"
    for more, shown in ((AUDIT, True), ("audit: {canaries: 0}\n", False)):
        folder = run(scenario_file(TEXT + more))
        told = inside("report", folder).stdout
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert "What this run reveals" in page
        assert ">two neighbours, last visitor<" in page
        assert "name the hospital of" in page
        assert told.startswith(marked) == shown
        assert ("not the method's" in told) == shown


def test_a_run_that_kept_nothing_says_which_key_does(
    scenario_file: Callable, run: Callable, inside: Called, tmp_path: Path
) -> None:
    """The error names the key, and no folder is no run."""
    folder = run(scenario_file(TEXT))
    assert inside("report", folder).returncode == 0
    assert "What this run reveals" not in (folder / "report.html").read_text(encoding="utf-8")
    done = inside("audit", folder)
    assert done.returncode == RunUnreadable.exit_code
    assert "has kept no losses" in done.stderr
    assert "--set 'audit={canaries: 60}'" in done.stderr
    assert inside("audit", tmp_path / "nowhere").returncode == RunUnreadable.exit_code


def test_a_claim_is_refuted_by_more_than_chance(
    scenario_file: Callable, run: Callable, inside: Called
) -> None:
    """A hospital that claims less than the bound at its own delta ends the audit with a code of its
    own, after the tables; the largest claim of its records counts. One that claims enough does not.
    """
    folder = run(scenario_file(TEXT + AUDIT))
    scenario = load(folder / "scenario.yaml").scenario
    claimed(folder, "a", epsilon=8.0)
    claim = claim_of(folder, scenario, "a")
    assert claim is not None
    assert (claim.epsilon, claim.delta) == (8.0, 0.1 / 54)
    assert claim_of(folder, scenario, "b") is None
    done = inside("audit", folder)
    assert done.returncode == 0
    assert "claimed" in done.stdout
    best = max(
        one.told.guesses.epsilon(1e-6, 0.05 / 6)
        for one in audit(folder, scenario).single
        if one.hospital == "a" and one.told.guesses
    )
    assert best > 0
    text = yaml.safe_load((folder / "scenario.yaml").read_text())
    text["hospitals"][0]["privacy"] = {"noise": 1.0, "delta": 1.0e-6, "key": "scenario"}
    text["training"]["class_weights"] = "none"
    (folder / "scenario.yaml").write_text(yaml.safe_dump(text))
    for epsilon, code in ((best * 0.99, BoundExceeded.exit_code), (best * 1.01, 0)):
        claimed(folder, "a", epsilon=epsilon)
        done = inside("audit", folder, "--json")
        assert done.returncode == code
        assert json.loads(done.stdout)["hospitals"][0]["claimed"] == {
            "epsilon": epsilon,
            "delta": 1e-6,
        }
    claimed(folder, "a", epsilon=best * 0.99)
    assert f"a claims an epsilon of {best * 0.99:.2f}" in inside("audit", folder).stderr
    with (folder / "records" / "a.jsonl").open("a") as lines:
        lines.write('{"private": {"epsi')  # a death cut it
    assert claim_of(folder, scenario, "a") is not None


def test_a_hospital_that_clips_alone_claims_nothing(
    scenario_file: Callable, run: Callable, inside: Called
) -> None:
    """It has no epsilon, and is audited as one without privacy; the page shows what it reveals."""
    clips = "privacy: {noise: 0, unit: sample, key: scenario}\n"
    text = (TEXT + AUDIT + clips).replace("batch_size: 16", "batch_size: 16, class_weights: none")
    folder = run(scenario_file(text))
    done = inside("audit", folder)
    assert done.returncode == 0, done.stderr
    assert "claimed" not in done.stdout
    assert claim_of(folder, load(folder / "scenario.yaml").scenario, "a") is None
    assert inside("report", folder).returncode == 0


DAMAGE: dict[str, Callable[[dict[str, np.ndarray]], object]] = {
    "of another": lambda arrays: arrays.update(host=np.array("b")),
    "missing": lambda arrays: arrays.pop("before"),
    "short": lambda arrays: arrays.update(after=arrays["after"][1:]),
    "strange group": lambda arrays: arrays.update(groups=arrays["groups"] + 3),
    "text": lambda arrays: arrays.update(finals=arrays["finals"].astype(str)),
    "newer": lambda arrays: arrays.update(schema=np.array(2)),
}


def test_damaged_losses_are_named(scenario_file: Callable, run: Callable, tmp_path: Path) -> None:
    """Whatever is wrong with a file, the error names it."""
    folder = run(scenario_file(TEXT + AUDIT))
    with np.load(folder / "audit" / "a.npz") as stored:
        whole = {name: stored[name] for name in stored.files}
    for change in DAMAGE.values():
        arrays = dict(whole)
        change(arrays)
        file = tmp_path / "a.npz"
        np.savez(file, **arrays)
        with pytest.raises(RunUnreadable, match="these are no losses of a") as caught:
            read_kept(file)
        assert str(caught.value.where).startswith(str(file))
    file.write_bytes(b"no archive")
    with pytest.raises(RunUnreadable):
        read_kept(file)
