"""The launcher in a cluster, as its user meets it: same results as with processes, same
progress, clear ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from bed import (
    COMMAND_S,
    INSTANCE,
    KEPT,
    SCENARIOS,
    Bed,
    Run,
    at_once,
    call,
    cli,
    command,
    placebo,
    rotate_log,
    until,
)  # fmt: skip

from fedskd_sim.scenario import load

QUICKSTART = SCENARIOS / "quickstart.yaml"
LITTLE = (
    '{"hospitals": {"defaults": {"requests": {"cpu": "10m", "memory": "20Mi"}}}, '
    '"terminationGracePeriodSeconds": 5}'
)
LESS = ("algorithm.rounds=1", "training.epochs=1", "training.warmup_epochs=1")
"""Changes after which the quickstart takes a fifth of its time; with two hospitals a tenth."""


@pytest.fixture
def values(tmp_path: Path) -> Path:
    file = tmp_path / "little.yaml"
    file.write_text(LITTLE, encoding="utf-8")
    return file


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """Write a scenario that does not end before somebody ends it."""
    file = tmp_path / "endless.yaml"
    file.write_text(placebo(rounds=1000, session_seconds=0.5), encoding="utf-8")
    return file


def leftovers(bed: Bed) -> list[dict[str, Any]]:
    return [
        item
        for kind in ("jobs", "pods", "configmaps", "secrets", "services")
        for item in bed.items(kind, INSTANCE)
    ]


def test_quickstart_learns_the_same_in_a_cluster(bed: Bed, values: Path, tmp_path: Path) -> None:
    """Records, weights, predictions of a short quickstart of two hospitals are those of the run in
    processes; nothing is left behind.
    """
    short, scenario = tmp_path / "short.yaml", yaml.safe_load(QUICKSTART.read_text("utf-8"))
    scenario["hospitals"] = [scenario["hospitals"][number] for number in (0, 3)]
    short.write_text(yaml.safe_dump(scenario), encoding="utf-8")
    less = [part for change in LESS for part in ("--set", change)]
    place = ("--on", "kubernetes", "-n", bed.namespace, "--values", values)
    launches = {
        "there": partial(cli, "launch", short, *less, *place, "--out", tmp_path / "a"),
        "here": partial(cli, "launch", short, *less, "--out", tmp_path / "b"),
    }
    there, here = at_once(launches).values()
    assert there.returncode == 0, there.stderr
    assert here.returncode == 0, here.stderr
    files = sorted(
        path.relative_to(tmp_path / "b")
        for kind in ("records", "weights", "predictions")
        for path in (tmp_path / "b" / kind).iterdir()
    )
    assert len(files) == 6
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    assert "aachen trained with delft" in there.stdout
    tables = [one.stdout.split("Test data of")[1].split("busy:") for one in (there, here)]
    assert tables[0][0] == tables[1][0]
    assert all("pace: set by" in paces for _, paces in tables)
    until("end of everything", lambda: not leftovers(bed))


def detach(bed: Bed, scenario: Path, values: Path, folder: Path) -> None:
    """Launch a run, and leave when it is at work."""
    where = ("--on", "kubernetes", "-n", bed.namespace, "--values", values, "--out", folder)
    detached = cli("launch", scenario, *where, "--detach")
    assert detached.returncode == 0, detached.stderr
    Run(bed, "placebo").heard("progress")


def test_a_detached_run_can_be_read_and_collected(bed: Bed, values: Path, tmp_path: Path) -> None:
    """After --detach a report is incomplete in mid-run, and collect waits for the end and completes
    it.
    """
    folder, scenario = tmp_path / "run", tmp_path / "slow.yaml"
    scenario.write_text(placebo(rounds=8, session_seconds=2.0), encoding="utf-8")
    detach(bed, scenario, values, folder)
    assert "incomplete" in cli("report", folder).stdout
    collected = cli("collect", folder)
    assert collected.returncode == 0, collected.stderr
    assert "incomplete" not in collected.stdout
    assert "its results are here" in cli("status", folder).stdout


def test_a_detached_run_can_be_seen_and_stopped(
    bed: Bed, values: Path, endless: Path, tmp_path: Path
) -> None:
    """Status and logs work by folder and by name, and a second run of the name is refused; `stop`
    removes the run in mid-course, and what its hospitals had recorded is in the folder.
    """
    folder, where = tmp_path / "run", ("-n", bed.namespace)
    detach(bed, endless, values, folder)
    until("a hospital at work", lambda: "training with" in cli("status", folder).stdout)
    assert "the run goes on" in cli("status", "placebo", *where).stdout
    assert '"event": "arrived"' in cli("logs", folder, "h1").stdout
    again = cli("launch", endless, "--on", "kubernetes", *where, "--out", tmp_path / "again")
    assert again.returncode == 39
    assert "fedskd-sim collect placebo" in again.stderr
    assert not (tmp_path / "again").exists()
    assert "removed 'placebo'" in cli("stop", folder).stdout
    until("end of everything", lambda: not leftovers(bed))
    assert list((folder / "records").glob("*.jsonl"))
    assert "nothing to stop" in cli("stop", folder).stdout


def test_a_run_that_helm_has_installed_can_be_collected(bed: Bed, tmp_path: Path) -> None:
    """What `helm install` has started is collected by its name, and is whole though the kubelet has
    rotated its logs: hospitals hold all that they have recorded.
    """
    run = bed.install(SCENARIOS / "placebo-ok.yaml", holdSeconds=60)
    assert run.code() == 0
    for pod in run.pods():
        rotate_log(pod)
    done = cli("collect", run.release, "-n", bed.namespace, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "placebo-ok (seed 1): 3 hospitals" in done.stdout
    assert len(list((tmp_path / "run" / "records").iterdir())) == 3


@pytest.mark.usefixtures("claims")
def test_what_is_on_claims_comes_home_after_all_pods_have_left(bed: Bed, tmp_path: Path) -> None:
    """Pods that only read the claims serve it, twice the same, and are gone with it."""
    run = bed.install(placebo(3, rounds=2), defaults=KEPT)
    assert run.code() == 0
    until(
        "end of all pods", lambda: {pod["status"]["phase"] for pod in run.pods()} == {"Succeeded"}
    )
    where, first, second = ("-n", bed.namespace), tmp_path / "first", tmp_path / "second"
    kept = cli("collect", run.release, *where, "--keep", "--out", first)
    assert kept.returncode == 0, kept.stderr
    assert not bed.items("pods", "app.kubernetes.io/name=fedskd-sim-reader")
    assert run.pods()
    done = cli("collect", run.release, *where, "--out", second)
    assert done.returncode == 0, done.stderr
    names = {path.relative_to(first) for path in first.glob("*/*.jsonl")}
    assert {str(name) for name in names} >= {f"{kind}/h0.jsonl" for kind in ("records", "logs")}
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_failed_runs_end_with_the_codes_they_have_in_processes(
    bed: Bed, values: Path, tmp_path: Path
) -> None:
    """The exit code is the same, the error names the hospital, and nothing is left behind but what
    the others had recorded, all of which has come home.
    """
    where = ("--on", "kubernetes", "-n", bed.namespace, "--values", values)
    patience = {"crash": 120, "stall": 12}  # only the second is to end by it
    ends = {"crash": 41, "stall": 40}

    def launch(what: str) -> subprocess.CompletedProcess[str]:
        patient = [f"timeouts.hop={patience[what]}", "timeouts.acknowledgement=60"]
        changes = [part for one in patient for part in ("--set", one)]
        out = ("--out", tmp_path / what)
        return cli("launch", SCENARIOS / f"placebo-{what}.yaml", *where, *changes, *out)

    for what, done in at_once({what: partial(launch, what) for what in ends}).items():
        assert done.returncode == ends[what], done.stderr
        assert "'east'" in done.stderr
        assert (tmp_path / what / "report.txt").exists()
        assert "does not run" not in done.stdout + done.stderr
        came = {file.stem for file in (tmp_path / what / "metrics").iterdir()}
        assert came >= set(load(tmp_path / what / "scenario.yaml").scenario.names) - {"east"}
    until("end of everything", lambda: not leftovers(bed))


def test_an_interrupted_launcher_without_a_terminal_stops_the_run(
    bed: Bed, values: Path, endless: Path, tmp_path: Path
) -> None:
    """SIGINT ends the run, with exit code 130 and nothing left in the namespace."""
    line = command(
        "launch",
        endless,
        "--on",
        "kubernetes",
        "-n",
        bed.namespace,
        "--values",
        values,
        "--out",
        tmp_path / "run",
    )
    heard = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a background job ignores it, and so would its children
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    with subprocess.Popen(line, text=True, **streams) as process:
        signal.signal(signal.SIGINT, heard)
        until(
            "progress",
            lambda: (
                '"arrived"'
                in "".join(path.read_text() for path in (tmp_path / "run").glob("logs/h*.jsonl"))
            ),
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(COMMAND_S) == 130
    assert not [item for item in leftovers(bed) if item["kind"] != "Pod"]


def test_another_scenario_replaces_the_run_in_mid_course(bed: Bed, tmp_path: Path) -> None:
    """`helm upgrade` with another scenario ends the old run, whose objects go, and the new one
    ends well.
    """
    run = bed.install(placebo(rounds=1000, session_seconds=0.5))
    run.heard("start")
    before = run.run
    file = tmp_path / "next.yaml"
    file.write_text(placebo(size=2), encoding="utf-8")
    upgraded = bed.helm(
        "upgrade",
        run.release,
        SCENARIOS.parent / "helm" / "fedskd-sim",
        "--reuse-values",
        "--set-file",
        f"scenario={file}",
    )
    assert upgraded.returncode == 0, upgraded.stderr
    until("the new controller", lambda: run.run != before)
    until(
        "end of the new run",
        lambda: any(
            job["status"].get("succeeded") for job in bed.items("jobs", f"fedskd.io/run={run.run}")
        ),
    )
    until(
        "end of the old run",
        lambda: not bed.items("jobs,pods,configmaps", f"fedskd.io/run={before}"),
    )


def test_a_namespace_without_rights_is_refused(bed: Bed, endless: Path, tmp_path: Path) -> None:
    """Who may do nothing there is told so, with what is missing, before anything is made."""
    bed.kubectl("create", "serviceaccount", "nobody")
    settings = json.loads(bed.kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    settings["users"][0]["user"] = {"token": bed.kubectl("create", "token", "nobody").strip()}
    file = tmp_path / "kubeconfig.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    done = cli(
        "launch",
        endless,
        "--on",
        "kubernetes",
        "-n",
        bed.namespace,
        env={**os.environ, "KUBECONFIG": str(file)},
    )
    assert done.returncode == 36, done.stderr
    assert "is forbidden" in done.stderr
    assert not leftovers(bed)


def test_bad_places_are_refused_before_anything_is_made(
    bed: Bed, endless: Path, tmp_path: Path
) -> None:
    """A missing namespace, context or helm, and a chart that cannot be installed, have clear
    errors and codes of their own.
    """
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("hospitals: {defaults: {requests: {cpu: lots}}}\n", encoding="utf-8")
    without_helm = {**os.environ, "PATH": str(Path(sys.executable).parent)}
    base = ("launch", endless, "--on", "kubernetes", "--out")
    cases = [
        (cli(*base, tmp_path / "1", "-n", "nowhere"), 36, "kubectl create namespace nowhere"),
        (cli(*base, tmp_path / "2", "--context", "nowhere"), 36, "--context"),
        (
            cli(*base, tmp_path / "3", "-n", bed.namespace, env=without_helm),
            37,
            "helm is not on the PATH",
        ),
        (
            cli(*base, tmp_path / "4", "-n", bed.namespace, "--values", wrong),
            37,
            "/hospitals/defaults/requests/cpu",
        ),
        (cli("launch", endless, "--name", "x"), 2, "needs --on kubernetes"),
        (cli("status", "nowhere", "-n", bed.namespace), 37, "no run 'nowhere'"),
    ]
    for done, code, text in cases:
        assert done.returncode == code, done.stderr
        assert text in done.stderr
    assert not leftovers(bed)
    assert call("helm", "-n", bed.namespace, "list", "-q").stdout == ""
