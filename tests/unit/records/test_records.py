"""Records: one line per stop, exact, durable, and refused when damaged."""

from __future__ import annotations

import json
import math
import random
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from fedskd_sim.errors import RunUnreadable, Where
from fedskd_sim.records import SCHEMA, Measure, Record, Timing, to_line
from fedskd_sim.records.files import read_records, read_timings
from fedskd_sim.records.ledger import Ledger

RECORD = Record(
    "s", 1, "visit", 1, 2, "a", "b", "cnn", "trained", measures={"accuracy": Measure(3.0, 4.0)}
)
TIMING = Timing("session", "a", "b", 1, 2, 10.0, 11.5)


def ledger(run: Path, host: str = "a", *entries: Record | Timing) -> Ledger:
    made = Ledger(run, host)
    for entry in entries:
        made.add(entry)
    return made


def test_entries_are_there_before_the_ledger_is_closed(tmp_path: Path) -> None:
    """Each entry reaches its file at once, so that a killed hospital loses none."""
    kept = ledger(tmp_path, "a", RECORD, TIMING)
    assert read_records(tmp_path) == [RECORD]
    assert read_timings(tmp_path) == [TIMING]
    kept.close()


def test_entries_after_the_end_are_dropped(tmp_path: Path) -> None:
    """A late thread neither fails nor writes after the ledger was closed."""
    kept = ledger(tmp_path, "a", RECORD, TIMING)
    kept.close()
    kept.add(RECORD)
    kept.add(TIMING)
    kept.close()
    assert (len(read_records(tmp_path)), len(read_timings(tmp_path))) == (1, 1)


def test_a_ledger_never_overwrites(tmp_path: Path) -> None:
    """A second ledger of the same hospital in the same run is refused, and the first's records
    stay.
    """
    ledger(tmp_path, "a", RECORD, TIMING).close()
    with pytest.raises(FileExistsError):
        Ledger(tmp_path, "a")
    assert read_records(tmp_path) == [RECORD]


@pytest.mark.parametrize("left", ["half", "nothing"])
def test_a_life_does_not_go_on_behind_records_that_are_gone(left: str, tmp_path: Path) -> None:
    """Custody knows how many bytes there were: a file that is shorter, or not there, is named and
    left as it is, not filled up with zeros.
    """
    ledger(tmp_path, "a", RECORD, replace(RECORD, hop=3)).close()
    file = tmp_path / "records" / "a.jsonl"
    size = file.stat().st_size
    Ledger(tmp_path, "a", kept=size).close()
    file.write_bytes(file.read_bytes()[: size // 2] if left == "half" else b"")
    if left == "nothing":
        file.unlink()
    with pytest.raises(RunUnreadable, match=f"goes on behind {size}") as caught:
        Ledger(tmp_path, "a", kept=size)
    assert caught.value.where == Where(str(file))
    assert (file.stat().st_size if file.exists() else -1) == (size // 2 if left == "half" else -1)


def test_two_threads_write_whole_lines(tmp_path: Path) -> None:
    """Records from a session and timings from the transport do not run into each other."""
    kept = ledger(tmp_path)
    long = replace(RECORD, reason="x" * 5000)

    def write(hops: range) -> None:
        for hop in hops:
            kept.add(replace(long, hop=hop))
            kept.add(replace(TIMING, hop=hop))

    threads = [threading.Thread(target=write, args=(range(first, 800, 4),)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept.close()
    assert sorted(read_records(tmp_path), key=lambda record: record.hop) == [
        replace(long, hop=hop) for hop in range(800)
    ]
    assert sorted(read_timings(tmp_path), key=lambda timing: timing.hop) == [
        replace(TIMING, hop=hop) for hop in range(800)
    ]


def test_records_come_hospital_by_hospital_in_the_order_written(tmp_path: Path) -> None:
    """Reading does not depend on when which hospital wrote."""
    for host in ("c", "a", "b"):
        ledger(tmp_path, host, *(replace(RECORD, host=host, hop=hop) for hop in (2, 1))).close()
    assert [(record.host, record.hop) for record in read_records(tmp_path)] == [
        (h, n) for h in "abc" for n in (2, 1)
    ]


def test_floats_round_trip_bit_for_bit(tmp_path: Path) -> None:
    """Any float of any size comes back as the same 64 bits."""
    draw = random.Random(0)
    values = [draw.uniform(-1, 1) * 10.0 ** draw.randint(-300, 300) for _ in range(500)] + [
        0.0,
        -0.0,
        5e-324,
        math.inf,
        0.1 + 0.2,
    ]
    ledger(
        tmp_path,
        "a",
        replace(RECORD, measures={str(n): Measure(value, 1.0) for n, value in enumerate(values)}),
        TIMING,
    ).close()
    found = [measure.sum.hex() for measure in read_records(tmp_path)[0].measures.values()]
    assert found == [value.hex() for value in values]


def test_a_line_is_one_line_whatever_the_reason_says() -> None:
    """Newlines and letters of any script in a text do not break the format."""
    line = to_line(replace(RECORD, reason='one\ntwo "three" \u2028 \x00 ü'))
    assert len(line.splitlines()) == 1
    assert json.loads(line)["reason"] == 'one\ntwo "three" \u2028 \x00 ü'
    assert json.loads(line)["schema"] == SCHEMA


def test_measures_add_up() -> None:
    """Pooling adds sums and weights, in any grouping; the mean of nothing is not a number."""
    parts = [Measure(float(number), float(number % 3)) for number in range(9)]
    total = Measure(0.0, 0.0)
    for part in parts:
        total = total.plus(part)
    assert total == Measure(36.0, 9.0)
    assert total.mean == 4.0
    assert math.isnan(Measure(0.0, 0.0).mean)


GOOD_LINE = to_line(RECORD)
DAMAGED = {
    "cut": GOOD_LINE[:40],
    "empty": "",
    "a number": "3",
    "a list": "[]",
    "another key": GOOD_LINE.replace('"host":', '"hots":'),
    "an unknown key": GOOD_LINE.replace("{", '{"more":1,', 1),
    "no measures": GOOD_LINE.replace('"measures"', '"measure"'),
    "a measure of three": GOOD_LINE.replace("[3.0,4.0]", "[3.0,4.0,5.0]"),
    "a list for a name": GOOD_LINE.replace('"model":"b"', '"model":["b"]'),
    "measures in a list": GOOD_LINE.replace('{"accuracy":[3.0,4.0]}', "[3.0]"),
}


@pytest.mark.parametrize("line", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_lines_are_named(line: str, tmp_path: Path) -> None:
    """A line that is no record is an error with its file and line, never a wrong number in a
    table.
    """
    ledger(tmp_path, "a", RECORD, TIMING).close()
    file = tmp_path / "records" / "a.jsonl"
    file.write_text(f"{GOOD_LINE}\n{line}\n{to_line(replace(RECORD, hop=3))}\n")
    with pytest.raises(RunUnreadable) as caught:
        read_records(tmp_path)
    assert str(caught.value.where) == f"{file}:2"
    assert caught.value.fix


@pytest.mark.parametrize(
    "second", [RECORD, replace(RECORD, outcome="rolled_back", measures={}), replace(RECORD, seed=2)]
)
@pytest.mark.parametrize("file", ["a.jsonl", "a copy.jsonl"])
def test_a_stop_has_one_record(second: Record, file: str, tmp_path: Path) -> None:
    """A second record of a stop, the same line or another one, in the same file or a copy of it,
    is refused, and both are named.
    """
    ledger(tmp_path, "a", replace(RECORD, hop=1), RECORD, TIMING).close()
    with (tmp_path / "records" / file).open("a", encoding="utf-8") as stream:
        stream.write(to_line(second) + "\n")
    with pytest.raises(
        RunUnreadable,
        match=r"record \(visit\) of the model of 'b' at 'a', round 1, hop 2, stands twice",
    ) as caught:
        read_records(tmp_path)
    places = {
        f"{tmp_path / 'records' / 'a.jsonl'}:2",
        f"{tmp_path / 'records' / file}:{3 if file == 'a.jsonl' else 1}",
    }
    assert {str(caught.value.where), caught.value.message.rpartition("first in ")[2]} == places
    assert "remove the line" in caught.value.fix


def test_stops_that_differ_in_anything_that_names_them_are_apart(tmp_path: Path) -> None:
    """Kind, host, model, round and hop together name a record: those that differ in one of them
    are all read.
    """
    others = [{"kind": "evaluation"}, {"host": "c"}, {"model": "c"}, {"round": 2}, {"hop": 3}]
    ledger(tmp_path, "a", RECORD, *(replace(RECORD, **other) for other in others)).close()
    assert len(read_records(tmp_path)) == 6


def test_a_stop_may_be_timed_again_but_no_timing_stands_twice(tmp_path: Path) -> None:
    """Two evaluations of one stop are two timings; the same line twice would count its seconds
    twice and is refused.
    """
    again = replace(TIMING, start=12.0, end=12.5)
    ledger(tmp_path, "a", RECORD, TIMING, again).close()
    assert read_timings(tmp_path) == [TIMING, again]
    ledger(tmp_path, "b", RECORD, TIMING).close()
    with pytest.raises(
        RunUnreadable, match=r"same timing \(session\) .* stands twice, first in .*a\.jsonl:1"
    ):
        read_timings(tmp_path)


@pytest.mark.parametrize("read", [read_records, read_timings])
def test_a_folder_without_records_is_no_run(read: object, tmp_path: Path) -> None:
    """The error names the folder and says which one to give."""
    with pytest.raises(RunUnreadable, match=tmp_path.name) as caught:
        read(tmp_path)
    assert "fedskd-sim launch" in caught.value.fix
