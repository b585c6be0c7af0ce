"""Gossip: in a round every hospital gets the models of several others, then makes its own of all,
and trains it. Models of one architecture travel as where they circulate, and nobody trains them on
the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fedskd_sim.learning import instruments
from fedskd_sim.learning.algorithms.fedavg import flat, install_flat
from fedskd_sim.learning.algorithms.fedskd import CirculatingLearner
from fedskd_sim.learning.base import Measures, Session
from fedskd_sim.learning.kept import Kept
from fedskd_sim.learning.sessions.session import SessionModels
from fedskd_sim.learning.sessions.steps import Teaching
from fedskd_sim.learning.site import BEGINNING
from fedskd_sim.learning.weights import drift, snapshot
from fedskd_sim.messages import Weights
from fedskd_sim.ring.topology import Stop
from fedskd_sim.scenario import AlgorithmKeys, GossipKeys


class GossipLearner(CirculatingLearner):
    """Base of methods in which hospitals mix their model with those of several others.

    Override `mix` for another mean, or `teaching` to add a term to the cross-entropy. All begin
    with the same initial weights. `homecome` is the only session of a round. The own model is
    ``self.home``, the hospital ``self.site`` (a `Site`).
    """

    keys: type[AlgorithmKeys] = GossipKeys
    arrived = Kept[Mapping[str, Tensor]]({})
    """The models of the others that came in this round, as `flat` has them, by their hospitals."""
    _mixed = False
    """Whether the own model has been trained since it was measured last."""

    def warm_up(self) -> Session:
        """Load the data, draw the common initial weights, and train for
        ``training.warmup_epochs``.
        """
        self.site.settle()
        self.home = self.site.first(self.site.common_seed("initial weights"))
        work = self.site.passes(self.site.training.warmup_epochs)
        job = self.site.plan_job(work, self.site.seed("warm-up"), BEGINNING)
        session = self.site.session(SessionModels({"own": self.home}), job)
        self._drift, self._mixed = self._probe_leaving(), True
        return self.site.note_remarks(session)

    def visit(self, stop: Stop, arriving: Weights) -> Session:
        """Keep a copy of another's model, and let it go on as it came."""
        self.site.settle()
        network, came = self.site.visitor(stop.model, arriving)
        self.arrived = {**self.arrived, stop.model: flat(network).cpu()}
        return Session(came, "passed")

    def homecome(self, stop: Stop, arriving: Weights) -> Session:  # noqa: ARG002 - the own model is here
        """Mix the own model with all that came, by `mix`, and train it for ``training.epochs``."""
        self.site.settle()
        before = snapshot(self.home)
        chosen = self.site.scenario.architecture(self.site.name)
        mixed = self.mix(flat(self.home).cpu(), dict(sorted(self.arrived.items())))
        install_flat(self.home, mixed, buffers=chosen.buffers == "travel")
        work = self.site.passes(self.site.training.epochs)
        seed = self.site.seed("session", stop.round)
        job = self.site.plan_job(work, seed, self.site.during(stop.round))
        session = self.site.session(
            SessionModels({"own": self.home}), job, self.teaching(stop, before)
        )
        self.arrived, self._mixed = {}, True
        self._drift = {
            **drift(before, session.weights),
            **instruments.change(self.site, self.site.name, before, self.home),
            **self._probe_leaving(),
        }
        self._departed = None
        return replace(session, returned=snapshot(self.home))

    def mix(self, own: Tensor, arrived: Mapping[str, Tensor]) -> Tensor:
        """Return what the own model becomes, of its floats (length,) and those of the models that
        came, by the names of their hospitals, sorted: the mean of all, unless overridden.
        """
        return torch.stack([own, *arrived.values()]).mean(dim=0)

    def teaching(self, stop: Stop, arriving: Weights) -> Teaching | None:  # noqa: ARG002 - nothing is taught
        """Return a function that is called in every step at home, and returns the `AddedLoss`;
        None: the cross-entropy alone. ``arriving`` is the own model before it was mixed.
        """
        return None

    def assess(self) -> Measures:
        """Measure the own model after its session; nothing where another came by."""
        if not self._mixed:
            return {}
        self._mixed = False
        return super().assess()
