"""A network, a reader, a loss and a method of one's own, in one file beside the scenario."""

import numpy as np
from torch import nn

from fedskd_sim import (
    AddedLoss,
    CirculatingLearner,
    CirculationKeys,
    Cohort,
    Schedule,
    Session,
    Taps,
    algorithm,
    architecture,
    divergence,
    loss,
    reader,
    snapshot,
)


@architecture("two-layers")
class TwoLayers(nn.Module):
    """Two convolutions; their maps are what similarity compares."""

    def __init__(self, channels, image_size, classes, *, width=8):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, 2, 1)
        self.second = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, images):
        mid = self.first(images).relu()
        deep = self.second(mid).relu()
        return self.head(deep.mean((2, 3))), Taps(mid, deep)


@reader("discs")
def discs(folder=None, *, patients=240, size=16):
    """Draw patients of three clinics: a disc, small or large. Yours would read ``folder``."""
    draw = np.random.default_rng(0)
    large = draw.integers(0, 2, patients)
    radius = np.where(large, 6.0, 3.5) + draw.normal(0, 0.8, patients)
    x, y = np.mgrid[:size, :size] - (size - 1) / 2
    noise = draw.normal(0, 30, (patients, size, size))
    discs = 90 * (np.hypot(x, y) < radius[:, None, None]) + 60 + noise
    return Cohort(
        samples=discs.clip(0, 255).astype(np.uint8),
        labels=[("small", "large")[one] for one in large],
        sites=[("aachen", "bonn", "calw")[one % 3] for one in range(patients)],
        ids=[f"patient-{one}" for one in range(patients)],
    )


@loss("focal", replaces=True, one_label=True)
def focal(step, role, *, gamma=2.0):
    """Return the focal loss (Lin et al. 2017) in the place of the cross-entropy."""
    chosen = step.logits(role).log_softmax(1).gather(1, step.labels[:, None])[:, 0]
    return -((1 - chosen.exp()) ** gamma * chosen).mean()


class DefKTKeys(CirculationKeys):
    """Decentralised federated learning by mutual knowledge transfer (Li et al. 2020)."""

    temperature: float = 1.0
    """Softens both predictions."""
    schedule: Schedule = Schedule(order="shuffled", visits=1)
    """Every model visits one other hospital in a round, which is drawn."""

    @property
    def words(self):
        """Say what happens, for reports."""
        return "Every model visits one hospital; both learn from each other, the host's is kept."

    def work(self, size):
        """Return the work of a round: a visit, at which two models train."""
        return 2.0


@algorithm("my-def-kt")
class DefKT(CirculatingLearner):
    """The host's model learns from a visitor, which is then forgotten."""

    keys = DefKTKeys

    def teaching(self, stop, arriving):
        """Let visitor and resident learn each other's predictions."""
        return self.exchange

    def exchange(self, step):
        """Return both divergences."""
        visitor, resident = step.outputs["visitor"], step.outputs["resident"]
        heat = self.config.temperature
        soft = [one._replace(logits=one.logits / heat) for one in (visitor, resident)]
        there, back = divergence(soft[1], soft[0]), divergence(soft[0], soft[1])
        return AddedLoss(there + back, {"from_resident": there.detach()})

    def homecome(self, stop, arriving):
        """Keep the own model, and forget what comes back."""
        return Session(snapshot(self.home), "passed")
