"""Run folders as deaths, full disks and editors leave them: every command reads them, or says
what is wrong and where.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner
from nights import part_of

from fedskd_sim.cli import main
from fedskd_sim.errors import FedskdError
from fedskd_sim.results.comparison.tables import score
from fedskd_sim.runtimes import folder as folders
from fedskd_sim.runtimes import location
from fedskd_sim.runtimes.base import Order
from fedskd_sim.runtimes.memory import MemoryRuntime
from fedskd_sim.scenario import load, scenarios

TEXT = """
name: tiny
data: {name: synthetic-skin, samples: 40, image_size: 32, classes: 2}
hospitals: [{name: north, architecture: cnn-plain}, {name: south, architecture: cnn-plain}]
algorithm: {name: fedskd, rounds: 1}
training: {epochs: 1, warmup_epochs: 1, batch_size: 16}
"""
EVIL = (
    None, True, -1, 0, 7, 1 << 31, 1 << 64, 0.5, float("nan"), float("inf"), 1e308, "", "x",
    "\ud800", "\0\x1b[2J", "../..", [], [[]], [0, 0], {}, {"x": 1}, "9" * 5000,
)  # fmt: skip
LINES = (
    b"", b"\n", b"{}\n", b"[]\n", b"3\n", b"null\n", b"\xff\xfe\n", b"\0" * 80 + b"\n",
    b"[" * 100_000 + b"\n", b'{"time": 1e999}\n', b"9" * 5000 + b"\n", b'{"a": "\\ud800"}\n',
)  # fmt: skip
FILES = {
    "records/north.jsonl": 110,
    "timings/north.jsonl": 70,
    "samples/south.jsonl": 50,
    "logs/north.jsonl": 50,
    "logs/controller.jsonl": 20,
    "environment.json": 12,
    "report.json": 5,
}
"""Files, and how often each is bent at night; at other times a third of so many, where these are
many."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a small run that has ended well."""
    home = tmp_path_factory.mktemp("run")
    (home / "tiny.yaml").write_text(TEXT, encoding="utf-8")
    loaded = load(home / "tiny.yaml")
    made, runtime = folders.make(loaded, home / "run", "memory"), MemoryRuntime()
    runtime.launch(Order(loaded, "test", made))
    runtime.wait(lambda _: None)
    location.note(made, location.Here(2**22 + 1, 1.0, "elsewhere"))
    assert command("report", made) == 0
    return made


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """Copy that run."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def command(name: str, folder: Path, says: str = "") -> int:
    """Carry out a command, and give its exit code; raises what it raised."""
    done = CliRunner().invoke(main, [name, str(folder)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert says in done.output, done.output
    assert done.exit_code in (0, 12, 34), done.output
    assert done.exit_code == 0 or done.output.startswith("error: "), done.output
    return done.exit_code


def places_in(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """List the ways to all values in a JSON value."""
    yield way
    for key in (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    ):
        yield from places_in(value[key], (*way, key))


def bent(text: bytes, draw: random.Random) -> bytes:
    """Change a value of a line, the line, or where the file ends."""
    lines = text.splitlines(keepends=True)
    at = draw.randrange(len(lines))
    match draw.randrange(8):
        case 0:
            lines[at] = draw.choice(LINES)
        case 1:
            return text[: draw.randrange(len(text))]
        case 2:
            where = draw.randrange(len(lines[at]))
            lines[at] = (
                lines[at][:where] + draw.randbytes(1) + lines[at][where + draw.randrange(2) :]
            )
        case 3:
            lines.insert(at, draw.choice(lines))
        case _:
            lines[at] = rewritten(lines[at], draw)
    return b"".join(lines)


def rewritten(line: bytes, draw: random.Random) -> bytes:
    """Change, remove or add one value of a JSON value."""
    value = copy.deepcopy(json.loads(line))
    *way, last = draw.choice([way for way in places_in(value) if way])
    inner = value
    for key in way:
        inner = inner[key]
    if draw.randrange(6) == 0:
        del inner[last]
    elif draw.randrange(8) == 0 and isinstance(inner, dict):
        inner["more"] = draw.choice(EVIL)
    else:
        inner[last] = draw.choice(EVIL)
    return json.dumps(value).encode() + b"\n"


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_no_mutation_of_a_file_ends_in_a_traceback(
    file: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a line of it says, or wherever it ends, each command shows the run or names the
    file; some bends do no harm.
    """
    drawn: list[int] = []
    page = "fedskd_sim.results.page.as_html"
    whole_page = sys.modules["fedskd_sim.results.page"].as_html
    original, outcomes = (run / file).read_bytes(), []

    def sometimes(*given: Any) -> str:
        drawn.append(1)
        return whole_page(*given) if len(drawn) % 12 == 1 else ""

    monkeypatch.setattr(page, sometimes)
    numbers = range(FILES[file])
    for number in part_of(numbers) if len(numbers) > 20 else numbers:
        text = (
            json.dumps(json.loads(original)).encode() + b"\n"
            if file.endswith(".json")
            else original
        )
        (run / file).write_bytes(bent(text, random.Random(f"{file}/{number}")))
        try:
            outcomes += [
                command(name, run)
                for name in (
                    ("status", "logs") if file.startswith("logs/") else ("report", "status")
                )
            ]
            scored(run)
        except Exception as error:
            error.add_note(f"{file}, mutation {number}: {(run / file).read_bytes()[:300]!r}")
            raise
    assert 0 in outcomes
    if file.startswith(("records/", "timings/", "samples/", "environment")):
        assert 34 in outcomes
        assert drawn


def scored(run: Path) -> None:
    """Read the run as a comparison does."""
    try:
        score(run, ("north", "south"), ())
    except FedskdError:
        return


@pytest.mark.parametrize(
    "file",
    ["records/north.jsonl", "timings/south.jsonl", "samples/north.jsonl", "logs/north.jsonl"],
)
def test_a_torn_last_line_is_absent_and_said(file: str, run: Path) -> None:
    """A line that was cut in the middle of its writing leaves the rest of the folder readable,
    and both commands tell of it.
    """
    text = (run / file).read_bytes()
    (run / file).write_bytes(text[:-20])
    assert command("report", run, f"The last line of {file} has no end") == 0
    location.note(run, location.Here(2**22 + 1, 1.0, location.Here.of_this_process().machine))
    assert command("status", run, f"the last line of {file} has no end") == 0


@pytest.fixture
def stranger(run: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that has the run's lock, and nothing else to do with it."""
    code = "import sys; held = open(sys.argv[1], 'w'); print(flush=True); input()"
    command, pipe = [sys.executable, "-c", code, str(run / folders.LOCK)], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout
        process.stdout.readline()
        yield process
        process.kill()


def test_stop_signals_only_the_process_that_launched(
    run: Path, stranger: subprocess.Popen[bytes]
) -> None:
    """Of all that place.json may say only number, birth and machine of a process together let it
    be asked to end; the boot stands for the machine, by whatever name.
    """
    own = replace(
        location.Here.of_this_process(),
        pid=stranger.pid,
        born=psutil.Process(stranger.pid).create_time(),
    )
    location.note(run, own)
    text = (run / location.FILE).read_bytes()
    left_out = ("run", "data", "boot")
    good = {key: value for key, value in json.loads(text).items() if key not in left_out}
    for key, value in ((key, value) for key in good for value in EVIL):
        (run / location.FILE).write_text(json.dumps({**good, key: value}), encoding="utf-8")
        command("stop", run)
        command("status", run)
    for number in range(100):
        changed = bent(json.dumps(good).encode() + b"\n", random.Random(number))
        (run / location.FILE).write_bytes(changed)
        if not same(changed, good):
            command("stop", run)
            command("status", run)
    assert stranger.poll() is None
    named = {**json.loads(text), "machine": "as it was called before"}
    (run / location.FILE).write_text(json.dumps(named), encoding="utf-8")
    assert command("status", run, f"running, process {stranger.pid}") == 0
    assert command("stop", run, "stopped") == 0
    assert stranger.wait(300)


def same(text: bytes, good: dict[str, Any]) -> bool:
    """Tell whether a change has left number, machine and, to a second or two, birth, by which
    the launcher is known.
    """
    try:
        found = json.loads(text)
        return {"runtime": "processes", **found, "born": 0} == {**good, "born": 0} and abs(
            found["born"] - good["born"]
        ) < 3
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def test_without_births_nothing_is_signalled(run: Path, stranger: subprocess.Popen[bytes]) -> None:
    """The notes of an older version, which say of no machine or have an empty birth, stop
    nobody.
    """
    (run / location.FILE).write_text(
        json.dumps({"runtime": "processes", "pid": stranger.pid, "born": ""}), encoding="utf-8"
    )
    assert command("stop", run, "place.json") == 34
    assert stranger.poll() is None


def test_what_draws_the_page_is_imported_while_the_run_goes_on(tmp_path: Path) -> None:
    """When the first event has come, a thread imports it; nobody waits for that at the end."""
    code = (
        "import sys, threading; from pathlib import Path\n"
        "from fedskd_sim.operate import execution; from fedskd_sim.scenario import load\n"
        "def watch(_event):\n"
        "    for one in threading.enumerate(): one.join() if one.name == 'drawing' else None\n"
        "    seen.append({*execution.DRAWING} <= {*sys.modules})\n"
        "seen, at = [], execution.runtime_of('processes')\n"
        "assert not {'numpy', 'matplotlib'} & {*sys.modules}\n"
        "file, out = map(Path, sys.argv[1:])\n"
        "order = execution.make_order(load(file), 'processes', out, None)\n"
        "execution.carry_out(at, order, execution.Attendant('test', watch=watch))\n"
        "assert seen and all(seen)"
    )
    command = [sys.executable, "-c", code, str(scenarios()["placebo-ok"]), str(tmp_path / "run")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
