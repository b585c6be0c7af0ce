"""A two-model training step with similarity on, against the same step with it off; quickstart's
models, per level.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import torch

from fedskd_sim.learning.comparable import pixel_grid
from fedskd_sim.learning.data import Samples
from fedskd_sim.learning.distillation.distill import SimilarityLoss
from fedskd_sim.learning.networks.models import ImageShape, build
from fedskd_sim.learning.sessions.session import SessionModels, TrainingJob, train
from fedskd_sim.learning.sessions.steps import Exchange
from fedskd_sim.scenario import Scenario, Similarity, load
from tests.benchmarks.table import Table

SCENARIO = Path(__file__).parent.parent.parent / "scenarios" / "quickstart.yaml"
STEPS = 8
REPEATS = 8
OFF = {"batch": 0.0, "pixel": 0.0, "region": 0.0}
CASES: Mapping[str, dict[str, float]] = {
    "off": OFF,
    "batch": {**OFF, "batch": 0.1},
    "pixel": {**OFF, "pixel": 0.1},
    "region": {**OFF, "region": 0.1},
    "all three": {"batch": 0.1, "pixel": 0.1, "region": 0.1},
}


def pair(scenario: Scenario, names: tuple[str, str], shape: ImageShape) -> dict[str, list[float]]:
    """Train two hospitals' models together, all cases in turn; thread CPU milliseconds per step."""
    draw = torch.Generator().manual_seed(0)
    samples = Samples(
        torch.randn(32 * STEPS, 3, shape.size, shape.size, generator=draw),
        torch.arange(32 * STEPS) % shape.classes,
    )
    found: dict[str, list[float]] = {case: [] for case in CASES}
    for _ in range(REPEATS):
        for case, weights in CASES.items():
            similarity = Similarity(**weights)
            models = {
                prefix: build(scenario.hospital(name).architecture, shape, 1)
                for prefix, name in zip(("visitor", "resident"), names, strict=True)
            }
            job = TrainingJob(
                samples, torch.ones(shape.classes), scenario.training, 2 * len(samples.labels), 0
            )
            exchange = Exchange(
                SimilarityLoss.of(similarity, pixel_grid(scenario, shape)), 0.0, rise=0.0
            )
            start = time.process_time()
            train(SessionModels(models, teaches=not similarity.off), job, exchange)
            found[case].append((time.process_time() - start) * 1000 / STEPS)
    return {case: times[1:] for case, times in found.items()}


def main() -> list[Table]:
    """Measure every pair of quickstart's models, and all pairs together."""
    torch.set_num_threads(1)
    scenario = load(SCENARIO).scenario
    shape = ImageShape(3, 32, 4)
    tables = []
    for names in combinations(scenario.names, 2):
        kinds = " + ".join(scenario.hospital(name).architecture.name for name in names)
        tables.append(Table(f"step of {kinds}", "ms", pair(scenario, names, shape), "off"))
    every = {
        case: [sum(times) for times in zip(*(table.values[case] for table in tables), strict=True)]
        for case in CASES
    }
    return [*tables, Table("one step of every pair", "ms", every, "off")]
