"""What happens to a run when pods are lost or the API server is away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

import pytest
from bed import (
    COMMAND_S,
    INSTANCE,
    KEPT,
    TAG,
    Bed,
    Run,
    away,
    command,
    kubectl,
    nodes,
    placebo,
    process_of,
    until,
)

AWAY_S = 20
ROUNDS = 18
"""So many that a run has more than ten seconds left when the last thing happens to it."""
LITTLE = {
    "hospitals": {"defaults": {"requests": {"cpu": "10m", "memory": "20Mi"}}},
    "images": {"controller": {"tag": TAG}},
    "terminationGracePeriodSeconds": 5,
}
"""Values of a run that the program launches."""
PATIENT = placebo(3, hop=300, rounds=ROUNDS, session_seconds=0.5)


def delete(run: Run, pod: dict, *how: str) -> str:
    name = pod["metadata"]["name"]
    run.bed.kubectl("delete", "pod", name, *(how or ("--wait=false",)))
    return name


def test_misbehaving_hospitals_end_their_runs(bed: Bed) -> None:
    """Leaving, stalling and aborting end a run with the exit code that they have between
    processes, and name the culprit.
    """
    codes = {"leave": 41, "stall": 40, "abort": 42}
    patience = {"stall": 15}  # of the others the end itself must be told, however late that is
    runs = {
        what: bed.install(
            placebo(
                hop=patience.get(what, 300),
                faults=[{"hospital": "h1", "what": what, "round": 1, "hop": 1}],
            )
        )
        for what in codes
    }
    ends = {what: (run.code(), run.said()) for what, run in runs.items()}
    assert {what: code for what, (code, _) in ends.items()} == codes, ends
    assert all("h1" in said for _, said in ends.values()), ends


def at_work(pods: list[dict], gone: str) -> bool:
    """Tell whether, after a pod that was deleted, the next one is at work."""
    return [pod["status"]["phase"] for pod in pods if pod["metadata"]["name"] != gone] == [
        "Running"
    ]


MOMENTS: dict[str, tuple[int, float, str, dict[str, object]]] = {
    "before hospitals are made": (2, 1, "listening", {}),
    "while they start": (2, 1, "created", {}),
    "at the start": (2, 1, "start", {}),
    "in the middle": (2, 3, "progress", {"round": 1}),
    "long before the end": (14, 1, "progress", {"round": 1}),
    "in the last round": (2, 6, "progress", {"round": 2}),
}
"""Of runs of so many rounds, with sessions of so many seconds: after which event the controller
dies."""


def test_a_lost_controller_comes_back_and_ends_the_run(bed: Bed) -> None:
    """The controller is killed without a word at every phase of a run; its successor ends it well,
    be models still on their way or not, and makes no hospital again.
    """

    def kill(run: Run, event: str, wanted: dict[str, object]) -> str:
        run.heard(event, **wanted)
        return delete(run, run.controllers()[0], "--force", "--grace-period=0")

    runs: dict[str, Run] = {}
    with ThreadPoolExecutor(len(MOMENTS)) as pool:  # each is killed while others are installed
        killed = {}
        for moment, (rounds, seconds, event, wanted) in MOMENTS.items():
            text = placebo(3, rounds=rounds, session_seconds=seconds)
            runs[moment] = bed.install(text)
            killed[moment] = pool.submit(kill, runs[moment], event, wanted)
        gone = {moment: one.result() for moment, one in killed.items()}
    for moment, run in runs.items():
        until(
            f"next controller of the one killed {moment}",
            lambda run=run, moment=moment: (
                at_work(run.controllers(), gone[moment]) or run.events("end")
            ),
        )
        assert run.code() == 0, moment
        if MOMENTS[moment][2] == "progress":
            assert run.events("resumed"), moment
            assert run.calls()["create jobs"] == 0, moment
        until(
            "end of all pods",
            lambda run=run: {pod["status"]["phase"] for pod in run.pods()} == {"Succeeded"},
        )
        assert len(run.pods()) == 3, moment
    assert runs["long before the end"].events("progress")


def test_hospitals_finish_two_hundred_stops_without_a_controller(bed: Bed) -> None:
    """No controller runs from the first round on until every hospital has ended well; one that
    comes then ends the run well.
    """
    run = bed.install(placebo(3, rounds=65, session_seconds=0.02))
    run.heard("progress", round=1)
    job = run.controllers()[0]["metadata"]["labels"]["batch.kubernetes.io/job-name"]
    bed.kubectl("patch", "job", job, "-p", '{"spec": {"suspend": true}}')
    until("end of the controller", lambda: not run.controllers())
    until(
        "end of all hospitals",
        lambda: {pod["status"]["phase"] for pod in run.pods()} == {"Succeeded"},
    )
    for pod in run.pods():
        lines = bed.kubectl("logs", pod["metadata"]["name"]).splitlines()
        assert len([line for line in lines if '"event": "finished"' in line]) == 1 + 3 * 65 + 3
    bed.kubectl("patch", "job", job, "-p", '{"spec": {"suspend": false}}')
    assert run.code() == 0


def test_a_controller_lost_before_the_start_begins_again(bed: Bed) -> None:
    """The controller's pod is deleted while a hospital is missing; its successor takes the Jobs
    over, and the run ends well.
    """
    run, label = gathering(bed)
    run.heard("registered", hospital="h1")
    gone = delete(run, run.controllers()[0])
    until("next controller", lambda: at_work(run.controllers(), gone))
    with admitted(label):
        assert run.code() == 0
    assert not run.events("resumed")
    assert len(run.jobs()) == 1 + 3


def test_a_hospital_lost_in_mid_run_ends_it(bed: Bed) -> None:
    """A hospital's pod is deleted in mid-run, or killed without a word, as when memory is short; no
    hop is overdue yet when the run ends with exit code 41 and names it.
    """
    losses = {"deleted": ("--wait=false",), "killed": ("--force", "--grace-period=0")}
    text = placebo(3, hop=600, rounds=1000, session_seconds=0.5)
    runs = {how: bed.install(text) for how in losses}
    for how, run in runs.items():
        run.heard("progress", round=1)
        bed.kubectl("delete", "pod", run.pod("h1")["metadata"]["name"], *losses[how])
    for run in runs.values():
        assert run.code() == 41
        assert "h1" in run.said()


@pytest.mark.usefixtures("claims")
def test_a_hospital_on_a_claim_survives_its_pod(bed: Bed) -> None:
    """Its pod is deleted in mid-run, then killed; each time the next one goes on, and the run
    ends well.
    """
    run = bed.install(PATIENT, defaults=KEPT)
    for round_, force in ((2, ()), (5, ("--force", "--grace-period=0"))):
        run.reached(round_, hospital="h1")
        gone = run.pod("h1")["metadata"]["name"]
        bed.kubectl("delete", "pod", gone, "--wait=false", *force)
        until("next pod of h1", lambda gone=gone: at_work(run.pods("h1"), gone))
    assert run.code() == 0
    steps = [
        (line["model"], line["round"], line["hop"])
        for line in run.events("progress")
        if line["hospital"] == "h1"
    ]
    assert len(set(steps)) == len(steps)
    assert '"event": "went_on"' in bed.kubectl("logs", run.pod("h1")["metadata"]["name"])


def switch(run: Run, *, suspended: bool) -> None:
    """Suspend a run by its controller's Job, or let it go on."""
    patch = json.dumps({"spec": {"suspend": suspended}})
    wanted = f"{run.selector},app.kubernetes.io/component=controller"
    (job,) = run.bed.items("jobs", wanted)
    run.bed.kubectl("patch", "job", job["metadata"]["name"], "--type=merge", "-p", patch)


def went_on(run: Run) -> list[bool]:
    """Tell of every hospital's newest pod whether it has gone on from custody."""
    pods = sorted(
        (run.pod(f"h{number}") for number in range(3)), key=lambda pod: pod["metadata"]["name"]
    )
    return [
        '"event": "went_on"' in run.bed.kubectl("logs", pod["metadata"]["name"]) for pod in pods
    ]


@pytest.mark.usefixtures("claims")
def test_a_run_on_claims_survives_the_loss_of_all_its_pods_and_a_drained_node(bed: Bed) -> None:
    """Controller and hospitals are deleted at once; then the controller's Job is suspended, and
    with it all, and resumed; later a hospital's node is drained. Each time the run goes on; it ends
    well.
    """
    run = bed.install(PATIENT, defaults=KEPT, protection={"disruptionBudget": False})
    run.reached(2, hospital="h1")
    old = {pod["metadata"]["name"] for pod in (*run.pods(), *run.controllers())}
    bed.kubectl("delete", "pods", *old, "--wait=false")
    until(
        "next pods",
        lambda: (
            len([pod for pod in run.pods() if pod["metadata"]["name"] not in old and running(pod)])
            == 3
        ),
    )
    run.reached(4, hospital="h1")
    switch(run, suspended=True)
    until("end of all pods", lambda: not [*run.pods(), *run.controllers()])
    switch(run, suspended=False)
    run.reached(6, hospital="h1")
    pod = run.pod("h1")
    node = pod["spec"]["nodeName"]
    mine = f"--pod-selector={INSTANCE}={run.release}"
    try:
        kubectl("drain", node, mine, "--ignore-daemonsets", "--delete-emptydir-data", "--force")
    finally:
        kubectl("uncordon", node)
    assert run.code() == 0
    assert went_on(run) == [True] * 3


def running(pod: dict) -> bool:
    return pod["status"]["phase"] == "Running"


def ready(node: str) -> bool:
    """Tell whether the cluster thinks that a node is there."""
    conditions = json.loads(kubectl("get", "node", node, "-o", "json"))["status"]["conditions"]
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


@pytest.mark.skipif(not os.environ.get("FEDSKD_TEST_LONG"), reason="FEDSKD_TEST_LONG is not set")
@pytest.mark.usefixtures("claims", "alone")
def test_a_run_on_claims_survives_the_loss_of_a_node(bed: Bed) -> None:
    """A hospital dies with its node; when the cluster has noticed and the node is back, the next
    pod goes on, and the run ends well.
    """
    run = bed.install(PATIENT, defaults=KEPT)
    run.reached(2, hospital="h1")
    pod = run.pod("h1")
    node = pod["spec"]["nodeName"]
    with away(f"kubelet-{node}"):
        os.kill(process_of(pod), signal.SIGKILL)
        until("node that is not ready", lambda: not ready(node))
    until("node that is ready", lambda: ready(node))
    assert not run.events("end")  # the controller may be on that node, whose logs come from there
    assert run.code() == 0
    assert went_on(run)[1]


def test_a_run_that_is_installed_again_waits_for_jobs_that_are_still_there(bed: Bed) -> None:
    """A Job of the same name that is still being deleted is told of and waited for, not taken for
    one of its own.
    """

    def install() -> Run:
        return bed.install(placebo(2, rounds=2), release="again")

    run = install()
    run.heard("progress", round=1)
    job = run.pod("h0")["metadata"]["labels"]["batch.kubernetes.io/job-name"]

    def held(event: dict) -> bool:
        return "and 1 Jobs of an earlier run" in event["reason"]

    def hold(*finalizers: str) -> None:
        body = json.dumps({"metadata": {"finalizers": finalizers}})
        bed.kubectl("patch", "job", job, "--type", "merge", "-p", body)

    hold("fedskd.io/test")
    try:
        done = bed.helm("uninstall", run.release)
        assert done.returncode == 0, done.stderr
        leaving = ("get", "job", job, "-o", "jsonpath={.metadata.deletionTimestamp}")
        until("a Job that is being deleted", lambda: bed.kubectl(*leaving))
        again = install()
        until("word of one Job", lambda: any(map(held, again.events("waiting"))))
        assert not again.events("created")
    finally:
        hold()
    assert again.code() == 0


@pytest.mark.usefixtures("claims")
def test_a_release_that_is_installed_again_goes_on_from_its_claims(bed: Bed) -> None:
    """Everything of a run but its claims is removed in mid-run; installed again as it was, it
    does the rest and nothing twice.
    """
    run = bed.install(PATIENT, defaults=KEPT)
    run.reached(3, hospital="h1")
    assert bed.helm("uninstall", run.release).returncode == 0
    until("end of all pods", lambda: not run.pods() and not run.controllers())
    again = bed.install(PATIENT, defaults=KEPT, release=run.release)
    assert again.code() == 0
    assert went_on(again) == [True] * 3
    assert min(event["round"] for event in again.events("progress")) >= 2
    for name in ("h0", "h1", "h2"):
        text = bed.kubectl("logs", again.pod(name)["metadata"]["name"])
        assert text.count('"event": "finished"') < 1 + 3 * ROUNDS


def gathering(bed: Bed) -> tuple[Run, str]:
    """Install a run whose h0 waits for a label that no node has yet."""
    label = f"fedskd.io/test-{token_hex(3)}"
    waiting = {"h0": {"pod": {"nodeSelector": {label: "yes"}}}}
    return bed.install(placebo(3, rounds=2), overrides=waiting, unschedulableSeconds=300), label


@contextmanager
def admitted(label: str) -> Iterator[None]:
    """Give every node the label, for a while."""
    kubectl("label", "nodes", "--all", f"{label}=yes")
    try:
        yield
    finally:
        kubectl("label", "nodes", "--all", f"{label}-")


def test_a_hospital_lost_before_the_start_comes_back(bed: Bed) -> None:
    """A registered hospital's pod is deleted before the start; the next one takes its place and
    name, and the run ends well.
    """
    run, label = gathering(bed)
    for name in ("h1", "h2"):
        run.heard("registered", hospital=name)
    old = delete(run, run.pod("h1"))

    until("next pod of h1", lambda: at_work(run.pods("h1"), old))
    with admitted(label):
        assert run.code() == 0
    assert run.events("start")
    assert run.pod("h1")["spec"]["hostname"] == "h1"


def test_ring_and_launcher_bear_an_api_server_that_is_away(
    bed: Bed, tmp_path: Path, alone: Callable[[], None]
) -> None:
    """The API server stands still for 20 s in mid-run; models go on meanwhile, no pod is lost, and
    the run ends well. The launcher of another has all its records afterwards, and ends with it.
    """
    file, values, out = (tmp_path / name for name in ("slow.yaml", "values.json", "out"))
    file.write_text(placebo(3, rounds=10, session_seconds=2), encoding="utf-8")
    values.write_text(json.dumps(LITTLE), encoding="utf-8")
    run = bed.install(placebo(3, rounds=30, session_seconds=1))
    where = ("--on", "kubernetes", "-n", bed.namespace, "--values", values, "--out", out)
    with program("launch", file, *where) as launcher:
        until("progress", lambda: any('"arrived"' in log.read_text() for log in logs(out)))
        run.heard("progress", round=1)
        before = time.time()
        with away():
            time.sleep(AWAY_S)  # the length of what is tested, not a wait for something
        after = time.time()
        alone()
        said, errors = launcher.communicate(timeout=COMMAND_S)
    assert launcher.returncode == 0, errors
    assert "incomplete" not in said
    assert not (out / "logs" / "h0.err").exists()
    assert run.code() == 0
    assert (
        len([event for event in run.events("progress") if before + 3 < event["time"] < after]) > 10
    )
    until(
        "end of all pods",
        lambda: {pod["status"]["phase"] for pod in run.pods()} == {"Succeeded"},
    )
    assert len(run.pods()) == 3
    assert nodes("pods")


def logs(out: Path) -> list[Path]:
    """Find what a launcher has brought home of its hospitals' logs."""
    return [*out.glob("logs/h*.jsonl")]


@pytest.mark.usefixtures("claims")
def test_a_run_moves_into_the_cluster_and_out_of_it(bed: Bed, tmp_path: Path) -> None:
    """It begins as processes, goes on in the cluster, and ends as processes; its records are
    those of an undisturbed run.
    """
    (tmp_path / "scenario.yaml").write_text(PATIENT, encoding="utf-8")
    values, out = tmp_path / "values.json", tmp_path / "out"
    little = {"requests": {"cpu": "10m", "memory": "20Mi"}, **KEPT}
    values.write_text(json.dumps(LITTLE | {"hospitals": {"defaults": little}}), encoding="utf-8")
    away_to = (
        "--on",
        "kubernetes",
        "--namespace",
        bed.namespace,
        "--name",
        "moves",
        "--values",
        values,
    )
    with program("launch", tmp_path / "scenario.yaml", "--out", out) as first:
        until("a round of processes", lambda: len(steps(out)) > 8 or first.poll() is not None)
        os.killpg(first.pid, signal.SIGKILL)
    with program("resume", out, *away_to) as second:
        run = Run(bed, "moves")
        run.reached(6, hospital="h1")
        os.killpg(second.pid, signal.SIGKILL)
    assert went_on(run) == [True] * 3
    assert bed.helm("uninstall", "moves").returncode == 0
    until("end of all pods", lambda: not run.pods() and not run.controllers())
    with program("resume", out, "--on", "processes", "--values", values) as third:
        said, errors = third.communicate(timeout=COMMAND_S)
    assert third.returncode == 0, errors
    assert "verified: whole: " in said
    with program(
        "launch", tmp_path / "scenario.yaml", "--on", "memory", "--out", tmp_path / "whole"
    ) as whole:
        _, errors = whole.communicate(timeout=COMMAND_S)
    assert whole.returncode == 0, errors
    for file in (tmp_path / "whole" / "records").iterdir():
        assert (out / "records" / file.name).read_bytes() == file.read_bytes()


@contextmanager
def program(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Start the program in a group of its own, of which nothing is left at the end."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(
        command(*arguments), text=True, start_new_session=True, **pipes
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def steps(out: Path) -> list[str]:
    """Read the records so far."""
    return [
        line
        for file in out.glob("records/*.jsonl")
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
