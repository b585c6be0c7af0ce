"""The references that need no ring: every hospital trains alone, on its own data or on everybody's."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from fedskd_sim.errors import InvalidValue
from fedskd_sim.learning.base import Measures, Session, Ward
from fedskd_sim.learning.session import Pupils
from fedskd_sim.learning.site import Site, drift
from fedskd_sim.learning.weights import export, snapshot
from fedskd_sim.messages import Forms, Weights
from fedskd_sim.ring import Stop
from fedskd_sim.scenario import Local, Pooled


class LocalLearner:
    """One hospital's own model; it travels only to be evaluated."""

    def __init__(self, site: Site) -> None:
        """Look up what every model of the run looks like; nothing is loaded or trained yet."""
        self.site = site
        self.expected: Mapping[str, Forms] = {name: (spec,) for name, spec in site.specs().items()}
        self._model: nn.Module
        self._drift: Measures = {}

    def warm_up(self) -> Session:
        """Load the data and train for the warm-up."""
        self.site.settle()
        self._model = self.site.first(self.site.seed("initial weights"))
        return self._train(self.site.training.warmup_epochs, self.site.seed("warm-up"))

    def alone(self, round_: int) -> Session | None:
        """Train for a session."""
        self.site.settle()
        before = snapshot(self._model)
        session = self._train(self.site.training.epochs, self.site.seed("session", self.site.name, round_, 0))
        self._drift = drift(before, session.weights)
        return session

    def depart(self, round_: int) -> Weights:  # noqa: ARG002 - the only departure is to the evaluation
        """Give a copy of the model."""
        return snapshot(self._model)

    def visit(self, stop: Stop, arriving: Weights) -> Session:  # noqa: ARG002 - never called
        """Raise RuntimeError: nobody visits."""
        raise RuntimeError(stop.model)

    homecome = visit

    def assess(self) -> Measures:
        """Measure the model on the host's validation data."""
        self.site.settle()
        return {**self.site.validated(self._model), **self._drift}

    def evaluate(self, model: str, arriving: Weights | None) -> Measures:
        """Measure a model, or the own one, on the host's test data."""
        self.site.settle()
        return self.site.tested(self._model if arriving is None else self.site.made(model, arriving))

    def council(self) -> Measures | None:
        """Do nothing: no models are kept."""

    def results(self) -> Mapping[str, Weights]:
        """Give the final model."""
        return {"": export(self._model)}

    def _train(self, epochs: int, session_seed: int) -> Session:
        return self.site.session(Pupils({"": self._model}), self.site.course(self.site.passes(epochs), session_seed))


def make(ward: Ward) -> LocalLearner:
    """Make the learner of one hospital.

    Raises:
        TypeError: a scenario in which models travel.
        InvalidValue: data would be pooled where hospitals are processes of their own.

    """
    if not isinstance(ward.scenario.algorithm, Local | Pooled):
        raise TypeError(ward.scenario.algorithm.name)
    if isinstance(ward.scenario.algorithm, Pooled) and ward.own_process:
        text = "'pooled' puts all hospitals' data into one place, and here hospitals are apart"
        raise InvalidValue(text, fix="it is a reference, no federation: launch it with --on memory", key=("algorithm", "name"))
    return LocalLearner(Site(ward))
