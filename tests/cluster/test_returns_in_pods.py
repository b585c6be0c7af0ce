"""Hospitals that are lost in a cluster and heard of again: they are of the ring again, or leave."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from bed import (
    COMMAND_S,
    HOSPITAL,
    KEPT,
    TAG,
    Bed,
    Run,
    cli,
    command,
    kubectl,
    placebo,
    stands_still,
    until,
)

from fedskd_sim.records.files import read_records

LONG = pytest.mark.skipif(
    not os.environ.get("FEDSKD_TEST_LONG"), reason="FEDSKD_TEST_LONG is not set"
)
LEFT_BEHIND = 49


def skipping(size: int, rounds: int, after: float, seconds: float = 0.5) -> str:
    """Write a scenario whose ring goes on without whoever is silent for ``after`` seconds."""
    text = placebo(size, hop=120, rounds=rounds, session_seconds=seconds)
    return json.dumps(json.loads(text) | {"on_loss": {"name": "skip", "after": after}})


def ended(run: Run, name: str) -> list[int]:
    """Give the exit codes of a hospital's pods that have ended."""
    statuses = [one for pod in run.pods(name) for one in pod["status"].get("containerStatuses", ())]
    states = [status["state"] for status in statuses]
    return [int(one["terminated"]["exitCode"]) for one in states if "terminated" in one]


def names(run: Run) -> list[str]:
    """Name the controller's pods."""
    return [pod["metadata"]["name"] for pod in run.controllers()]


def works_in(folder: Path, name: str, round_: int) -> bool:
    """Tell whether a hospital has left records from a round on."""
    return any(one.host == name and one.round >= round_ for one in read_records(folder))


def brought_home(run: Run, folder: Path) -> str:
    """Bring a run home; gives what was proven of it."""
    done = cli("collect", run.release, "-n", run.bed.namespace, "--out", folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_who_stood_still_is_back_and_a_pod_that_knows_nothing_leaves(
    bed: Bed, tmp_path: Path
) -> None:
    """One stands still until it is lost, goes on, and is of the ring again from a later round on;
    another's pod is deleted, and the next one, which has nothing of what it knew, is told to go.
    """
    run = bed.install(skipping(4, rounds=22, after=20), holdSeconds=120)
    run.heard("progress", hospital="h1", round=1)
    with stands_still(run.pod("h1")):
        assert run.heard("lost")["hospitals"] == {"h1": 0}
    back = run.heard("back", hospital="h1")
    assert back["round"] >= 2
    old = run.pod("h3")["metadata"]["name"]
    bed.kubectl("delete", "pod", old, "--wait=false")
    run.heard("lost", hospitals={"h3": 0})
    until("end of the next pod of h3", lambda: LEFT_BEHIND in ended(run, "h3"))
    assert run.pod("h3")["metadata"]["name"] != old
    status = cli("status", run.release, "-n", bed.namespace).stdout
    assert f"h1 was lost, and is one of the ring again from round {back['round']} on" in status
    assert "the ring goes on without h3" in status
    assert run.code() == 0
    assert [one["hospital"] for one in run.events("back")] == ["h1"]
    told = brought_home(run, tmp_path / "run")
    assert "verified: whole, without h3" in told
    assert f"h1 until round {back['round']}" in told
    assert works_in(tmp_path / "run", "h1", back["round"])


@LONG
@pytest.mark.usefixtures("claims")
def test_a_pod_that_goes_on_from_a_claim_is_back_whoever_controls(bed: Bed, tmp_path: Path) -> None:
    """A pod is lost until the others have gone on without it; the next one goes on from its claim
    and is back, the controller's next pod knows it, `helm test` sees no failure, and all of it
    comes home.
    """
    run = bed.install(skipping(3, rounds=40, after=8), defaults=KEPT, holdSeconds=120)
    run.heard("progress", hospital="h1", round=2)
    (job,) = [job for job in run.jobs() if job["metadata"]["labels"].get(HOSPITAL) == "h1"]

    def suspend(*, wanted: bool) -> None:
        body = json.dumps({"spec": {"suspend": wanted}})
        bed.kubectl("patch", "job", job["metadata"]["name"], "-p", body)

    suspend(wanted=True)
    assert run.heard("lost")["hospitals"] == {"h1": 0}
    bed.kubectl("delete", "pod", *names(run), "--wait=false")
    until("next controller", lambda: run.events("resumed"))
    suspend(wanted=False)
    back = run.heard("back", hospital="h1")
    second = {*names(run)}
    bed.kubectl("delete", "pod", *second, "--wait=false")
    until("third controller", lambda: run.events("resumed") and not second & {*names(run)})
    run.reached(back["round"] + 1, hospital="h1")
    assert not run.events("lost")
    tested = bed.helm("test", run.release)
    assert tested.returncode == 0, tested.stderr
    assert run.code() == 0
    assert not run.events("lost")
    assert '"event": "went_on"' in bed.kubectl("logs", run.pod("h1")["metadata"]["name"])
    told = brought_home(run, tmp_path / "run")
    assert "verified: whole, without" in told
    assert f"h1 until round {back['round']}" in told
    records = [one for one in read_records(tmp_path / "run") if one.host == "h1"]
    assert len({(one.kind, one.model, one.round, one.hop) for one in records}) == len(records)


@LONG
def test_who_finds_a_node_late_is_taken_in(bed: Bed, tmp_path: Path) -> None:
    """No node is right for one, and the others begin; then one is, and the pod that has waited
    all the time is of the ring from a later round on.
    """
    label = f"fedskd.io/test-{bed.namespace[-6:]}"
    late = {"h1": {"pod": {"nodeSelector": {label: "yes"}}}}
    text = skipping(4, rounds=20, after=8)
    run = bed.install(text, overrides=late, unschedulableSeconds=1, holdSeconds=60)
    assert run.heard("lost")["hospitals"] == {"h1": 0}
    run.heard("progress", round=1)
    kubectl("label", "nodes", "--all", f"{label}=yes")
    try:
        back = run.heard("back", hospital="h1")
        assert run.code() == 0
    finally:
        kubectl("label", "nodes", "--all", f"{label}-")
    assert f"h1 until round {back['round']}" in brought_home(run, tmp_path / "run")
    assert works_in(tmp_path / "run", "h1", back["round"])


LEARNING = """
name: learning
data: {name: synthetic-skin, samples: 60, image_size: 16, classes: 3}
hospitals: [{name: a, architecture: cnn-plain}, {name: b, architecture: cnn-depthwise},
            {name: c, architecture: cnn-plain}]
algorithm: {name: fedskd, rounds: 40}
training: {epochs: 1, warmup_epochs: 1}
prediction: {model: averaged, ensemble: true}
on_loss: {name: skip, after: 5}
"""


@LONG
def test_what_a_returner_has_learned_comes_home(bed: Bed, tmp_path: Path) -> None:
    """A launched run fetches the weights and predictions of one that was away for a while, and
    they are those of its records.
    """
    file, values, out = (tmp_path / name for name in ("learning.yaml", "values.json", "out"))
    file.write_text(LEARNING, encoding="utf-8")
    little = {"requests": {"cpu": "10m", "memory": "20Mi"}}
    settings = {"images": {"controller": {"tag": TAG}}, "hospitals": {"defaults": little}}
    values.write_text(json.dumps(settings), encoding="utf-8")
    where = ("--on", "kubernetes", "-n", bed.namespace, "--name", "learns", "--values", values)
    line = command("launch", file, *where, "--out", out)
    launched = subprocess.Popen(line, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        run = Run(bed, "learns")
        run.heard("progress", hospital="b", round=1)
        with stands_still(run.pod("b")):
            run.heard("lost")
        back = run.heard("back", hospital="b")
        said, errors = launched.communicate(timeout=COMMAND_S)
    finally:
        launched.kill()
    assert launched.returncode == 0, errors
    assert "verified: whole, without" in said
    assert f"b until round {back['round']}" in said
    for kind in ("weights", "predictions"):
        assert {one.name[0] for one in (out / kind).iterdir()} == {*"abc"}
