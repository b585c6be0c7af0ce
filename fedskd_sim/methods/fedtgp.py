"""Trainable global prototypes, FedTGP (Zhang et al. 2024): the class means of all hospitals are
gathered, and prototypes are trained that lie near those of their class and apart from others.

Hospital k has the mean features P_kc of its training samples of class c, as in FedProto, and all
hospitals get all of them. Each takes the same steps on the same numbers, so that no server is
needed: with d the Euclidean distance, Q_c the mean of P_kc over hospitals, and prototypes
T_c = F(E_c) of trained embeddings E and a network F of two layers, the mean over all (k, c) of

    -log [ e^-(d(P_kc, T_c) + m) / (e^-(d(P_kc, T_c) + m) + sum_(c' != c) e^-d(P_kc, T_c')) ],
    m = min(max_(c, c') d(Q_c, Q_c'), margin)

is made smaller. From the next session on

    loss = CE + w mean_i || z_i - T_(y_i) ||^2 / length(z).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from fedskd_sim import AllReduceLearner, Kept, Site, Total, channel_means
from fedskd_sim.methods.fedproto import PrototypeTeaching
from fedskd_sim.methods.keys import FedTGP

Network = dict[str, Tensor]


class TrainedPrototypesLearner(AllReduceLearner):
    """One hospital's own model; what travels are chunks of all hospitals' class means."""

    keys = FedTGP
    config: FedTGP
    server = Kept[Mapping[str, Tensor] | None](None)
    """Embeddings and network, float64, the same at every hospital; from the first round on."""

    @property
    def length(self) -> int:
        """As many as the means of all classes of all hospitals."""
        return gathered_length(self.site, self.config.features)

    def teaching(self, round_: int) -> PrototypeTeaching | None:  # noqa: ARG002 - it depends on the prototypes
        """Draw the features to the prototypes, once they are trained."""
        if self.server is None:
            return None
        prototypes = prototypes_of(self.server).float().to(self.site.device)
        return PrototypeTeaching(prototypes, self.config)

    def share(self, round_: int) -> Total:  # noqa: ARG002 - every round is alike
        """Return the class means in the hospital's own slot."""
        length, train = self.config.features, self.site.data.train
        found = (
            (channel_means(output.taps.deep, length), labels)
            for output, labels in self.site.outputs(self.model, train)
        )
        return in_slot(self.site, class_means(found, self.site.shape.classes, length))

    def take(self, total: Total) -> None:
        """Train the prototypes on the class means of all."""
        means, has = gathered(self.site, total, self.config.features)
        before = self.server or first_network(self.site, self.config.features)
        margin = min(widest(means, has), self.config.margin)
        labels = has.nonzero()[:, 1]

        def loss(network: Network) -> Tensor:
            return margin_loss(prototypes_of(network), means[has], labels, margin)

        self.server = descend(before, loss, self.config.server_steps, self.config.server_rate)


def class_means(found: Iterable[tuple[Tensor, Tensor]], classes: int, length: int) -> Tensor:
    """Return the mean features of every class and whether there is any sample of it, (classes,
    length + 1), from batches of features (B, length) and labels (B,).
    """
    sums = torch.zeros(classes, length + 1)
    for features, labels in found:
        with_one = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
        sums += (one_hot(labels, classes).float().T @ with_one).cpu()
    numbers = sums[:, -1:]
    return torch.cat([sums[:, :-1] / numbers.clamp(min=1), (numbers > 0).float()], dim=1)


def gathered_length(site: Site, length: int) -> int:
    """Return how many numbers the class means of all hospitals are."""
    return len(site.scenario.members) * site.shape.classes * (length + 1)


def in_slot(site: Site, own: Tensor) -> Total:
    """Return a vector that holds what a hospital has, in its own slot, and zeros elsewhere."""
    members = site.scenario.members
    slots = torch.zeros(len(members), own.numel())
    slots[members.index(site.name)] = own.reshape(-1)
    return Total(slots.reshape(-1), 1.0)


def gathered(site: Site, total: Total, length: int) -> tuple[Tensor, Tensor]:
    """Return the class means of all hospitals, float64 (K, classes, length), and which of them
    there are (K, classes).
    """
    shape = len(site.scenario.members), site.shape.classes, length + 1
    slots = total.vector.double().reshape(shape)
    return slots[..., :-1], slots[..., -1] > 0


def descend(
    start: Mapping[str, Tensor], loss: Callable[[Network], Tensor], steps: int, rate: float
) -> Network:
    """Return tensors after so many steps of Adam (Kingma and Ba 2015) on a loss of them; PyTorch's
    own imports its compiler, which takes a hospital a second and 100 MB.
    """
    network = {name: one.detach().clone().requires_grad_() for name, one in start.items()}
    first, second = ([torch.zeros_like(one) for one in network.values()] for _ in range(2))
    for step in range(1, steps + 1):
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss(network), [*network.values()])
        for place, (one, gradient) in enumerate(zip(network.values(), gradients, strict=True)):
            first[place] = 0.9 * first[place] + 0.1 * gradient
            second[place] = 0.999 * second[place] + 0.001 * gradient.square()
            mean, spread = first[place] / (1 - 0.9**step), second[place] / (1 - 0.999**step)
            one.data -= rate * mean / (spread.sqrt() + 1e-8)
    return {name: one.detach() for name, one in network.items()}


def first_network(site: Site, length: int) -> Network:
    """Draw embeddings and network, float64, from a seed that all hospitals have."""
    draw = torch.Generator().manual_seed(site.common_seed("initial prototypes"))
    forms = {"w1": (length, length), "b1": (length,), "w2": (length, length), "b2": (length,)}
    drawn = {
        name: (2 * torch.rand(form, generator=draw, dtype=torch.float64) - 1) / length**0.5
        for name, form in forms.items()
    }
    normal = torch.randn(site.shape.classes, length, generator=draw, dtype=torch.float64)
    return {"embeddings": normal, **drawn}


def prototypes_of(network: Mapping[str, Tensor]) -> Tensor:
    """Return the prototypes (classes, length)."""
    hidden = (network["embeddings"] @ network["w1"].T + network["b1"]).relu()
    return hidden @ network["w2"].T + network["b2"]


def widest(means: Tensor, has: Tensor) -> float:
    """Return the largest distance between the mean features of two classes, each the mean over the
    hospitals (K, classes, length) that have it (K, classes).
    """
    holders = has.sum(dim=0)
    centres = ((means * has[..., None]).sum(dim=0) / holders.clamp(min=1)[:, None])[holders > 0]
    return float((centres[:, None] - centres[None]).norm(dim=-1).max())


def margin_loss(prototypes: Tensor, means: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Return the mean cross-entropy of minus the distances of class means (N, length) to the
    prototypes (classes, length), that to the own one made larger by a margin.
    """
    distances = (means[:, None] - prototypes[None]).norm(dim=-1)
    return cross_entropy(-(distances + margin * one_hot(labels, len(prototypes))), labels)
