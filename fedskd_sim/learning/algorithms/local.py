"""The references that need no ring: every hospital trains alone, on its own data or on
everybody's.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from fedskd_sim.errors import InvalidValue
from fedskd_sim.learning.base import LearnerContext, LearnerState, Measures, Session
from fedskd_sim.learning.sessions.session import SessionModels
from fedskd_sim.learning.sessions.steps import Teaching
from fedskd_sim.learning.site import Site
from fedskd_sim.learning.weights import drift, export, snapshot, view
from fedskd_sim.messages import Forms, Weights
from fedskd_sim.ring.topology import Stop
from fedskd_sim.scenario import Local, Pooled


class LocalLearner:
    """One hospital's own model; it travels only to be evaluated."""

    def __init__(self, site: Site) -> None:
        """Look up what every model of the run looks like; nothing is loaded or trained yet."""
        self.site = site
        self.expected: Mapping[str, Forms] = {name: (spec,) for name, spec in site.specs().items()}
        self.model: nn.Module
        self._drift: Measures = {}
        self._assessed = False

    def warm_up(self) -> Session:
        """Load the data and train for the warm-up."""
        self.site.settle()
        self.model = self.site.first(self.site.seed("initial weights"))
        job = self.site.plan_job(
            self.site.passes(self.site.training.warmup_epochs), self.site.seed("warm-up")
        )
        return self.site.note_remarks(self.site.session(SessionModels({"": self.model}), job))

    def alone(self, round_: int) -> Session | None:
        """Train for a session."""
        self.site.settle()
        return self.run_session(round_, SessionModels({"": self.model}))

    def run_session(
        self, round_: int, models: SessionModels, teaching: Teaching | None = None
    ) -> Session:
        """Train the own model, and whoever is beside it, for ``training.epochs`` passes each;
        its drift is assessed with it.
        """
        before = snapshot(self.model)
        job = self.site.plan_job(
            self.site.passes(self.site.training.epochs * len(models.by_role)),
            self.site.seed("session", self.site.name, round_, 0),
        )
        session = self.site.session(models, job, teaching)
        self._drift, self._assessed = drift(before, session.weights), False
        return session

    def depart(self, round_: int) -> Weights:  # noqa: ARG002 - the only departure is to the evaluation
        """Return a copy of the model."""
        return snapshot(self.model)

    def visit(self, stop: Stop, arriving: Weights) -> Session:  # noqa: ARG002 - never called
        """Raise RuntimeError: nobody visits."""
        raise RuntimeError(stop.model)

    homecome = visit

    def assess(self) -> Measures:
        """Measure the model on the host's validation data, if it has changed since."""
        self.site.settle()
        if self._assessed:
            return {}
        self._assessed = True
        return {**self.site.validate(self.model), **self._drift}

    def evaluate(self, model: str, arriving: Weights | None) -> Measures:
        """Measure a model, or the own one, on the host's test data."""
        self.site.settle()
        return self.site.test(
            model, self.model if arriving is None else self.site.receive(model, arriving)
        )

    def ensemble(self) -> Measures | None:
        """Do nothing: no models are kept."""

    def results(self) -> Mapping[str, Weights]:
        """Return the final model."""
        return {"": export(self.model)}

    def state(self) -> LearnerState:
        """Return the model, which has been assessed between steps."""
        return self.site.state().plus({}, {"home": view(getattr(self, "model", None))})

    def restore(self, state: LearnerState) -> None:
        """Go on with the model that an earlier life of this hospital had."""
        self.site.restore(state)
        if "home" in state.weights:
            self.model, self._assessed = (
                self.site.build(self.site.name, state.weights["home"]),
                True,
            )


def make(context: LearnerContext) -> LocalLearner:
    """Make the learner of one hospital.

    Raises:
        TypeError: a scenario in which models travel.
        InvalidValue: data would be pooled where hospitals are processes of their own.

    """
    if not isinstance(context.scenario.algorithm, Local | Pooled):
        raise TypeError(context.scenario.algorithm.name)
    if isinstance(context.scenario.algorithm, Pooled) and context.own_process:
        text = "'pooled' puts all hospitals' data into one place, and here hospitals are apart"
        raise InvalidValue(
            text,
            fix="it is a reference, no federation: launch it with --on memory",
            key=("algorithm", "name"),
        )
    return LocalLearner(Site(context))
