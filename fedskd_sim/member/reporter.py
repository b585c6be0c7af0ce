"""What a hospital reports: whatever its machine does becomes records, timings, metrics and log
lines here, and nowhere else. Of what comes without end the first few lines of everybody are written
down, then ever fewer.
"""

from __future__ import annotations

import resource
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from fedskd_sim import clock
from fedskd_sim.errors import FedskdError
from fedskd_sim.observe import events
from fedskd_sim.observe.metrics import HospitalMetrics, Transfer
from fedskd_sim.records import Record, SampleCounts, Timing
from fedskd_sim.ring.program import Step
from fedskd_sim.ring.topology import Stop
from fedskd_sim.scenario import Scenario

FIRST = 16
"""So many are written down of everybody; later only those whose number is a power of two."""
SPEAKERS = 4096
"""So many are counted apart; where names cannot be trusted there is no end of them."""


class Throttle:
    """Counts what every speaker has said, and thins out what is written down of it."""

    def __init__(self) -> None:
        """Nobody has said anything yet."""
        self._counts: Counter[str] = Counter()

    def line(self, speaker: str, text: str) -> str | None:
        """Count something of a speaker; gives the text to write down, with its number where
        others were left out, or None.
        """
        who = speaker if speaker in self._counts or len(self._counts) < SPEAKERS else ""
        self._counts[who] += 1
        number = self._counts[who]
        if number <= FIRST:
            return text
        return None if number & (number - 1) else f"{text} (and so on: {number} by now)"


class RecordSink(Protocol):
    """Where records and timings go; see `fedskd_sim.records.ledger.Ledger`."""

    def add(self, entry: Record | Timing | SampleCounts) -> None:
        """Append an entry, so that it survives whatever happens next."""

    def close(self) -> None:
        """Take no more."""


def peak_memory() -> int:
    """Return the most memory that this process has had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_of_cards() -> int:
    """Return the most bytes that PyTorch has taken of cards for this process; a placebo has no
    PyTorch.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0
    return sum(map(torch.cuda.max_memory_reserved, range(torch.cuda.device_count())))


def forget_peak_of_cards() -> None:
    """Begin a run in this process with no memory of cards that an earlier one took."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        for number in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(number)


@dataclass(frozen=True)
class Reporter:
    """The one place where what happens to a hospital becomes record, timing, metric and log line.

    Without ``metrics`` nothing is counted; ``log`` takes events, ``peak`` and ``device_peak`` tell
    the most memory so far, of the machine and of a card, in bytes.
    """

    scenario: Scenario
    name: str
    ledger: RecordSink
    log: Callable[[events.LogEvent], Any]
    metrics: HospitalMetrics | None = None
    peak: Callable[[], int] = field(default=lambda: 0)
    device_peak: Callable[[], int] = field(default=lambda: 0)
    refusals: Throttle = field(default_factory=Throttle)

    def phase(self, name: str, round_: int | None = None) -> None:
        """Show what the hospital does now."""
        if self.metrics:
            self.metrics.phase(name, round_)

    def begins(self, step: Step) -> None:
        """Note that a step begins."""
        if step.action == "warm_up":
            self.phase("warm_up", 0)
            self.log(events.WarmUp())
        elif step.action in ("alone", "depart"):
            self.phase("alone" if step.action == "alone" else "waiting", step.round)
        elif step.stop:
            stop = step.stop
            self.phase("averaging" if stop.kind in ("reduce", "gather") else stop.kind, stop.round)
            self.log(events.Arrived(stop.round, stop.hop, stop.model, stop.kind))

    def report_step(self, record: Record) -> None:
        """Note that a step has ended, with its record."""
        self.ledger.add(record)
        if self.metrics:
            self.metrics.count_step(record)
        accuracy = record.measures["accuracy"].mean if "accuracy" in record.measures else None
        self.log(
            events.Finished(
                record.round,
                record.hop,
                record.model,
                record.kind,
                record.outcome,
                accuracy,
                self.device_peak(),
            )
        )
        if record.private:
            privacy = self.scenario.hospital(self.name).privacy
            queries, epsilon = (record.private[name] for name in ("queries", "epsilon"))
            limit = privacy.limit if privacy else None
            self.log(events.PrivacySpent(int(queries or 0), epsilon, limit))
        self.phase("waiting")

    def span(self, what: str, stop: Stop, start: float, training: float) -> None:
        """Note that something of a stop took from ``start`` (UNIX seconds) until now, and how many
        seconds of it were ``training``.
        """
        end = clock.unix()
        place = (self.name, stop.model, stop.round, stop.hop)
        taken = self.device_peak()
        more = {"peak_bytes": self.peak(), "device_bytes": taken}
        self.ledger.add(Timing(what, *place, start, end, **more, training=training))  # type: ignore[arg-type]
        if self.metrics:
            self.metrics.took(what, end - start)
            if taken:
                self.metrics.takes_of_card(self.scenario.hospital(self.name).device, taken)

    def report_resumption(self, start: float) -> None:
        """Note that this life goes on from an earlier one, and since when (UNIX seconds) it has
        got ready for that.
        """
        self.ledger.add(
            Timing(
                "resumed", self.name, self.name, 0, 0, start, clock.unix(), peak_bytes=self.peak()
            )
        )

    def report_transfer(self, transfer: Transfer) -> None:
        """Note a confirmed departure."""
        place = (self.name, transfer.hop.model, transfer.hop.round, transfer.hop.hop)
        span, sent = (transfer.start, transfer.end), transfer.bytes
        self.ledger.add(
            Timing("transfer", *place, *span, sent, to=transfer.to, attempts=transfer.tries)
        )
        if self.metrics:
            self.metrics.count_transfer(transfer)

    def report_refusal(self, sender: str, reason: str) -> None:
        """Count something that no member of the run should send, and log it; of a flood only
        some lines.
        """
        if self.metrics:
            self.metrics.count_refusal()
        line = self.refusals.line(sender, reason)
        if line is not None:
            self.log(events.Refused(sender, line))

    def done(self) -> None:
        """Note that the program is over."""
        self.phase("done")
        self.log(events.DoneEvent())

    def leaves(self, reason: str) -> None:
        """Note why the hospital goes."""
        self.log(events.Left(reason))

    def fails(self) -> None:
        """Note that the hospital cannot go on; whoever knows its place in the scenario file logs
        the error itself.
        """
        self.phase("failed")


def error_event(error: FedskdError) -> events.Error:
    """Write an error as a reader of the log finds it."""
    return events.Error(
        error.exit_code, not error.second_hand, error.message, error.fix, error.key, error.stop
    )
