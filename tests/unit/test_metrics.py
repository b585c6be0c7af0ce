"""What a hospital exports to Prometheus."""

from __future__ import annotations

from fedskd_sim.observe.metrics import HospitalMetrics
from fedskd_sim.records import Measure, Record
from fedskd_sim.topology import Topology


def test_validation_and_test_are_never_one_series() -> None:
    """A session's accuracy and that of the evaluation round stand side by side, and all models together are no model."""

    def shares(evaluate_on: str) -> dict[str, float]:
        metrics = HospitalMetrics("s", "north", Topology(("north", "south"), 1), evaluate_on)
        for kind, right in (("homecoming", 1.0), ("evaluation", 2.0), ("council", 3.0)):
            record = Record("s", 1, kind, 1, 1, "north", "north", "net", "trained", measures={"accuracy": Measure(right, 4.0)})
            metrics.finished(record)
        families = {family.name: family for family in metrics.registry.collect()}
        return {sample.labels["split"]: sample.value for sample in families["fedskd_accuracy_ratio"].samples}

    assert shares("test") == {"validation": 0.25, "test": 0.5}
    assert shares("validation") == {"validation": 0.5}
