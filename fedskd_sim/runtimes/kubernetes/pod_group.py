"""By what Kueue takes a ring's pods for one group."""

from __future__ import annotations

from fedskd_sim.runtimes.kubernetes.plan import Plan
from fedskd_sim.scenario import Scenario

KUEUE = "kueue.x-k8s.io"
FINISHING = (f"{KUEUE}/retriable-in-group", "false")
"""The annotation of pods whose group ends with them, and gives its room in the queue back."""


def marks(scenario: Scenario, plan: Plan) -> tuple[dict[str, str], dict[str, str]]:
    """Give the labels and annotations by which Kueue takes the ring's pods for one group: all are
    admitted, or none.

    A group with a pod that is marked as not retriable ends with its last pod and frees its quota,
    whatever became of it. A ring on claims is not marked: it waits in the queue again after it was
    preempted.
    """
    if not plan.queue:
        return {}, {}
    labels = {f"{KUEUE}/queue-name": plan.queue, f"{KUEUE}/pod-group-name": plan.owner}
    notes = {f"{KUEUE}/pod-group-total-count": str(len(scenario.names))}
    keeps = scenario.custody.enabled and all(map(plan.custody, scenario.names))
    if not keeps or plan.custody_moves == "out":
        notes |= [FINISHING]
    return labels, notes
