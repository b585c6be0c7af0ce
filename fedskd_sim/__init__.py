"""Simulate federated learning without a centre: models travel a ring of hospitals and learn by
similarity distillation.

As a library it has the names of ``__all__``. Each is imported when it is first used, so that
importing the package takes no time and works where PyTorch is not installed. What a type checker
sees of them stands in ``__init__.pyi``.
"""

from importlib import import_module

__version__ = "1.0.0"

__all__ = [
    "AddedLoss",
    "AlgorithmKeys",
    "AllReduceKeys",
    "AllReduceLearner",
    "Architecture",
    "AveragingKeys",
    "AveragingLearner",
    "CirculatingLearner",
    "CirculationKeys",
    "Cluster",
    "Cohort",
    "Comparison",
    "Geometry",
    "GossipKeys",
    "GossipLearner",
    "Kept",
    "Learner",
    "LearnerState",
    "LocalLearner",
    "Loss",
    "NamedArchitecture",
    "Output",
    "Preview",
    "Reconciled",
    "Run",
    "Schedule",
    "Session",
    "SessionModels",
    "Site",
    "Stop",
    "Taps",
    "Total",
    "TrainingStep",
    "__version__",
    "algorithm",
    "architecture",
    "channel_means",
    "compare",
    "divergence",
    "export",
    "files_below",
    "flat",
    "install",
    "install_flat",
    "launch",
    "load",
    "loss",
    "read_run",
    "reader",
    "resume",
    "snapshot",
    "try_out",
]

_HOMES = {
    "AddedLoss": "fedskd_sim.learning.sessions.steps",
    "AlgorithmKeys": "fedskd_sim.scenario",
    "AllReduceKeys": "fedskd_sim.scenario",
    "AllReduceLearner": "fedskd_sim.learning.algorithms.allreduce",
    "Architecture": "fedskd_sim.scenario",
    "AveragingKeys": "fedskd_sim.scenario",
    "AveragingLearner": "fedskd_sim.learning.algorithms.fedavg",
    "CirculatingLearner": "fedskd_sim.learning.algorithms.fedskd",
    "CirculationKeys": "fedskd_sim.scenario",
    "Cluster": "fedskd_sim.operate.execution",
    "Cohort": "fedskd_sim.learning.readers.cohort",
    "Comparison": "fedskd_sim.api",
    "Geometry": "fedskd_sim.learning.samples",
    "GossipKeys": "fedskd_sim.scenario",
    "GossipLearner": "fedskd_sim.learning.algorithms.gossip",
    "Kept": "fedskd_sim.learning.kept",
    "Learner": "fedskd_sim.learning.base",
    "LearnerState": "fedskd_sim.learning.base",
    "LocalLearner": "fedskd_sim.learning.algorithms.local",
    "Loss": "fedskd_sim.learning.sessions.steps",
    "NamedArchitecture": "fedskd_sim.scenario",
    "Output": "fedskd_sim.learning.sessions.steps",
    "Preview": "fedskd_sim.learning.readers.cohort",
    "Reconciled": "fedskd_sim.learning.reconcile",
    "Run": "fedskd_sim.api",
    "Schedule": "fedskd_sim.scenario",
    "Session": "fedskd_sim.learning.base",
    "SessionModels": "fedskd_sim.learning.sessions.session",
    "Site": "fedskd_sim.learning.site",
    "Stop": "fedskd_sim.ring.topology",
    "Taps": "fedskd_sim.learning.distillation.distill",
    "Total": "fedskd_sim.learning.algorithms.allreduce",
    "TrainingStep": "fedskd_sim.learning.sessions.steps",
    "algorithm": "fedskd_sim.learning.offers",
    "architecture": "fedskd_sim.learning.offers",
    "channel_means": "fedskd_sim.learning.distillation.arrangements",
    "compare": "fedskd_sim.api",
    "divergence": "fedskd_sim.learning.sessions.steps",
    "export": "fedskd_sim.learning.weights",
    "files_below": "fedskd_sim.learning.readers.tree",
    "flat": "fedskd_sim.learning.algorithms.fedavg",
    "install": "fedskd_sim.learning.weights",
    "install_flat": "fedskd_sim.learning.algorithms.fedavg",
    "launch": "fedskd_sim.api",
    "load": "fedskd_sim.api",
    "loss": "fedskd_sim.learning.offers",
    "read_run": "fedskd_sim.api",
    "reader": "fedskd_sim.learning.offers",
    "resume": "fedskd_sim.api",
    "snapshot": "fedskd_sim.learning.weights",
    "try_out": "fedskd_sim.api",
}


def __getattr__(name: str) -> object:
    """Import a public name."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fedskd_sim.errors import extras_named  # noqa: PLC0415 - importing the package is quick

    with extras_named():
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
