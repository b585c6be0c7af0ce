"""Sessions that end early: who trains is measured on the host's validation data after every pass,
and leaves as it was after its best one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import nn

from fedskd_sim.learning.data import Samples
from fedskd_sim.learning.evaluate import logits_of
from fedskd_sim.learning.task import PredictionTask
from fedskd_sim.learning.weights import install, snapshot
from fedskd_sim.messages import Weights
from fedskd_sim.records import Measure


class Watched:
    """The models that train in a session, and each as it was after its best pass.

    The loss is that of the task, without weights of classes and without what is added to it. What
    a model was before the session does not count: a visitor that is never better than it came
    would go on as if it had not been there.
    """

    def __init__(
        self,
        learners: Mapping[str, nn.Module],
        validation: Samples,
        task: PredictionTask,
        patience: int,
        steps: int,
    ) -> None:
        """Have measured nothing yet; a pass has so many ``steps``."""
        self._learners, self._validation, self._task = learners, validation, task
        self._patience, self._steps, self._passes = patience, steps, 0
        self._lowest = dict.fromkeys(learners, math.inf)
        self._best: dict[str, tuple[int, Weights]] = {}

    def measures_after(self, step: int, total: int) -> bool:
        """Return whether a pass is over after so many steps, or the session is."""
        return step % self._steps == 0 or step == total

    def ends(self) -> bool:
        """Measure who trains, and return whether nobody was better for too many passes."""
        self._passes += 1
        for role, model in self._learners.items():
            loss = self._loss(model)
            if loss < self._lowest[role]:
                self._lowest[role] = loss
                self._best[role] = self._passes, snapshot(model)
        latest = max((best for best, _ in self._best.values()), default=0)
        return self._passes - latest >= self._patience

    def _loss(self, model: nn.Module) -> float:
        logits = logits_of(model, self._validation.images).double()
        return float(self._task.loss(logits, self._validation.labels, None))

    def settle(self, *, early: bool) -> str:
        """Make each model what it was after its best pass, and say so if the session ended before
        its time.
        """
        for role, (_, weights) in self._best.items():
            install(self._learners[role], weights)
        return f"ended early, after {self._passes} passes" if early else ""

    def measures(self) -> Mapping[str, Measure]:
        """Return what is recorded of the session: its ``passes``, and by role the ``best_pass``,
        counted from 1, which of the first model has no prefix.
        """
        first = next(iter(self._learners))
        found = {"passes": Measure(float(self._passes), 1.0)}
        for role, (best, _) in self._best.items():
            prefix = "" if role == first else f"{role}_"
            found[f"{prefix}best_pass"] = Measure(float(best), 1.0)
        return found
