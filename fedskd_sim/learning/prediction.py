"""What a hospital uses in the end, added to any algorithm: averaged weights, an ensemble of all
models, logit adjustment.

The averaged weights of a model are a mean over its own snapshots. They start as the model after
warm-up and, with its i-th snapshot v, become m + w_i (v - m) with w_i = max(averaging_weight, 1 /
(i + 1)). A traveller's snapshots are taken at home alone: as it comes back, and as its session
there leaves it. They are never sent before the evaluation, for whoever gets a model and its mean
can compute what the model was before. Where nothing warms up (FedAvg, FedProx) they start as the
first average, and i counts the averages after it. They are never trained and never mixed with
another model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedskd_sim.learning.answers import Tested
from fedskd_sim.learning.base import Learner, LearnerContext, LearnerState, Measures, Session
from fedskd_sim.learning.data import Samples, as_input
from fedskd_sim.learning.evaluate import logits_of, measure_adjusted
from fedskd_sim.learning.reconcile import mean
from fedskd_sim.learning.site import Sited
from fedskd_sim.learning.task import PredictionTask
from fedskd_sim.learning.weights import FLOATS, buffer_of, copy_of, join, snapshot, split, tensor_of
from fedskd_sim.messages import Buffer, Forms, Spec, Weights, size
from fedskd_sim.records import Measure
from fedskd_sim.ring.topology import Stop

LAST = "last/"
"""What the tensors of a second set of weights are called on their way: digests in records are taken
over these names."""
ENSEMBLE = "ensemble/"
STATISTICS_BATCH = 256
"""The most samples over which batch normalisation takes its statistics at once."""


class Inner(Sited, Learner, Protocol):
    """A learner of any algorithm, around which `Predicting` adds averaged weights and ensembles."""


class Predicting:
    """A learner around another one; what travels in training rounds is the other's weights."""

    def __init__(self, inner: Inner, context: LearnerContext) -> None:
        """Add the form in which finished models travel."""
        self._inner, self.site, self._settings = inner, inner.site, context.scenario.prediction
        self._topology = context.topology
        circulating = self._topology.pattern == "circulation"
        self._weight = self._settings.least_weight(circulating=circulating)
        self._warms_up = context.scenario.algorithm.warms_up
        self._keeps_last = self._settings.ensemble or self._settings.model in ("last", "mix")
        self.expected: Mapping[str, Forms] = {
            name: self._forms(forms) for name, forms in inner.expected.items()
        }
        self._averaged: Weights = {}
        self._last: Weights | None = None
        self._chosen: Weights | None = None
        self._ensemble: dict[str, Weights] = {}

    def warm_up(self) -> Session:
        """Warm the other up; its model is the first snapshot, if it was trained."""
        session = self._inner.warm_up()
        if self._settings.keeps_averaged and self._warms_up:
            self._averaged = copy_of(session.weights)
        return session

    def alone(self, round_: int) -> Session | None:
        """Train as the algorithm inside does; where nothing travels, keep a snapshot for the
        ensemble.
        """
        session = self._inner.alone(round_)
        if session is not None and self._topology.pattern == "none":
            self._on_snapshot(session.weights, round_)
        return session

    def depart(self, round_: int) -> Weights:
        """Return the other's traveller; for the evaluation, what this hospital predicts with."""
        if round_ <= self._topology.rounds:
            return self._inner.depart(round_)
        self.site.settle()
        chosen = self._decide()
        shown = self._inner.depart(round_) if self._settings.model == "reconciled" else chosen
        if self._settings.ensemble:
            self._ensemble[self.site.name] = self._last or self._inner.results()[""]
            return join(shown, LAST, self._ensemble[self.site.name])
        return shown

    def visit(self, stop: Stop, arriving: Weights) -> Session:
        """Train the other with a visitor, or add to its sum."""
        session = self._inner.visit(stop, arriving)
        if stop.kind == "gather" and stop.hop == self._topology.hops(stop.round)[-1]:
            self._on_snapshot(self._inner.results()[""], stop.round)
        return session

    def homecome(self, stop: Stop, arriving: Weights) -> Session:
        """Take the traveller home as the algorithm inside does, and into the mean as it came and as
        its session left it.
        """
        came = copy_of(arriving) if self._settings.keeps_averaged else {}
        session = self._inner.homecome(stop, arriving)
        self._last = session.returned if self._keeps_last else None
        if came:
            snapshots = [came, session.returned] if session.returned else [came]
            for place, weights in enumerate(snapshots, 1):
                self._on_snapshot(weights, len(snapshots) * (stop.round - 1) + place)
        return session

    def assess(self) -> Measures:
        """Measure the models of the last session as the algorithm inside does."""
        return self._inner.assess()

    def evaluate(self, model: str, arriving: Weights | None) -> Measures:
        """Measure what a hospital predicts with on the host's test data, and keep its finished
        model for the ensemble.
        """
        self.site.settle()
        if arriving is None:
            network = self.site.build(model, self._decide())
        else:
            weights, finished = self._unpack(arriving)
            if self._settings.ensemble:
                self._ensemble[model] = copy_of(finished)
            network = self.site.receive(model, weights)
        self.site.note_final(model, network)
        return self._measure(
            ("evaluation", model), logits_of(network, self.site.data.test.images), [network]
        )

    def _unpack(self, arriving: Weights) -> tuple[Weights, Weights]:
        """Return what a model predicts with and its last weights. One whose home is lost comes as
        it travels in training rounds: nobody has chosen for it.
        """
        shown, finished = split(arriving, LAST)
        return shown, finished or shown

    def ensemble(self) -> Measures | None:
        """Average the probabilities of all finished models: p = (1/K) sum_k softmax(f_k(x))."""
        if not self._settings.ensemble:
            return None
        self.site.settle()
        # where hospitals may be lost a model may have retired; elsewhere none may be missing
        heals, members = self.site.scenario.on_loss.heals, self.site.scenario.members
        names = [name for name in members if name in self._ensemble or not heals]
        networks = [self.site.build(name, self._ensemble[name]) for name in names]
        for name, network in zip(names, networks, strict=True):
            if name != self.site.name:  # which is tested with its own
                self.site.with_own_buffers(name, network)
        kept = sum(map(size, self._ensemble.values()))
        counted = {"models": len(networks), "kept_bytes": kept}
        cost = {name: Measure(float(value), 1.0) for name, value in counted.items()}
        logits = together(networks, self.site.data.test, self.site.task)
        return {**self._measure(("ensemble", self.site.name), logits, networks), **cost}

    def results(self) -> Mapping[str, Weights]:
        """Return what the hospital predicts with, the ensemble's models as ``ensemble.NAME``."""
        rest = {name: weights for name, weights in self._inner.results().items() if name}
        kept = {f"ensemble.{name}": weights for name, weights in self._ensemble.items()}
        return {"": self._decide(), **rest, **kept}

    def state(self) -> LearnerState:
        """Add averaged weights, traveller and the ensemble's models to the other's; what the
        hospital predicts with follows from these.
        """
        kept = {ENSEMBLE + name: weights for name, weights in self._ensemble.items()}
        return self._inner.state().plus(
            {}, {"averaged": self._averaged, "last": self._last, **kept}
        )

    def restore(self, state: LearnerState) -> None:
        """Take them back, and let the other take its own."""
        self._inner.restore(state)
        self._averaged, self._last = state.weights.get("averaged", {}), state.weights.get("last")
        kept = {
            name: weights for name, weights in state.weights.items() if name.startswith(ENSEMBLE)
        }
        self._ensemble = {name.removeprefix(ENSEMBLE): weights for name, weights in kept.items()}

    def _forms(self, forms: Forms) -> Forms:
        return (*forms, _with(forms[0], LAST)) if self._settings.ensemble else forms

    def _follow(self, averaged: Weights, current: Weights, count: int) -> Weights:
        weight = max(self._weight, 1 / (count + 1))
        return {name: _move(averaged[name], buffer, weight) for name, buffer in current.items()}

    def _on_snapshot(self, weights: Weights, number: int) -> None:
        """Take a snapshot into the mean; the first one of all where there was no warm-up begins
        it.
        """
        if self._averaged:
            count = number if self._warms_up else number - 1
            self._averaged = self._follow(self._averaged, weights, count)
        elif self._settings.keeps_averaged:
            self._averaged = copy_of(weights)

    def _decide(self) -> Weights:
        """Return the weights that the hospital predicts with, chosen once its last round is over,
        and again after a restart.
        """
        if self._chosen is None:
            self._chosen = self._choose()
        return self._chosen

    def _choose(self) -> Weights:
        home = self._inner.results()[""]
        last = self._last or home
        match self._settings.model:
            case "reconciled":
                return copy_of(home)
            case "last":
                return copy_of(last)
            case "averaged":
                chosen = self._averaged
            case "mix":
                chosen = mean(last, self._averaged)
        # of a user's architecture that draws in training mode
        torch.manual_seed(self.site.seed("running statistics"))
        return snapshot(refresh(self.site.build(self.site.name, chosen), self.site.data.train))

    def _measure(
        self, whose: tuple[Tested, str], logits: Tensor, networks: list[nn.Module]
    ) -> Measures:
        """Measure test predictions, the adjustment taken from predictions on the validation
        data.
        """
        labels = self.site.data.test.labels
        if not len(labels):
            return {}

        def known() -> Tensor:
            return together(networks, self.site.data.validation, self.site.task)

        found = {**self.site.assess(*whose, logits, known)}
        if self._settings.logit_adjustment and len(self.site.data.validation.labels):
            usual = known().softmax(dim=1).mean(dim=0)
            found["balanced_accuracy_adjusted"] = measure_adjusted(
                logits, labels, usual, self._settings.logit_adjustment
            )
        return found


def together(networks: list[nn.Module], samples: Samples, task: PredictionTask) -> Tensor:
    """Return the logits of the networks' mean probabilities, (N, classes) in fp64."""
    chances = torch.stack(
        [task.chances(logits_of(network, samples.images)) for network in networks]
    )
    return task.as_logits(chances.mean(dim=0))


@torch.no_grad()
def refresh(network: nn.Module, train: Samples) -> nn.Module:
    """Take the running statistics of batch normalisation anew from the training data: a mean of
    weights has none of its own.

    Every sample counts as much as any other. The batches are of equal size, but for one sample, and
    each is drawn from all of the data, since rows often lie in the order of their classes. A single
    sample has no spread: the statistics then stay the mean of those that were averaged.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    count = len(train.labels)
    if layers and count > 1:
        usual, seen = [layer.momentum for layer in layers], 0
        where = next(network.parameters(), train.images).device
        for layer in layers:
            layer.reset_running_stats()
        network.train()
        parts = math.ceil(count / STATISTICS_BATCH)
        for images in (train.images[first::parts] for first in range(parts)):
            seen += len(images)
            for layer in layers:
                layer.momentum = len(images) / seen  # so that they are means over samples
            network(as_input(images, where))
        for layer, momentum in zip(layers, usual, strict=True):
            layer.momentum = momentum
    return network.eval()


def _move(averaged: Buffer, current: Buffer, weight: float) -> Buffer:
    if current.dtype not in FLOATS:
        return current._replace(data=bytearray(current.data))
    before = tensor_of(averaged)
    return buffer_of(before + weight * (tensor_of(current) - before))


def _with(spec: Spec, prefix: str) -> Spec:
    return {**spec, **{prefix + name: entry for name, entry in spec.items()}}
