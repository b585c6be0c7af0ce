"""What a private hospital spends: the queries of its whole program, their epsilon, and the noise
that an epsilon asks for.

A query is one noised sum of clipped gradients: a step in which one model trains has one, a step in
which two train has two. All queries of a hospital compose, whichever model they train: its warm-up,
every visit, every homecoming. Each draws every unit by a coin of its own (Poisson sampling) and
adds Gaussian noise. Epsilon is that of the distribution of privacy losses (PLD: Koskela, Jalko and
Honkela 2020), as the library dp-accounting composes it, with one unit added or removed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, get_args

from fedskd_sim.errors import FedskdError, InvalidValue, LibraryMissing, extras_named
from fedskd_sim.records import PrivateNumber, Record, SampleCounts
from fedskd_sim.ring.program import Program
from fedskd_sim.ring.topology import Topology
from fedskd_sim.scenario import Privacy, Scenario

GRID = 1e-3
"""Width of the steps in which privacy losses are counted; rounded so that epsilon is never below
the true one, and within 0.1 % of it in the runs of the manual."""
FINE = 1e-4
"""The same for much noise, whose losses are small."""
MUCH_NOISE = 10.0
MOST_NOISE = 100.0
"""Beyond it a step is next to nothing but noise."""
LEAST_NOISE = 0.05
CLOSE = 1e-3
"""How much more noise than needed a target may have, relatively."""
AGREES = 1e-6
"""How close to what is computed anew a record's epsilon is, relatively: processors round."""
ROUNDING = 1e-6
"""As that of sessions."""
REDUCE = "algorithm.rounds, training.epochs or training.warmup_epochs"


class Rule(NamedTuple):
    """What does not change in a run: units, the rate at which a step draws each, standard deviation
    of the noise in units of the clip, and delta.
    """

    units: int
    rate: float
    noise: float
    delta: float

    def epsilon(self, queries: int) -> float | None:
        """Return what so many queries spend; None: there is no bound.

        Raises:
            LibraryMissing: without dp-accounting.

        """
        return epsilon(self.rate, self.noise, queries, self.delta)


class SpendingPlan(NamedTuple):
    """What a hospital's program will spend, known before it starts."""

    host: str
    privacy: Privacy
    rule: Rule
    queries: int
    epsilon: float | None
    first: int
    """Queries of the warm-up and of the first session after it."""

    def __str__(self) -> str:
        """Describe it in one line."""
        one = f"{self.rule.units} {self.privacy.unit}s, each in a step with chance "
        one += f"{self.rule.rate:.3g}, clip {self.privacy.clip:g}, noise {self.rule.noise:.4g}"
        if self.epsilon is None:
            return f"{self.host}: {one}: {self.queries} queries, clipped alone, no guarantee"
        said = "simulated, no guarantee: " if self.privacy.key == "scenario" else ""
        spent = f"epsilon {self.epsilon:.3g} at delta {self.rule.delta:.2g}"
        return f"{self.host}: {one}: {said}{self.queries} queries spend {spent}"


def epsilon(rate: float, noise: float, queries: int, delta: float) -> float | None:
    """Return the epsilon of ``queries`` sums, each over units drawn with chance ``rate`` (0 to 1)
    and with Gaussian noise of standard deviation ``noise`` times the clip; None: there is no bound.

    Args:
        rate: chance of each unit to be drawn.
        noise: in units of the clip; 0: none.
        queries: how many sums are given away.
        delta: the chance with which the guarantee may fail.

    Raises:
        LibraryMissing: without dp-accounting.

    """
    if not queries:
        return 0.0
    if not noise:
        return None
    return _composed(rate, noise, queries, delta)


@lru_cache(maxsize=4096)
def _composed(rate: float, noise: float, queries: int, delta: float) -> float:
    found = float(_losses(rate, noise).self_compose(queries).get_epsilon_for_delta(delta))
    return found if math.isfinite(found) else math.inf


@lru_cache(maxsize=64)
def _losses(rate: float, noise: float) -> Any:
    """Return the distribution of privacy losses of one query."""
    with extras_named():
        from dp_accounting.pld import privacy_loss_distribution as pld  # noqa: PLC0415 - takes seconds

    grid = FINE if noise > MUCH_NOISE else GRID
    return pld.from_gaussian_mechanism(
        noise, sampling_prob=rate, value_discretization_interval=grid, use_connect_dots=True
    )


def noise_for(target: float, rate: float, queries: int, delta: float) -> float:
    """Return the least noise, within 0.1 %, with which so many queries spend ``target`` at most.

    Raises:
        InvalidValue: no noise suffices; it names the least epsilon.
        LibraryMissing: without dp-accounting.

    """
    least = epsilon(rate, MOST_NOISE, queries, delta) or 0.0
    if least > target:
        text = f"{target:g} cannot be reached: {queries} queries spend {least:.3g} even with noise "
        fix = f"allow more, or lower {REDUCE}, or privacy.batch"
        raise InvalidValue(text + f"{MOST_NOISE:g}, the most", fix=fix, key=("target", "epsilon"))

    def enough(noise: float) -> bool:
        return (epsilon(rate, noise, queries, delta) or 0.0) <= target

    low, high = _bracket(enough)
    while high > low * (1 + CLOSE):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _bracket(enough: Callable[[float], bool]) -> tuple[float, float]:
    """Return two levels of noise, one that is too little and one that suffices."""
    high = 1.0
    while not enough(high):
        high = min(2 * high, MOST_NOISE)
    low = high / 2
    while enough(low) and low > LEAST_NOISE:
        low, high = low / 2, low
    return low, high


class StepCount(NamedTuple):
    """The steps of a session, and its queries."""

    steps: int
    queries: int


def session(budget: float, cost: float, every: int = 0) -> StepCount:
    """Count the steps that a budget of sample-gradients pays for.

    Args:
        budget: sample-gradients.
        cost: the samples expected in a step, which each model that trains costs.
        every: a second model trains in every n-th step; 0: never.

    """
    steps = queries = 0
    left = budget + ROUNDING
    while True:
        trained = 1 + bool(every and not (steps + 1) % every)
        left -= trained * cost
        if left < 0:
            return StepCount(steps, queries)
        steps, queries = steps + 1, queries + trained


def passes(scenario: Scenario, rule: Rule, count: float, samples: int) -> float:
    """Return the sample-gradients of ``count`` passes of one model over a private hospital's data:
    as many as it has samples, or ``training.batches`` steps.
    """
    most = scenario.training.batches
    share = 1.0 if most is None else min(1.0, most * rule.rate)
    return count * samples * share


def count_queries(
    scenario: Scenario, topology: Topology, host: str, rule: Rule, samples: int
) -> tuple[int, int]:
    """Return the queries of a hospital's whole program, and those of its warm-up and first session
    after it. ``samples`` are its training samples.
    """
    training, how, cost = scenario.training, scenario.circulating, rule.rate * samples
    every = how.resident_every if how else 0
    work = training.epochs * (how.stop_work if how else 1.0)
    found, unspent, program = list[int](), 0.0, Program(topology, host)
    for step in map(program.at, range(len(program))):
        if step is None or step.action not in ("warm_up", "alone", "host"):
            continue
        if step.action == "warm_up":
            epochs = training.warmup_epochs if scenario.algorithm.warms_up else 0
            found.append(session(passes(scenario, rule, epochs, samples), cost).queries)
        elif step.action == "alone":
            budget = passes(scenario, rule, training.epochs, samples)
            found += [session(budget, cost).queries] if topology.pattern != "circulation" else []
        elif _trains(scenario, step.stop):
            budget = passes(scenario, rule, work, samples) + unspent
            queries = session(budget, cost, every).queries
            unspent = budget - round(queries * cost)
            found.append(queries)
    return sum(found), sum(found[:2])


def _trains(scenario: Scenario, stop: Any) -> bool:
    """Return whether a stop has a session."""
    home = stop.kind == "homecoming" and scenario.schedule.mode == "parallel"
    return stop.kind == "visit" or home


def plan(
    scenario: Scenario, topology: Topology, host: str, units: int, samples: int
) -> SpendingPlan:
    """Plan what a private hospital spends, and solve for its noise where it has a target.

    Args:
        scenario: the run's.
        topology: the run's.
        host: the hospital.
        units: its training patients, or samples.
        samples: its training samples.

    Raises:
        InvalidValue: fewer units than a step expects, a target that no noise reaches, or a budget
            that is spent before round 1; its key is one of the hospital's.
        LibraryMissing: without dp-accounting, where there is noise.

    """
    found = scenario.hospital(host).privacy
    if found is None:
        raise KeyError(host)
    index = scenario.names.index(host)
    try:
        return _plan(scenario, topology, host, found, (units, samples))
    except FedskdError as error:
        error.key = ("hospitals", index, "privacy", *error.key)
        raise


def forecasts(
    scenario: Scenario, records: Iterable[Record], counts: Iterable[SampleCounts]
) -> Iterator[str]:
    """Describe what hospitals will spend in the whole run, from what a short one has left; nothing
    where none is private.
    """
    known = {one.host: sum(one.used["train"].values()) for one in counts}
    units = {one.host: int(one.private["units"] or 0) for one in records if one.private}
    for host, number in units.items():
        yield f"privacy of {plan(scenario, Topology.of(scenario), host, number, known[host])}"
    others = [name for name in scenario.members if name not in units]
    if units and others:
        yield f"no privacy: {', '.join(others)}"


def delta_of(privacy: Privacy | None, units: int) -> float:
    """Return the delta of a hospital with so many units: its own, or 0.1 over their number."""
    return (privacy and privacy.delta) or 0.1 / units


def rule_of(scenario: Scenario, host: str, units: int) -> Rule:
    """Return the rule of a private hospital; where it has a target, the noise is not known yet, and
    0 here.

    Raises:
        InvalidValue: fewer units than a step expects.

    """
    found = scenario.hospital(host).privacy
    if found is None:
        raise KeyError(host)
    batch = found.batch or scenario.training.batch_size
    if units < batch:
        text = f"{batch} {found.unit}s cannot be expected in a step: {host!r} trains with {units}"
        raise InvalidValue(text, fix=f"set privacy.batch to {units} or less", key=("batch",))
    return Rule(units, batch / units, found.noise or 0.0, delta_of(found, units))


def _plan(
    scenario: Scenario, topology: Topology, host: str, found: Privacy, sizes: tuple[int, int]
) -> SpendingPlan:
    units, samples = sizes
    rule = rule_of(scenario, host, units)
    queries, first = count_queries(scenario, topology, host, rule, samples)
    if found.target:
        noise = noise_for(found.target.epsilon, rule.rate, max(queries, 1), rule.delta)
        rule = rule._replace(noise=noise)
    spent = rule.epsilon(first) if found.budget is not None else 0.0
    if found.budget is not None and (spent is None or spent > found.budget):
        text = f"{found.budget:g} is spent before the first round: its session and the warm-up "
        fix = "allow more, set a larger privacy.noise, or lower training.warmup_epochs"
        raise InvalidValue(text + f"spend {spent:.3g}", fix=fix, key=("budget",))
    return SpendingPlan(host, found, rule, queries, rule.epsilon(queries), first)


def numbers(rule: Rule, clip: float, queries: int) -> Mapping[PrivateNumber, int | float | None]:
    """Return what the record of a session says after so many queries of the hospital."""
    return {
        "units": rule.units,
        "rate": rule.rate,
        "noise": rule.noise,
        "clip": clip,
        "queries": queries,
        "epsilon": rule.epsilon(queries),
    }


class Statement:
    """Checks what the records of one hospital say that it has spent, in their order."""

    def __init__(self, scenario: Scenario, host: str) -> None:
        """Begin before the first record; ``scenario`` says what was meant."""
        found = scenario.hospital(host)
        self._privacy = None if found.held_out else found.privacy
        self._scenario, self._host = scenario, host
        self._before: Mapping[PrivateNumber, int | float | None] = {}
        self.uncounted = False
        """Epsilon could not be computed anew: dp-accounting is missing."""

    def wrong(self, record: Record) -> str:
        """Return what is wrong with a record: numbers that are not the scenario's, that go down, or
        an epsilon that is not that of the queries; '' where nothing is.
        """
        trains = record.kind in ("warm_up", "alone", "visit", "homecoming")
        due = self._privacy is not None and trains and record.outcome != "passed"
        if not due or self._privacy is None:
            return "tells of privacy where there is none" if record.private else ""
        said, before = record.private, self._before
        # a warm-up that only loads, as that of fedavg, has asked nothing
        if not said:
            return "" if not record.steps else "does not say what it has spent"
        if said.keys() != {*get_args(PrivateNumber)}:
            return "does not say all that it has spent"
        self._before = said
        return self._meant(said, self._privacy) or _spent(said, before, record) or self._sum(said)

    def _meant(self, said: Mapping[PrivateNumber, Any], privacy: Privacy) -> str:
        """Compare with the scenario."""
        batch = privacy.batch or self._scenario.training.batch_size
        if said["clip"] != privacy.clip or privacy.noise not in (None, said["noise"]):
            return "was not clipped and noised as the scenario says"
        if not said["units"] or not math.isclose(said["rate"], batch / said["units"]):
            return f"says that it draws {said['rate']} of {said['units']}, not {batch}"
        return ""

    def _sum(self, said: Mapping[PrivateNumber, Any]) -> str:
        """Compute epsilon anew."""
        privacy = self._scenario.hospital(self._host).privacy
        delta = delta_of(privacy, said["units"])
        try:
            due = epsilon(said["rate"], said["noise"], said["queries"], delta)
        except LibraryMissing:
            self.uncounted = True
            return ""
        same = (
            due == said["epsilon"]
            if due is None or said["epsilon"] is None
            else math.isclose(due, said["epsilon"], rel_tol=AGREES)
        )
        return (
            ""
            if same
            else (f"says that epsilon is {said['epsilon']}: {said['queries']} queries spend {due}")
        )


def _spent(
    said: Mapping[PrivateNumber, Any], before: Mapping[PrivateNumber, Any], record: Record
) -> str:
    """Compare with the record before: a step has one query or two."""
    fixed: tuple[PrivateNumber, ...] = ("units", "rate", "noise", "clip")
    if before and any(said[name] != before[name] for name in fixed):
        return "has other units, rate, noise or clip than the record before"
    more = said["queries"] - (before["queries"] if before else 0)
    if record.outcome == "rolled_back":
        return "" if more >= 0 else "has fewer queries than the record before"
    if not record.steps <= more <= 2 * record.steps:
        return f"counts {more} queries in {record.steps} steps"
    return ""
