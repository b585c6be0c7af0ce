"""Which class teaches which algorithm, built in or a user's own."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, cast

from fedskd_sim.errors import InvalidValue
from fedskd_sim.learning.base import Learner, LearnerContext
from fedskd_sim.scenario import OwnAlgorithm, Prediction

_LEARNERS: Mapping[str, str] = MappingProxyType(
    {
        "fedskd": "fedskd.CirculatingLearner",
        "circulation": "fedskd.CirculatingLearner",
        "mutual": "fedskd.CirculatingLearner",
        "cyclic": "fedskd.CirculatingLearner",
        "local": "local.LocalLearner",
        "pooled": "local.LocalLearner",
        "fedavg": "fedavg.AveragingLearner",
    }
)
"""Where the class of a built-in algorithm is, which is imported by whoever makes one; packages
offer others, this one too: see `fedskd_sim.methods`."""


def make(context: LearnerContext) -> Learner:
    """Make the learner of the scenario's algorithm, with what its prediction and audit
    add; only the modules it needs are imported.

    Raises:
        InvalidValue: code of the user's own cannot be imported or has no such algorithm, or data
            would be pooled where hospitals are processes of their own.

    """
    scenario, algorithm = context.scenario, context.scenario.algorithm
    made: Any
    if not scenario.learns:
        made = import_module(f"{__package__}.placebo").PlaceboLearner(context, algorithm)
        return cast("Learner", made)
    if scenario.pools and context.own_process:
        text = "'pooled' puts all hospitals' data into one place, and here hospitals are apart"
        fix = "it is a reference, no federation: launch it with --on memory"
        raise InvalidValue(text, fix=fix, key=("algorithm", "name"))
    import_module("fedskd_sim.learning.offers").OWN.use(context.code)
    if isinstance(algorithm, OwnAlgorithm):
        made = import_module("fedskd_sim.learning.algorithms.own").make(context, algorithm)
    else:
        module, _, name = _LEARNERS[algorithm.name].partition(".")
        learner = getattr(import_module(f"{__package__}.{module}"), name)
        made = learner(import_module("fedskd_sim.learning.site").Site(context), algorithm)
    inner = made
    if scenario.prediction != Prediction():
        made = import_module("fedskd_sim.learning.prediction").Predicting(made, context)
    if scenario.audit and context.host in scenario.members:
        made = import_module("fedskd_sim.learning.audited").Auditing(made, inner, context)
    return cast("Learner", made)
