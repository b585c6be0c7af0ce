"""The fragments of the live page: drawn by what also draws the report, and only when what they
show has changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from fedskd_sim import clock
from fedskd_sim.errors import RunUnreadable
from fedskd_sim.observe.words import amount, duration, short, short_path
from fedskd_sim.results.charts import Cells, Chart, heat, lines
from fedskd_sim.results.figures import templates
from fedskd_sim.results.live.reading import RunReader
from fedskd_sim.results.live.ring import map_of
from fedskd_sim.results.rows import Column, Table, number
from fedskd_sim.results.similarities import Likeness, likeness
from fedskd_sim.results.tables import Summary, summary_of
from fedskd_sim.results.teaching import Stops, at_hosts, legend, over_stops, taught

LOOK_S, FIRST_LOOK_S = 0.4, 1.5
"""Seconds for which one look reads on, at most, and the first one."""
SHARE = 200
"""The time between two refreshes is so many times what the first has computed; what is light and
what is not have a share each, so that both take at most a hundredth of a processor.
"""
SOONEST_S, LATEST_S, BEHIND_S = 1.0, 30.0, 0.05
MOST_CELLS = 600
MOST_ROWS = 120


class Fragment(NamedTuple):
    """A fragment as it was drawn last: its text, a tag of it, and of which version it is."""

    text: str
    tag: str
    version: int


class LivePage:
    """One run as a page: `look` reads on, `fragments` gives what has changed since."""

    def __init__(self, folder: Path) -> None:
        """Take a run folder; raises RunUnreadable, ScenarioError."""
        self.seen = RunReader(folder)
        self._told = dict.fromkeys(FRAGMENTS, Fragment("", "", -1))
        self._lock = Lock()
        self._templates = templates()
        self._looked = False
        self._known: Summary | None = None
        """The newest summary, of the version `_drawn`, which is drawn anew from `_due` on."""
        self._drawn, self._due = -1, 0.0
        self.wait = SOONEST_S

    @property
    def name(self) -> str:
        """The scenario's name."""
        return self.seen.scenario.name

    def answer(self, have: dict[str, str]) -> str:
        """Return as JSON what a browser does not have: ``fragments`` by name, each with ``tag`` and
        ``html``; ``wait``, the seconds until it should ask again; ``going``.
        """
        with self._lock:
            told = self._refresh()
            new = {
                name: {"tag": one.tag, "html": one.text}
                for name, one in told.items()
                if have.get(name) != one.tag
            }
        going = self.seen.going or self.seen.behind > 0
        return json.dumps({"fragments": new, "wait": self.wait, "going": going})

    def whole(self, script: str, *, up: bool) -> str:
        """Return the page with all fragments in it; ``up``: it is one of a list."""
        with self._lock:
            told, folder = self._refresh(), short_path(self.seen.folder)
            about = {"name": self.name, "folder": folder, "script": script, "up": up}
            return self._render("live/live.html.j2", told=told, **about)

    def _refresh(self) -> dict[str, Fragment]:
        """Read on, and draw again what has changed: what is light always, what is computed from all
        records so seldom that it takes no more than its share of the time.
        """
        began = clock.computed()
        self.seen.look(LOOK_S if self._looked else FIRST_LOOK_S)
        self._looked = True
        self._draw(("head",) if self.seen.behind else LIGHT)
        spent = SHARE * (clock.computed() - began)
        self.wait = BEHIND_S if self.seen.behind else min(LATEST_S, max(SOONEST_S, spent))
        new = self._drawn != self.seen.version and not self.seen.behind
        if new and (clock.now() >= self._due or not self.seen.going):
            began, self._drawn = clock.computed(), self.seen.version
            self._summarise()
            self._draw([name for name in FRAGMENTS if name not in LIGHT])
            spent = SHARE * (clock.computed() - began)
            self._due = clock.now() + min(LATEST_S, spent)
        return self._told

    def _summarise(self) -> None:
        for way in self.seen.gathered.ways.values():
            way.sort()
        self._known = summary_of(self.seen.gathered, {})

    def _draw(self, names: Iterable[str]) -> None:
        for name in names:
            known = self._told[name]
            if name != "head" and known.version == self.seen.version:
                continue
            shown = FRAGMENTS[name](self.seen, self._known)
            text = self._render("live/fragment.html.j2", part=name, **shown)
            tag = blake2b(text.encode(), digest_size=6).hexdigest()
            self._told[name] = Fragment(text, tag, self.seen.version)

    def _render(self, template: str, **values: Any) -> str:
        text: str = self._templates.get_template(template).render(**values)
        return text


def _head(seen: RunReader, summary: Summary | None) -> dict[str, Any]:
    rows = seen.view.rows.values()
    done, total = sum(row.behind_it for row in rows), sum(row.total for row in rows)
    left = seen.view.seconds_left() if seen.going and not seen.behind else None
    pace = ""
    if len(seen.steps) > 1 and seen.steps[-1] > seen.steps[0]:
        pace = f"{60 * (len(seen.steps) - 1) / (seen.steps[-1] - seen.steps[0]):.3g}"
    ended = seen.outcome if seen.outcome and seen.outcome.state != "going" else None
    until = ended.ended if ended else clock.unix() if seen.going else seen.last
    own, others = _shares(summary)
    return {
        "state": seen.state,
        "outcome": ended,
        "going": seen.going,
        "read": None if not seen.behind else 100 * (1 - seen.behind),
        "algorithm": seen.scenario.algorithm,
        "seed": seen.scenario.seed,
        "hospitals": len(seen.topology.names),
        "disturbed": seen.scenario.disturbed,
        "done": done,
        "total": total,
        "place": _place(seen),
        "passed": duration(until - seen.began) if seen.began else "",
        "left": duration(left) if left is not None else "",
        "finish": clock.time_of_day(clock.unix() + left) if left is not None else "",
        "pace": pace,
        "moved": sum(seen.received.values()),
        "own": own,
        "others": others,
        "remark": seen.view.remark,
        "report": (seen.folder / "report.html").is_file() and not seen.going,
    }


def _shares(summary: Summary | None) -> tuple[str, str]:
    """Return the newest accuracy at home and elsewhere: of the evaluation, or on the way."""
    if summary is None:
        return "", ""
    best = summary.matrices[summary.headline]
    if best.personalization == best.personalization:
        return f"{best.personalization:.1%}", f"{best.generalization:.1%}"
    stops = Stops.of(summary.ways, summary.hospitals)
    found = []
    for home in (True, False):
        known = (stops.home == home) & np.isfinite(stops.accuracy)
        rounds = stops.round[known]
        last = known & (stops.round == (rounds.max() if len(rounds) else -1))
        found.append(f"{stops.accuracy[last].mean():.1%}" if last.any() else "")
    return found[0], found[1]


def _place(seen: RunReader) -> str:
    places = [row.place for row in seen.view.rows.values() if row.place]
    if not places:
        return "warm-up"
    round_, hop = max(places)
    if round_ > seen.topology.rounds:
        return f"evaluation, hop {hop} of {len(seen.topology.hops(round_))}"
    hops = len(seen.topology.hops(round_))
    return f"round {round_} of {seen.topology.rounds}" + (f", hop {hop} of {hops}" if hops else "")


def _ring(seen: RunReader, _: Summary | None) -> dict[str, Any]:
    from markupsafe import Markup  # noqa: PLC0415 - only pages need it

    return {"map": Markup(map_of(seen))}  # noqa: S704 - made here, names escaped


def _hospitals(seen: RunReader, _: Summary | None) -> dict[str, Any]:
    cards = any(seen.cards.values())
    private = any(row.spent for row in seen.view.rows.values())
    columns = [
        Column("hospital", words=True),
        Column("now", words=True),
        Column("round", number),
        Column("hop", number),
        Column("accuracy of", words=True),
        Column("stops"),
        Column("received", _bytes),
        Column("memory", _bytes),
        *([Column("GPU memory", _bytes)] if cards else []),
        *([Column("epsilon")] if private else []),
    ]
    rows = []
    for name, row in [*seen.view.rows.items()][:MOST_ROWS]:
        now = "lost: the ring goes on without it" if name in seen.lost else row.doing
        if name in seen.away and name not in seen.lost:
            now = seen.away[name]
        round_, hop = row.place or (0, 0)
        card = [seen.cards[name] or row.device_bytes] if cards else []
        more = [*card, *([row.spent.words if row.spent else ""] if private else [])]
        peak, got = seen.peaks[name], seen.received[name]
        stops = f"{row.behind_it}/{row.total}"
        rows.append((name, short(now, 60), round_, hop, row.accuracy, stops, got, peak, *more))
    return {"table": Table(columns, rows), "more": max(0, len(seen.view.rows) - MOST_ROWS)}


def _bytes(size: int) -> str:
    return amount(size) if size else ""


def _troubles(seen: RunReader, _: Summary | None) -> dict[str, Any]:
    told = sorted(seen.troubles, key=lambda one: -one.time)
    return {
        "troubles": [(clock.time_of_day(one.time), one) for one in told],
        "rolled_back": seen.gathered.counts.rolled_back,
        "poisoned": seen.gathered.poisoned,
    }


def _curves(_: RunReader, summary: Summary) -> dict[str, Any]:
    charts = {
        "accuracy, own and others": _own_and_others(summary),
        "accuracy of each model": over_stops(
            summary, "accuracy", Chart("accuracy", "", "percent", 100)
        ),
        "training loss": over_stops(summary, "loss", Chart("loss", "", "cross-entropy")),
        "drift": over_stops(summary, "drift", Chart("drift", "", "percent", 100)),
    }
    return {"charts": _marked(charts), "legend": _marked({"": legend(summary.hospitals)})}


def _own_and_others(summary: Summary) -> str:
    stops, size = Stops.of(summary.ways, summary.hospitals), len(summary.hospitals)
    known = np.isfinite(stops.accuracy)
    found = {}
    for name, some in (("own", known & stops.home), ("others", known & ~stops.home)):
        at, group = np.unique(stops.stop[some], return_inverse=True)
        if len(at):
            mean = np.bincount(group, stops.accuracy[some]) / np.bincount(group)
            found[f"{name} (mean over models)"] = at.astype(float), mean
    return lines(Chart("accuracy", "round", "percent", 100, size), found)


def _matrix(_: RunReader, summary: Summary) -> dict[str, Any]:
    """Draw the K x K matrix: on test data once models are tested, else the newest on validation
    data of every model at every host.
    """
    names = summary.hospitals
    tested = np.array(summary.matrices[summary.headline].values)
    done = int(np.isfinite(tested).sum())
    values = tested if done else _newest(summary)
    few = len(names) <= 8  # noqa: PLR2004 - as in the report
    columns = names if few else [str(place) for place in range(1, len(names) + 1)]
    cells = Cells(
        "model by hospital", names, [*columns], "data of hospital", "%", 100, diagonal=not few
    )
    return {
        "drawn": _marked({"": heat(cells, values, MOST_CELLS)}),
        "tested": done,
        "cells": len(names) ** 2,
    }


def _newest(summary: Summary) -> Any:
    size = len(summary.hospitals)
    stops = Stops.of(summary.ways, summary.hospitals)
    found = np.full((size, size), np.nan)
    known = np.flatnonzero(np.isfinite(stops.accuracy) & (stops.host >= 0))
    known = known[np.argsort(stops.stop[known], kind="stable")]
    found[stops.model[known], stops.host[known]] = stops.accuracy[known]
    return found


def _stops(_: RunReader, summary: Summary) -> dict[str, Any]:
    stops = Stops.of(summary.ways, summary.hospitals)
    title = "accuracy of the model that was there"
    return {"drawn": _marked({"": at_hosts(summary, stops, title, stops.accuracy, signed=False)})}


def _taught(seen: RunReader, summary: Summary) -> dict[str, Any]:
    try:
        alike = likeness(seen.folder, seen.topology.names, going=True)
    except RunUnreadable:  # the report of the run names the file
        alike = Likeness()
    return {"taught": taught(summary), "alike": alike}


def _marked(drawn: dict[str, str]) -> dict[str, Any]:
    from markupsafe import Markup  # noqa: PLC0415 - only pages need it

    return {name: Markup(svg) for name, svg in drawn.items() if svg}  # noqa: S704 - made here


FRAGMENTS: Any = {
    "head": _head,
    "ring": _ring,
    "troubles": _troubles,
    "hospitals": _hospitals,
    "curves": _curves,
    "taught": _taught,
    "matrix": _matrix,
    "stops": _stops,
}
"""What draws each fragment, in the order of the page."""
LIGHT = ("head", "ring", "troubles", "hospitals")
