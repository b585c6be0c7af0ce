"""What cuBLAS reads from the environment before its first call, without which its products differ
from run to run; for every process that becomes a hospital, with PyTorch or before it.
"""

from __future__ import annotations

import os

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
FIXED = ":4096:8"
"""Eight buffers of 4 MiB for each stream: a product always gets the same one."""
REPEATABLE = (FIXED, ":16:8")
"""What NVIDIA's documentation of cuBLAS calls reproducible; the second is smaller and slower."""


def fix_workspace() -> None:
    """Choose the workspace of cuBLAS, unless whoever started the process has."""
    os.environ.setdefault(WORKSPACE, FIXED)
