"""Which device a hospital computes on, what makes it compute the same bytes twice, and what the
bytes of a result depend on besides the scenario and the code that trains: cards and libraries.
"""

from __future__ import annotations

import math
import os
import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from types import MappingProxyType

import numpy as np
import torch
from torch import nn

from fedskd_sim.errors import DeviceUnavailable, FedskdError
from fedskd_sim.learning.drivers import DRIVER, CardSupport, signs_of_card
from fedskd_sim.learning.workspace import FIXED, REPEATABLE, WORKSPACE, runs_at_once
from fedskd_sim.scenario import Hospital, Scenario, Training

NEAR: Mapping[str, float] = MappingProxyType({"fp32": 0.01, "tf32": 0.02, "bf16": 0.3})
"""How far the weights after a session may be from those of another device or library, by
``training.precision``: a share of the way that the session has moved them. Ten, ten and six times
what was measured of a card against a CPU (docs/gpus.md)."""


def device(asked: str) -> str:
    """Return the device for what a scenario asks for: ``auto`` is the first CUDA device here, if
    there is one.
    """
    if asked != "auto":
        return asked
    return "cuda" if torch.cuda.is_available() else "cpu"


def settle(threads: int, device_: str, training: Training) -> None:
    """Fix what a result may depend on besides seeds: threads, kernels, and the arithmetic of
    CUDA's products.

    The settings are the process's: hospitals of one process settle before each of their steps.
    PyTorch's own default has TF32 in convolutions and not in products of matrices; here it is on
    for both or for neither, as ``training.precision`` says.
    """
    torch.set_num_threads(threads)
    strict = device_ == "cpu" or training.deterministic
    torch.set_deterministic_debug_mode("error" if strict else "default")  # and no compiler comes in
    rough = training.precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = rough
    torch.backends.cudnn.benchmark = False
    if device_ != "cpu":  # nothing reads memory that was never written to: filling it costs kernels
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


class CallersSettings:
    """What a run in the caller's own process changes of PyTorch's settings, and of the generators
    that everybody shares.

    Of runs that go on at the same time, in threads, the first notes the settings and the last puts
    them back.
    """

    def __init__(self) -> None:
        """Note nothing yet."""
        self._lock = Lock()
        self._inside = 0
        self._put_back: Callable[[], None] = lambda: None

    def note(self) -> None:
        """Note the settings as they are; call `put_back` once for each call of this."""
        with self._lock:
            if not self._inside:
                self._put_back = _noted()
            self._inside += 1

    def put_back(self) -> None:
        """Set everything back as it was noted."""
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._put_back()


CALLERS = CallersSettings()


def _noted() -> Callable[[], None]:
    """Note the process's settings; what is returned puts them back."""
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    products, layers = torch.backends.cuda.matmul, torch.backends.cudnn
    flags = products.allow_tf32, layers.allow_tf32, layers.benchmark
    drawn = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 - the caller's
    cards = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def put_back() -> None:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        products.allow_tf32, layers.allow_tf32, layers.benchmark = flags
        random.setstate(drawn[0])
        np.random.set_state(drawn[1])  # noqa: NPY002 - the caller's
        torch.set_rng_state(drawn[2])
        if cards:
            torch.cuda.set_rng_state_all(cards)

    return put_back


def card_of(where: str) -> int:
    """Return the number of a CUDA device: ``cuda`` is the first."""
    return int(where.partition(":")[2] or 0)


def share_of_card(scenario: Scenario, where: str, *, alone: bool) -> float:
    """Return a hospital's share of its card's memory, in bytes; without end for a CPU.

    Args:
        scenario: the scenario.
        where: the device on which the hospital computes.
        alone: no other hospital computes on this machine; else those of the scenario on the same
            card share it, and those of the other runs of a comparison.

    """
    if not where.startswith("cuda"):
        return math.inf
    places = [device(hospital.device) for hospital in scenario.hospitals]
    beside = [one for one in places if one.startswith("cuda") and card_of(one) == card_of(where)]
    memory = torch.cuda.get_device_properties(where).total_memory
    return memory / (1 if alone else max(1, len(beside)) * runs_at_once())


def cards_of(scenario: Scenario) -> dict[str, tuple[int, int]]:
    """Return, of each card on which a hospital computes, its memory in all and free, in bytes."""
    places = [device(hospital.device) for hospital in scenario.hospitals]
    found = {}
    for number in sorted({card_of(where) for where in places if where.startswith("cuda")}):
        free, whole = torch.cuda.mem_get_info(number)
        found[f"cuda:{number}"] = whole, free
    return found


VECTOR = 16
"""So many fp32 numbers are in the widest vector of a CPU."""


def lay_out(network: nn.Module, asked: str, device_: str) -> nn.Module:
    """Lay a network of images or volumes out in memory, contiguous or channels_last: as asked, or
    for ``auto`` by what its layers have kernels for. On a CPU a network stays contiguous whose
    backward pass in channels_last may write beyond its memory (`_overflows`).
    """
    layers = [*network.modules()]
    without_kernel = any(isinstance(layer, nn.GroupNorm) for layer in layers)
    if asked == "contiguous" or (asked == "auto" and (device_ == "cpu" or without_kernel)):
        return network
    if device_ == "cpu" and any(_overflows(layer) for layer in layers):
        return network
    volume = any(isinstance(layer, nn.Conv3d) for layer in layers)
    return network.to(memory_format=torch.channels_last_3d if volume else torch.channels_last)


def _overflows(layer: nn.Module) -> bool:
    """Return whether a layer is a strided 1x1 convolution of fewer channels than a vector of the
    CPU has numbers. With AVX2 and in channels_last oneDNN 3 writes the gradients of its weights
    beyond their memory (oneDNN's issue 6035): they are wrong, or the process dies.
    """
    return (
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and max(layer.stride) > 1
        and layer.in_channels // layer.groups < VECTOR
    )


def library_versions(device_: str, driver: Path = DRIVER) -> dict[str, str]:
    """Name the libraries that compute on a CUDA device, and its driver; nothing for a CPU."""
    if not device_.startswith("cuda"):
        return {}
    return {
        "driver": driver_version(driver),
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
    }


def describe_card(where: str) -> str:
    """Describe for the records on which card, with which driver and libraries a hospital computes;
    empty for a CPU.
    """
    if not where.startswith("cuda"):
        return ""
    versions = library_versions(where)
    return (
        f"computes on {torch.cuda.get_device_name(where)} with driver {versions['driver']}, CUDA "
        f"{versions['cuda']}, cuDNN {versions['cudnn']}, PyTorch {torch.__version__}"
    )


def driver_version(file: Path = DRIVER) -> str:
    """Read the version of NVIDIA's driver; ``unknown`` where the system does not tell it."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "unknown"
    found = re.search(r"Kernel Module.*?\s(\d+\.\d[\d.]*)", text)
    return found[1] if found else "unknown"


def find_missing_devices(scenario: Scenario) -> Iterator[FedskdError]:
    """Find hospitals whose device is not on this machine, or could not compute the same twice."""
    for index, hospital in enumerate(scenario.hospitals):
        where = device(hospital.device)
        if not where.startswith("cuda"):
            continue
        number = card_of(where)
        key = ("hospitals", index, "device")
        if number >= torch.cuda.device_count():
            found = card_support()
            text = (
                f"{hospital.device!r} is not here: this machine has "
                f"{torch.cuda.device_count()} CUDA devices"
                f"{f' ({found.reason})' if found.reason else ''}"
            )
            fix = f"{found.fix}; or use 'cpu'" if found.fix else "use 'cpu', or a machine with it"
            yield DeviceUnavailable(text, key=key, fix=fix)
        elif scenario.training.deterministic and (text := find_workspace_problem()):
            fix = f"unset it, set it to {FIXED}, or say training: {{deterministic: false}}"
            yield DeviceUnavailable(text, key=key, fix=fix)


def card_support() -> CardSupport:
    """Return what this machine and PyTorch tell of cards; nothing else asks. It may begin CUDA."""
    words = ""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        words = str(error)
    return CardSupport(signs_of_card(), torch.version.cuda or "", driver_version(), words)


def find_workspace_problem() -> str:
    """Describe what is wrong with the workspace that the environment asks for; '' if nothing is."""
    given = os.environ.get(WORKSPACE, FIXED)
    return (
        ""
        if given in REPEATABLE
        else f"{WORKSPACE}={given} in the environment lets products differ from run to run"
    )


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
    """Return ``torchvision.__version__``: read, because the import takes over a second and 100 MB,
    at every hospital, for networks of which most need nothing.
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
