"""A comparison in shards, put together again; and as rings of pods, as far as no cluster is
needed to tell.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fedskd_sim.cli import main
from fedskd_sim.errors import InvalidValue, OutputNotEmpty, RunUnreadable
from fedskd_sim.operate.comparison import CompareRequest, carry_out, failure, plan
from fedskd_sim.results.comparison.planning import PlannedRun
from fedskd_sim.results.comparison.rings import AT_ONCE, QUEUED_AT_ONCE, Rings
from fedskd_sim.results.comparison.shards import Shard, ShardNote
from fedskd_sim.results.comparison.work import RunResult, Workshop
from fedskd_sim.runtimes import location
from fedskd_sim.runtimes.location import InCluster

TINY = """\
name: tiny
hospitals:
  - {name: a, architecture: buffer}
  - {name: b, architecture: buffer}
algorithm: {name: placebo, rounds: 1}
grid: {algorithm.buffer_bytes: [8, 16]}
"""
SHORT = """\
name: short
data: {name: abide, file: none.csv}
hospitals: [{name: a, architecture: roi-mlp}, {name: b, architecture: roi-mlp}]
algorithm: {name: fedskd}
training: {batches: 2}
"""


def runs_of(path: Path, count: int = 2) -> list[PlannedRun]:
    planned = plan(path, CompareRequest(["grid"], count))
    return planned.whole


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("3/2", "there is no shard 3/2|shards of 2 are 1/2 to 2/2"),
        ("0/2", "there is no shard 0/2|1/2 to 2/2"),
        ("1/0", "there is no shard 1/0|"),
        ("1/5", "5 shards are too many for 4 runs|at most 4 shards"),
        ("two", "'two' is no shard|--shard 2/4"),
        ("-1/2", "'-1/2' is no shard|"),
    ],
)
def test_a_shard_beyond_the_others_is_refused(given: str, told: str) -> None:
    """What `--shard` was given, and what there is, are told."""
    with pytest.raises(InvalidValue) as caught:
        Shard.parse(given, 4)
    assert str(caught.value).startswith("--shard: ")
    for part in told.split("|"):
        assert part in str(caught.value)


def test_shards_share_all_runs(scenario_file: Callable) -> None:
    """Every run is in one shard of three."""
    runs = runs_of(scenario_file(TINY), 4)
    parts = [Shard(number, 3).runs(runs) for number in (1, 2, 3)]
    assert [len(part) for part in parts] == [3, 3, 2]
    assert sorted(str(run) for part in parts for run in part) == sorted(map(str, runs))


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_joined_shards_are_the_comparison(scenario_file: Callable, tmp_path: Path) -> None:
    """Two shards of a grid, joined, give text, values and page of the same runs in one folder, to
    the byte; until all are there it is told which is missing, and what did not finish.
    """
    path = scenario_file(TINY)
    asked = ("compare", path, "--algorithms", "grid", "--seeds", 2)
    shards = [tmp_path / "first", tmp_path / "second"]
    for number, out in enumerate(shards, 1):
        done = call(*asked, "--shard", f"{number}/2", "--out", out)
        assert (done.exit_code, done.stdout.count(": done")) == (0, 2), done.stderr
        assert "for each other shard, makes the tables" in done.stdout
        assert not (out / "compare.json").exists()
    held = call(*asked, "--shard", "2/2", "--out", shards[0])
    assert held.exit_code == OutputNotEmpty.exit_code
    assert "first holds shard 1/2" in held.stderr
    assert call(*asked, "--shard", "1/2", "--out", shards[0]).exit_code == 0
    joined = call(*asked, "--join", shards[0], "--join", shards[1], "--out", tmp_path / "joined")
    assert joined.exit_code == 0, joined.stderr
    assert joined.stdout.count(": kept") == 4
    for out in shards:
        shutil.copytree(out / "runs", tmp_path / "one" / "runs", dirs_exist_ok=True)
    one = call(*asked, "--out", tmp_path / "one")
    assert one.exit_code == 0, one.stderr
    for name in ("compare.json", "compare.txt", "compare.html"):
        found = (tmp_path / "joined" / name).read_bytes()
        assert found == (tmp_path / "one" / name).read_bytes(), name
    check_what_cannot_be_joined(path, shards, scenario_file(TINY.replace("tiny", "other"), "x"))


def check_what_cannot_be_joined(path: Path, shards: list[Path], other: Path) -> None:
    first, second = shards

    def refused(*folders: Path, scenario: Path = path, **wanted: Any) -> str:
        wanted = {"labels": ["grid"], "seeds": 2, **wanted}
        planned = plan(scenario, CompareRequest(**wanted, join=folders))
        with pytest.raises((InvalidValue, RunUnreadable)) as caught:
            carry_out(planned, planned.workshop(first.with_name("w"), anyway=False))
        shutil.rmtree(first.with_name("w"))
        return str(caught.value)

    assert "--join: 1 shard missing: 2/2\n" in refused(first)
    assert "--shard 1/2' computes it" in refused(second)
    assert "are both shard 1/2" in refused(first, first)
    assert "w is no folder of a shard" in refused(first.with_name("w"))
    assert "another comparison: it has 2 seeds" in refused(first, second, seeds=3)
    wrong = refused(first, labels=["buffer-bytes-8"])
    assert "its methods are buffer-bytes-8, buffer-bytes-16" in wrong
    assert "another comparison: its scenario is another" in refused(first, scenario=other)
    (second / "runs" / "buffer-bytes-16" / "seed-2" / "report.json").unlink()
    assert "1 run of shards did not finish: buffer-bytes-16, seed 2, of shard 2/2" in refused(
        first, second
    )
    ShardNote.about(Shard(3, 3), runs_of(path)).write(second)
    assert "is shard 3/3, " in refused(first, second)


def test_a_ring_has_a_name_of_its_own(scenario_file: Callable, tmp_path: Path) -> None:
    """Names of rings differ by run and by folder and are names of releases; a queue admits more
    rings than go on side by side without one.
    """
    (run, *_) = runs_of(scenario_file(TINY))
    values = tmp_path / "values.yaml"
    rings = Rings("wards", values=(values,))
    found = rings.launch(run, tmp_path / "a.yaml", tmp_path / "a")
    assert found[found.index("--namespace") + 1] == "wards"
    assert found[found.index("--values") + 1] == str(values)
    names = {
        command[command.index("--name") + 1]
        for folder in ("a", "b")
        for command in [rings.launch(run, tmp_path / "a.yaml", tmp_path / folder)]
    }
    assert len(names) == 2
    assert all(name.startswith("buffer-bytes-8-1-") for name in names)
    values.write_text("kueue: {}", encoding="utf-8")
    assert rings.jobs == AT_ONCE
    values.write_text("kueue: {queue: wards}", encoding="utf-8")
    assert rings.jobs == QUEUED_AT_ONCE


def test_only_what_the_cluster_still_has_is_collected(tmp_path: Path) -> None:
    """A folder that is none, of this machine, or whose results are home is launched anew."""
    rings = Rings()
    assert not rings.goes_on(tmp_path)
    (tmp_path / "scenario.yaml").write_text(TINY, encoding="utf-8")
    assert not rings.goes_on(tmp_path)
    location.note(tmp_path, InCluster("x", "wards", "", collected=True))
    assert not rings.goes_on(tmp_path)


@pytest.mark.parametrize("rings", [Rings(), None])
def test_an_interrupted_comparison_says_what_rings_keep(
    rings: Rings | None, scenario_file: Callable, tmp_path: Path
) -> None:
    """Ctrl-C as rings end names the way on; where runs are of this machine nothing is elsewhere."""
    (run, *_) = runs_of(scenario_file(TINY))
    shop = Workshop(tmp_path, None, 1, rings=rings)
    shop.folder(run).mkdir(parents=True)
    (shop.folder(run) / "report.json").write_text('{"complete": true}', encoding="utf-8")

    def interrupt(_: RunResult) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        next(shop.carry_out([run], interrupt))
    told = "\n".join(getattr(caught.value, "__notes__", ()))
    assert ("rings that had ended keep" in told) == (rings is not None)
    assert ("the same command goes on" in told) == (rings is not None)


def test_a_failed_ring_is_given_up_by_a_command(scenario_file: Callable, tmp_path: Path) -> None:
    """The error of a comparison repeats the first failed run's, and says how to repeat that run
    and, of a ring, how to remove what its pods may still have.
    """
    (first, second, *_) = runs_of(scenario_file(TINY))
    words = "launching\nerror: 'a' failed\nfix: look"
    ended = [RunResult(first, tmp_path / "1", 0), RunResult(second, tmp_path / "2", 41, words)]
    place = tmp_path / "2"
    for on in ("memory", "kubernetes"):
        error = failure(ended, on)
        assert error is not None
        assert error.exit_code == 41
        assert str(error).startswith("1 of 2 runs failed, the first with: 'a' failed")
        assert f"'fedskd-sim launch {place}.yaml --on {on}' repeats it" in (error.fix or "")
        assert (f"'fedskd-sim stop {place}'" in (error.fix or "")) == (on == "kubernetes")
    assert failure(ended[:1]) is None


def test_what_pods_cannot_run_is_told_before(scenario_file: Callable) -> None:
    """Rings cannot pool data, and where work depends on how many samples there are, data that are
    not here are asked for.
    """
    with pytest.raises(InvalidValue, match="--on kubernetes keeps them apart"):
        plan(
            scenario_file(SHORT.replace("batches", "epochs")),
            CompareRequest(["local", "pooled"], 2, rings=Rings()),
        )
    with pytest.raises(InvalidValue, match="give --data") as caught:
        plan(scenario_file(SHORT), CompareRequest(["fedskd", "local"], 2, rings=Rings()))
    assert caught.value.key == ("training", "batches")
