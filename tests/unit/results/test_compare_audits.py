"""The price in privacy of the methods of a comparison: from runs of their own, beside accuracies
that have no part in it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedskd_sim import compare
from fedskd_sim.results.audit import as_json, audit
from fedskd_sim.results.comparison.planning import methods, tasks
from fedskd_sim.results.comparison.shards import Shard, ShardNote
from fedskd_sim.scenario import load

TEXT = """
name: priced
seed: 3
data: {name: synthetic-roi, samples: 45, regions: 8}
hospitals: [{name: a, architecture: roi-mlp}, {name: b, architecture: roi-mlp}]
algorithm: {name: cyclic, rounds: 1}
training: {epochs: 2, warmup_epochs: 1, batch_size: 16}
"""
AUDIT = "audit: {canaries: 30}\n"
LABELS = ("cyclic", "pooled")
Called = Callable[..., "subprocess.CompletedProcess[str]"]


def test_every_arm_runs_with_canaries_too_where_it_can_be_audited(scenario_file: Callable) -> None:
    """Accuracies are of the others; without canaries one run is both. Shards have all of them."""
    scenario = load(scenario_file(TEXT + AUDIT)).scenario
    chosen = methods(scenario, LABELS)
    assert [one.scenario.audit for one in chosen] == [None, None]
    found = [*tasks(chosen, 2, scenario.audit)]
    assert [(one.label, one.index, one.audited) for one in found[:3]] == [
        ("cyclic", 0, False), ("cyclic", 0, True), ("pooled", 0, False),
    ]  # fmt: skip
    assert len(found) == 6
    assert found[1].scenario == found[0].scenario.model_copy(update={"audit": scenario.audit})
    assert found[4].name == "cyclic, seed 4, with canaries"
    assert ShardNote.about(Shard(1, 2), found).seeds == 2
    bare = load(scenario_file(TEXT + "audit: {canaries: 0}\n")).scenario
    chosen = methods(bare, LABELS)
    assert [one.scenario.audit for one in chosen] == [bare.audit, None]
    assert not [one for one in tasks(chosen, 2, bare.audit) if one.audited]


def test_a_comparison_shows_the_price_beside_accuracies_without_canaries(
    scenario_file: Callable, tmp_path: Path
) -> None:
    """Guesses are those of all seeds, and a bound is at most its ceiling; what an attacker does not
    see is blank. Nothing of it is called disturbed, and finished runs are kept.
    """
    path, out = scenario_file(TEXT + AUDIT), tmp_path / "out"
    told: list[Any] = []
    found = compare(path, LABELS, seeds=2, control="cyclic", out=out, jobs=1, watch=told.append)
    cyclic, pooled = found.values["methods"]
    assert pooled["audit"] is None
    assert cyclic["disturbed"] == ""
    attackers = {one["attacker"]: one for one in cyclic["audit"]}
    kept = [out / "runs" / "cyclic" / f"canaries-{seed}" for seed in (3, 4)]
    single = [
        {one["attacker"]: one for one in as_json(audit(run, scenario))["attacks"][: len(attackers)]}
        for run in kept
        for scenario in [load(run / "scenario.yaml").scenario]
    ]
    for name, one in attackers.items():
        assert one["auc"]["values"] == [each[name]["auc"] for each in single]
        assert one["tpr"]["values"] == [each[name]["tpr"]["0.05"][0] for each in single]
        assert one["right"] == sum(each[name]["right"] for each in single)
        assert one["guessed"] == sum(each[name]["guessed"] for each in single)
        assert 0 <= one["epsilon"] <= one["ceiling"]
        assert one["ceiling"] > single[0][name]["ceiling"]
    plain = load(out / "runs" / "cyclic" / "seed-3" / "scenario.yaml").scenario
    assert plain.audit is None
    assert not (out / "runs" / "cyclic" / "seed-3" / "audit").exists()
    assert not (out / "runs" / "pooled" / "canaries-3").exists()
    section = found.text.partition("the price in privacy\n")[2].partition("\n\n")[0]
    titles, one, other = section.splitlines()[-3:]
    assert titles.split()[0] == "method"
    assert len(one.split()) == len(titles.replace("at FPR ", "").replace("epsilon >=", "e").split())
    assert other.split()[1:] == [f"{100 * pooled['means']['auc']['mean']['mean']:.1f}"]
    page = (out / "compare.html").read_text(encoding="utf-8")
    assert "The price in privacy" in page
    assert all(one.fresh for one in told)
    told.clear()
    again = compare(path, LABELS, seeds=2, control="cyclic", out=out, jobs=1, watch=told.append)
    assert again.text == found.text
    assert len(told) == 6
    assert not any(one.fresh for one in told)


def test_without_canaries_there_is_no_bound(scenario_file: Callable, inside: Called) -> None:
    """The same runs give accuracies and what attackers tell."""
    path = scenario_file(TEXT + "audit: {canaries: 0}\n")
    out = path.parent / "out"
    done = inside(
        "compare", path, "--algorithms", "cyclic,local", "--control", "local", "--seeds", 2,
        "--jobs", 1, "--out", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "with canaries" not in done.stdout
    values = json.loads((out / "compare.json").read_text(encoding="utf-8"))
    for method in values["methods"]:
        for one in method["audit"]:
            assert len(one["auc"]["values"]) == 2
            assert (one["guessed"], one["epsilon"], one["ceiling"]) == (None, None, None)


@pytest.mark.parametrize("shard", ["7/7", "2/12"])
def test_shards_are_counted_with_audited_runs(
    shard: str, scenario_file: Callable, inside: Called
) -> None:
    """There are six runs of two methods, two seeds, and canaries of one method."""
    done = inside(
        "compare", scenario_file(TEXT + AUDIT), "--algorithms", ",".join(LABELS), "--control",
        "cyclic", "--seeds", 2, "--shard", shard,
    )  # fmt: skip
    assert "too many for 6 runs" in done.stderr
