"""Which part of a network trains, and how fast its head does.

What is frozen stays in evaluation mode: the statistics of its normalisations do not move, and
nothing of it drops out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from fedskd_sim.errors import InvalidValue
from fedskd_sim.scenario import Architecture, NetworkPart

RATES = "fedskd_head_rate"
"""The attribute of a network that says how fast its head trains; copies keep it."""
SHOWN = 4
NORMS = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.InstanceNorm1d,
    nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm, nn.LayerNorm,
)  # fmt: skip


class HeadRate(NamedTuple):
    """The parameters of a head and their learning rate."""

    names: frozenset[str]
    rate: float


def head_of(network: nn.Module, classes: int) -> str:
    """Name the head of a network: the last of its modules, as its ``state_dict`` has them, whose
    weights have as many rows as there are classes; empty if there is none.
    """
    found = ""
    for name, module in network.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim > 1 and weight.shape[0] == classes:
            found = name
    return found


def part_of(network: nn.Module, part: NetworkPart, classes: int) -> frozenset[str]:
    """Name the tensors of a network's ``state_dict`` that are of its head, or of its
    normalisations; none where it has none.
    """
    if part == "head":
        head = head_of(network, classes)
        found = [head] if head else []
    else:
        found = [name for name, module in network.named_modules() if isinstance(module, NORMS)]
    return frozenset(
        name for name in network.state_dict() for one in found if name.startswith(f"{one}.")
    )


def restrict(network: nn.Module, chosen: Architecture, classes: int) -> None:
    """Freeze all but the part of a network which a scenario names, and note the rate of its head.

    Raises:
        InvalidValue: it has no such part.

    """
    head = head_of(network, classes)
    names = [name for name, _ in network.named_parameters()]
    of_head = [name for name in names if name.startswith(f"{head}.")]
    if not head and (chosen.trainable == "head" or chosen.head_rate is not None):
        key = "trainable" if chosen.trainable == "head" else "head_rate"
        text = f"no module of {chosen.name} has weights of {classes} rows, as many as classes"
        raise InvalidValue(text, key=(key,), fix="name patterns of parameters as 'trainable'")
    if chosen.head_rate is not None:
        setattr(network, RATES, HeadRate(frozenset(of_head), chosen.head_rate))
    if chosen.trainable == "all":
        return
    trained = {*(of_head if chosen.trainable == "head" else _matching(chosen, names))}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in trained)
    frozen = [module for module in network.modules() if _is_frozen(module)]
    inside = dict.fromkeys(part for module in frozen for part in module.modules())
    network.register_forward_pre_hook(partial(_rest, [*inside]))


def _matching(chosen: Architecture, names: Sequence[str]) -> list[str]:
    """List the parameters that some pattern means; raises InvalidValue for a pattern that means
    none.
    """
    for place, pattern in enumerate(chosen.trainable):
        if not any(fnmatchcase(name, pattern) for name in names):
            text = f"no parameter of {chosen.name} is called like {pattern!r}"
            some = ", ".join((*names[:SHOWN], "...", names[-1]))
            fix = f"write a pattern of names, as 'layer4.*': {some}"
            raise InvalidValue(text, key=("trainable", place), fix=fix)
    return [name for name in names if any(fnmatchcase(name, one) for one in chosen.trainable)]


def _is_frozen(module: nn.Module) -> bool:
    """Return whether a module has parameters or buffers, and none that trains."""
    own = [*module.parameters()]
    return bool(own or [*module.buffers()]) and not any(one.requires_grad for one in own)


def _rest(frozen: Iterable[nn.Module], _network: nn.Module, _inputs: Any) -> None:
    """Keep in evaluation mode what is frozen, whatever mode the network is in."""
    for module in frozen:
        module.training = False


def groups_of(network: nn.Module, rate: float) -> list[dict[str, Any]]:
    """Divide a network's parameters for an optimiser whose learning rate is ``rate``: by the
    factor on it.
    """
    head: HeadRate | None = getattr(network, RATES, None)
    if head is None:
        return [{"params": [*network.parameters()], "factor": 1.0}]
    parts: dict[bool, list[Tensor]] = {False: [], True: []}
    for name, parameter in network.named_parameters():
        parts[name in head.names].append(parameter)
    factors = {False: 1.0, True: head.rate / rate}
    return [{"params": part, "factor": factors[own]} for own, part in parts.items() if part]
