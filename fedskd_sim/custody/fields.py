"""Whether one record is the one that is due at its place, and says what this run can have said.

Each check raises ChainBroken for the first thing that is wrong, so that `fedskd-sim verify` names
one cause, in the word for what was done to the file: doubled, foreign, swapped, missing, altered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from fedskd_sim.custody.chain import FoundRecord, misnamed
from fedskd_sim.custody.due import OUTCOMES, TRAINING, Due, Mark, mark
from fedskd_sim.custody.kept import Kept
from fedskd_sim.errors import ChainBroken, Where
from fedskd_sim.recordfiles import parse_record
from fedskd_sim.routes import Routes
from fedskd_sim.scenario import Scenario

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


def _mark_of(line: bytes) -> Mark | None:
    try:
        return mark(parse_record(line))
    except ValueError:
        return None
