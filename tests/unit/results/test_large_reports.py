"""Reports of runs that are too large to draw and to hold as a whole: what is sampled is said to
be, and pages stay small.
"""

from __future__ import annotations

import json
import math
import random
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from test_report import folder, story

from fedskd_sim.records import Timing
from fedskd_sim.results.gathered import Gathered, GatheredStep, Way
from fedskd_sim.results.pictures import matrix
from fedskd_sim.results.report import as_json, summarise, write
from fedskd_sim.results.svg import Plot
from fedskd_sim.results.timeline import MOST_BARS, MOST_ROWS, Spans, busy, sampling, timeline
from fedskd_sim.results.waypictures import (
    MOST_PANELS,
    MOST_POINTS,
    Band,
    _band,
    _homes,
    _line,
    accuracy,
)
from fedskd_sim.results.waypictures import sampling as ways_left_out

SHARES = (0.1, 2.0, 0.5, 0.25, 0.5, 0.5, 0.5)
FORTY = tuple(f"site-{number:02}" for number in range(40))


def timings(hosts: tuple[str, ...], count: int) -> list[Timing]:
    """Make up sessions of random length."""
    draw = random.Random(0)
    at = [(host, 1e9 + 10 * number) for host in hosts for number in range(count)]
    return [
        Timing(
            "session", host, host, 1, 1, start, start + 10 * draw.random(), peak_bytes=int(start)
        )
        for host, start in at
    ]


def svg(plot: Plot | None) -> str:
    """Draw it for a page."""
    assert plot
    return plot.embedded()


def way(stops: int, size: int) -> Way:
    """Make up a way in which every ``size``-th stop is at home and one session is rolled back."""
    return Way(
        GatheredStep(stop, 1, 1, "", stop % size == 0, stop == 777, stop / stops, math.nan)
        for stop in range(stops + 1)
    )


@pytest.mark.parametrize("size", [3, 17])
def test_a_picture_of_ways_is_whole(size: int) -> None:
    """Panels, or one for all: no word and no line of them lies outside the picture."""
    names = FORTY[:size]
    drawn = svg(accuracy(summarise(story(names, rounds=3), names)))
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn)
    assert box
    words = re.findall(r'<text [^>]* x="(-?[\d.]+)" y="(-?[\d.]+)"', drawn)
    paths = re.findall(r'<path d="([^"]*)"[^>]*clip-path', drawn)
    ends = re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", " ".join(paths))
    assert words
    assert ends
    for x, y in (*words, *ends):
        assert 0 <= float(x) <= float(box[1]), x
        assert 0 <= float(y) <= float(box[2]), y


def test_a_picture_has_room_on_a_page() -> None:
    """It grows to one and a half times its points, and does not shrink below them."""
    drawn = svg(accuracy(summarise(story(FORTY[:3]), FORTY[:3])))
    found = re.search(r'viewBox="0 0 (\d+) .*?min-width: (\d+)px; max-width: (\d+)px', drawn)
    assert found
    points, least, most = map(int, found.groups())
    assert points < least < most == 1.5 * points


def test_a_report_takes_in_one_record_at_a_time() -> None:
    """Visits, of which a long run has most, are not kept: an iterator is enough, and gives the
    summary of the whole list.
    """
    records = story(FORTY[:5], rounds=3)
    found = Gathered.of(iter(records), FORTY[:5])
    assert not [record for record in found.kept if record.kind == "visit"]
    whole, streamed = (as_json(summarise(some, FORTY[:5])) for some in (records, iter(records)))
    assert whole == streamed
    assert sum(map(len, found.ways.values())) == found.counts.sessions == 5 + 5 * 5 * 3


@pytest.mark.parametrize("rounds", [2, 12])
def test_pictures_of_forty_hospitals_stay_small(rounds: int) -> None:
    """However long the run, no picture has more elements and points than can be told apart, and
    it says which are drawn.
    """
    summary = summarise(story(FORTY, rounds), FORTY)
    ways = svg(accuracy(summary))
    assert len(ways) < 400_000
    assert ways.count("<text") < 4 * MOST_PANELS
    assert f"{MOST_PANELS} of 40 models" in ways_left_out(summary)
    assert ("240 of up to" in ways_left_out(summary)) == (rounds == 12)
    table = svg(matrix(summary))
    assert table.count("<text") < 100
    assert len(table) < 200_000


def test_a_short_run_is_drawn_whole() -> None:
    """Nothing is said to be left out where nothing is."""
    summary = summarise(story(FORTY[:4]), FORTY[:4])
    assert ways_left_out(summary) == ""
    assert sampling(summary, Spans.of(timings(FORTY[:4], 10))) == ""
    assert svg(matrix(summary)).count("<text") > 16


def test_a_long_way_keeps_its_ends_its_homes_and_what_was_rolled_back() -> None:
    """Of a thousand stops some are drawn: the first, the last, some at home, the one that was
    rolled back.
    """
    line = _line(way(1000, 50), "accuracy", "stop")
    assert MOST_POINTS <= len(line.stops) <= 1.5 * MOST_POINTS
    assert {0, 777, 1000} <= {*line.stops}
    assert [line.stops[place] for place in line.home] == list(range(0, 1001, 50))
    assert [line.stops[place] for place in line.rolled_back] == [777]
    assert all(
        value == pytest.approx(stop / 10)
        for stop, value in zip(line.stops, line.values, strict=True)
    )


@pytest.mark.parametrize(("rounds", "ticks"), [(5, 6), (100, 6), (1000, 3)])
def test_small_pictures_have_ticks_that_do_not_touch(rounds: int, ticks: int) -> None:
    """Longer numbers are fewer, and all of them are stops at home."""
    stops = np.arange(0.0, 20 * rounds + 1)
    found = _homes(Band(stops, stops, stops, 20), small=True)
    assert len(found) == ticks
    assert not [stop for stop in found if stop % 20]


def test_a_way_gives_its_steps_as_they_were_in_the_order_of_stops() -> None:
    """Whatever the order and number in which they come."""
    draw = random.Random(5)
    steps = [
        GatheredStep(stop, stop // 9, stop % 9, f"h{stop % 7}", stop % 9 == 8, stop == 3, *SHARES)
        for stop in range(3000)
    ]
    found = Way(draw.sample(steps, 3000))
    found.sort()
    assert [*found] == steps
    assert found[-1] == steps[-1]
    assert (type(found[8].home), type(found[8].stop)) == (bool, int)
    with pytest.raises(IndexError):
        found[3000]


def test_the_grey_band_is_over_all_stops_and_models() -> None:
    """Grouping stops loses no extreme, wherever it lies."""
    ways = {
        "a": way(1000, 50),
        "b": Way(
            [
                GatheredStep(431, 1, 1, "", False, False, 7.0, 0),
                GatheredStep(433, 1, 1, "", False, False, -7.0, 0),
            ]
        ),
    }
    band = _band(ways, "accuracy", "stop", 50)
    assert len(band.stops) == MOST_POINTS
    assert (band.low.min(), band.high.max()) == (-700, 700)
    assert band.stops[int(band.high.argmax())] <= 431 <= band.stops[int(band.high.argmax()) + 1]
    assert (band.stops[0], band.stops[-1]) == (0, 1000)


def test_busy_is_the_share_of_time_within_spans() -> None:
    """It agrees with a count over a fine grid, and overlapping spans make no more than all of
    the time.
    """
    draw = np.random.default_rng(3)
    starts = np.arange(0.0, 100.0, 2.0)
    ends = starts + 2 * draw.random(50)
    edges = np.linspace(0, 101, 12)
    fine = (np.arange(202_000) + 0.5) / 2000
    inside = ((fine[:, None] >= starts) & (fine[:, None] < ends)).any(axis=1)
    counted = [inside[(fine >= low) & (fine < high)].mean() for low, high in pairwise(edges)]
    assert busy(starts, ends, edges) == pytest.approx(counted, abs=1e-3)
    assert busy(np.zeros(3), np.ones(3), np.array([0.0, 1.0, 2.0])) == pytest.approx([1, 0])


def test_a_timeline_of_many_bars_shows_shares_and_says_so() -> None:
    """Ten thousand bars are one outline per row; a few are drawn one by one."""
    summary = summarise(story(FORTY), FORTY)
    few, many = (Spans.of(timings(FORTY, count)) for count in (10, 1 + MOST_BARS // 40))
    assert len(many) > MOST_BARS >= len(few)
    assert len(svg(timeline(summary, many))) < 300_000
    said = sampling(summary, many)
    assert said.startswith(f"{MOST_ROWS} of 40 hospitals")
    assert "share of the time" in said
    assert "share of the time" not in sampling(summary, few)
    assert many.peaks["site-00"] == int(1e9 + 10 * (MOST_BARS // 40))


def test_report_json_lists_some_sessions_of_a_large_run_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond a number of sessions it has some of every model, first and last among them, and
    text and page tell.
    """
    monkeypatch.setattr("fedskd_sim.results.gathered.MOST_STEPS", 30)
    monkeypatch.setattr("fedskd_sim.results.gathered.LEAST_STEPS", 5)
    names = FORTY[:3]
    write(folder(tmp_path, story(names, rounds=6), names), names)
    ways = json.loads((tmp_path / "report.json").read_text())["ways"]
    assert {
        model: (len(steps), steps[0]["stop"], steps[-1]["stop"]) for model, steps in ways.items()
    } == dict.fromkeys(names, (10, 0, 18))
    for name in ("report.txt", "report.html"):
        assert "10 of up to 19 sessions of each model" in re.sub(
            r"\s+", " ", (tmp_path / name).read_text()
        )


def test_a_run_without_travel_has_sessions_and_no_stops() -> None:
    """Where every model stays at home the picture's axis counts its sessions, and nothing speaks
    of stops elsewhere.
    """
    names = FORTY[:2]
    records = [record for record in story(names) if record.kind in ("warm_up", "evaluation")]
    alone = [record for record in story(names, 4) if record.kind == "homecoming"]
    moved = [
        type(one)(
            **{**{name: getattr(one, name) for name in one.__slots__}, "kind": "alone", "hop": 0}
        )
        for one in alone
    ]
    picture = svg(accuracy(summarise([*records, *moved], names)))
    assert "session at home" in picture
    assert "stops a round" not in picture
