"""Which module teaches which algorithm; a new one has its line here."""

from __future__ import annotations

from importlib import import_module

from fedskd_sim.learning.base import Learner, LearnerContext
from fedskd_sim.scenario import Prediction

_LEARNERS = {
    "fedskd": "fedskd", "circulation": "fedskd", "mutual": "fedskd", "cyclic": "fedskd",
    "local": "local", "pooled": "local", "fedavg": "fedavg", "fedprox": "fedavg", "fml": "fml",
    "fedproto": "fedproto", "placebo": "placebo",
}  # fmt: skip


def make(context: LearnerContext) -> Learner:
    """Make the learner of the scenario's algorithm, with what its prediction adds; only the
    modules it needs are imported.
    """
    made: Learner = import_module(
        f"fedskd_sim.learning.{_LEARNERS[context.scenario.algorithm.name]}"
    ).make(context)
    if context.scenario.prediction != Prediction():
        made = import_module("fedskd_sim.learning.prediction").Predicting(made, context)
    return made
