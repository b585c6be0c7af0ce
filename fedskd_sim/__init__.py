"""Simulate federated learning without a centre: models travel a ring of hospitals and learn by
similarity distillation.

As a library it has the names of ``__all__``. Each is imported when it is first used, so that
importing the package takes no time and works where PyTorch is not installed. What a type checker
sees of them stands in ``__init__.pyi``.
"""

from importlib import import_module

__version__ = "0.1.0"

__all__ = [
    "Cluster",
    "Cohort",
    "Comparison",
    "Learner",
    "Run",
    "Taps",
    "__version__",
    "compare",
    "launch",
    "load",
    "read_run",
    "resume",
    "try_out",
]

_HOMES = {
    "Cluster": "fedskd_sim.operate.execution",
    "Cohort": "fedskd_sim.learning.readers.cohort",
    "Comparison": "fedskd_sim.api",
    "Learner": "fedskd_sim.learning.base",
    "Run": "fedskd_sim.api",
    "Taps": "fedskd_sim.learning.distillation.distill",
    "compare": "fedskd_sim.api",
    "launch": "fedskd_sim.api",
    "load": "fedskd_sim.api",
    "read_run": "fedskd_sim.api",
    "resume": "fedskd_sim.api",
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
