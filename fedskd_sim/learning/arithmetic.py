"""What the bytes of a result depend on besides the scenario."""

from __future__ import annotations

import re
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from fedskd_sim.learning.devices import device, library_versions
from fedskd_sim.scenario import Hospital


def arithmetic(hospital: Hospital) -> dict[str, str]:
    """Name versions, device, threads and the processor's vector instructions that PyTorch uses;
    of a card also the driver and its libraries.
    """
    where = device(hospital.device)
    card = torch.cuda.get_device_name(where) if where.startswith("cuda") else where
    return {
        "torch": torch.__version__,
        "torchvision": torchvision_version(),
        "numpy": np.__version__,
        "device": card,
        "threads": str(hospital.resources.cpu),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        **library_versions(where),
    }


def torchvision_version() -> str:
    """Give ``torchvision.__version__``: read, because the import takes over a second and 100 MB, at
    every hospital, for networks of which most need nothing.
    """
    spec = find_spec("torchvision")
    text = ""
    with suppress(OSError):
        if spec and spec.origin:
            text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    if found := re.search(r"^__version__ = ['\"](.+)['\"]$", text, re.MULTILINE):
        return found[1]
    import torchvision  # noqa: PLC0415 - as above

    return str(torchvision.__version__)
