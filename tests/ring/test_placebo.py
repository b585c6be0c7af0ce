"""The machinery without learning: how a run ends, well or badly, and what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from runpy import run_path

import pytest
from click.testing import CliRunner
from watching import PATIENCE_S, PLACEBO, events, go_on, hospitals_of, left_behind, until

from fedskd_sim.cli import main
from fedskd_sim.errors import (
    FedskdError,
    HopTimeout,
    HospitalCrashed,
    PortInUse,
    RegistrationTimeout,
    RunAborted,
)
from fedskd_sim.records.files import read_records, read_timings
from fedskd_sim.ring.program import Program
from fedskd_sim.ring.topology import Topology

pytestmark = pytest.mark.usefixtures("temporary")
ROOT = Path(__file__).parent.parent.parent
SCENARIOS = ROOT / "scenarios"


def text(
    size: int = 3, rounds: int = 1, seconds: float = 0.0, transport: str = "ipc", hop: float = 300
) -> str:
    hospitals = ", ".join(f"{{name: h{index}, architecture: buffer}}" for index in range(size))
    return PLACEBO.format(
        hospitals=hospitals,
        rounds=rounds,
        seconds=seconds,
        size=100000,
        transport=transport,
        hop=hop,
    )


def status(run: Path) -> str:
    return CliRunner().invoke(main, ["status", str(run)]).output


def lines(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((folder / "records").iterdir())}


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
@pytest.mark.parametrize("size", [2, 3, 17])
def test_rings_of_any_size_run_over_any_link(
    size: int, transport: str, scenario_file: Callable, run: Callable
) -> None:
    """2, 3 and 17 hospitals circulate; every stop of the ring has one record; memory and
    processes agree byte for byte.
    """
    path = scenario_file(text(size, transport=transport))
    processes = run(path, "processes")
    records = read_records(processes)
    ring = Topology(tuple(f"h{index}" for index in range(size)), 1)
    stops = {
        (stop.host, stop.model, stop.round, stop.hop)
        for host in ring.hospitals
        for stop in Program(ring, host).stops()
    }
    hosted = [
        (record.host, record.model, record.round, record.hop) for record in records if record.hop
    ]
    assert len(hosted) == len(stops)
    assert set(hosted) == stops
    assert lines(processes) == lines(run(path, "memory"))


def test_after_a_hop_the_receivers_weights_are_the_senders(
    scenario_file: Callable, run: Callable
) -> None:
    """What arrives at each hop has the digest of what left the hop before."""
    records = read_records(run(scenario_file(text(4, rounds=2)), "processes"))
    place = {(record.model, record.round, record.hop): record for record in records}
    hops = [record for record in records if record.hop > 1]
    assert hops
    assert all(
        record.digest_in == place[record.model, record.round, record.hop - 1].digest_out
        for record in hops
    )


def test_every_departure_is_confirmed_once(scenario_file: Callable, run: Callable) -> None:
    """Each hop has one transfer with its bytes, from the hospital before."""
    timings = [
        timing
        for timing in read_timings(run(scenario_file(text(3, rounds=2)), "processes"))
        if timing.what == "transfer"
    ]
    hops = [(timing.model, timing.round, timing.hop) for timing in timings]
    assert len(hops) == len(set(hops)) == 3 * (3 + 3 + 2)
    assert {timing.bytes for timing in timings} == {100000}


@pytest.mark.parametrize("runtime", ["memory", "processes"])
@pytest.mark.parametrize(
    ("behaviour", "error", "match"),
    [
        ("stall", HopTimeout, "which 'east' should have sent"),
        ("crash", HospitalCrashed, "'east' died"),
        ("abort", RunAborted, "wants this hospital to end the run"),
    ],
)
def test_misbehaving_hospitals_end_the_run_with_the_right_error(
    runtime: str,
    behaviour: str,
    error: type[FedskdError],
    match: str,
    cli: Callable,
    tmp_path: Path,
) -> None:
    """Stall, crash and abort end the run, name culprit, exit code and folder in the last line,
    and leave no process behind.
    """
    given = {"timeouts.register": 300, "timeouts.acknowledgement": 300, "timeouts.stop": 10}
    given["timeouts.hop"] = 20 if behaviour == "stall" else 300  # nobody else is ever overdue
    given["algorithm.session_seconds"] = 4 if behaviour == "stall" else 0  # ... nor is so at once
    done = cli(
        "launch",
        SCENARIOS / f"placebo-{behaviour}.yaml",
        *(word for key, value in given.items() for word in ("--set", f"{key}={value}")),
        "--on",
        runtime,
        "--out",
        tmp_path / "out",
    )
    assert done.returncode == error.exit_code
    assert match in done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(
        rf"failed after .*: (east|south|north|controller), exit code {error.exit_code}; "
        r"disturbed on purpose: east: .*; run folder .*out",
        last,
    )
    assert behaviour == "stall" or ": east, " in last
    assert left_behind() == []
    assert hospitals_of(tmp_path / "out") == {}


def test_killing_the_controller_after_the_start_does_not_stop_the_models(started: Callable) -> None:
    """With the controller gone the run finishes with every record, every hospital's last
    metrics, and exit code 0; while it goes on and afterwards it is said who died and how.
    """
    process, out = started(page=True)
    os.kill(hospitals_of(out)["controller"], signal.SIGKILL)
    until(lambda: process.poll() is not None or [*events(out, "controller", "controller_died")])
    assert "the controller died by signal 9 (SIGKILL)" in status(out)
    go_on(out)
    output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert "died by signal 9 (SIGKILL): the models go on without it" in output
    said = "the controller died by signal 9 (SIGKILL) after the start: the models went on without"
    assert f"note: {said} it" in output.splitlines()[-2]
    assert output.splitlines()[-1].startswith("ended well after")
    (line,) = [line for line in status(out).splitlines() if "the controller" in line]
    assert line.startswith("ended well after")
    assert said in line
    assert said in (out / "report.html").read_text()
    assert len(read_records(out)) == 3 * (1 + 4 * 3 + 1 + 2)
    assert "report:" in output
    for file in sorted((out / "metrics").glob("*.prom")):
        assert f'fedskd_phase{{fedskd_phase="done",hospital="{file.stem}"' in file.read_text()
    assert len([*(out / "metrics").glob("*.prom")]) == 3


def test_a_frozen_hospital_ends_the_run(started: Callable) -> None:
    """The error names the hospital, whichever neighbour notices first, and no process of the run
    is left.
    """
    process, out = started(hop=20, acknowledgement=20, seconds=4)
    os.kill(hospitals_of(out)["h1"], signal.SIGSTOP)
    go_on(out)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode in (40, 45), errors
    assert "which 'h1' should have sent" in errors or "'h1' never confirmed" in errors
    assert hospitals_of(out) == {}


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_everything_and_says_so(sign: int, started: Callable) -> None:
    """Ctrl-C and a polite kill end with exit code 130, no traceback and no process left."""
    process, out = started()
    process.send_signal(sign)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert hospitals_of(out) == {}


def member(kind: str, *arguments: object, env: dict[str, str] | None = None) -> subprocess.Popen:
    command = [sys.executable, "-m", "fedskd_sim", kind, *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)


ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(name + " is not in this image", name=name)

sys.meta_path.insert(0, Absent())
"""


def test_the_controllers_image_is_enough_for_it_and_for_placebos(
    tmp_path: Path, scenario_file: Callable, run: Callable
) -> None:
    """Without the libraries that its image leaves out, it and placebo hospitals run to their
    end, and a run controller starts.
    """
    left_out = run_path(str(ROOT / "images" / "requirements.py"))["LEFT_OUT"]["controller"]
    absent = {"PIL" if name == "pillow" else name for name in left_out}
    (tmp_path / "sitecustomize.py").write_text(ABSENT.format(absent=absent), encoding="utf-8")
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    path, out, hub = scenario_file(text()), tmp_path / "out", f"ipc://{tmp_path}/hub"
    for name in ("records", "timings", "logs"):
        (out / name).mkdir(parents=True)
    members = [member("controller", path, "--run", "r", "--out", out, "--bind", hub, env=env)]
    for name in ("h0", "h1", "h2"):
        place = ("--name", name, "--bind", f"ipc://{tmp_path}/{name}", "--controller", hub)
        members.append(member("hospital", path, "--run", "r", "--out", out, *place, env=env))
    for process in members:
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, errors
    assert lines(out) == lines(run(path, "memory"))
    run_controller = (
        "import fedskd_sim.kubernetes.run_controller, fedskd_sim.cli, sys; "
        "sys.exit('numpy' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", run_controller], env=env, check=False).returncode == 0
    )


@pytest.mark.parametrize("order", [("h0", "h1", "h2"), ("h2", "h0", "h1")])
def test_the_start_order_does_not_matter(
    order: tuple[str, ...], tmp_path: Path, scenario_file: Callable, run: Callable
) -> None:
    """Hospitals started by hand, before the controller and in any order, give the records of the
    memory run.
    """
    path = scenario_file(text())
    out = tmp_path / "by-hand"
    for name in ("records", "timings", "logs", "weights"):
        (out / name).mkdir(parents=True, exist_ok=True)
    hub = f"ipc://{tmp_path}/hub"
    common = ["--run", "r", "--out", out]
    hospitals = [
        member(
            "hospital",
            path,
            *common,
            "--name",
            name,
            "--bind",
            f"ipc://{tmp_path}/{name}",
            "--controller",
            hub,
        )
        for name in order
    ]
    until(lambda: len(events(out, "h*", "listening")) == len(order))
    hospitals.append(member("controller", path, *common, "--bind", hub))
    for process in hospitals:
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, errors
    assert lines(out) == lines(run(path, "memory"))


def test_a_missing_hospital_is_named(tmp_path: Path, scenario_file: Callable) -> None:
    """When a hospital never registers, the controller ends the run and says which one."""
    path = scenario_file(text().replace("register: 300", "register: 1"))
    for name in ("records", "timings", "logs"):
        (tmp_path / name).mkdir()
    process = member(
        "controller", path, "--run", "r", "--out", tmp_path, "--bind", f"ipc://{tmp_path}/hub"
    )
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == RegistrationTimeout.exit_code
    assert "h0, h1, h2 did not register within 1 s" in errors


@pytest.mark.parametrize(("section", "offset"), [("network", 0), ("network", 2), ("metrics", 1)])
def test_a_port_in_use_is_an_error_with_file_and_line(
    section: str, offset: int, scenario_file: Callable, run: Callable
) -> None:
    """Whether controller, hospital or metrics port: the error names the port and the scenario's
    line.
    """
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1] - offset
        extra = (
            f"network: {{transport: tcp, port: {port}}}"
            if section == "network"
            else f"metrics: {{port: {port}}}"
        )
        path = scenario_file(text().replace("network: {transport: ipc}", extra))
        with pytest.raises(PortInUse, match="in use") as caught:
            run(path, "processes")
    assert str(caught.value.where) == f"{path}:5"


def test_no_port_is_held_after_a_run(scenario_file: Callable, run: Callable) -> None:
    """A run on fixed ports can follow another on the same ports at once."""
    for port in range(20000 + os.getpid() % 800 * 12, 30000, 12):
        fixed = f"network: {{transport: tcp, port: {port}}}\nmetrics: {{port: {port + 8}}}"
        path = scenario_file(text().replace("network: {transport: ipc}", fixed))
        with suppress(PortInUse):  # somebody else may take what was free a moment ago
            if all(is_free(port + more) for more in range(12)):
                first = run(path, "processes")
                break
    else:
        pytest.fail("no twelve ports are free")
    assert lines(first) == lines(run(path, "processes"))


def is_free(port: int) -> bool:
    """Tell whether nobody listens on a port; 20000 to 30000 are none that the system gives to
    connections by itself.
    """
    with socket.socket() as tried, suppress(OSError):
        tried.bind(("127.0.0.1", port))
        return True
    return False


def test_a_long_run_folder_is_no_obstacle(
    tmp_path: Path, scenario_file: Callable, cli: Callable
) -> None:
    """Sockets live elsewhere, so a run folder may have a path longer than a socket's."""
    out = tmp_path / ("x" * 120) / ("y" * 120)
    done = cli("launch", scenario_file(text()), "--out", out)
    assert done.returncode == 0, done.stderr


def test_a_temporary_folder_too_long_for_sockets_is_an_error(
    tmp_path: Path, scenario_file: Callable, cli: Callable
) -> None:
    """It has its own exit code and says which variable to change."""
    long = tmp_path / ("x" * 120)
    long.mkdir()
    done = cli(
        "launch",
        scenario_file(text()),
        "--out",
        tmp_path / "out",
        env={**os.environ, "TMPDIR": str(long)},
    )
    assert done.returncode == 33, done.stderr
    assert "TMPDIR" in done.stderr


def test_sockets_and_keys_are_in_a_folder_of_their_user_alone(started: Callable) -> None:
    """The folder of a run's sockets can be entered by nobody else, and key files can be read by
    nobody else.
    """
    process, _ = started(transport="tcp")
    folder = Path(*left_behind())
    assert folder.stat().st_mode & 0o777 == 0o700
    files = list(folder.glob("*/keys/*"))
    assert len(files) == 4
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    assert not folder.exists()


def test_the_placebo_and_the_controller_run_without_pytorch() -> None:
    """Importing and running them never imports torch."""
    code = (
        "import sys, fedskd_sim.member.controller, fedskd_sim.runtimes.member, "
        "fedskd_sim.learning.algorithms.placebo;"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_prometheus_targets_are_written(scenario_file: Callable, run: Callable) -> None:
    """A run in processes writes a file for file_sd_configs with one address per hospital."""
    targets = json.loads(
        (run(scenario_file(text()), "processes") / "metrics" / "targets.json").read_text()
    )
    assert len(targets[0]["targets"]) == 3
    assert all(target.startswith("127.0.0.1:") for target in targets[0]["targets"])
