"""Where every model that arrived came from, as records tell it; also in a ring that has gone on
without hospitals.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from fedskd_sim.custody.due import Due, Mark
from fedskd_sim.custody.kept import Kept, KeptRecord
from fedskd_sim.errors import Where
from fedskd_sim.recordfiles import whole_lines
from fedskd_sim.records import Record
from fedskd_sim.routes import Routes, Told, as_told
from fedskd_sim.topology import Stop, Topology


class FoundRecord(NamedTuple):
    """A record as it is read, and where it stands."""

    record: Record
    where: Where


Found = Mapping[str, Kept]


def ways_left(run: Path, topology: Topology) -> Routes:
    """Read from a run's records who was left out, and until when. What cannot be read says nothing
    here, and of a file whose last line is torn the one before it does.
    """
    return Routes(topology, *as_told(dict(_last_words(run, topology.names))))


def _last_words(run: Path, names: Collection[str]) -> Iterator[tuple[str, Told]]:
    """Give what each hospital's last record tells: all that it knew of."""
    for file in sorted(run.glob("records/*.jsonl")):
        try:
            with file.open("rb") as stream:
                (last,) = deque(whole_lines(stream), maxlen=1) or [b"{}"]
            values = json.loads(last)
            without, back = (
                {name: int(one) for name, one in values.get(key, {}).items() if name in names}
                for key in ("without", "back")
            )
            yield file.stem, Told(int(values.get("round", 0)), without, back)
        except (OSError, ValueError, AttributeError, TypeError):
            continue


def misnamed(record: Record, routes: Routes) -> str:
    """Say what is wrong with whom a record names as left out or as back; '' if nothing is."""
    if {*record.without, *record.back} - {*routes.lost}:
        return "names who is not lost"
    for name, back in routes.back.items():
        behind = record.round >= back.round and not routes.away(record.host, record.round)
        if behind and not back.away and record.back.get(name) != back.round:
            return f"does not name {name!r}, who was back from round {back.round} on"
    return ""


def sources(found_at: Mark, dues: Mapping[str, Due], found: Found, routes: Routes) -> Sources:
    """Give the records of the stops from which a model may have come to the one that is marked.

    That is the stop before it, or where its host was lost, also the one before that: the lost host
    may have sent what it had made of the model, or not, and have taken the record of it along.
    """
    ring, records, known = routes.topology, list[KeptRecord](), True
    stop: Stop | None = ring.stop(found_at.model, found_at.round, found_at.hop)
    while stop is not None:
        if stop.hop == 1:
            away, stays = routes.away(stop.model, stop.round), routes.stays(stop.model, stop.round)
            if away or not stays:
                origin = dues[stop.model].origin(stop.round)
                there = [*_there(found[stop.model], origin)]
                known = known and origin is not None and bool(there or not away)
                known = known and not dues[stop.model].poisons(stop.round)
                records += there
            stop = routes.back_of(stop) if stays else None
        else:
            stop = routes.back_of(stop)
        if stop is not None:
            mark = Mark(stop.round, stop.hop, stop.kind, stop.host, stop.model)
            there = [*_there(found[stop.host], mark)] if stop.kind != "homecoming" else []
            records += there
            if not routes.away(stop.host, stop.round):
                break
            known = known and (bool(there) or stop.kind == "homecoming")
    return Sources(records, known)


class Sources(NamedTuple):
    """Records of stops, one of which a model has left last; ``known``: no other has no record."""

    records: list[KeptRecord]
    known: bool


def _there(some: Kept, mark: Mark | None) -> Iterator[KeptRecord]:
    if mark is not None and (found := some.get(mark)):
        yield found
