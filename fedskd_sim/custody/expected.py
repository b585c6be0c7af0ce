"""Which records a scenario's run leaves, in which order, and what their digests must be equal to:
known beforehand, also where a ring has gone on without hospitals.

Each record is checked against the one that is due at its place. A check raises ChainBroken for the
first thing that is wrong, so that ``fedskd-sim verify`` names one cause, in the word for what was
done to the file: doubled, foreign, swapped, missing, altered. Of a record that was read a proof
keeps its line and its digests, in a few bytes, since a long run has millions.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from fedskd_sim.errors import ChainBroken, Where
from fedskd_sim.records import Record, RecordKind, SampleCounts
from fedskd_sim.records.files import parse_record, whole_lines
from fedskd_sim.ring.program import Program, Step
from fedskd_sim.ring.routes import Routes, ToldLosses, as_told
from fedskd_sim.ring.topology import Stop, Topology
from fedskd_sim.scenario import Scenario

OUTCOMES: Mapping[str, tuple[str, ...]] = {
    "evaluation": ("evaluated",), "ensemble": ("evaluated",), "reduce": ("passed",),
    "gather": ("passed",)
}  # fmt: skip
TRAINING = ("trained", "rolled_back", "passed")
"""The outcomes of all other kinds."""


class RecordPosition(NamedTuple):
    """What no two records of a run share."""

    round: int
    hop: int
    kind: RecordKind
    host: str
    model: str

    def __str__(self) -> str:
        """Describe it in words."""
        return (
            f"the {self.kind.replace('_', '-')} of the model of {self.model!r} at {self.host!r}, "
            f"round {self.round} hop {self.hop}"
        )


def position_of(record: Record) -> RecordPosition:
    """Return the position of a record."""
    return RecordPosition(record.round, record.hop, record.kind, record.host, record.model)


@dataclass(frozen=True)
class ExpectedRecords:
    """The records of one hospital."""

    scenario: Scenario
    topology: Topology
    host: str

    @cached_property
    def program(self) -> Program:
        """What the hospital does."""
        return Program(self.topology, self.host)

    def positions(self) -> Iterator[tuple[RecordPosition, int]]:
        """Yield every record that is due, in order, with the step that leaves it."""
        found = ((self._mark(step), index) for index, step in self._program())
        return ((one, index) for one, index in found if one)

    def index(self, one: RecordPosition) -> int | None:
        """Return the step that leaves a record; None where none does."""
        index = self.program.index_of_record(one.model, one.round, one.hop)
        step = None if index is None else self.program.at(index)
        return index if step is not None and self._mark(step) == one else None

    @cached_property
    def departures(self) -> dict[int, int]:
        """The step at which the own model sets out, by round."""
        return {step.round: index for index, step in self._program() if step.action == "depart"}

    def origin(self, round_: int) -> RecordPosition | None:
        """Return the record whose digest is that of the own model as it sets out in a round; None
        where no record tells.

        A share of a sum, a traveller that is kept apart from the home model and a personal model
        have no such record, nor has the home model once it was trained beside a visitor.
        """
        before = self.program.at(self.departures[round_] - 1)
        last = round_ == self.topology.evaluation_round
        prediction, algorithm = self.scenario.prediction, self.scenario.algorithm
        if last and (prediction.ensemble or prediction.model != "reconciled"):
            return None
        if last and algorithm.personal:
            return None
        if self.topology.pattern == "all_reduce":
            alone = RecordPosition(round_ - 1, 0, "alone", self.host, self.host)
            return alone if last and algorithm.keeps_models else None
        if before is None or (apart(self.scenario) and round_ > 1):
            return None
        found = self._mark(before)
        return found if found and found.model == self.host else None

    def poisons(self, round_: int) -> bool:
        """Return whether what leaves the hospital in a round may be poisoned, as the scenario wants
        it: no record then tells with which digest it left home.
        """
        return any(
            one.what == "poison" and one.hospital == self.host and (one.round or 0) <= round_
            for one in self.scenario.faults
        )

    def passes_on(self, record: Record) -> bool:
        """Return whether a stop leaves what it hosts as it came."""
        honest = not self.poisons(record.round)
        return record.kind == "evaluation" or (record.kind == "gather" and honest)

    def _program(self) -> Iterator[tuple[int, Step]]:
        for index in range(len(self.program)):
            step = self.program.at(index)
            if step is not None:
                yield index, step

    def _mark(self, step: Step) -> RecordPosition | None:
        """Return the position of the record that a step leaves, if it leaves one."""
        match step.action:
            case "host" if step.stop:
                return RecordPosition(
                    step.round, step.stop.hop, step.stop.kind, self.host, step.stop.model
                )
            case "warm_up":
                return RecordPosition(0, 0, "warm_up", self.host, self.host)
            case "alone":
                return RecordPosition(step.round, 0, "alone", self.host, self.host)
            case "home":
                return RecordPosition(step.round, 0, "evaluation", self.host, self.host)
            case "ensemble" if self.scenario.prediction.ensemble:
                return RecordPosition(
                    step.round, self.topology.behind, "ensemble", self.host, self.host
                )
        return None


def apart(scenario: Scenario) -> bool:
    """Return whether a traveller is kept apart from the home model from its first homecoming on."""
    how = scenario.circulating
    if how is None:
        return False
    own = how.traveller_start == "own" and how.reconcile != "replace"
    return how.schedule.mode == "parallel" and (own or how.reconcile == "two_track")


def tests_traveller(scenario: Scenario) -> bool:
    """Return whether the evaluation tests the traveller that is kept apart, not the home model."""
    how = scenario.circulating
    return apart(scenario) and how is not None and how.reconcile == "two_track"


_ROW = Struct("<I??16s16s")
"""The line (0: there is no record), whether it has digests to come and to leave with, and these."""
_LINE = Struct("<I")


class KeptRecord(NamedTuple):
    """What is known of a record that stands where it should; '' for a digest that it has not."""

    position: RecordPosition
    digest_in: str
    digest_out: str
    where: Where


class KeptRecords:
    """The records of one hospital, by the step of its program that has left them."""

    def __init__(self, expected: ExpectedRecords, file: Path) -> None:
        """Have a row of zeros for every step; ``file`` is where the records stand."""
        self._expected, self._file = expected, str(file)
        self._rows = bytearray(_ROW.size * len(expected.program))

    def add(self, index: int, record: Record, line: int) -> None:
        """Keep the record of a step; its digests have 32 hexadecimal digits, or none."""
        came, left = record.digest_in, record.digest_out
        both = bytes.fromhex(came), bytes.fromhex(left)
        _ROW.pack_into(self._rows, index * _ROW.size, line, bool(came), bool(left), *both)

    def has(self, index: int) -> bool:
        """Return whether there is a record of a step."""
        return bool(_LINE.unpack_from(self._rows, index * _ROW.size)[0])

    def get(self, position: RecordPosition) -> KeptRecord | None:
        """Return a record by its position; None where there is none."""
        index = self._expected.index(position)
        return self._at(index, position) if index is not None and self.has(index) else None

    def __iter__(self) -> Iterator[KeptRecord]:
        """Yield all records in order."""
        return (
            self._at(index, position)
            for position, index in self._expected.positions()
            if self.has(index)
        )

    def _at(self, index: int, position: RecordPosition) -> KeptRecord:
        line, comes, leaves, came, left = _ROW.unpack_from(self._rows, index * _ROW.size)
        digests = came.hex() if comes else "", left.hex() if leaves else ""
        return KeptRecord(position, *digests, Where(self._file, line))


class FoundRecord(NamedTuple):
    """A record as it is read, and where it stands."""

    record: Record
    where: Where


KeptByHospital = Mapping[str, KeptRecords]


def ways_left(run: Path, topology: Topology) -> Routes:
    """Read from a run's records who was left out, and until when. What cannot be read says nothing
    here, and of a file whose last line is torn the one before it does.
    """
    return Routes(topology, *as_told(dict(_last_words(run, topology.names))))


def _last_words(run: Path, names: Collection[str]) -> Iterator[tuple[str, ToldLosses]]:
    """Yield what each hospital's last record tells: all that it knew of."""
    for file in sorted(run.glob("records/*.jsonl")):
        try:
            with file.open("rb") as stream:
                (last,) = deque(whole_lines(stream), maxlen=1) or [b"{}"]
            values = json.loads(last)
            without, back = (
                {name: int(one) for name, one in values.get(key, {}).items() if name in names}
                for key in ("without", "back")
            )
            yield file.stem, ToldLosses(int(values.get("round", 0)), without, back)
        except (OSError, ValueError, AttributeError, TypeError):
            continue


def misnamed(record: Record, routes: Routes) -> str:
    """Describe what is wrong with whom a record names as left out or as back; '' if nothing is."""
    if {*record.without, *record.back} - {*routes.lost}:
        return "names who is not lost"
    for name, back in routes.back.items():
        behind = record.round >= back.round and not routes.away(record.host, record.round)
        if behind and not back.away and record.back.get(name) != back.round:
            return f"does not name {name!r}, who was back from round {back.round} on"
    return ""


def sources(
    found_at: RecordPosition,
    by_host: Mapping[str, ExpectedRecords],
    found: KeptByHospital,
    routes: Routes,
) -> Sources:
    """Return the records of the stops from which a model may have come to the one that is marked.

    That is the stop before it, or where its host was lost, also the one before that: the lost host
    may have sent what it had made of the model, or not, and have taken the record of it along.
    """
    ring, records, known = routes.topology, list[KeptRecord](), True
    stop: Stop | None = ring.stop(found_at.model, found_at.round, found_at.hop)
    while stop is not None:
        if stop.hop == 1:
            away, stays = routes.away(stop.model, stop.round), routes.stays(stop.model, stop.round)
            if away or not stays:
                origin = by_host[stop.model].origin(stop.round)
                there = [*_there(found[stop.model], origin)]
                known = known and origin is not None and bool(there or not away)
                known = known and not by_host[stop.model].poisons(stop.round)
                records += there
            stop = routes.back_of(stop) if stays else None
        else:
            stop = routes.back_of(stop)
        if stop is not None:
            position = RecordPosition(stop.round, stop.hop, stop.kind, stop.host, stop.model)
            there = [*_there(found[stop.host], position)] if stop.kind != "homecoming" else []
            records += there
            if not routes.away(stop.host, stop.round):
                break
            known = known and (bool(there) or stop.kind == "homecoming")
    return Sources(records, known)


class Sources(NamedTuple):
    """Records of stops, one of which a model has left last; ``known``: no other has no record."""

    records: list[KeptRecord]
    known: bool


def _there(some: KeptRecords, position: RecordPosition | None) -> Iterator[KeptRecord]:
    if position is not None and (found := some.get(position)):
        yield found


_DIGEST = re.compile(r"[0-9a-f]{32}")
FIX = (
    "what stands there is not what this run has left: restore the file from a copy, or run the "
    "scenario again"
)


def broken(text: str, where: Where) -> ChainBroken:
    """Make the error of something that is not what the run has left."""
    return ChainBroken(text, fix=FIX, where=where)


def in_place(
    entry: FoundRecord,
    next_one: RecordPosition | None,
    expected: ExpectedRecords,
    before: KeptRecords,
    rest: Iterable[bytes],
) -> None:
    """Raise for a record that is not the one that is due next.

    Args:
        entry: the record.
        next_one: what is due; None behind the end of the program.
        expected: all that is due of this hospital.
        before: what stands before it in the file.
        rest: the lines behind it, which tell whether what is due was swapped or is missing.

    Raises:
        ChainBroken: with the reason.

    """
    found = position_of(entry.record)
    if found == next_one:
        return
    if earlier := before.get(found):
        text = f"doubled: {found} stands in line {earlier.where.line} already"
    elif expected.index(found) is None:
        text = f"foreign: the run has no {str(found).removeprefix('the ')}"
    else:
        how = "swapped" if any(_position_of(line) == next_one for line in rest) else "missing"
        text = f"{how}: {next_one} should stand before {found}"
    raise broken(text, entry.where)


def of_this_run(entry: FoundRecord, scenario: Scenario, routes: Routes) -> None:
    """Raise ChainBroken for a record of another scenario, seed or architecture, with an outcome
    that such a stop cannot have, or that names others as lost or back than those who were.
    """
    record, found = entry.record, position_of(entry.record)
    given = (record.scenario, record.seed, record.architecture)
    wanted = (scenario.name, scenario.seed, scenario.architecture(record.model).name)
    if given != wanted:
        text = f"foreign: it is of {given}, the run of {wanted} (scenario, seed, architecture)"
        raise broken(text, entry.where)
    if wrong := misnamed(record, routes):
        raise broken(f"altered: {found} {wrong}", entry.where)
    if record.outcome not in OUTCOMES.get(record.kind, TRAINING):
        raise broken(f"altered: {found} was not {record.outcome}", entry.where)


def with_expected_digests(entry: FoundRecord, expected: ExpectedRecords) -> None:
    """Raise ChainBroken for a record without the digests that such a stop leaves, or with others:
    a model that sets out has none to come with, one that is only evaluated none to leave with, and
    one that was not trained leaves as it came.
    """
    record, found = entry.record, position_of(entry.record)
    at_home = record.hop == 0 or record.kind == "ensemble"
    evaluated = at_home and record.outcome == "evaluated"
    if bool(record.digest_in) == at_home or bool(record.digest_out) == evaluated:
        text = f"altered: {found} has digests where there are none, or none where there are"
        raise broken(text, entry.where)
    if not all(_DIGEST.fullmatch(text) for text in (record.digest_in, record.digest_out) if text):
        raise broken("altered: a digest that is none", entry.where)
    taken = (
        record.outcome == "passed"
        and record.kind == "homecoming"
        and expected.scenario.algorithm.base_sessions  # others may keep another model
        and not expected.scenario.hospital(expected.host).privacy  # whose budget may be spent
    )
    if (taken or expected.passes_on(record)) and record.digest_in != record.digest_out:
        raise broken(f"altered: {found} changes nothing, and its digests differ", entry.where)


def in_itself(entry: FoundRecord, scenario: Scenario, counts: Mapping[str, SampleCounts]) -> None:
    """Raise ChainBroken for a record whose numbers contradict each other, or what its hospital has
    read of its source.

    Args:
        entry: the record.
        scenario: the run's; of an algorithm with sessions of its own, nothing is known.
        counts: what each hospital has read, as far as that is known.

    """
    record = entry.record
    if not scenario.algorithm.base_sessions:
        return
    if record.outcome == "rolled_back" and (record.samples or record.steps or not record.reason):
        text = (
            f"{record.samples} samples and {record.steps} steps, for the reason {record.reason!r}: "
            "a session that is rolled back has trained nothing, and says why"
        )
        raise broken(f"altered: {position_of(record)} tells of {text}", entry.where)
    if not scenario.learns or not counts:
        return
    private = bool(scenario.hospital(record.host).privacy)
    for wrong in (
        "" if private else _wrong_samples(record, scenario, counts),
        _wrong_weight(record, scenario, counts),
    ):
        if wrong:
            raise broken(f"altered: {position_of(record)} {wrong}", entry.where)


def _wrong_samples(record: Record, scenario: Scenario, counts: Mapping[str, SampleCounts]) -> str:
    """Describe how a record's samples are not those of its steps: in each one model or two are
    trained on a mini-batch; '' if they are.
    """
    hosts = scenario.members if scenario.pools else [record.host]
    if not {*hosts} <= {*counts}:
        return ""
    read = sum(sum(counts[name].used["train"].values()) for name in hosts)
    sizes = scenario.training.batch_sizes(read)
    passes, rest = divmod(record.steps, len(sizes)) if sizes else (0, 0)
    once = passes * sum(sizes) + sum(sizes[:rest])
    if once <= record.samples <= 2 * once:
        return ""
    return (
        f"tells of {record.samples} samples in {record.steps} steps, which have {once} for each "
        f"model that trains: {record.host!r} has read {read} to train with"
    )


def _wrong_weight(record: Record, scenario: Scenario, counts: Mapping[str, SampleCounts]) -> str:
    """Describe how an accuracy is not over the samples that it is measured on; '' if it is."""
    if record.host not in counts:
        return ""
    tested = record.kind in ("evaluation", "ensemble")
    split = scenario.instruments.evaluate_on if tested else "validation"
    read = sum(counts[record.host].used[split].values())
    for name in ("accuracy", "resident_accuracy", "returned_accuracy"):
        weight = record.measures[name].weight if name in record.measures else read
        if weight != read:
            return (
                f"tells of {name} over {weight:g} samples: {record.host!r} has read {read} for "
                f"{split}"
            )
    return ""


def _position_of(line: bytes) -> RecordPosition | None:
    try:
        return position_of(parse_record(line))
    except ValueError:
        return None
