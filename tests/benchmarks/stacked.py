"""Ten models of one architecture, one step of each: one after another, or as one batched
computation of `torch.func`, as a comparison could take the same stop under ten seeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from fedskd_sim.learning.networks.contract import draw_samples
from fedskd_sim.learning.networks.models import ImageShape, build
from fedskd_sim.scenario import Architecture
from tests.benchmarks.table import Table

MODELS, REPEATS = 10, 7
ROI = ("roi-mlp", "roi-gcn", "roi-brainnet", "roi-transformer")
CASES = (
    *((name, ImageShape(1, regions, 2, "roi"), 16) for regions in (16, 111) for name in ROI),
    *(
        (name, ImageShape(3, 28, 7), 32)
        for name in ("cnn-plain", "cnn-residual", "cnn-depthwise", "vit-tiny")
    ),
)


def measure(name: str, shape: ImageShape, batch: int) -> tuple[list[float], list[float]]:
    """Take forward and backward passes both ways in turn; gives CPU milliseconds of all models."""
    networks = [build(Architecture(name=name), shape, seed) for seed in range(MODELS)]
    images = torch.stack([torch.cat([draw_samples(shape)] * (batch // 2)) for _ in networks])
    labels = (torch.arange(MODELS * batch) % shape.classes).reshape(MODELS, batch)
    weights, buffers = stack_module_state(networks)

    def loss(given: object, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return cross_entropy(functional_call(networks[0], given, (image,))[0], label)

    batched = vmap(loss, in_dims=((0, 0), 0, 0), randomness="different")

    def alone() -> None:
        for network, image, label in zip(networks, images, labels, strict=True):
            cross_entropy(network(image)[0], label).backward()

    def stacked() -> None:
        with sdpa_kernel(SDPBackend.MATH):  # the only attention that can be batched
            batched((weights, buffers), images, labels).sum().backward()

    found = [(_cpu_ms(alone), _cpu_ms(stacked)) for _ in range(REPEATS)][1:]
    return [one for one, _ in found], [other for _, other in found]


def _cpu_ms(what: Callable[[], None]) -> float:
    start = time.process_time()
    what()
    return (time.process_time() - start) * 1000


def main() -> list[Table]:
    """Measure all networks; each table has the ratio."""
    torch.set_num_threads(1)
    tables = []
    for name, shape, batch in CASES:
        alone, stacked = measure(name, shape, batch)
        title = f"{MODELS} steps of {name}, {shape.size} regions or pixels, batch {batch}"
        values = {"one after another": alone, "stacked": stacked}
        tables.append(Table(title, "CPU ms, one thread", values, "one after another"))
    return tables
