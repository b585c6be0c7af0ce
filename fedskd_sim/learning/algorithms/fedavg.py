"""Federated averaging without a server: theta = sum_k (n_k / n) theta_k (McMahan et al. 2017) over
a ring all-reduce.

The float tensors of a hospital's model, times its number of training samples n_k, are its share of
the sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn

from fedskd_sim.learning.algorithms.allreduce import RingSum
from fedskd_sim.learning.base import LearnerContext, LearnerState, Measures, Session
from fedskd_sim.learning.sessions.session import SessionModels
from fedskd_sim.learning.sessions.steps import AddedLoss, Moment, TrainingStep
from fedskd_sim.learning.site import Site
from fedskd_sim.learning.weights import FLOATS, drift, export, snapshot, view
from fedskd_sim.messages import Forms, Spec, Weights
from fedskd_sim.ring.topology import Stop
from fedskd_sim.scenario import Averaging, FedProx
from fedskd_sim.seeds import seed


class AveragingLearner:
    """One hospital's copy of the common model; what travels are chunks of sums."""

    def __init__(self, site: Site, mu: float) -> None:
        """Look up what the common model looks like; nothing is loaded or trained yet."""
        self.site, self._mu = site, mu
        self._rounds = site.scenario.algorithm.rounds
        specs = site.specs()
        self._sum = RingSum(site.context.topology, site.name, floats_in(next(iter(specs.values()))))
        self.expected: Mapping[str, Forms] = {
            name: (spec, self._sum.form(name)) for name, spec in specs.items()
        }
        self._model: nn.Module
        self._measures: Measures = {}
        self._assessed = False

    def warm_up(self) -> Session:
        """Load the data and draw the common initial model; nothing is trained."""
        self.site.settle()
        self._model = self.site.first(seed(self.site.scenario.seed, "initial weights"))
        self._assessed = True
        return self.site.note_remarks(Session(snapshot(self._model)))

    def alone(self, round_: int) -> Session | None:
        """Train the common model on the own data for a session."""
        self.site.settle()
        before = snapshot(self._model)
        job = self.site.plan_job(
            self.site.passes(self.site.training.epochs), self.site.seed("session", round_)
        )
        teaching = ProximalTeaching.of(self._mu, self._model) if self._mu else None
        session = self.site.session(SessionModels({"": self._model}), job, teaching)
        self._measures, self._assessed = drift(before, session.weights), True
        return session

    def depart(self, round_: int) -> Weights:
        """Begin the sum of the weighted models; for the evaluation, give the common model."""
        if round_ > self._rounds:
            return snapshot(self._model)
        return self._sum.begin(flat(self._model) * self._samples, self._samples)

    def visit(self, stop: Stop, arriving: Weights) -> Session:
        """Add the own share to a sum on its way, or take a finished one in."""
        self.site.settle()
        leaving = self._sum.visit(stop, arriving)
        total = self._sum.total
        if total is not None:
            install_flat(self._model, total.vector / total.weight)
            self._assessed = True
        return Session(leaving, "passed")

    def homecome(self, stop: Stop, arriving: Weights) -> Session:  # noqa: ARG002 - never called
        """Raise RuntimeError, which would be a bug: shares of a sum are added up around the ring,
        and no model of this hospital ever comes back.
        """
        raise RuntimeError(stop.model)

    def assess(self) -> Measures:
        """Measure the model on the host's validation data, if it has changed since."""
        if not self._assessed:
            return {}
        self.site.settle()
        measures, self._measures, self._assessed = self._measures, {}, False
        return {**self.site.validate(self._model), **measures}

    def evaluate(self, model: str, arriving: Weights | None) -> Measures:
        """Measure a model, or the own one, on the host's test data."""
        self.site.settle()
        return self.site.test(
            model, self._model if arriving is None else self.site.receive(model, arriving)
        )

    def ensemble(self) -> Measures | None:
        """Do nothing: no models are kept."""

    def results(self) -> Mapping[str, Weights]:
        """Return the common model."""
        return {"": export(self._model)}

    def state(self) -> LearnerState:
        """Return the common model, and a sum that is under way."""
        return self.site.state().plus(
            {}, {"home": view(getattr(self, "_model", None)), **self._sum.groups()}
        )

    def restore(self, state: LearnerState) -> None:
        """Go on with the common model and the sum that an earlier life of this hospital had."""
        self.site.restore(state)
        self._sum.restore(state.weights)
        if "home" in state.weights:
            self._model = self.site.build(self.site.name, state.weights["home"])

    @property
    def _samples(self) -> float:
        return float(len(self.site.data.train.labels))


@dataclass(frozen=True, slots=True)
class ProximalTeaching:
    """All parameters are held close to the common model: mu / 2 times the squared distance (Li
    et al. 2020).
    """

    mu: float
    anchors: Sequence[Tensor]
    """The common model's parameters before the session."""

    @classmethod
    def of(cls, mu: float, model: nn.Module) -> ProximalTeaching:
        """Remember a model's parameters as the point from which the session must not stray."""
        return cls(mu, [parameter.detach().clone() for parameter in model.parameters()])

    def __call__(self, step: TrainingStep) -> AddedLoss:
        """Return mu/2 times the squared distance of the parameters from where the session began (Li
        et al. 2020).
        """
        pairs = zip(step.models[""].parameters(), self.anchors, strict=True)
        value = torch.stack([(now - before).square().sum() for now, before in pairs]).sum()
        return AddedLoss(self.mu / 2 * value, {"proximal": value.detach()})

    def kind(self, moment: Moment) -> None:
        """Give None: every step runs the same operations, so that one recording serves all."""

    def tensors(self) -> Sequence[Tensor]:
        """List the parameters from which the distance is taken, which a recorded step reads too."""
        return self.anchors

    def apart(self) -> ProximalTeaching:
        """Copy this with its anchors, so that a recorded step has memory of its own."""
        return replace(self, anchors=[anchor.clone() for anchor in self.anchors])


def floats_in(spec: Spec) -> int:
    """Count the float numbers of a model."""
    return sum(prod(shape) for dtype, shape in spec.values() if dtype in FLOATS)


def flat(model: nn.Module) -> Tensor:
    """Return a model's float tensors in a row, (length,) float32, a copy."""
    return torch.cat([tensor.reshape(-1).float() for tensor in _floats(model)])


@torch.no_grad()
def install_flat(model: nn.Module, vector: Tensor) -> None:
    """Write the result of `flat` back into a model; integer tensors stay as they are."""
    for tensor, part in zip(
        _floats(model), vector.split([tensor.numel() for tensor in _floats(model)]), strict=True
    ):
        tensor.copy_(part.reshape(tensor.shape))


def _floats(model: nn.Module) -> list[Tensor]:
    return [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]


def make(context: LearnerContext) -> AveragingLearner:
    """Make the learner of one hospital; raises TypeError for a scenario of another algorithm."""
    algorithm = context.scenario.algorithm
    if not isinstance(algorithm, Averaging):
        raise TypeError(algorithm.name)
    return AveragingLearner(Site(context), algorithm.mu if isinstance(algorithm, FedProx) else 0.0)
