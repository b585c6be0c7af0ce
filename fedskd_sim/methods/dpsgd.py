"""Decentralised parallel SGD, D-PSGD (Lian et al. 2017): every hospital mixes its model with those
of its neighbours and trains the mean.

With V models that came to hospital k in a round, of hospitals N,

    theta_k <- (theta_k + sum_(j in N) theta_j) / (V + 1),

and then a session with the cross-entropy alone. Every model visits V hospitals and every hospital
gets V models, so that rows and columns of the matrix of weights add up to 1, as the paper asks.
"""

from __future__ import annotations

from fedskd_sim import GossipLearner
from fedskd_sim.methods.keys import DPSGD


class MixingLearner(GossipLearner):
    """One hospital's model, which becomes the mean of those that came and trains."""

    keys = DPSGD
    config: DPSGD
