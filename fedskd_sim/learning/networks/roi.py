"""Networks for brain connectivity, of clearly different kind: perceptron, edge convolution, graph
convolution, transformer.

Each takes matrices (B, R, R) of connectivity between R regions and returns logits and two maps (B,
C, R) that are by region already. Normalisation is over the channels of each region, so that nothing
of the hospital's patients stays in a travelling model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedskd_sim.learning.distillation.distill import Taps
from fedskd_sim.learning.networks.small import Block

DROPPED = 0.3
"""Share of a readout's inputs that training leaves out: hospitals have some hundred patients at
most."""


class Readout(nn.Module):
    """From the deep map to logits: few channels per region, then a linear map of all regions and
    channels.
    """

    def __init__(self, width: int, regions: int, classes: int, *, channels: int = 4) -> None:
        """Squeeze ``width`` channels of each region into ``channels``."""
        super().__init__()
        self.squeeze = nn.Linear(width, channels)
        self.drop = nn.Dropout(DROPPED)
        self.head = nn.Linear(channels * regions, classes)

    def forward(self, nodes: Tensor) -> Tensor:
        """Map (B, R, C) to logits (B, classes)."""
        logits: Tensor = self.head(self.drop(self.squeeze(nodes)).flatten(1))
        return logits


class Perceptron(nn.Module):
    """The same perceptron for the connectivity profile of every region, then a linear map over
    regions.
    """

    def __init__(self, regions: int, classes: int, width: int, norm: str) -> None:
        """Make two layers per region."""
        super().__init__()
        self.first, self.second = layer(regions, width, norm), layer(width, width // 2, norm)
        self.readout = Readout(width // 2, regions, classes)

    def forward(self, profiles: Tensor) -> tuple[Tensor, Taps]:
        """Map connectivity (B, R, R) to logits and taps (B, C, R)."""
        mid = self.first(profiles)
        deep = self.second(mid)
        return self.readout(deep), taps(mid, deep)


class EdgeConvolution(nn.Module):
    """Edge to edge, edge to node, node to graph, after BrainNetCNN (Kawahara et al. 2017).

    With one input channel a cross-shaped filter is the sum of one value per row and one per column
    of an edge.
    """

    def __init__(self, regions: int, classes: int, width: int, norm: str) -> None:
        """Make ``width`` edge channels and twice as many per region."""
        super().__init__()
        self.rows, self.columns = nn.Linear(regions, width), nn.Linear(regions, width, bias=False)
        self.edge_norm, self.act = normalisation(norm, width), nn.LeakyReLU(0.33)
        self.to_nodes = nn.Linear(width * regions, 2 * width)
        self.node_norm = normalisation(norm, 2 * width)
        self.nodes = layer(2 * width, 2 * width, norm)
        self.readout = Readout(2 * width, regions, classes)

    def forward(self, edges: Tensor) -> tuple[Tensor, Taps]:
        """Map connectivity (B, R, R) to logits and taps (B, C, R)."""
        crossed = self.rows(edges).unsqueeze(2) + self.columns(edges.transpose(1, 2)).unsqueeze(1)
        crossed = self.act(self.edge_norm(crossed))
        mid = self.act(self.node_norm(self.to_nodes(crossed.flatten(2))))
        deep = self.nodes(mid)
        return self.readout(deep), taps(mid, deep)


class GraphConvolution(nn.Module):
    """Profiles as features on the graph of each subject's strongest absolute connections (Kipf &
    Welling 2017).
    """

    def __init__(
        self, regions: int, classes: int, *, width: int, neighbours: int, norm: str
    ) -> None:
        """Keep ``neighbours`` connections per region, at most all others."""
        super().__init__()
        self.neighbours = min(neighbours, regions)
        self.embed = nn.Linear(regions, width)
        self.first, self.second = layer(width, width, norm), layer(width, width, norm)
        self.readout = Readout(width, regions, classes)

    def forward(self, profiles: Tensor) -> tuple[Tensor, Taps]:
        """Map connectivity (B, R, R) to logits and taps (B, C, R)."""
        graph = self._graph(profiles)
        nodes = self.embed(profiles)
        mid = nodes + self.first(graph @ nodes)
        deep = mid + self.second(graph @ mid)
        return self.readout(deep), taps(mid, deep)

    def _graph(self, profiles: Tensor) -> Tensor:
        """Weigh neighbours by their absolute connectivity; symmetric, with a loop of 1, degrees
        normalised.
        """
        strength = profiles.abs()
        least = strength.topk(self.neighbours, dim=2).values[..., -1:]
        kept = torch.where(strength >= least, strength, 0.0)
        graph = torch.maximum(kept, kept.transpose(1, 2)) + torch.eye(
            profiles.shape[1], device=profiles.device
        )
        scale = graph.sum(2).rsqrt()
        return graph * scale.unsqueeze(2) * scale.unsqueeze(1)


class Transformer(nn.Module):
    """Regions as tokens, connectivity profiles as features, a learned vector per region."""

    def __init__(self, regions: int, classes: int, *, width: int, depth: int) -> None:
        """Make ``depth`` blocks."""
        super().__init__()
        self.embed = nn.Linear(regions, width)
        self.positions = nn.Parameter(
            nn.init.trunc_normal_(self.embed.weight.new_empty(1, regions, width), std=0.02)
        )
        self.blocks = nn.ModuleList(Block(width, heads=max(1, width // 16)) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.readout = Readout(width, regions, classes)

    def forward(self, profiles: Tensor) -> tuple[Tensor, Taps]:
        """Map connectivity (B, R, R) to logits and taps (B, C, R)."""
        tokens = self.embed(profiles) + self.positions
        mid = tokens
        for index, block in enumerate(self.blocks):
            tokens = block(tokens)
            if index == (len(self.blocks) - 1) // 2:
                mid = tokens
        deep = self.norm(tokens)
        return self.readout(deep), taps(mid, deep)


def taps(mid: Tensor, deep: Tensor) -> Taps:
    """Bring two maps (B, R, C) to the order of taps, (B, C, R)."""
    return Taps(mid.transpose(1, 2), deep.transpose(1, 2))


def layer(inputs: int, outputs: int, norm: str) -> nn.Module:
    """Make a linear layer, its normalisation and a GELU, for each region alike."""
    return nn.Sequential(nn.Linear(inputs, outputs), normalisation(norm, outputs), nn.GELU())


def normalisation(norm: str, channels: int) -> nn.Module:
    """Return the normalisation over the last axis: layer or none.

    Raises:
        ValueError: another name.

    """
    if norm not in ("layer", "none"):
        message = f"norm is layer or none, not {norm!r}"
        raise ValueError(message)
    return nn.LayerNorm(channels) if norm == "layer" else nn.Identity()


def mlp(
    channels: int,  # noqa: ARG001 - all builders are called alike
    regions: int,
    classes: int,
    *,
    width: int = 64,
    norm: str = "layer",
) -> nn.Module:
    """A perceptron shared by all regions on their connectivity profiles, then one over regions."""
    return Perceptron(regions, classes, width, norm)


def brainnet(
    channels: int,  # noqa: ARG001 - all builders are called alike
    regions: int,
    classes: int,
    *,
    width: int = 8,
    norm: str = "layer",
) -> nn.Module:
    """Edge-to-edge, edge-to-node and node-to-graph layers, as BrainNetCNN has them."""
    return EdgeConvolution(regions, classes, width, norm)


def gcn(
    channels: int,  # noqa: ARG001 - all builders are called alike
    regions: int,
    classes: int,
    *,
    width: int = 48,
    neighbours: int = 10,
    norm: str = "layer",
) -> nn.Module:
    """Two graph convolutions over each subject's strongest connections."""
    return GraphConvolution(regions, classes, width=width, neighbours=neighbours, norm=norm)


def transformer(
    channels: int,  # noqa: ARG001 - all builders are called alike
    regions: int,
    classes: int,
    *,
    width: int = 48,
    depth: int = 2,
) -> nn.Module:
    """A small transformer whose tokens are regions."""
    return Transformer(regions, classes, width=width, depth=depth)
