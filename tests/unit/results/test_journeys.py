"""The picture of the models' journeys, and what a page says of faults."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_report import Outline, evaluations, folder, story

from fedskd_sim.records import Timing, to_line
from fedskd_sim.results.account import Absence, Troubles
from fedskd_sim.results.lamport import MOST_LINES, MOST_PIECES, Journeys, _ticks
from fedskd_sim.results.report import write
from fedskd_sim.results.timeline import Spans
from fedskd_sim.ring.program import Program
from fedskd_sim.ring.topology import Topology

THREE = ("north", "east", "south")
BEGAN = 1e9
FAULTS = """
name: faults
hospitals: [{name: a, architecture: buffer}, {name: b, architecture: buffer},
            {name: c, architecture: buffer}]
algorithm: {name: placebo, rounds: 1, session_seconds: 1}
faults: [{hospital: b, what: kill, round: 1, hop: 2}, {hospital: c, what: late, lasts: 4},
         {hospital: a, what: stop, after: 6.5, lasts: 20}]
"""


def timings(hospitals: tuple[str, ...], rounds: int) -> Iterator[Timing]:
    """Make up the timings of a circulation, hospital by hospital: a second per hop."""
    ring, size = Topology(hospitals, rounds), len(hospitals)
    for host in hospitals:
        for stop in Program(ring, host).stops():
            at = BEGAN + size * (stop.round - 1) + stop.hop
            place = stop.model, stop.round, stop.hop
            sender = hospitals[hospitals.index(host) - 1]
            yield Timing("transfer", sender, *place, at - 0.2, at, 1500, to=host, attempts=1)
            yield Timing("session", host, *place, at, at + 0.7)


def page_of(run: Path, entries: list[Timing], names: tuple[str, ...] = THREE) -> str:
    """Write the report of a run with these timings and no others."""
    records = evaluations() if names == THREE else story(names)
    folder(run, records, names)
    for name in names:
        lines = [to_line(one) + "\n" for one in entries if one.host == name]
        (run / "timings" / f"{name}.jsonl").write_text("".join(lines))
    write(run, names)
    return (run / "report.html").read_text(encoding="utf-8")


def log(run: Path, host: str, *lines: tuple[float, str, dict[str, object]]) -> None:
    """Write a hospital's log."""
    (run / "logs").mkdir(exist_ok=True)
    text = (
        json.dumps({"time": BEGAN + at, "event": event, "run": "r", "hospital": host, **rest})
        for at, event, rest in lines
    )
    (run / "logs" / f"{host}.jsonl").write_text("".join(line + "\n" for line in text))


def test_every_model_that_went_on_is_an_arrow_in_its_colour(tmp_path: Path) -> None:
    """Arrows and pieces are as many as transfers and sessions, and each says what it is."""
    found = list(timings(THREE, 1))
    page = page_of(tmp_path, found)
    arrows = re.findall(r'<line class="a(\d)" x1="([\d.]+)%" y1="[\d.]+" x2="([\d.]+)%"', page)
    sent = [one for one in found if one.what == "transfer"]
    assert len(arrows) == len(sent) == len(re.findall('class="near"', page))
    assert sorted(int(look) for look, _, _ in arrows) == sorted(
        THREE.index(one.model) for one in sent
    )
    assert all(float(start) < float(end) for _, start, end in arrows)
    assert "north → east: the model of north, round 1, hop 1, 0.2 s, 1.5 kB" in page
    assert "east trains the model of north, round 1, hop 1, 0.7 s" in page
    assert len(re.findall(r'<rect class="b\d"', page)) == len(found) - len(sent)
    assert "No fault struck, every model arrived at its first attempt" in page
    assert Outline(page).open == []


def test_the_picture_of_journeys_is_whole(tmp_path: Path) -> None:
    """No line, piece or word of it lies above or below it: what does is not shown."""
    page = page_of(tmp_path, list(timings(THREE, 1)))
    for name in ("names", "lines"):
        found = re.search(rf'<svg class="{name}".*?height: (\d+)px.*?</svg>', page, re.DOTALL)
        assert found
        drawn = re.sub("<defs>.*?</defs>", "", found[0], flags=re.DOTALL)
        places = [float(place) for place in re.findall(r' y[12]?="(-?[\d.]+)"', drawn)]
        assert places
        assert 0 <= min(places) <= max(places) <= int(found[1]), name


def test_what_was_sent_or_done_again_is_named(tmp_path: Path) -> None:
    """Attempts stand beside the arrow and in the table; a session that was done again has a
    rim.
    """
    found = list(timings(THREE, 1))
    slow = next(one for one in found if one.what == "transfer" and one.hop == 2)
    twice = next(one for one in found if one.what == "session" and one.host == "south")
    found[found.index(slow)] = Timing(
        *("transfer", slow.host, slow.model, 1, 2, slow.start, slow.end + 1), 9, slow.to, attempts=3
    )
    found.append(Timing("session", "south", twice.model, 1, twice.hop, BEGAN + 9, BEGAN + 9.5))
    page = page_of(tmp_path, found)
    assert "3 attempts" in page
    assert len(re.findall('class="times"', page)) == 1
    assert len(re.findall(r'<rect class="b\d again"', page)) == 2
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", page)
    cells = [re.sub(r"<[^>]*>", "|", row).strip("|") for row in rows]
    assert f"{slow.model}||1||2||{slow.host} → {slow.to}||3||1.2" in cells
    assert f"{twice.model}||1||{twice.hop}||south: session||2||0.5" in cells
    assert "No fault struck" not in page


def test_who_was_away_is_told_from_logs_and_timings(tmp_path: Path) -> None:
    """Deaths end when the hospital is back, other faults when their time is over; a death that
    nobody wanted counts, and one without a return has no end.
    """
    back = [
        Timing("resumed", "north", "north", 0, 0, BEGAN + at, BEGAN + at + 0.5) for at in (1.2, 3.4)
    ]
    page_of(tmp_path, [*timings(THREE, 1), *back])
    fault = {"what": "kill", "round": 1, "hop": 2, "lasts": None}
    log(
        tmp_path,
        "north",
        (1.0, "fault", fault),
        (1.1, "restarted", {"number": 1, "cause": "SIGKILL"}),
        (3.0, "restarted", {"number": 1, "cause": "out of memory"}),
        (4.0, "refused", {"sender": "east", "reason": "late"}),
    )
    log(
        tmp_path,
        "east",
        (1.5, "fault", {"what": "slow", "round": 1, "hop": 1, "lasts": 2.0}),
        (2.0, "fault", {"what": "leave"}),
    )
    troubles = Troubles.of(tmp_path, THREE, Spans.of(back))
    rows = [
        (one.host, one.what, one.round, one.hop, one.start - BEGAN, one.end - BEGAN)
        for one in troubles.absences
    ]
    assert [row[:4] for row in rows] == [
        ("north", "kill", 1, 2),
        ("east", "slow", 1, 1),
        ("east", "leave", 0, 0),
        ("north", "died: out of memory", 0, 0),
    ]
    assert [row[4] for row in rows] == pytest.approx([1.0, 1.5, 2.0, 3.0], abs=1e-3)
    assert [row[5] for row in rows] == pytest.approx(
        [1.7, 3.5, math.nan, 3.9], abs=1e-3, nan_ok=True
    )
    assert [one.reason for one in troubles.refusals] == ["late"]
    write(tmp_path, THREE)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(re.findall('<rect class="gone"', page)) == 3
    assert len(re.findall('<rect class="slow"', page)) == 1
    assert len(re.findall('<text class="sign"', page)) == 5
    assert "north refuses what east sent: late" in page
    assert Outline(page).open == []


def test_a_run_in_simulated_time_tells_simulated_seconds(
    scenario_file: Callable, run: Callable
) -> None:
    """Who was late, stood still and died is told with the place, and with the seconds that were
    wanted, but no end by a clock that does not know them.
    """
    out = run(scenario_file(FAULTS))
    found = Troubles.of(out, ("a", "b", "c"), simulated=True).absences
    told = {(one.host, one.what): one for one in found}
    assert told.keys() == {("a", "stop"), ("b", "kill"), ("c", "late")}
    assert told["b", "kill"][2:4] == (1, 2)
    assert (told["a", "stop"].round, told["a", "stop"].seconds) == (1, 20)
    assert told["c", "late"].seconds == 4
    assert all(math.isnan(one.end) for one in found)


def test_of_a_long_run_the_first_rounds_are_drawn(tmp_path: Path) -> None:
    """Its rounds are whole or not there, the page says so, stays small, and still shows all of
    the time.
    """
    names = tuple(f"site-{number}" for number in range(5))
    page = page_of(tmp_path, list(timings(names, 60)), names)
    journeys = Journeys.among(names)
    assert len(list(journeys.taking(timings(names, 60)))) > MOST_PIECES
    assert (journeys.last, journeys.cut) == (24, 25)
    rounds = [one.round for one in journeys.pieces]
    assert {rounds.count(number) for number in range(1, 25)} == {2 * 5 * 5}
    assert "The beginning of the run, up to the end of round 24: " in page
    assert "All of the time" in page
    assert len(page[page.index('<svg class="names"') : page.index("All of the time")]) < 400_000


def test_of_many_hospitals_the_first_are_drawn(tmp_path: Path) -> None:
    """Neighbours on the ring stay neighbours, and the page says who is missing."""
    names = tuple(f"site-{number}" for number in range(MOST_LINES + 6))
    page = page_of(tmp_path, list(timings(names, 1)), names)
    assert f"The first {MOST_LINES} of {MOST_LINES + 6} hospitals" in page
    assert len(re.findall('class="life"', page)) == MOST_LINES
    assert len(re.findall('class="near"', page)) > MOST_LINES


def test_a_log_that_is_torn_or_strange_takes_no_report_away(tmp_path: Path) -> None:
    """What is no line of a log, or has no end, is passed over."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.jsonl").write_bytes(
        b'{"time": 1, "event": "fault", "what": 7}\n\xff"fault"\n{"time": 2.0, "event": "fault", '
        b'"what": "kill"}\n{"time": 3.0, "event": "fault", "wh'
    )
    assert Troubles.of(tmp_path, ("a", "b")).absences == (Absence("a", "kill", 0, 0, 2.0),)


@pytest.mark.parametrize(("seconds", "most"), [(0.013, 8), (7.3, 8), (7.3, 60), (86400.0, 60)])
def test_ticks_are_round_and_not_too_many(seconds: float, most: int) -> None:
    """They begin at 0, do not pass the end, and their step is 1, 2 or 5 times a power of ten."""
    ticks = _ticks(seconds, most)
    assert ticks[0] == 0
    assert most / 3 < len(ticks) <= most + 1
    assert ticks[-1] <= seconds
    assert f"{ticks[1]:e}"[0] in "125"
