"""The run in space and time (Lamport 1978): a line per hospital, time to the right, an arrow for
every model that went from one to another, and what disturbed them.

All of a short run is shown, of a long one its first rounds. Places along time are percentages, so
that a style sheet alone stretches the picture.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import islice
from typing import Any, NamedTuple

from fedskd_sim.observe.words import amount, short
from fedskd_sim.records import Timing
from fedskd_sim.results.account import AWAY, DIED, STRUCK, WAITS, Absence, Troubles
from fedskd_sim.results.rows import Column, Table, digits
from fedskd_sim.results.svg import NAME, SERIES, ink_of, look_of
from fedskd_sim.results.timeline import Spans

MOST_PIECES = 1200
MOST_LINES = 24
MOST_REPEATED = 200


class Repeat(NamedTuple):
    """A hop of a model that was sent more than once, or a session that was done more than once:
    where, whereto ('': a session), how often, and the seconds of the last time.
    """

    model: str
    round: int
    hop: int
    host: str
    to: str
    times: int
    seconds: float


@dataclass
class Journeys:
    """Pieces of a run by rounds; a round is kept whole or not at all, and only of hospitals that
    are drawn.
    """

    hosts: tuple[str, ...]
    """Those that are drawn, in ring order."""
    more_repeats: int = 0
    """How many are left out of the repeats."""
    attempts_known: bool = False
    cut: int | None = None
    """The first round that is not kept."""
    _kept: dict[int, list[Timing]] = field(default_factory=dict)
    _repeats: dict[tuple[str, str, str, int, int], Repeat] = field(default_factory=dict)
    _size: int = 0
    _host: str = ""
    _done: Counter[tuple[str, str, int, int]] = field(default_factory=Counter)
    """What the hospital has done whose timings are being read: what, model, round, hop."""

    @classmethod
    def among(cls, hospitals: Iterable[str]) -> Journeys:
        """Take the first hospitals, as many as can be told apart."""
        return cls(tuple(islice(hospitals, MOST_LINES)))

    def taking(self, timings: Iterable[Timing]) -> Iterator[Timing]:
        """Yield timings unchanged and keep those that can be drawn: whoever sums them up afterwards
        reads the files once for both.
        """
        for timing in timings:
            self._look(timing)
            if timing.host in self.hosts and (self.cut is None or timing.round < self.cut):
                self._kept.setdefault(timing.round, []).append(timing)
                self._size += 1
                if self._size > MOST_PIECES:
                    self._shorten()
            yield timing

    @property
    def repeats(self) -> list[Repeat]:
        """Return what took place more than once, by round and hop."""
        return sorted(self._repeats.values(), key=lambda one: (one.round, one.hop))

    @property
    def pieces(self) -> list[Timing]:
        """Return what can be drawn, in order of time."""
        found = [one for kept in self._kept.values() for one in kept]
        return sorted(found, key=lambda one: one.start)[:MOST_PIECES]

    @property
    def whole(self) -> bool:
        """Return whether everything of the hospitals that are drawn can be."""
        return self.cut is None and self.fits

    @property
    def fits(self) -> bool:
        """Return whether everything of the rounds that are kept can be drawn."""
        return self._size <= MOST_PIECES

    @property
    def last(self) -> int:
        """Return the last round that is kept."""
        return max(self._kept, default=0)

    def _shorten(self) -> None:
        """Let the last round go, unless it is the only one in which models travel."""
        if len(self._kept.keys() - {0}) > 1:
            self.cut = max(self._kept)
            self._size -= len(self._kept.pop(self.cut))

    def _look(self, timing: Timing) -> None:
        """Note what took place more than once."""
        if timing.host != self._host:
            self._host = timing.host
            self._done.clear()
        sent = timing.what == "transfer"
        if not sent and timing.what not in ("session", "warm_up"):
            return
        place = timing.what, timing.model, timing.round, timing.hop
        self._done[place] += max(1, timing.attempts)
        self.attempts_known |= timing.attempts > 0
        if (times := self._done[place]) > 1:
            key = timing.host, *place
            if key in self._repeats or len(self._repeats) < MOST_REPEATED:
                seconds = timing.end - timing.start
                self._repeats[key] = Repeat(*place[1:], timing.host, timing.to, times, seconds)
            else:
                self.more_repeats += 1


ROW, TOP, FOOT = 32, 22, 34
NAMES = 172
"""Pixels: from line to line, above the first, below the last, and for the names."""
THICK = {"session": 12, "warm_up": 12, "evaluation": 5, "resumed": 3}
WORDS = {
    "session": "trains", "warm_up": "warms up", "evaluation": "tests",
    "resumed": "gets ready to go on",
}  # fmt: skip
ROOM = 7
"""Pixels that an arrow keeps from the lines that it joins."""
EDGE = 0.4
"""Percent that are left empty at both ends, so that no head of an arrow is cut."""
LEAST_WIDTH = 0.02
"""Percent of the picture that the shortest piece takes."""
FEW_TICKS, MANY_TICKS = 8, 60
CROSS = "\u00d7"
SIGNS = {**dict.fromkeys(AWAY, CROSS), **dict.fromkeys(WAITS, "‖")}
LASTING = "●"


@dataclass(frozen=True)
class Scene:
    """What is drawn: pieces of a run, who is in which row, and from when to when (UNIX
    seconds).
    """

    journeys: Journeys
    troubles: Troubles
    models: tuple[str, ...]
    pieces: Sequence[Timing]
    zero: float
    last: float

    @classmethod
    def of(cls, journeys: Journeys, troubles: Troubles, models: tuple[str, ...]) -> Scene | None:
        """Choose the stretch of time; None where there is nothing to draw."""
        pieces = journeys.pieces
        if not pieces:
            return None
        shown = pieces
        if not journeys.whole:  # what is of no round may come much later
            shown = [one for one in pieces if one.round] or pieces
        zero, last = pieces[0].start, max(one.end for one in shown)
        inside = [one for one in pieces if one.start <= last]
        return cls(journeys, troubles, models, inside, zero, last)

    def x(self, moment: float) -> float:
        """Return where a moment lies, in percent."""
        share = (moment - self.zero) / ((self.last - self.zero) or 1.0)
        return EDGE + (100 - 2 * EDGE) * min(1.0, max(0.0, share))

    def y(self, host: str) -> int:
        """Return the pixel of a hospital's line."""
        return TOP + ROW * self.journeys.hosts.index(host)

    @property
    def height(self) -> int:
        """Return the picture's height in pixels."""
        return TOP + ROW * (len(self.journeys.hosts) - 1) + FOOT

    def look(self, model: str) -> int:
        """Return the number of a model's colour and dashes."""
        return self.models.index(model) if model in self.models else 0


def names(scene: Scene) -> str:
    """Draw the hospitals' names, each behind the line of its model."""
    inside = "".join(_name(scene, host) for host in scene.journeys.hosts)
    size = f'width="{NAMES}" style="height: {scene.height}px"'
    return f'<svg class="names" {size} aria-hidden="true">{inside}</svg>'


def lines(scene: Scene) -> str:
    """Draw what hospitals did, and the models on their way."""
    hosts, seconds = len(scene.journeys.hosts), scene.last - scene.zero
    label = f"What {hosts} hospitals did over {digits(seconds)} seconds, and models on their way."
    parts = (_grid, _away, _pieces, _arrows, _signs)
    inside = "".join(one for part in parts for one in part(scene))
    about = f'role="img" aria-label="{label}" style="height: {scene.height}px"'
    return f'<svg class="lines" {about}>{_heads()}{inside}</svg>'


def style(models: int) -> str:
    """Write the style sheet of so many models: those of the pictures of accuracy and drift."""
    lines = []
    for number in range(models):
        colour, dashes = look_of(number)
        dashed = f"stroke-dasharray:{dashes};" if dashes else ""
        lines.append(
            f".a{number}{{stroke:{ink_of(colour)};{dashed}"
            f"marker-end:url(#head-{colour.name})}}.b{number}{{fill:{ink_of(colour)}}}"
        )
    return "\n".join(lines)


def _heads() -> str:
    """Draw the heads of arrows, one for each colour."""
    heads = (
        f'<marker id="head-{one.name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        f'markerHeight="8" markerUnits="userSpaceOnUse" orient="auto"><path d="M0 .8 8 4 0 7.2z" '
        f'fill="{ink_of(one)}"/></marker>'
        for one in SERIES
    )
    return f"<defs>{''.join(heads)}</defs>"


def _name(scene: Scene, host: str) -> str:
    y, line = scene.y(host), ""
    if host in scene.models:
        line = f'<line class="a{scene.look(host)} plain" x1="0" x2="16" y1="{y}" y2="{y}"/>'
    title = f"<title>{escape(host)}</title>"
    return f'{line}<text x="22" y="{y + 4}">{title}{escape(short(host, NAME))}</text>'


def _grid(scene: Scene) -> Iterator[str]:
    """Draw the lines of hospitals, and seconds: some, and more for a picture that is stretched."""
    foot = scene.height - FOOT + 14
    for most, name in ((FEW_TICKS, "few"), (MANY_TICKS, "many")):
        yield f'<g class="{name}">'
        for tick in _ticks(scene.last - scene.zero, most):
            x = f"{scene.x(scene.zero + tick):.3f}%"
            yield f'<line x1="{x}" x2="{x}" y1="6" y2="{foot}"/>'
            yield f'<text x="{x}" y="{foot + 13}">{tick:g}</text>'
        yield "</g>"
    for host in scene.journeys.hosts:
        yield f'<line class="life" x1="0" x2="100%" y1="{scene.y(host)}" y2="{scene.y(host)}"/>'


def _ticks(seconds: float, most: int) -> list[float]:
    """Return round numbers of seconds, at most so many."""
    if seconds <= 0:
        return [0.0]
    least = seconds / most
    size = 10.0 ** math.floor(math.log10(least))
    step = next(size * one for one in (1, 2, 5, 10) if size * one >= least)
    return [round(step * number, 9) for number in range(int(seconds / step) + 1)]


def _pieces(scene: Scene) -> Iterator[str]:
    """Draw what hospitals did as thick pieces of their lines; what was done again has a rim."""
    again = {
        (one.host, one.model, one.round, one.hop) for one in scene.journeys.repeats if not one.to
    }
    for one in scene.pieces:
        if one.what in THICK:
            thick, start = THICK[one.what], scene.x(one.start)
            wide = max(LEAST_WIDTH, scene.x(one.end) - start)
            own = one.what == "resumed"
            look = "own" if own else f"b{scene.look(one.model)}"
            twice = one.what == "session" and (one.host, one.model, one.round, one.hop) in again
            whose = "" if own else f" the model of {one.model}, round {one.round}, hop {one.hop},"
            title = f"{one.host} {WORDS[one.what]}{whose} {_seconds(one)}"
            yield (
                f'<rect class="{look}{" again" if twice else ""}" x="{start:.3f}%" '
                f'y="{scene.y(one.host) - thick / 2:g}" width="{wide:.3f}%" height="{thick}">'
                f"<title>{escape(title)}{'; done more than once' if twice else ''}</title></rect>"
            )


def _arrows(scene: Scene) -> Iterator[str]:
    """Draw the models that went from one hospital to another."""
    for one in scene.pieces:
        if one.what != "transfer" or one.to not in scene.journeys.hosts:
            continue
        start, end = scene.y(one.host), scene.y(one.to)
        gap = math.copysign(ROOM, end - start)
        line = (
            f'x1="{scene.x(one.start):.3f}%" y1="{start + gap:g}" '
            f'x2="{scene.x(one.end):.3f}%" y2="{end - gap:g}"'
        )
        tries = f", {one.attempts} attempts" if one.attempts > 1 else ""
        title = (
            f"{one.host} → {one.to}: the model of {one.model}, round {one.round}, hop {one.hop}, "
            f"{_seconds(one)}, {amount(one.bytes)}{tries}"
        )
        yield (
            f'<g><title>{escape(title)}</title><line class="near" {line}/>'
            f'<line class="a{scene.look(one.model)}" {line}/></g>'
        )
        if tries:
            middle = (scene.x(one.start) + scene.x(one.end)) / 2
            place = f'x="{middle:.3f}%" y="{(start + end) / 2:g}"'
            yield f'<text class="times" {place}>{one.attempts}{CROSS}</text>'


def _away(scene: Scene) -> Iterator[str]:
    """Break the lines of those who were away, and mark those who were slow."""
    for one in scene.troubles.absences:
        if one.host not in scene.journeys.hosts or not one.start <= scene.last:
            continue
        if scene.troubles.simulated or one.what == "poison":
            continue
        y, start = scene.y(one.host), scene.x(one.start)
        wide = max(LEAST_WIDTH, (scene.x(one.end) if math.isfinite(one.end) else 100.0) - start)
        look = "slow" if one.what == "slow" else "gone"
        yield (
            f'<rect class="{look}" x="{start:.3f}%" y="{y - 9 if look == "gone" else y + 8}" '
            f'width="{wide:.3f}%" height="{18 if look == "gone" else 3}">'
            f"<title>{escape(in_words(one))}</title></rect>"
        )


def _signs(scene: Scene) -> Iterator[str]:
    """Mark where a fault struck, and where something was refused."""
    found = [
        (
            one.host,
            one.start,
            SIGNS.get(one.what, CROSS if one.what.startswith(DIED) else LASTING),
            in_words(one),
        )
        for one in scene.troubles.absences
    ] + [
        (one.host, one.time, "!", f"{one.host} refuses what {one.sender} sent: {one.reason}")
        for one in scene.troubles.refusals
    ]
    for host, moment, sign, title in found:
        if host in scene.journeys.hosts and scene.zero <= moment <= scene.last:
            yield (
                f'<text class="sign" x="{scene.x(moment):.3f}%" y="{scene.y(host) + 5}">{sign}'
                f"<title>{escape(title)}</title></text>"
            )


def in_words(one: Absence) -> str:
    """Say what struck a hospital, where and for how long."""
    place = f", round {one.round}" if one.round else ""
    place += f", hop {one.hop}" if one.hop else ""
    lasts = f", for {digits(one.seconds)} s" if math.isfinite(one.seconds) else ""
    return f"{one.host}: {one.what.replace('_', ' ')}{place}{lasts}"


def _seconds(one: Timing) -> str:
    return f"{digits(one.end - one.start)} s"


MOST_ROWS = 40


@dataclass(frozen=True)
class Course:
    """When hospitals did what, which models went where, and what struck them."""

    spans: Spans
    journeys: Journeys
    troubles: Troubles
    everyone: int
    """How many hospitals there are."""

    @property
    def drawn_whole(self) -> bool:
        """Return whether the picture of journeys has everything."""
        return self.journeys.whole and len(self.journeys.hosts) == self.everyone

    def on_page(self, models: tuple[str, ...]) -> dict[str, Any]:
        """Return what the page shows of it; ``models``: whose there are, in the order of their
        colours.
        """
        from markupsafe import Markup  # noqa: PLC0415 - only the page needs it

        scene = Scene.of(self.journeys, self.troubles, models)
        zero = self.spans.range[0] if len(self.spans) else 0.0
        struck, repeats = self.troubles.absences, self.journeys.repeats
        return {
            "restarts": self.spans.restarts,
            "names": Markup(names(scene)) if scene else "",  # noqa: S704 - made here, names escaped
            "lines": Markup(lines(scene)) if scene else "",  # noqa: S704 - as above
            "looks": Markup(style(len(models))) if scene else "",  # noqa: S704 - as above
            "some_journeys": self._sampling(scene) if scene else "",
            "drawn_whole": self.drawn_whole,
            "struck": _struck(struck[:MOST_ROWS], zero),
            "repeats": _repeated(repeats[:MOST_ROWS]),
            "more_struck": max(0, len(struck) - MOST_ROWS),
            "more_repeats": self.journeys.more_repeats + max(0, len(repeats) - MOST_ROWS),
            "undisturbed": self.journeys.attempts_known and not struck and not repeats,
            "simulated": self.troubles.simulated,
        }

    def _sampling(self, scene: Scene) -> str:
        """Say what is not drawn; nothing where everything is."""
        drawn = len(self.journeys.hosts)
        some = (
            f"The first {drawn} of {self.everyone} hospitals; models that go to others are not "
            "drawn. "
            if drawn < self.everyone
            else ""
        )
        if self.journeys.whole:
            return some
        rounds = (
            f"up to the end of round {self.journeys.last}"
            if self.journeys.cut and self.journeys.fits
            else "a part of the first round"
        )
        zero, last = self.spans.range
        return (
            f"{some}The beginning of the run, {rounds}: {digits(scene.last - scene.zero)} of "
            f"{digits(last - zero)} seconds."
        )


def _struck(absences: Sequence[Absence], zero: float) -> Table:
    """Return who was struck by what, from when to when in seconds from ``zero``."""
    moments = (Column("from", _moment), Column("to", _moment))
    columns = (*STRUCK, *moments, Column("seconds", digits))
    rows = [
        (one.host, one.what, one.round, one.hop, one.start - zero, one.end - zero, one.seconds)
        for one in absences
    ]
    return Table(columns, rows)


def _moment(seconds: float) -> str:
    return f"{seconds:,.3f}" if math.isfinite(seconds) else ""


def _repeated(repeats: Sequence[Repeat]) -> Table:
    """Return what took place more than once."""
    numbers = (Column("round"), Column("hop"))
    ends = (Column("times"), Column("seconds", digits))
    columns = (Column("model", words=True), *numbers, Column("what", words=True), *ends)
    rows = [
        (
            one.model,
            one.round,
            one.hop,
            f"{one.host} → {one.to}" if one.to else f"{one.host}: session",
            one.times,
            one.seconds,
        )
        for one in repeats
    ]
    return Table(columns, rows)
