"""Where every model that arrived came from, as records tell it; also in a ring that has gone on
without hospitals.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from fedskd_sim.custody.due import Due, Mark
from fedskd_sim.errors import Where
from fedskd_sim.records import Record
from fedskd_sim.routes import Lost, Routes, merged
from fedskd_sim.topology import Stop


class FoundRecord(NamedTuple):
    """A record and where it stands."""

    record: Record
    where: Where


Found = Mapping[str, Mapping[Mark, FoundRecord]]


def lost_hospitals(run: Path, names: tuple[str, ...]) -> Lost:
    """Read from a run's records who was left out: the last record of each hospital names all that
    it knew of. What cannot be read says nothing here.
    """
    lost: Lost = {}
    for file in sorted(run.glob("records/*.jsonl")):
        last = file.read_bytes().splitlines()[-1:]
        try:
            told = json.loads(last[0]).get("without", {}) if last else {}
            known = {name: int(round_) for name, round_ in told.items() if name in names}
        except (ValueError, AttributeError, TypeError):
            continue
        lost = merged(lost, known)
    return lost


def sources(found_at: Mark, dues: Mapping[str, Due], found: Found, routes: Routes) -> Sources:
    """Give the records of the stops from which a model may have come to the one that is marked.

    That is the stop before it, or where its host was lost, also the one before that: the lost host
    may have sent what it had made of the model, or not, and have taken the record of it along.
    """
    ring, records, known = routes.topology, list[FoundRecord](), True
    stop: Stop | None = ring.stop(found_at.model, found_at.round, found_at.hop)
    while stop is not None:
        if stop.hop == 1:
            origin = dues[stop.model].origin(stop.round)
            there = [*_there(found[stop.model], origin)]
            lost = stop.model in routes.lost and not there
            known = known and origin is not None and not lost
            known = known and not dues[stop.model].poisons(stop.round)
            records += there
            stop = routes.back(stop) if stop.model in routes.lost else None
        else:
            stop = routes.back(stop)
        if stop is not None:
            mark = Mark(stop.round, stop.hop, stop.kind, stop.host, stop.model)
            there = [*_there(found[stop.host], mark)] if stop.kind != "homecoming" else []
            records += there
            if stop.host not in routes.lost:
                break
            known = known and (bool(there) or stop.kind == "homecoming")
    return Sources(records, known)


class Sources(NamedTuple):
    """Records of stops, one of which a model has left last; ``known``: no other has no record."""

    records: list[FoundRecord]
    known: bool


def _there(some: Mapping[Mark, FoundRecord], mark: Mark | None) -> Iterator[FoundRecord]:
    if mark is not None and mark in some:
        yield some[mark]
