"""What an audited run keeps: what models say of a hospital's samples before and after they were
there.

Weights are not kept. At each stop the host asks the model that came and the model that leaves: so
much the next hospital, or two neighbours together, can ask as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from fedskd_sim.learning.answers import write_arrays
from fedskd_sim.learning.base import Learner, LearnerContext, LearnerState, Measures, Session
from fedskd_sim.learning.canaries import Coins, make, toss
from fedskd_sim.learning.data import Samples
from fedskd_sim.learning.evaluate import logits_of
from fedskd_sim.learning.prediction import LAST, Inner
from fedskd_sim.messages import Buffer, Weights
from fedskd_sim.privacy.attacks import LEFT_OUT, MEMBER, OUTSIDER, PUT_IN
from fedskd_sim.privacy.losses import FINAL, FOLDER, SCHEMA
from fedskd_sim.ring.topology import Stop

BEFORE, AFTER, LOSS = "before", "after", "loss"


class Auditing:
    """A learner around another one, which does all the work: this one asks models before and after
    what they think of the hospital's samples, and keeps their losses.

    ``around`` is what a run would have without an audit, ``inner`` the algorithm in it.
    """

    def __init__(self, around: Learner, inner: Inner, context: LearnerContext) -> None:
        """Nothing is asked yet."""
        self._around, self._inner, self.site = around, inner, inner.site
        self._scenario, self._topology = context.scenario, context.topology
        algorithm = context.scenario.algorithm
        self._sums = algorithm.averages and not algorithm.personal
        self._asked: list[tuple[int, int, str, str]] = []
        """Of each stop: round, hop, model, and what it was."""
        self._losses: dict[str, Weights] = {}

    @property
    def expected(self) -> Mapping[str, tuple[Mapping[str, object], ...]]:
        """The forms in which the other's models travel."""
        return self._around.expected

    def warm_up(self) -> Session:
        """Warm the other up."""
        return self._around.warm_up()

    def alone(self, round_: int) -> Session | None:
        """Train as the other does; where its model is added up, two neighbours see what it was
        and what it has become.
        """
        before = self._ask(self.site.name, self._inner.results()[""]) if self._sums else None
        session = self._around.alone(round_)
        if session is not None and before is not None:
            after = self._ask(self.site.name, session.weights)
            self._note((round_, 0, self.site.name, "alone"), before, after)
        return session

    def depart(self, round_: int) -> Weights:
        """Return the other's model that goes, and ask it: it has trained at home."""
        leaving = self._around.depart(round_)
        if round_ > self._topology.rounds:
            self._ask_finished(self.site.name, leaving)
        after = self._ask(self.site.name, leaving)
        if after is None:
            return leaving
        last = next((one for one in reversed(self._asked) if one[3] == "home"), None)
        if last is not None and AFTER not in self._losses[_group(last)]:
            self._losses[_group(last)] = {**self._losses[_group(last)], AFTER: after}
        elif round_ <= self._topology.rounds:
            self._note((round_, 0, self.site.name, "departure"), None, after)
        return leaving

    def visit(self, stop: Stop, arriving: Weights) -> Session:
        """Train the other with a visitor, which is asked as it comes and as it leaves."""
        before = self._ask(stop.model, arriving)
        session = self._around.visit(stop, arriving)
        if before is not None:
            after = self._ask(stop.model, session.weights)
            self._note((stop.round, stop.hop, stop.model, "visit"), before, after)
        return session

    def homecome(self, stop: Stop, arriving: Weights) -> Session:
        """Take the traveller home; what becomes of it is asked when it departs."""
        before = self._ask(stop.model, arriving)
        session = self._around.homecome(stop, arriving)
        if before is not None:
            self._note((stop.round, stop.hop, stop.model, "home"), before, None)
        return session

    def assess(self) -> Measures:
        """Measure the models of the last session as the other does."""
        return self._around.assess()

    def evaluate(self, model: str, arriving: Weights | None) -> Measures:
        """Measure a finished model as the other does, and ask it; the own one was as it left."""
        if arriving is not None:
            self._ask_finished(model, arriving)
        return self._around.evaluate(model, arriving)

    def ensemble(self) -> Measures | None:
        """Measure all finished models together as the other does."""
        return self._around.ensemble()

    def results(self) -> Mapping[str, Weights]:
        """Return the other's final weights."""
        return self._around.results()

    def state(self) -> LearnerState:
        """Add what was asked to the other's."""
        return self._around.state().plus({"audit": [[*one] for one in self._asked]}, self._losses)

    def restore(self, state: LearnerState) -> None:
        """Go on with what an earlier life has asked."""
        self._around.restore(state)
        self._asked = [
            (int(round_), int(hop), model, kind)
            for round_, hop, model, kind in state.numbers["audit"]
        ]
        self._losses = {
            name: group for name, group in state.weights.items() if name.startswith(f"{FOLDER}/")
        }

    def save_losses(self, run: Path) -> None:
        """Write what was kept into a run folder, ``audit/NAME.npz``: the same bytes in every life.

        Arrays: ``groups`` (N,), as `fedskd_sim.privacy.attacks` numbers them; ``rounds``, ``hops``,
        ``models`` and ``kinds`` of S stops; ``before`` and ``after`` (S, N), float32, NaN where
        nothing is known; ``finals`` (M, N) of ``final_models`` and ``final_kinds``; and whose run
        it was.
        """
        count = len(self._groups)
        asked = [self._losses[_group(one)] for one in self._asked]
        finals = sorted(name.split("/") for name, group in self._losses.items() if LOSS in group)
        arrays: dict[str, object] = {
            "schema": SCHEMA,
            "scenario": self._scenario.name,
            "seed": self._scenario.seed,
            "host": self.site.name,
            "groups": self._groups,
            "rounds": np.array([one[0] for one in self._asked], np.int64),
            "hops": np.array([one[1] for one in self._asked], np.int64),
            "models": np.array([one[2] for one in self._asked], np.str_),
            "kinds": np.array([one[3] for one in self._asked], np.str_),
            "before": _rows([one.get(BEFORE) for one in asked], count),
            "after": _rows([one.get(AFTER) for one in asked], count),
            "finals": _rows([self._losses["/".join(one)][LOSS] for one in finals], count),
            "final_models": np.array([model for _, _, model in finals], np.str_),
            "final_kinds": np.array([kind for _, kind, _ in finals], np.str_),
        }
        write_arrays(run / FOLDER / f"{self.site.name}.npz", arrays)

    def _ask_finished(self, model: str, weights: Weights) -> None:
        """Ask a model that everybody gets, and with an ensemble its last weights."""
        for kind, prefix in ((FINAL, ""), ("last", LAST)):
            asked = self._ask(model, weights, prefix)
            if asked is not None:
                self._losses[f"{FOLDER}/{kind}/{model}"] = {LOSS: asked}

    def _note(
        self, where: tuple[int, int, str, str], before: Buffer | None, after: Buffer | None
    ) -> None:
        known = {BEFORE: before, AFTER: after}
        self._asked = [*self._asked, where]
        self._losses[_group(where)] = {name: one for name, one in known.items() if one is not None}

    @cached_property
    def _coins(self) -> Coins:
        return toss(self._scenario, self.site.name, len(self.site.data.classes))

    @cached_property
    def _parts(self) -> list[Samples]:
        """Members, outsiders and canaries, in this order."""
        data, coins = self.site.data, self._coins
        count = len(data.train.labels) - int(coins.put_in.sum())
        members = Samples(data.train.images[:count], data.train.labels[:count])
        outside = [data.validation, data.test]
        if self._scenario.instruments.evaluate_on == "validation":
            del outside[0]  # both are the same
        bare = replace(data, train=members)
        canaries = [make(bare, coins, self._scenario, self.site.name)] if len(coins.labels) else []
        return [members, *outside, *canaries]

    @cached_property
    def _groups(self) -> NDArray[np.int8]:
        drawn = np.where(self._coins.put_in, PUT_IN, LEFT_OUT)
        members, *rest = (len(part.labels) for part in self._parts)
        outside = sum(rest) - len(drawn)
        found = np.concatenate((np.full(members, MEMBER), np.full(outside, OUTSIDER), drawn))
        return found.astype(np.int8)

    def _ask(self, model: str, weights: Weights, prefix: str = "") -> Buffer | None:
        """Return the loss of each sample, (N,) float32; None if these are not a model's weights."""
        names = self._specs[model]
        if any(prefix + name not in weights for name in names):
            return None
        self.site.settle()
        network = self.site.build(model, {name: weights[prefix + name] for name in names})
        parts = [
            cross_entropy(logits_of(network, part.images).float(), part.labels, reduction="none")
            for part in self._parts
            if len(part.labels)
        ]
        found = torch.cat(parts).cpu().numpy()
        return Buffer("float32", found.shape, found.tobytes())

    @cached_property
    def _specs(self) -> Mapping[str, list[str]]:
        return {model: [*spec] for model, spec in self.site.specs().items()}


def _group(where: tuple[int, int, str, str]) -> str:
    return "/".join((FOLDER, *map(str, where)))


def _rows(buffers: list[Buffer | None], count: int) -> NDArray[np.float32]:
    """Return losses as rows, (len(buffers), count)."""
    rows = [
        np.full(count, np.nan, np.float32) if one is None else np.frombuffer(one.data, np.float32)
        for one in buffers
    ]
    return np.stack(rows) if rows else np.zeros((0, count), np.float32)
