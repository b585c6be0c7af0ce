"""Every Prometheus metric of a hospital, verbs to record them, and the exporter.

Labels come from closed sets: scenario, hospital, model, the split of the host's data, its device
(and the phase's name); never round or hop.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from threading import Lock
from types import MappingProxyType

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    Histogram,
    Info,
    push_to_gateway,
    start_http_server,
    write_to_textfile,
)
from prometheus_client.metrics_core import Metric

from fedskd_sim import __version__, clock
from fedskd_sim.errors import PortInUse
from fedskd_sim.messages import HopId
from fedskd_sim.records import Record
from fedskd_sim.ring.program import Program
from fedskd_sim.ring.topology import Topology

PHASES = (
    "starting", "warm_up", "alone", "visit", "homecoming", "averaging", "evaluation", "waiting",
    "done", "failed",
)  # fmt: skip
"""What a hospital can be at; the number of each is its place, which the dashboard knows too."""
MODEL = ("scenario", "hospital", "model")
HOSPITAL = ("scenario", "hospital")
JOB, PUSH_PATIENCE_S = "fedskd", 3.0
MEASURED = ("accuracy", "balanced_accuracy", "auc", "resident_accuracy")
"""What is measured on a split of the host's data, which is a label: validation after a session, in
the evaluation mostly test."""
SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)
GAUGES: Mapping[str, tuple[str, str]] = {
    "accuracy": (
        "fedskd_accuracy_ratio",
        "Share of right answers of the last visitor of this model on the host's data",
    ),
    "balanced_accuracy": (
        "fedskd_balanced_accuracy_ratio",
        "Mean recall over the classes present, as accuracy",
    ),
    "auc": ("fedskd_auc_ratio", "Mean one-versus-rest area under the ROC curve, as accuracy"),
    "resident_accuracy": (
        "fedskd_resident_accuracy_ratio",
        "Accuracy of the host's own model after that session",
    ),
    "drift": (
        "fedskd_drift_ratio",
        "Relative change of the visitor's parameters in its last session here",
    ),
    "loss": (
        "fedskd_cross_entropy_nats",
        "Mean cross-entropy of the visitor in its last session here",
    ),
    "resident_loss": (
        "fedskd_resident_cross_entropy_nats",
        "Mean cross-entropy of the resident in that session",
    ),
    "similarity_batch": (
        "fedskd_similarity_batch_distance",
        "Mean distance at the batch level in that session",
    ),
    "similarity_pixel": (
        "fedskd_similarity_pixel_distance",
        "Mean distance at the pixel level in that session",
    ),
    "similarity_region": (
        "fedskd_similarity_region_distance",
        "Mean distance at the region level in that session",
    ),
}


COUNTERS: Mapping[str, str] = MappingProxyType(
    {
        "hops": "Stops finished here, by model",
        "samples": "Training samples the model has seen here",
        "rollbacks": "Sessions rolled back for a non-finite loss",
        "received_bytes": "Payload bytes of arrived models",
        "sent_bytes": "Payload bytes of confirmed departures",
    }
)
DURATIONS: Mapping[str, str] = MappingProxyType(
    {
        "session": "Training at a stop",
        "evaluation": "Evaluation at a stop",
        "transfer": "From handing a model over to its acknowledgement",
    }
)


SPENT: Mapping[str, str] = MappingProxyType(
    {
        "queries": "Noised sums that have left a private hospital's sessions",
        "epsilon": "Epsilon that they have spent; infinite where it clips alone",
        "budget_epsilon": "Epsilon that it may spend",
    }
)


@dataclass(frozen=True, slots=True)
class Transfer:
    """A hop that was confirmed: the times (UNIX seconds) of handing it over and of its
    acknowledgement, and its payload bytes.
    """

    hop: HopId
    to: str
    start: float
    end: float
    bytes: int
    tries: int


class Registry(CollectorRegistry):
    """Collects without the moments at which counters were made, which would double the series."""

    def collect(self) -> Iterator[Metric]:
        """Yield all families as they are scraped."""
        for family in super().collect():
            family.samples = [one for one in family.samples if not one.name.endswith("_created")]
            yield family


class HospitalMetrics:
    """The metrics of one hospital in a registry of their own, so that many can live in one
    process.
    """

    def __init__(
        self,
        scenario: str,
        hospital: str,
        topology: Topology,
        evaluate_on: str = "test",
        algorithm: str = "",
    ) -> None:
        """Declare all metrics; ``evaluate_on``: the split on which the evaluation round
        measures.
        """
        self.registry = Registry()
        self._own = {"scenario": scenario, "hospital": hospital}
        self._evaluate_on = evaluate_on
        self._gauges = {
            key: Gauge(
                *text, (*MODEL, "split") if key in MEASURED else MODEL, registry=self.registry
            )
            for key, text in GAUGES.items()
        }
        self._counters = {
            name: Counter(f"fedskd_{name}", text, MODEL, registry=self.registry)
            for name, text in COUNTERS.items()
        }
        self._seconds = {
            name: Histogram(
                f"fedskd_{name}_seconds", text, HOSPITAL, registry=self.registry, buckets=SECONDS
            )
            for name, text in DURATIONS.items()
        }
        self._place_in(topology, hospital)
        self._declare_own()
        about = {"algorithm": algorithm, "seed": str(topology.seed), "version": __version__}
        run = Info("fedskd_run", "What runs", HOSPITAL, registry=self.registry)
        run.labels(**self._own).info(about)

    def _declare_own(self) -> None:
        """Declare what is the hospital's own, of whatever model."""
        self._refused = Counter(
            "fedskd_refused",
            "Messages that no member should send",
            HOSPITAL,
            registry=self.registry,
        )
        self._refused.labels(**self._own)
        self._card = self._gauge(
            "fedskd_device_memory_bytes",
            "Most memory of a card that its process has taken",
            "device",
        )
        self._spent = {
            name: self._gauge(f"fedskd_privacy_{name}", text) for name, text in SPENT.items()
        }
        self._round = self._gauge("fedskd_round", "Current round, from 1; 0 before the first")
        self._phase = Enum(
            "fedskd_phase", "What it does now", HOSPITAL, registry=self.registry, states=[*PHASES]
        )

    def _place_in(self, topology: Topology, hospital: str) -> None:
        """Declare where in the ring the hospital is, and of whom."""
        position = self._gauge("fedskd_ring_position", "Place in the ring, from 0")
        position.labels(**self._own).set(topology.names.index(hospital))
        total = self._gauge("fedskd_ring_size", "Hospitals in the ring")
        total.labels(**self._own).set(topology.size)
        following = self._gauge("fedskd_ring_next", "The next hospital in the ring, 1", "next")
        after = topology.names[(topology.names.index(hospital) + 1) % len(topology.names)]
        following.labels(**self._own, next=after).set(1)
        stops = self._gauge("fedskd_stops", "Stops here in the whole run, but for the ensemble")
        stops.labels(**self._own).set(Program(topology, hospital).recorded)
        self._hop = Gauge(
            "fedskd_hop",
            "Hop of the last session of this model here, from 1; 0 for the warm-up",
            MODEL,
            registry=self.registry,
        )
        self._lost = self._gauge(
            "fedskd_ring_lost", "Hospitals without which the ring goes on, as of the last stop here"
        )
        self._lost.labels(**self._own).set(0)

    def _gauge(self, name: str, text: str, *more: str) -> Gauge:
        return Gauge(name, text, (*HOSPITAL, *more), registry=self.registry)

    def write(self, folder: Path) -> None:
        """Write everything as Prometheus reads it to ``metrics/NAME.prom`` of a run folder; a
        full disk leaves the file before.
        """
        with suppress(OSError):  # the records have it all
            (folder / "metrics").mkdir(exist_ok=True)
            write_to_textfile(
                str(folder / "metrics" / f"{self._own['hospital']}.prom"), self.registry
            )

    def push(self, gateway: str) -> str:
        """Push everything to a Pushgateway, in place of what this hospital of the scenario pushed
        before. Return what went wrong; '' for nothing.

        Args:
            gateway: its address, as ``http://127.0.0.1:9091``.

        """
        try:
            push_to_gateway(gateway, JOB, self.registry, {**self._own}, PUSH_PATIENCE_S)
        except (OSError, ValueError, HTTPException) as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def phase(self, name: str, round_: int | None = None) -> None:
        """Show what the hospital does now, and in which round."""
        self._phase.labels(**self._own).state(name)
        if round_ is not None:
            self._round.labels(**self._own).set(round_)

    def takes_of_card(self, device: str, size: int) -> None:
        """Record the most memory, in bytes, that the hospital's process has taken of a card."""
        self._card.labels(**self._own, device="cuda" if device == "auto" else device).set(size)

    def may_spend(self, epsilon: float) -> None:
        """Record the epsilon that a private hospital may spend."""
        self._spent["budget_epsilon"].labels(**self._own).set(epsilon)

    def count_refusal(self) -> None:
        """Count something that no member of the run should send."""
        self._refused.labels(**self._own).inc()

    def count_step(self, record: Record) -> None:
        """Record a finished stop."""
        self._lost.labels(**self._own).set(len(record.left_out))
        labels = {**self._own, "model": record.model}
        self._counters["hops"].labels(**labels).inc()
        self._counters["samples"].labels(**labels).inc(record.samples)
        self._counters["rollbacks"].labels(**labels).inc(record.outcome == "rolled_back")
        self._counters["received_bytes"].labels(**labels).inc(record.bytes)
        for spent, value in record.private.items():
            if spent in SPENT:
                self._spent[spent].labels(**self._own).set(math.inf if value is None else value)
        if record.kind == "ensemble":  # many models are no model
            return
        if record.kind in ("visit", "homecoming", "warm_up", "alone"):
            self._hop.labels(**labels).set(record.hop)
        split = self._evaluate_on if record.kind == "evaluation" else "validation"
        for name, measure in record.measures.items():
            if name in self._gauges and not math.isnan(measure.mean):
                of = {"split": split} if name in MEASURED else {}
                self._gauges[name].labels(**labels, **of).set(measure.mean)

    def took(self, what: str, seconds: float) -> None:
        """Record how long a session or an evaluation took."""
        if what in self._seconds:
            self._seconds[what].labels(**self._own).observe(seconds)

    def count_transfer(self, transfer: Transfer) -> None:
        """Record a confirmed departure."""
        self._counters["sent_bytes"].labels(**self._own, model=transfer.hop.model).inc(
            transfer.bytes
        )
        self.took("transfer", transfer.end - transfer.start)


USUAL_GAP_S, MOST_GAP_S, LATE = 15.0, 60.0, 1.5
"""The time between two scrapes until there were two, and beyond which none is waited for; how many
times as late the next one may be.
"""


class Scrapes:
    """Collects a hospital's metrics for whoever scrapes them, and notes when they did."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Take what is collected."""
        self._registry = registry
        self._lock = Lock()
        self.last: float | None = None
        """When somebody has scraped, by the monotonic clock; None for never."""
        self.gap = 0.0
        """The longest time between two scrapes."""

    def collect(self) -> Iterable[Metric]:
        """Note a scrape, and return all families."""
        now = clock.now()
        with self._lock:
            self.gap = max(self.gap, now - self.last) if self.last is not None else 0.0
            self.last = now
        return [*self._registry.collect()]

    def expected(self, since: float) -> bool:
        """Return whether a scrape is still to come that sees what has been since a moment of the
        monotonic clock: not where nobody scrapes, or seldom, or the next scrape is late.
        """
        if self.last is None or self.last >= since or self.gap > MOST_GAP_S:
            return False
        return clock.now() < self.last + LATE * (self.gap or USUAL_GAP_S)


class Exporter:
    """Serves a hospital's metrics over HTTP on one address."""

    def __init__(self, metrics: HospitalMetrics, host: str, port: int) -> None:
        """Start to serve; port 0 takes a free one, ``address`` tells which; ``[::]`` is any address
        of IPv6, and of IPv4.

        Raises:
            PortInUse: the port is taken.

        """
        self.scrapes, told = Scrapes(metrics.registry), CollectorRegistry()
        told.register(self.scrapes)
        try:
            self._server, self._thread = start_http_server(
                port, addr=host.strip("[]"), registry=told
            )
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            fix = "choose another metrics.port, or 0 for any free ones"
            raise PortInUse(f"port {port} is in use", fix=fix, key=("metrics", "port")) from error
        self.address = f"{host}:{self._server.server_port}"

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
