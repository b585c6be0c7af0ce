"""Which hospitals that were lost may be taken in again in a cluster.

On a claim any pod of a hospital goes on from what the one before it kept. Without one, only the
pod with which the run began has what the hospital had: another one, which its Job makes, would
begin anew under its name, and train what its records say is trained already. A word does not say
from which pod it comes, so the cluster is asked which ones there are, when a hospital asks to be
taken in and again just before it is: whoever speaks has been there before it spoke.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kubernetes.client.exceptions import ApiException

from fedskd_sim import clock
from fedskd_sim.errors import FedskdError
from fedskd_sim.runtimes.kubernetes.cluster import Cluster
from fedskd_sim.runtimes.kubernetes.pod_tracker import PodTracker
from fedskd_sim.runtimes.kubernetes.pods import ENDED, UID

AGAIN_S = 10.0
"""After a question that the API server did not answer, how long it is not asked again: the run
waits for the answer."""


@dataclass
class Returners:
    """Compares the pods of lost hospitals with those that took part."""

    cluster: Cluster
    pod_tracker: PodTracker
    _unanswered: float | None = field(default=None, init=False)

    def may_return(self, name: str) -> bool | None:
        """Tell whether a lost hospital that was heard is the one that was lost, with all that it
        had; None: that cannot be seen now, or its pod is about to go.
        """
        if name in self.pod_tracker.survivors:
            return True
        if self._unanswered is not None and clock.now() < self._unanswered + AGAIN_S:
            return None
        try:
            pods = self.cluster.pods_now(name)
        except (FedskdError, ApiException):
            self._unanswered = clock.now()
            return None
        return same_pod(pods, (self.pod_tracker.took_part or {}).get(name, ""))


def same_pod(pods: Sequence[Any], first: str) -> bool | None:
    """Tell whether of a hospital's pods (V1Pod) only the one runs whose identity begins like this;
    None while it is about to go, or another runs beside it.
    """
    alive = [pod for pod in pods if pod.status.phase not in ENDED]
    if not first or not any(pod.metadata.uid[:UID] == first for pod in alive):
        return False
    return True if len(alive) == 1 and not alive[0].metadata.deletion_timestamp else None
