"""Circulation at one hospital: warm-up, sessions with visitors, homecoming, reconciliation,
evaluation.

FedSKD, and what differs from it only in who trains and who teaches: circulation, mutual, cyclic.
Circulation after Weng, Cai and Zhou (2025, arXiv 2503.18981); the exact losses and schedules are
this project's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from fedskd_sim.learning import instruments
from fedskd_sim.learning.base import LearnerState, Measures, Session
from fedskd_sim.learning.kept import Keeping
from fedskd_sim.learning.reconcile import Reconciled, reconcile
from fedskd_sim.learning.sessions.session import SessionModels
from fedskd_sim.learning.sessions.steps import Exchange, Teaching
from fedskd_sim.learning.site import BEGINNING, Site
from fedskd_sim.learning.weights import drift, export, install, snapshot, view
from fedskd_sim.messages import Forms, Weights
from fedskd_sim.records import LEAVING
from fedskd_sim.ring.topology import Stop
from fedskd_sim.scenario import AlgorithmKeys, CirculationKeys, FedSKD


class CirculatingLearner(Keeping):
    """Base of methods whose models circulate: a visitor and the resident train together at every
    stop.

    Override `teaching` for what visitor and resident learn from each other, `join` for what home
    does with its returned traveller, or `visit` and `homecome` as a whole. ``self.home`` is the
    resident, ``self.site`` the hospital (a `Site`). A visitor is kept until the next one arrives.
    """

    keys: type[AlgorithmKeys] = CirculationKeys
    """The class of its keys in a scenario; ``circulating`` of it says how models circulate."""

    def __init__(self, site: Site, config: AlgorithmKeys) -> None:
        """Look up what every model of the run looks like; nothing is loaded or trained yet."""
        self.site, self.config = site, config
        how: FedSKD | None = getattr(config, "circulating", None)
        if how is None:
            raise TypeError(f"{config.name}: its keys are no subclass of CirculationKeys")
        self._config = how
        config = how
        self.expected: Mapping[str, Forms] = {name: (spec,) for name, spec in site.specs().items()}
        self._similarity = site.similarity(config.similarity)
        held = config.similarity.with_weights(config.self_distillation)
        self._self_similarity = None if held.off else site.similarity(held)
        self.home: nn.Module
        self._general: Weights | None = None
        self._visitor: nn.Module | None = None
        self._arrived: Weights | None = None
        self._departed: Weights | None = None
        self._model = site.name
        self._drift: Measures = {}
        self._unspent = 0.0

    def warm_up(self) -> Session:
        """Load the data, draw initial weights, and train the own model by cross-entropy for
        ``training.warmup_epochs``.
        """
        self.site.settle()
        self.home = self.site.first(self.site.seed("initial weights"))
        work = self.site.passes(self.site.training.warmup_epochs)
        job = self.site.plan_job(work, self.site.seed("warm-up"), BEGINNING)
        session = self.site.session(SessionModels({"own": self.home}), job)
        self._drift = self._probe_leaving()
        return self.site.note_remarks(session)

    def alone(self, round_: int) -> Session | None:
        """Return None: a round begins with the departures."""

    def depart(self, round_: int) -> Weights:
        """Return a copy of the home model, or the traveller as it came home if the two are kept
        apart. For the evaluation it is the home model, except with ``reconcile: two_track``.
        """
        returns = round_ <= self._config.rounds
        apart = self._general if returns or self._config.reconcile == "two_track" else None
        leaving = snapshot(self.home if returns else self.tested) if apart is None else apart
        self._departed = leaving if returns and self.site.scenario.instruments.changes else None
        return leaving

    def visit(self, stop: Stop, arriving: Weights) -> Session:
        """Train the visitor beside the resident, with `teaching` added to the cross-entropies."""
        self.site.settle()
        self._visitor, self._arrived = self.site.visitor(stop.model, arriving)
        self._model = stop.model
        budget = (
            self.site.passes(self.site.training.epochs * self._config.stop_work) + self._unspent
        )
        seed = self.site.seed("session", stop.model, stop.round, stop.hop)
        job = self.site.plan_job(budget, seed, self.site.during(stop.round, stop.hop))
        teaches = self._config.mutual_kl > 0 or not self._config.similarity.off
        models = SessionModels(
            {"visitor": self._visitor, "resident": self.home}, self._config.resident_every, teaches
        )
        held = self._visitor, self.home, self._similarity
        before = instruments.similarity(self.site, *held)
        session = self.site.session(models, job, self.teaching(stop, self._arrived), self._arrived)
        if before and (after := instruments.similarity(self.site, *held)):
            at = stop.round, stop.hop, stop.model
            pair, validation = (before, after), self.site.data.validation
            self.site.similarities.keep(at, pair, validation, self._similarity)
        if session.outcome == "trained":
            self._unspent = 0.0 if session.early else budget - session.samples
            self.site.keep_buffers(stop.model, self._visitor)
        return session

    def homecome(self, stop: Stop, arriving: Weights) -> Session:
        """Train with the returned traveller, then reconcile it and the resident by `join`. If it
        was the only copy (``schedule.mode: sequential``), just take it back.
        """
        if self._config.schedule.mode == "sequential":
            return self._take_back(stop, arriving)
        session = self.visit(stop, arriving)
        if self._visitor is None or self._arrived is None:
            raise RuntimeError(stop.model)
        returned = snapshot(self._visitor)
        came = self.site.validate(self.site.build(stop.model, self._arrived), "returned_")
        net = drift(self._departed, returned, "net_drift") if self._departed else {}
        self._drift = {**self._changes(), **net, **came}
        validation = len(self.site.data.validation.labels)
        joined = self.join(snapshot(self.home), returned, validation)
        install(self.home, joined.home)
        apart = self._config.traveller_start == "own" and self._config.reconcile != "replace"
        self._general = returned if apart else joined.general
        self._drift = {**self._drift, **self._probe_leaving()}
        self._visitor = self._arrived = self._departed = None
        reason = "; ".join(part for part in (session.reason, joined.note) if part)
        return replace(session, weights=export(self.home), reason=reason, returned=returned)

    def join(self, resident: Weights, traveller: Weights, validation: int) -> Reconciled:
        """Return the next home model, made of the resident and the returned traveller as
        ``algorithm.reconcile`` says. ``validation`` is the number of validation samples.
        """
        return reconcile(self._config.reconcile, resident, traveller, self.site.score, validation)

    def _take_back(self, stop: Stop, arriving: Weights) -> Session:
        """Make the traveller that came home the home model, without a session: where one model at a
        time travels there is no resident with which to reconcile it.
        """
        self.site.settle()
        install(self.home, arriving)
        self.site.context.receive_buffers.drop(stop.model)
        net = drift(self._departed, arriving, "net_drift") if self._departed else {}
        came = self.site.validate(self.home, "returned_")
        self._drift = {**net, **came, **self._probe_leaving()}
        self._visitor = self._arrived = self._departed = None
        return Session(arriving, "passed")

    def assess(self) -> Measures:
        """Measure visitor and resident, or at home the reconciled model, on the host's validation
        data.
        """
        self.site.settle()
        if self._visitor is None or self._arrived is None:
            moved, self._drift = self._drift, {}
            return {**self.site.validate(self.home), **moved}
        resident = self.site.validate(self.home, "resident_") if self._config.resident_every else {}
        known = instruments.probe(self.site, self._visitor)
        measures = {**self.site.validate(self._visitor), **resident, **self._changes(), **known}
        self._visitor = self._arrived = None
        return measures

    def _changes(self) -> Measures:
        """Measure what the session changed in the visitor."""
        if self._visitor is None or self._arrived is None:
            return {}
        return {
            **drift(self._arrived, export(self._visitor)),
            **instruments.change(self.site, self._model, self._arrived, self._visitor),
        }

    def _probe_leaving(self) -> Measures:
        """Measure the model that sets out next, if it is not the home's, which is measured anyway;
        and what it knows of all hospitals, where that is wanted.
        """
        if self._general is None:
            return instruments.probe(self.site, self.home, LEAVING)
        leaving = self.site.build(self.site.name, self._general)
        return {
            **self.site.validate(leaving, "leaving_"),
            **instruments.probe(self.site, leaving, LEAVING),
        }

    @property
    def tested(self) -> nn.Module:
        """The model that is tested at home, departs for the evaluation and is saved at the end: the
        resident unless overridden.
        """
        return self.home

    def evaluate(self, model: str, arriving: Weights | None) -> Measures:
        """Measure an arriving model, or the own home model if None arrives, on the host's test
        data.
        """
        self.site.settle()
        return self.site.test(
            model, self.tested if arriving is None else self.site.receive(model, arriving)
        )

    def ensemble(self) -> Measures | None:
        """Return None: no models are kept."""

    def results(self) -> Mapping[str, Weights]:
        """Return the final home model under '', and a traveller that is kept apart from it under
        ``traveller``.
        """
        home = {"": export(self.tested)}
        return home if self._general is None else {**home, "traveller": self._general}

    def state(self) -> LearnerState:
        """Return the resident, a traveller that is kept apart or has departed, the work left over
        from sessions, and attributes declared as `Kept`.
        """
        models = {
            "home": view(getattr(self, "home", None)),
            "general": self._general,
            "departed": self._departed,
        }
        return self.keep(self.site.state().plus({"unspent": self._unspent}, models))

    def restore(self, state: LearnerState) -> None:
        """Continue with the models, the work left over and the attributes of a state."""
        self.site.restore(state)
        if "home" in state.weights:
            self.home = self.site.build(self.site.name, state.weights["home"])
        self._general, self._departed = state.weights.get("general"), state.weights.get("departed")
        self._unspent = state.numbers["unspent"]
        self.take_back(state, self.site)

    def teaching(self, stop: Stop, arriving: Weights) -> Teaching | None:
        """Return a function that is called in every step at a stop, and returns the `AddedLoss`:
        the terms of FedSKD to which the scenario gives a weight. ``arriving`` are the visitor's
        weights on arrival.
        """
        held = self._self_similarity is not None or self._config.self_distillation.kl > 0
        past = self.site.build(stop.model, arriving).eval() if held else None
        settings = self._config.similarity
        return Exchange(
            self._similarity,
            self._config.mutual_kl,
            settings.ramp,
            past,
            self._self_similarity,
            self._config.self_distillation.kl,
        )
