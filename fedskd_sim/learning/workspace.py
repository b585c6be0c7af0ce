"""What the environment says of cards, for every process that becomes a hospital, with PyTorch or
before it: what cuBLAS reads before its first call, without which its products differ from run to
run, and how many runs there are.
"""

from __future__ import annotations

import os

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
FIXED = ":4096:8"
"""Eight buffers of 4 MiB for each stream: a product always gets the same one."""
REPEATABLE = (FIXED, ":16:8")
"""What NVIDIA's documentation of cuBLAS calls reproducible; the second is smaller and slower."""

RUNS_AT_ONCE = "FEDSKD_RUNS_AT_ONCE"
"""How many runs of a comparison share this machine's cards."""


def runs_at_once() -> int:
    """Return how many runs share this machine's cards, as `compare` says; else this one alone."""
    return max(1, int(os.environ.get(RUNS_AT_ONCE, "1")))


def fix_workspace() -> None:
    """Choose the workspace of cuBLAS, unless whoever started the process has."""
    os.environ.setdefault(WORKSPACE, FIXED)
