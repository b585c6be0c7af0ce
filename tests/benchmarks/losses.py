"""The distance in its direct and its factored form over sizes: time of forward and backward, and
what is kept for backward.

Also a training step of a ResNet-18 and a MobileNetV3 at 224 pixels with similarity on, against off.
On a GPU where there is one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple

import torch

from fedskd_sim.learning.data import Samples
from fedskd_sim.learning.distillation.distill import SimilarityLoss
from fedskd_sim.learning.distillation.similarity import BUDGET_BYTES, GramForm, distance
from fedskd_sim.learning.networks.models import ImageShape, build
from fedskd_sim.learning.sessions.session import SessionModels, TrainingJob, train
from fedskd_sim.learning.sessions.steps import Exchange
from fedskd_sim.scenario import Architecture, Similarity, Training
from tests.benchmarks.table import Table

REPEATS = 5
LARGEST = 2**30
"""A form that would keep more than this many bytes is left out."""
FORMS: tuple[GramForm, ...] = ("direct", "factored", "auto")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Case(NamedTuple):
    """Feature sizes of two models: leading axes, items, channels of each."""

    lead: int
    items: int
    first: int
    second: int

    def kept(self, form: GramForm) -> int:
        """Estimate the bytes that a form keeps."""
        a, b = self.first, self.second
        return 4 * self.lead * (3 * self.items**2 if form == "direct" else a * a + b * b + a * b)


CASES: Mapping[str, Case] = {
    "batch, 32 patients, 512x7x7 and 1280x7x7": Case(1, 32, 512 * 49, 1280 * 49),
    "pixel, 32 of 14x14, 256 and 96 channels": Case(32, 196, 256, 96),
    "pixel, 32 of 28x28, 128 and 32 channels": Case(32, 784, 128, 32),
    "voxel, 8 of 16^3, 64 and 32 channels": Case(8, 4096, 64, 32),
    "region, 32 of 4x4, 512 and 1280 channels": Case(32, 16, 512, 1280),
    "region, 16 of 116 ROIs, 128 and 64 channels": Case(16, 116, 128, 64),
    "region, 16 of 200 ROIs, 128 and 64 channels": Case(16, 200, 128, 64),
}


def measured(case: Case, form: GramForm) -> tuple[float, int]:
    """Compute value and gradients once; milliseconds, and bytes kept for backward beside the
    inputs.
    """
    draw = torch.Generator().manual_seed(0)
    sizes = ((case.lead, case.items, channels) for channels in (case.first, case.second))
    x, y = (torch.randn(size, generator=draw).relu().to(DEVICE).requires_grad_() for size in sizes)
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    start = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = distance(x, y, form=form)
    value.backward()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    for side in (x, y):
        kept.pop(side.untyped_storage().data_ptr(), None)
    return seconds * 1000, sum(kept.values())


def forms(title: str, case: Case) -> list[Table]:
    """Measure the forms of one case in turn."""
    chosen = [form for form in FORMS if form == "auto" or case.kept(form) <= LARGEST]
    times: dict[str, list[float]] = {form: [] for form in chosen}
    kept: dict[str, list[float]] = {form: [] for form in chosen}
    for _ in range(REPEATS + 1):
        for form in chosen:
            milliseconds, size = measured(case, form)
            times[form].append(milliseconds)
            kept[form].append(size / 2**20)
    reference = "auto" if len(chosen) == len(FORMS) else None
    return [
        Table(title, "ms", {form: found[1:] for form, found in times.items()}, reference),
        Table(
            f"{title}, kept for backward, budget {BUDGET_BYTES >> 20}",
            "MiB",
            {form: found[:1] for form, found in kept.items()},
        ),
    ]


def step() -> Table:
    """Train the two networks side by side, with all levels on and off and with faster
    arithmetic; ms per step of 8 images.
    """
    samples = Samples(torch.randn(16, 3, 224, 224).to(DEVICE), (torch.arange(16) % 2).to(DEVICE))
    names = {"visitor": "resnet18", "resident": "mobilenet-v3-small"}
    plain, fast = (
        {
            prefix: build(Architecture(name=name), ImageShape(3, 224, 2), 1).to(DEVICE)
            for prefix, name in names.items()
        }
        for _ in range(2)
    )
    fast = {prefix: model.to(memory_format=torch.channels_last) for prefix, model in fast.items()}
    off, on = Similarity(batch=0.0, pixel=0.0, region=0.0), Similarity()
    cases = {
        "off": (plain, off, "fp32"),
        "all three": (plain, on, "fp32"),
        "all three, channels last": (fast, on, "fp32"),
        "all three, bf16": (plain, on, "bf16"),
        "all three, channels last, bf16": (fast, on, "bf16"),
    }
    found: dict[str, list[float]] = {case: [] for case in cases}
    for _ in range(REPEATS + 1):
        for case, (models, settings, precision) in cases.items():
            training = Training(batch_size=8, precision=precision)
            job = TrainingJob(samples, torch.ones(2).to(DEVICE), training, 32, 0)
            exchange = Exchange(SimilarityLoss.of(settings, (14, 14)), 0.0, rise=0.0)
            start = time.perf_counter()
            sums = train(SessionModels(models), job, exchange)
            found[case].append((time.perf_counter() - start) * 1000 / sums.steps)
    title = f"step of resnet18 + mobilenet-v3-small, 8 images of 224 pixels, {DEVICE}"
    return Table(title, "ms", {case: times[1:] for case, times in found.items()}, "off")


def main() -> list[Table]:
    """Measure all cases and the step."""
    torch.set_num_threads(1)
    return [table for title, case in CASES.items() for table in forms(title, case)] + [step()]
