"""Hospitals that are lost in a cluster: the ring goes on without them, or the run ends at once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from bed import HOSPITAL, INSTANCE, Bed, cli, placebo, stands_still, until

from fedskd_sim.records import Record
from fedskd_sim.records.files import read_records
from fedskd_sim.scenario import load

NEVER = {"h1": {"pod": {"nodeSelector": {"fedskd.io/test": "nowhere"}}}}
"""Settings of a hospital for which no node is right."""
LITTLE = (
    '{"hospitals": {"defaults": {"requests": {"cpu": "10m", "memory": "20Mi"}}}, '
    '"terminationGracePeriodSeconds": 5}'
)
LONG = pytest.mark.skipif(
    not os.environ.get("FEDSKD_TEST_LONG"), reason="FEDSKD_TEST_LONG is not set"
)


def lossy(
    policy: Mapping[str, object], what: str = "", rounds: int = 2, seconds: float = 0.3
) -> str:
    """Write a scenario of four hospitals, of which h1 may have a fault."""
    faults = [{"hospital": "h1", "what": what, "round": 1, "hop": 2}] if what else []
    text = placebo(4, hop=90, faults=faults, rounds=rounds, session_seconds=seconds)
    return json.dumps(json.loads(text) | {"on_loss": policy})


def bare(folder: Path) -> list[Record]:
    """Read the records of a run without who was left out, which depends on when it was heard."""
    return [replace(one, without={}) for one in read_records(folder)]


def test_a_launched_run_goes_on_without_a_hospital(bed: Bed, tmp_path: Path) -> None:
    """One dies for good: the run ends well and is verified, what the others have done is what they
    do in simulated time, all models are tested, and nothing is left in the namespace.
    """
    file, values = tmp_path / "lossy.yaml", tmp_path / "values.yaml"
    file.write_text(lossy({"name": "skip", "after": 20}, "leave"), encoding="utf-8")
    values.write_text(LITTLE, encoding="utf-8")
    where = ("--on", "kubernetes", "-n", bed.namespace, "--values", values)
    there = cli("launch", file, *where, "--out", tmp_path / "there")
    assert there.returncode == 0, there.stderr
    assert "verified: whole, without h1: " in there.stdout
    here = cli("launch", file, "--on", "memory", "--out", tmp_path / "here")
    assert here.returncode == 0, here.stderr
    assert bare(tmp_path / "there") == bare(tmp_path / "here")
    tested = [one for one in read_records(tmp_path / "there") if one.kind == "evaluation"]
    names = {*load(file).scenario.names}
    assert {(one.model, one.host) for one in tested} == {
        (model, host) for model in names for host in names - {"h1"}
    }
    until("end of everything", lambda: not bed.items("jobs,pods,configmaps", INSTANCE))
    again = cli("verify", tmp_path / "there")
    assert again.returncode == 0, again.stderr


LEARNING = """
name: learning
data: {name: synthetic-skin, samples: 60, image_size: 16, classes: 3}
hospitals: [{name: a, architecture: cnn-plain}, {name: b, architecture: cnn-depthwise},
            {name: c, architecture: cnn-plain}]
algorithm: {name: fedskd, rounds: 2}
training: {epochs: 1, warmup_epochs: 1}
prediction: {model: averaged, ensemble: true}
on_loss: {name: skip, after: 60}
faults: [{hospital: b, what: leave, round: 2}]
"""


@LONG
def test_what_is_learned_without_a_hospital_is_learned_in_processes_too(
    bed: Bed, tmp_path: Path
) -> None:
    """Records, weights and predictions of those that are left are the same in both places."""
    file, values = tmp_path / "learning.yaml", tmp_path / "values.yaml"
    file.write_text(LEARNING, encoding="utf-8")
    values.write_text(LITTLE, encoding="utf-8")
    where = ("--on", "kubernetes", "-n", bed.namespace, "--values", values)
    for name, place in (("there", where), ("here", ())):
        done = cli("launch", file, *place, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
    assert bare(tmp_path / "there") == bare(tmp_path / "here")
    files = [
        file.relative_to(tmp_path / "here")
        for kind in ("weights", "predictions")
        for file in (tmp_path / "here" / kind).iterdir()
    ]
    assert {file.name[0] for file in files} == {"a", "c"}
    for file in files:
        assert (tmp_path / "there" / file).read_bytes() == (tmp_path / "here" / file).read_bytes()


def test_whoever_is_lost_however_the_run_ends_well(bed: Bed, tmp_path: Path) -> None:
    """With skip one fails by itself, one finds no node, one stands still; the ring goes on without
    each, says so, and neither `status` nor `helm test` takes the run for a failed one.
    """
    policy = {"name": "skip", "after": 20}
    runs = {
        "fails": bed.install(lossy(policy, "full_disk")),
        "finds no node": bed.install(lossy(policy), overrides=NEVER, unschedulableSeconds=1),
        "stands still": bed.install(lossy(policy, rounds=8, seconds=1)),
    }
    still = runs["stands still"]
    still.heard("progress", hospital="h1", round=1)
    with stands_still(still.pod("h1")):
        ends = {how: run.code() for how, run in runs.items()}
        assert ends == dict.fromkeys(runs, 0), {how: run.said() for how, run in runs.items()}
        (job,) = [
            job
            for job in runs["finds no node"].jobs()
            if job["metadata"]["labels"].get(HOSPITAL) == "h1"
        ]
        assert job["spec"]["suspend"]
        for how, run in runs.items():
            assert {name for lost in run.events("lost") for name in lost["hospitals"]} == {"h1"}
            status = cli("status", run.release, "-n", bed.namespace).stdout
            assert "the ring goes on without h1" in status
            assert "the run has ended well" in status
            if how == "fails":  # its Job has failed, too
                tested = bed.helm("test", run.release)
                assert tested.returncode == 0, tested.stderr
            folder = tmp_path / run.release
            brought = cli("collect", run.release, "-n", bed.namespace, "--out", folder)
            assert brought.returncode == 0, (how, brought.stderr)
            assert "verified: whole, without h1: " in brought.stdout


def test_with_abort_the_first_loss_ends_the_run(bed: Bed) -> None:
    """One that stands still ends it with 48, one whose pod dies with 41, each by its name."""
    policy = {"name": "abort", "after": 20}
    still, dead = (bed.install(lossy(policy, what, rounds=30, seconds=1)) for what in ("", "leave"))
    still.heard("progress", hospital="h1", round=1)
    with stands_still(still.pod("h1")):
        assert still.code() == 48
    assert "nothing was heard of 'h1' for 20 s" in still.said()
    assert dead.code() == 41
    assert "h1" in dead.said()


@LONG
def test_a_controller_that_comes_later_knows_who_is_lost(bed: Bed) -> None:
    """The controller's pod is deleted after a loss; the next one goes on with those that are left,
    and declares nobody a second time.
    """
    run = bed.install(lossy({"name": "skip", "after": 20}, "leave", rounds=12, seconds=0.5))
    run.heard("lost")
    run.heard("progress", hospital="h2", round=2)
    bed.kubectl("delete", "pod", run.controllers()[0]["metadata"]["name"], "--wait=false")
    assert run.code() == 0
    assert run.events("resumed")
    assert not run.events("lost")
