"""Runs that have finished, side by side: only of the same data, at equal work, paired by seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from fedskd_sim.errors import InvalidValue, RunUnreadable
from fedskd_sim.observe.words import counted, short_path
from fedskd_sim.records.files import no_run
from fedskd_sim.results.comparison import origins
from fedskd_sim.results.comparison.planning import FOLD_KEYS, Method, PlannedRun
from fedskd_sim.results.comparison.summary import comparison
from fedskd_sim.results.comparison.tables import MethodTable
from fedskd_sim.results.comparison.text import OFF_BUDGET
from fedskd_sim.results.comparison.work import RunResult, finished
from fedskd_sim.scenario import FedSKD, Planned, Scenario, load, passes

MOST_KEYS = 6
APART = ("name", "seed", "variants", "grid")
"""Keys in which the runs of one method differ, or which change nothing in a run."""


class _Found(NamedTuple):
    folder: Path
    scenario: Scenario

    @property
    def method(self) -> str:
        """Return the scenario without what changes with the seed, as a text."""
        kept = self.scenario.model_dump(mode="json", by_alias=True, exclude=set(APART))
        for data in (kept["data"], *(one["data"] for one in kept["hospitals"])):
            for key in FOLD_KEYS:
                data.pop(key, None)
        return json.dumps(kept, sort_keys=True)

    @property
    def tested(self) -> dict[str, Any]:
        """Return what has to be the same in all runs of one seed."""
        scenario = self.scenario
        return {
            "hospitals": scenario.members,
            "held_out": scenario.held_out,
            "data": [one.data.model_dump(mode="json") for one in scenario.hospitals],
            "instruments.evaluate_on": scenario.instruments.evaluate_on,
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Return what the method may be called, the shortest first."""
        own = self.scenario.algorithm
        preset = own.preset if isinstance(own, FedSKD) and own.preset != "plain" else own.name
        planned = self.folder.name == f"seed-{self.scenario.seed}"
        here = self.folder.resolve()
        return preset, here.parent.name if planned else here.name, short_path(self.folder)


@dataclass(frozen=True)
class EarlierRuns:
    """Finished runs as a comparison, and where each of them is."""

    table: MethodTable
    folders: Mapping[tuple[str, int], Path]
    """By method and seed."""


def compare_runs(
    folders: Sequence[Path], control: str = "", *, anyway: bool = False
) -> EarlierRuns:
    """Put finished runs side by side.

    Args:
        folders: run folders, of two methods or more, with the same seeds.
        control: the label of the method, or the folder of one of its runs, with which the others
            are compared; empty for the first one.
        anyway: compare runs of different work, too; a note says so.

    Raises:
        RunUnreadable: a folder is no run, or one that has not finished.
        InvalidValue: the runs cannot be compared: their data or their work is not the same, they
            share no seed, or they are of one method.

    """
    groups: dict[str, list[_Found]] = {}
    for folder in folders:
        found = _read(folder)
        groups.setdefault(found.method, []).append(found)
    if len(groups) == 1:
        text = f"{counted(len(folders), 'run')} of one method: there is nothing to compare"
        raise InvalidValue(text, fix="add the run of another algorithm or setting")
    named = dict(zip(_labels([*groups.values()]), groups.values(), strict=True))
    first = _control(named, control)
    seeds = _seeds(named)
    _check_data(named, first, seeds)
    table = _table(named, first, seeds)
    if not anyway:
        _check_work(table)
    where = {
        (label, one.scenario.seed): one.folder for label, runs in named.items() for one in runs
    }
    return EarlierRuns(table, where)


def _read(folder: Path) -> _Found:
    if not (folder / "scenario.yaml").is_file():
        raise no_run(folder)
    if not finished(folder):
        text = f"{short_path(folder)} has not finished"
        fix = f"'fedskd-sim resume {short_path(folder)}' takes it to its end"
        raise RunUnreadable(text, fix=fix)
    return _Found(folder, load(folder / "scenario.yaml").scenario)


def _labels(groups: Sequence[Sequence[_Found]]) -> tuple[str, ...]:
    """Name every method by its algorithm or, where that is not enough, by the folder of a run."""
    kinds = [*zip(*(runs[0].names for runs in groups), strict=True)]
    return next((kind for kind in kinds if len({*kind}) == len(groups)), kinds[-1])


def _control(named: Mapping[str, Sequence[_Found]], control: str) -> str:
    if not control:
        return next(iter(named))
    for label, runs in named.items():
        if control == label or any(Path(control).resolve() == one.folder.resolve() for one in runs):
            return label
    text = f"the control {control!r} is not among {', '.join(named)}"
    raise InvalidValue(text, fix="give --control one of these")


def _seeds(named: Mapping[str, Sequence[_Found]]) -> list[int]:
    """Return the seeds that every method has."""
    each = {label: [one.scenario.seed for one in runs] for label, runs in named.items()}
    for label, seeds in each.items():
        for one, other in pairwise(sorted(seeds)):
            if one == other:
                both = [short_path(run.folder) for run in named[label] if run.scenario.seed == one]
                text = f"{' and '.join(both[:2])} are both {label} with seed {one}"
                raise InvalidValue(text, fix="give one of them")
    shared = set.intersection(*(set(seeds) for seeds in each.values()))
    if not shared:
        told = "; ".join(f"{label}: {', '.join(map(str, seeds))}" for label, seeds in each.items())
        fix = "run the methods with the same seeds: 'launch --set seed=N'"
        raise InvalidValue(f"the methods share no seed ({told})", fix=fix)
    return sorted(shared)


def _at(runs: Sequence[_Found], seed: int) -> _Found:
    return next(one for one in runs if one.scenario.seed == seed)


def _check_data(named: Mapping[str, Sequence[_Found]], first: str, seeds: Sequence[int]) -> None:
    """Refuse runs that were tested on other data; raises InvalidValue."""
    for seed in seeds:
        wanted = _at(named[first], seed)
        for runs in named.values():
            here = _at(runs, seed)
            other = [key for key, value in here.tested.items() if value != wanted.tested[key]]
            if other:
                text = (
                    f"{short_path(here.folder)} and {short_path(wanted.folder)} differ in "
                    f"{', '.join(other)}"
                )
                fix = "compare runs of the same hospitals, data and folds"
                raise InvalidValue(text, fix=fix)


def _table(named: Mapping[str, Sequence[_Found]], first: str, seeds: Sequence[int]) -> MethodTable:
    given = _at(named[first], seeds[0]).scenario
    methods = [
        Method(label, Planned(scenario, passes(scenario)), passes(given), given=given)
        for label, runs in named.items()
        for scenario in [_at(runs, seeds[0]).scenario]
    ]
    ended = [
        RunResult(
            PlannedRun(label, index, run.scenario),
            run.folder,
            0,
            fresh=False,
            made_with=origins.kept(run.folder),
        )
        for label, runs in named.items()
        for index, seed in enumerate(seeds)
        for run in [_at(runs, seed)]
    ]
    found = comparison(methods, first, ended)
    if found is None:
        raise InvalidValue("the runs share no seed", fix="run the methods with the same seeds")
    notes = (*found.notes, *_left_out(named, seeds), *_others(named, first))
    return MethodTable(found.rows, found.control, found.seeds, notes)


def _left_out(named: Mapping[str, Sequence[_Found]], seeds: Sequence[int]) -> Iterator[str]:
    count = sum(one.scenario.seed not in seeds for runs in named.values() for one in runs)
    if count:
        yield f"{counted(count, 'run')} left out: not every method has a run of their seeds."


def _others(named: Mapping[str, Sequence[_Found]], first: str) -> Iterator[str]:
    """Say in which keys besides its algorithm a method differs from the control."""
    wanted = _flat(json.loads(named[first][0].method))
    for label, runs in named.items():
        here = _flat(json.loads(runs[0].method))
        keys = [
            key
            for key in sorted(wanted.keys() | here.keys())
            if wanted.get(key) != here.get(key) and not key.startswith("algorithm.")
        ]
        if keys:
            more = f" and {len(keys) - MOST_KEYS} more" if len(keys) > MOST_KEYS else ""
            yield f"{label} also differs from {first} in {', '.join(keys[:MOST_KEYS])}{more}."


def _flat(value: Any, under: str = "") -> dict[str, Any]:
    items: Callable[[], Any] | None = None
    if isinstance(value, dict):
        items = value.items
    elif isinstance(value, list):
        items = dict(enumerate(value)).items
    if items is None:
        return {under: value}
    found: dict[str, Any] = {}
    for key, one in items():
        found |= _flat(one, f"{under}.{key}" if under else str(key))
    return found


def _check_work(table: MethodTable) -> None:
    """Refuse methods whose runs did more or less than the control's; raises InvalidValue."""
    done = {row.method.label: 1 + row.off for row in table.rows}
    beside = {label: share / done[table.control] - 1 for label, share in done.items()}
    off = {label: share for label, share in beside.items() if abs(share) > OFF_BUDGET}
    if off:
        told = ", ".join(f"{label} {share:+.0%}" for label, share in off.items())
        text = f"the work is not equal; sample-gradients beside those of {table.control}: {told}"
        fix = (
            "give runs of as many passes over the data, as 'compare SCENARIO --algorithms' makes "
            "them, or --anyway"
        )
        raise InvalidValue(text, fix=fix)
