"""Training written down directly, for what the algorithms are compared with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy, log_softmax

from fedskd_sim.learning.data import augment, batches, load
from fedskd_sim.learning.networks.models import ImageShape, build
from fedskd_sim.learning.task import class_weights
from fedskd_sim.scenario import load as load_scenario
from fedskd_sim.seeds import seed

TEXT = """
name: small
seed: 3
data: {{name: synthetic-skin, samples: 60, image_size: 16, classes: 3}}
hospitals:
  - {{name: a, architecture: {{name: cnn-plain, options: {{width: 8, norm: {norm}}}}}}}
  - {{name: b, architecture: {{name: cnn-residual, options: {{width: 8}}}}, data: {{samples: 50}}}}
  - {{name: c, architecture: {{name: vit-tiny, options: {{width: 16, depth: 2}}}}}}
algorithm: {algorithm}
training: {{epochs: 2, warmup_epochs: 1, batch_size: 20}}
prediction: {prediction}
"""
EPOCHS, BATCH = 2, 20
TRAVELLER_FIRST = "{name: fedskd, preset: traveller-first, rounds: 2}"
FEDAVG = (
    "{name: fedavg, rounds: 2, architecture: {name: cnn-plain, options: {width: 8, norm: batch}}}"
)
TOLERANCE = 4e-3
"""Of weights: sums in another order differ in the last bit, and AdamW makes the most of it, above
all in the transformer."""
Weights = dict[str, torch.Tensor]


def text(algorithm: str, prediction: str = "{}", norm: str = "none") -> str:
    return TEXT.format(algorithm=algorithm, prediction=prediction, norm=norm)


def files(folder: Path) -> dict[str, bytes]:
    kept = [*(folder / "records").iterdir(), *(folder / "weights").iterdir()]
    return {path.name: path.read_bytes() for path in sorted(kept)}


def final(folder: Path) -> dict[str, Weights]:
    return {name: load_file(folder / "weights" / f"{name}.safetensors") for name in "abc"}


class Loops:
    """Training written down directly: no ring code, no transport, no budget."""

    def __init__(self, path: Path) -> None:
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        self.scenario = load_scenario(path).scenario
        self.data = {name: load(self.scenario, name, None, "cpu") for name in "abc"}

    def seed(self, purpose: str, *parts: str | int) -> int:
        return seed(self.scenario.seed, purpose, *parts)

    def first(self, name: str, number: int) -> torch.nn.Module:
        return build(self.scenario.architecture(name), ImageShape(3, 16, 3), number)

    def copied(self, name: str, weights: Weights) -> torch.nn.Module:
        model = self.first(name, 0)
        model.load_state_dict(weights)
        return model

    def steps(
        self, host: str, session: int, epochs: int
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        draw = torch.Generator().manual_seed(session)
        return [
            (augment(b.images, draw), b.labels)
            for _ in range(epochs)
            for b in batches(self.data[host].train, BATCH, draw)
        ]

    def train(
        self,
        model: torch.nn.Module,
        host: str,
        session: int,
        epochs: int,
        penalty: Callable = lambda: 0.0,
    ) -> None:
        steps = self.steps(host, session, epochs)
        weights = class_weights(self.data[host].train.labels, 3, "sqrt_inverse")
        optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
        model.train()
        for number, (images, labels) in enumerate(steps):
            optimiser.zero_grad()
            (cross_entropy(model(images)[0], labels, weights) + penalty()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
            optimiser.param_groups[0]["lr"] = 2e-3 * min(1.0, (number + 1) / (0.2 * len(steps)))
            optimiser.step()


def saved(model: torch.nn.Module) -> Weights:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(found: Weights, wanted: Weights) -> bool:
    return found.keys() == wanted.keys() and all(
        torch.equal(found[key], value) for key, value in wanted.items()
    )


def kl(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    given = teacher.detach()
    return (given.softmax(1) * (log_softmax(given, 1) - log_softmax(student, 1))).sum(1).mean()


def train_together(
    loops: Loops, models: list[torch.nn.Module], host: str, session: int, loss: Callable
) -> None:
    """One session in which several models train on the same batches with one loss."""
    steps = loops.steps(host, session, EPOCHS)
    optimisers = [
        torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2) for model in models
    ]
    for number, (images, labels) in enumerate(steps):
        for model, optimiser in zip(models, optimisers, strict=True):
            model.train()
            optimiser.zero_grad()
        loss([model(images) for model in models], labels).backward()
        for model, optimiser in zip(models, optimisers, strict=True):
            torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
            optimiser.param_groups[0]["lr"] = 2e-3 * min(1.0, (number + 1) / (0.2 * len(steps)))
            optimiser.step()


def warmed_up(loops: Loops) -> dict[str, torch.nn.Module]:
    own = {name: loops.first(name, loops.seed("initial weights", name)) for name in "abc"}
    for name, model in own.items():
        loops.train(model, name, loops.seed("warm-up", name), 1)
    return own


def agree(found: dict, own: dict[str, torch.nn.Module]) -> bool:
    pairs = [(found[name][key], value) for name in own for key, value in saved(own[name]).items()]
    print(
        {
            n: max(float((found[n][k] - v).abs().max()) for k, v in saved(own[n]).items())
            for n in own
        }
    )
    return all(torch.allclose(left, right, rtol=0, atol=TOLERANCE) for left, right in pairs)
