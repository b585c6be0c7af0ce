"""What a run of very many short steps asks of the system only now and then."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fedskd_sim import clock
from fedskd_sim.errors import RunAborted
from fedskd_sim.runtimes import folder as folders
from fedskd_sim.runtimes.base import Order
from fedskd_sim.runtimes.memory import SELDOM_S, MemoryRuntime, Seldom
from fedskd_sim.scenario import load

FAILING = """
name: failing
hospitals: [{name: a, architecture: buffer}, {name: b, architecture: buffer},
            {name: c, architecture: buffer}]
algorithm: {name: placebo, rounds: 2}
faults: [{hospital: b, what: abort, round: 1, hop: 2}]
"""


def test_files_are_flushed_a_few_times_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first line is there at once, later ones when the time has come, with those of other
    files; a closed file has been flushed.
    """
    moment = [100.0]
    monkeypatch.setattr(clock, "now", lambda: moment[0])
    seldom, files = Seldom(), [tmp_path / name for name in "abc"]
    streams = [file.open("w", encoding="utf-8") for file in files]
    for stream in streams:
        stream.write("line\n")
        seldom.flush(stream)
    assert [file.read_text() for file in files] == ["line\n", "", ""]
    streams[2].close()
    moment[0] += 2 * SELDOM_S
    streams[0].write("more\n")
    seldom.flush(streams[0])
    assert [file.read_text() for file in files] == ["line\nmore\n", "line\n", "line\n"]
    for stream in streams:
        stream.close()


def test_an_error_stands_behind_what_came_before_it(
    tmp_path: Path, scenario_file: Callable[[str], Path]
) -> None:
    """The log of who failed is whole, in the order in which it was written."""
    loaded = load(scenario_file(FAILING))
    run, runtime = folders.make(loaded, tmp_path / "run", "memory"), MemoryRuntime()
    runtime.launch(Order(loaded, "test", run))
    with pytest.raises(RunAborted):
        runtime.wait(lambda _: None)
    log = (run / "logs" / "b.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in log.splitlines()]
    names = [line["event"] for line in lines]
    assert names[-1] == "error"
    assert "arrived" in names
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
