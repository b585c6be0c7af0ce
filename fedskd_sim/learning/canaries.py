"""Canaries: samples that a run is audited with. A coin decides which of them are trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedskd_sim.learning.data import HospitalData, Samples
from fedskd_sim.learning.samples import Facts
from fedskd_sim.scenario import Scenario
from fedskd_sim.seeds import seed


class Coins(NamedTuple):
    """What is drawn for a hospital's canaries without its samples."""

    labels: NDArray[np.int64]
    """(canaries,)."""
    put_in: NDArray[np.bool_]
    """Which of them train, (canaries,)."""


def toss(scenario: Scenario, host: str, classes: int) -> Coins:
    """Draw a label for each canary of a hospital, and whether it trains."""
    count = scenario.audit.canaries if scenario.audit and host in scenario.members else 0
    draw = np.random.default_rng(seed(scenario.seed, "canaries", host))
    return Coins(draw.integers(0, classes, count), draw.random(count) < 0.5)  # noqa: PLR2004 - a coin


def counted(found: Facts, scenario: Scenario, host: str) -> Facts:
    """Return what is known of a hospital's data with the canaries that train among it."""
    coins = toss(scenario, host, len(found.classes))
    labels = coins.labels[coins.put_in]
    if not len(labels):
        return found
    more = {name: int((labels == place).sum()) for place, name in enumerate(found.classes)}
    counts = found.counts

    def plus(numbers: Mapping[str, int]) -> dict[str, int]:
        return {**numbers, **{name: numbers.get(name, 0) + more[name] for name in more}}

    used = {**counts.used, "train": plus(counts.used["train"])}
    source = f"{counts.source} and {len(labels)} canaries"
    counts = replace(counts, source=source, found=plus(counts.found), used=used)
    trains = np.concatenate((found.train_labels, labels))
    return replace(found, train_labels=trains, counts=counts)


def plant(data: HospitalData, scenario: Scenario, host: str) -> HospitalData:
    """Put the canaries that train among a hospital's training samples, behind all others."""
    coins = toss(scenario, host, len(data.classes))
    if not coins.put_in.any():
        return data
    chosen = torch.from_numpy(coins.put_in)
    canaries, train = make(data, coins, scenario, host), data.train
    count = int(chosen.sum())
    first = max(train.subjects, default=-1) + 1
    planted = Samples(
        torch.cat([train.images, canaries.images[chosen.to(canaries.images.device)]]),
        torch.cat([train.labels, canaries.labels[chosen.to(canaries.labels.device)]]),
        train.ids + tuple(f"canary {row}" for row in np.flatnonzero(coins.put_in)),
        train.subjects and train.subjects + tuple(range(first, first + count)),
        train.numbers and train.numbers + tuple(range(-count, 0)),
    )
    told = f"{count} of {len(coins.put_in)} canaries train here"
    return replace(data, train=planted, remark="; ".join(filter(None, (data.remark, told))))


def make(data: HospitalData, coins: Coins, scenario: Scenario, host: str) -> Samples:
    """Make a hospital's canaries: training samples whose entries are shuffled, each in its own way,
    with the labels that were drawn.
    """
    draw = np.random.default_rng(seed(scenario.seed, "shuffled canaries", host))
    rows = draw.integers(0, len(data.train.labels), len(coins.labels))
    images = data.train.images[torch.from_numpy(rows).to(data.train.images.device)].cpu()
    shuffled = torch.stack([_shuffled(one, draw) for one in images])
    labels = torch.from_numpy(coins.labels).to(data.train.labels.device)
    return Samples(shuffled.to(data.train.images.device), labels)


def _shuffled(sample: Tensor, draw: np.random.Generator) -> Tensor:
    if sample.ndim == 2 and len(sample) == sample.shape[1]:  # noqa: PLR2004 - connectivity, whose halves are alike
        above = torch.triu_indices(len(sample), len(sample), offset=1)
        values = sample[above[0], above[1]][torch.from_numpy(draw.permutation(above.shape[1]))]
        mixed = sample.clone()
        mixed[above[0], above[1]] = mixed[above[1], above[0]] = values
        return mixed
    order = torch.from_numpy(draw.permutation(sample.numel()))
    return sample.flatten()[order].reshape(sample.shape)
