"""A figure in all its forms: as SVG that lives inside a page, with colours that follow the page's
theme, as files for a paper, and as the numbers that it shows; same bytes every time.

Colours of the palette become CSS variables with the light colour as fallback. The six series
colours stay apart without red or green cones too (tests/unit/results/test_colours.py computes it),
and every use of them is doubled by a line style, a marker or a position.
"""

from __future__ import annotations

import csv
import gc
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Colour(NamedTuple):
    """A colour of the palette by its CSS variable, on a light and on a dark page."""

    name: str
    light: str
    dark: str


INK = Colour("ink", "#1c2330", "#e6e9ef")
MUTED = Colour("muted", "#68707d", "#9aa3b2")
RULE = Colour("rule", "#d8dce3", "#39404d")
GHOST = Colour("ghost", "#c3c9d4", "#4b5464")
SERIES = (
    Colour("series-1", "#0e75b3", "#46b6f3"),
    Colour("series-2", "#da6200", "#e57a35"),
    Colour("series-3", "#0d875e", "#5ed693"),
    Colour("series-4", "#35178f", "#bd6893"),
    Colour("series-5", "#593d00", "#fae74b"),
    Colour("series-6", "#3b4659", "#d1ddeb"),
)
PALETTE = (INK, MUTED, RULE, GHOST, *SERIES)
FONT = "DejaVu Sans"
PIXELS_PER_INCH = 108
LEAST_SCALE = 0.86
"""So far may a picture shrink: its smallest text then has 9 pixels; on narrower screens it is
scrolled."""
WIDTH = 10.0
NAME, NARROW = 22, 13
EQUAL_CONTRAST = 0.46  # where black and white text read equally well on the colour map
DASHES = (
    "-",
    (0, (5, 1.5)),
    (0, (1.2, 1.2)),
    (0, (6, 1.5, 1.2, 1.5)),
    (0, (9, 2)),
    (0, (3, 1, 1, 1, 1, 1)),
)
MARKERS = ("o", "s", "^", "D", "v", "P")
SETTINGS = {
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "font.family": [FONT],
    "font.size": 8.5,
    "text.color": INK.light,
    "axes.edgecolor": MUTED.light,
    "axes.labelcolor": INK.light,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 8.5,
    "axes.axisbelow": True,
    "grid.color": RULE.light,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED.light,
    "ytick.color": MUTED.light,
    "xtick.labelcolor": INK.light,
    "ytick.labelcolor": INK.light,
    "legend.frameon": False,
}


class Numbers(NamedTuple):
    """What a figure shows as a table: the names of its columns with their units, and its rows."""

    columns: Sequence[str]
    rows: Iterable[Sequence[Any]]


class Plot(NamedTuple):
    """How matplotlib draws a figure, and what it shows.

    ``draw`` fills an empty figure of so many ``inches``, width and height; ``label`` is what a
    screen reader says. ``name`` keeps the ids of shared shapes apart from those of other figures.
    """

    draw: Callable[[Figure], None]
    inches: tuple[float, float]
    name: str
    label: str
    numbers: Callable[[], Numbers]

    def figure(self) -> Figure:
        """Draw it."""
        from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import

        with _theme(self.name):
            made = Figure(figsize=self.inches, layout="constrained", facecolor="none")
            self.draw(made)
        return made

    def embedded(self) -> Drawn:
        """Draw it as one ``<svg>`` element; `Figure.savefig` would draw it twice."""
        from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415 - as above

        out = StringIO()
        with _theme(self.name), _uncollected():
            canvas: Any = FigureCanvasSVG(self.figure())
            canvas.print_svg(out, metadata=NO_DATE["svg"])
        return Drawn(_embed(_told(out.getvalue()), self.inches[0], self.label), self)

    def save(self, folder: Path, name: str) -> None:
        """Write it as SVG and PDF, and its numbers as CSV; raises OSError."""
        made = self.figure()
        with _theme(self.name):
            made.savefig(folder / f"{name}.pdf", metadata=NO_DATE["pdf"])
            drawn = StringIO()
            made.savefig(drawn, format="svg", metadata=NO_DATE["svg"])
        (folder / f"{name}.svg").write_text(_told(drawn.getvalue()), encoding="utf-8")
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as out:
            columns, rows = self.numbers()
            csv.writer(out, lineterminator="\n").writerows([columns, *rows])


class Drawn(str):  # noqa: SLOT000 - it carries a plot
    """An ``<svg>`` element of a page, which knows what it is a drawing of; '' for nothing."""

    plot: Plot | None

    def __new__(cls, svg: str = "", plot: Plot | None = None) -> Self:
        """Take the element and its plot."""
        made = super().__new__(cls, svg)
        made.plot = plot
        return made

    def __html__(self) -> str:
        """Return the element, in which nothing is left to be escaped."""
        return str(self)


NO_DATE: dict[str, Any] = {
    "svg": dict.fromkeys(("Creator", "Date", "Format", "Type")),
    "pdf": dict.fromkeys(("Creator", "CreationDate", "Producer")),
}


@contextmanager
def _theme(name: str) -> Iterator[None]:
    import matplotlib as mpl  # noqa: PLC0415 - only drawing needs it, and it is slow to import

    settings: Any = {**SETTINGS, "svg.hashsalt": name}
    with mpl.rc_context(settings):
        yield


@contextmanager
def _uncollected() -> Iterator[None]:
    """Leave garbage for once: a figure makes so many objects that looking for it takes a tenth of
    the drawing.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def look_of(number: int) -> tuple[Colour, str]:
    """Return a model's colour and dashes ('': none), which no others of three dozen have."""
    dashes = DASHES[(number + number // len(SERIES)) % len(DASHES)]
    dashed = "" if isinstance(dashes, str) else " ".join(f"{1.5 * one:g}" for one in dashes[1])
    return SERIES[number % len(SERIES)], dashed


def ink_of(colour: Colour) -> str:
    """Write a colour as a style sheet knows it."""
    return f"var(--{colour.name},{colour.light})"


def mark(hospital: str = "", tip: str = "") -> str:
    """Return the group id of a shape that is of a hospital, and says something when it is pointed
    at.
    """
    return f"@{hospital}|{tip}"


def _told(text: str) -> str:
    """Make titles and attributes of the ids that `mark` has made."""
    return re.sub(r'<g id="@([^"|]*)\|([^"]*)">', _titled, text)


def _titled(found: re.Match[str]) -> str:
    whose = f' data-of="{found[1]}"' if found[1] else ""
    return f"<g{whose}>" + (f"<title>{found[2]}</title>" if found[2] else "")


def _embed(text: str, inches: float, label: str) -> str:
    """Cut what a page does not need (prologue, comments, repeated ids, digits); name the
    picture; apply the palette.
    """
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)
    text = re.sub(r"(\d\.\d\d)\d+", r"\1", text)
    text = text.replace(f"'{FONT}'", "system-ui, sans-serif")
    for colour in PALETTE:
        text = text.replace(colour.light, f"var(--{colour.name}, {colour.light})")
    head, rest = text.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    widest = inches * PIXELS_PER_INCH
    style = f"min-width: {LEAST_SCALE * widest:.0f}px; max-width: {widest:.0f}px"
    about = f'class="drawn" role="img" aria-label="{escape(label)}" style="{style}"'
    return f"{head} {about}>{rest}"
