"""Decentralised federated learning by mutual knowledge transfer, Def-KT (Li et al. 2020): a model
visits one hospital, and both learn from each other; the host keeps its own, and the visitor is
forgotten.

With visitor v, resident l and their predictions p, sg = stop-gradient, w the scenario's weight:

    visitor:   CE(v) + w KL(sg p_l || p_v)
    resident:  CE(l) + w KL(sg p_v || p_l)
"""

from __future__ import annotations

from fedskd_sim import CirculatingLearner, Session, Stop, snapshot
from fedskd_sim.methods.fml import MutualTeaching
from fedskd_sim.methods.keys import DefKT

RESIDENT = "resident"


class TransferLearner(CirculatingLearner):
    """One hospital's model, which learns from visitors and forgets what comes home."""

    keys = DefKT
    config: DefKT

    def teaching(self, stop: Stop, arriving: object) -> MutualTeaching:  # noqa: ARG002 - all stops are alike
        """Let visitor and resident teach each other."""
        return MutualTeaching(self.config.weight, RESIDENT)

    def homecome(self, stop: Stop, arriving: object) -> Session:  # noqa: ARG002 - what came is forgotten
        """Keep the resident."""
        return Session(snapshot(self.home), "passed")
