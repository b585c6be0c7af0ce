"""A short run before a long one: every model goes through every hospital with a few batches of the
real data, and what that took tells what the whole run will take.

The short run is the scenario with a few batches a pass and `ROUNDS` rounds, by the runtime that
the long one will have: architectures that do not fit each other and data that cannot be read end
it. Its first round pays for what is done once, so the second counts; the larger and the smaller of
both are the ends of the forecast of seconds, bytes, disk and memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean, median
from types import MappingProxyType
from typing import NamedTuple

from fedskd_sim import clock
from fedskd_sim.custody import seal
from fedskd_sim.custody.archive import FOLDER, GIB
from fedskd_sim.errors import CanaryFailed, FedskdError
from fedskd_sim.observe import outcome
from fedskd_sim.observe.words import amount, duration, short_path
from fedskd_sim.operate.checks import Slowly, asker, of_code
from fedskd_sim.operate.execution import make_order, say_held
from fedskd_sim.privacy.accountant import forecasts
from fedskd_sim.records import Record, Timing
from fedskd_sim.records.files import read_counts, read_records, read_timings
from fedskd_sim.ring.program import Program, RunPace
from fedskd_sim.ring.topology import Topology
from fedskd_sim.runtimes.base import Detachable, Order, Runtime
from fedskd_sim.runtimes.folder import custody_of
from fedskd_sim.runtimes.location import memory
from fedskd_sim.runtimes.member import discard_custody
from fedskd_sim.scenario import Loaded, Scenario
from fedskd_sim.world.forecast import Cost, forecast

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
        *(["grid={}"] if scenario.grid else []),
    ]
    if scenario.schedule.visits:
        found.append("algorithm.schedule.visits=null")
    return found


def batches_of(scenario: Scenario) -> int:
    """Return how many batches a pass of the short run has at most."""
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


class MeasuredPart(NamedTuple):
    """A hospital: seconds of a whole run's session; its most memory, of machine and card."""

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
            more = (epochs * self._growth[one.host] - 1) * one.trained_for * grows
            steps = trained.setdefault((record.kind, one.host, one.model), {})
            steps[one.round] = steps.get(one.round, 0.0) + one.end - one.start + more
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
        took = timing.trained_for
        training = took if per_sample is None else min(took, per_sample * record.samples)
        return (whole - 1) * training

    @cached_property
    def _per_sample(self) -> Mapping[str, float]:
        """Seconds of one sample-gradient at each hospital that has had a session."""
        found: dict[str, list[float]] = {}
        for one in self._timings:
            record = self._records.get((one.host, one.model, one.round, one.hop))
            if one.what == "session" and record and record.samples and record.kind in TRAINED:
                found.setdefault(one.host, []).append(one.trained_for / record.samples)
        return {host: median(values) for host, values in found.items()}

    def cost(self, choose: Callable[[tuple[float, ...]], float]) -> Cost:
        """Return what steps cost; ``choose`` picks from what a step took in the rounds."""
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
    def hospitals(self) -> list[MeasuredPart]:
        """Return those that train, in ring order."""
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
            MeasuredPart(
                name, fmean(sessions.get(name, [0.0])), peaks.get(name, 0), cards.get(name, 0)
            )
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
        """Return the seconds of a run before its first step and behind the last, and those that
        pass beside the steps for each of them, where the steps of the short run take ``at_work``.
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
        growing = ("records", "timings", "logs", "similarity")
        lines = sum(size_of(self.folder / name) for name in growing)
        rest = sum(size_of(self.folder / name) for name in ("weights", "predictions", "samples"))
        longer = self.steps / max(1, len(self._records))
        budget = self.scenario.instruments.keep_hops * GIB
        sessions = min(size_of(self.folder / FOLDER) * longer, budget)
        return round(lines * longer + sessions) + rest + custody


SPARE_MEMORY = 0.05
"""The share of the machine's memory that must have stayed free."""


class Room(NamedTuple):
    """What the place has, in bytes: memory in all and free, free disk, and of each card on which a
    hospital computes its memory in all and free.
    """

    memory: int
    free_memory: int
    free_disk: int
    cards: Mapping[str, tuple[int, int]] = MappingProxyType({})


@dataclass
class Gauge:
    """Watches what a short run takes of the place: called with every event of its logs, it keeps
    the least memory that was free, of cards too, and the most that custody held.

    ``look`` measures the place, ``custody`` is where hospitals keep what they need to go on.
    """

    look: Callable[[], Room]
    custody: Path
    least: int = field(init=False)
    least_of_cards: dict[str, int] = field(init=False)
    kept: int = 0

    def __post_init__(self) -> None:
        """Measure the place before the short run: what is free then, the whole run may use."""
        self.before = self.look()
        self.least = self.before.free_memory
        self.least_of_cards = {name: free for name, (_, free) in self.before.cards.items()}

    def __call__(self, _: object = None) -> None:
        """Measure the place again, when a hospital has logged something."""
        now = self.look()
        self.least = min(self.least, now.free_memory)
        for name, (_, free) in now.cards.items():
            self.least_of_cards[name] = min(self.least_of_cards[name], free)
        self.kept = max(self.kept, size_of(self.custody))


@dataclass(frozen=True)
class Findings:
    """What a short run says of the whole one, which will take ``usual`` seconds, between
    ``at_least`` and ``at_most``; sizes in bytes.
    """

    seconds: float
    """What the short run itself took."""
    usual: float
    at_least: float
    at_most: float
    sent: int
    stored: int
    memory: int
    """How much less memory was free."""
    room: Room
    cards: Mapping[str, int]
    """How much less memory of each card was free."""
    hospitals: tuple[MeasuredPart, ...]
    problems: tuple[FedskdError, ...]
    private: tuple[str, ...] = ()
    """What private hospitals will spend in the whole run."""
    pace: RunPace | None = None
    """What sets the run's pace; None where one process carries all hospitals' steps out."""

    @property
    def good(self) -> bool:
        """Return whether the run may begin."""
        return not self.problems

    def lines(self) -> Iterator[str]:
        """Write for people what was found: times, sizes, the slowest hospital, and whether it is
        good.
        """
        yield f"canary: {ROUNDS} short rounds took {duration(self.seconds)}"
        width = max(len(one.name) for one in self.hospitals)
        for one in self.hospitals:
            memory = amount(one.peak) + (f", {amount(one.card)} of a card" if one.card else "")
            busy = f", busy {self.pace.busy[one.name]:.0%}" if self.pace else ""
            yield f"  {one.name:<{width}}  {duration(one.session)} a session{busy}, {memory}"
        yield (
            f"whole run: about {duration(self.usual)} ({duration(self.at_least)} to "
            f"{duration(self.at_most)}), {amount(self.sent)} sent, {amount(self.stored)} on disk "
            f"({amount(self.room.free_disk)} free)"
        )
        yield (
            f"memory: {amount(self.memory)} of the {amount(self.room.free_memory)} that were free"
        )
        for name, taken in self.cards.items():
            yield (
                f"memory of {name}: {amount(taken)} of the {amount(self.room.cards[name][1])} that "
                f"were free"
            )
        slowest = max(self.hospitals, key=lambda one: one.session)
        others = [one.session for one in self.hospitals if one is not slowest]
        times = slowest.session / median(others) if others and median(others) else 1.0
        yield f"slowest: {slowest.name}, {times:.1f} times the others' session"
        yield from [*([self.pace.words] if self.pace else []), *self.private]
        yield f"canary: {'good' if self.good else 'not good'}"

    def check(self) -> None:
        """Do nothing where all is good.

        Raises:
            CanaryFailed: the first problem, with the others listed under it.

        """
        if self.problems:
            first = self.problems[0]
            first.others = self.problems[1:]
            raise first


def try_out(
    loaded: Loaded,
    on: str,
    runtime: Runtime,
    *,
    data: Path | None = None,
    out: Path | None = None,
    called: str,
) -> Findings:
    """Carry a scenario's short run out, and forecast the whole one from it.

    Args:
        loaded: the scenario.
        on: the name of the runtime.
        runtime: the runtime.
        data: where data files are.
        out: the folder of the short run, new or empty; None makes one in ``runs``.
        called: the command, or the call, that carries it out.

    Raises:
        FedskdError, KeyboardInterrupt: what ended the short run.

    """
    scenario, short = loaded.scenario, _shorten(loaded, runtime)
    order = make_order(short, on, out, data)
    look = partial(_room, order.folder, _cards(short.scenario))
    gauge = Gauge(look, custody_of(short.scenario, order.run, order.folder))
    began = clock.now()
    _carry_out(runtime, order, gauge, called)
    measured = Measured(scenario, order.folder, clock.now() - began)
    return find(measured, short.scenario, gauge, at_once=on != "memory")


def _shorten(loaded: Loaded, runtime: Runtime) -> Loaded:
    """Return the short run of a scenario; an algorithm of the user's own is asked again."""
    found = loaded.changed(changes(loaded.scenario))
    return Slowly(code=asker(runtime, of_code)).resolve(found).good()


def _carry_out(runtime: Runtime, order: Order, gauge: Gauge, called: str) -> None:
    """Carry the short run out, seal it and note how it ended; nothing is proven or drawn."""
    begun = outcome.begin(order.folder, called)
    try:
        runtime.launch(order)
        runtime.wait(gauge)
        # without a seal, `verify` takes a run that ended well for changed
        seal.seal(order.folder, order.loaded.scenario)
        if isinstance(runtime, Detachable):
            runtime.accept()
    except BaseException as error:
        with suppress(FedskdError):  # nothing here may hide what ended it
            outcome.note(order.folder, outcome.finish(begun, error))
        say_held(runtime, order, error)
        error.add_note(f"canary: not good; its folder is {short_path(order.folder)}")
        raise
    finally:
        runtime.stop()
    outcome.note(order.folder, outcome.finish(begun))
    discard_custody(order.loaded.scenario, order.run, order.folder)


def _cards(scenario: Scenario) -> Callable[[], Mapping[str, tuple[int, int]]]:
    """Return what looks at the cards on which hospitals compute."""
    if not scenario.learns:
        return dict
    from fedskd_sim.learning.devices import cards_of  # noqa: PLC0415 - the placebo runs without PyTorch

    return partial(cards_of, scenario)


def _room(folder: Path, cards: Callable[[], Mapping[str, tuple[int, int]]]) -> Room:
    """Return what memory and disk there are."""
    return Room(*memory(), shutil.disk_usage(folder).free, cards())


def find(measured: Measured, short: Scenario, gauge: Gauge, *, at_once: bool) -> Findings:
    """Forecast the whole run from its short run.

    Args:
        measured: what the short run was like.
        short: its scenario.
        gauge: has watched it.
        at_once: hospitals work beside each other; else one after the other, in one process.

    """
    scenario = measured.scenario
    usual, least, most = (
        forecast(scenario, measured.cost(choose), measured.delay) for choose in (last, min, max)
    )
    itself = forecast(short, replace(measured, short=True).cost(last), measured.delay)
    around, beside = measured.between(itself.seconds if at_once else itself.work)
    seconds = [
        around + beside * measured.steps + (one.seconds if at_once else one.work)
        for one in (usual, least, most)
    ]
    room, stored = gauge.before, measured.stored(gauge.kept)
    return Findings(
        measured.seconds,
        seconds[0],
        min(seconds),
        max(seconds),
        measured.sent,
        stored,
        max(0, room.free_memory - gauge.least),
        room,
        {name: max(0, free - gauge.least_of_cards[name]) for name, (_, free) in room.cards.items()},
        tuple(measured.hospitals),
        tuple(_problems(usual.error if at_once else None, stored, gauge)),
        tuple(forecasts(scenario, read_records(measured.folder), read_counts(measured.folder))),
        usual.pace if at_once else None,
    )


def last(seconds: tuple[float, ...]) -> float:
    """Choose what a step took in the last round."""
    return seconds[-1]


def _problems(end: FedskdError | None, stored: int, gauge: Gauge) -> Iterator[FedskdError]:
    room = gauge.before
    if end:
        text = f"the whole run would end with exit code {end.exit_code}: {end.message}"
        yield CanaryFailed(text, fix=end.fix, key=end.key)
    if stored > room.free_disk:
        yield CanaryFailed(
            f"the whole run keeps {amount(stored)} and {amount(room.free_disk)} are free",
            fix="make room, or give an --out with more of it",
        )
    if gauge.least < SPARE_MEMORY * room.memory:
        yield CanaryFailed(
            f"{amount(gauge.least)} of {amount(room.memory)} of memory were left",
            fix="use a machine with more memory, or smaller models and batches",
        )
    for name, (whole, _) in room.cards.items():
        if (least := gauge.least_of_cards[name]) < SPARE_MEMORY * whole:
            text = f"{amount(least)} of {amount(whole)} of {name}'s memory were left"
            fix = "use a smaller training.batch_size, or let fewer hospitals share the card"
            yield CanaryFailed(text, fix=fix)
