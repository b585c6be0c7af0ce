"""A private step against a plain one: a visitor with a frozen teacher and its own past, as in
traveller-first, on the small networks.
"""

from __future__ import annotations

import time

import torch

from fedskd_sim.learning.data import Samples
from fedskd_sim.learning.distillation.distill import SimilarityLoss
from fedskd_sim.learning.networks.contract import draw_samples
from fedskd_sim.learning.networks.models import ImageShape, build
from fedskd_sim.learning.sessions import private
from fedskd_sim.learning.sessions.private import Guard, Units
from fedskd_sim.learning.sessions.session import SessionModels, TrainingJob, train
from fedskd_sim.learning.sessions.steps import Exchange
from fedskd_sim.privacy.accountant import Rule
from fedskd_sim.scenario import Architecture, Training
from tests.benchmarks.table import Table

STEPS, REPEATS = 6, 9
IMAGES, REGIONS = ImageShape(3, 28, 7), ImageShape(3, 110, 2, "roi")
CASES = (
    ("cnn-plain", IMAGES, 32), ("cnn-residual", IMAGES, 32), ("cnn-depthwise", IMAGES, 32),
    ("vit-tiny", IMAGES, 32), ("roi-mlp", REGIONS, 16), ("roi-gcn", REGIONS, 16),
)  # fmt: skip


def measure(name: str, shape: ImageShape, batch: int) -> tuple[list[float], list[float]]:
    """Take sessions of both kinds in turn; gives CPU milliseconds per step of each."""
    chosen, count = Architecture(name=name), batch * STEPS
    images = torch.cat([draw_samples(shape)] * (count // 2))
    samples = Samples(images, torch.arange(count) % shape.classes)
    grid = None if shape.kind == "roi" else (4, 4)
    level = SimilarityLoss(batch=0.0, pixel_grid=grid, region_grid=grid)
    settings = Training(batch_size=batch, class_weights="none")
    job = TrainingJob(samples, torch.ones(shape.classes), settings, count, 1)
    rule = Rule(count, batch / count, 1.0, 1e-3)
    guard = Guard(Units(torch.arange(count), count), rule, 1.0, b"k" * 32)
    plain, private_ = list[float](), list[float]()
    for _ in range(REPEATS):
        for times in (plain, private_):
            visitor, resident, past = (build(chosen, shape, seed) for seed in (1, 2, 3))
            models = SessionModels({"visitor": visitor, "resident": resident}, 0, teaches=True)
            teaching = Exchange(level, 0.3, 0.0, past.eval(), None, 1.0)
            start = time.process_time()
            if times is plain:
                train(models, job, teaching)
            else:
                steps = private.count_steps(models, job, rule)
                private.train(models, job, teaching, guard, steps)
            times.append((time.process_time() - start) * 1000 / STEPS)
    return plain[1:], private_[1:]


def main() -> list[Table]:
    """Measure all networks; each table has the ratio."""
    torch.set_num_threads(1)
    tables = []
    for name, shape, batch in CASES:
        plain, noised = measure(name, shape, batch)
        values = {"plain": plain, "private": noised}
        title = f"step of {name}, {batch} patients, with a teacher and its past"
        tables.append(Table(title, "CPU ms, one thread", values, "plain"))
    return tables
