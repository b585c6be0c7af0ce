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
    """Base of methods in which nothing is exchanged in the rounds. Every hospital trains a model of
    its own, which travels only to be evaluated. `alone` is the only session of a round.

    Override `teaching` to add a term to the cross-entropy, and `companions` to train other models
    beside the own one. The own model is ``self.model``, the hospital ``self.site`` (a `Site`).

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
        """Load the data, draw initial weights, and train for ``training.warmup_epochs``."""
        self.site.settle()
        self.model = self.site.first(self.site.seed("initial weights"))
        work = self.site.passes(self.site.training.warmup_epochs)
        job = self.site.plan_job(work, self.site.seed("warm-up"), BEGINNING)
        return self.site.note_remarks(self.site.session(SessionModels({"own": self.model}), job))

    def alone(self, round_: int) -> Session | None:
        """Train the own model and its companions for ``training.epochs``."""
        self.site.settle()
        before = snapshot(self.model)
        models = SessionModels({"own": self.model, **self.companions()})
        work = self.site.passes(self.site.training.epochs * len(models.by_role))
        job = self.site.plan_job(work, self.session_seed(round_), self.site.during(round_))
        session = self.site.session(models, job, self.teaching(round_))
        self._drift, self._assessed = drift(before, session.weights), False
        return session

    def companions(self) -> Mapping[str, nn.Module]:
        """Return the models that train beside the own one in every session, by role. A role such as
        ``common`` is the prefix of their measures in records.
        """
        return {}

    def teaching(self, round_: int) -> Teaching | None:  # noqa: ARG002 - here every round is alike
        """Return a function that is called in every step of a round's session, and returns the
        `AddedLoss`; None for nothing.
        """
        return None

    def session_seed(self, round_: int) -> int:
        """Draw the seed of a round's session."""
        return self.site.seed("session", self.site.name, round_, 0)

    @property
    def tested(self) -> nn.Module:
        """The model that is measured, departs for the evaluation and is saved at the end: the own
        one unless overridden.
        """
        return self.model

    def changed(self) -> None:
        """Call this after a change of the own model outside of a session, to have it measured."""
        self._drift, self._assessed = {}, False

    def depart(self, round_: int) -> Weights:  # noqa: ARG002 - the only departure is to the evaluation
        """Return a copy of the tested model."""
        return snapshot(self.tested)

    def visit(self, stop: Stop, arriving: Weights) -> Session:  # noqa: ARG002 - never called
        """Raise RuntimeError: nobody visits."""
        raise RuntimeError(stop.model)

    homecome = visit

    def assess(self) -> Measures:
        """Measure the tested model on the host's validation data. Return nothing if it has not
        changed since the last time.
        """
        self.site.settle()
        if self._assessed:
            return {}
        self._assessed = True
        return {**self.site.validate(self.tested), **self._drift}

    def evaluate(self, model: str, arriving: Weights | None) -> Measures:
        """Measure an arriving model, or the own one if None arrives, on the host's test data."""
        self.site.settle()
        return self.site.test(
            model, self.tested if arriving is None else self.site.receive(model, arriving)
        )

    def ensemble(self) -> Measures | None:
        """Return None: no models are kept."""

    def results(self) -> Mapping[str, Weights]:
        """Return the tested model's weights under ''."""
        return {"": export(self.tested)}

    def state(self) -> LearnerState:
        """Return the own model, and attributes declared as `Kept`."""
        held = {"home": view(getattr(self, "model", None))}
        return self.keep(self.site.state().plus({}, held))

    def restore(self, state: LearnerState) -> None:
        """Continue with the model and attributes of a state."""
        self.site.restore(state)
        if "home" in state.weights:
            self.model, self._assessed = (
                self.site.build(self.site.name, state.weights["home"]),
                True,
            )
        self.take_back(state, self.site)
