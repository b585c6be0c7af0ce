"""A common head on models of different architecture, FedGH (Yi et al. 2023): the head is trained on
the class means of all hospitals, and every model goes on with it.

The representation r of a sample is what enters the head of its hospital's model, so that all heads
must have one form. Hospital k has the mean representation r_kc of its training samples of class c,
and all hospitals get all of them. Each takes the same steps on the same numbers, so that no server
is needed: the mean over all (k, c) of the cross-entropy

    CE(head(r_kc), c)

is made smaller, beginning with the head of the round before, and replaces the head of the own
model. Sessions have the cross-entropy alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from fedskd_sim import AllReduceLearner, Kept, Total
from fedskd_sim.methods.fedtgp import (
    Network,
    class_means,
    descend,
    gathered,
    gathered_length,
    in_slot,
)
from fedskd_sim.methods.keys import FedGH

WEIGHT, BIAS = "weight", "bias"


class CommonHeadLearner(AllReduceLearner):
    """One hospital's own model with the common head; what travels are chunks of all hospitals'
    class means.
    """

    keys = FedGH
    config: FedGH
    server = Kept[Mapping[str, Tensor] | None](None)
    """The common head, float64, from the first round on."""

    @cached_property
    def _head(self) -> str:
        """The name of the own model's head."""
        return self._head_of(self.site.name)

    def _head_of(self, hospital: str) -> str:
        part = self.site.part(self.site.scenario.architecture(hospital), "head")
        return min(part).rpartition(".")[0]

    @cached_property
    def _width(self) -> int:
        """The length of a representation."""
        return int(self.site.specs()[self.site.name][f"{self._head}.{WEIGHT}"].shape[1])

    @property
    def length(self) -> int:
        """As many as the means of all classes of all hospitals."""
        return gathered_length(self.site, self._width)

    def share(self, round_: int) -> Total:  # noqa: ARG002 - every round is alike
        """Return the class means of the representations in the hospital's own slot."""
        return in_slot(
            self.site, class_means(self._representations(), self.site.shape.classes, self._width)
        )

    def take(self, total: Total) -> None:
        """Train the common head on the class means of all, and go on with it."""
        means, has = gathered(self.site, total, self._width)
        labels = has.nonzero()[:, 1]

        def loss(head: Network) -> Tensor:
            return cross_entropy(linear(means[has], head[WEIGHT], head.get(BIAS)), labels)

        head = self.server or self._first()
        self.server = descend(head, loss, self.config.server_steps, self.config.server_rate)
        with torch.no_grad():
            for name, tensor in self.model.get_submodule(self._head).named_parameters():
                tensor.copy_(self.server[name])
        self.changed()

    def _first(self) -> Network:
        """Draw the head of the first hospital from a seed that all have."""
        first = self.site.scenario.members[0]
        drawn = self.site.initialise(
            self.site.scenario.architecture(first), self.site.common_seed("initial head")
        ).get_submodule(self._head_of(first))
        return {name: one.detach().cpu().double() for name, one in drawn.named_parameters()}

    def _representations(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what enters the head (B, width), and the labels, of the training samples."""
        entered: list[Tensor] = []
        head = self.model.get_submodule(self._head)
        hook = head.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0].detach()))
        try:
            for _, labels in self.site.outputs(self.model, self.site.data.train):
                yield entered.pop(), labels
        finally:
            hook.remove()
