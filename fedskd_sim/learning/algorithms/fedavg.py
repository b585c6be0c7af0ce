"""Federated averaging without a server: theta = sum_k (n_k / n) theta_k (McMahan et al. 2017) over
a ring all-reduce.

The float tensors of a hospital's model, times its number of training samples n_k, are its share of
the sum.
"""

from __future__ import annotations

from collections.abc import Container

import torch
from torch import Tensor, nn

from fedskd_sim.learning.algorithms.allreduce import AllReduceLearner, Total
from fedskd_sim.learning.base import Session
from fedskd_sim.learning.weights import buffers_of, floats_in, install_some, snapshot
from fedskd_sim.scenario import AveragingKeys


class AveragingLearner(AllReduceLearner):
    """Base of methods with one common model, averaged after every session with the numbers of
    training samples as weights (McMahan et al. 2017).

    Override `teaching` to add a term to the cross-entropy, or `share` and `take` for another mean.
    """

    keys = AveragingKeys

    @property
    def length(self) -> int:
        """The number of the common model's floats, buffers included."""
        return floats_in(next(iter(self.site.specs().values())))

    def warm_up(self) -> Session:
        """Load the data and draw the common initial weights. Nothing is trained."""
        self.site.settle()
        self.model = self.site.first(self.site.common_seed("initial weights"))
        return self.site.note_remarks(Session(snapshot(self.model)))

    def session_seed(self, round_: int) -> int:
        """Draw the seed of a round's session."""
        return self.site.seed("session", round_)

    def share(self, round_: int) -> Total:  # noqa: ARG002 - every round is alike
        """Return the model's floats times the number of training samples, and that number."""
        samples = float(len(self.site.data.train.labels))
        return Total(flat(self.model) * samples, samples)

    def take(self, total: Total) -> None:
        """Write the weighted mean into the own copy of the model."""
        chosen = self.site.scenario.architecture(self.site.name)
        install_flat(self.model, total.vector / total.weight, buffers=chosen.buffers == "travel")
        self.changed()


def flat(model: nn.Module, *, names: Container[str] | None = None) -> Tensor:
    """Return a copy of a model's float tensors as one vector (length,), float32, on the model's
    device, in the order of its ``state_dict``. With ``names`` only the tensors of these names.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> install_flat(model, torch.tensor([1.0, 2.0]))
    >>> flat(model)
    tensor([1., 2.])

    """
    return torch.cat([tensor.reshape(-1).float() for tensor in _floats(model, names)])


@torch.no_grad()
def install_flat(
    model: nn.Module,
    vector: Tensor,
    *,
    buffers: bool = True,
    names: Container[str] | None = None,
) -> None:
    """Write a vector of `flat` with the same ``names`` back into a model. Integer tensors stay as
    they are, and so does what the model holds beside its parameters if ``buffers`` is False.

    Raises:
        RuntimeError: the vector has another length.

    """
    own, into = {} if buffers else buffers_of(model), _floats(model, names)
    for tensor, part in zip(into, vector.split([one.numel() for one in into]), strict=True):
        tensor.copy_(part.reshape(tensor.shape))
    install_some(model, own)


def _floats(model: nn.Module, names: Container[str] | None) -> list[Tensor]:
    return [
        tensor
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and (names is None or name in names)
    ]
