"""Volumes of a brain-like ball with an atlas, made from a seed.

The ball is cut into regions around random centres, the same for every hospital (the atlas). Each
class has a pattern over the regions, up in some and down in others, which a subject follows with a
strength of its own; every region has activity of its own besides. Smooth noise lies over all of it.
The hospital's scanner then adds gain, shading along an axis and blur (site shift), and its patients
have their own class frequencies (label skew).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.learning.readers.synthetic import count_samples, draw_labels, number_ids, shares
from fedskd_sim.learning.samples import Arrays, Facts
from fedskd_sim.scenario import SyntheticVolumes
from fedskd_sim.seeds import seed

RADIUS = 0.95
NOISE = 0.5
Floats = NDArray[np.float64]


def facts(dataset: SyntheticVolumes, name: str, scenario_seed: int) -> Facts:
    """Return a hospital's classes, training labels and atlas without drawing a volume."""
    labels = draw_labels(dataset, name, scenario_seed)
    train = labels[shares(len(labels))[0]]
    counts, grid = count_samples(name, _classes(dataset), labels), (dataset.size,) * 3
    return Facts(
        _classes(dataset),
        dataset.size,
        1,
        train,
        counts,
        "volume",
        grid,
        atlas(dataset, scenario_seed),
    )


def load(dataset: SyntheticVolumes, name: str, scenario_seed: int) -> Arrays:
    """Draw a hospital's volumes (N, 1, S, S, S); the same scenario seed and hospital name give
    the same bytes.
    """
    labels = draw_labels(dataset, name, scenario_seed)
    common = np.random.default_rng(seed(scenario_seed, "synthetic patterns"))
    draw = np.random.default_rng(seed(scenario_seed, "synthetic volumes", name))
    scanner = np.random.default_rng(seed(scenario_seed, "synthetic scanner", name))
    patterns = common.choice([-1.0, 1.0], (dataset.classes, dataset.regions))
    strength = 1 + 0.5 * draw.normal(0, 1, (len(labels), 1))
    activity = dataset.effect * strength * patterns[labels] + draw.normal(
        0, 1, (len(labels), dataset.regions)
    )
    levels = np.concatenate([np.zeros((len(labels), 1)), activity], axis=1)
    volumes = levels[:, atlas(dataset, scenario_seed)]
    volumes += NOISE * 3 * _blur(draw.normal(0, 1, volumes.shape), 1.0)
    seen = _scan(volumes, dataset.site_shift, scanner)
    return Arrays(
        seen[:, None].astype(np.float32),
        labels,
        shares(len(labels)),
        _classes(dataset),
        number_ids(len(labels)),
    )


def atlas(dataset: SyntheticVolumes, scenario_seed: int) -> NDArray[np.int64]:
    """Number the regions of the ball (S, S, S): 1..R by the nearest centre, 0 outside."""
    draw = np.random.default_rng(seed(scenario_seed, "synthetic atlas"))
    axis = np.linspace(-1, 1, dataset.size)
    places = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    inside = np.linalg.norm(places, axis=-1) <= RADIUS
    voxels = places[inside]
    centres = voxels[draw.choice(len(voxels), dataset.regions, replace=False)]
    numbers = np.zeros(inside.shape, np.int64)
    numbers[inside] = 1 + np.linalg.norm(voxels[:, None] - centres, axis=-1).argmin(axis=1)
    return numbers


def _classes(dataset: SyntheticVolumes) -> tuple[str, ...]:
    return tuple(f"group-{index}" for index in range(dataset.classes))


def _scan(volumes: Floats, shift: float, draw: np.random.Generator) -> Floats:
    """Pass volumes (N, S, S, S) through a scanner: blur, shading along an axis, gain and offset."""
    gain, offset, shade, blur = draw.normal(0, 1, 4)
    ramp = np.linspace(-1, 1, volumes.shape[1])
    shading: Floats = np.moveaxis(ramp.reshape(-1, 1, 1), 0, draw.integers(3))
    shaded: Floats = _blur(volumes, shift * abs(blur) / 3) + 0.5 * shift * shade * shading
    seen: Floats = np.exp(0.4 * shift * gain) * shaded + 0.5 * shift * offset
    return seen


def _blur(volumes: Floats, share: float) -> Floats:
    """Mix every voxel of (N, S, S, S) with its neighbours along each axis; ``share`` 0 does
    nothing, 1 is an even mean of three.
    """
    side = min(share, 1.0) / 3
    for axis in (1, 2, 3):
        volumes = (1 - 2 * side) * volumes + side * (
            np.roll(volumes, 1, axis) + np.roll(volumes, -1, axis)
        )
    return volumes
