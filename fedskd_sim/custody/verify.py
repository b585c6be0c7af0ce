"""The proof that a run's records and weights are whole: every step has one record, and every model
the bytes with which it left.

What is proven: each file in ``records`` has exactly the records that the scenario's program leaves,
in order, to its end or as far as the run got; where a model or a sum arrives it has the digest with
which it left the stop before, and where it sets out, that of the home model wherever a record tells
it (`fedskd_sim.custody.due.Due.origin`); each file in ``weights`` has the digest under which its
model was evaluated; samples and steps are such as the counts of what was read allow. Measures and
reasons have no digest of their own: that nobody has changed them since the run ended well is what
its seal says (`fedskd_sim.custody.seal`), and that accuracies are those of the predictions,
`fedskd_sim.report.agreement`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path

from fedskd_sim.custody import seal
from fedskd_sim.custody.chain import FoundRecord, sources, ways_left
from fedskd_sim.custody.due import Due, Mark, mark
from fedskd_sim.custody.fields import (
    broken,
    in_itself,
    in_place,
    of_this_run,
    with_due_digests,
)
from fedskd_sim.custody.finals import Finals
from fedskd_sim.custody.kept import Kept, KeptRecord
from fedskd_sim.custody.seal import Found
from fedskd_sim.custody.verdict import Verdict
from fedskd_sim.errors import ChainBroken, RunUnreadable, Where
from fedskd_sim.messages import Spec
from fedskd_sim.recordfiles import parse_record, read_counts
from fedskd_sim.records import Record, SampleCounts
from fedskd_sim.routes import Routes
from fedskd_sim.scenario import Scenario, load
from fedskd_sim.topology import Stop, Topology

OWN = (
    "; if the algorithm is your own: `depart` has to give the weights that its session before gave"
)

NO_MORE: tuple[Mark | None, int] = (None, 0)
"""What is due behind the end of a program."""


def verify(
    run: Path,
    scenario: Scenario | None = None,
    tables: Mapping[str, Spec] | None = None,
    ended: Collection[str] = (),
) -> Verdict:
    """Prove that what a run has left is whole, or find the first break.

    Args:
        run: the run folder.
        scenario: the run's, where that is known: the one in the folder is then not read.
        tables: tensors of each hospital's model in its network's order, which files of weights do
            not keep; without them these files are not compared.
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
        self.due = {name: Due(scenario, self.topology, name) for name in scenario.names}
        self.reached = {
            name: (len(due.program), Where(f"{name!r} has finished"))
            for name, due in self.due.items()
            if name in ended or (run / "weights" / f"{name}.safetensors").exists()
        }
        """The step before which all records of a hospital must be there, and why."""
        self.found = {name: Kept(due, self._file(name)) for name, due in self.due.items()}
        self.torn: dict[str, tuple[int, Where]] = {}
        """Hospitals that have not finished and whose last line has no end: which step it is of."""
        self.counts: dict[str, SampleCounts] = {}
        """What hospitals have read of their sources."""
        self.records = self.owed = self.links = self.begins = 0
        heals = scenario.on_loss.heals
        self.routes = ways_left(run, self.topology) if heals else Routes(self.topology)

    def entries(self) -> Iterator[KeptRecord]:
        """Give all records that stand where they should."""
        return (entry for some in self.found.values() for entry in some)

    def verdict(self, first: ChainBroken | None, finals: Finals, sealed: int) -> Verdict:
        """Sum up what was found."""
        lost, back = self.absent
        return Verdict(
            broken=first,
            records=self.records,
            due=self.owed,
            links=self.links,
            begins=self.begins,
            weights=finals.equal,
            unchecked=finals.unknown,
            sealed=sealed,
            lost=lost,
            back=back,
            torn=tuple(self.torn),
        )

    def strangers(self) -> Iterator[Found]:
        """Find files of hospitals that the scenario does not have."""
        for file in sorted(self.run.glob("records/*")):
            if file.suffix != ".jsonl" or file.stem not in self.due:
                yield (
                    (0, 0),
                    broken("foreign: the scenario has no such hospital", Where(str(file))),
                )

    def counted(self) -> Iterator[Found]:
        """Read what the hospitals have read of their sources; gives what cannot be read."""
        try:
            self.counts = {one.host: one for one in read_counts(self.run)}
        except RunUnreadable as error:
            where = error.where or Where(str(self.run / "samples"))
            yield (0, 0), broken(f"altered: {error.message}", where)

    def lines(self) -> Iterator[Found]:
        """Compare every file with what is due, line by line; gives the first break of each."""
        for name, due in self.due.items():
            file = self._file(name)
            wanted, when = due.marks(), (0, 0)
            for number, line in enumerate(_lines(file), 1):
                where, (expected, index) = Where(str(file), number), next(wanted, NO_MORE)
                when = expected[:2] if expected else when
                try:
                    if not line.endswith(b"\n"):
                        if name in self.reached:
                            raise broken("torn: the last line has no end", where)
                        self.torn[name] = index, where  # a death leaves it so
                        break
                    record = parse_record(line)
                    while self._left_out(name, expected, record):
                        expected, index = next(wanted, NO_MORE)
                    entry = FoundRecord(record, where)
                    in_place(
                        entry, expected, due, self.found[name], islice(_lines(file), number, None)
                    )
                    of_this_run(entry, self.scenario, self.routes)
                    with_due_digests(entry, due)
                    in_itself(entry, self.scenario, self.counts)
                except ChainBroken as error:
                    yield when, error
                    break
                except ValueError as error:
                    yield when, broken(f"altered: no record can be read: {error}", where)
                    break
                self.found[name].add(index, record, number)
                self.records += 1

    def _left_out(self, host: str, expected: Mark | None, record: Record) -> bool:
        """Tell whether a record that is due was left out at a hospital that went on."""
        if expected is None or expected == mark(record):
            return False
        if host in self.routes.lost and host not in self.routes.back:  # until then it took its part
            retires = record.without.get(expected.model, 0)
            retired = _travels(expected) and 0 < retires <= expected.round
            return retired or expected.round < record.back.get(host, 0)  # and it was lost again
        return self._void(expected)

    def _void(self, wanted: Mark) -> bool:
        """Tell whether a record may be missing: its host was lost, or its model retired."""
        return self.routes.away(wanted.host, wanted.round) or (
            _travels(wanted)
            and self.routes.void(self.topology.stop(wanted.model, wanted.round, wanted.hop))
        )

    @property
    def absent(self) -> tuple[tuple[str, ...], dict[str, int]]:
        """Name who was left out to the end, and until which round others were."""
        lost = tuple(name for name in self.routes.lost if self.routes.left_out(name))
        return lost, {name: one.round for name, one in self.routes.back.items() if not one.away}

    def gaps(self) -> Iterator[Found]:
        """Find records that must be there, since others are that came after them; counts those that
        are due, less those that need not be there.
        """
        for name, due in self.due.items():
            step, since = self.reached.get(name, (-1, None))
            for number, (wanted, index) in enumerate(due.marks(), 1):
                if self.found[name].has(index):
                    self.owed += 1
                elif not self._void(wanted):
                    self.owed += 1
                    if index < step:
                        text = f"missing: {wanted} is not here, though what came later is ({since})"
                        yield wanted[:2], broken(text, Where(str(self._file(name)), number))
                        step = -1  # the first is enough

    def _reaches(self, found: Mark, where: Where) -> None:
        """Note that what has arrived was sent: all records before must be there."""
        sender = self.topology.sender(_stop(found))
        due = self.due[sender]
        step = (
            due.departures[found.round]
            if found.hop == 1
            else due.program.position(found.model, found.round, found.hop - 1)
        )
        if step is not None and step > self.reached.get(sender, (-1, None))[0]:
            self.reached[sender] = step, where

    def chain(self) -> Iterator[Found]:
        """Compare the digest of everything that arrives with that of the stop before it, and note
        how far each hospital must have come.
        """
        for found, came, _, where in self.entries():
            if not _travels(found):
                continue
            self._reaches(found, where)
            before, known = sources(found, self.due, self.found, self.routes)
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

    def _torn_before(self, found: Mark) -> Where | None:
        """Give the torn line of a hospital without which the ring went on, where what has arrived
        can only have come from there: its record was whole before it left.
        """
        stop = _stop(found)
        last = self.topology.sender(stop)
        index, where = self.torn.get(last, (0, None))
        earlier = self.routes.back_of(stop) if found.hop > 2 else None  # noqa: PLR2004 - else it set out there
        before = self.routes.back_of(earlier) if earlier else None
        if where is None or before is None or self.routes.away(before.host, before.round):
            return None
        step = self.due[last].program.position(found.model, found.round, found.hop - 1)
        return where if step is not None and index <= step else None

    def _file(self, name: str) -> Path:
        """Give the file with a hospital's records."""
        return self.run / "records" / f"{name}.jsonl"


def _lines(file: Path) -> Iterator[bytes]:
    """Give the lines of a file, if it is there."""
    if file.is_file():
        with file.open("rb") as stream:
            yield from stream


def _stop(mark: Mark) -> Stop:
    return Stop(mark.round, mark.hop, mark.host, mark.model, mark.kind)  # type: ignore[arg-type]


def _travels(wanted: Mark) -> bool:
    """Tell whether a record is of a model that has come to its host."""
    return wanted.hop > 0 and wanted.kind != "ensemble"
