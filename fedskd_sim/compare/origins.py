"""With which code the runs of a comparison were computed: results of another program, or of an
architecture or a reader that was edited meanwhile, are not put beside others without a word.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fedskd_sim.errors import CustodyForeign
from fedskd_sim.scenario import Scenario

Code = Mapping[str, str]
"""Digests of code, by what it is; see `fedskd_sim.learning.sources`."""
Run = tuple[str, int]
"""The label and the seed of a run."""
FIX = (
    "remove these runs to have them computed again, give another --out, or add --anyway to compare "
    "them all the same"
)


def now(scenario: Scenario) -> Code:
    """Tell the code that a run would be computed with here; imports PyTorch for what learns."""
    if not scenario.learns:
        return {}
    from fedskd_sim.learning.sources import sources  # noqa: PLC0415 - as the docstring says

    return sources(scenario)


def keep(run: Path, code: Code) -> None:
    """Write down with which code a run is computed, beside its folder."""
    _file(run).write_text(json.dumps(code, indent=1) + "\n", encoding="utf-8")


def kept(run: Path) -> Code | None:
    """Read what `keep` wrote; None where nothing was kept, or no more than remains of it."""
    try:
        found = json.loads(_file(run).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return {str(name): str(value) for name, value in found.items()} if found else None


def refuse_other(found: Sequence[tuple[Run, Code | None, Code]]) -> None:
    """Refuse finished runs of another code.

    Args:
        found: of every finished run which it is, with which code it was computed, None if that is
            not known, and with which it would be now.

    Raises:
        CustodyForeign: names the first, and what differs.

    """
    others = [(run, before, here) for run, before, here in found if before not in (None, here)]
    if others:
        (label, seed), before, here = others[0]
        words = ", ".join(
            f"{name} was {(before or {}).get(name, 'unknown')} and is {value}"
            for name, value in here.items()
            if (before or {}).get(name) != value
        )
        text = (
            f"{len(others)} of {len(found)} finished runs were computed with other code, the first "
            f"{label}, seed {seed}: {words or 'it had more'}"
        )
        raise CustodyForeign(text, fix=FIX)


def remarks(found: Mapping[Run, Code | None]) -> Iterator[str]:
    """Say which of the runs that are compared were computed with different code, and of how many
    that is not known.
    """
    users: dict[str, dict[str, list[Run]]] = {}
    for run, code in found.items():
        for name, value in (code or {}).items():
            users.setdefault(name, {}).setdefault(value, []).append(run)
    for name, values in users.items():
        if len(values) > 1:
            each = "; ".join(f"{value}: {_list(runs)}" for value, runs in values.items())
            yield f"Runs of different code are compared. The {name} was {each}."
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
