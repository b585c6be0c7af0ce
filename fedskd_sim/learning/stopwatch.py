"""What a training step takes on this machine, under several ways to compute it: measured in a
hospital's own sessions, by its own learner on its own data.

A session has a few steps, and every way its turn in each repetition. What is compared is a step of
each with a step of the first in the same repetition. Nothing is kept, and no run measures anything.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, quantiles
from typing import Any, Literal, NamedTuple, cast

import torch

from fedskd_sim import clock
from fedskd_sim.learning.algorithms.fedskd import CirculatingLearner
from fedskd_sim.learning.algorithms.learners import make
from fedskd_sim.learning.base import LearnerContext
from fedskd_sim.learning.data import Samples
from fedskd_sim.learning.devices import CALLERS, device
from fedskd_sim.learning.sessions.session import SessionModels, Steps, TrainingJob
from fedskd_sim.learning.sessions.steps import Moment, Seen, Teaching
from fedskd_sim.learning.site import Site
from fedskd_sim.learning.weights import export
from fedskd_sim.learning.workspace import fix_workspace
from fedskd_sim.ring.topology import Stop
from fedskd_sim.scenario import Instruments, Loaded, Prediction, Scenario

STEPS, ON_CARDS = 2, 10
"""Steps of a session that is measured, of which the last counts; on cards steps are recorded first,
which takes four of a kind."""
WORTH = 0.1
"""The share of a step's seconds that must be saved, before anything is changed for it."""
LOSING = 1.15
"""Times the scenario's own seconds: a setting that took so long twice is not measured again."""


class Arithmetic(NamedTuple):
    """How a hospital computes."""

    precision: str
    memory_format: str
    threads: int

    @property
    def words(self) -> str:
        """Precision and memory format."""
        return f"{self.precision} {self.memory_format}"


class Seconds(NamedTuple):
    """What a step has taken: of all processors together, and on the clock."""

    cpu: float
    wall: float


Took = Mapping[Arithmetic, list[Seconds]]
"""The mean step of every repetition, of the scenario's own setting first."""
Figure = Literal["cpu", "wall"]


@dataclass(frozen=True)
class ComparedArithmetic:
    """A setting beside the scenario's own: medians of a step's seconds, and of the ratio of both in
    each repetition.
    """

    setting: Arithmetic
    cpu: float
    wall: float
    ratio: float
    low: float
    """Lower quartile of the ratios."""
    high: float
    repetitions: int

    @property
    def worth(self) -> bool:
        """Whether it saves enough, and three of four repetitions have saved something."""
        return self.ratio <= 1 - WORTH and self.high < 1

    @property
    def words(self) -> str:
        """The ratio, and how sure it is."""
        return f"{self.ratio:.2f} ({self.low:.2f}-{self.high:.2f})"


class Stopwatch:
    """Stands in the place of a hospital's recorded steps, and notes what every step takes."""

    def __init__(self, site: Site) -> None:
        """Stand before what begins the sessions of a site."""
        self._inner, self._card = site.recordings, site.device != "cpu"
        self.steps: list[Seconds] = []

    def __getattr__(self, name: str) -> Any:
        """Return what recorded steps have of that name."""
        return getattr(self._inner, name)

    def begin(self, models: SessionModels, job: TrainingJob, teaching: Teaching | None) -> Steps:
        """Begin a session whose steps are timed."""
        return Timed(self._inner.begin(models, job, teaching), self.time)

    def time(self, take: Callable[[], Seen]) -> Seen:
        """Take a step, wait for its end and note what it took."""
        began = Seconds(clock.computed_by_all(), clock.now())
        seen = take()
        if self._card:
            torch.cuda.synchronize()
        taken = clock.computed_by_all() - began.cpu, clock.now() - began.wall
        self.steps.append(Seconds(*taken))
        return seen


class Timed:
    """The steps of one session, on the clock."""

    def __init__(self, inner: Steps, clocked: Callable[[Callable[[], Seen]], Seen]) -> None:
        """Stand before steps; ``clocked`` takes one and notes how long that took."""
        self._inner, self._clocked, self.remark = inner, clocked, inner.remark
        self.show, self.leave = inner.show, inner.leave

    def take(self, batch: Samples, moment: Moment) -> Seen:
        """Take a step on the clock."""
        return self._clocked(lambda: self._inner.take(batch, moment))


class Bench:
    """A hospital under one setting, which carries out sessions of a few steps."""

    def __init__(
        self, loaded: Loaded, host: str, data: Path | None, setting: Arithmetic, like: Site | None
    ) -> None:
        """Make its learner; ``like`` has read its data already."""
        scenario = _short(loaded.scenario, host, setting)
        learner: Any = make(LearnerContext(scenario, host, data, code=loaded.code))
        self._learner, self.site = learner, cast("Site", learner.site)
        if like is not None:
            vars(self.site)["data"] = like.data
        self._watch = Stopwatch(self.site)
        vars(self.site)["recordings"] = self._watch
        self._circulates = isinstance(learner, CirculatingLearner)
        self._cycle = max(1, scenario.circulating.resident_every) if scenario.circulating else 1
        self.site.settle()
        self._own = self.site.first(1)
        learner.home = self._own
        self._came = {
            name: export(self.site.initialise(scenario.architecture(name), 2))
            for name in (scenario.members if self._circulates else ())
        }

    def step(self, model: str) -> Seconds:
        """Train with a hospital's model as the visitor, or the own one alone where none travel;
        return what a step took.
        """
        self._watch.steps.clear()
        if self._circulates:
            self._learner.visit(Stop(1, 1, self.site.name, model, "visit"), self._came[model])
        else:
            self.site.settle()
            job = self.site.plan_job(self.site.passes(1), 1, self.site.during(1))
            self.site.session(SessionModels({"own": self._own}), job)
        return _mean(self._watch.steps[-self._cycle :])


def _short(scenario: Scenario, host: str, setting: Arithmetic) -> Scenario:
    """Return a scenario whose sessions at a hospital have a few steps, under a setting."""
    how = scenario.circulating
    fewest = ON_CARDS if device(scenario.hospital(host).device) != "cpu" else STEPS
    batches = fewest * max(1, how.resident_every if how else 1)
    if scenario.training.batches:
        batches = min(batches, scenario.training.batches)
    epochs = max(1, math.ceil(2 / how.stop_work)) if how else 1
    training = scenario.training.model_copy(
        update={"batches": batches, "epochs": epochs, "patience": None}
    )
    changed = []
    for one in scenario.hospitals:
        own = {"precision": setting.precision, "memory_format": setting.memory_format}
        resources = one.resources.model_copy(update={"cpu": setting.threads})
        here = {**own, "resources": resources} if one.name == host else {}
        changed.append(one.model_copy(update=here))
    update = {
        "hospitals": tuple(changed),
        "training": training,
        "instruments": Instruments(),
        "prediction": Prediction(),
        "audit": None,
    }
    return scenario.model_copy(update=update)


def guests_of(scenario: Scenario, host: str) -> dict[str, int]:
    """Count the sessions of a round at a hospital by one model of each architecture; its own comes
    home. Where no model travels it trains its own.
    """
    if scenario.circulating is None:
        return {host: 1}
    first: dict[str, str] = {}
    for name in (host, *scenario.members):
        first.setdefault(scenario.architecture(name).model_dump_json(), name)
    said = (scenario.architecture(name).model_dump_json() for name in scenario.members)
    return dict(Counter(first[one] for one in said))


def compare(
    loaded: Loaded,
    host: str,
    settings: Sequence[Arithmetic],
    *,
    data: Path | None = None,
    repetitions: int,
    guests: Mapping[str, int] | None = None,
    by_clock: bool = False,
) -> list[ComparedArithmetic]:
    """Take a hospital's steps under several settings in turn, the first of which is the scenario's
    own; others that lose twice are left out then.

    Args:
        loaded: the scenario.
        host: the hospital.
        settings: what to compare.
        data: where data files are.
        repetitions: how often.
        guests: how often whose models train there; None: as `guests_of` says.
        by_clock: compare seconds on the clock, not of the processors, as always on a card.

    """
    fix_workspace()
    CALLERS.note()
    try:
        benches: dict[Arithmetic, Bench] = {}
        for one in settings:
            like = benches[settings[0]].site if benches else None
            benches[one] = Bench(loaded, host, data, one, like)
        on_card = benches[settings[0]].site.device != "cpu"
        what: Figure = "wall" if by_clock or on_card else "cpu"
        guests = guests or guests_of(loaded.scenario, host)
        took: dict[Arithmetic, list[Seconds]] = {one: [] for one in settings}
        for number in range(repetitions):
            alive = [one for one in settings if not _loses(took, one, what)]
            _repeat(benches, guests, alive[:: 1 - 2 * (number % 2)], took)
    finally:
        CALLERS.put_back()
    return [_compared(took, one, what) for one in settings]


def _repeat(
    benches: Mapping[Arithmetic, Bench],
    guests: Mapping[str, int],
    order: Iterable[Arithmetic],
    took: Took,
) -> None:
    """Carry out a session with every guest under every setting, and note the mean step."""
    found: dict[Arithmetic, list[Seconds]] = {one: [] for one in order}
    for name, times in guests.items():
        for setting in found:
            found[setting] += [benches[setting].step(name)] * times
    for setting, steps in found.items():
        took[setting].append(_mean(steps))


def _mean(steps: Sequence[Seconds]) -> Seconds:
    return Seconds(fmean(one.cpu for one in steps), fmean(one.wall for one in steps))


def _ratios(took: Took, setting: Arithmetic, what: Figure) -> list[float]:
    """Return, of each repetition, a setting's seconds in units of the first setting's."""
    own = next(iter(took.values()))
    pairs = zip(own, took[setting], strict=False)
    return [getattr(one, what) / getattr(usual, what) for usual, one in pairs]


def _loses(took: Took, setting: Arithmetic, what: Figure) -> bool:
    found = _ratios(took, setting, what)
    return len(found) > 1 and min(found) > LOSING


def _compared(took: Took, setting: Arithmetic, what: Figure) -> ComparedArithmetic:
    ratios, steps = _ratios(took, setting, what), took[setting]
    low, middle, high = quantiles(ratios, n=4, method="inclusive") if ratios[1:] else ratios * 3
    cpu, wall = median(one.cpu for one in steps), median(one.wall for one in steps)
    return ComparedArithmetic(setting, cpu, wall, middle, low, high, len(ratios))
