"""Which module teaches which algorithm; a new one has its line here."""

from __future__ import annotations

from importlib import import_module

from fedskd_sim.learning.base import Learner, Ward
from fedskd_sim.scenario import Prediction

_LEARNERS = {
    "fedskd": "fedskd", "circulation": "fedskd", "mutual": "fedskd", "cyclic": "fedskd", "local": "local", "pooled": "local",
    "fedavg": "fedavg", "fedprox": "fedavg", "fml": "fml", "fedproto": "fedproto", "placebo": "placebo",
}  # fmt: skip


def make(ward: Ward) -> Learner:
    """Make the learner of the scenario's algorithm, with what its prediction adds; only the modules it needs are imported."""
    made: Learner = import_module(f"fedskd_sim.learning.{_LEARNERS[ward.scenario.algorithm.name]}").make(ward)
    if ward.scenario.prediction != Prediction():
        made = import_module("fedskd_sim.learning.prediction").Predicting(made, ward)
    return made
