"""On a CUDA device: a step of two models with similarity off and on and traveller first, launched,
recorded and compiled; how much of the time the device is busy; whether every session gives the same
bytes.

Without a device nothing is measured, and that is said.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from fedskd_sim.learning.data import Samples
from fedskd_sim.learning.devices import settle
from fedskd_sim.learning.distillation.distill import SimilarityLoss
from fedskd_sim.learning.networks.models import ImageShape, build
from fedskd_sim.learning.sessions.graphs import CudaGraphs
from fedskd_sim.learning.sessions.recorded import Recordings, compiler
from fedskd_sim.learning.sessions.session import Begin, Launched, SessionModels, TrainingJob, train
from fedskd_sim.learning.sessions.steps import Exchange
from fedskd_sim.learning.weights import snapshot
from fedskd_sim.learning.workspace import fix_workspace
from fedskd_sim.messages import digest
from fedskd_sim.scenario import Architecture, Similarity, Training
from tests.benchmarks.table import Table

BATCHES = 10
REPEATS = 3
CLASSES = 7
ROOM = 60 << 30
OFF = Similarity(batch=0.0, pixel=0.0, region=0.0)


class Case(NamedTuple):
    """Two architectures, the edge of their images in pixels, images in a batch, cells along an axis
    of the pixel level, arithmetic, and whether networks are compiled too.
    """

    visitor: str
    resident: str
    size: int
    batch: int
    grid: int
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    compile: bool = False

    def __str__(self) -> str:
        """Name it."""
        size = f"{self.batch} of {self.size} pixels"
        return f"{self.visitor} + {self.resident}, {size}, {self.precision}"


CASES = (
    Case("cnn-plain", "vit-tiny", 32, 32, 8),
    Case("vit-tiny", "cnn-residual", 32, 32, 8),
    Case("resnet18", "mobilenet-v3-large", 224, 64, 14, "tf32"),
    Case("efficientnet-b0", "resnet18", 224, 64, 14, "tf32"),
    Case("resnet18", "mobilenet-v3-large", 224, 64, 14, "bf16", compile=True),
)
WAYS = ("off", "all three", "traveller first")


class Bench:
    """The data and the models of one case on a device, sessions of which are timed."""

    def __init__(self, case: Case, device: str) -> None:
        """Draw pixels and build both networks."""
        self.case, self.device = case, device
        self.training = Training(batch_size=case.batch, precision=case.precision)
        settle(1, device, self.training)
        count = case.batch * BATCHES
        pixels = torch.randint(0, 256, (count, case.size, case.size, 3), dtype=torch.uint8)
        labels = torch.arange(count) % CLASSES
        self.samples = Samples(pixels.to(device), labels.to(device))
        self.recordings = Recordings(CudaGraphs(device), ROOM)
        compiled = self.training.model_copy(update={"compile": True})
        self.compiled = Recordings(CudaGraphs(device), ROOM, compiler(compiled))

    def session(self, way: str, begin: Begin, seed: int = 1) -> str:
        """Train for a session of all batches, and give the digest of what came of the visitor."""
        shape = ImageShape(3, self.case.size, CLASSES)
        models = {}
        for role, name in (("visitor", self.case.visitor), ("resident", self.case.resident)):
            architecture = Architecture(name=name)
            model = build(architecture, shape, seed).to(self.device)
            models[role] = self.recordings.know(model, architecture)
            self.compiled.know(model, architecture)
        first = way == "traveller first"
        similarity = SimilarityLoss.of(OFF if way == "off" else Similarity(), (self.case.grid,) * 2)
        past = deepcopy(models["visitor"]).eval() if first else None
        exchange = Exchange(similarity, 0.0, 0.0, past, None, 1.0 if first else 0.0)
        budget = len(self.samples.labels) * (1 if first else 2)
        weights = torch.ones(CLASSES, device=self.device)
        job = TrainingJob(self.samples, weights, self.training, budget, 0)
        self._wait()
        self.began = time.perf_counter()
        sums = train(SessionModels(models, 0 if first else 1, teaches=True), job, exchange, begin)
        if sums.remark:
            raise RuntimeError(sums.remark)
        self._wait()
        self.milliseconds = (time.perf_counter() - self.began) * 1000 / BATCHES
        return digest(snapshot(models["visitor"]))

    def busy(self, way: str, begin: Begin) -> float:
        """Give the share of a session's time in which the device computes, in percent."""
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
            self.session(way, begin)
        spent = sum(entry.self_device_time_total for entry in seen.key_averages())
        return 100 * spent / (self.milliseconds * BATCHES * 1000)

    def _wait(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)


def measure(case: Case, device: str, repeats: int = REPEATS) -> Iterator[Table]:
    """Measure one case: time of a step, share of it in which the device is busy, equal bytes."""
    bench = Bench(case, device)
    begins: dict[str, Begin] = {
        "launched": partial(Launched, on_device=True),
        "recorded": bench.recordings.begin,
    }
    rows = [(f"{way}, {name}", way, begin) for way in WAYS for name, begin in begins.items()]
    if case.compile:
        rows.append(("traveller first, compiled", "traveller first", bench.compiled.begin))
    times: dict[str, list[float]] = {row: [] for row, _, _ in rows}
    results: dict[str, set[str]] = {row: set() for row, _, _ in rows}
    first: dict[str, list[float]] = {}
    for number in range(repeats + 1):
        for row, way, begin in rows:
            results[row].add(bench.session(way, begin))
            if number:
                times[row].append(bench.milliseconds)
            else:
                first[row] = [bench.milliseconds * BATCHES / 1000]
    yield Table(f"step of {case}", "ms", times, "off, launched")
    yield Table(f"first session of {case}", "s", first)
    shares = {row: [bench.busy(way, begin)] for row, way, begin in rows if way == WAYS[-1]}
    yield Table(f"device busy, {case}", "%", shares)
    alike = {row: [float(len(found) == 1)] for row, found in results.items()}
    yield Table(f"{repeats + 1} sessions give the same bytes, {case}", "1: yes", alike)


def main() -> Iterator[Table]:
    """Measure all cases on the first CUDA device, each while it is waited for."""
    if not torch.cuda.is_available():
        print("card: no CUDA device here, nothing measured")
        return
    fix_workspace()
    print(f"card: {torch.cuda.get_device_name()}, PyTorch {torch.__version__}", flush=True)
    for case in CASES:
        yield from measure(case, "cuda")
