"""Who did what when, from a stream of timings kept as numbers in arrays: every bar of a short run;
of a long one how much of each stretch of time was taken up by what.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.observe.words import short
from fedskd_sim.records import Timing
from fedskd_sim.results.patients import thin
from fedskd_sim.results.rows import digits
from fedskd_sim.results.svg import NAME, SERIES, WIDTH, Colour, Numbers, Plot
from fedskd_sim.results.tables import Summary
from fedskd_sim.ring.program import RunPace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Floats = NDArray[np.float64]
STEPS = ("warm_up", "session", "evaluation")
"""Timings of a hospital at work."""


@dataclass
class Spans:
    """The timings of a run."""

    peaks: dict[str, int] = field(default_factory=dict)
    """The largest resident memory of every hospital's process, in bytes."""
    cards: dict[str, int] = field(default_factory=dict)
    """The most that it has taken of a card's memory; only those that have."""
    _times: dict[tuple[str, str], array[float]] = field(default_factory=dict)
    """By host and kind of timing: start and end of each in turn, UNIX seconds."""
    _models: dict[str, float] = field(default_factory=dict)
    """Seconds of the steps of each model that its next one waits for."""

    @classmethod
    def of(cls, timings: Iterable[Timing]) -> Spans:
        """Take in all timings of a run."""
        found = cls()
        for timing in timings:
            place = timing.host, timing.what
            if place not in found._times:
                found._times[place] = array("d")
            found._times[place].extend((timing.start, timing.end))
            if timing.what in ("warm_up", "session"):  # a model goes on while it is tested
                so_far = found._models.get(timing.model, 0.0)
                found._models[timing.model] = so_far + timing.end - timing.start
            if timing.peak_bytes > found.peaks.get(timing.host, 0):
                found.peaks[timing.host] = timing.peak_bytes
            if timing.device_bytes > found.cards.get(timing.host, 0):
                found.cards[timing.host] = timing.device_bytes
        return found

    def __len__(self) -> int:
        """Count the timings."""
        return sum(map(len, self._times.values())) // 2

    @property
    def restarts(self) -> dict[str, int]:
        """Count how often each hospital was started again and went on; only those that were."""
        return {
            host: len(times) // 2
            for (host, what), times in sorted(self._times.items())
            if what == "resumed"
        }

    @property
    def range(self) -> tuple[float, float]:
        """Return the first start and the last end, UNIX seconds."""
        ends = [np.array(times) for times in self._times.values()]
        return min(float(times.min()) for times in ends), max(float(times.max()) for times in ends)

    def pace(self, *, chained: bool) -> RunPace | None:
        """Return what set the pace from the first start to the last end; None where no step took
        any time. ``chained``: the steps of a model follow one another.
        """
        zero, last = self.range if self._times else (0.0, 0.0)
        hosts = (
            (host, "", float((times[1::2] - times[::2]).sum()))
            for (host, what), found in self._times.items()
            if what in STEPS
            for times in (np.array(found),)
        )
        models = ((model, model, took) for model, took in self._models.items())
        busy = RunPace.of(hosts, last - zero, chained=False).busy
        chains = RunPace.of(models, last - zero, chained=chained).chains
        return RunPace(busy, chains) if any(busy.values()) else None

    def at(self, host: str, what: str, since: float) -> tuple[Floats, Floats]:
        """Return starts and ends of one kind of timing at a hospital, in seconds since a UNIX
        time.
        """
        times = np.array(self._times.get((host, what), array("d"))).reshape(-1, 2) - since
        return times[:, 0], times[:, 1]


def busy(starts: Floats, ends: Floats, edges: Floats) -> Floats:
    """Return the share of the time between each two edges that lies within spans, at most 1; (B,)
    for B + 1 edges.

    The time that spans have taken until t is sum_i max(0, t - start_i) - sum_i max(0, t - end_i).
    """

    def elapsed(moments: Floats) -> Any:
        ordered = np.sort(moments)
        count = np.searchsorted(ordered, edges)
        return count * edges - np.concatenate([[0.0], np.cumsum(ordered)])[count]

    return np.asarray(np.clip(np.diff(elapsed(starts) - elapsed(ends)) / np.diff(edges), 0.0, 1.0))


MOST_BARS = 3000
MOST_ROWS = 34
STRETCHES = 200


class Bar(NamedTuple):
    """How one kind of timing is drawn in its hospital's row: lower and upper edge in rows, from
    the middle downwards.
    """

    what: str
    title: str
    colour: Colour
    top: float
    bottom: float


BARS = (
    Bar("warm_up", "warm-up", SERIES[2], -0.38, 0.12),
    Bar("session", "session", SERIES[0], -0.38, 0.12),
    Bar("evaluation", "evaluation", SERIES[4], -0.13, 0.12),
    Bar("transfer", "transfer (to the acknowledgement)", SERIES[1], 0.2, 0.36),
)


def timeline(summary: Summary, spans: Spans) -> Plot | None:
    """Draw what every hospital did when, in seconds from the first start."""
    rows = thin(summary.hospitals, MOST_ROWS)
    if not len(spans):
        return None
    zero, last = spans.range
    seconds = last - zero

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for bar in BARS:
            found = [(row, *spans.at(name, bar.what, since=zero)) for row, name in enumerate(rows)]
            _polygons(
                axes, bar, _shares(bar, found, seconds) if _long(spans) else _boxes(bar, found)
            )
        axes.set_yticks(range(len(rows)), [short(name, NAME) for name in rows])
        axes.set(
            ylim=(len(rows) - 0.5, -0.5),
            xlim=(0, seconds or 1.0),
            xlabel="seconds from the first start",
        )
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        figure.legend(loc="outside upper left", ncols=len(BARS))

    label = (
        f"What {len(rows)} hospitals did over {seconds:.0f} seconds: sessions, evaluations and "
        "transfers."
    )
    size = (WIDTH, 0.36 * len(rows) + 1.0)
    return Plot(draw, size, "timeline", label, lambda: _numbers(summary, spans))


def _numbers(summary: Summary, spans: Spans) -> Numbers:
    zero = spans.range[0]
    rows = (
        (name, bar.what, start, end)
        for name in summary.hospitals
        for bar in BARS
        for start, end in zip(*spans.at(name, bar.what, since=zero), strict=True)
    )
    return Numbers(("hospital", "what", "start_seconds", "end_seconds"), rows)


def sampling(summary: Summary, spans: Spans) -> str:
    """Say what is not drawn as it was; nothing where everything is."""
    count = len(summary.hospitals)
    some = f"{MOST_ROWS} of {count} hospitals, evenly chosen. " if count > MOST_ROWS else ""
    if not _long(spans):
        return some
    zero, last = spans.range
    return (
        f"{some}The run has {len(spans):,} bars: instead of each, the height of a bar is the share "
        "of the time that it takes up "
        f"within {digits((last - zero) / STRETCHES)} seconds."
    )


def _long(spans: Spans) -> bool:
    return len(spans) > MOST_BARS


def _boxes(bar: Bar, found: Sequence[tuple[int, Floats, Floats]]) -> list[Floats]:
    """Return the corners of every bar, (N, 4, 2)."""
    return [
        np.stack(
            [
                np.array([start, end, end, start]).T,
                np.tile([row + bar.top] * 2 + [row + bar.bottom] * 2, (len(start), 1)),
            ],
            2,
        )
        for row, start, end in found
        if len(start)
    ]


def _shares(bar: Bar, found: Sequence[tuple[int, Floats, Floats]], seconds: float) -> list[Floats]:
    """Return the outline over all stretches of time for every hospital, (1, 2 B + 2, 2)."""
    edges = np.linspace(0, seconds, STRETCHES + 1)
    outlines = []
    for row, start, end in found:
        heights = np.repeat(busy(start, end, edges), 2) * (bar.bottom - bar.top)
        if heights.any():
            moments = np.concatenate([[0.0], np.repeat(edges, 2)[1:-1], [seconds]])
            outlines.append(
                np.stack([moments, row + bar.bottom - np.concatenate([[0.0], heights, [0.0]])], 1)[
                    None
                ]
            )
    return outlines


def _polygons(axes: Axes, bar: Bar, corners: Sequence[Floats]) -> None:
    """Draw all of a kind as one shape: a long run has thousands."""
    from matplotlib.patches import PathPatch  # noqa: PLC0415 - only drawing needs it
    from matplotlib.path import Path  # noqa: PLC0415

    if corners:
        colour = bar.colour.light
        shape = Path.make_compound_path_from_polys(np.concatenate(corners))
        axes.add_artist(
            PathPatch(shape, facecolor=colour, edgecolor=colour, linewidth=0.4, label=bar.title)
        )
