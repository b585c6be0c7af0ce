"""Which device a hospital computes on."""

from __future__ import annotations

import torch


def device(asked: str) -> str:
    """Give the device for what a scenario asks for: ``auto`` is the first CUDA device here, if
    there is one.
    """
    if asked != "auto":
        return asked
    return "cuda" if torch.cuda.is_available() else "cpu"
