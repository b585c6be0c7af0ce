"""Live progress on a terminal and without one."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from fedskd_sim.observe.events import Arrived, Finished, Logged, Start, WarmUp
from fedskd_sim.observe.progress import Progress
from fedskd_sim.topology import Topology

RING = Topology(("north", "south"), 1)


def events() -> list[Logged]:
    warm = (0, 0, "north", "warm_up", "trained")
    said = [
        ("north", WarmUp()),
        ("north", Finished(*warm, 0.25)),
        ("south", Finished(*warm, 0.5)),
        ("north", Arrived(1, 1, "south", "visit")),
        ("north", Finished(1, 1, "south", "visit", "rolled_back", 0.75)),
        ("", Start(2)),
    ]
    return [Logged(0.0, who, what) for who, what in said]


def shown(*, terminal: bool) -> tuple[str, Progress]:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100)
    with Progress(RING, console) as progress:
        for event in events():
            progress(event)
    return stream.getvalue(), progress


def test_without_a_terminal_there_is_one_plain_line_per_stop() -> None:
    """No control characters; each line says where, who hosts whom, accuracy, and the time left once it is known."""
    text, _ = shown(terminal=False)
    lines = text.splitlines()
    assert "\x1b" not in text
    assert len(lines) == 3
    assert "round 1/1 hop 1/2" in lines[2]
    assert "north trained with south (rolled back): accuracy 75.0%" in lines[2]
    assert "s left" in lines[2]


def test_on_a_terminal_there_is_a_row_per_hospital() -> None:
    """The table shows round, hop, what a hospital does, whose accuracy was the last and how many stops are done."""
    text, _ = shown(terminal=True)
    for piece in ("north", "south", "round 1/1 hop 1/2", "75.0% south", "50.0% north", "2/5", "1/5"):
        assert piece in text


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_no_terminal_cuts_a_place_an_accuracy_or_a_count(width: int) -> None:
    """Thirty hospitals with long names that differ at the end are told apart, and every number is whole, in any width."""
    names = tuple(f"university-hospital-number-{number:02}" for number in range(30))
    stream = io.StringIO()
    progress = Progress(Topology(names, 12), Console(file=stream, width=width), quiet=True)
    for name in names:
        progress(Logged(0.0, name, Arrived(12, 29, names[3], "visit")))
        progress(Logged(0.0, name, Finished(12, 29, names[3], "visit", "trained", 0.123)))
    progress.show()
    rows = [line.rstrip() for line in stream.getvalue().splitlines() if line.rstrip().endswith(" 1/391")]
    assert len({row.split()[0] for row in rows}) == 30
    assert all(("round 12/12 hop 29/30" if width >= 100 else "r12 h29") in row for row in rows)
    assert width < 80 or all(re.search(r"12\.3% univ\S*-03 ", row) for row in rows)
    assert max(map(len, stream.getvalue().splitlines())) <= width


def test_a_dumb_terminal_gets_lines_as_they_come() -> None:
    """Where no cursor can be moved there are plain lines instead of a table that would only show at the end."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, _environ={"TERM": "dumb"})
    with Progress(RING, console) as progress:
        for event in events():
            progress(event)
        assert len(stream.getvalue().splitlines()) == 3


def test_the_time_left_is_unknown_until_everyone_has_warmed_up_and_ends_at_zero() -> None:
    """Before anything is known nothing is promised; with all stops done nothing is left."""
    progress = Progress(RING, Console(file=io.StringIO()))
    assert progress.left() is None
    for event in events()[:2]:
        progress(event)
    assert progress.left() is None
    done = Finished(1, 1, "x", "visit", "trained", 1.0)
    for name in RING.hospitals:
        for _ in range(5 - (name == "north")):
            progress(Logged(0.0, name, done))
    assert progress.left() is not None
    assert progress.left() == 0
