"""What struck the hospitals of a run, and who was away when: taken from their logs and, where a
hospital came back, from its timings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fedskd_sim.errors import RunUnreadable, Where
from fedskd_sim.observe import events, lives
from fedskd_sim.recordfiles import whole_lines
from fedskd_sim.report.spans import Spans

AWAY = ("kill", "restart", "leave", "abort", "full_disk", "stall")
"""From these a hospital is back when it says so; others last as long as was wanted."""
WAITS = ("stop", "late")
SIGNS = (b'"fault"', b'"restarted"', b'"refused"')
"""What a line of a log has that is about one of these: a long log is not read in whole."""
MOST_REFUSED = 50
DIED = "died"


class Absence(NamedTuple):
    """Something that struck a hospital: what, within which round and hop (0: none), from when to
    when (UNIX seconds; NaN: not known, or for ever), and for how many seconds.

    In simulated time seconds pass that no log's clock knows: they are said, and no end is.
    """

    host: str
    what: str
    round: int
    hop: int
    start: float
    end: float = math.nan
    seconds: float = math.nan


class Refusal(NamedTuple):
    """When (UNIX seconds) a hospital refused something, whose, and why."""

    host: str
    time: float
    sender: str
    reason: str


@dataclass(frozen=True)
class Troubles:
    """What struck the hospitals of a run, in order of time, and what they refused."""

    absences: tuple[Absence, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    simulated: bool = False

    @classmethod
    def of(
        cls, run: Path, hosts: Iterable[str], spans: Spans | None = None, *, simulated: bool = False
    ) -> Troubles:
        """Read the logs of a run folder; those that are not there say nothing.

        Args:
            run: the run folder.
            hosts: whose logs.
            spans: has when hospitals came back.
            simulated: whether faults lasted for simulated seconds.

        Raises:
            RunUnreadable: a log cannot be read.

        """
        found: list[Absence] = []
        refused: list[Refusal] = []
        for host in hosts:
            told = list(_read_log(run / "logs" / f"{host}.jsonl"))
            back = spans.at(host, "resumed", 0.0)[1].tolist() if spans else []
            found += _pair(host, told, back, simulated=simulated)
            refused += [
                Refusal(host, one.time, one.what.sender, one.what.reason)
                for one in told
                if isinstance(one.what, events.Refused)
            ][:MOST_REFUSED]
        ordered = sorted(found, key=lambda one: one.start)
        return cls(tuple(ordered), tuple(refused), simulated)


def _read_log(log: Path) -> Iterator[events.Logged]:
    """Yield what a log says of faults, deaths and refusals."""
    try:
        with log.open("rb") as stream:
            for line in whole_lines(stream):
                if any(sign in line for sign in SIGNS) and (logged := events.read(line)):
                    yield logged
    except FileNotFoundError:
        return
    except OSError as error:
        fix = "make it readable, or remove it: then the report says nothing of faults"
        raise RunUnreadable(
            f"cannot be read: {error.strerror}", fix=fix, where=Where(str(log))
        ) from error


def _pair(
    host: str, told: list[events.Logged], back: list[float], *, simulated: bool
) -> Iterator[Absence]:
    """Put what struck a hospital together with when it came back."""
    missing: Absence | None = None
    moments = [(one.time, one.what) for one in told] + [(moment, None) for moment in back]
    for time, what in sorted(moments, key=lambda one: one[0]):
        if isinstance(what, lives.Fault):
            struck = _struck(host, time, what, simulated=simulated)
            if what.what in AWAY:
                if missing:
                    yield missing
                missing = struck
            else:
                yield struck
        elif isinstance(what, lives.Restarted):
            missing = missing or Absence(host, f"{DIED}: {what.cause}", 0, 0, time)
        elif what is None and missing:
            yield missing._replace(end=time, seconds=time - missing.start)
            missing = None
    if missing:
        yield missing


def _struck(host: str, time: float, fault: lives.Fault, *, simulated: bool) -> Absence:
    lasts = math.nan if fault.lasts is None else fault.lasts
    known = simulated or fault.what not in AWAY
    return Absence(
        host,
        fault.what,
        fault.round,
        fault.hop,
        time,
        math.nan if simulated or fault.what in AWAY else time + lasts,
        lasts if known else math.nan,
    )
