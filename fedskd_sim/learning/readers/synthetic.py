"""Images that look like pigmented skin lesions, made from a seed.

A lesion is a disc with a wavy border on skin. The class decides, with overlap, how irregular the
border is, how dark the middle, how strong the texture and where in colour space it lies. The
hospital's camera then adds its own colour cast, lighting gradient, contrast and blur (site shift),
and its patients have their own class frequencies (label skew).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.learning.readers.splits import Source, Splits, counts
from fedskd_sim.learning.samples import Facts, Images
from fedskd_sim.records import SampleCounts
from fedskd_sim.scenario import SyntheticRoi, SyntheticSkin, SyntheticVolumes
from fedskd_sim.seeds import seed

TRAIN, VALIDATION = 0.6, 0.2
AT_A_TIME = 32
Float32s = NDArray[np.float32]
Arrays = NDArray[Any]


def facts(dataset: SyntheticSkin, name: str, scenario_seed: int) -> Facts:
    """Return a hospital's classes and training labels without drawing an image."""
    labels = draw_labels(dataset, name, scenario_seed)
    train = labels[shares(len(labels))[0]]
    return Facts(
        _classes(dataset),
        dataset.image_size,
        3,
        train,
        count_samples(name, _classes(dataset), labels),
    )


def load(dataset: SyntheticSkin, name: str, scenario_seed: int) -> Images:
    """Draw a hospital's images; the same scenario seed and hospital name give the same bytes.

    A few are painted at a time: the numbers behind an image take fifty times its memory.
    """
    draw = np.random.default_rng(seed(scenario_seed, "synthetic images", name))
    labels = draw_labels(dataset, name, scenario_seed)
    lesions = _lesions(labels / max(1, dataset.classes - 1), draw)
    camera = _camera(
        dataset.site_shift, np.random.default_rng(seed(scenario_seed, "synthetic camera", name))
    )
    pixels = np.empty((len(labels), dataset.image_size, dataset.image_size, 3), np.uint8)
    for start in range(0, len(labels), AT_A_TIME):
        rows = slice(start, start + AT_A_TIME)
        seen = _photograph(
            _paint(_Lesions._make(values[rows] for values in lesions), dataset.image_size),
            camera,
            draw,
        )
        pixels[rows] = np.round(seen.clip(0, 1) * 255)
    return Images(pixels, labels, shares(len(labels)), _classes(dataset), number_ids(len(labels)))


def _classes(dataset: SyntheticSkin) -> tuple[str, ...]:
    return tuple(f"lesion-{index}" for index in range(dataset.classes))


def draw_labels(
    dataset: SyntheticSkin | SyntheticRoi | SyntheticVolumes, name: str, scenario_seed: int
) -> NDArray[np.int64]:
    """Draw class frequencies between uniform and a flat Dirichlet, then labels."""
    draw = np.random.default_rng(seed(scenario_seed, "synthetic labels", name))
    own = draw.dirichlet(np.ones(dataset.classes))
    frequencies = (1 - dataset.label_skew) / dataset.classes + dataset.label_skew * own
    return draw.choice(dataset.classes, dataset.samples, p=frequencies / frequencies.sum())


def shares(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Cut rows into those that train, validate and test."""
    ends = int(count * TRAIN), int(count * (TRAIN + VALIDATION))
    rows = np.arange(count, dtype=np.int64)
    return rows[: ends[0]], rows[ends[0] : ends[1]], rows[ends[1] :]


def count_samples(
    name: str, classes: tuple[str, ...], labels: NDArray[np.int64], *, multi_label: bool = False
) -> SampleCounts:
    """Count samples that were made here, of which none is left out."""
    source = Source("the scenario's seed", classes, labels, multi_label=multi_label)
    return counts(name, source, Splits(*shares(len(labels)), {}))


def number_ids(count: int) -> tuple[str, ...]:
    """Return samples that were made here their numbers as ids."""
    return tuple(map(str, range(count)))


class _Lesions(NamedTuple):
    """What was drawn for each lesion: (N, 1, 1), colours (N, 1, 1, 3)."""

    kind: Arrays
    down: Arrays
    right: Arrays
    waves: Arrays
    wobble: Arrays
    border: Arrays
    phase: Arrays
    grain_x: Arrays
    grain_y: Arrays
    dark: Arrays
    tint: Arrays
    skin: Arrays


class _Camera(NamedTuple):
    """What is a hospital's own: colour cast (3,), contrast, slope of the light down and to the
    right, and blur.
    """

    cast: Arrays
    contrast: float
    slope: Arrays
    blur: float


def _lesions(kind: Arrays, draw: np.random.Generator) -> _Lesions:
    """Draw lesions whose class lies at ``kind`` (N,) between 0 and 1."""
    count = len(kind)
    down, right = draw.normal(0, 0.12, (2, count, 1, 1))
    waves = draw.integers(3, 7, (count, 1, 1))
    wobble = (0.04 + 0.22 * kind + draw.normal(0, 0.05, count)).clip(0)[:, None, None]
    border = draw.normal(0.58, 0.1, (count, 1, 1))
    phase, grain_x, grain_y = (draw.uniform(0, 2 * np.pi, (count, 1, 1)) for _ in range(3))
    dark = (0.45 + 0.12 * np.sin(5 * kind) + draw.normal(0, 0.07, count))[:, None, None]
    tint = np.stack(
        [0.55 + 0.25 * np.cos(2.5 * kind), 0.9 + 0 * kind, 1.0 - 0.3 * np.sin(2.5 * kind)], axis=-1
    )
    tint = tint + draw.normal(0, 0.08, tint.shape)
    skin = np.array([0.86, 0.68, 0.60]) + draw.normal(0, 0.04, (count, 1, 1, 3))
    return _Lesions(
        kind[:, None, None],
        down,
        right,
        waves,
        wobble,
        border,
        phase,
        grain_x,
        grain_y,
        dark,
        tint[:, None, None, :],
        skin,
    )


def _paint(lesion: _Lesions, size: int) -> Float32s:
    """Paint lesions (N, S, S, 3) in [0, 1] before any camera."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    y, x = axis[None, :, None] - lesion.down, axis[None, None, :] - lesion.right
    angle, radius = np.arctan2(y, x), np.hypot(y, x)
    border = lesion.border * (1 + lesion.wobble * np.sin(lesion.waves * angle + lesion.phase))
    inside = 1 / (1 + np.exp((radius - border) * (18 - 8 * lesion.kind)))
    grain = np.sin((4 + 5 * np.cos(3 * np.pi * lesion.kind)) * x * 2 + lesion.grain_x)
    grain = grain * np.sin((4 + 5 * np.sin(3 * np.pi * lesion.kind)) * y * 2 + lesion.grain_y)
    depth = inside * (lesion.dark + 0.16 * grain)
    seen: Float32s = (lesion.skin - depth[..., None] * lesion.tint).astype(np.float32)
    return seen


def _camera(shift: float, draw: np.random.Generator) -> _Camera:
    """Draw one hospital's camera of a given strength."""
    cast = 1 + shift * draw.normal(0, 0.18, 3)
    contrast = np.exp(shift * draw.normal(0, 0.35))
    return _Camera(cast, contrast, shift * draw.normal(0, 0.12, 2), shift * draw.uniform(0, 0.8))


def _photograph(lesions: Float32s, camera: _Camera, draw: np.random.Generator) -> Float32s:
    """Apply a camera, and sensor noise."""
    axis = np.linspace(-1, 1, lesions.shape[1])
    light = camera.slope[0] * axis[:, None, None] + camera.slope[1] * axis[None, :, None]
    soft = (
        np.roll(lesions, 1, 1)
        + np.roll(lesions, -1, 1)
        + np.roll(lesions, 1, 2)
        + np.roll(lesions, -1, 2)
    ) / 4
    mixed = (lesions + camera.blur * soft) / (1 + camera.blur)
    seen = ((mixed - 0.6) * camera.contrast + 0.6) * camera.cast + light
    noisy: Float32s = (seen + draw.normal(0, 0.05, seen.shape)).astype(np.float32)
    return noisy
