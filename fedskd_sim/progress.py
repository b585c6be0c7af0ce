"""Live progress of a run: a table on a terminal, plain lines elsewhere; fed by the events of the members' logs."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from fedskd_sim import clock
from fedskd_sim.ring import Ring
from fedskd_sim.runtimes.base import Event

REFRESH_PER_S = 8
WHAT = {
    "warm_up": "warmed up", "alone": "trained alone", "visit": "trained with", "homecoming": "welcomed home",
    "gather": "has the average", "council": "asked the council",
}  # fmt: skip


@dataclass
class Row:
    """What one hospital is at."""

    doing: str = "starting"
    place: str = ""
    accuracy: str = ""
    finished: int = 0
    total: int = 1


class Progress:
    """Shows who hosts whom; use as a context manager and feed it events."""

    def __init__(self, ring: Ring, console: Console, *, quiet: bool = False) -> None:
        """Prepare a row for every hospital: warm-up, sessions, stops and the evaluation at home; ``quiet``: no lines."""
        self._ring, self._console, self._quiet = ring, console, quiet
        own = 2 + (0 if ring.lap == "circulation" else ring.rounds)
        stops = {name: len(list(ring.stops(name))) for name in ring.hospitals + ring.held_out}
        self._rows = {name: Row(total=count + (own if name in ring.hospitals else 0)) for name, count in stops.items()}
        self._started = clock.now()
        self._live = Live(console=console, refresh_per_second=REFRESH_PER_S, get_renderable=self._table)
        self._interactive = console.is_terminal

    def __enter__(self) -> Self:
        """Take over the terminal, if there is one."""
        self._started = clock.now()
        if self._interactive:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Give the terminal back with the last state on it."""
        if self._interactive:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        row = self._rows.get(event.get("hospital", ""))
        if row is None:
            return
        match event["event"]:
            case "pod" if event["standing"] != "running" and not row.finished:
                row.doing = event["text"] or event["standing"]
                self._remark(event)
            case "warm_up":
                row.doing = "warming up"
            case "arrived":
                row.doing = _doing(event)
                row.place = self._place(event)
            case "finished":
                row.finished += 1
                row.doing = "waiting"
                if event["accuracy"] is not None:
                    row.accuracy = f"{event['accuracy']:.1%}"
                    self._line(event)
            case "done":
                row.doing = "done"
            case "error":
                row.doing = "failed" if event["own"] else "stopped"

    def show(self) -> None:
        """Print the table once, without a time."""
        table = self._table()
        table.title = None
        self._console.print(table)

    def left(self) -> float | None:
        """Estimate the seconds left from the stops done so far; None before there is anything to go by."""
        done = sum(row.finished for row in self._rows.values())
        total = sum(row.total for row in self._rows.values())
        warm = all(self._rows[name].finished for name in self._ring.hospitals)
        elapsed = clock.now() - self._started
        return elapsed / done * max(0, total - done) if warm else None

    def _line(self, event: Event) -> None:
        if self._interactive or self._quiet:
            return
        left = self.left()
        what = WHAT.get(event["kind"], "tested")
        whom = f" {event['model']}" if event["kind"] in ("visit", "homecoming", "evaluation") else ""
        undone = " (rolled back)" if event["outcome"] == "rolled_back" else ""
        rest = "" if left is None else f", about {left:.0f} s left"
        self._console.print(
            f"{clock.now() - self._started:6.1f} s  {self._place(event):<17} {event['hospital']} {what}{whom}{undone}: "
            f"accuracy {event['accuracy']:.1%}{rest}",
            highlight=False,
            soft_wrap=True,
        )

    def _remark(self, event: Event) -> None:
        """Say what holds a pod up, where there is no table that shows it."""
        if event["standing"] in ("unschedulable", "hopeless", "failed") or "no node" in event["text"]:
            text = f"{clock.now() - self._started:6.1f} s  {event['hospital']}: {event['text']}"
            if not (self._interactive or self._quiet):
                self._console.print(text, highlight=False, soft_wrap=True)

    def _place(self, event: Event) -> str:
        if not event["round"]:
            return "warm-up"
        if event["round"] == self._ring.evaluation_round:
            return f"evaluation hop {event['hop']}"
        hops = len(self._ring.hops(event["round"]))
        hop = f" hop {event['hop']}/{hops}" if event["hop"] else ""
        return f"round {event['round']}/{self._ring.rounds}{hop}"

    def _table(self) -> Table:
        left = self.left()
        title = f"{clock.now() - self._started:.0f} s" + ("" if left is None else f", about {left:.0f} s left")
        table = Table(title=title, title_justify="left")
        for column in ("hospital", "where", "now", "last accuracy", "stops"):
            table.add_column(column, no_wrap=True)
        for name, row in self._rows.items():
            table.add_row(name, row.place, row.doing, row.accuracy, f"{row.finished}/{row.total}")
        return table


def _doing(event: Event) -> str:
    match event["kind"]:
        case "homecoming":
            return "at home with its traveller"
        case "reduce" | "gather":
            return "averaging"
        case "evaluation":
            return f"testing {event['model']}"
    return f"training with {event['model']}"
