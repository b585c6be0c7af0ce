"""Live progress of a run, fed by the events of the members' logs: a table on a terminal, plain
lines elsewhere, and only so many of them where they cannot replace each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import StringIO
from types import TracebackType
from typing import Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedskd_sim import clock
from fedskd_sim.observe import events
from fedskd_sim.observe.words import amount, short
from fedskd_sim.ring.program import Program
from fedskd_sim.ring.topology import Topology

MOST = 1000
"""Lines that are printed as they come: a run that has more is followed by fewer."""
SELDOM_S = 1.0
"""Seconds between two lines from then on."""
FROM_NOW_ON = "from here on one line a second; the logs have all"


@dataclass
class Pace:
    """Counts the lines of a run."""

    printed: int = 0
    last: float = 0.0

    def next(self) -> list[str] | None:
        """Return what is to be printed before the next line; None where that is left out."""
        now = clock.now()
        if self.printed > MOST and now - self.last < SELDOM_S:
            return None
        self.printed, self.last = self.printed + 1, now
        return [FROM_NOW_ON] if self.printed == MOST + 1 else []


LOST = "lost"


@dataclass
class HospitalRow:
    """A hospital's line in the live table: what it does, where, and how far it is."""

    doing: str = "starting"
    place: tuple[int, int] | None = None
    """Round and hop."""
    accuracy: str = ""
    """The last one that was measured here, and of whose model."""
    device_bytes: int = 0
    """The most that its process has taken of a card's memory."""
    spent: events.PrivacySpent | None = None
    """Of a private hospital."""
    finished: int = 0
    before: int = 0
    """Steps of an earlier life that were not seen here."""
    total: int = 1
    light: int = 0
    """How many of all its steps only test or add up."""
    done: Counter[bool] = field(default_factory=Counter)
    """Steps that are done, by whether they are light."""
    timed: Counter[bool] = field(default_factory=Counter)
    """Steps whose begin was logged, by whether they are light."""
    seconds: dict[bool, float] = field(default_factory=lambda: {False: 0.0, True: 0.0})
    """What these steps have taken together."""
    began: float | None = None

    @property
    def behind_it(self) -> int:
        """How many of its steps are done, here and in earlier lives."""
        return min(self.total, self.before + self.finished)

    @property
    def lost(self) -> bool:
        """Whether the ring goes on without it."""
        return self.doing == LOST

    def usual(self, *, light: bool) -> float:
        """Return the mean seconds of its steps; 0 where none was timed."""
        return self.seconds[light] / self.timed[light] if self.timed[light] else 0.0

    def lose(self) -> None:
        """Note that the hospital is lost: no more of its steps are waited for."""
        self.doing, self.total, self.light = LOST, max(1, self.behind_it), 0

    def come_back(self, left: int, light: int) -> None:
        """Note that the hospital is back, with so many steps to do, some of them light."""
        self.doing = "back"
        self.total, self.light = self.behind_it + left, self.done[True] + light

    def end_step(self, at: float, *, light: bool) -> None:
        """Note that a step has ended at a UNIX time."""
        self.finished += 1
        self.done[light] += 1
        if self.began is not None:
            self.timed[light] += 1
            self.seconds[light] += max(0.0, at - self.began)
        self.began = None


@dataclass
class Span:
    """The time in which steps were done, by one clock: neither what came before the first, nor what
    a pod waited for that was pulled, scheduled or held back by a queue meanwhile.
    """

    first: float
    last: float
    count: int = 0
    idle: float = 0.0
    held: bool = False
    """A pod has waited since the last word."""

    def note(self, at: float, *, held: bool) -> None:
        """Note a hospital's word of a step; ``held``: a pod still waits."""
        self.idle += at - self.last - self._at_work(at)
        self.last, self.count, self.held = at, self.count + 1, held

    def worked(self, now: float) -> float:
        """Return the seconds at work until now."""
        return self.last - self.first - self.idle + self._at_work(now)

    def _at_work(self, now: float) -> float:
        """Return how much of the time since the last word was work: while a pod waits no more than
        passes between two words on the average.
        """
        usual = (self.last - self.first - self.idle) / max(1, self.count)
        return min(now - self.last, usual) if self.held else now - self.last


REFRESH_PER_S = 8
LATELY_S = 0.1
"""How long lines go by one estimate of the time left."""
WIDE, NARROW, LEAST_NAME = 100, 72, 12
"""Columns of terminals: from `WIDE` on everything is written out, below `NARROW` only the most
important is."""
AROUND_ROWS = 7
"""Lines of a live table that are no rows: title, head, rule, caption, and room for the cursor."""
WHAT = {
    "warm_up": "warmed up", "alone": "trained alone", "visit": "trained with",
    "homecoming": "welcomed home", "gather": "has the average", "ensemble": "asked the ensemble",
}  # fmt: skip


WAITS = ("pending", "queued", "stuck", "unschedulable")
"""How pods stand that do not run yet."""
STEPS = (events.WarmUp, events.Arrived, events.Finished)
"""The words of a hospital at work."""
RECORDED = ("host", "home")
"""The steps of a round that leave a record each."""
LIGHT = ("evaluation", "ensemble", "reduce", "gather")
OF_A_SESSION = 1 / 18
"""One forward pass over a fifth of the data, against two models' forward and backward passes (three
each) over three fifths."""


class LiveView:
    """Shows who hosts whom; use as a context manager and feed it events."""

    @classmethod
    def unseen(cls, topology: Topology) -> Self:
        """Make one that prints nothing: whoever asks it shows what it knows."""
        return cls(topology, Console(file=StringIO()), quiet=True)

    def __init__(self, topology: Topology, console: Console, *, quiet: bool = False) -> None:
        """Prepare a row for every hospital: warm-up, sessions, stops and the evaluation at home;
        ``quiet``: no lines.
        """
        self._topology, self._console, self._quiet = topology, console, quiet
        sums = topology.rounds * (2 * topology.size - 2) if topology.pattern == "all_reduce" else 0
        self._rows = {
            name: HospitalRow(
                total=Program(topology, name).recorded,
                light=topology.size + (sums if topology.trains(name) else 0),
            )
            for name in topology.names
        }
        self._started = clock.now()
        self._left: float | None = None
        self._estimated = 0.0
        """When `_left` was estimated."""
        self._at_work: dict[str, Span] = {}
        """The time in which each hospital told of steps, by its own clock."""
        self._here = Span(self._started, self._started)
        """... and in which all these words were taken in."""
        self._held: set[str] = set()
        """Hospitals whose pod waits."""
        self._remark_of_all, self._pace = "", Pace()
        self._live_now = False
        self._live = Live(
            console=console, refresh_per_second=REFRESH_PER_S, get_renderable=self._table
        )
        self._interactive = console.is_terminal and not console.is_dumb_terminal

    def __enter__(self) -> Self:
        """Take over the terminal, if there is one."""
        self._started = clock.now()
        if self._interactive:
            self._live_now = True
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal with the last state on it."""
        if self._interactive:
            self._live_now = False  # the last state is told of all, and may scroll
            self._live.stop()

    def __call__(self, logged: events.Logged) -> None:
        """Take in one line of a log."""
        self._note_of_all(logged.what)
        row = self._rows.get(logged.hospital)
        if row is None:
            return
        self._note_time(logged)
        match logged.what:
            case events.Pod(hospital, standing, text) if standing != "running" and not row.finished:
                row.doing = text or standing
                self._remark(hospital, standing, text)
            case events.WentOn(steps, of):
                row.before = max(0, round(row.total * steps / of) - row.finished)
            case events.WarmUp():
                row.doing, row.began = "warming up", logged.time
            case events.Arrived(round_, hop, model, kind):
                row.doing, row.began = _doing(kind, model), logged.time
                row.place = (round_, hop)
            case events.Finished() as finished:
                row.end_step(logged.time, light=finished.kind in LIGHT)
                self._note_finished(logged.hospital, row, finished)
            case events.PrivacySpent() as spent:
                row.spent = spent
            case events.DoneEvent():
                row.doing = "done"
            case events.Error(_, own):
                row.doing = "failed" if own else "stopped"

    def _note_time(self, logged: events.Logged) -> None:
        """Take in when a step was told of, and whether a pod waits."""
        if isinstance(logged.what, events.Pod):
            waits = logged.what.standing in WAITS
            self._held = self._held - {logged.hospital} | ({logged.hospital} if waits else {*()})
            for span in (self._here, *self._at_work.values()):
                span.held |= waits
        elif isinstance(logged.what, STEPS):
            if not self._at_work:
                self._here = Span(clock.now(), clock.now())
            own = self._at_work.setdefault(logged.hospital, Span(logged.time, logged.time))
            own.note(logged.time, held=bool(self._held))
            self._here.note(clock.now(), held=bool(self._held))

    def _note_of_all(self, what: events.LogEvent) -> None:
        """Take in what the controller says of all: what it waits for, and who is lost."""
        match what:
            case events.WaitingEvent(reason):
                self._say(reason)
            case events.StartEvent():
                self._remark_of_all = ""
            case events.ControllerDied(cause, watched):
                self._remark_of_all = f"the controller died {cause}: the models go on without it"
                if watched:
                    self._remark_of_all += f"; {events.UNWATCHED}"
                self._say(self._remark_of_all)
            case events.LostEvent(_, hospitals):
                self._say(f"the ring goes on without {', '.join(hospitals)}")
                for name in hospitals:
                    self._rows[name].lose()
            case events.BackEvent(_, hospital, round_):
                self._say(f"{hospital} is back from round {round_} on")
                program = Program(self._topology, hospital)
                steps = [step for number in range(len(program)) if (step := program.at(number))]
                left = [one for one in steps if one.round >= round_ and one.action in RECORDED]
                self._rows[hospital].come_back(len(left), self._topology.size)

    def _note_finished(self, hospital: str, row: HospitalRow, finished: events.Finished) -> None:
        row.doing, row.device_bytes = "waiting", finished.device_bytes
        if finished.accuracy is not None:
            whose = "all" if finished.kind == "ensemble" else finished.model
            row.accuracy = f"{finished.accuracy:.1%} {whose}"
            self._line(hospital, finished, finished.accuracy)

    def show(self) -> None:
        """Print the table once, without a time."""
        table = self._table()
        table.title = None
        self._console.print(table)

    @property
    def rows(self) -> Mapping[str, HospitalRow]:
        """Return what every hospital does."""
        return self._rows

    @property
    def remark(self) -> str:
        """Return what is not as it should be with the run as a whole; '' if nothing is."""
        return self._remark_of_all

    def seconds_left(self) -> float | None:
        """Estimate the seconds left; None before there is anything to go by.

        Steps are weighed by what they have taken so far at each hospital, sessions and light steps
        apart; where there was none yet, by what they take at the others, and where a light step is
        unknown, by what its forward passes are of a session's work. Time counts from the first step
        on: until then pods start and data is read, which never comes again; nor does it count while
        a pod that comes later is pulled, scheduled or held back by a queue.
        """
        rows = [self._rows[name] for name in self._topology.hospitals]
        if not all(row.finished or row.lost for row in rows):
            return None
        session, lighter = self._usual(light=False) or 1.0, self._usual(light=True)
        done = total = 0.0
        for row in self._rows.values():
            own = row.usual(light=False) or session
            light = row.usual(light=True) or lighter or OF_A_SESSION * own
            done += row.done[False] * own + row.done[True] * light
            whole = (row.total - row.light) * own + row.light * light
            total += whole * (1 - row.before / row.total)
        now = clock.now()
        told = [span.worked(span.last) for span in self._at_work.values()]
        # who looks later has it from the logs
        worked = max(self._here.worked(self._here.last), *told)
        worked += self._here.worked(now) - self._here.worked(self._here.last)
        return worked * max(0.0, total - done) / done

    def _usual(self, *, light: bool) -> float:
        """Return the mean seconds of a step at any hospital; 0 where none was timed."""
        timed = sum(row.timed[light] for row in self._rows.values())
        return sum(row.seconds[light] for row in self._rows.values()) / timed if timed else 0.0

    def _lately_left(self) -> float | None:
        """Estimate the seconds left for a line: many lines a second need not ask all rows."""
        now = clock.now()
        if self._left is None or now - self._estimated >= LATELY_S:
            self._left, self._estimated = self.seconds_left(), now
        return self._left

    def _line(self, hospital: str, finished: events.Finished, accuracy: float) -> None:
        if self._interactive or self._quiet:
            return
        undone = " (rolled back)" if finished.outcome == "rolled_back" else ""
        before = [] if undone else self._pace.next()
        if before is None:
            return
        left = self._lately_left()
        what = WHAT.get(finished.kind, "tested")
        whom = (
            f" {finished.model}" if finished.kind in ("visit", "homecoming", "evaluation") else ""
        )
        rest = "" if left is None else f", about {left:.0f} s left"
        place = self._place(finished.round, finished.hop)
        line = f"{place:<17} {hospital} {what}{whom}{undone}: accuracy {accuracy:.1%}{rest}"
        for text in (*before, line):
            self._say(text)

    def _remark(self, hospital: str, standing: str, text: str) -> None:
        """Print what holds a pod up, where there is no table that shows it."""
        held = standing in ("unschedulable", "hopeless", "stuck", "failed") or "no node" in text
        if held and not self._interactive:
            self._say(f"{hospital}: {text}")

    def _say(self, text: str) -> None:
        """Print a line of its own, above the table if there is one, as it is: brackets are no
        markup.
        """
        if not self._quiet:
            line = f"{clock.now() - self._started:6.1f} s  {text}"
            self._console.out(line, highlight=False)

    def _place(self, round_: int, hop: int) -> str:
        if not round_:
            return "warm-up"
        if round_ == self._topology.evaluation_round:
            return f"evaluation hop {hop}"
        hops = len(self._topology.hops(round_))
        return f"round {round_}/{self._topology.rounds}" + (f" hop {hop}/{hops}" if hop else "")

    def _table(self) -> Table:
        """Draw one row per hospital; narrow terminals get fewer columns and shorter words, never
        half a number.
        """
        left, width = self.seconds_left(), self._console.width
        title = f"{clock.now() - self._started:.0f} s" + (
            "" if left is None else f", about {left:.0f} s left"
        )
        table = Table(
            title=title,
            title_justify="left",
            box=SIMPLE_HEAD,
            pad_edge=False,
            expand=width >= NARROW,
        )
        wide, narrow = width >= WIDE, width < NARROW
        for column in (
            ("hospital", "where", "stops")
            if narrow
            else ("hospital", "where", "now", "accuracy of", "stops")
        ):
            table.add_column(column, no_wrap=True, ratio=1 if column == "now" else None)
        on_cards = wide and any(row.device_bytes for row in self._rows.values())
        if on_cards:
            table.add_column("GPU memory", no_wrap=True)
        private = wide and any(row.spent for row in self._rows.values())
        if private:
            table.add_column("epsilon", no_wrap=True)
        shown = self._visible_rows()
        if len(shown) < len(self._rows):
            table.caption = f"and {len(self._rows) - len(shown)} more, none behind these"
        for name, row in shown.items():
            card = (amount(row.device_bytes) if row.device_bytes else "",) if on_cards else ()
            spent = (row.spent.words if row.spent else "",) if private else ()
            table.add_row(*map(Text, (*self._cells(name, row), *card, *spent)))
        return table

    def _cells(self, name: str, row: HospitalRow) -> tuple[str, ...]:
        """Write a row as wide as the terminal allows."""
        width = self._console.width
        room, place = max(LEAST_NAME, width // 6), self._place if width >= WIDE else self._brief
        where = "" if row.place is None else place(*row.place)
        accuracy, _, model = row.accuracy.partition(" ")
        more = () if width < NARROW else (row.doing, f"{accuracy} {short(model, room)}")
        return short(name, room), where, *more, f"{row.behind_it}/{row.total}"

    def _visible_rows(self) -> dict[str, HospitalRow]:
        """Return the rows that fit a live table, in ring order: those that are furthest behind,
        whom the others wait for.
        """
        room = max(1, self._console.height - AROUND_ROWS)
        if not self._live_now or len(self._rows) <= room:
            return self._rows
        behind = sorted(
            self._rows, key=lambda name: self._rows[name].behind_it / self._rows[name].total
        )[:room]
        return {name: row for name, row in self._rows.items() if name in behind}

    def _brief(self, round_: int, hop: int) -> str:
        """Write a place for narrow terminals."""
        if not round_:
            return "warm-up"
        return (
            f"eval {hop}"
            if round_ == self._topology.evaluation_round
            else f"r{round_}" + (f" h{hop}" if hop else "")
        )


def _doing(kind: str, model: str) -> str:
    match kind:
        case "homecoming":
            return "at home with its traveller"
        case "reduce" | "gather":
            return "averaging"
        case "evaluation":
            return f"testing {model}"
    return f"training with {model}"
