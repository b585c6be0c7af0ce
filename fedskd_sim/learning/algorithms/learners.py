"""Which module teaches which algorithm; a new one has its line here."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec

from fedskd_sim.errors import FedskdError, InvalidValue
from fedskd_sim.learning.base import Learner, LearnerContext
from fedskd_sim.scenario import Algorithm, Prediction

_LEARNERS = {
    "fedskd": "fedskd", "circulation": "fedskd", "mutual": "fedskd", "cyclic": "fedskd",
    "local": "local", "pooled": "local", "fedavg": "fedavg", "fedprox": "fedavg", "fml": "fml",
    "fedproto": "fedproto", "placebo": "placebo",
}  # fmt: skip


def find_untaught(algorithm: Algorithm) -> Iterator[FedskdError]:
    """Find whether an algorithm that scenarios may name is taught by no module: whoever adds one
    has not made all four changes yet that the manual lists.
    """
    name = algorithm.name
    module = _LEARNERS.get(name)
    if module and find_spec(f"{__package__}.{module}"):
        return
    text = f"algorithm {name!r} has keys, but no learner"
    room = "fedskd_sim/learning/algorithms"
    table = f"_LEARNERS in {room}/learners.py"
    fix = (
        f"write {room}/{module}.py, as {table} names it"
        if module
        else f"add a line to {table} that names its module"
    )
    yield InvalidValue(text, key=("algorithm", "name"), fix=fix)


def make(context: LearnerContext) -> Learner:
    """Make the learner of the scenario's algorithm, with what its prediction adds; only the
    modules it needs are imported.

    Raises:
        InvalidValue: no module teaches the algorithm.

    """
    for missing in find_untaught(context.scenario.algorithm):
        raise missing
    made: Learner = import_module(
        f"{__package__}.{_LEARNERS[context.scenario.algorithm.name]}"
    ).make(context)
    if context.scenario.prediction != Prediction():
        made = import_module("fedskd_sim.learning.prediction").Predicting(made, context)
    return made
