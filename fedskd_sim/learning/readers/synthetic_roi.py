"""Connectivity of brain regions, made from a seed.

Regions belong to networks. In Fisher z, regions of one network are coupled, and the coupling of
some pairs of networks depends on the class, or of several labels on all that a subject has; every
subject has couplings of its own, every hospital's scanner a pattern of its own (site shift), and
its patients their own class frequencies (label skew).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.learning.readers.synthetic import count_samples, draw_labels, number_ids, shares
from fedskd_sim.learning.samples import Arrays, Facts
from fedskd_sim.learning.task import pack, unpack
from fedskd_sim.scenario import SyntheticRoi
from fedskd_sim.seeds import seed

NETWORKS = 6
WITHIN, BETWEEN_SUBJECTS, NOISE, PATTERN = 0.5, 0.15, 0.25, 0.15
AFFECTED = 0.4
USUAL = 0.35
"""How frequent each of several labels is without skew."""
Floats = NDArray[np.float64]


def facts(dataset: SyntheticRoi, name: str, scenario_seed: int) -> Facts:
    """Return a hospital's classes and training labels without drawing a subject."""
    labels = _labels(dataset, name, scenario_seed)
    return Facts(
        _classes(dataset),
        dataset.regions,
        1,
        labels[shares(len(labels))[0]],
        count_samples(name, _classes(dataset), labels, multi_label=dataset.multi_label),
        "roi",
        multi_label=dataset.multi_label,
    )


def load(dataset: SyntheticRoi, name: str, scenario_seed: int) -> Arrays:
    """Draw a hospital's subjects; the same scenario seed and hospital name give the same bytes."""
    labels = _labels(dataset, name, scenario_seed)
    common = np.random.default_rng(seed(scenario_seed, "synthetic networks"))
    scanner = np.random.default_rng(seed(scenario_seed, "synthetic scanner", name))
    draw = np.random.default_rng(seed(scenario_seed, "synthetic subjects", name))
    network = np.arange(dataset.regions) % NETWORKS
    coupling = _symmetric(common, (dataset.classes, NETWORKS, NETWORKS))
    coupling *= _symmetric(common, (1, NETWORKS, NETWORKS)) > np.sqrt(2) * (0.5 - AFFECTED)
    usual = WITHIN * (network[:, None] == network[None, :])
    effect = dataset.effect * BETWEEN_SUBJECTS * coupling[:, network[:, None], network[None, :]]
    pattern = (
        dataset.site_shift * PATTERN * _symmetric(scanner, (1, dataset.regions, dataset.regions))
    )
    own = (
        BETWEEN_SUBJECTS
        * _symmetric(draw, (len(labels), NETWORKS, NETWORKS))[:, network[:, None], network[None, :]]
    )
    z = (
        usual
        + (_sum(effect, labels) if dataset.multi_label else effect[labels])
        + pattern
        + own
        + NOISE * _symmetric(draw, (len(labels), dataset.regions, dataset.regions))
    )
    z *= 1 - np.eye(dataset.regions)
    return Arrays(
        z.astype(np.float32),
        labels,
        shares(len(labels)),
        _classes(dataset),
        number_ids(len(labels)),
    )


def _labels(dataset: SyntheticRoi, name: str, scenario_seed: int) -> NDArray[np.int64]:
    """Draw classes, or of several labels how frequent each is, between `USUAL` and anything, and
    then who has which.
    """
    if not dataset.multi_label:
        return draw_labels(dataset, name, scenario_seed)
    draw = np.random.default_rng(seed(scenario_seed, "synthetic labels", name))
    skew, own = dataset.label_skew, draw.random(dataset.classes)
    present = draw.random((dataset.samples, dataset.classes)) < (1 - skew) * USUAL + skew * own
    return pack(present)


def _sum(effect: Floats, labels: NDArray[np.int64]) -> Floats:
    """Add up the effects (classes, R, R) of all labels that a subject has, (N, R, R)."""
    found: Floats = np.tensordot(unpack(labels, len(effect)).astype(np.float64), effect, 1)
    return found


def _classes(dataset: SyntheticRoi) -> tuple[str, ...]:
    return tuple(f"group-{index}" for index in range(dataset.classes))


def _symmetric(draw: np.random.Generator, shape: tuple[int, int, int]) -> Floats:
    """Draw symmetric matrices (N, R, R) whose entries have spread 1 off the diagonal."""
    values = draw.normal(0, 1, shape)
    symmetric: Floats = (values + values.transpose(0, 2, 1)) / np.sqrt(2)
    return symmetric
