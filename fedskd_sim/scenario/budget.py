"""Equal work for every algorithm: sample-gradients per hospital, in passes of one model over the
hospital's training data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fedskd_sim.scenario.algorithms import Algorithm
from fedskd_sim.scenario.schema import Scenario


class Planned(NamedTuple):
    """A scenario cut to a budget, and the passes per hospital that it really takes."""

    scenario: Scenario
    passes: float


def passes(scenario: Scenario, samples: Sequence[int] = ()) -> float:
    """Count the work of a scenario, warm-up and all rounds: sample-gradients per hospital, in
    passes over its training data.

    Args:
        scenario: what is counted.
        samples: the training samples of every hospital that trains. Without them every pass counts
            as a whole one, which is wrong where ``training.batches`` cuts it short.

    """
    begun, per_round = _work(scenario, samples)
    return begun + scenario.algorithm.rounds * per_round


def at_budget(
    scenario: Scenario, algorithm: Algorithm, budget: float, samples: Sequence[int] = ()
) -> Planned:
    """Give a scenario another algorithm, with the number of rounds (at least 1) whose work comes
    nearest to a budget.

    Args:
        scenario: hospitals, data and training.
        algorithm: its ``rounds`` are replaced.
        budget: passes per hospital, as from `passes` with the same ``samples``.
        samples: as for `passes`.

    """
    begun, per_round = _work(scenario.model_copy(update={"algorithm": algorithm}), samples)
    rounds = max(1, round((budget - begun) / per_round)) if per_round else algorithm.rounds
    planned = scenario.model_copy(
        update={"algorithm": algorithm.model_copy(update={"rounds": rounds})}
    )
    return Planned(planned, passes(planned, samples))


def _work(scenario: Scenario, samples: Sequence[int]) -> tuple[float, float]:
    """Give the work of the warm-up and that of a round; where data is pooled, a pass is one over
    everybody's, in the warm-up too.
    """
    training, algorithm, size = scenario.training, scenario.algorithm, len(scenario.members)
    part = _part(scenario, samples) if samples else 1.0
    own = float(size) if scenario.pools else 1.0
    begun = training.warmup_epochs * own if algorithm.warms_up else 0.0
    return begun * part, training.epochs * algorithm.work(size) * part


def _part(scenario: Scenario, samples: Sequence[int]) -> float:
    """Tell which part of the training data a pass takes, over all hospitals."""
    training = scenario.training
    passed = [sum(samples)] if scenario.pools else samples
    taken = sum(sum(training.batch_sizes(count)[: training.batches]) for count in passed)
    return taken / sum(samples)
