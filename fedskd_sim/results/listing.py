"""The runs of a folder: what each is, how it stands, and what it was worth."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedskd_sim import clock
from fedskd_sim.errors import FedskdError, RunUnreadable
from fedskd_sim.observe import outcome
from fedskd_sim.observe.outcome import Outcome
from fedskd_sim.results.rows import Column, Table, percent, plain
from fedskd_sim.runtimes import location
from fedskd_sim.runtimes.location import Here, InCluster
from fedskd_sim.scenario import load

DEEPEST = 4
"""Folders between the one that is listed and a run: a comparison keeps its runs three below it."""
ABROAD = "going in the cluster, as far as its launcher has brought it here"
INTERRUPTED = "interrupted: no process runs it any more, and nobody has noted how it ended"
GOING = ("going", ABROAD)
MOST_BYTES = 1 << 26
"""Of a report.json that is read for a list."""


def state_of(folder: Path, ended: Outcome | None) -> str:
    """Say how a run is, as its folder tells and this machine knows; raises RunUnreadable."""
    if ended and ended.state != "going":
        return ended.state
    match location.read(folder):
        case InCluster(collected=collected):
            return "ended" if collected else ABROAD
        case Here() as place if not place.away:
            return "going" if place.process(folder) else INTERRUPTED
    return "going" if ended else "unknown"


@dataclass(frozen=True, slots=True)
class RunEntry:
    """One run of a list; NaN and '' for what is not known."""

    place: str
    """Its folder, below the one that is listed."""
    scenario: str = ""
    algorithm: str = ""
    seed: int | None = None
    state: str = ""
    metric: str = ""
    """What ``own`` and ``others`` are: the metric that its report shows first."""
    own: float = math.nan
    others: float = math.nan
    auc_own: float = math.nan
    auc_others: float = math.nan
    started: float = 0.0
    """UNIX seconds."""

    @classmethod
    def of(cls, folder: Path, place: str) -> RunEntry:
        """Read what a list shows of a run folder; what is damaged stands in ``state``."""
        try:
            scenario = load(folder / "scenario.yaml").scenario
            ended = outcome.read(folder)
            state = state_of(folder, ended)
        except FedskdError as error:
            return cls(place, state=f"cannot be read: {error.message}")
        started = ended.started if ended else (folder / "scenario.yaml").stat().st_mtime
        found = _report(folder / "report.json") if state not in GOING else {}
        auc = _part(_part(found, "metrics"), "auc")
        return cls(
            place,
            scenario.name,
            scenario.algorithm.name,
            scenario.seed,
            state,
            str(found.get("headline", "")),
            _share(found, "personalization"),
            _share(found, "generalization"),
            _share(auc, "personalization"),
            _share(auc, "generalization"),
            started,
        )

    @property
    def readable(self) -> bool:
        """Return whether its scenario could be read."""
        return bool(self.scenario)


def runs_in(folder: Path) -> list[RunEntry]:
    """List the runs in a folder and below it, the newest first; links are not followed.

    Raises:
        RunUnreadable: there is no such folder.

    """
    if not folder.is_dir():
        fix = "give a folder of runs; 'fedskd-sim launch' makes the folder runs"
        raise RunUnreadable(f"there is no folder {folder}", fix=fix)
    found = [RunEntry.of(one, one.relative_to(folder).as_posix()) for one in _folders(folder)]
    return sorted(found, key=lambda one: -one.started)


def _folders(folder: Path) -> Iterator[Path]:
    for place, inner, files in os.walk(folder):
        here = Path(place)
        if "scenario.yaml" in files:
            inner.clear()
            yield here
        elif len(here.relative_to(folder).parts) >= DEEPEST:
            inner.clear()


def table_of(runs: list[RunEntry]) -> Table:
    """Return the table of a list; shares in percent."""
    columns = (
        Column("run", words=True, key="run"),
        Column("scenario", words=True, key="scenario"),
        Column("algorithm", words=True, key="algorithm"),
        Column("seed", _known, key="seed"),
        Column("state", words=True, key="state", most=40),
        Column("metric", lambda name: name.replace("_", " "), words=True, key="metric"),
        Column("own", percent, key="own"),
        Column("others", percent, key="others"),
        Column("AUC own", percent, key="auc_own"),
        Column("AUC others", percent, key="auc_others"),
        Column("started", _moment, words=True, key="started"),
    )
    rows = [
        (
            one.place, one.scenario, one.algorithm, one.seed, one.state, one.metric, one.own,
            one.others, one.auc_own, one.auc_others, one.started,
        )
        for one in runs
    ]  # fmt: skip
    return Table(columns, rows)


def as_plain(runs: list[RunEntry]) -> list[dict[str, Any]]:
    """Return a list as plain values: shares in [0, 1], ``started`` in UNIX seconds, None for what
    is missing.
    """
    return [{key: plain(value) for key, value in row.items()} for row in table_of(runs).values()]


def _known(seed: int | None) -> str:
    return "" if seed is None else str(seed)


def _moment(moment: float) -> str:
    return f"{clock.stamp(moment)[:16]}Z" if moment else ""


def _report(file: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError, RecursionError):
        if not file.is_symlink() and file.stat().st_size <= MOST_BYTES:
            found = json.loads(file.read_bytes())
            return found if isinstance(found, dict) else {}
    return {}


def _part(found: dict[str, Any], name: str) -> dict[str, Any]:
    part = found.get(name)
    return part if isinstance(part, dict) else {}


def _share(found: dict[str, Any], name: str) -> float:
    value = found.get(name)
    return float(value) if isinstance(value, int | float) else math.nan
