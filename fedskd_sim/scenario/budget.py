"""Equal work for every algorithm: sample-gradients per hospital, in passes of one model over the
hospital's training data.
"""

from __future__ import annotations

from typing import NamedTuple

from fedskd_sim.scenario.algorithms import Algorithm
from fedskd_sim.scenario.schema import Scenario


class Planned(NamedTuple):
    """A scenario cut to a budget, and the passes per hospital that it really takes."""

    scenario: Scenario
    passes: float


def passes(scenario: Scenario) -> float:
    """Count the work of a scenario: warm-up and all rounds, per hospital."""
    training, algorithm = scenario.training, scenario.algorithm
    warm_up = training.warmup_epochs if algorithm.warms_up else 0
    return warm_up + algorithm.rounds * training.epochs * algorithm.work(len(scenario.members))


def at_budget(scenario: Scenario, algorithm: Algorithm, budget: float) -> Planned:
    """Give a scenario another algorithm, with the number of rounds (at least 1) whose work comes
    nearest to a budget.

    Args:
        scenario: hospitals, data and training.
        algorithm: its ``rounds`` are replaced.
        budget: passes per hospital, as from `passes`.

    """
    training = scenario.training
    warm_up = training.warmup_epochs if algorithm.warms_up else 0
    per_round = training.epochs * algorithm.work(len(scenario.members))
    rounds = max(1, round((budget - warm_up) / per_round)) if per_round else algorithm.rounds
    planned = scenario.model_copy(
        update={"algorithm": algorithm.model_copy(update={"rounds": rounds})}
    )
    return Planned(planned, passes(planned))
