"""The proof that a run's records and weights are whole: every step has one record, and every model
the bytes with which it left.

What is proven: each file in ``records`` has exactly the records that the scenario's program leaves,
in order, to its end or as far as the run got; where a model or a sum arrives it has the digest with
which it left the stop before, and where it sets out, that of the home model wherever a record tells
it (`fedskd_sim.custody.expected.ExpectedRecords.origin`); each file in ``weights`` has the digest
under which its model was evaluated; samples and steps are such as the counts of what was read
allow. Measures and reasons have no digest of their own: that nobody has changed them since the run
ended well is what its seal says (`fedskd_sim.custody.seal`), and that accuracies are those of the
predictions, `fedskd_sim.results.agreement`. What was found is told in numbers and in one line
(`Verdict`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import safetensors

from fedskd_sim.custody import seal
from fedskd_sim.custody.expected import (
    ExpectedRecords,
    FoundRecord,
    KeptRecord,
    KeptRecords,
    RecordPosition,
    apart,
    broken,
    in_itself,
    in_place,
    of_this_run,
    position_of,
    sources,
    tests_traveller,
    ways_left,
    with_expected_digests,
)
from fedskd_sim.custody.seal import SealBreak
from fedskd_sim.errors import ChainBroken, RunUnreadable, Where
from fedskd_sim.messages import Buffer, Weights, digest
from fedskd_sim.privacy.accountant import Statement
from fedskd_sim.records import Record, SampleCounts
from fedskd_sim.records.files import parse_record, read_counts
from fedskd_sim.ring.routes import Routes
from fedskd_sim.ring.topology import Stop, Topology
from fedskd_sim.scenario import Scenario, load

_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
LAST = "last/"
"""What stands before the names of a finished model's tensors, where it travels behind the one that
predicts."""


class Claim(NamedTuple):
    """What records say of a file: by itself, or joined with the other with which it travelled,
    it has a digest ('': nothing).
    """

    file: str
    digest: str
    parts: tuple[tuple[str, str], ...]
    """Names of files, each with the hospital whose model is in it; the tensors of the second have
    `LAST` before their names."""


class Finals:
    """The files in ``weights``; counts those that are equal to what records say, and those of
    which that is unknown.
    """

    def __init__(self, run: Path, scenario: Scenario, tables: Mapping[str, Iterable[str]]) -> None:
        """Take the run's folder; files are read by `breaks`. ``tables`` are those of
        `fedskd_sim.custody.verify.verify`.
        """
        self._folder, self._scenario, self._tables = run / "weights", scenario, tables
        self.equal = self.unknown = 0

    def breaks(self, records: Iterable[KeptRecord]) -> Iterator[ChainBroken]:
        """Compare all files with what the records of a run say of their models, file by file."""
        claims = {claim.file: claim for claim in self._claims(*_digests_in(records))}
        for file in sorted(self._folder.glob("*")):
            claim = claims.get(file.name)
            if claim is None:
                yield _error("foreign: no model of this run is called so", file)
                continue
            there = all((self._folder / name).is_file() for name, _ in claim.parts)
            if not (claim.digest and self._tables and there):
                self.unknown += 1
                continue
            wrong = self._wrong(claim)
            if wrong:
                yield _error(f"altered: these are not the weights of the run's end: {wrong}", file)
            else:
                self.equal += 1

    def _wrong(self, claim: Claim) -> str:
        """Describe how a file is not what records say; empty if it is."""
        try:
            found = digest(self._read_parts(claim))
        except (ValueError, KeyError, safetensors.SafetensorError) as error:
            return str(error)
        return (
            ""
            if found == claim.digest
            else f"their digest is {found}, and records say {claim.digest}"
        )

    def _claims(self, said: Mapping[str, str], homes: Mapping[str, str]) -> Iterator[Claim]:
        """Yield for every file that a run may leave the digest that it must have."""
        prediction, members = self._scenario.prediction, self._scenario.members
        kept = apart(self._scenario)
        tested = tests_traveller(self._scenario) and prediction.model == "reconciled"
        travels = ".traveller" if tested else ""
        for name in members:
            shown, position = (f"{name}{travels}.safetensors", name), said.get(name, "")
            behind = ((f"{name}.ensemble.{name}.safetensors", name),) if prediction.ensemble else ()
            yield Claim(shown[0], position, (shown, *behind))
            if travels:
                yield Claim(
                    f"{name}.safetensors", homes.get(name, ""), ((f"{name}.safetensors", name),)
                )
            elif kept:
                yield Claim(f"{name}.traveller.safetensors", "", ())
            for host in members if prediction.ensemble else ():
                file = f"{host}.ensemble.{name}.safetensors"
                yield Claim(file, position, (shown, (file, name)))

    def _read_parts(self, claim: Claim) -> Weights:
        found: dict[str, Buffer] = {}
        for (file, model), prefix in zip(claim.parts, ("", LAST), strict=False):
            found |= {
                prefix + name: buffer
                for name, buffer in self._read(self._folder / file, self._tables[model]).items()
            }
        return found

    def _read(self, file: Path, table: Iterable[str]) -> Weights:
        """Read a file's tensors in the order of a table; raises ValueError, KeyError or
        SafetensorError.
        """
        found = dict(safetensors.deserialize(file.read_bytes()))
        if found.keys() != {*table}:
            raise ValueError("it has other tensors than the network")
        return {
            name: Buffer(
                _TYPES[found[name]["dtype"]],
                tuple(found[name]["shape"]),
                bytes(found[name]["data"]),
            )
            for name in table
        }


def _digests_in(records: Iterable[KeptRecord]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the digest under which each model was evaluated, and that of its home model after the
    last homecoming.
    """
    said: dict[str, str] = {}
    homes: dict[str, tuple[int, str]] = {}
    for found, came, left, _ in records:
        if found.kind == "evaluation" and found.hop:
            said[found.model] = came
        elif found.kind == "homecoming":
            homes[found.model] = max(homes.get(found.model, (0, "")), (found.round, left))
    return said, {name: position for name, (_, position) in homes.items()}


def _error(text: str, file: Path) -> ChainBroken:
    return ChainBroken(
        text, fix="restore the file from a copy, or run the scenario again", where=Where(str(file))
    )


class Verdict(NamedTuple):
    """What was found; without a ``broken`` the run is whole as far as it got."""

    broken: ChainBroken | None
    """The first break in the order of the run."""
    records: int = 0
    expected: int = 0
    links: int = 0
    """Digests that were equal to that of the stop before."""
    begins: int = 0
    """Ways of which no record tells with which digest they begin, or go on behind a lost host."""
    weights: int = 0
    """Files of weights that have the digest that records say."""
    unchecked: int = 0
    """Those of which that is not known."""
    sealed: int = 0
    """Files that are as the run was sealed."""
    lost: tuple[str, ...] = ()
    """Hospitals without which the ring went on to the end."""
    back: Mapping[str, int] = MappingProxyType({})
    """Hospitals without which it went on until a round."""
    torn: tuple[str, ...] = ()
    """Hospitals that have not finished and whose last line of records has no end."""
    uncounted: tuple[str, ...] = ()
    """Private hospitals whose epsilon was not computed anew: there is no accountant here."""

    def __str__(self) -> str:
        """Describe it in one line."""
        if self.broken:
            return str(self.broken)
        far = "whole" if self.records == self.expected else "whole as far as it got"
        rest = f", {self.unchecked} not compared" if self.unchecked else ""
        open_ = (
            f", {self.begins} transfers not checked: no record has the digest they begin with"
            if self.begins
            else ""
        )
        proven = f"{self.records} of {self.expected} records, {self.links} transfers intact{open_}"
        sealed = f", {self.sealed} files as they were sealed" if self.sealed else ""
        until = [f"{name} until round {round_}" for name, round_ in self.back.items()]
        without = f", without {', '.join([*self.lost, *until])}" if self.lost or until else ""
        cut = (
            f"; the last line of {', '.join(self.torn)} is torn, as a death leaves it"
            if self.torn
            else ""
        )
        if self.uncounted:
            cut += f"; epsilon of {', '.join(self.uncounted)} was not computed anew: "
            cut += "dp_accounting is not installed"
        return f"{far}{without}: {proven}, {self.weights} files of weights{rest}{sealed}{cut}"


OWN = (
    "; if the algorithm is your own: `depart` has to give the weights that its session before gave"
)

NO_MORE: tuple[RecordPosition | None, int] = (None, 0)
"""What is due behind the end of a program."""


def verify(
    run: Path,
    scenario: Scenario | None = None,
    tables: Mapping[str, Iterable[str]] | None = None,
    ended: Collection[str] = (),
) -> Verdict:
    """Prove that what a run has left is whole, or find the first break.

    Args:
        run: the run folder.
        scenario: the run's, where that is known: the one in the folder is then not read.
        tables: names of the tensors of each hospital's model in its network's order, which files
            of weights do not keep; without them these files are not compared.
        ended: hospitals known to have finished their program, besides those that left weights.

    Raises:
        RunUnreadable: it is no run folder, has no records, or its seal is damaged.
        ScenarioError: its scenario cannot be read.

    """
    if not (run / "scenario.yaml").is_file() or not any(run.glob("records/*.jsonl")):
        fix = "give the folder that 'fedskd-sim launch' named"
        raise RunUnreadable(f"{run} has no scenario or no records", fix=fix)
    proof = _Proof(run, scenario or load(run / "scenario.yaml").scenario, ended)
    read, links = [*proof.strangers(), *proof.counted(), *proof.lines()], [*proof.chain()]
    breaks = [*read, *proof.gaps(), *links]
    finals = Finals(run, proof.scenario, tables or {})
    if not breaks:
        breaks = [((proof.topology.behind, 0), error) for error in finals.breaks(proof.entries())]
    sealed = seal.read(run)
    breaks = (
        seal.keep_changed(breaks, [*seal.breaks(run, sealed, proof.scenario)]) if sealed else breaks
    )
    first = min(breaks, key=lambda one: one[0])[1] if breaks else None
    return proof.verdict(first, finals, len(sealed.files) if sealed else 0)


class _Proof:
    def __init__(self, run: Path, scenario: Scenario, ended: Collection[str]) -> None:
        self.run, self.scenario, self.topology = run, scenario, Topology.of(scenario)
        self.expected = {
            name: ExpectedRecords(scenario, self.topology, name) for name in scenario.names
        }
        self.reached = {
            name: (len(expected.program), Where(f"{name!r} has finished"))
            for name, expected in self.expected.items()
            if name in ended or (run / "weights" / f"{name}.safetensors").exists()
        }
        """The step before which all records of a hospital must be there, and why."""
        self.found = {
            name: KeptRecords(expected, self._file(name))
            for name, expected in self.expected.items()
        }
        self.spent = {name: Statement(scenario, name) for name in self.expected}
        self.torn: dict[str, tuple[int, Where]] = {}
        """Hospitals that have not finished and whose last line has no end: which step it is of."""
        self.counts: dict[str, SampleCounts] = {}
        """What hospitals have read of their sources."""
        self.records = self.owed = self.links = self.begins = 0
        heals = scenario.on_loss.heals
        self.routes = ways_left(run, self.topology) if heals else Routes(self.topology)

    def entries(self) -> Iterator[KeptRecord]:
        """Yield all records that stand where they should."""
        return (entry for some in self.found.values() for entry in some)

    def verdict(self, first: ChainBroken | None, finals: Finals, sealed: int) -> Verdict:
        """Sum up what was found."""
        lost, back = self.absent
        return Verdict(
            broken=first,
            records=self.records,
            expected=self.owed,
            links=self.links,
            begins=self.begins,
            weights=finals.equal,
            unchecked=finals.unknown,
            sealed=sealed,
            lost=lost,
            back=back,
            torn=tuple(self.torn),
            uncounted=tuple(name for name, one in self.spent.items() if one.uncounted),
        )

    def strangers(self) -> Iterator[SealBreak]:
        """Find files of hospitals that the scenario does not have."""
        for file in sorted(self.run.glob("records/*")):
            if file.suffix != ".jsonl" or file.stem not in self.expected:
                yield (
                    (0, 0),
                    broken("foreign: the scenario has no such hospital", Where(str(file))),
                )

    def counted(self) -> Iterator[SealBreak]:
        """Read what the hospitals have read of their sources; gives what cannot be read."""
        try:
            self.counts = {one.host: one for one in read_counts(self.run)}
        except RunUnreadable as error:
            where = error.where or Where(str(self.run / "samples"))
            yield (0, 0), broken(f"altered: {error.message}", where)

    def lines(self) -> Iterator[SealBreak]:
        """Compare every file with what is due, line by line; gives the first break of each."""
        for name, expected in self.expected.items():
            file = self._file(name)
            wanted, when = expected.positions(), (0, 0)
            for number, line in enumerate(_lines(file), 1):
                where, (next_one, index) = Where(str(file), number), next(wanted, NO_MORE)
                when = next_one[:2] if next_one else when
                try:
                    if not line.endswith(b"\n"):
                        if name in self.reached:
                            raise broken("torn: the last line has no end", where)
                        self.torn[name] = index, where  # a death leaves it so
                        break
                    record = parse_record(line)
                    while self._left_out(name, next_one, record):
                        next_one, index = next(wanted, NO_MORE)
                    entry = FoundRecord(record, where)
                    in_place(
                        entry,
                        next_one,
                        expected,
                        self.found[name],
                        islice(_lines(file), number, None),
                    )
                    of_this_run(entry, self.scenario, self.routes)
                    with_expected_digests(entry, expected)
                    in_itself(entry, self.scenario, self.counts)
                    if wrong := self.spent[name].wrong(record):
                        raise broken(f"altered: {position_of(record)} {wrong}", where)
                except ChainBroken as error:
                    yield when, error
                    break
                except ValueError as error:
                    yield when, broken(f"altered: no record can be read: {error}", where)
                    break
                self.found[name].add(index, record, number)
                self.records += 1

    def _left_out(self, host: str, next_one: RecordPosition | None, record: Record) -> bool:
        """Return whether a record that is due was left out at a hospital that went on."""
        if next_one is None or next_one == position_of(record):
            return False
        if host in self.routes.lost and host not in self.routes.back:  # until then it took its part
            retires = record.without.get(next_one.model, 0)
            retired = _travels(next_one) and 0 < retires <= next_one.round
            return retired or next_one.round < record.back.get(host, 0)  # and it was lost again
        return self._void(next_one)

    def _void(self, wanted: RecordPosition) -> bool:
        """Return whether a record may be missing: its host was lost, or its model retired."""
        return self.routes.away(wanted.host, wanted.round) or (
            _travels(wanted)
            and self.routes.void(self.topology.stop(wanted.model, wanted.round, wanted.hop))
        )

    @property
    def absent(self) -> tuple[tuple[str, ...], dict[str, int]]:
        """Name who was left out to the end, and until which round others were."""
        lost = tuple(name for name in self.routes.lost if self.routes.left_out(name))
        return lost, {name: one.round for name, one in self.routes.back.items() if not one.away}

    def gaps(self) -> Iterator[SealBreak]:
        """Find records that must be there, since others are that came after them; counts those that
        are due, less those that need not be there.
        """
        for name, expected in self.expected.items():
            step, since = self.reached.get(name, (-1, None))
            for number, (wanted, index) in enumerate(expected.positions(), 1):
                if self.found[name].has(index):
                    self.owed += 1
                elif not self._void(wanted):
                    self.owed += 1
                    if index < step:
                        text = f"missing: {wanted} is not here, though what came later is ({since})"
                        yield wanted[:2], broken(text, Where(str(self._file(name)), number))
                        step = -1  # the first is enough

    def _reaches(self, found: RecordPosition, where: Where) -> None:
        """Note that what has arrived was sent: all records before must be there."""
        sender = self.topology.sender(_stop(found))
        expected = self.expected[sender]
        step = (
            expected.departures[found.round]
            if found.hop == 1
            else expected.program.position(found.model, found.round, found.hop - 1)
        )
        if step is not None and step > self.reached.get(sender, (-1, None))[0]:
            self.reached[sender] = step, where

    def chain(self) -> Iterator[SealBreak]:
        """Compare the digest of everything that arrives with that of the stop before it, and note
        how far each hospital must have come.
        """
        for found, came, _, where in self.entries():
            if not _travels(found):
                continue
            self._reaches(found, where)
            before, known = sources(found, self.expected, self.found, self.routes)
            if any(one.digest_out == came for one in before):
                self.links += 1
            elif before and (torn := self._torn_before(found)):
                text = f"torn: the last line has no end, though what came of it is here ({where})"
                yield found[:2], broken(text, torn)
            elif not before or not known:
                self.begins += found.hop == 1 or bool(self.routes.lost)
            else:
                last = before[-1]
                text = (
                    f"altered: {found} arrived with the digest {came}, and left with "
                    f"{last.digest_out} ({last.where})"
                )
                error = broken(text, where)
                error.fix += OWN if found.hop == 1 else ""
                yield found[:2], error

    def _torn_before(self, found: RecordPosition) -> Where | None:
        """Return the torn line of a hospital without which the ring went on, where what has arrived
        can only have come from there: its record was whole before it left.
        """
        stop = _stop(found)
        last = self.topology.sender(stop)
        index, where = self.torn.get(last, (0, None))
        earlier = self.routes.back_of(stop) if found.hop > 2 else None  # noqa: PLR2004 - else it set out there
        before = self.routes.back_of(earlier) if earlier else None
        if where is None or before is None or self.routes.away(before.host, before.round):
            return None
        step = self.expected[last].program.position(found.model, found.round, found.hop - 1)
        return where if step is not None and index <= step else None

    def _file(self, name: str) -> Path:
        """Return the file with a hospital's records."""
        return self.run / "records" / f"{name}.jsonl"


def _lines(file: Path) -> Iterator[bytes]:
    """Yield the lines of a file, if it is there."""
    if file.is_file():
        with file.open("rb") as stream:
            yield from stream


def _stop(position: RecordPosition) -> Stop:
    return Stop(position.round, position.hop, position.host, position.model, position.kind)  # type: ignore[arg-type]


def _travels(wanted: RecordPosition) -> bool:
    """Return whether a record is of a model that has come to its host."""
    return wanted.hop > 0 and wanted.kind != "ensemble"
