"""What happened in a run besides its results: what its algorithm is, with which settings, by which
command, how it ended, and what struck its hospitals: who was away when, taken from their logs and,
where a hospital came back, from its timings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from fedskd_sim import clock
from fedskd_sim.errors import RunUnreadable, Where
from fedskd_sim.observe import events
from fedskd_sim.observe.outcome import Outcome
from fedskd_sim.observe.words import amount, duration
from fedskd_sim.records.files import whole_lines
from fedskd_sim.results.rows import Column, number
from fedskd_sim.results.timeline import Spans
from fedskd_sim.scenario import Loaded, Scenario

NO_CARDS: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Account:
    """A run's scenario, and what is known of its end; None where nobody has noted it."""

    scenario: Scenario
    outcome: Outcome | None
    in_vain: tuple[str, ...] = ()
    """Keys of the scenario that have no effect, and why."""

    @classmethod
    def of(cls, loaded: Loaded, outcome: Outcome | None) -> Self:
        """Make the account of a run of a scenario's file."""
        told = (
            f"line {where.line}: {text}" if where.line else text
            for text, where in loaded.idle.items()
        )
        return cls(loaded.scenario, outcome, tuple(told))

    @property
    def failed(self) -> bool:
        """Return whether it is known not to have ended well."""
        return self.outcome is not None and self.outcome.state in ("failed", "stopped")

    @property
    def strange(self) -> bool:
        """Return whether the first that is to be read is how it ended."""
        return self.failed or bool(self.outcome and self.outcome.reason)

    @property
    def words(self) -> str:
        """Say what the algorithm does, and how the run ended."""
        disturbed = ", disturbed on purpose" if self.scenario.disturbed else ""
        ended = f" The run: {self.outcome.words}{disturbed}." if self.outcome else ""
        return f"{self.scenario.algorithm.name}: {self.scenario.algorithm.words}{ended}"

    def rows(
        self, peaks: Mapping[str, int], runtime: str, cards: Mapping[str, int] = NO_CARDS
    ) -> Iterator[tuple[str, str]]:
        """Yield name and value of everything there is to tell.

        Args:
            peaks: the largest resident memory of every hospital's process, in bytes.
            runtime: where the run was: in ``memory`` all hospitals share one process.
            cards: the most that these processes have taken of a card's memory; those that have.

        """
        yield "algorithm", self.scenario.algorithm.name
        yield (
            "its settings",
            settings(
                {key: one for key, one in self.scenario.algorithm.settings.items() if key != "name"}
            ),
        )
        yield "training", settings(self.scenario.training.model_dump(mode="json", by_alias=True))
        if self.in_vain:
            yield "keys without effect", "; ".join(self.in_vain)
        if self.scenario.faults:
            yield "faults on purpose", self.scenario.faults_in_words
        if self.scenario.links:
            yield "links", self.scenario.links_in_words
        if self.outcome:
            yield from _facts(self.outcome)
        for name, known in (("peak memory", peaks), ("peak GPU memory", cards)):
            if any(known.values()):
                yield name, _largest(known, runtime)


def _largest(known: Mapping[str, int], runtime: str) -> str:
    """Say who took most memory, of bytes by hospital."""
    largest = max(known, key=lambda name: known[name])
    if runtime == "memory":
        return f"{amount(known[largest])} in the one process of all hospitals"
    return f"{amount(known[largest])} in the process of {largest}, the largest"


def _facts(outcome: Outcome) -> Iterator[tuple[str, str]]:
    for command in outcome.commands:
        yield "command", command
    yield "outcome", outcome.words
    yield "started", clock.stamp(outcome.started)
    if outcome.ended:
        yield "ended", clock.stamp(outcome.ended)
        yield "duration", duration(outcome.ended - outcome.started)
    for name, value in (
        ("who failed", outcome.culprit),
        ("reason", outcome.reason),
        ("fix", outcome.fix),
    ):
        if value:
            yield name, value


def settings(values: Mapping[str, Any], under: str = "") -> str:
    """Write nested settings in one line: ``rounds 2, similarity.batch 0.1``."""
    written = (
        settings(value, f"{under}{name}.")
        if isinstance(value, dict) and value
        else f"{under}{name} {_plain(value)}"
        for name, value in values.items()
    )
    return ", ".join(written)


def _plain(value: Any) -> str:
    return (
        {True: "yes", False: "no", None: "default"}[value]
        if value is None or isinstance(value, bool)
        else str(value)
    )


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


STRUCK = (
    Column("hospital", words=True, key="hospital"),
    Column("what", lambda what: what.replace("_", " "), words=True, key="what"),
    Column("round", number, key="round"),
    Column("hop", number, key="hop"),
)
"""How a table shows whom something struck, what, and in which round and hop."""


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
        if isinstance(what, events.FaultEvent):
            struck = _struck(host, time, what, simulated=simulated)
            if what.what in AWAY:
                if missing:
                    yield missing
                missing = struck
            else:
                yield struck
        elif isinstance(what, events.Restarted):
            missing = missing or Absence(host, f"{DIED}: {what.cause}", 0, 0, time)
        elif what is None and missing:
            yield missing._replace(end=time, seconds=time - missing.start)
            missing = None
    if missing:
        yield missing


def _struck(host: str, time: float, fault: events.FaultEvent, *, simulated: bool) -> Absence:
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
