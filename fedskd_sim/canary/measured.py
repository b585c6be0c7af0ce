"""What a short run has measured, for the whole run: seconds of every step, bytes, disk, memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, median
from typing import NamedTuple

from fedskd_sim.program import Program
from fedskd_sim.recordfiles import read_counts, read_records, read_timings
from fedskd_sim.records import Record, Timing
from fedskd_sim.scenario import Scenario
from fedskd_sim.topology import Topology
from fedskd_sim.world.forecast import Cost

BATCHES, ON_CARDS = 4, 10
"""Batches of a pass of the short run; on cards more, for steps are recorded there, and networks
compiled, only where a session has four of a kind, and its first step is a kind of its own."""
ROUNDS = 2
TRAINED = ("alone", "visit", "homecoming")
"""Kinds of steps whose time grows with the number of batches."""


def changes(scenario: Scenario) -> list[str]:
    """List what makes a scenario's short run, as ``launch --set`` takes it."""
    batches = batches_of(scenario)
    found = [
        f"algorithm.rounds={ROUNDS}",
        f"training.batches={batches}",
        "training.epochs=1",
        "training.warmup_epochs=1",
        *(["faults=[]"] if scenario.faults else []),
        *(["variants={}"] if scenario.variants else []),
    ]
    if scenario.schedule.visits:
        found.append("algorithm.schedule.visits=null")
    return found


def batches_of(scenario: Scenario) -> int:
    """Say how many batches a pass of the short run has at most."""
    on_cards = any(hospital.device != "cpu" for hospital in scenario.hospitals)
    most = ON_CARDS if on_cards else BATCHES
    return min(most, scenario.training.batches or most)


def size_of(folder: Path) -> int:
    """Count the bytes of all files under a folder; those that vanish meanwhile count nothing."""
    total = 0
    for file in folder.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except FileNotFoundError:
            continue
    return total


class Part(NamedTuple):
    """One hospital: seconds of a session of the whole run, and the most memory it has had, of the
    machine and of a card.
    """

    name: str
    session: float
    peak: int
    card: int


@dataclass(frozen=True)
class Measured:
    """What a short run has measured, for the whole run of ``scenario``."""

    scenario: Scenario
    folder: Path
    seconds: float
    """What the short run took, from launch to end."""
    short: bool = False
    """Tell of the short run itself: sessions and warm-ups do not grow."""

    @cached_property
    def _records(self) -> Mapping[tuple[str, str, int, int], Record]:
        return {(one.host, one.model, one.round, one.hop): one for one in read_records(self.folder)}

    @cached_property
    def _timings(self) -> list[Timing]:
        return read_timings(self.folder)

    @cached_property
    def _growth(self) -> Mapping[str, float]:
        """How many times the short run's training samples a pass of the whole run has."""
        training = self.scenario.training
        found = dict.fromkeys(self.scenario.names, 1.0)
        if self.short:
            return found
        for counts in read_counts(self.folder):
            used = sum(counts.used["train"].values())
            sizes = training.batch_sizes(used)[: training.batches]
            few = sum(sizes[: batches_of(self.scenario)])
            found[counts.host] = sum(sizes) / few if few else 1.0
        return found

    @cached_property
    def _seconds(self) -> Mapping[tuple[str, str, str], tuple[float, ...]]:
        """Seconds that a step of the whole run takes, by kind, host and model, in every round."""
        trained: dict[tuple[str, str, str], dict[int, float]] = {}
        epochs = 1 if self.short else self.scenario.training.epochs
        for one in self._timings:
            record = self._records.get((one.host, one.model, one.round, one.hop))
            if record is None or one.what not in ("warm_up", "session", "evaluation"):
                continue
            grows = one.what == "session" and record.kind in TRAINED
            factor = epochs * self._growth[one.host] if grows else 1.0
            steps = trained.setdefault((record.kind, one.host, one.model), {})
            steps[one.round] = steps.get(one.round, 0.0) + factor * (one.end - one.start)
            if one.what == "warm_up":
                steps[one.round] += self._more_warm_up(record, one)
        return {
            place: tuple(steps[number] for number in sorted(steps))
            for place, steps in trained.items()
        }

    def _more_warm_up(self, record: Record, timing: Timing) -> float:
        """Seconds that the whole run's warm-up takes longer: it reads the data as often."""
        per_sample = self._per_sample.get(timing.host)
        if self.short:
            return 0.0
        whole = self.scenario.training.warmup_epochs * self._growth[timing.host]
        took = timing.end - timing.start
        training = took if per_sample is None else min(took, per_sample * record.samples)
        return (whole - 1) * training

    @cached_property
    def _per_sample(self) -> Mapping[str, float]:
        """Seconds of one sample-gradient at each hospital that has had a session."""
        found: dict[str, list[float]] = {}
        for one in self._timings:
            record = self._records.get((one.host, one.model, one.round, one.hop))
            if one.what == "session" and record and record.samples and record.kind in TRAINED:
                found.setdefault(one.host, []).append((one.end - one.start) / record.samples)
        return {host: median(values) for host, values in found.items()}

    def cost(self, choose: Callable[[tuple[float, ...]], float]) -> Cost:
        """Say what steps cost; ``choose`` picks from what a step took in the rounds."""
        known = {place: choose(seconds) for place, seconds in self._seconds.items()}
        usual: dict[tuple[str, str], list[float]] = {}
        for (kind, host, _), seconds in known.items():
            usual.setdefault((kind, host), []).append(seconds)

        def of(kind: str, host: str, model: str) -> float:
            if (kind, host, model) in known:
                return known[kind, host, model]
            return fmean(usual.get((kind, host), [0.0]))

        return of

    @property
    def hospitals(self) -> list[Part]:
        """Give those that train, in ring order."""
        peaks: dict[str, int] = {}
        cards: dict[str, int] = {}
        for one in self._timings:
            peaks[one.host] = max(peaks.get(one.host, 0), one.peak_bytes)
            cards[one.host] = max(cards.get(one.host, 0), one.device_bytes)
        sessions: dict[str, list[float]] = {}
        for (kind, host, _), seconds in self._seconds.items():
            if kind in TRAINED:
                sessions.setdefault(host, []).append(seconds[-1])
        return [
            Part(name, fmean(sessions.get(name, [0.0])), peaks.get(name, 0), cards.get(name, 0))
            for name in self.scenario.members
        ]

    @property
    def delay(self) -> float:
        """Seconds that a model is on its way, until it is safe where it arrives."""
        took = [one.end - one.start for one in self._timings if one.what == "transfer"]
        return median(took) if took else 0.0

    @property
    def sent(self) -> int:
        """Bytes of models that the whole run sends: the mean size of each model as it was sent
        here, times its hops, training rounds and evaluation round apart.
        """
        ring, last = Topology.of(self.scenario), ROUNDS + 1
        sizes: dict[tuple[str, bool], list[int]] = {}
        for one in self._timings:
            if one.what == "transfer":
                sizes.setdefault((one.model, one.round == last), []).append(one.bytes)
        hops = {False: ring.rounds * len(ring.hops(1)), True: len(ring.hops(ring.evaluation_round))}
        return round(sum(fmean(found) * hops[tests] for (_, tests), found in sizes.items()))

    def between(self, at_work: float) -> tuple[float, float]:
        """Give the seconds of a run before its first step and behind the last, and those that pass
        beside the steps for each of them, where the steps of the short run take ``at_work``.
        """
        first = min((one.start for one in self._timings if one.what == "warm_up"), default=0.0)
        last = max((one.end for one in self._timings), default=0.0)
        beside = max(0.0, last - first - at_work)
        return max(0.0, self.seconds - (last - first)), beside / max(1, len(self._records))

    @property
    def steps(self) -> int:
        """The number of steps of the whole run that leave a record."""
        ring = Topology.of(self.scenario)
        return sum(Program(ring, name).recorded for name in ring.names)

    def stored(self, custody: int) -> int:
        """Bytes that the whole run keeps on the disk while it goes on, with those in custody."""
        lines = sum(size_of(self.folder / name) for name in ("records", "timings", "logs"))
        rest = sum(size_of(self.folder / name) for name in ("weights", "predictions", "samples"))
        return round(lines * self.steps / max(1, len(self._records))) + rest + custody
