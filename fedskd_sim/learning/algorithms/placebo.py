"""Buffers travel and nothing is learned: it tests the machinery. PyTorch is never imported."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from fedskd_sim.learning.base import NOTHING, LearnerContext, LearnerState, Measures, Session
from fedskd_sim.messages import Buffer, Forms, TensorSpec, Weights
from fedskd_sim.records import Measure
from fedskd_sim.ring.topology import Stop
from fedskd_sim.scenario import Placebo
from fedskd_sim.seeds import seed


@dataclass
class PlaceboLearner:
    """A model is one buffer of random bytes; a session waits and hands it on unchanged."""

    context: LearnerContext
    config: Placebo
    _own: Weights = field(default_factory=dict)

    @property
    def expected(self) -> Mapping[str, Forms]:
        """One buffer per hospital."""
        form = {"buffer": TensorSpec("uint8", (self.config.buffer_bytes,))}
        return dict.fromkeys(self.context.scenario.names, (form,))

    def warm_up(self) -> Session:
        """Draw the own buffer."""
        draw = random.Random(seed(self.context.scenario.seed, "placebo", self.context.host))  # noqa: S311 - no secret
        length = self.config.buffer_bytes
        self._own = {"buffer": Buffer("uint8", (length,), draw.randbytes(length))}
        return Session(self._own)

    def alone(self, round_: int) -> Session | None:
        """Do nothing: rounds begin with departures."""

    def depart(self, round_: int) -> Weights:  # noqa: ARG002 - every round is alike
        """Send the own buffer."""
        return self._own

    def visit(self, stop: Stop, arriving: Weights) -> Session:  # noqa: ARG002 - every stop is alike
        """Wait, and hand the buffer on."""
        self.context.pause(self.config.session_seconds)
        return Session(arriving)

    def homecome(self, stop: Stop, arriving: Weights) -> Session:  # noqa: ARG002 - every stop is alike
        """Take the own buffer back."""
        self.context.pause(self.config.session_seconds)
        self._own = {
            name: buffer._replace(data=bytes(buffer.data)) for name, buffer in arriving.items()
        }
        return Session(self._own)

    def assess(self) -> Measures:
        """Measure nothing worth knowing."""
        return {"accuracy": Measure(0.0, 1.0)}

    def evaluate(self, model: str, arriving: Weights | None) -> Measures:  # noqa: ARG002 - every model is alike
        """Measure nothing worth knowing."""
        return {"accuracy": Measure(0.0, 1.0)}

    def ensemble(self) -> Measures | None:
        """Do nothing: no models are kept."""

    def results(self) -> Mapping[str, Weights]:
        """Return the own buffer."""
        return {"": self._own}

    def state(self) -> LearnerState:
        """Return the own buffer."""
        return NOTHING.plus({}, {"home": self._own})

    def restore(self, state: LearnerState) -> None:
        """Go on with the buffer that an earlier life of this hospital had."""
        self._own = state.weights.get("home", {})
