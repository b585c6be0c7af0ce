"""What travelling models remember: forgetting, home retention, backward transfer and dilution, from
the records alone.

For a traveller, a_h(s) is its balanced accuracy on the validation data of hospital s after hop h of
its round, a_0 that of the model that set out, measured in the warm-up or homecoming before, after
home has made one model of two. Only the last value of a model at its host is known in a real
federation; the others come from ``instruments.probe``. Records from before 0.2 do not say what set
out, and so give retention alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import NamedTuple

from fedskd_sim.records import LEAVING, PROBE, Record

TRAVELLED = ("warm_up", "visit", "homecoming")
MemoryPart = tuple[str, str, int, int, str]
"""``forgetting`` or ``retention``, whose model, in which round, after which hop, whose data."""
SMALLEST_GAIN = 0.02
"""A gain below this says nothing about how much of it is kept."""


class TravellerMemory(NamedTuple):
    """The same of one model."""

    forgetting: float | None
    retention: float | None


@dataclass(frozen=True, slots=True)
class Remembered:
    """Means over all models and rounds, in shares; None where the records do not tell.

    ``forgetting`` is the mean over visited hospitals s of max_{g < h} a_g(s) - a_h(s), averaged
    over hops h >= 2; ``retention`` is a_{K-1}(home) - a_0(home); ``backward`` the mean over visited
    s of a_{K-1}(s) - a_{h_s}(s); ``kept[m]`` the share of the gain at a visit that is left after m
    more hops.
    """

    forgetting: float | None
    retention: float | None
    backward: float | None
    kept: Mapping[int, float]
    models: Mapping[str, TravellerMemory] = field(default_factory=dict)
    """Forgetting and retention of every model of which one is known."""
    gains: Mapping[tuple[str, int, int, str], float] = field(default_factory=dict)
    """By model, round, hop and host: a_h(s) - a_{h-1}(s) of a visit to s at hop h."""


def assess_memory(records: Sequence[Record]) -> Remembered:
    """Compute what models remember."""
    tours = list(_tours(records))
    parts = _parts(tours, records)
    backward = [value for tour in tours for value in _backward(tour)]
    kept: dict[int, list[float]] = {}
    for tour in tours:
        for after, share in _gains_kept(tour):
            kept.setdefault(after, []).append(share)
    return Remembered(
        average(parts, "forgetting"),
        average(parts, "retention"),
        fmean(backward) if backward else None,
        {after: fmean(shares) for after, shares in sorted(kept.items())},
        _by_model(parts),
        {place: gain for tour in tours for place, gain in _gains(tour)},
    )


def _by_model(parts: Mapping[MemoryPart, float]) -> dict[str, TravellerMemory]:
    each: dict[str, dict[MemoryPart, float]] = {}
    for part, value in parts.items():
        each.setdefault(part[1], {})[part] = value
    return {
        model: TravellerMemory(average(own, "forgetting"), average(own, "retention"))
        for model, own in each.items()
    }


def remembered(records: Sequence[Record]) -> dict[MemoryPart, float]:
    """Return what every model forgets of, or keeps at, a hospital at a hop, which `average`
    averages.
    """
    return _parts([*_tours(records)], records)


def average(parts: Mapping[MemoryPart, float], measure: str) -> float | None:
    """Average parts of forgetting or retention, first those of a hop; None where there are none."""
    hops: dict[tuple[str, int, int], list[float]] = {}
    for (name, model, round_, hop, _), value in parts.items():
        if name == measure:
            hops.setdefault((model, round_, hop), []).append(value)
    return fmean(map(fmean, hops.values())) if hops else None


@dataclass(frozen=True, slots=True)
class _Tour:
    """One model's visits of one round: who was visited at hop 1, 2, ..., and all probes after
    each; index 0 is the departure.
    """

    model: str
    round: int
    hosts: tuple[str, ...]
    probes: tuple[Mapping[str, float], ...]


def _tours(records: Sequence[Record]) -> Iterator[_Tour]:
    found: dict[tuple[str, int], dict[int, Record]] = {}
    for record in records:
        if record.kind in TRAVELLED:
            found.setdefault((record.model, record.round), {})[record.hop] = record
    for (model, round_), stops in found.items():
        before = found.get((model, round_ - 1), {})
        start = before.get(max(before)) if before else None
        visits = [stops[hop] for hop in sorted(stops) if stops[hop].kind == "visit"]
        probes = [_probes(record) for record in visits]
        left = _probes(start, LEAVING) if start is not None else {}
        if left and all(probes):
            hosts = tuple(record.host for record in visits)
            yield _Tour(model, round_, hosts, (left, *probes))


def _probes(record: Record, what: str = PROBE) -> dict[str, float]:
    return {
        name.removeprefix(what): measure.mean
        for name, measure in record.measures.items()
        if name.startswith(what)
    }


def _parts(tours: Sequence[_Tour], records: Sequence[Record]) -> dict[MemoryPart, float]:
    forgotten = {
        ("forgetting", tour.model, tour.round, hop, host): drop
        for tour in tours
        for hop in range(2, len(tour.probes))
        for host, drop in _forgotten(tour, hop)
    }
    return forgotten | _retention(records)


def _forgotten(tour: _Tour, hop: int) -> Iterator[tuple[str, float]]:
    """Yield what is forgotten of every hospital that was visited before a hop."""
    now = tour.probes[hop]
    for host in tour.hosts[: hop - 1]:
        if host in now:
            yield host, max(tour.probes[before][host] for before in range(hop)) - now[host]


def _backward(tour: _Tour) -> Iterator[float]:
    for hop, host in enumerate(tour.hosts[:-1], 1):
        if host in tour.probes[-1]:
            yield tour.probes[-1][host] - tour.probes[hop][host]


def _gains(tour: _Tour) -> Iterator[tuple[tuple[str, int, int, str], float]]:
    for hop, host in enumerate(tour.hosts, 1):
        if host in tour.probes[hop] and host in tour.probes[hop - 1]:
            gain = tour.probes[hop][host] - tour.probes[hop - 1][host]
            yield (tour.model, tour.round, hop, host), gain


def _gains_kept(tour: _Tour) -> Iterator[tuple[int, float]]:
    for hop, host in enumerate(tour.hosts, 1):
        if host not in tour.probes[hop]:
            continue
        gain = tour.probes[hop][host] - tour.probes[hop - 1][host]
        if gain > SMALLEST_GAIN:
            for later in range(hop, len(tour.probes)):
                yield later - hop, (tour.probes[later][host] - tour.probes[hop - 1][host]) / gain


def _retention(records: Sequence[Record]) -> dict[MemoryPart, float]:
    """Compare a traveller as it comes home with the model that set out: the home's after the
    homecoming or warm-up before, or another one where two are kept.
    """
    home = {
        (record.model, record.round): record
        for record in records
        if record.kind in ("warm_up", "homecoming")
    }
    found: dict[MemoryPart, float] = {}
    for (model, round_), record in home.items():
        before = home.get((model, round_ - 1))
        known = before.measures if before else {}
        came = record.measures.get("returned_balanced_accuracy")
        left = known.get("leaving_balanced_accuracy", known.get("balanced_accuracy"))
        if came and left:
            found["retention", model, round_, record.hop, record.host] = came.mean - left.mean
    return found
