"""What a hospital with private patients keeps of its own: the key of its coins and noise, and what
it has spent.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedskd_sim.errors import BudgetSpent, InvalidValue
from fedskd_sim.learning.data import Samples
from fedskd_sim.learning.sessions import private
from fedskd_sim.learning.sessions.private import KEY_BYTES, Guard, Units
from fedskd_sim.learning.sessions.session import RunningSums, SessionModels, TrainingJob
from fedskd_sim.learning.sessions.steps import Teaching
from fedskd_sim.privacy import accountant
from fedskd_sim.records import PrivateNumber
from fedskd_sim.ring.topology import Topology
from fedskd_sim.scenario import Privacy, Scenario, undoing
from fedskd_sim.seeds import seed

PRIVATE = "private"
"""Under this name custody holds what must outlive a death."""
UNCOVERED = "validation and test figures are not covered by it"


class Spent(Exception):
    """A session would spend more than there is."""


@dataclass
class Spending:
    """The privacy of one hospital: how it trains, with which key, and what it has spent."""

    scenario: Scenario
    topology: Topology
    host: str
    privacy: Privacy
    queries: int = 0
    """Noised sums that left its sessions so far."""
    secret: bytes = b""
    _guard: Guard | None = None
    _noise: float | None = None

    def __post_init__(self) -> None:
        """Draw the key, or derive it from the scenario's seed; `restore` brings an earlier one.

        Raises:
            InvalidValue: the scenario lets out what is neither clipped nor noised.

        """
        for error in undoing(self.scenario):
            raise error
        if self.privacy.key == "scenario":
            number = seed(self.scenario.seed, "privacy key", self.host)
            self.secret = number.to_bytes(KEY_BYTES, "big")
        else:
            self.secret = secrets.token_bytes(KEY_BYTES)

    def state(self) -> Mapping[str, Any]:
        """Return what must outlive a death; a secret key is among it, for custody alone."""
        kept = {"queries": self.queries, "noise": self._noise}
        return kept | ({"key": self.secret.hex()} if self.privacy.key == "secret" else {})

    def restore(self, numbers: Mapping[str, Any]) -> None:
        """Continue with what `state` gave."""
        self.queries, self._noise = numbers["queries"], numbers["noise"]
        if "key" in numbers:
            self.secret = bytes.fromhex(numbers["key"])

    def guard(self, samples: Samples) -> Guard:
        """Return what makes sessions on the training samples private.

        Raises:
            InvalidValue: nobody knows whose the samples are, or as `fedskd_sim.privacy.accountant`.

        """
        if self._guard is None:
            units = Units.find(samples, self.privacy.unit)
            if units is None:
                raise no_subjects(self.scenario, self.host)
            self._guard = self._make(units, len(samples.labels))
        return self._guard

    def _make(self, units: Units, samples: int) -> Guard:
        rule = accountant.rule_of(self.scenario, self.host, units.number)
        if self._noise is None:  # a death need not solve for it again
            planned = accountant.plan(
                self.scenario, self.topology, self.host, units.number, samples
            )
            self._noise = planned.rule.noise
        rule = rule._replace(noise=self._noise)
        return Guard(units, rule, self.privacy.clip, self.secret)

    def train(
        self, models: SessionModels, job: TrainingJob, teaching: Teaching | None
    ) -> RunningSums:
        """Train privately, and count what that spends, also where it comes to nothing.

        Raises:
            Spent: the budget does not suffice, and visitors are to go on untrained.
            BudgetSpent: it does not suffice, and the run is to end.
            NonFinite: as a session.

        """
        guard = self.guard(job.samples)
        planned = private.count_steps(models, job, guard.rule)
        self._pay(guard.rule, planned.queries)
        key = private.session_key(self.secret, job, models)
        return private.train(models, job, teaching, guard._replace(key=key), planned)

    def _pay(self, rule: accountant.Rule, asked: int) -> None:
        """Count queries before anything is trained: what is undone has been asked, too."""
        limit = self.privacy.limit
        if limit is not None:
            after = rule.epsilon(self.queries + asked)
            if after is None or after > limit:
                text = f"the budget of epsilon {limit:g} is spent"
                text += f": {self.queries} queries, and {asked} more would spend {after:.4g}"
                if self.privacy.spent == "pass":
                    raise Spent(text)
                fix = "allow more, or set spent: pass, and visitors go on untrained"
                raise BudgetSpent(f"{self.host!r}: {text}", fix=fix)
        self.queries += asked

    def numbers(self, samples: Samples) -> Mapping[PrivateNumber, int | float | None]:
        """Return what a session's record says."""
        return accountant.numbers(self.guard(samples).rule, self.privacy.clip, self.queries)

    def words(self, samples: Samples) -> str:
        """Describe for a record what is private, and what is not."""
        rule = self.guard(samples).rule
        said = f"private: {rule.units} {self.privacy.unit}s, clip {self.privacy.clip:g}"
        if not rule.noise:
            return f"{said}, no noise: clipped alone, no guarantee"
        said += f", noise {rule.noise:.4g}, delta {rule.delta:.2g}; {UNCOVERED}"
        if self.privacy.key == "scenario":
            said += "; key is scenario: a simulation of privacy, no guarantee"
        return said


def no_subjects(scenario: Scenario, host: str) -> InvalidValue:
    """Make the error of a hospital whose patients nobody can tell apart."""
    text = f"'patient' cannot be used: the data of {host!r} does not say whose its samples are"
    fix = "set privacy.unit: sample, if every sample is of another patient; or name the patients"
    key = ("hospitals", scenario.names.index(host), "privacy", "unit")
    return InvalidValue(text, fix=fix, key=key)
