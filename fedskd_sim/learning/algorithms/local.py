"""The references that need no ring: every hospital trains alone, on its own data or on
everybody's.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from fedskd_sim.learning.base import LearnerState, Measures, Session
from fedskd_sim.learning.kept import Keeping
from fedskd_sim.learning.sessions.session import SessionModels
from fedskd_sim.learning.sessions.steps import Teaching
from fedskd_sim.learning.site import BEGINNING, Site
from fedskd_sim.learning.weights import drift, export, snapshot, view
from fedskd_sim.messages import Forms, Weights
from fedskd_sim.ring.topology import Stop
from fedskd_sim.scenario import AlgorithmKeys


class LocalLearner(Keeping):
    """One hospital's own model; it travels only to be evaluated.

    A method on this base says by `teaching` what a session adds to the cross-entropy, and by
    `companions` which other models train beside the own one. Take it where nothing is exchanged in
    the rounds; `alone` is then the only session of a round.

    >>> class Held(LocalLearner):
    ...     def teaching(self, round_):
    ...         return lambda step: AddedLoss(step.logits().square().mean(), {})
    """

    keys: type[AlgorithmKeys] = AlgorithmKeys
    """The class of its keys in a scenario."""

    def __init__(self, site: Site, config: AlgorithmKeys) -> None:
        """Look up what every model of the run looks like; nothing is loaded or trained yet."""
        self.site, self.config = site, config
        self.expected: Mapping[str, Forms] = {name: (spec,) for name, spec in site.specs().items()}
        self.model: nn.Module
        self._drift: Measures = {}
        self._assessed = False

    def warm_up(self) -> Session:
        """Load the data and train for the warm-up."""
        self.site.settle()
        self.model = self.site.first(self.site.seed("initial weights"))
        work = self.site.passes(self.site.training.warmup_epochs)
        job = self.site.plan_job(work, self.site.seed("warm-up"), BEGINNING)
        return self.site.note_remarks(self.site.session(SessionModels({"own": self.model}), job))

    def alone(self, round_: int) -> Session | None:
        """Train for a session."""
        self.site.settle()
        before = snapshot(self.model)
        models = SessionModels({"own": self.model, **self.companions()})
        work = self.site.passes(self.site.training.epochs * len(models.by_role))
        job = self.site.plan_job(work, self.session_seed(round_), self.site.during(round_))
        session = self.site.session(models, job, self.teaching(round_))
        self._drift, self._assessed = drift(before, session.weights), False
        return session

    def companions(self) -> Mapping[str, nn.Module]:
        """Return the models that train beside the own one in every session, by role, such as
        ``common``, with which records begin the names of their measures.
        """
        return {}

    def teaching(self, round_: int) -> Teaching | None:  # noqa: ARG002 - here every round is alike
        """Return what is added to the cross-entropies in a round's session; None for nothing."""
        return None

    def session_seed(self, round_: int) -> int:
        """Draw the seed of a round's session."""
        return self.site.seed("session", self.site.name, round_, 0)

    @property
    def tested(self) -> nn.Module:
        """The model that is measured, sets out for the evaluation and is left in the end: the own
        one.
        """
        return self.model

    def changed(self) -> None:
        """Note that the own model was changed outside of a session, so that it is measured anew."""
        self._drift, self._assessed = {}, False

    def depart(self, round_: int) -> Weights:  # noqa: ARG002 - the only departure is to the evaluation
        """Return a copy of the model."""
        return snapshot(self.tested)

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
        return {**self.site.validate(self.tested), **self._drift}

    def evaluate(self, model: str, arriving: Weights | None) -> Measures:
        """Measure a model, or the own one, on the host's test data."""
        self.site.settle()
        return self.site.test(
            model, self.tested if arriving is None else self.site.receive(model, arriving)
        )

    def ensemble(self) -> Measures | None:
        """Do nothing: no models are kept."""

    def results(self) -> Mapping[str, Weights]:
        """Return the final model."""
        return {"": export(self.tested)}

    def state(self) -> LearnerState:
        """Return the model, which has been assessed between steps."""
        held = {"home": view(getattr(self, "model", None))}
        return self.keep(self.site.state().plus({}, held))

    def restore(self, state: LearnerState) -> None:
        """Go on with the model that an earlier life of this hospital had."""
        self.site.restore(state)
        if "home" in state.weights:
            self.model, self._assessed = (
                self.site.build(self.site.name, state.weights["home"]),
                True,
            )
        self.take_back(state, self.site)
