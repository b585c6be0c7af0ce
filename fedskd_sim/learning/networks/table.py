"""Networks for rows of tables: a perceptron, and a transformer whose tokens are columns.

Each takes (B, F, R), F numbers for each of R columns. The perceptron mixes columns from its first
layer on, so its maps have one place, (B, C, 1); those of the transformer have one for each column,
(B, C, R). Normalisation is over the channels of a row or a token, so that nothing of the hospital's
patients stays in a travelling model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedskd_sim.learning.distillation.distill import Taps
from fedskd_sim.learning.networks.roi import layer
from fedskd_sim.learning.networks.roi import taps as by_column
from fedskd_sim.learning.networks.small import Block

DROPPED = 0.1
"""Share of a readout's inputs that training leaves out."""


class RowPerceptron(nn.Module):
    """Two layers on all numbers of a row, then a linear head."""

    def __init__(self, numbers: int, classes: int, width: int, norm: str) -> None:
        """Take rows of so many numbers."""
        super().__init__()
        self.first, self.second = layer(numbers, width, norm), layer(width, width, norm)
        self.drop, self.head = nn.Dropout(DROPPED), nn.Linear(width, classes)

    def forward(self, rows: Tensor) -> tuple[Tensor, Taps]:
        """Map rows (B, F, R) to logits (B, classes) and taps (B, C, 1)."""
        mid = self.first(rows.flatten(1))
        deep = self.second(mid)
        return self.head(self.drop(deep)), Taps(mid.unsqueeze(2), deep.unsqueeze(2))


class ColumnTransformer(nn.Module):
    """Columns as tokens: each has a linear map of its own from its numbers to a token."""

    def __init__(self, numbers: int, columns: int, classes: int, *, width: int, depth: int) -> None:
        """Make ``depth`` blocks for tokens of ``numbers`` numbers."""
        super().__init__()
        like = torch.empty(0)
        self.maps = nn.Parameter(
            nn.init.normal_(like.new_empty(columns, numbers, width), std=numbers**-0.5)
        )
        self.names = nn.Parameter(nn.init.normal_(like.new_empty(columns, width), std=0.5))
        self.blocks = nn.ModuleList(Block(width, heads=max(1, width // 16)) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.drop, self.head = nn.Dropout(DROPPED), nn.Linear(width, classes)

    def forward(self, rows: Tensor) -> tuple[Tensor, Taps]:
        """Map rows (B, F, R) to logits (B, classes) and taps (B, C, R)."""
        tokens = torch.einsum("bfr,rfc->brc", rows, self.maps) + self.names
        mid = tokens
        for index, block in enumerate(self.blocks):
            tokens = block(tokens)
            if index == (len(self.blocks) - 1) // 2:
                mid = tokens
        deep = self.norm(tokens)
        return self.head(self.drop(deep.mean(1))), by_column(mid, deep)


def mlp(
    channels: int, columns: int, classes: int, *, width: int = 32, norm: str = "layer"
) -> nn.Module:
    """A perceptron of two hidden layers on all columns of a row."""
    return RowPerceptron(channels * columns, classes, width, norm)


def transformer(
    channels: int, columns: int, classes: int, *, width: int = 32, depth: int = 2
) -> nn.Module:
    """A small transformer whose tokens are the columns of a table."""
    return ColumnTransformer(channels, columns, classes, width=width, depth=depth)
