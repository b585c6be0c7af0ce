"""With which code and data the runs of a comparison were computed: results of another program, of
an architecture or a reader that was edited meanwhile, or of other data, are not put beside others
without a word.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from fedskd_sim.compare.datafiles import DATA, DataDigests
from fedskd_sim.errors import CustodyForeign
from fedskd_sim.learning.readers import own
from fedskd_sim.learning.sources import sources
from fedskd_sim.scenario import Scenario

Code = Mapping[str, str]
"""Digests of code and data, by what they are; see `fedskd_sim.learning.sources`, and
`fedskd_sim.compare.datafiles` for names that begin with `DATA`."""
Run = tuple[str, int]
"""The label and the seed of a run."""
FIX = (
    "remove these runs to have them computed again, give another --out, or add --anyway to compare "
    "them all the same"
)


def now(scenario: Scenario, data: DataDigests) -> Code:
    """Tell the code and data that a run would be computed with here."""
    if not scenario.learns:
        return {}
    return sources(scenario) | data.of(scenario)


def digests(folder: Path | None, memory: Path) -> DataDigests:
    """Look after the data of a folder; arguments as those of `DataDigests`."""
    return DataDigests(folder, memory, own.digest)


def keep(run: Path, code: Code) -> None:
    """Write down with which code and data a run is computed, beside its folder."""
    _file(run).write_text(json.dumps(code, indent=1) + "\n", encoding="utf-8")


def kept(run: Path) -> Code | None:
    """Read what `keep` wrote; None where nothing was kept, or no more than remains of it."""
    try:
        found = json.loads(_file(run).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return {str(name): str(value) for name, value in found.items()} if found else None


def refuse_other(found: Sequence[tuple[Run, Code | None, Code]]) -> None:
    """Refuse finished runs of other code or data.

    Args:
        found: of every finished run which it is, with which code and data it was computed, None
            if that is not known, and with which it would be now.

    Raises:
        CustodyForeign: names the first, and what differs.

    """
    others = [(run, words) for run, before, here in found if (words := _changed(before, here))]
    if others:
        (label, seed), first = others[0]
        what = _kinds({name for _, changed in others for name in changed})
        text = (
            f"{len(others)} of {len(found)} finished runs were computed with other {what}, the "
            f"first {label}, seed {seed}: {', '.join(first.values())}"
        )
        raise CustodyForeign(text, fix=FIX)


def _changed(before: Code | None, here: Code) -> dict[str, str]:
    """Say in words, by name, what is other than before. Of data that were not looked at before,
    as by earlier versions, nothing is known.
    """
    if before is None:
        return {}
    changed = {
        name: f"{name} was {before.get(name, 'unknown')} and is {value}"
        for name, value in here.items()
        if before.get(name) != value and (name in before or not name.startswith(DATA))
    }
    return changed or ({} if before.keys() <= here.keys() else {"": "it had more"})


def _kinds(names: Iterable[str]) -> str:
    """Say whether names are those of code, of data, or of both."""
    return " and ".join(sorted({"data" if name.startswith(DATA) else "code" for name in names}))


def remarks(found: Mapping[Run, Code | None]) -> Iterator[str]:
    """Say which of the runs that are compared were computed with different code or data, and of
    how many that is not known.
    """
    users: dict[str, dict[str, list[Run]]] = {}
    for run, code in found.items():
        for name, value in (code or {}).items():
            users.setdefault(name, {}).setdefault(value, []).append(run)
    for name, values in users.items():
        if len(values) > 1:
            each = "; ".join(f"{value}: {_list(runs)}" for value, runs in values.items())
            yield f"Runs of different {_kinds({name})} are compared. The {name} was {each}."
        blank = [run for run, code in found.items() if code is not None and name not in code]
        if blank and name.startswith(DATA):
            yield f"Nothing says with which {name} {_list(blank)} were computed."
    unknown = [run for run, code in found.items() if code is None]
    if unknown:
        yield f"Nothing says with which code {_list(unknown)} were computed."


def _list(runs: Sequence[Run]) -> str:
    seeds: dict[str, list[str]] = {}
    for label, seed in runs:
        seeds.setdefault(label, []).append(str(seed))
    return ", ".join(f"{label} (seed {', '.join(found)})" for label, found in seeds.items())


def _file(run: Path) -> Path:
    return run.with_name(f"{run.name}.code.json")
