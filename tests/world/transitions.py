"""State diagrams of the machines, from what they do in simulated time: ``python -m tests.world
diagrams`` lets stories of losses and returns happen, notes every change of phase and draws them for
the manual.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape, unescape

import returning

from fedskd_sim.member import controller
from fedskd_sim.messages import HopId, ToController
from fedskd_sim.protocol.admission import ControllerTurn, RegistrarState
from fedskd_sim.protocol.controller import Registrar
from fedskd_sim.protocol.effects import Turn
from fedskd_sim.protocol.events import Event
from fedskd_sim.protocol.losses import is_rejoining
from fedskd_sim.protocol.machine import HospitalMachine
from fedskd_sim.protocol.state import State
from fedskd_sim.ring.program import Program
from fedskd_sim.ring.routes import NOBODY, LostHospitals

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
STORIES = 200
Transition = tuple[str, str, str]
"""From which phase to which, by which event."""
SEEN: Mapping[str, set[Transition]] = {"hospital": set(), "delivery": set(), "return": set()}
"""What has been seen in this process, by picture."""


def of_hospital(state: State, program: Program) -> str:
    """Name the phase of a hospital."""
    if state.over:
        return "has left"
    if is_rejoining(state, program):
        return "rejoining"
    if not state.joined:
        return "registers"
    if state.working:
        return "works, model sent on" if state.released else "works"
    if state.done:
        return "done, stays"
    return "waits for a model" if program.at(state.cursor) else "waits for answers"


def of_model(state: State, hop: HopId) -> str:
    """Name the phase of a model at the hospital that it leaves."""
    if hop in state.outbox:
        return "on its way" if state.outbox[hop].silent else "put off by its receiver"
    return "safe there, kept" if hop in state.kept else "not here"


def of_lost(state: RegistrarState, name: str) -> str:
    """Name the phase of a hospital that may be lost, as the controller knows it."""
    if name in state.asked:
        return "others are asked"
    if name in state.away:
        return "lost"
    return "in the ring again" if name in state.back else "in the ring"


class WatchedMachine(HospitalMachine):
    """Notes every change of phase."""

    def step(self, state: State, event: Event) -> Turn:
        after, effects = super().step(state, event)
        by = type(event).__name__
        note("hospital", of_hospital(state, self.program), of_hospital(after, self.program), by)
        for hop in {*state.outbox, *state.kept, *after.outbox, *after.kept}:
            note("delivery", of_model(state, hop), of_model(after, hop), by)
        return after, effects


class WatchedRegistrar(Registrar):
    """Notes every change of phase of a hospital that is lost."""

    def step(self, state: RegistrarState, message: ToController) -> ControllerTurn:
        after, effects = super().step(state, message)
        word = type(message).__name__
        for name in () if after.ended else self.scenario.names:
            by = f"its {word}" if message.hospital == name else f"another's {word}"
            note("return", of_lost(state, name), of_lost(after, name), by)
        return after, effects

    def lose(
        self,
        state: RegistrarState,
        names: Iterable[str],
        also: LostHospitals = NOBODY,
        why: str = "",
    ) -> ControllerTurn:
        after, effects = super().lose(state, [*names], also, why)
        for name in () if after.ended or also or why else self.scenario.names:
            note("return", of_lost(state, name), of_lost(after, name), "silence")
        return after, effects


def note(picture: str, before: str, after: str, by: str) -> None:
    """Note a change of phase; none if it is the same."""
    if before != after:
        SEEN[picture].add((before, after, by))


@contextmanager
def watched_controllers() -> Iterator[None]:
    """Let controllers that are made now be watched."""
    kept, controller.Registrar = controller.Registrar, WatchedRegistrar  # type: ignore[misc]
    try:
        yield
    finally:
        controller.Registrar = kept  # type: ignore[misc]


class Drawing(NamedTuple):
    """Where the phases of a picture stand, and what it says."""

    title: str
    size: tuple[int, int]
    phases: Mapping[str, tuple[int, int]]
    gathered: tuple[str, ...] = ()
    """Phases into which so many lead that a line says it."""


DRAWINGS: Mapping[str, Drawing] = {
    "hospital": Drawing(
        "A hospital's part: phases, and the events that change them",
        (900, 460),
        {
            "registers": (90, 60),
            "waits for a model": (210, 220),
            "works": (470, 60),
            "works, model sent on": (770, 200),
            "waits for answers": (380, 345),
            "done, stays": (700, 370),
            "rejoining": (60, 330),
            "has left": (210, 370),
        },
        ("has left", "rejoining"),
    ),
    "delivery": Drawing(
        "A model that leaves, at the hospital that sends it",
        (900, 330),
        {
            "not here": (110, 165),
            "on its way": (450, 60),
            "put off by its receiver": (770, 165),
            "safe there, kept": (450, 275),
        },
    ),
    "return": Drawing(
        "A hospital that is lost and comes back, as the controller knows it",
        (900, 260),
        {
            "in the ring": (110, 60),
            "lost": (430, 60),
            "others are asked": (770, 60),
            "in the ring again": (430, 200),
        },
    ),
}
TRANSITION = "from “{}” to “{}” by {}"
INK, EDGE, PAPER = "#0f172a", "#475569", "#f8fafc"
BOX_H, LETTER, LINE = 34, 7.4, 15


def draw(name: str, seen: Collection[Transition]) -> str:
    """Draw a state diagram as SVG (of fixed size, in pixels), which has its transitions in words,
    too.
    """
    title, (width, height), phases, gathered = DRAWINGS[name]
    events = defaultdict[tuple[str, str], set[str]](set)
    for before, after, by in seen:
        events[before, after].add(by)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"',
        f'height="{height}" font-family="sans-serif" font-size="13" text-anchor="middle">',
        f"<title>{escape(title)}</title>",
        "<desc>",
        *(escape(TRANSITION.format(*one)) for one in sorted(seen)),
        "</desc>",
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7"',
        f'markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" fill="{EDGE}"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    notes = []
    for (before, after), by in sorted(events.items()):
        if after not in gathered:
            lines += _arrow(phases, before, after, sorted(by))
    for target in gathered:
        found = {one for one in events if one[1] == target}
        by = sorted(set().union(*(events[one] for one in found)))
        origins = ", ".join(sorted(one for one, _ in found))
        notes.append(f"to “{target}” by {' or '.join(by)}, from: {origins}")
    for phase, (x, y) in phases.items():
        wide = LETTER * len(phase) + 26
        lines.append(
            f'<rect x="{x - wide / 2:g}" y="{y - BOX_H / 2:g}" width="{wide:g}" height="{BOX_H}" '
            f'rx="9" fill="{PAPER}" stroke="{INK}" stroke-width="1.5"/>'
            f'<text x="{x}" y="{y + 4.5:g}" fill="{INK}">{escape(phase)}</text>'
        )
    for number, text in enumerate(notes):
        y = height - 12 - LINE * (len(notes) - 1 - number)
        lines.append(f'<text x="14" y="{y}" text-anchor="start" font-size="12" fill="{EDGE}">'
                     f"{escape(text)}</text>")  # fmt: skip
    return "\n".join([*lines, "</svg>", ""])


def _arrow(
    phases: Mapping[str, tuple[int, int]], before: str, after: str, by: list[str]
) -> list[str]:
    """Draw a curve between the edges of two boxes, with its events at its middle."""
    (x0, y0), (x1, y1) = phases[before], phases[after]
    length = math.hypot(x1 - x0, y1 - y0)
    aside_x, aside_y = (y1 - y0) / length, -(x1 - x0) / length
    bend = 26 + length / 14
    middle_x, middle_y = (x0 + x1) / 2 + bend * aside_x, (y0 + y1) / 2 + bend * aside_y
    from_x, from_y = _edge(before, (x0, y0), (middle_x, middle_y))
    to_x, to_y = _edge(after, (x1, y1), (middle_x, middle_y))
    text_x, text_y = (from_x + to_x) / 4 + middle_x / 2, (from_y + to_y) / 4 + middle_y / 2
    curve = f"M{from_x:.0f} {from_y:.0f}Q{middle_x:.0f} {middle_y:.0f} {to_x:.0f} {to_y:.0f}"
    lines = [
        f'<path d="{curve}" fill="none" stroke="{EDGE}" stroke-width="1.4" marker-end="url(#tip)"/>'
    ]
    top = text_y + 4 - LINE * (len(by) - 1) / 2
    for number, word in enumerate(by):
        y = top + LINE * number
        lines.append(
            f'<text x="{text_x:.0f}" y="{y:.0f}" font-size="12" fill="{INK}" stroke="#ffffff" '
            f'stroke-width="4" paint-order="stroke">{escape(word)}</text>'
        )
    return lines


def _edge(phase: str, at: tuple[int, int], to: tuple[float, float]) -> tuple[float, float]:
    """Return the point at which a line from a box's middle leaves it."""
    wide, high = (LETTER * len(phase) + 26) / 2 + 3, BOX_H / 2 + 3
    across, down = to[0] - at[0], to[1] - at[1]
    part = min(wide / abs(across) if across else math.inf, high / abs(down) if down else math.inf)
    return at[0] + across * part, at[1] + down * part


def drawn_in(text: str) -> set[Transition]:
    """Return the transitions that the text of a picture has in words."""
    (words,) = re.findall(r"<desc>\n(.*)\n</desc>", unescape(text), re.DOTALL)
    wanted = re.compile(TRANSITION.format("(.*)", "(.*)", "(.*)"))
    return {found.groups() for found in map(wanted.fullmatch, words.split("\n")) if found}


def diagrams() -> None:
    """Let stories happen, and write the pictures of the manual anew."""
    with watched_controllers():
        for seed in range(STORIES):
            for story in (returning.drawn(seed), returning.drawn_unheard(seed)):
                returning.survived(story, WatchedMachine)
    for picture, seen in SEEN.items():
        (PICTURES / f"{picture}.svg").write_text(draw(picture, seen), encoding="utf-8")
