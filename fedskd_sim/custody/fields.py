"""Whether one record is the one that is due at its place, and says what this run can have said.

Each check raises ChainBroken for the first thing that is wrong, so that `fedskd-sim verify` names
one cause, in the word for what was done to the file: doubled, foreign, swapped, missing, altered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from fedskd_sim.custody.chain import FoundRecord, misnamed
from fedskd_sim.custody.due import OUTCOMES, TRAINING, Due, Mark, mark
from fedskd_sim.custody.kept import Kept
from fedskd_sim.errors import ChainBroken, Where
from fedskd_sim.recordfiles import parse_record
from fedskd_sim.records import Record, SampleCounts
from fedskd_sim.routes import Routes
from fedskd_sim.scenario import BUILT_IN, Scenario

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
    expected: Mark | None,
    due: Due,
    before: Kept,
    rest: Iterable[bytes],
) -> None:
    """Raise for a record that is not the one that is due next.

    Args:
        entry: the record.
        expected: what is due; None behind the end of the program.
        due: all that is due of this hospital.
        before: what stands before it in the file.
        rest: the lines behind it, which tell whether what is due was swapped or is missing.

    Raises:
        ChainBroken: with the reason.

    """
    found = mark(entry.record)
    if found == expected:
        return
    if earlier := before.get(found):
        text = f"doubled: {found} stands in line {earlier.where.line} already"
    elif due.index(found) is None:
        text = f"foreign: the run has no {str(found).removeprefix('the ')}"
    else:
        how = "swapped" if any(_mark_of(line) == expected for line in rest) else "missing"
        text = f"{how}: {expected} should stand before {found}"
    raise broken(text, entry.where)


def of_this_run(entry: FoundRecord, scenario: Scenario, routes: Routes) -> None:
    """Raise ChainBroken for a record of another scenario, seed or architecture, with an outcome
    that such a stop cannot have, or that names others as lost or back than those who were.
    """
    record, found = entry.record, mark(entry.record)
    given = (record.scenario, record.seed, record.architecture)
    wanted = (scenario.name, scenario.seed, scenario.architecture(record.model).name)
    if given != wanted:
        text = f"foreign: it is of {given}, the run of {wanted} (scenario, seed, architecture)"
        raise broken(text, entry.where)
    if wrong := misnamed(record, routes):
        raise broken(f"altered: {found} {wrong}", entry.where)
    if record.outcome not in OUTCOMES.get(record.kind, TRAINING):
        raise broken(f"altered: {found} was not {record.outcome}", entry.where)


def with_due_digests(entry: FoundRecord, due: Due) -> None:
    """Raise ChainBroken for a record without the digests that such a stop leaves, or with others:
    a model that sets out has none to come with, one that is only evaluated none to leave with, and
    one that was not trained leaves as it came.
    """
    record, found = entry.record, mark(entry.record)
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
        and not due.scenario.prediction.keeps_averaged
    )
    if (taken or due.passes_on(record)) and record.digest_in != record.digest_out:
        raise broken(f"altered: {found} changes nothing, and its digests differ", entry.where)


def in_itself(entry: FoundRecord, scenario: Scenario, counts: Mapping[str, SampleCounts]) -> None:
    """Raise ChainBroken for a record whose numbers contradict each other, or what its hospital has
    read of its source.

    Args:
        entry: the record.
        scenario: the run's; of an algorithm that is not built in, nothing is known.
        counts: what each hospital has read, as far as that is known.

    """
    record = entry.record
    if scenario.learns and scenario.algorithm.name not in BUILT_IN:
        return
    if record.outcome == "rolled_back" and (record.samples or record.steps or not record.reason):
        text = (
            f"{record.samples} samples and {record.steps} steps, for the reason {record.reason!r}: "
            "a session that is rolled back has trained nothing, and says why"
        )
        raise broken(f"altered: {mark(record)} tells of {text}", entry.where)
    if not scenario.learns or not counts:
        return
    for wrong in (
        _wrong_samples(record, scenario, counts),
        _wrong_weight(record, scenario, counts),
    ):
        if wrong:
            raise broken(f"altered: {mark(record)} {wrong}", entry.where)


def _wrong_samples(record: Record, scenario: Scenario, counts: Mapping[str, SampleCounts]) -> str:
    """Say how a record's samples are not those of its steps: in each one model or two are trained
    on a mini-batch; '' if they are.
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
    """Say how an accuracy is not over the samples that it is measured on; '' if it is."""
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


def _mark_of(line: bytes) -> Mark | None:
    try:
        return mark(parse_record(line))
    except ValueError:
        return None
