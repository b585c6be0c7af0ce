"""Networks compiled for a card by PyTorch's inductor: fewer, larger kernels for the same formulas.

Only recorded steps are compiled, so that what compiling a network costs, up to two minutes for a
large one, is paid once for its architecture and size of batch, not in every session.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import nn

from fedskd_sim.scenario import Training

Compile = Callable[[nn.Module], None]
"""Makes a network compute with compiled code from its next call on."""
MOST_VERSIONS = 256
"""Versions of a function that the compiler keeps: architectures, modes and sizes of batches have
one each, and past its own limit of 8 it goes on uncompiled without a word."""
MOST_OF_ALL = 1 << 20
"""... of whatever all networks have in common, those too that were given up."""


def compiler(training: Training) -> Compile | None:
    """Give what compiles networks, where a scenario asks for it."""
    if not training.compile:
        return None

    def compile_(network: nn.Module) -> None:
        from torch._dynamo import config as tracing  # noqa: PLC0415 - takes a second and 100 MB
        from torch._inductor import config as kernels  # noqa: PLC0415

        tracing.recompile_limit = MOST_VERSIONS
        tracing.accumulated_recompile_limit = MOST_OF_ALL
        kernels.deterministic = training.deterministic  # else a stopwatch chooses between them
        network.compile(dynamic=False)

    return compile_


def as_written() -> AbstractContextManager[object]:
    """Let compiled networks compute operation by operation: a step that is taken seldom is not
    worth compiling.
    """
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance
