"""Deaths of processes: what is said of them, and that nothing is left behind, whoever dies and
whenever.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from watching import (
    PATIENCE_S,
    PLACEBO,
    events,
    finishers,
    fork_servers,
    go_on,
    hospitals_of,
    left_behind,
    processes,
    stopped,
    until,
)

from fedskd_sim.errors import FedskdError, ForkServerDied, HospitalCrashed, OutputNotWritable
from fedskd_sim.observe.events import (
    Arrived,
    DoneEvent,
    Finished,
    Lingering,
    Logged,
    Starting,
    place,
)
from fedskd_sim.runtimes import folder
from fedskd_sim.runtimes.base import Order
from fedskd_sim.runtimes.deaths import Terminated, cause, oom_kills, own_words
from fedskd_sim.runtimes.folder import Tail
from fedskd_sim.runtimes.member import MemberOrder
from fedskd_sim.runtimes.processes import ProcessRuntime
from fedskd_sim.scenario import load

pytestmark = pytest.mark.usefixtures("temporary")
ANYWHERE = (
    r"(while it started|before the start|in its warm-up|after its warm-up|(in|after) round \d, hop "
    r"\d \(\w+ of 'h\d'\))"
)
MOMENTS = {
    "its folder is there": lambda _: left_behind(),
    "the fork server starts": lambda _: fork_servers(),
    "the controller starts": lambda out: (out / "logs" / "controller.err").exists(),
    "a hospital starts": lambda out: any(
        path.name != "controller.err" for path in out.glob("logs/*.err")
    ),
    "a hospital has registered": lambda out: events(out, "controller", "registered"),
    "models travel": lambda out: events(out, "h*", "arrived"),
    "a hospital is done": lambda out: events(out, "h*", "done"),
}


def nothing_is_left() -> bool:
    return not processes() and not left_behind()


@pytest.mark.parametrize(
    ("moment", "transport"), [*((moment, "ipc") for moment in MOMENTS), ("models travel", "tcp")]
)
def test_a_launcher_killed_at_any_moment_leaves_nothing(
    moment: str, transport: str, begun: Callable
) -> None:
    """No process, folder, socket or key outlives a launcher that is killed, from its first
    moment to its last.
    """
    held = "h2 goodbye 1" if moment == "a hospital is done" else "h2 during_visit 2"
    process, out = begun(rounds=1, seconds=0.05, transport=transport, held=(held,))
    until(lambda: MOMENTS[moment](out) or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    process.kill()
    process.communicate()
    until(nothing_is_left)


@pytest.mark.parametrize("who", ["controller", "keeper"])
def test_a_run_ends_well_without_controller_or_keeper_and_leaves_nothing(
    who: str, started: Callable
) -> None:
    """Neither is needed once the models travel; sockets and folders are removed all the same."""
    process, out = started(rounds=1, seconds=0.1)
    (keeper,) = [pid for pid, line in processes().items() if "fedskd-keeper" in line]
    os.kill({"keeper": keeper, **hospitals_of(out)}[who], signal.SIGKILL)
    go_on(out)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert left_behind() == []
    until(nothing_is_left)


def test_the_death_of_the_fork_server_is_not_a_hospitals(started: Callable) -> None:
    """It has its own code and words, with the signal, and blames no hospital; nothing is left of
    the run.
    """
    process, _ = started()
    os.kill(fork_servers()[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == ForkServerDied.exit_code
    assert re.search(
        r"fork server.* died by signal 9 \(SIGKILL\); how the hospitals ended is not known", errors
    )
    assert not re.search(r"'h\d'|255|Traceback", errors)
    assert left_behind() == []
    until(nothing_is_left)


class Launch:
    """A run launched from this process, whose steps can be taken one by one."""

    def __init__(self, out: Path, file: Path) -> None:
        self.out, self.runtime = out, ProcessRuntime()
        self.loaded = load(file)
        self.runtime.prepare(self.loaded)

    def launch(self) -> None:
        self.runtime.launch(
            Order(self.loaded, "test", folder.make(self.loaded, self.out, "processes"))
        )

    def kill_server(self) -> None:
        pid = self.runtime._server.pid
        os.kill(pid, signal.SIGKILL)
        assert self.runtime._server.death(PATIENCE_S) == -signal.SIGKILL

    def after_the_controller(
        self, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Do something when the controller listens and no hospital has been started."""
        announced = self.runtime._start_controller

        def then() -> str:
            address = announced()
            act()
            return address

        monkeypatch.setattr(self.runtime, "_start_controller", then)


@pytest.fixture
def launch(tmp_path: Path, scenario_file: Callable) -> Iterator[Launch]:
    """Prepare a short run of three."""
    hospitals = ", ".join(f"{{name: h{index}, architecture: buffer}}" for index in range(3))
    text = PLACEBO.format(
        hospitals=hospitals, rounds=1, seconds=0, size=1000, transport="ipc", hop=60
    )
    made = Launch(tmp_path / "out", scenario_file(text))
    yield made
    until(lambda: not hospitals_of(tmp_path / "out"))


def test_a_fork_server_that_dies_before_anybody_is_forked_is_replaced(launch: Launch) -> None:
    """Nothing was lost with it, so the run begins with another one and ends well."""
    launch.kill_server()
    launch.launch()
    launch.runtime.wait(lambda _: None)
    assert finishers(launch.out) == {"h0", "h1", "h2"}


def test_a_fork_server_that_dies_while_hospitals_are_started_ends_the_launch(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second server, which would know half of the hospitals, is not started."""
    launch.after_the_controller(launch.kill_server, monkeypatch)
    with pytest.raises(ForkServerDied, match=r"died by signal 9 \(SIGKILL\)"):
        launch.launch()


def test_a_controller_that_dies_before_the_start_ends_the_launch(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hospitals that nobody will start are not waited for until they have given up: none says
    that its time is over.
    """
    launch.after_the_controller(
        lambda: os.kill(hospitals_of(launch.out)["controller"], signal.SIGKILL), monkeypatch
    )
    launch.launch()
    with pytest.raises(
        HospitalCrashed, match=r"^'controller' died by signal 9 \(SIGKILL\) before the start(\n|$)"
    ):
        launch.runtime.wait(lambda _: None)
    assert events(launch.out, name="error") == []


def test_a_killed_hospital_is_named_with_place_and_signal(started: Callable) -> None:
    """The error says who died, of which signal and where in the run, and points to a file that
    says something.
    """
    process, out = started(custody="{restarts: 0}")
    os.kill(hospitals_of(out)["h1"], signal.SIGKILL)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == HospitalCrashed.exit_code
    assert re.search(
        r"'h1' died by signal 9 \(SIGKILL\) (in|after) round \d, hop \d \(\w+ of 'h\d'\)\n", errors
    ), errors
    assert Path(errors.partition("fix: see ")[2].splitlines()[0]).stat().st_size
    assert left_behind() == []
    until(nothing_is_left)


def test_a_hospital_killed_as_it_starts_is_named_too(begun: Callable) -> None:
    """Before its first line there is only the start to name, and no empty file is pointed to."""
    process, out = begun(custody="{restarts: 0}")
    os.kill(until(lambda: hospitals_of(out).get("h1")), signal.SIGKILL)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == HospitalCrashed.exit_code
    assert re.search(rf"'h1' died by signal 9 \(SIGKILL\) {ANYWHERE}\n", errors), errors
    assert all(Path(file).stat().st_size for file in re.findall(r"see (\S+)", errors))


@pytest.mark.parametrize("full", ["timings", "log too"])
def test_a_full_disk_is_named(full: str, started: Callable) -> None:
    """A hospital that cannot write its timings says so itself; where its log takes no word
    either, its exit code does.
    """
    process, out = started(rounds=1000, seconds=0.05, custody="{enabled: false}")
    go_on(out)
    log, timings = out / "logs" / "h1.jsonl", out / "timings" / "h1.jsonl"
    until(lambda: timings.stat().st_size > log.stat().st_size + 2000)
    limited = hospitals_of(out)["h1"]
    os.kill(limited, signal.SIGSTOP)  # what is measured does not grow meanwhile
    until(lambda: stopped(limited))
    assert timings.stat().st_size > log.stat().st_size + 1000  # there is room for words
    limit = 0 if full == "log too" else timings.stat().st_size
    resource.prlimit(limited, resource.RLIMIT_FSIZE, (limit, limit))
    os.kill(limited, signal.SIGCONT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == OutputNotWritable.exit_code, errors
    where = r"(in|after) round \d+, hop \d \(\w+ of 'h\d'\)"
    large = rf"OSError: \[Errno {errno.EFBIG}\] File too large"
    own = rf"'h1' died {where}: {large} \(\w+\.py:\d+, in \w+\)\n"
    refused = r"\(The run folder cannot be created or written\)"
    told = rf"'h1' died with exit code 31 {refused} {where}: no space left where it writes"
    assert re.search(told if full == "log too" else own, errors), errors
    assert "Traceback" not in errors


def order_in(out: Path) -> MemberOrder:
    (out / "logs").mkdir()
    return MemberOrder(out / "scenario.yaml", "h1", "r", out, "", "")


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ValueError("shapes differ"), HospitalCrashed, "ValueError: shapes differ"),
        (MemoryError(), HospitalCrashed, "MemoryError"),
        (KeyboardInterrupt(), HospitalCrashed, "KeyboardInterrupt"),
        (SystemExit(0), HospitalCrashed, "SystemExit: 0"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            OutputNotWritable,
            "OSError: [Errno 28] No space left on device",
        ),
        (
            OSError(errno.EIO, "Input/output error"),
            HospitalCrashed,
            "OSError: [Errno 5] Input/output error",
        ),
    ],
)
def test_whatever_ends_a_hospital_is_its_own_word(
    error: BaseException,
    kind: type[FedskdError],
    words: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Class, message, line of code and place of an exception are in its log, with an exit code;
    the traceback is printed.
    """
    order = order_in(tmp_path)
    with order.log(hospital="h1") as log:
        log.event(Arrived(2, 1, "h0", "visit"))
    with pytest.raises(kind) as caught, own_words(order, lambda: "see the log"):
        raise error
    *_, told = Tail(tmp_path / "logs" / "h1.jsonl").events()
    assert (told.hospital, told.what.code, told.what.own) == ("h1", kind.exit_code, True)
    assert told.what.message == caught.value.message
    line = r"\(test_deaths\.py:\d+, in test_whatever_ends_a_hospital_is_its_own_word\)"
    assert re.fullmatch(
        rf"(no space left: )?'h1' died in round 2, hop 1 \(visit of 'h0'\): {re.escape(words)} "
        rf"{line}",
        told.what.message,
    )
    assert told.what.fix
    assert "Traceback" in capfd.readouterr().err


def test_an_exception_in_any_thread_ends_the_member(tmp_path: Path) -> None:
    """A hospital whose links' thread has died does not keep the others waiting: it tells of it
    and ends with its code.
    """
    order = order_in(tmp_path)
    code = (
        "import sys, threading, pathlib; from fedskd_sim.runtimes.deaths import *; from "
        "fedskd_sim.runtimes.member import *\n"
    )
    code += f"order = MemberOrder(None, 'h1', 'r', pathlib.Path({str(order.folder)!r}), '', '')\n"
    code += (
        "with own_words(order, str): threading.Thread(target=lambda: [][1]).start(); "
        "threading.Event().wait()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == HospitalCrashed.exit_code, done.stderr
    (told,) = Tail(order.folder / "logs" / "h1.jsonl").events()
    assert "'h1' died: IndexError: list index out of range" in told.what.message


def test_an_error_of_ours_and_what_is_no_failure_pass_through(tmp_path: Path) -> None:
    """An error with words of its own is not told twice, and a polite signal is no death."""
    order = order_in(tmp_path)
    for error, let in ((OutputNotWritable("full"), ()), (Terminated(143), (Terminated,))):
        with pytest.raises(type(error)), own_words(order, str, let):
            raise error
    assert not list(Tail(tmp_path / "logs" / "h1.jsonl").events())


def test_a_torn_line_hides_none_that_follow(tmp_path: Path) -> None:
    """What a full disk has cut short is passed over, and the rest of the log is read."""
    lines = (
        '{"time": 1, "event": "starting"}',
        '{"event": "arri',
        '{"time": 2, "event": "done"}',
        '{"time": 3, "ev',
    )
    (tmp_path / "log").write_text("\n".join(lines))
    assert list(Tail(tmp_path / "log").events()) == [
        Logged(1.0, "", Starting()),
        Logged(2.0, "", DoneEvent()),
    ]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-9, "by signal 9 (SIGKILL)"),
        (-35, "by signal 35"),
        (70, "with exit code 70"),
        (1, "with exit code 1"),
        (40, "with exit code 40 (A visitor did not arrive before the deadline)"),
    ],
)
def test_exit_codes_have_words(code: int, words: str) -> None:
    """Signals have their names, where they have any, and our own codes their meaning."""
    assert cause(code) == words


def test_an_event_that_tells_no_place_changes_none() -> None:
    """Only events that move a member through the run say where it is."""
    assert place(Lingering(3)) == ""
    assert place(Finished(0, 0, "a", "warm_up", "trained", None)) == "after its warm-up"


@pytest.mark.parametrize(
    ("membership", "file", "text"),
    [
        (
            "0::/a/b\n",
            "sys/fs/cgroup/a/b/memory.events",
            "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n",
        ),
        ("0::/\n", "sys/fs/cgroup/memory.events", "oom_kill 2\n"),
        (
            "4:memory:/x\n0::/\n",
            "sys/fs/cgroup/memory/x/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        ),
        (
            "9:cpu:/\n4:memory:/not/seen/here\n0::/\n",
            "sys/fs/cgroup/memory/memory.oom_control",
            "oom_kill 2\n",
        ),
        ("0::/\n", "elsewhere", ""),
        ("", "elsewhere", ""),
    ],
)
def test_kills_for_lack_of_memory_are_read_from_any_cgroup(
    membership: str, file: str, text: str, tmp_path: Path
) -> None:
    """The count is that of the own cgroup, version 1 or 2, in a container or not; without one
    nothing is claimed.
    """
    for path, content in (("proc/self/cgroup", membership), (file, text)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    assert oom_kills(tmp_path) == (2 if text else None)


@pytest.fixture
def tight() -> Iterator[Path]:
    """Make a cgroup with little memory, of either version; where this user may not, or there is
    swap, skip.
    """
    v2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    group = Path("/sys/fs/cgroup" if v2 else "/sys/fs/cgroup/memory") / f"fedskd-test-{os.getpid()}"
    if Path("/proc/swaps").read_text().count("\n") > 1:
        pytest.skip("there is swap")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        (group / ("memory.max" if v2 else "memory.limit_in_bytes")).write_text(str(300 << 20))
        yield group
    except OSError as error:
        pytest.skip(f"no cgroup can be limited here: {error}")
    finally:
        until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def test_a_kill_for_lack_of_memory_is_told_from_any_other(
    tight: Path, tmp_path: Path, scenario_file: Callable
) -> None:
    """A hospital that the kernel kills in its cgroup died for lack of memory, and the error says
    so and what to do. It may choose the launcher instead, which then can say nothing.
    """
    hospitals = ", ".join(f"{{name: h{index}, architecture: buffer}}" for index in range(2))
    path = scenario_file(
        PLACEBO.format(
            hospitals=hospitals, rounds=1, seconds=0, size=200 << 20, transport="ipc", hop=60
        )
    )
    path.write_text(path.read_text() + "custody: {restarts: 0}\n")
    for number in range(5):
        enter = (
            f"echo $$ > {tight}/cgroup.procs; exec {sys.executable} -m fedskd_sim launch {path} "
            f"--out {tmp_path / f'out-{number}'}"
        )
        shell, pipes = ["/bin/sh", "-c", enter], {"capture_output": True, "text": True}
        done = subprocess.run(shell, **pipes, timeout=PATIENCE_S, check=False)
        if done.returncode != -signal.SIGKILL:
            break
    assert done.returncode == HospitalCrashed.exit_code, done.stderr
    assert re.search(
        r"'h\d' died by signal 9 \(SIGKILL\), for lack of memory, in its warm-up", done.stderr
    ), done.stderr
    assert "its cgroup counts" in done.stderr
