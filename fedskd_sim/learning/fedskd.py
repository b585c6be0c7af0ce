"""FedSKD at one hospital: warm-up, sessions with visitors, homecoming, reconciliation, evaluation.

Circulation after Weng, Cai and Zhou (2025, arXiv 2503.18981); the exact losses and schedules are this project's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import torch
from torch import nn

from fedskd_sim.learning.admission import image_shape, pixel_grid
from fedskd_sim.learning.base import Measures, Session, Ward
from fedskd_sim.learning.data import HospitalData, class_weights, load
from fedskd_sim.learning.distill import SimilarityLoss
from fedskd_sim.learning.evaluate import evaluate
from fedskd_sim.learning.models import blueprint, build
from fedskd_sim.learning.reconcile import FLOATS, reconcile
from fedskd_sim.learning.session import Course, NonFinite, train
from fedskd_sim.learning.weights import export, install, snapshot, spec_of, tensor_of
from fedskd_sim.messages import Spec, Weights
from fedskd_sim.records import Measure
from fedskd_sim.ring import Stop
from fedskd_sim.scenario import FedSKD
from fedskd_sim.seeds import seed


class FedSKDLearner:
    """One hospital's models. ``_home`` is the resident; a visitor lives from its arrival to the next one's."""

    def __init__(self, ward: Ward, config: FedSKD) -> None:
        """Look up what every model of the run looks like; nothing is loaded or trained yet."""
        self._ward, self._config = ward, config
        self._me = ward.scenario.hospital(ward.host)
        self._shape = image_shape(ward.scenario, ward.host, ward.data_folder)
        self.expected: Mapping[str, Spec] = {
            hospital.name: spec_of(blueprint(hospital.architecture, self._shape)) for hospital in ward.scenario.hospitals
        }
        self._home: nn.Module
        self._general: Weights | None = None
        self._visitor: nn.Module | None = None
        self._drift: Measures = {}
        self._arrived: Weights | None = None

    def warm_up(self) -> Session:
        """Load the data and train the own model alone by cross-entropy."""
        self._settle()
        self._home = build(self._me.architecture, self._shape, self._seed("initial weights")).to(self._me.device)
        self._visitor = None
        before = snapshot(self._home)
        course = self._course(self._config.warmup_epochs, self._seed("warm-up"))
        return self._session({"": self._home}, course, None, {"": before})

    def depart(self, round_: int) -> Weights:  # noqa: ARG002 - every round starts from the home model
        """Give a copy of the home model (of the general twin in two_track)."""
        return snapshot(self._home) if self._general is None else self._general

    def visit(self, stop: Stop, arriving: Weights) -> Session:
        """Train visitor and resident together; each learns the other's similarities."""
        self._settle()
        self._visitor = self._made(stop.model, arriving)
        self._arrived = arriving
        course = self._course(self._config.epochs, self._seed("session", stop.model, stop.round, stop.hop))
        models = {"": self._visitor, "resident_": self._home}
        return self._session(models, course, self._similarity, {"": arriving, "resident_": snapshot(self._home)})

    def homecome(self, stop: Stop, arriving: Weights) -> Session:
        """Train resident and returned traveller together, then reconcile them into the next home model."""
        session = self.visit(stop, arriving)
        if self._visitor is None:
            raise RuntimeError(stop.model)
        self._drift = self._drifted(self._visitor)
        validation = len(self._data.validation.labels)
        joined = reconcile(self._config.reconcile, snapshot(self._home), snapshot(self._visitor), self._score, validation)
        install(self._home, joined.home)
        self._general = joined.general
        self._visitor = None
        reason = "; ".join(part for part in (session.reason, joined.note) if part)
        return Session(export(self._home), session.outcome, reason, session.samples, session.steps, session.measures)

    def assess(self) -> Measures:
        """Measure visitor and resident (at home: the reconciled model) on the host's validation data."""
        self._settle()
        if self._visitor is None:
            drift, self._drift = self._drift, {}
            return {**evaluate(self._home, self._data.validation), **drift}
        resident = evaluate(self._home, self._data.validation, "resident_")
        measures = {**evaluate(self._visitor, self._data.validation), **resident, **self._drifted(self._visitor)}
        self._visitor = self._arrived = None
        return measures

    def evaluate(self, model: str, arriving: Weights | None) -> Measures:
        """Measure a model, or the own home model, on the host's test data."""
        self._settle()
        return evaluate(self._home if arriving is None else self._made(model, arriving), self._data.test)

    def results(self) -> Mapping[str, Weights]:
        """Give the final home model, and the general twin of two_track as ``traveller``."""
        home = {"": export(self._home)}
        return home if self._general is None else {**home, "traveller": self._general}

    @cached_property
    def _data(self) -> HospitalData:
        return load(self._ward.scenario, self._me.name, self._ward.data_folder, self._me.device)

    @cached_property
    def _similarity(self) -> SimilarityLoss:
        return SimilarityLoss.of(self._config.similarity, pixel_grid(self._ward.scenario, self._shape))

    def _seed(self, purpose: str, *names: str | int) -> int:
        return seed(self._ward.scenario.seed, purpose, self._me.name, *names)

    def _settle(self) -> None:
        """Fix what the result may depend on besides seeds: the number of threads and deterministic kernels."""
        torch.set_num_threads(self._me.resources.cpu)
        torch.use_deterministic_algorithms(self._me.device == "cpu")

    def _made(self, model: str, weights: Weights) -> nn.Module:
        """Build another hospital's architecture around its weights; no initial values are drawn."""
        network = blueprint(self._ward.scenario.hospital(model).architecture, self._shape)
        network = network.to_empty(device=self._me.device)
        install(network, weights)
        return network

    def _course(self, epochs: int, session_seed: int) -> Course:
        labels, rule = self._data.train.labels, self._config.class_weights
        weights = class_weights(labels, len(self._data.classes), rule)
        return Course(self._data.train, weights, self._config, epochs, session_seed)

    def _session(
        self,
        models: Mapping[str, nn.Module],
        course: Course,
        similarity: SimilarityLoss | None,
        before: Mapping[str, Weights],
    ) -> Session:
        """Train; if anything is not finite, put every model back to what it was before."""
        try:
            tally = train(models, course, similarity)
        except NonFinite as problem:
            for prefix, model in models.items():
                install(model, before[prefix])
            return Session(before[""], "rolled_back", str(problem))
        return Session(export(models[""]), samples=tally.samples, steps=tally.steps, measures=tally.sums)

    def _score(self, weights: Weights) -> float:
        network = self._made(self._me.name, weights)
        measures = evaluate(network, self._data.validation)
        return measures["balanced_accuracy"].mean if measures else 0.0

    def _drifted(self, model: nn.Module) -> Measures:
        """Relative Euclidean change of the float tensors since the model arrived."""
        if self._arrived is None:
            return {}
        moved = length = 0.0
        for name, now in export(model).items():
            if now.dtype in FLOATS:
                before = tensor_of(self._arrived[name]).double()
                moved += float((tensor_of(now).double() - before).square().sum())
                length += float(before.square().sum())
        return {"drift": Measure((moved / length) ** 0.5 if length else 0.0, 1.0)}


def make(ward: Ward) -> FedSKDLearner:
    """Make the learner of one hospital; raises TypeError for a scenario of another algorithm."""
    if not isinstance(ward.scenario.algorithm, FedSKD):
        raise TypeError(ward.scenario.algorithm.name)
    return FedSKDLearner(ward, ward.scenario.algorithm)
