"""What is read of a long run needs no more memory than that of a short one."""

from __future__ import annotations

import tracemalloc
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from fedskd_sim import launch, load, read_run
from fedskd_sim.custody.verify import verify
from fedskd_sim.errors import RunUnreadable
from fedskd_sim.operate import run_access
from fedskd_sim.records.files import read_records
from fedskd_sim.results.export import write
from fedskd_sim.runtimes import folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run."""
    return launch("placebo-ok", on="memory", out=tmp_path_factory.mktemp("runs") / "run").folder


def longer(run: Path, to: Path, times: int) -> Path:
    """Make a run folder with timings and logs of many rounds."""
    once = [run / "scenario.yaml", *run.glob("records/*")]
    for file in [*once, *run.glob("timings/*"), *run.glob("logs/*")]:
        copy = to / file.relative_to(run)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes() * (1 if file in once else times))
    return to


def peak(work: Callable[[], object]) -> int:
    """Measure the memory that something takes at most."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_logs_of_a_long_run_are_read_line_by_line(run: Path, tmp_path: Path) -> None:
    """Twenty times the lines take less than twice the memory."""

    def needed(times: int) -> int:
        seen = run_access.run(str(longer(run, tmp_path / str(times), times)), "", "")
        return peak(lambda: deque(seen.events(), maxlen=0))

    assert needed(80) < 2 * needed(4)


def test_a_proof_keeps_a_few_bytes_of_each_record(tmp_path: Path) -> None:
    """Ten times the rounds take less than 150 bytes more for every record that there is more, of
    which each has 400 in its file.
    """

    def needed(rounds: int) -> tuple[int, int]:
        loaded = load("placebo-ok", f"algorithm.rounds={rounds}")
        run = launch(loaded, on="memory", out=tmp_path / str(rounds)).folder
        verify(run, loaded.scenario)  # imports
        return peak(lambda: verify(run, loaded.scenario)), verify(run, loaded.scenario).records

    (few, short), (many, long) = needed(5), needed(50)
    assert long > 7 * short
    assert many - few < 150 * (long - short)


def test_tables_are_written_row_by_row(tmp_path: Path) -> None:
    """What an export goes through is not kept: less than half of what the same tables need when
    they are asked for.
    """
    loaded = load("placebo-ok", "algorithm.rounds=30")
    run = launch(loaded, on="memory", out=tmp_path / "run")
    for name in ("hops", "measures", "timings"):
        streamed = peak(lambda name=name: deque(run.rows(name), maxlen=0))
        assert name not in vars(run)
        assert [*run.rows(name)] == run.table(name)
        assert streamed < peak(lambda name=name: read_run(run.folder).table(name)) / 2


def test_who_watches_a_run_reads_each_line_once(run: Path, tmp_path: Path) -> None:
    """What was logged since the last look is all that the next one gives, also of a hospital that
    had no log before, and a half-written line is given when it is whole.
    """
    place = longer(run, tmp_path / "run", 1)
    late = place / "logs" / "north.jsonl"
    text = late.read_text()
    late.unlink()
    logs = folder.Logs(place)
    before = [*logs.news()]
    assert [*logs.news()] == []
    late.write_text(text[:-9])
    some = [*logs.news()]
    assert {one.hospital for one in some} == {"north"}
    late.write_text(text)
    last = [*logs.news()]
    assert len(last) == 1
    whole = [*run_access.run(str(place), "", "").events()]
    assert sorted([*before, *some, *last], key=repr) == sorted(whole, key=repr)


def test_logs_are_told_in_the_order_of_time(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they are read side by side or, where they are too many for that, one by one."""
    orders = []
    for most in (folder.MOST_OPEN, 0):
        monkeypatch.setattr(folder, "MOST_OPEN", most)
        orders.append([one.time for one in run_access.run(str(run), "", "").events()])
    assert orders[0] == orders[1] == sorted(orders[0])
    assert len(orders[0]) > len(read_records(run))


def test_a_table_that_cannot_be_read_leaves_no_half_of_it(run: Path, tmp_path: Path) -> None:
    """A damaged last line is an error, and the file from before stays as it was."""
    place = longer(run, tmp_path / "run", 1)
    damaged = place / "timings" / "north.jsonl"
    damaged.write_text(damaged.read_text() + "{}\n")
    before = place / "export" / "timings.csv"
    before.parent.mkdir()
    before.write_text("old\n")
    with pytest.raises(RunUnreadable):
        write(read_run(place), "csv", place / "export")
    assert not [*before.parent.glob("*.draft")]
    assert before.read_text() == "old\n"
