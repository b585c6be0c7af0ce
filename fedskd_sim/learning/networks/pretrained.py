"""Pretrained weights from a safetensors file that the user has: a state dict with torchvision's
names.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from fedskd_sim.errors import DataCorrupt, DataMissing, InvalidValue, Key

KEY: tuple[Key, ...] = ("options", "weights")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@torch.no_grad()
def load(model: nn.Module, name: str) -> None:
    """Copy a file's tensors into a model; on the meta device only names and shapes are compared.

    The classifier, which is the last linear layer, stays as it is where the numbers of classes
    differ. A model with GroupNorm takes the scales and shifts of BatchNorm and leaves its running
    statistics.

    Args:
        model: a model with torchvision's names.
        name: the file, absolute or relative to the current folder.

    Raises:
        DataMissing: there is no such file.
        DataCorrupt: it is no safetensors file.
        InvalidValue: its tensors are not those of this model.

    """
    file = Path(name).expanduser()
    if not file.is_file():
        raise DataMissing(
            f"there is no file {name!r} in {Path.cwd()}",
            key=KEY,
            fix="give the path of a safetensors file",
        )
    wanted = model.state_dict()
    head = [path for path, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    try:
        with safe_open(file, "pt") as kept:
            shapes = {key: tuple(kept.get_slice(key).get_shape()) for key in kept.keys()}  # noqa: SIM118 - not a mapping
            _compare(wanted, shapes, head, name)
            for key, tensor in wanted.items():
                if not tensor.is_meta and shapes[key] == tuple(tensor.shape):
                    tensor.copy_(kept.get_tensor(key))
    except (SafetensorError, OSError) as error:
        text = f"{name!r} is no safetensors file: {error}"
        raise DataCorrupt(
            text, key=KEY, fix="save a state dict with safetensors.torch.save_file"
        ) from error


def _compare(
    wanted: dict[str, torch.Tensor], shapes: dict[str, tuple[int, ...]], head: str, name: str
) -> None:
    """Refuse a file that lacks a tensor, has a foreign one, or one of another shape outside the
    head.
    """
    fix = "name a file of this architecture's weights, for this number of channels and image size"
    for key, tensor in wanted.items():
        if key not in shapes:
            raise InvalidValue(f"{name!r} has no tensor {key!r}", key=KEY, fix=fix)
        if shapes[key] != tuple(tensor.shape) and key.rpartition(".")[0] != head:
            text = f"{key!r} is {shapes[key]} in {name!r}, and {tuple(tensor.shape)} in the model"
            raise InvalidValue(text, key=KEY, fix=fix)
    for key in shapes:
        if key not in wanted and not key.endswith(STATISTICS):
            raise InvalidValue(
                f"{name!r} has a tensor {key!r}, which the model does not have", key=KEY, fix=fix
            )
