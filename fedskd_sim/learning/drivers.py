"""Why PyTorch cannot use a card that is here, in words, and what helps: most often a driver that is
older than the CUDA that came along with PyTorch. Imports no PyTorch.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

DRIVER = Path("/proc/driver/nvidia/version")
"""Where Linux tells the version of NVIDIA's driver, in containers too."""
NODES = Path("/dev")
HIDDEN = ("", "-1")
"""Values of ``CUDA_VISIBLE_DEVICES`` with which somebody wants no card to be used."""
UNLISTED = "see that nvidia-smi lists it where this runs: else the card or its driver is not there"


class CardSupport(NamedTuple):
    """What a machine and its PyTorch tell of cards."""

    here: bool
    """There are signs of an NVIDIA card, as `signs_of_card` looks for them."""
    cuda: str
    """The version of CUDA that PyTorch was built with; empty if with none."""
    driver: str
    """The driver's own version; ``unknown`` where the system does not tell it."""
    words: str
    """PyTorch's for why it can use no card; empty where it can use one."""

    @property
    def too_old(self) -> bool:
        """Whether the driver is older than PyTorch's CUDA."""
        return "driver on your system is too old" in self.words

    @property
    def newest(self) -> str:
        """The newest CUDA that a driver knows which is too old; empty where PyTorch's words, in
        which 11.4 is 11040, do not tell.
        """
        found = re.search(r"found version (\d+)", self.words) if self.too_old else None
        return f"{int(found[1]) // 1000}.{int(found[1]) % 1000 // 10}" if found else ""

    @property
    def reason(self) -> str:
        """Why PyTorch can use no card, in one sentence without its end; empty where it can."""
        text = self.words.partition(". ")[0].partition("\n")[0].rstrip(".")
        if not self.too_old:
            return text
        known = f", which knows CUDA up to {self.newest}" if self.newest else ""
        named = "" if self.driver == "unknown" else f"; it is {self.driver}"
        return f"{text}{named}{known}, and this PyTorch is built for CUDA {self.cuda}"

    @property
    def fix(self) -> str:
        """What lets PyTorch use the card; empty where nothing of the kind is known."""
        if self.too_old:
            older = f"CUDA {self.newest} or older" if self.newest else f"a CUDA before {self.cuda}"
            return (
                f"update the driver to one for CUDA {self.cuda}, or install a PyTorch for {older}"
            )
        if not (self.here and self.words):
            return ""
        return UNLISTED if self.cuda else "install a PyTorch for CUDA: this one is built without"

    @property
    def unused(self) -> str:
        """A note that a card that is here is not used, why, and what helps; empty where it is used,
        where there is none, and with a PyTorch that knows no cards at all.
        """
        if not (self.here and self.cuda and self.words):
            return ""
        return (
            f"device auto is the CPU: PyTorch cannot use this machine's NVIDIA card "
            f"({self.reason}); to use it, {self.fix}"
        )


def signs_of_card(driver: Path = DRIVER, nodes: Path = NODES) -> bool:
    """Return whether this machine seems to have an NVIDIA card that may be used: its driver, a
    device or its tool, and nobody who hides all cards from CUDA.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in HIDDEN:
        return False
    there = driver.exists() or any(nodes.glob("nvidia[0-9]*"))
    return there or shutil.which("nvidia-smi") is not None
