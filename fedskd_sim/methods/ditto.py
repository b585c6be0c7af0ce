"""Ditto (Li et al. 2021): a common model is averaged, and every hospital has a personal one beside
it, which is held close to the common one and is tested.

With theta the common model with which a session begins, v the personal one and s the strength,

    common:    CE, then averaged as in FedAvg
    personal:  CE(v) + s / 2 || v - theta ||^2

on the same batches. v goes on from where its last session has left it, or (``begins: common``)
begins every session at theta. With the latter and strength 0 both sessions are one and the same,
which is taken once: FedAvg whose last session is fine-tuning at home.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from fedskd_sim import AveragingLearner, Kept, Session, Total, install, snapshot
from fedskd_sim.methods.fedprox import ProximalTeaching
from fedskd_sim.methods.keys import Ditto

PERSONAL = "personal"


class PersonalLearner(AveragingLearner):
    """One hospital's copy of the common model, and its personal one."""

    keys = Ditto
    config: Ditto
    personal = Kept[nn.Module]()

    @property
    def tested(self) -> nn.Module:
        """The personal model."""
        return self.personal

    def warm_up(self) -> Session:
        """Begin with two copies of the common initial model."""
        session = super().warm_up()
        self.personal = self.site.build(self.site.name, session.weights)
        return session

    def companions(self) -> Mapping[str, nn.Module]:
        """Train the personal model too, unless it is the common one after its session."""
        return {} if self.config.tunes else {PERSONAL: self.personal}

    def teaching(self, round_: int) -> ProximalTeaching | None:  # noqa: ARG002 - every round is alike
        """Hold the personal model close to the common one as it is before the session."""
        if self.config.tunes:
            return None
        if self.config.begins == "common":
            install(self.personal, snapshot(self.model))
        return ProximalTeaching.of(self.config.strength, self.model, PERSONAL)

    def share(self, round_: int) -> Total:
        """Return the common model; what is fine-tuned is this before it is averaged."""
        if self.config.tunes:
            install(self.personal, snapshot(self.model))
        return super().share(round_)
