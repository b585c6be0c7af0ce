"""Chaos drawn from a seed: pods are deleted, a node is drained, a hospital goes for good, and links
are bad. No run hangs, no hop is lost or doubled, no model is lost.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bed import INSTANCE, KEPT, Bed, Run, cli, kubectl, placebo, until

from fedskd_sim.records.files import read_records, read_timings

NAMES = ("h0", "h1", "h2")
ROUNDS = 16
LONG = pytest.mark.skipif(
    not os.environ.get("FEDSKD_TEST_LONG"), reason="FEDSKD_TEST_LONG is not set"
)


def well(*arguments: object) -> str:
    """Run the program to a good end, and give what it has said."""
    done = cli(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def patient(**more: object) -> str:
    """Write a scenario of three hospitals that wait long for each other."""
    scenario = json.loads(placebo(3, hop=300, rounds=ROUNDS, session_seconds=0.5))
    return json.dumps(scenario | more)


def undisturbed(text: str, folder: Path) -> Path:
    """Run a scenario in simulated time, without its bad links."""
    file = folder / "undisturbed.yaml"
    file.write_text(json.dumps(json.loads(text) | {"links": []}), encoding="utf-8")
    well("launch", file, "--on", "memory", "--out", folder / "undisturbed")
    return folder / "undisturbed"


def collect(run: Run, folder: Path) -> str:
    """Bring a run home; gives what was proven of it."""
    well("collect", run.release, "-n", run.bed.namespace, "--out", folder)
    return well("verify", folder)


def same_records(one: Path, other: Path) -> None:
    for file in sorted((one / "records").iterdir()):
        assert (other / "records" / file.name).read_bytes() == file.read_bytes(), file.name


def running(pod: dict) -> bool:
    return pod["status"]["phase"] == "Running"


def moments(draw: random.Random, count: int) -> list[int]:
    """Draw rounds at which something happens, early ones first."""
    return sorted(draw.sample(range(2, ROUNDS - 2), count))


@LONG
@pytest.mark.usefixtures("claims")
@pytest.mark.parametrize("seed", [1, 2])
def test_pods_deleted_at_drawn_moments_change_nothing(seed: int, bed: Bed, tmp_path: Path) -> None:
    """At three moments one or two members, the controller among them, lose their pods, some without
    a word: the records are those of the undisturbed run.
    """
    draw, text = random.Random(seed), patient()
    run = bed.install(text, defaults=KEPT, holdSeconds=120)
    for round_ in moments(draw, 3):
        run.reached(round_)
        for name in draw.sample([*NAMES, "controller"], draw.choice([1, 2])):
            pods = run.controllers() if name == "controller" else run.pods(name)
            force = ("--force", "--grace-period=0") if draw.random() < 0.5 else ()
            bed.kubectl("delete", "pod", pods[-1]["metadata"]["name"], "--wait=false", *force)
    assert run.code() == 0
    assert "whole: " in collect(run, tmp_path / "run")
    same_records(undisturbed(text, tmp_path), tmp_path / "run")


@contextmanager
def drained(node: str, run: Run) -> Iterator[None]:
    """Drain a node of a run's pods, and let it have none for a while."""
    mine = f"--pod-selector={INSTANCE}={run.release}"
    try:
        kubectl("drain", node, mine, "--ignore-daemonsets", "--delete-emptydir-data", "--force")
        yield
    finally:
        kubectl("uncordon", node)


@LONG
@pytest.mark.usefixtures("claims")
def test_a_node_drained_at_a_drawn_moment_changes_nothing(bed: Bed, tmp_path: Path) -> None:
    """The node of a drawn hospital is drained, and takes no pod until the cluster has tried to make
    the next one: the records are those of the undisturbed run.
    """
    draw, text = random.Random(3), patient()
    run = bed.install(text, defaults=KEPT, holdSeconds=120, protection={"disruptionBudget": False})
    run.reached(moments(draw, 1)[0])
    name = draw.choice(NAMES)
    old = run.pod(name)
    with drained(old["spec"]["nodeName"], run):
        until(
            "next pod",
            lambda: run.pods(name) and run.pod(name)["metadata"]["uid"] != old["metadata"]["uid"],
        )
    assert run.code() == 0
    assert "whole: " in collect(run, tmp_path / "run")
    same_records(undisturbed(text, tmp_path), tmp_path / "run")


@LONG
@pytest.mark.usefixtures("claims")
def test_one_goes_for_good_while_pods_are_deleted(bed: Bed, tmp_path: Path) -> None:
    """A hospital whose pod was deleted once comes back; another then goes for good, and the ring
    goes on without it: every model is tested at both that are left, and the proof holds.
    """
    draw = random.Random(4)
    policy = {"name": "skip", "after": 90}
    run = bed.install(patient(on_loss=policy), defaults=KEPT, holdSeconds=120)
    gone, back = draw.sample(NAMES, 2)
    first, second = moments(draw, 2)
    run.reached(first)
    old = {name: run.pod(name)["metadata"]["name"] for name in NAMES}
    for name in (gone, back):
        bed.kubectl("delete", "pod", old[name], "--wait=false")

    def again(name: str) -> bool:
        pod = run.pods(name)[-1:]
        return bool(pod) and pod[0]["metadata"]["name"] != old[name] and running(pod[0])

    until("next pods of both", lambda: again(gone) and again(back))
    run.reached(second)
    job = run.pod(gone)["metadata"]["labels"]["batch.kubernetes.io/job-name"]
    bed.kubectl("patch", "job", job, "-p", '{"spec": {"suspend": true}}')
    assert run.heard("lost")["hospitals"] == {gone: 0}
    assert run.code() == 0
    assert f"whole, without {gone}: " in collect(run, tmp_path / "run")
    tested = [one for one in read_records(tmp_path / "run") if one.kind == "evaluation"]
    left = {*NAMES} - {gone}
    assert {(one.model, one.host) for one in tested if one.host in left} == {
        (model, host) for model in NAMES for host in left
    }


def test_bad_links_between_pods_change_nothing(bed: Bed, tmp_path: Path) -> None:
    """Delay, loss, repeats, changed bytes and an outage: models are sent again, and the records are
    those of a run in simulated time without any of it.
    """
    links = [
        {"preset": "wan-100ms", "loss": 0.05, "repeat": 0.05, "corrupt": 0.05},
        {"from": "h0", "to": "h1", "partition": [{"begin": 3, "lasts": 4}]},
    ]
    scenario = json.loads(placebo(3, rounds=4, session_seconds=0.2, hop=60))
    text = json.dumps(scenario | {"links": links})
    run = bed.install(text, holdSeconds=60)
    assert run.code() == 0
    assert "whole: " in collect(run, tmp_path / "run")
    assert max(one.attempts for one in read_timings(tmp_path / "run")) > 1
    same_records(undisturbed(text, tmp_path), tmp_path / "run")
