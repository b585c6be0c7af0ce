"""The command line as a user meets it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from fedskd_sim import __version__
from fedskd_sim.cli import main
from fedskd_sim.exits import all_errors
from fedskd_sim.runtimes.processes import ProcessRuntime

SCENARIOS = Path(__file__).parents[3] / "scenarios"
MEMBER = {"scenario", "--run", "--out", "--bind", "--keys"}
PLACE = ("--namespace", "--context")
IN_A_POD = {
    "--secret",
    "--advertise",
    "--patience",
    "--hold",
    "--linger",
    "--custody",
    "--anyway",
    "--to-stdout",
}
FLAGS = {
    # which methods, and how often: each is described in the scenario, which --set edits, or has the
    # defaults of its algorithm; whether finished runs of other code or data count, and where and in
    # how many parts all is carried out, which no scenario can know
    "compare": {
        "given",
        "--json",
        "--algorithms",
        "--seeds",
        "--control",
        "--out",
        "--jobs",
        "--anyway",
        "--per-hospital",
        "--on",
        *PLACE,
        "--values",
        "--shard",
        "--join",
        "--canary",
        "--set",
        "--data",
    },
    "validate": {"scenario", "--set", "--data", "--schema", "--no-code", "--json"},
    # how much is measured beside any run; --write changes a file as its owner would
    "tune": {"scenario", "--data", "--repetitions", "--keep-precision", "--write", "--json"},
    "init": {"name", "--from"},
    "launch": {
        "scenario",
        "--on",
        "--out",
        "--set",
        "--data",
        *PLACE,
        "--name",
        "--values",
        "--detach",
        "--canary",
        "--canary-only",
        "--keep",
        "--watch",
        # how much is drawn of the results, which stay the same
        "--no-page",
    },
    "data": set(),
    # a page beside a run: it reads, and changes nothing; --attended is the launcher's own
    "watch": {"run", "--port", "--open", "--attended"},
    "list": {"folder", "--json"},
    "open": {"run"},
    "rm": {"run", "--yes"},
    "help": {"topic"},
    "status": {"run", "--watch", "--json", *PLACE},
    "logs": {"run", "hospital", "--follow", *PLACE},
    "stop": {"run", *PLACE},
    "audit": {"run", "--json"},
    "collect": {"run", "--out", *PLACE, "--keep"},
    "export": {"run", "--format", "--out"},
    "report": {"run", "--format", "--figures"},
    "resume": {
        "run",
        "--trust-code",
        "--anyway",
        "--on",
        "--data",
        *PLACE,
        "--name",
        "--values",
        "--keep",
    },
    # how many sessions are executed again, and whose code that may run: neither changes the run
    "verify": {"run", "--data", "--replay", "--trust-code", "--json"},
    # a network of a package may need options to be looked at
    "models": {"name", "--set", "--scenario", "--json"},
    "controller": MEMBER,
    "hospital": MEMBER | IN_A_POD | {"--name", "--controller", "--metrics", "--data", "--serve"},
    "conduct": {"folder", "--secret", "--check"},
    "read-claim": {"folder", "--name", "--run", "--serve", "--secret", "--takes-data"},
}
DATA_FLAGS = {
    "split": {"scenario", "--set", "--data", "--out"},
    # of whose claims, and whether what lies there may go: neither changes a run
    "push": {"scenario", "--set", "--data", *PLACE, "--values", "--storage-class", "--replace"},
}
COMMANDS = (
    "init",
    "tune",
    "launch",
    "compare",
    "data",
    "list",
    "watch",
    "open",
    "rm",
    "help",
    "status",
    "logs",
    "stop",
    "collect",
    "report",
    "audit",
    "export",
    "resume",
    "verify",
    "models",
)
STARTS = ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "socket.bind")
WATCHED = f"""\
import sys
from fedskd_sim.cli import main
tell = lambda event: print("STARTED", event, file=sys.__stdout__, flush=True)
sys.addaudithook(lambda event, _: event in {STARTS} and tell(event))
main(sys.argv[1:])
"""


def call(*arguments: object) -> click.testing.Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_line_only_says_where_a_scenario_runs() -> None:
    """Commands and flags are pinned: what is learned stands in the scenario, so a new flag needs
    a reason here.
    """
    found = {
        name: {parameter.opts[0] for parameter in command.params}
        for name, command in main.commands.items()
    }
    assert found == FLAGS
    group = main.commands["data"]
    assert isinstance(group, click.Group)
    assert {
        name: {parameter.opts[0] for parameter in command.params}
        for name, command in group.commands.items()
    } == DATA_FLAGS
    assert {parameter.opts[0] for parameter in main.params} == {"--version", "--quiet", "--verbose"}
    assert {name for name, command in main.commands.items() if command.hidden} == {
        "controller", "hospital", "conduct", "read-claim",
    }  # fmt: skip


@pytest.mark.parametrize("typed", ["lanch", "plac", "contoller", "qqq"])
def test_a_mistyped_command_is_no_hint_at_a_hidden_one(typed: str) -> None:
    """What is suggested is for people; commands that a run calls itself are not told."""
    done = call(typed)
    assert done.exit_code == 2
    assert typed in done.output
    hidden = [name for name, command in main.commands.items() if command.hidden]
    assert not [name for name in hidden if f"'{name}'" in done.output or f" {name}?" in done.output]


@pytest.mark.parametrize("command", [[], *([name] for name in ("validate", *COMMANDS))])
def test_help_has_an_example(command: list[str]) -> None:
    """Every command a person uses shows how."""
    done = call(*command, "--help")
    assert done.exit_code == 0
    assert "Example" in done.output
    assert "fedskd-sim" in done.output


def test_the_help_fits_a_screen_and_another_lists_every_exit_code() -> None:
    """Commands are not scrolled away by the table, which has every error's number."""
    first = call("--help").output
    assert len(first.splitlines()) <= 45
    assert "fedskd-sim help exit-codes" in first
    assert call("help").output == first
    assert call("help", "launch").output == call("launch", "--help").output
    assert call("help", "lunch").exit_code == 2
    done = call("help", "exit-codes").output
    for error in all_errors():
        if not error.__subclasses__():
            assert re.search(rf"^\s*{error.exit_code}  \S", done, re.MULTILINE), error


@pytest.mark.slow
def test_version_and_schema() -> None:
    """Two commands that only print."""
    assert __version__ in call("--version").output
    assert '"additionalProperties": false' in call("validate", "--schema").output


@pytest.mark.parametrize(
    "line",
    [
        "launch",
        "validate",
        "launch x.yaml --on moon",
        "launch x.yaml --rounds 3",
        "launch x.yaml --data nowhere",
        "validate x.yaml y.yaml",
        "fly",
        "report",
        "report . --format pdf",
        "hospital x.yaml --name a",
        "controller x.yaml",
    ],
)
def test_wrong_use_is_exit_code_2(line: str) -> None:
    """Usage errors have click's code and say how the command is used, on standard error."""
    done = call(*line.split())
    assert done.exit_code == 2
    assert "Usage: " in done.stderr
    assert not done.stdout


@pytest.mark.parametrize("command", ["validate", "launch"])
def test_a_bad_scenario_starts_nothing_and_makes_no_folder(command: str, tmp_path: Path) -> None:
    """The error goes to standard error with file, line and fix, and nothing exists afterwards."""
    path = tmp_path / "bad.yaml"
    path.write_text("name: x\nseed: -1\nhospitals: []\nalgorithm: {name: placebo}\n")
    done = call(command, path, *(["--out", tmp_path / "out"] if command == "launch" else []))
    assert done.exit_code == 12
    assert f"{path}:2: seed: -1" in done.stderr
    assert "fix:" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_only_a_good_scenario_starts_anything(tmp_path: Path) -> None:
    """Python's own audit sees processes started and addresses bound for a good scenario, and
    none for a bad one.
    """
    text = (SCENARIOS / "placebo-ok.yaml").read_text()
    for number, (old, new) in enumerate(
        (
            ("", ""),
            ("rounds: 2", "rounds: 0"),
            ("name: south", "name: north"),
            ("  rounds", "\trounds"),
        )
    ):
        path = tmp_path / "scenario.yaml"
        path.write_text(text.replace(old, new) if old else text)
        command = [sys.executable, "-c", WATCHED, "launch", path, "--out", tmp_path / str(number)]
        done = subprocess.run(
            [*map(str, command)], capture_output=True, text=True, timeout=900, check=False
        )
        assert ("STARTED" in done.stdout) == (done.returncode == 0) == (not old), done.stderr
        assert (tmp_path / str(number)).exists() == (not old)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("name: x\nname: y\n", 10),
        ("a: [", 10),
        ("", 10),
        ("nmae: x\n", 11),
        ("name: x\n", 12),
        (b"\xff\xfe", 10),
        pytest.param(b"#" * (2 << 20), 10, id="two MiB"),
    ],
)
def test_the_program_itself_ends_with_the_code(
    text: str | bytes, code: int, tmp_path: Path, cli: Callable
) -> None:
    """As a process of its own it ends with the error's number, says where on standard error, and
    shows no traceback.
    """
    path = tmp_path / "bad.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    done = cli("launch", path, "--out", tmp_path / "out")
    assert done.returncode == code
    assert done.stderr.startswith(f"error: {path}")
    assert "fix: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
    assert not (tmp_path / "out").exists()


def test_a_run_folder_may_be_new_or_empty_and_is_made_with_its_parents(tmp_path: Path) -> None:
    """An empty folder is used, and a deep new one is made; both hold the scenario and the
    environment afterwards.
    """
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "empty", tmp_path / "a" / "b" / "c"):
        assert (
            call(
                "launch", SCENARIOS / "placebo-ok.yaml", "--on", "memory", "--out", place
            ).exit_code
            == 0
        )
        assert (place / "scenario.yaml").read_bytes() == (
            SCENARIOS / "placebo-ok.yaml"
        ).read_bytes()
        assert json.loads((place / "environment.json").read_text())["runtime"] == "memory"


def test_a_folder_with_only_a_hidden_file_is_not_empty(tmp_path: Path) -> None:
    """What a person does not see is not overwritten either."""
    (tmp_path / ".keep").write_text("")
    assert (
        call("launch", SCENARIOS / "placebo-ok.yaml", "--on", "memory", "--out", tmp_path).exit_code
        == 32
    )


def test_places_that_cannot_hold_a_run(tmp_path: Path) -> None:
    """A folder with something in it, a file in the way and a place nobody can write to have
    their exit codes.
    """
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("keep")
    (tmp_path / "file").write_text("")
    for place, code in (
        (tmp_path / "full", 32),
        (tmp_path / "file", 31),
        (tmp_path / "file" / "under", 31),
        (Path("/proc/x"), 31),
        (tmp_path / ("n" * 300), 31),
    ):
        done = call("launch", SCENARIOS / "placebo-ok.yaml", "--on", "memory", "--out", place)
        assert done.exit_code == code, done.output
        assert str(place) in done.stderr
    assert (tmp_path / "full" / "precious").read_text() == "keep"


def test_a_runtime_that_never_launched_is_stopped_in_silence() -> None:
    """What goes wrong between the check of a scenario and its launch is told, not hidden by an
    error of the clean-up.
    """
    ProcessRuntime().stop()


def test_launch_and_report_agree(tmp_path: Path) -> None:
    """`report` computes from the records what `launch` printed, as text and as JSON."""
    launched = call(
        "launch", SCENARIOS / "placebo-ok.yaml", "--on", "memory", "--out", tmp_path / "run"
    )
    assert launched.exit_code == 0, launched.output
    again = call("report", tmp_path / "run")
    *told, verified, last = launched.output.splitlines()
    assert again.output.splitlines()[1:-1] == told[-len(again.output.splitlines()) + 1 : -1]
    assert verified == "verified: whole: 30 of 30 records, 24 transfers intact, 0 files of weights"
    assert re.fullmatch(r"ended well after \d+\.\d s; run folder \S+", last)
    assert '"hospitals"' in call("report", tmp_path / "run", "--format", "json").output


def test_a_run_is_removed_once_it_has_ended(tmp_path: Path) -> None:
    """After a question, or with --yes; what is no run, is a link, holds one or is going stays, and
    so does what a link leads to.
    """
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "mine").write_text("mine")
    run = tmp_path / "run"
    place = SCENARIOS / "placebo-ok.yaml"
    assert call("-q", "launch", place, "--on", "memory", "--out", run).exit_code == 0
    (run / "away").symlink_to(kept)
    (tmp_path / "link").symlink_to(run)
    for wrong in (kept, tmp_path / "link", tmp_path / "nowhere"):
        assert call("rm", wrong, "--yes").exit_code == 34
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert call("rm", run, "--yes").exit_code == 32
    assert "is a link" in call("rm", run, "--yes").output
    (run / "away").unlink()
    refused = CliRunner().invoke(main, ["rm", str(run)], input="n\n")
    assert "nothing was removed" in refused.output
    nobody = CliRunner().invoke(main, ["rm", str(run)], input="")
    assert (nobody.exit_code, "give --yes" in nobody.output) == (2, True)
    assert run.is_dir()
    done = call("rm", run, "--yes")
    assert (done.exit_code, run.exists()) == (0, False), done.output
    assert (kept / "mine").read_text() == "mine"


def test_the_page_of_a_run_is_opened(tmp_path: Path) -> None:
    """By the browser that the machine names; without a page it says how to get one."""
    (tmp_path / "scenario.yaml").write_text("")
    assert "fedskd-sim report" in call("open", tmp_path).output
    (tmp_path / "report.html").write_text("")
    seen = tmp_path / "seen"
    browser = (
        f"{sys.executable} -c 'import sys; open(sys.argv[1], \"w\").write(sys.argv[2])' {seen} %s"
    )
    done = subprocess.run(
        [sys.executable, "-m", "fedskd_sim", "open", str(tmp_path)],
        env={**os.environ, "BROWSER": browser},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "report.html" in done.stdout
    assert seen.read_text() == (tmp_path / "report.html").as_uri()
    assert call("open", tmp_path / "nowhere").exit_code == 34


def test_quiet_is_the_result_alone_and_verbose_tells_where_an_error_arose(tmp_path: Path) -> None:
    """Both stand before the command."""
    place = SCENARIOS / "placebo-ok.yaml"
    said = call("-q", "launch", place, "--on", "memory", "--out", tmp_path / "run").output
    assert "round 1" not in said
    assert "ended well" in said
    assert "Traceback" not in call("report", tmp_path).stderr
    assert "Traceback" in call("-v", "report", tmp_path).stderr


def test_report_of_something_else_is_an_error(tmp_path: Path) -> None:
    """A folder that is no run, and damaged records, have exit code 34; the damaged line is
    named.
    """
    for place in (tmp_path, tmp_path / "nowhere", SCENARIOS / "placebo-ok.yaml"):
        for command in ("report", "verify", "resume", "export"):
            nothing = call(command, place)
            assert nothing.exit_code == 34
            assert f"{place} is not a run folder" in nothing.stderr
    call("launch", SCENARIOS / "placebo-ok.yaml", "--on", "memory", "--out", tmp_path / "run")
    file = tmp_path / "run" / "records" / "east.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:2], lines[2][:40], *lines[3:]]))
    done = call("report", tmp_path / "run")
    assert done.exit_code == 34
    assert f"{file}:3" in done.stderr
    file.write_bytes(b"\xff\xfe\n")
    assert call("report", tmp_path / "run").exit_code == 34
    shutil.rmtree(tmp_path / "run" / "records")
    assert call("report", tmp_path / "run").exit_code == 34


def test_shell_completion_works(cli: Callable) -> None:
    """The shells' completion scripts come from the program itself."""
    done = cli(env={**os.environ, "_FEDSKD_SIM_COMPLETE": "bash_source"})
    assert "_FEDSKD_SIM_COMPLETE=bash_complete" in done.stdout
    typed = {
        "COMP_WORDS": "fedskd-sim launch --",
        "COMP_CWORD": "2",
        "_FEDSKD_SIM_COMPLETE": "bash_complete",
    }
    offered = {
        line.partition(",")[2] for line in cli(env={**os.environ, **typed}).stdout.splitlines()
    }
    assert {"--on", "--out", "--data", "--help"} <= offered
    typed |= {"COMP_WORDS": "fedskd-sim ", "COMP_CWORD": "1"}
    offered = {
        line.partition(",")[2] for line in cli(env={**os.environ, **typed}).stdout.splitlines()
    }
    assert offered == {"validate", *COMMANDS}


@pytest.mark.parametrize("before", ["launch", "validate", "compare", "init mine --from"])
def test_the_names_of_scenarios_complete(cli: Callable, before: str) -> None:
    """Those that come with the program and begin as what is typed."""
    typed = {
        "COMP_WORDS": f"fedskd-sim {before} qui",
        "COMP_CWORD": str(len(before.split()) + 1),
        "_FEDSKD_SIM_COMPLETE": "bash_complete",
    }
    lines = cli(env={**os.environ, **typed}).stdout.splitlines()
    assert [line for line in lines if line.startswith("plain")] == ["plain,quickstart"]


@pytest.mark.slow
def test_programs_get_json(tmp_path: Path) -> None:
    """status, validate, models and verify print what they tell people as JSON, too."""
    run = tmp_path / "run"
    call("launch", SCENARIOS / "placebo-ok.yaml", "--on", "memory", "--out", run)
    status = json.loads(call("status", run, "--json").stdout)
    assert status["going"] is False
    assert {one["now"] for one in status["hospitals"].values()} == {"done"}
    assert any("ended well" in one for one in status["remarks"])
    verdict = json.loads(call("verify", run, "--json").stdout)
    assert verdict["records"] == verdict["expected"] > 0
    assert "records" in verdict["verdict"]
    valid = json.loads(call("validate", "quickstart", "--json").stdout)
    assert valid["hospitals"]["delft"] == "vit-tiny"
    assert any("aachen: read" in one for one in valid["notes"])
    known = {one["name"]: one for one in json.loads(call("models", "--json").stdout)}
    assert known["cnn-plain"]["parameters"] > 0
    assert known["cnn-plain"]["kind"] == "image"
    for wrong in (
        ("status", run, "--json", "--watch"),
        ("verify", run, "--json", "--replay", 1),
        ("models", "cnn-plain", "--json"),
    ):
        assert call(*wrong).exit_code == 2


def test_list_says_how_runs_stand(tmp_path: Path) -> None:
    """For people in a table, for programs as JSON; a folder that is not there is an error."""
    call("launch", SCENARIOS / "placebo-ok.yaml", "--on", "memory", "--out", tmp_path / "run")
    assert "ended well" in call("list", tmp_path).stdout
    (row,) = json.loads(call("list", tmp_path, "--json").stdout)
    assert row["run"] == "run"
    assert row["state"] == "ended well"
    assert row["algorithm"] == "placebo"
    nothing = call("list", tmp_path / "nothing")
    assert nothing.exit_code == 34
    assert "there is no folder" in nothing.stderr
    assert call("watch", tmp_path / "nothing").exit_code == 34
    watched = ("--watch", "--detach", "--on", "kubernetes")
    assert call("launch", SCENARIOS / "placebo-ok.yaml", *watched).exit_code == 2


def imported(*command: str, **environment: str) -> set[str]:
    """Carry out a command in an interpreter of its own and give the packages it has imported."""
    code = (
        "import json, sys; from fedskd_sim.__main__ import run; sys.argv[0] = 'fedskd-sim'\n"
        "try: run()\n"
        "finally: print(json.dumps([*sys.modules]), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    return {one.partition(".")[0] for one in json.loads(done.stderr.splitlines()[-1])}


def test_commands_do_not_import_what_they_do_not_need(tmp_path: Path) -> None:
    """Help and completion need no scenario; what looks at a run needs neither PyTorch nor sockets;
    and what does not learn is checked without PyTorch.
    """
    slow = {"torch", "numpy", "matplotlib", "zmq", "prometheus_client"}
    own = {"pydantic", "ruamel", "rich", *slow}
    assert not imported("--help") & own
    assert not imported("launch", "--help") & own
    typed = {"COMP_WORDS": "fedskd-sim launch quick", "COMP_CWORD": "2"}
    assert not imported(_FEDSKD_SIM_COMPLETE="bash_complete", **typed) & own
    assert not imported("models") & slow
    file = str(SCENARIOS / "placebo-ok.yaml")
    assert not imported("validate", file) & (slow - {"numpy"})
    call("launch", file, "--on", "memory", "--out", tmp_path / "run")
    assert "rich" in (shown := imported("status", str(tmp_path / "run")))
    assert not shown & slow


def test_an_error_is_told_where_nothing_draws() -> None:
    """The controller's image has no rich; an error there has its words and its exit code too."""
    code = (
        "import sys; sys.modules['rich'] = None; sys.argv = ['fedskd-sim', 'validate', 'no.yaml'];"
        "from fedskd_sim.__main__ import run; run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 10, done.stderr
    assert done.stderr.startswith("error: no.yaml")
