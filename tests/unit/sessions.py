"""Small sessions of every kind, which tests take launched and recorded, on a CPU and on a card."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fedskd_sim.learning.data import Samples
from fedskd_sim.learning.distillation.distill import SimilarityLoss
from fedskd_sim.learning.networks.models import ImageShape, build
from fedskd_sim.learning.sessions.recorded import Recordings
from fedskd_sim.learning.sessions.session import RunningSums, SessionModels, TrainingJob
from fedskd_sim.learning.sessions.steps import Exchange, Teaching
from fedskd_sim.learning.weights import export
from fedskd_sim.messages import digest
from fedskd_sim.methods.fd import ClassMeansTeaching
from fedskd_sim.methods.fedproto import PrototypeTeaching
from fedskd_sim.methods.fedprox import ProximalTeaching
from fedskd_sim.methods.fml import COMMON, MutualTeaching
from fedskd_sim.methods.keys import FD, FedProto
from fedskd_sim.scenario import Architecture, Similarity, Training

SHAPE = ImageShape(3, 16, 3)
VISITOR = Architecture(name="cnn-plain", options={"width": 8, "norm": "batch"})
RESIDENT = Architecture(name="vit-tiny", options={"width": 16, "depth": 2})
COUNT, BATCH = 42, 8
LARGE = 1e9
Case = Callable[..., tuple[SessionModels, Teaching | None]]
"""Makes a session's models and what they are taught, from a seed, on a device."""


def make_job(
    seed: int = 5, epochs: int = 3, models: int = 1, device: str = "cpu", **settings: Any
) -> TrainingJob:
    """Give a session's work: so many passes of each model over images with a ragged last batch."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(COUNT, 3, 16, 16, generator=draw)
    samples = Samples(images.to(device), (torch.arange(COUNT) % 3).to(device))
    training = Training(batch_size=BATCH, **settings)
    weights = torch.tensor([1.0, 2.0, 0.5], device=device)
    return TrainingJob(samples, weights, training, epochs * COUNT * models, seed)


def make_pair(seed: int, device: str) -> dict[str, nn.Module]:
    """Build a visitor and a resident."""
    models = {"visitor": build(VISITOR, SHAPE, seed), "resident": build(RESIDENT, SHAPE, seed + 1)}
    return {role: model.to(device) for role, model in models.items()}


def make_exchange(past: nn.Module) -> Exchange:
    """Teach by similarity, with a rising factor, and by what the visitor was."""
    similarity = SimilarityLoss.of(Similarity(), (3, 3))
    return Exchange(similarity, 0.3, 0.5, deepcopy(past).eval(), similarity, 0.2)


def _visit(every: int) -> Case:
    def make(seed: int, device: str = "cpu") -> tuple[SessionModels, Teaching]:
        models = make_pair(seed, device)
        return SessionModels(models, every, teaches=True), make_exchange(models["visitor"])

    return make


def _mutual(seed: int, device: str = "cpu") -> tuple[SessionModels, Teaching]:
    models = make_pair(seed, device)
    return SessionModels({"own": models["visitor"], COMMON: models["resident"]}), MutualTeaching(
        0.5
    )


def _proximal(seed: int, device: str = "cpu") -> tuple[SessionModels, Teaching]:
    model = build(VISITOR, SHAPE, seed).to(device)
    return SessionModels({"own": model}), ProximalTeaching.of(0.1, model)


def _prototypes(seed: int, device: str = "cpu") -> tuple[SessionModels, Teaching]:
    known = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed))
    known[1] = math.nan
    config = FedProto(name="fedproto", features=5)
    models = SessionModels({"own": build(VISITOR, SHAPE, seed).to(device)})
    return models, PrototypeTeaching(known.to(device), config)


def _class_means(seed: int, device: str = "cpu") -> tuple[SessionModels, Teaching]:
    said = torch.rand(3, 3, generator=torch.Generator().manual_seed(seed))
    said[1] = math.nan
    models = SessionModels({"own": build(VISITOR, SHAPE, seed).to(device)})
    return models, ClassMeansTeaching(said.to(device), FD(name="fd"))


def alone(seed: int, device: str = "cpu") -> tuple[SessionModels, None]:
    """Give a model that nobody teaches."""
    return SessionModels({"own": build(RESIDENT, SHAPE, seed).to(device)}), None


CASES: dict[str, Case] = {
    "alone": alone,
    "mutual training": _visit(1),
    "traveller first": _visit(0),
    "resident every second": _visit(2),
    "common model": _mutual,
    "proximal": _proximal,
    "prototypes": _prototypes,
    "class means": _class_means,
}
"""Everything that is taught at a stop, by the name of the case."""


def know(models: SessionModels, recordings: Recordings) -> None:
    """Tell of which architectures the models are."""
    for role, model in models.by_role.items():
        recordings.know(model, RESIDENT if role else VISITOR)


def outcome(models: SessionModels, sums: RunningSums) -> tuple[Any, ...]:
    """Give all that came of a session, so that it can be compared bit for bit."""
    return (
        {role: digest(export(model)) for role, model in models.by_role.items()},
        sums.measures,
        (sums.samples, sums.forwards, sums.steps),
    )


class Operations(TorchDispatchMode):
    """Counts the operations that reach a device."""

    def __init__(self) -> None:
        """Count none yet."""
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count and go on."""
        del types
        self.seen[func.overloadpacket._qualified_op_name.removeprefix("aten::")] += 1
        if "index" in func.name() and any(
            one is not None and one.dtype in (torch.bool, torch.uint8)
            for one in (args[1] if isinstance(args[1], list | tuple) else [])
        ):
            self.seen["nonzero"] += 1
        return func(*args, **(kwargs or {}))
