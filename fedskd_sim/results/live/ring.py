"""The ring as a map: hospitals on a circle, every model where it is or on its way to the next."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from html import escape

from fedskd_sim.observe.words import short
from fedskd_sim.results.lamport import CROSS
from fedskd_sim.results.live.reading import RunReader, Whereabouts
from fedskd_sim.results.svg import INK, MUTED, RULE, SERIES, ink_of

SIZE, RADIUS = 560, 190
FEW, MANY = 12, 30
"""Hospitals up to which all is drawn large, and up to which every model has its number."""
ON_ITS_WAY, WAITS_AT = 0.5, 0.8
"""How far along the way a model is drawn, since nobody knows how far it is."""
NAME = 16
AWAY, LOST, STILL = "down", "lost", "‖"


def map_of(seen: RunReader) -> str:
    """Draw where all models are."""
    names = seen.topology.names
    dot = 13 if len(names) <= FEW else 7 if len(names) <= MANY else 3.5
    parts = [_circle(), *_hospitals(seen, dot), *_models(seen, dot)]
    label = "; ".join(words_of(model, place) for model, place in [*seen.models.items()][:FEW])
    style = "width:100%"
    return (
        f'<svg class="chart ring" viewBox="0 0 {SIZE} {SIZE - 60}" role="img" '
        f'aria-label="{escape(label)}" style="{style}">{"".join(parts)}</svg>'
    )


def words_of(model: str, place: Whereabouts) -> str:
    """Say where a model is."""
    if place.to:
        return f"{model} {'waits at' if place.waits else 'is on its way to'} {place.to}"
    return f"{model} is at {'home' if place.host == model else place.host}"


def _at(place: int, count: int, radius: float = RADIUS) -> tuple[float, float]:
    angle = 2 * math.pi * place / count - math.pi / 2
    return SIZE / 2 + radius * math.cos(angle), SIZE / 2 - 30 + radius * math.sin(angle)


def _circle() -> str:
    x, y = SIZE / 2, SIZE / 2 - 30
    return (
        f'<circle cx="{x:g}" cy="{y:g}" r="{RADIUS}" fill="none" stroke="{ink_of(RULE)}" '
        f'stroke-width="1.5"/>'
    )


def _hospitals(seen: RunReader, dot: float) -> Iterator[str]:
    names = seen.topology.names
    every = max(1, math.ceil(len(names) / MANY))
    for place, name in enumerate(names):
        x, y = _at(place, len(names))
        state = LOST if name in seen.lost else AWAY if name in seen.away else "up"
        row = seen.view.rows[name]
        title = f"{name}: {seen.away.get(name) or row.doing}"
        dashed = "" if state == "up" else ' stroke-dasharray="4 3"'
        at_work = row.doing.startswith(("training", "warming", "at home with", "averaging"))
        fill = "var(--tint)" if at_work else "var(--card)"
        yield (
            f'<g class="hospital" data-hospital="{escape(name)}" data-state="{state}">'
            f"<title>{escape(title)}</title>"
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{dot * 1.9:.1f}" fill="{fill}" '
            f'stroke="{ink_of(INK if state == "up" else MUTED)}" stroke-width="1.4"{dashed}/>'
        )
        if state != "up":
            sign = STILL if state == AWAY and "late" in seen.away[name] else CROSS
            at_ = f'x="{x:.1f}" y="{y + 8:.1f}"'
            yield f'<text class="sign" text-anchor="middle" {at_}>{sign}</text>'
        yield "</g>"
        if place % every == 0:
            yield _label(name, place, len(names), state, dot)


def _label(name: str, place: int, count: int, state: str, dot: float) -> str:
    x, y = _at(place, count, RADIUS + 2.6 * dot + 6)
    middle = abs(x - SIZE / 2) < 30  # noqa: PLR2004 - nearly above or below the middle
    anchor = "middle" if middle else "start" if x > SIZE / 2 else "end"
    number = f"{place + 1} " if count > FEW else ""
    more = "" if state == "up" else f" ({state})"
    lift = 4 if not middle else 0 if y < SIZE / 2 - 30 else 8
    return (
        f'<text text-anchor="{anchor}" x="{x:.1f}" y="{y + lift:.1f}">'
        f"{escape(number + short(name, NAME) + more)}</text>"
    )


def _models(seen: RunReader, dot: float) -> Iterator[str]:
    """Draw the models: at a hospital inside the circle, on their way on a line between two."""
    names = seen.topology.names
    order = {name: place for place, name in enumerate(names)}
    crowd: Counter[tuple[str, str, bool]] = Counter()
    for number, (model, place) in enumerate(seen.models.items()):
        if place.host not in order:
            continue
        key = place.host, place.to, place.waits
        nth, crowd[key] = crowd[key], crowd[key] + 1
        x, y = _spot(place, order, dot, nth)
        colour = ink_of(SERIES[number % len(SERIES)])
        if place.to in order:
            yield _way(_at(order[place.host], len(names)), _at(order[place.to], len(names)), colour)
        about = {"model": model, "host": place.host, "to": place.to}
        data = " ".join(f'data-{name}="{escape(value)}"' for name, value in about.items())
        yield (
            f'<g class="model" {data}><title>{escape(words_of(model, place))}</title>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{dot:g}" fill="{colour}"/>'
        )
        if len(names) <= MANY:
            at = f'x="{x:.1f}" y="{y + 0.38 * dot:.1f}" style="font-size:{dot + 2:g}px"'
            yield f'<text text-anchor="middle" {at}>{number + 1}</text>'
        yield "</g>"


def _way(start: tuple[float, float], end: tuple[float, float], colour: str) -> str:
    ends = f'x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"'
    return f'<line class="way" {ends} stroke="{colour}"/>'


def _spot(place: Whereabouts, order: dict[str, int], dot: float, nth: int) -> tuple[float, float]:
    count = len(order)
    if place.to not in order:
        return _at(order[place.host], count, RADIUS - 2 * dot * nth)
    (x, y), (to_x, to_y) = _at(order[place.host], count), _at(order[place.to], count)
    share = (WAITS_AT if place.waits else ON_ITS_WAY) - 0.1 * nth
    return x + share * (to_x - x), y + share * (to_y - y)
