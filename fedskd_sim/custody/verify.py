"""The proof that a run's records and weights are whole: every step has one record, and every model
the bytes with which it left.

What is proven: each file in ``records`` has exactly the records that the scenario's program leaves,
in order, to its end or as far as the run got; where a model or a sum arrives it has the digest with
which it left the stop before, and where it sets out, that of the home model wherever a record tells
it (`fedskd_sim.custody.due.Due.origin`); each file in ``weights`` has the digest under which its
model was evaluated. Measures, counts of samples and steps, and reasons have no digest of their own:
that nobody has changed them since the run ended well is what its seal says
(`fedskd_sim.custody.seal`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from fedskd_sim.custody import seal
from fedskd_sim.custody.chain import FoundRecord, sources, ways_left
from fedskd_sim.custody.due import Due, Mark, mark
from fedskd_sim.custody.fields import broken, in_place, of_this_run, with_due_digests
from fedskd_sim.custody.finals import Finals
from fedskd_sim.custody.seal import Found
from fedskd_sim.custody.verdict import Verdict
from fedskd_sim.errors import ChainBroken, RunUnreadable, Where
from fedskd_sim.messages import Spec
from fedskd_sim.recordfiles import parse_record
from fedskd_sim.records import Record
from fedskd_sim.routes import Routes
from fedskd_sim.scenario import Scenario, load
from fedskd_sim.topology import Stop, Topology

OWN = (
    "; if the algorithm is your own: `depart` has to give the weights that its session before gave"
)


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
    breaks = [*proof.strangers(), *proof.lines(), *proof.gaps(), *proof.chain()]
    finals = Finals(run, proof.scenario, tables or {})
    if not breaks:
        breaks = [((proof.topology.behind, 0), error) for error in finals.breaks(proof.entries())]
    sealed = seal.read(run)
    breaks = seal.keep_changed(breaks, [*seal.breaks(run, sealed)]) if sealed else breaks
    first = min(breaks, key=lambda one: one[0])[1] if breaks else None
    return proof.verdict(first, finals, len(sealed.files) if sealed else 0)


class _Proof:
    def __init__(self, run: Path, scenario: Scenario, ended: Collection[str]) -> None:
        self.run, self.scenario, self.topology = run, scenario, Topology.of(scenario)
        self.due = {name: Due(scenario, self.topology, name) for name in scenario.names}
        self.ended = {
            *ended,
            *(
                name
                for name in scenario.names
                if (run / "weights" / f"{name}.safetensors").exists()
            ),
        }
        self.found: dict[str, dict[Mark, FoundRecord]] = {name: {} for name in scenario.names}
        self.links = self.begins = 0
        heals = scenario.on_loss.heals
        self.routes = ways_left(run, self.topology) if heals else Routes(self.topology)

    def entries(self) -> Iterator[Record]:
        """Give all records that stand where they should."""
        return (entry.record for some in self.found.values() for entry in some.values())

    def verdict(self, first: ChainBroken | None, finals: Finals, sealed: int) -> Verdict:
        """Sum up what was found."""
        lost, back = self.absent
        return Verdict(
            broken=first,
            records=sum(map(len, self.found.values())),
            due=self.owed,
            links=self.links,
            begins=self.begins,
            weights=finals.equal,
            unchecked=finals.unknown,
            sealed=sealed,
            lost=lost,
            back=back,
        )

    def strangers(self) -> Iterator[Found]:
        """Find files of hospitals that the scenario does not have."""
        for file in sorted(self.run.glob("records/*")):
            if file.suffix != ".jsonl" or file.stem not in self.due:
                yield (
                    (0, 0),
                    broken("foreign: the scenario has no such hospital", Where(str(file))),
                )

    def lines(self) -> Iterator[Found]:
        """Compare every file with what is due, line by line; gives the first break of each."""
        for name, due in self.due.items():
            file = self.run / "records" / f"{name}.jsonl"
            raw = file.read_bytes().splitlines(keepends=True) if file.is_file() else []
            wanted, when = iter(due.steps), (0, 0)
            for number, line in enumerate(raw, 1):
                where, expected = Where(str(file), number), next(wanted, None)
                when = expected[:2] if expected else when
                try:
                    if not line.endswith(b"\n"):
                        raise broken("torn: the last line has no end", where)
                    record = parse_record(line)
                    while self._left_out(name, expected, record):
                        expected = next(wanted, None)
                    entry = FoundRecord(record, where)
                    in_place(entry, expected, due, self.found[name], raw[number:])
                    of_this_run(entry, self.scenario, self.routes)
                    with_due_digests(entry, due)
                except ChainBroken as error:
                    yield when, error
                    break
                except ValueError as error:
                    yield when, broken(f"altered: no record can be read: {error}", where)
                    break
                self.found[name][mark(record)] = entry

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
    def owed(self) -> int:
        """Count the records that are due, less those that need not be there."""
        return sum(
            wanted in self.found[name] or not self._void(wanted)
            for name, due in self.due.items()
            for wanted in due.steps
        )

    @property
    def absent(self) -> tuple[tuple[str, ...], dict[str, int]]:
        """Name who was left out to the end, and until which round others were."""
        lost = tuple(name for name in self.routes.lost if self.routes.left_out(name))
        return lost, {name: one.round for name, one in self.routes.back.items() if not one.away}

    def gaps(self) -> Iterator[Found]:
        """Find records that must be there, since others are that came after them."""
        reached = {
            name: (len(due.program), Where(f"{name!r} has finished"))
            for name, due in self.due.items()
            if name in self.ended
        }
        for entry in (entry for some in self.found.values() for entry in some.values()):
            record = entry.record
            if record.hop and record.kind != "ensemble":
                sender = self.topology.sender(_stop(record))
                due = self.due[sender]
                step = (
                    due.departures[record.round]
                    if record.hop == 1
                    else due.program.position(record.model, record.round, record.hop - 1)
                )
                if step is not None and step > reached.get(sender, (-1, None))[0]:
                    reached[sender] = step, entry.where
        for name, (step, since) in reached.items():
            for number, (wanted, index) in enumerate(self.due[name].steps.items(), 1):
                if index < step and wanted not in self.found[name] and not self._void(wanted):
                    where = Where(str(self.run / "records" / f"{name}.jsonl"), number)
                    yield (
                        wanted[:2],
                        broken(
                            f"missing: {wanted} is not here, though what came later is ({since})",
                            where,
                        ),
                    )
                    break

    def chain(self) -> Iterator[Found]:
        """Compare the digest of everything that arrives with that of the stop before it."""
        for some in self.found.values():
            for found, entry in some.items():
                if not found.hop or found.kind == "ensemble":
                    continue
                before, known = sources(found, self.due, self.found, self.routes)
                if any(one.record.digest_out == entry.record.digest_in for one in before):
                    self.links += 1
                elif not before or not known:
                    self.begins += found.hop == 1 or bool(self.routes.lost)
                else:
                    last = before[-1]
                    text = (
                        f"altered: {found} arrived with the digest {entry.record.digest_in}, and "
                        f"left with {last.record.digest_out} ({last.where})"
                    )
                    error = broken(text, entry.where)
                    error.fix += OWN if found.hop == 1 else ""
                    yield found[:2], error


def _stop(record: Record) -> Stop:
    return Stop(record.round, record.hop, record.host, record.model, record.kind)  # type: ignore[arg-type]


def _travels(wanted: Mark) -> bool:
    """Tell whether a record is of a model that has come to its host."""
    return wanted.hop > 0 and wanted.kind != "ensemble"
