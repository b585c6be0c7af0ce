"""Federated averaging without a server: a ring all-reduce (reduce-scatter, then all-gather) of the weighted models.

The float tensors of all hospitals' models, times their numbers of training samples n_k, are one vector each, cut into K chunks.
Chunk k sets out at hospital k; at each of K-1 hops the host adds its own; then the sum goes round, and everybody divides it by the
sum of n_k: theta = sum_k (n_k / n) theta_k (McMahan et al. 2017). All hospitals end with the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor, nn

from fedskd_sim.learning.base import Measures, Session, Ward
from fedskd_sim.learning.session import Pupils, Term
from fedskd_sim.learning.site import Site, drift
from fedskd_sim.learning.weights import FLOATS, buffer_of, export, snapshot, tensor_of
from fedskd_sim.messages import Forms, TensorSpec, Weights
from fedskd_sim.ring import Ring, Stop
from fedskd_sim.scenario import Averaging, FedProx
from fedskd_sim.seeds import seed

SUM, COUNT = "sum", "count"


class AveragingLearner:
    """One hospital's copy of the common model; what travels are chunks of sums."""

    def __init__(self, site: Site, mu: float) -> None:
        """Look up what the common model looks like; nothing is loaded or trained yet."""
        self.site, self._mu = site, mu
        self._ring = Ring.of(site.scenario)
        specs = site.specs()
        length = sum(prod(shape) for dtype, shape in next(iter(specs.values())).values() if dtype in FLOATS)
        self._cuts = [length * index // self._ring.size for index in range(self._ring.size + 1)]
        self.expected: Mapping[str, Forms] = {
            name: (spec, {SUM: TensorSpec("float32", (high - low,)), COUNT: TensorSpec("float64", (1,))})
            for (name, spec), low, high in zip(specs.items(), self._cuts, self._cuts[1:], strict=False)
        }
        self._model: nn.Module
        self._chunks: dict[str, Tensor] = {}
        self._measures: Measures = {}
        self._assessed = False

    def warm_up(self) -> Session:
        """Load the data and draw the common initial model; nothing is trained."""
        self.site.settle()
        self._model = self.site.first(seed(self.site.scenario.seed, "initial weights"))
        self._assessed = True
        return Session(snapshot(self._model))

    def alone(self, round_: int) -> Session | None:
        """Train the common model on the own data for a session."""
        self.site.settle()
        before = snapshot(self._model)
        course = self.site.course(self.site.passes(self.site.training.epochs), self.site.seed("session", round_))
        anchors = [parameter.detach().clone() for parameter in self._model.parameters()] if self._mu else []
        teaching = (lambda _: self._proximal(anchors)) if self._mu else None
        session = self.site.session(Pupils({"": self._model}), course, teaching)
        self._measures, self._assessed = drift(before, session.weights), True
        return session

    def depart(self, round_: int) -> Weights:
        """Give the own chunk of the own weighted model; for the evaluation, the common model."""
        if round_ > self._ring.rounds:
            return snapshot(self._model)
        self._chunks = {}
        return self._packed(self._own(self.site.name) * self._samples, self._samples)

    def visit(self, stop: Stop, arriving: Weights) -> Session:
        """Add the own share to a sum on its way, or take a finished one in."""
        self.site.settle()
        if stop.kind == "reduce":
            total = tensor_of(arriving[SUM]) + self._own(stop.model) * self._samples
            arriving = self._packed(total, float(tensor_of(arriving[COUNT])) + self._samples)
        if stop.kind == "gather" or stop.hop == self._ring.size - 1:
            self._chunks[stop.model] = tensor_of(arriving[SUM]) / float(tensor_of(arriving[COUNT]))
        if len(self._chunks) == self._ring.size:
            self._install(torch.cat([self._chunks[name] for name in self._ring.hospitals]))
        return Session(arriving, "passed")

    def homecome(self, stop: Stop, arriving: Weights) -> Session:  # noqa: ARG002 - never called
        """Raise RuntimeError: sums do not come home."""
        raise RuntimeError(stop.model)

    def assess(self) -> Measures:
        """Measure the model on the host's validation data, if it has changed since."""
        if not self._assessed:
            return {}
        self.site.settle()
        measures, self._measures, self._assessed = self._measures, {}, False
        return {**self.site.validated(self._model), **measures}

    def evaluate(self, model: str, arriving: Weights | None) -> Measures:
        """Measure a model, or the own one, on the host's test data."""
        self.site.settle()
        return self.site.tested(self._model if arriving is None else self.site.made(model, arriving))

    def council(self) -> Measures | None:
        """Do nothing: no models are kept."""

    def results(self) -> Mapping[str, Weights]:
        """Give the common model."""
        return {"": export(self._model)}

    @property
    def _samples(self) -> float:
        return float(len(self.site.data.train.labels))

    def _own(self, chunk: str) -> Tensor:
        """Cut a chunk (length,) out of the own model, float32."""
        index = self._ring.hospitals.index(chunk)
        flat = torch.cat([tensor.reshape(-1).float() for tensor in _floats(self._model)])
        return flat[self._cuts[index] : self._cuts[index + 1]].cpu()

    def _packed(self, total: Tensor, count: float) -> Weights:
        return {SUM: buffer_of(total), COUNT: buffer_of(torch.tensor([count], dtype=torch.float64))}

    @torch.no_grad()
    def _install(self, flat: Tensor) -> None:
        """Write the mean back into the model's float tensors; integer ones stay the hospital's own."""
        place = 0
        for tensor in _floats(self._model):
            tensor.copy_(flat[place : place + tensor.numel()].reshape(tensor.shape))
            place += tensor.numel()
        self._assessed = True

    def _proximal(self, anchors: list[Tensor]) -> Term:
        """Hold all parameters close to the common model: mu / 2 times the squared distance (Li et al. 2020)."""
        pairs = zip(self._model.parameters(), anchors, strict=True)
        value = torch.stack([(now - before).square().sum() for now, before in pairs]).sum()
        return Term(self._mu / 2 * value, {"proximal": value.detach()})


def _floats(model: nn.Module) -> list[Tensor]:
    return [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]


def make(ward: Ward) -> AveragingLearner:
    """Make the learner of one hospital; raises TypeError for a scenario of another algorithm."""
    algorithm = ward.scenario.algorithm
    if not isinstance(algorithm, Averaging):
        raise TypeError(algorithm.name)
    return AveragingLearner(Site(ward), algorithm.mu if isinstance(algorithm, FedProx) else 0.0)
