"""What is said of errors that nobody foresaw."""

from __future__ import annotations

import pytest
import torch

from fedskd_sim.member.crash import ABOVE, CARD, CARD_MEMORY, MEMORY, crash, in_step
from fedskd_sim.ring.program import Step

FULL = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of "
    "which 1.20 GiB is free. Process 7 has 70.00 GiB memory in use."
)
ADVICE = "If reserved but unallocated memory is large try setting PYTORCH_ALLOC_CONF"
BROKEN = "CUDA error: launch failure\nCompile with `TORCH_USE_CUDA_DSA` to enable assertions.\n"

NO_ROOM, NO_HANDLE = "CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED"
WARM_UP = Step("warm_up", 0)
CardError = getattr(torch, "AcceleratorError", RuntimeError)  # older versions of PyTorch


@pytest.mark.parametrize(
    ("error", "words", "fix"),
    [
        (torch.OutOfMemoryError(f"{FULL} {ADVICE}"), f"OutOfMemoryError: {FULL}", CARD_MEMORY),
        (CardError(BROKEN), f"{CardError.__name__}: CUDA error: launch failure", CARD),
        (
            CardError("CUDA error: out of memory"),
            f"{CardError.__name__}: CUDA error: out of memory",
            CARD_MEMORY,
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"),
            "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED",
            CARD_MEMORY,
        ),
        (
            RuntimeError("cuDNN error: EXECUTION_FAILED"),
            "RuntimeError: cuDNN error: EXECUTION_FAILED",
            CARD,
        ),
        (MemoryError(), "MemoryError", MEMORY),
        (RuntimeError("another"), "RuntimeError: another", "see its log"),
    ],
)
def test_what_a_card_says_is_told_without_what_it_advises(
    error: Exception, words: str, fix: str
) -> None:
    """Figures and the first line stay; PyTorch's settings and how to debug it go."""
    found = crash("north", "in its warm-up", error, "see its log")
    assert found.message == f"'north' died in its warm-up: {words}"
    assert found.fix == fix
    told = in_step("north", WARM_UP, error)
    assert (told.message, told.__cause__) == (found.message, error)
    assert told.fix == (fix if fix in (CARD, CARD_MEMORY, MEMORY) else ABOVE)


def test_memory_that_a_cpu_does_not_have_is_told_as_such() -> None:
    """PyTorch's own error is a RuntimeError like others."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    found = crash("north", "", caught.value, "see its log")
    assert found.fix == MEMORY
