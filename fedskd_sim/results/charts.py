"""Small pictures that need no plotting library: lines over stops, and maps of shaded cells. They
are drawn in a millisecond, so a live page draws them again with every stop.

Colours are those of the page's palette. A cell's shade is its opacity, which reads on light and
dark pages alike; where signs differ, blue is above zero and orange below.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.observe.words import short
from fedskd_sim.results.patients import thin
from fedskd_sim.results.rows import digits
from fedskd_sim.results.svg import (
    DASHES,
    INK,
    MUTED,
    RULE,
    SERIES,
    Colour,
    Drawn,
    Numbers,
    Plot,
    ink_of,
    look_of,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
WIDTH, HEIGHT = 340, 190
LEFT, RIGHT, TOP, FOOT = 44, 8, 10, 34
"""Pixels around the field of a chart."""
MOST_LINES = 6
MOST_TITLED = 200
"""Points, or cells, of which each says its value when it is pointed at."""
MOST_POINTS = 240
TICKS = 4
MOST_TICKS = 26
LEAST_SHADE, DEEPEST, SHADES = 0.06, 0.62, 24
"""Opacity of the palest cell, and of the deepest on which text reads; the steps between."""
CELL, LEAST_CELL, TALLEST = 26, 5, 420
LABELS, HEAD, LONGEST = 150, 18, 20
"""Pixels for the names of rows and for those of columns; letters of the former."""
ROOM_FOR_NUMBER = 30
LEAST_TEXT = 11


class Chart(NamedTuple):
    """What a chart of lines is called, and what its axes are."""

    title: str
    x: str
    y: str
    scale: float = 1.0
    """By what values are multiplied: 100 for percentages."""
    round: int = 0
    """Stops of a round, which the ticks count; 0 where they count themselves."""


Series = Mapping[str, tuple[Floats, Floats]]
"""By name: places and values."""


def lines(chart: Chart, series: Series) -> Drawn:
    """Draw a line per name, or of more than six the mean and the range; '' without a value.

    Args:
        chart: titles.
        series: places and values of each, NaN for none.

    """
    known = {
        name: (x[np.isfinite(y)], chart.scale * y[np.isfinite(y)])
        for name, (x, y) in series.items()
    }
    known = {name: found for name, found in known.items() if len(found[0])}
    if not known:
        return Drawn()
    frame = _Frame.around(chart, known.values())
    inside = [*frame.axes()]
    if len(known) > MOST_LINES:
        inside += _range(frame, known)
    else:
        titled = sum(len(x) for x, _ in known.values()) <= MOST_TITLED
        for name, found in known.items():
            inside += _line(frame, [*series].index(name), name, found, titled=titled)
    ends = ", ".join(f"{name} {digits(float(y[-1]))}" for name, (_, y) in [*known.items()][:3])
    more = f", and {len(known) - 3} more" if len(known) > 3 else ""  # noqa: PLR2004 - as above
    label = f"{chart.title}: {chart.y} over {chart.x}; now {ends}{more}"
    return Drawn(_svg((WIDTH, HEIGHT), label, inside), _plot_lines(chart, known))


def _plot_lines(chart: Chart, known: Series) -> Plot:
    """Draw the lines with matplotlib, of many the mean and the range."""
    each = chart.round or 1

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        if len(known) > MOST_LINES:
            stops, low, middle, high = _bounds(known)
            blue = SERIES[0].light
            axes.fill_between(stops / each, low, high, color=blue, alpha=0.2, lw=0, label="range")
            axes.plot(stops / each, middle, color=blue, label="mean over all")
        else:
            for (name, (x, y)), colour, dash in zip(known.items(), SERIES, DASHES, strict=False):
                mark = "" if len(x) > MOST_LINES else "o"
                axes.plot(x / each, y, color=colour.light, ls=dash, marker=mark, ms=3, label=name)
        axes.set(xlabel=chart.x, ylabel=chart.y)
        axes.grid(visible=True)
        figure.legend(loc="outside upper left", ncols=4)

    columns = ("line", chart.x.partition(" (")[0], chart.y)
    rows = ((name, at / each, value) for name, xy in known.items() for at, value in zip(*xy))  # noqa: B905
    return Plot(draw, (5.0, 3.2), chart.title, chart.title, lambda: Numbers(columns, rows))


class _Frame(NamedTuple):
    chart: Chart
    x: tuple[float, float]
    y: tuple[float, float]

    @classmethod
    def around(cls, chart: Chart, pairs: Collection[tuple[Floats, Floats]]) -> _Frame:
        xs = np.concatenate([x for x, _ in pairs])
        ys = np.concatenate([y for _, y in pairs])
        low, high = float(ys.min()), float(ys.max())
        low = min(low, 0.0) if low < 0.3 * high else low
        room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
        bottom = low if low == 0 else low - room
        return cls(
            chart, (min(0.0, float(xs.min())), max(float(xs.max()), 1.0)), (bottom, high + room)
        )

    def at(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - FOOT
        return (
            LEFT + wide * (np.asarray(x, float) - self.x[0]) / (self.x[1] - self.x[0]),
            TOP + high * (self.y[1] - np.asarray(y, float)) / (self.y[1] - self.y[0]),
        )

    def axes(self) -> Iterator[str]:
        bottom, right = HEIGHT - FOOT, WIDTH - RIGHT
        for tick in _ticks(*self.y):
            y = float(self.at(np.zeros(1), np.array([tick]))[1][0])
            yield _rule((LEFT, y), (right, y))
            yield _text(LEFT - 5, y + 4, f"{tick:g}", "end")
        for tick in self._stops():
            x = float(self.at(np.array([tick]), np.zeros(1))[0][0])
            yield _rule((x, TOP), (x, bottom))
            yield _text(x, bottom + 14, f"{tick / (self.chart.round or 1):g}", "middle")
        yield _text((LEFT + right) / 2, HEIGHT - 5, self.chart.x, "middle")
        turned = f'transform="translate(11 {(TOP + bottom) / 2:g}) rotate(-90)"'
        yield f"<g {turned}>{_text(0, 0, self.chart.y, 'middle')}</g>"

    def _stops(self) -> list[float]:
        each = self.chart.round or 1
        low, high = self.x[0] / each, self.x[1] / each
        whole = [tick * each for tick in _ticks(low, high, 6) if tick == int(tick)]
        return whole if len(whole) > 1 else [tick * each for tick in _ticks(low, high)]


def _text(x: float, y: float, text: str, anchor: str = "start", look: str = "dim") -> str:
    return (
        f'<text class="{look}" text-anchor="{anchor}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
    )


def _rule(start: tuple[float, float], end: tuple[float, float]) -> str:
    ends = f'x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"'
    return f'<line class="rule" {ends}/>'


def _ticks(low: float, high: float, most: int = TICKS) -> list[float]:
    """Return round numbers between two values, about so many."""
    least = (high - low) / most
    size = 10.0 ** math.floor(math.log10(least))
    step = next(size * one for one in (1, 2, 5, 10) if size * one >= least * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(step * number, 9) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _line(
    frame: _Frame, number: int, name: str, found: tuple[Floats, Floats], *, titled: bool
) -> Iterator[str]:
    colour, dashes = look_of(number)
    places = thin(range(len(found[0])), MOST_POINTS)
    x, y = frame.at(found[0][[*places]], found[1][[*places]])
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    yield f'<g data-of="{escape(name)}">'
    yield (
        f'<polyline fill="none" stroke="{ink_of(colour)}" stroke-width="1.6"{dashed} '
        f'points="{_points(x, y)}"/>'
    )
    if titled or len(x) == 1:
        for place, value, left, top in zip(found[0], found[1], x, y, strict=False):
            where = f"{frame.chart.x.partition(' (')[0]} {place / (frame.chart.round or 1):.3g}"
            yield (
                f'<circle cx="{left:.1f}" cy="{top:.1f}" r="2.6" fill="{ink_of(colour)}">'
                f"<title>{escape(name)}, {escape(where)}: {digits(float(value))}</title></circle>"
            )
    yield "</g>"


def _points(x: Floats, y: Floats) -> str:
    return " ".join(f"{left:.1f},{top:.1f}" for left, top in zip(x, y, strict=True))


def _bounds(known: Series) -> tuple[Floats, Floats, Floats, Floats]:
    """Return stops, or groups of them, with the least, mean and largest value of all lines."""
    xs = np.concatenate([x for x, _ in known.values()])
    ys = np.concatenate([y for _, y in known.values()])
    stops, group = np.unique(xs, return_inverse=True)
    if len(stops) > MOST_POINTS:
        first = np.unique(np.linspace(0, len(stops) - 1, MOST_POINTS).astype(int))
        group = np.searchsorted(first, group, "right") - 1
        stops = stops[first]
    mean = np.bincount(group, ys) / np.bincount(group)
    low, high = np.full(len(stops), np.inf), np.full(len(stops), -np.inf)
    np.minimum.at(low, group, ys)
    np.maximum.at(high, group, ys)
    return stops, low, mean, high


def _range(frame: _Frame, known: Series) -> Iterator[str]:
    """Draw the mean over all lines, in the band from the least to the most."""
    stops, low, mean, high = _bounds(known)
    x, top = frame.at(stops, high)
    _, bottom = frame.at(stops, low)
    _, middle = frame.at(stops, mean)
    colour = ink_of(SERIES[0])
    yield (
        f'<polygon fill="{colour}" opacity=".18" '
        f'points="{_points(x, top)} {_points(x[::-1], bottom[::-1])}"/>'
        f'<polyline fill="none" stroke="{colour}" stroke-width="1.8" '
        f'points="{_points(x, middle)}"/>'
    )


class Cells(NamedTuple):
    """What a map of cells is called, what its rows and columns are, and how values are written."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    x: str
    unit: str
    scale: float = 1.0
    signed: bool = False
    """Whether blue is above zero and orange below; else the least value is the palest."""
    diagonal: bool = False


def heat(cells: Cells, values: Floats, most: int = MOST_TITLED) -> Drawn:
    """Draw values (R, C) as shaded cells, NaN as empty ones; '' where there is no value.

    Few cells are elements that say their value when they are pointed at, and show it where there
    is room. More than ``most`` are one picture inside the drawing.
    """
    shown = np.round(cells.scale * np.asarray(values, float), 9) + 0.0  # no -0.0
    if not np.isfinite(shown).any():
        return Drawn()
    rows, columns = shown.shape
    high = float(min(CELL, max(LEAST_CELL, TALLEST / rows)))
    wide = float(min(60, max(2.0, (880 if columns > 30 else 560) / columns)))  # noqa: PLR2004
    field = wide * columns, high * rows
    inside = [*_rows_and_columns(cells, wide, high)]
    shades, low, high_value = _shades(shown, signed=cells.signed)
    if rows * columns <= most:
        inside += _elements(cells, shown, shades, (wide, high))
    else:
        inside.append(
            f'<image x="{LABELS}" y="{HEAD}" width="{field[0]:g}" height="{field[1]:g}" '
            f'preserveAspectRatio="none" style="image-rendering:pixelated" '
            f'href="data:image/png;base64,{_png(shades)}"/>'
        )
    if cells.diagonal:
        inside.append(
            f'<line x1="{LABELS}" y1="{HEAD}" x2="{LABELS + field[0]:g}" y2="{HEAD + field[1]:g}" '
            f'stroke="{ink_of(INK)}" stroke-width=".7"/>'
        )
    inside += _key(cells, low, high_value, HEAD + field[1] + 18)
    label = f"{cells.title}: from {digits(low)} to {digits(high_value)} {cells.unit}"
    size = LABELS + max(field[0], 170) + 8, field[1] + 66
    return Drawn(_svg(size, label, inside, least=min(size[0], 560)), _plot_heat(cells, shown))


def _plot_heat(cells: Cells, shown: Floats) -> Plot:
    """Draw the cells with matplotlib, and a bar of their colours."""
    rows, columns = shown.shape

    def draw(figure: Figure) -> None:
        from matplotlib.colors import LinearSegmentedColormap  # noqa: PLC0415 - slow to import

        axes = figure.subplots()
        colours: Any = "cividis"
        edge = float(np.nanmax(np.abs(shown))) or 1.0
        if cells.signed:
            ends = [SERIES[1].light, "#ffffff", SERIES[0].light]
            colours = LinearSegmentedColormap.from_list("signed", ends)
        limits: Any = {"vmin": -edge, "vmax": edge} if cells.signed else {}
        mesh = axes.pcolormesh(np.ma.masked_invalid(shown), cmap=colours, **limits)
        across = range(0, columns, -(-columns // MOST_TICKS))
        down = range(0, rows, -(-rows // MOST_TICKS))
        axes.set_xticks([place + 0.5 for place in across], [cells.columns[one] for one in across])
        axes.set_yticks([place + 0.5 for place in down], [short(cells.rows[k], 22) for k in down])
        axes.invert_yaxis()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(xlabel=cells.x)
        axes.set_title(cells.title, loc="left")
        figure.colorbar(mesh, label=cells.unit)

    named = ("hospital", cells.x.partition(" (")[0], cells.unit)
    numbers = (
        (cells.rows[row], cells.columns[column], value if math.isfinite(value) else None)
        for (row, column), value in np.ndenumerate(shown)
    )
    size = (min(10.0, 2.6 + 0.32 * columns), max(2.4, min(8.0, 0.8 + 0.3 * rows)))
    return Plot(draw, size, cells.title, cells.title, lambda: Numbers(named, numbers))


def _shades(shown: Floats, *, signed: bool) -> tuple[Floats, float, float]:
    """Return each cell's shade in [-1, 1], NaN for none, and the least and the largest value."""
    low, most = float(np.nanmin(shown)), float(np.nanmax(shown))
    if signed:
        return shown / (max(abs(low), abs(most)) or 1.0), low, most
    spread = (most - low) or 1.0
    return LEAST_SHADE + (1 - LEAST_SHADE) * (shown - low) / spread, low, most


def _colour(shade: float) -> Colour:
    return SERIES[0] if shade >= 0 else SERIES[1]


def _rows_and_columns(cells: Cells, wide: float, high: float) -> Iterator[str]:
    every = max(1, math.ceil(LEAST_TEXT / high))
    for place, name in enumerate(cells.rows):
        if place % every == 0:
            y = HEAD + high * (place + 0.5) + 4
            label = _text(LABELS - 6, y, short(name, LONGEST), "end", "")
            yield f'<g data-of="{escape(name)}"><title>{escape(name)}</title>{label}</g>'
    letters = max((len(one) for one in cells.columns), default=1)
    every = max(1, math.ceil((letters * 6.6 + 6) / wide))
    for place, name in enumerate(cells.columns):
        if place % every == 0:
            yield _text(LABELS + wide * (place + 0.5), 12, name, "middle")


def _elements(
    cells: Cells, shown: Floats, shades: Floats, size: tuple[float, float]
) -> Iterator[str]:
    wide, high = size
    for (row, column), value in np.ndenumerate(shown):
        x, y = LABELS + wide * column, HEAD + high * row
        box = f'x="{x + 0.5:.1f}" y="{y + 0.5:.1f}" width="{wide - 1:.1f}" height="{high - 1:.1f}"'
        about = f"{cells.rows[row]}, {cells.columns[column]}"
        if not math.isfinite(value):
            yield f'<rect {box} fill="none" stroke="{ink_of(RULE)}" stroke-dasharray="2 2"/>'
            continue
        shade = float(shades[row, column])
        text = f"{round(value, 1) + 0.0:+.1f}" if cells.signed else digits(value)
        yield (
            f'<g data-of="{escape(cells.rows[row])}">'
            f"<title>{escape(about)}: {text} {cells.unit}</title><rect {box} "
            f'fill="{ink_of(_colour(shade))}" fill-opacity="{_opacity(shade)}"/>'
        )
        if wide >= ROOM_FOR_NUMBER:
            yield _text(x + wide / 2, y + high / 2 + 4, text, "middle", "")
        yield "</g>"


def _key(cells: Cells, low: float, most: float, y: float) -> Iterator[str]:
    """Draw what the shades mean, and what is along the columns."""
    edge = max(abs(low), abs(most))
    ends, steps = ((-edge, edge), (-1, 1)) if cells.signed else ((low, most), (0, 1))
    yield _text(LABELS, y, cells.x)
    for place, shade in enumerate(np.linspace(*steps, 12).tolist()):
        yield (
            f'<rect x="{LABELS + 7 * place:g}" y="{y + 7:g}" width="7" height="9" '
            f'fill="{ink_of(_colour(shade))}" fill-opacity="{_opacity(shade)}"/>'
        )
    yield _text(LABELS - 6, y + 16, digits(ends[0]), "end")
    yield _text(LABELS + 90, y + 16, f"{digits(ends[1])} {cells.unit}")


def _opacity(shade: float) -> str:
    return f"{max(LEAST_SHADE, abs(shade)) * DEEPEST:.2f}"


def _png(shades: Floats) -> str:
    """Return a PNG of a pixel per cell in base64: a palette of shades of both colours, with their
    opacity.
    """
    steps = np.clip(np.nan_to_num(np.round(np.abs(shades) * SHADES)), 0, SHADES).astype(np.uint8)
    index = np.where(
        np.isfinite(shades), 1 + steps + np.where(shades < 0, SHADES + 1, 0).astype(np.uint8), 0
    ).astype(np.uint8)
    rows, columns = index.shape
    raw = np.concatenate([np.zeros((rows, 1), np.uint8), index], axis=1).tobytes()
    middle = [_middle(SERIES[0]), _middle(SERIES[1])]
    palette = bytes(3) + b"".join(colour * (SHADES + 1) for colour in middle)
    opacity = [
        round(255 * DEEPEST * 1.2 * max(LEAST_SHADE, step / SHADES)) for step in range(SHADES + 1)
    ]
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)),
        (b"PLTE", palette),
        (b"tRNS", bytes([0, *opacity, *opacity])),
        (b"IDAT", zlib.compress(raw, 9)),
        (b"IEND", b""),
    )
    made = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return base64.b64encode(made).decode()


def picture_of(shades: Floats) -> str:
    """Return a PNG of a pixel per cell as an address that holds it; shades as `heat` draws them, in
    [-1, 1], NaN for none.
    """
    return f"data:image/png;base64,{_png(shades)}"


def _middle(colour: Colour) -> bytes:
    """Return a colour between that of light and that of dark pages, which a picture cannot know."""
    light, dark = (bytes.fromhex(one[1:]) for one in (colour.light, colour.dark))
    return bytes((one + other) // 2 for one, other in zip(light, dark, strict=True))


def _svg(
    size: tuple[float, float], label: str, inside: Sequence[str], least: float | None = None
) -> str:
    wide, high = size
    style = f"min-width:{least or wide:.0f}px;max-width:{1.5 * wide:.0f}px"
    return (
        f'<svg class="chart" viewBox="0 0 {wide:g} {high:g}" role="img" '
        f'aria-label="{escape(label)}" style="{style}">{"".join(inside)}</svg>'
    )


LOOKS = (
    f".chart{{font-size:11px}}.chart text{{fill:{ink_of(INK)}}}.chart .dim{{fill:{ink_of(MUTED)}}}"
    f".chart .rule{{stroke:{ink_of(RULE)};stroke-width:.6}}"
)
"""The style sheet of all charts."""
