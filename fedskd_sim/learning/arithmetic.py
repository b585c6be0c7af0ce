"""What the bytes of a result depend on besides the scenario."""

from __future__ import annotations

import numpy as np
import torch
import torchvision

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
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "device": card,
        "threads": str(hospital.resources.cpu),
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        **library_versions(where),
    }
