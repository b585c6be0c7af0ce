"""Initial weights from a file, by the names of a network's own ``state_dict``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fedskd_sim.errors import (
    DataCorrupt,
    DataMissing,
    FedskdError,
    InvalidValue,
    Key,
    LibraryMissing,
)

KEY: tuple[Key, ...] = ("weights",)
SHOWN = 4
"""Names of a kind that an error lists."""
INNER = "backbone."
"""Under which a built-in architecture has a network of torchvision."""


@torch.no_grad()
def load_weights(network: nn.Module, name: str, head: str) -> None:
    """Copy a file's tensors into a network.

    Args:
        network: what takes them.
        name: a file of safetensors, or one that ``torch.save`` made of a ``state_dict``; absolute,
            or relative to the current folder.
        head: the module that stays as it is where only its number of classes differs; empty if
            there is none.

    Raises:
        DataMissing: there is no such file.
        DataCorrupt: it holds no tensors by their names.
        InvalidValue: these are not the network's.

    """
    found, wanted = _read(name), network.state_dict()
    other = {key for key in wanted.keys() & found.keys() if wanted[key].shape != found[key].shape}
    spared = {
        key for key in other
        if key.rpartition(".")[0] == head and wanted[key].shape[1:] == found[key].shape[1:]
    }  # fmt: skip
    shapes = [
        f"{key} {tuple(found[key].shape)} for {tuple(wanted[key].shape)}"
        for key in wanted if key in other - spared
    ]  # fmt: skip
    problems = {
        "it lacks": [key for key in wanted if key not in found],
        "the network has no": [key for key in found if key not in wanted],
        "other shapes have": shapes,
    }
    if any(problems.values()):
        said = "; ".join(f"{what} {_some(names)}" for what, names in problems.items() if names)
        raise InvalidValue(f"{name!r} is of another network: {said}", key=KEY, fix=_fix(wanted))
    for key, tensor in wanted.items():
        if key not in spared:
            tensor.copy_(found[key])


def _fix(wanted: Mapping[str, Tensor]) -> str:
    if all(key.startswith(INNER) for key in wanted):
        return "write a file with torchvision's names under options, {weights: FILE}"
    return "name a file of this network's state_dict, for this number of channels and size"


def _some(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _read(name: str) -> dict[str, Tensor]:
    file = Path(name).expanduser()
    if not file.is_file():
        text = f"there is no file {name!r} in {Path.cwd()}"
        raise DataMissing(text, key=KEY, fix="give the path of a file of weights")
    fix = "save a state_dict, with safetensors.torch.save_file or torch.save"
    try:
        with file.open("rb") as stream:
            of_torch = stream.read(2) in (b"PK", b"\x80\x02")  # a zip, or a pickle by itself
        found: Any = _read_torch(file) if of_torch else load_file(file)
    except FedskdError:
        raise
    except Exception as error:  # whatever the restricted unpickler of PyTorch raises
        said = str(error).partition("\n")[0]
        raise DataCorrupt(f"{name!r} holds no weights: {said}", key=KEY, fix=fix) from error
    if not isinstance(found, dict) or not all(isinstance(one, Tensor) for one in found.values()):
        kind = ", ".join(map(str, [*found][:SHOWN])) if isinstance(found, dict) else type(found)
        raise DataCorrupt(f"{name!r} holds other than tensors: {kind}", key=KEY, fix=fix)
    return dict(found)


def _read_torch(file: Path) -> Any:
    """Read what ``torch.save`` wrote, tensors and nothing else; raises LibraryMissing where PyTorch
    could be made to execute such a file in spite of ``weights_only`` (CVE-2025-32434).
    """
    if not hasattr(torch.compiler, "set_stance"):
        text = f"such a file is read from PyTorch 2.6 on, and this is {torch.__version__}"
        fix = "update PyTorch, or save it with safetensors.torch.save_file"
        raise LibraryMissing(text, key=KEY, fix=fix)
    return torch.load(file, map_location="cpu", weights_only=True)
