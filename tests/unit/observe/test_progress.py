"""Live progress on a terminal and without one."""

from __future__ import annotations

import io
import pickle
import re

import pytest
from rich.console import Console

from fedskd_sim import clock
from fedskd_sim.observe.events import (
    UNWATCHED,
    Arrived,
    ControllerDied,
    Finished,
    Logged,
    Pod,
    StartEvent,
    WaitingEvent,
    WarmUp,
    WentOn,
)
from fedskd_sim.observe.progress import LiveView
from fedskd_sim.ring.topology import Topology

RING = Topology(("north", "south"), 1)


def events() -> list[Logged]:
    warm = (0, 0, "north", "warm_up", "trained")
    said = [
        ("north", WarmUp()),
        ("north", Finished(*warm, 0.25)),
        ("south", Finished(*warm, 0.5)),
        ("north", Arrived(1, 1, "south", "visit")),
        ("north", Finished(1, 1, "south", "visit", "rolled_back", 0.75)),
        ("", StartEvent(2)),
    ]
    return [Logged(0.0, who, what) for who, what in said]


def shown(*, terminal: bool) -> tuple[str, LiveView]:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100)
    with LiveView(RING, console) as progress:
        for event in events():
            progress(event)
    return stream.getvalue(), progress


def test_without_a_terminal_there_is_one_plain_line_per_stop() -> None:
    """No control characters; each line says where, who hosts whom, accuracy, and the time left
    once it is known.
    """
    text, _ = shown(terminal=False)
    lines = text.splitlines()
    assert "\x1b" not in text
    assert len(lines) == 3
    assert "round 1/1 hop 1/2" in lines[2]
    assert "north trained with south (rolled back): accuracy 75.0%" in lines[2]
    assert "s left" in lines[2]


def test_a_long_run_is_told_in_fewer_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first thousand stops have a line each, then there is one a second, which is said; a
    session that was rolled back is always told.
    """
    now, stream = [100.0], io.StringIO()
    monkeypatch.setattr(clock, "now", lambda: now[0])
    view = LiveView(RING, Console(file=stream, width=100))
    for number in range(1, 4001):
        now[0] += 0.01
        done = "rolled_back" if number == 2017 else "trained"
        view(Logged(0.0, "north", Finished(1, 1, "south", "visit", done, number / 4000)))
    lines = stream.getvalue().splitlines()
    assert len([line for line in lines if "one line a second" in line]) == 1
    assert 1025 <= len(lines) <= 1035
    assert len([line for line in lines if "rolled back" in line]) == 1


def test_the_loss_of_the_controller_is_told_until_another_has_started() -> None:
    """A line says how it died, and a view of the run keeps saying so; with the start of a later
    life of the run it is over.
    """
    stream = io.StringIO()
    view = LiveView(RING, Console(file=stream, width=100))
    view(Logged(0.0, "", ControllerDied("by signal 9 (SIGKILL)")))
    assert "the controller died by signal 9 (SIGKILL): the models go on" in stream.getvalue()
    assert view.remark
    view(Logged(1.0, "", StartEvent(2)))
    assert view.remark == ""


def test_without_the_controller_nobody_is_declared_lost() -> None:
    """Where the ring would go on without who is lost, its death says more: in the line and in the
    view.
    """
    stream = io.StringIO()
    view = LiveView(RING, Console(file=stream, width=200))
    view(Logged(0.0, "", ControllerDied("by signal 9", watched=True)))
    assert UNWATCHED in stream.getvalue()
    assert UNWATCHED in view.remark


def test_on_a_terminal_there_is_a_row_per_hospital() -> None:
    """The table shows round, hop, what a hospital does, whose accuracy was the last and how many
    stops are done.
    """
    text, _ = shown(terminal=True)
    for piece in (
        "north",
        "south",
        "round 1/1 hop 1/2",
        "75.0% south",
        "50.0% north",
        "2/5",
        "1/5",
    ):
        assert piece in text


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_no_terminal_cuts_a_place_an_accuracy_or_a_count(width: int) -> None:
    """Thirty hospitals with long names that differ at the end are told apart, and every number
    is whole, in any width.
    """
    names = tuple(f"university-hospital-number-{number:02}" for number in range(30))
    stream = io.StringIO()
    progress = LiveView(Topology(names, 12), Console(file=stream, width=width), quiet=True)
    for name in names:
        progress(Logged(0.0, name, Arrived(12, 29, names[3], "visit")))
        progress(Logged(0.0, name, Finished(12, 29, names[3], "visit", "trained", 0.123)))
    progress.show()
    rows = [
        line.rstrip() for line in stream.getvalue().splitlines() if line.rstrip().endswith(" 1/391")
    ]
    assert len({row.split()[0] for row in rows}) == 30
    assert all(("round 12/12 hop 29/30" if width >= 100 else "r12 h29") in row for row in rows)
    assert width < 80 or all(re.search(r"12\.3% univ\S*-03 ", row) for row in rows)
    assert max(map(len, stream.getvalue().splitlines())) <= width


def test_a_dumb_terminal_gets_lines_as_they_come() -> None:
    """Where no cursor can be moved there are plain lines instead of a table that would only show
    at the end.
    """
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, _environ={"TERM": "dumb"})
    with LiveView(RING, console) as progress:
        for event in events():
            progress(event)
        assert len(stream.getvalue().splitlines()) == 3


def test_the_time_left_is_unknown_until_everyone_has_warmed_up_and_ends_at_zero() -> None:
    """Before anything is known nothing is promised; with all stops done nothing is left."""
    progress = LiveView(RING, Console(file=io.StringIO()))
    assert progress.seconds_left() is None
    for event in events()[:2]:
        progress(event)
    assert progress.seconds_left() is None
    done = Finished(1, 1, "x", "visit", "trained", 1.0)
    for name in RING.hospitals:
        for _ in range(5 - (name == "north")):
            progress(Logged(0.0, name, done))
    assert progress.seconds_left() is not None
    assert progress.seconds_left() == 0


def test_what_was_done_before_a_resumption_is_not_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on at nine of ten steps is shown there, and what is left is the tenth."""
    now = [0.0]
    monkeypatch.setattr(clock, "now", lambda: now[0])
    stream = io.StringIO()
    ring = Topology(("one", "two"), 20)
    progress = LiveView(ring, Console(file=stream, width=80), quiet=True)
    for name in ring.names:
        progress(Logged(0.0, name, WentOn(90, 100)))
    for name, other in (("one", "two"), ("two", "one")):
        progress(Logged(now[0], name, Arrived(19, 1, other, "visit")))
        now[0] += 5.0
        progress(Logged(now[0], name, Finished(19, 1, other, "visit", "trained", 0.5)))
    steps = progress._rows["one"].total
    left = progress.seconds_left()
    assert left is not None
    assert left < 5.0 * 2 * (0.1 * steps)
    progress.show()
    done = round(0.9 * steps) + 1
    assert stream.getvalue().count(f"{done}/{steps}") == 2


def test_the_time_left_weighs_steps_by_kind_and_hospital(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow hospital's sessions count for what they take there, and evaluations for the little
    that they take.
    """
    now = [0.0]
    monkeypatch.setattr(clock, "now", lambda: now[0])
    ring = Topology(("slow", "fast"), 4)
    progress = LiveView(ring, Console(file=io.StringIO()), quiet=True)
    seconds = {"slow": 9.0, "fast": 1.0}

    def step(kind: str, round_: int, hop: int, scale: float = 1.0) -> None:
        for name, other in (("slow", "fast"), ("fast", "slow")):
            begin = WarmUp() if kind == "warm_up" else Arrived(round_, hop, other, kind)
            progress(Logged(now[0], name, begin))
            now[0] += scale * seconds[name]
            progress(Logged(now[0], name, Finished(round_, hop, other, kind, "trained", 0.5)))

    step("warm_up", 0, 0)
    step("visit", 1, 1)
    sessions = 10.0 * (ring.rounds * 2 - 1)
    assert progress.seconds_left() == pytest.approx(sessions + 2 * 10.0 / 18)
    for hop in range(1, 2 * ring.rounds):
        step("visit", 1 + hop // 2, 1 + hop % 2)
    assert progress.seconds_left() == pytest.approx(2 * 10.0 / 18, rel=1e-6)
    step("evaluation", 5, 1, 0.1)
    assert progress.seconds_left() == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize("later", [False, True], ids=["live", "looked at later"])
def test_the_time_left_does_not_count_what_passed_before_the_first_step(
    monkeypatch: pytest.MonkeyPatch, *, later: bool
) -> None:
    """Pods that take ten minutes to come up do not make a run of a minute one of hours; who looks
    at a run later takes its pace from the logs, whatever each machine's clock says.
    """
    now = [0.0]
    monkeypatch.setattr(clock, "now", lambda: now[0])
    ring = Topology(("one", "two"), 10)
    progress = LiveView(ring, Console(file=io.StringIO()), quiet=True)
    at, pace = 600.0, 2.0
    now[0] = 5000.0 if later else at
    for kind, round_, hop in (("warm_up", 0, 0), ("visit", 1, 1), ("homecoming", 1, 2)):
        for name, other, clock_s in (("one", "two", 0.0), ("two", "one", 7e5)):
            begin = WarmUp() if kind == "warm_up" else Arrived(round_, hop, other, kind)
            progress(Logged(at + clock_s, name, begin))
        at, now[0] = at + pace, now[0] if later else now[0] + pace
        for name, other, clock_s in (("one", "two", 0.0), ("two", "one", 7e5)):
            progress(Logged(at + clock_s, name, Finished(round_, hop, other, kind, "trained", 0.5)))
        left = pace * (2 * ring.rounds - hop)
        assert left <= (progress.seconds_left() or 0.0) <= 1.1 * left, kind


@pytest.mark.parametrize("later", [False, True], ids=["live", "looked at later"])
@pytest.mark.parametrize("standing", ["queued", "pending", "unschedulable"])
def test_the_time_left_does_not_count_a_pod_that_waits_in_mid_run(
    standing: str, monkeypatch: pytest.MonkeyPatch, *, later: bool
) -> None:
    """A ring that is put back into its queue, or waits for the next pod of one of its hospitals, is
    as far from its end when it goes on as before, and not further away while it waits.
    """
    now = [0.0]
    monkeypatch.setattr(clock, "now", lambda: 9000.0 if later else now[0])
    ring = Topology(("one", "two"), 10)
    progress = LiveView(ring, Console(file=io.StringIO()), quiet=True)

    def steps(round_: int, hop: int, kind: str) -> None:
        for name, other in (("one", "two"), ("two", "one")):
            begin = Arrived(round_, hop, other, kind) if round_ else WarmUp()
            progress(Logged(now[0], name, begin))
        now[0] += 2.0
        for name, other in (("one", "two"), ("two", "one")):
            progress(Logged(now[0], name, Finished(round_, hop, other, kind, "trained", 0.5)))

    steps(0, 0, "warm_up")
    steps(1, 1, "visit")
    before = progress.seconds_left() or 0.0
    progress(Logged(now[0], "two", Pod("two", standing, "waits", "")))
    now[0] += 3600.0
    assert (progress.seconds_left() or 0.0) <= 1.5 * before
    progress(Logged(now[0], "two", Pod("two", "running", "", "cpu")))
    steps(1, 2, "homecoming")
    assert progress.seconds_left() == pytest.approx(before, rel=0.15)
    steps(2, 1, "visit")
    assert progress.seconds_left() == pytest.approx(before - 4.0, rel=0.15)


def test_the_time_left_knows_what_an_average_costs() -> None:
    """In an all-reduce most steps only add up, and are no sessions."""
    ring = Topology(("a", "b", "c"), 5, "all_reduce")
    row = LiveView(ring, Console(file=io.StringIO()), quiet=True)._rows["a"]
    assert row.total - row.light == 1 + 5


def test_forty_hospitals_fit_a_terminal_of_24_lines() -> None:
    """A live table shows those that are furthest behind and counts the others; the last one,
    which may scroll, has all.
    """
    names = tuple(f"hospital-{number:02}" for number in range(40))
    stream = io.StringIO()
    console = Console(
        file=stream, force_terminal=True, width=80, height=24, _environ={"TERM": "xterm"}
    )
    with LiveView(Topology(names, 1), console) as progress:
        for name in names[:30]:
            progress(Logged(0.0, name, Finished(0, 0, name, "warm_up", "trained", 0.5)))
        lines = [
            "".join(segment.text for segment in line).rstrip()
            for line in console.render_lines(progress._table())
        ]
        assert len(lines) < 24
        assert {name for name in names if any(line.split()[:1] == [name] for line in lines)} >= {
            *names[30:]
        }
        assert "and 23 more, none behind these" in "".join(lines)
        before = len(stream.getvalue())
    assert all(name in stream.getvalue()[before:] for name in names)


@pytest.mark.parametrize("terminal", [True, False])
def test_what_a_run_waits_for_is_said_with_and_without_a_terminal(terminal: bool) -> None:  # noqa: FBT001
    """The cluster's words on a controller that does not run, or a queue's, belong to no hospital
    and are shown all the same.
    """
    stream = io.StringIO()
    with LiveView(RING, Console(file=stream, force_terminal=terminal, width=100)) as progress:
        progress(Logged(0.0, "", WaitingEvent("the controller does not run: exceeded quota")))
    assert "the controller does not run: exceeded quota" in stream.getvalue()


def test_what_holds_a_pod_up_is_said() -> None:
    """Without a table a hospital whose image cannot be pulled for the moment is told of, one
    that only starts is not.
    """
    stream = io.StringIO()
    with LiveView(RING, Console(file=stream, width=100)) as progress:
        progress(Logged(0.0, "north", Pod("north", "stuck", "its image cannot be pulled", "")))
        progress(Logged(0.0, "south", Pod("south", "pending", "its containers are being made", "")))
    assert "north: its image cannot be pulled" in stream.getvalue()
    assert "south" not in stream.getvalue()


def test_what_a_line_costs_does_not_grow_with_the_run() -> None:
    """What is known of a hospital is as much after 300 steps as after ten: no step is kept, to be
    added up again for each line.
    """
    progress = LiveView(RING, Console(file=io.StringIO()), quiet=True)

    def held() -> int:
        return len(pickle.dumps(progress._rows))

    sizes = []
    for number in range(300):
        progress(Logged(float(number), "north", Arrived(1, 1, "south", "visit")))
        progress(Logged(number + 0.5, "north", Finished(1, 1, "south", "visit", "trained", 0.5)))
        sizes.append(held())
    assert sizes[-1] <= sizes[9] + 10


def test_words_in_brackets_are_shown_as_they_are() -> None:
    """What a cluster or a controller says is no markup: nothing in brackets is swallowed, and no
    bracket ends the run.
    """
    stream = io.StringIO()
    with LiveView(RING, Console(file=stream, width=40)) as progress:
        progress(
            Logged(0.0, "", WaitingEvent("no node [/bold] has [red]cards[/red] :x: for south"))
        )
    assert "no node [/bold] has [red]cards[/red] :x: for south\n" in stream.getvalue()
