"""Images that look like pigmented skin lesions, made from a seed.

A lesion is a disc with a wavy border on skin. The class decides, with overlap, how irregular the border is, how dark the
middle, how strong the texture and where in colour space it lies. The hospital's camera then adds its own colour cast,
lighting gradient, contrast and blur (site shift), and its patients have their own class frequencies (label skew).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedskd_sim.learning.samples import Facts, Images
from fedskd_sim.scenario import SyntheticRoi, SyntheticSkin, SyntheticVolumes
from fedskd_sim.seeds import seed

TRAIN, VALIDATION = 0.6, 0.2
Floats = NDArray[np.float32]


def facts(dataset: SyntheticSkin, name: str, scenario_seed: int) -> Facts:
    """Tell a hospital's classes and training labels without drawing an image."""
    labels = drawn_labels(dataset, name, scenario_seed)
    return Facts(_classes(dataset), dataset.image_size, 3, labels[shares(len(labels))[0]])


def load(dataset: SyntheticSkin, name: str, scenario_seed: int) -> Images:
    """Draw a hospital's images; the same scenario seed and hospital name give the same bytes."""
    draw = np.random.default_rng(seed(scenario_seed, "synthetic images", name))
    labels = drawn_labels(dataset, name, scenario_seed)
    lesions = _lesions(labels, dataset, draw)
    camera = np.random.default_rng(seed(scenario_seed, "synthetic camera", name))
    pixels = _photographed(lesions, dataset.site_shift, camera, draw)
    return Images(np.round(pixels.clip(0, 1) * 255).astype(np.uint8), labels, shares(len(labels)), _classes(dataset))


def _classes(dataset: SyntheticSkin) -> tuple[str, ...]:
    return tuple(f"lesion-{index}" for index in range(dataset.classes))


def drawn_labels(dataset: SyntheticSkin | SyntheticRoi | SyntheticVolumes, name: str, scenario_seed: int) -> NDArray[np.int64]:
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


def _lesions(labels: NDArray[np.int64], dataset: SyntheticSkin, draw: np.random.Generator) -> Floats:
    """Draw lesions (N, S, S, 3) in [0, 1] before any camera."""
    count, size = len(labels), dataset.image_size
    kind = labels / max(1, dataset.classes - 1)
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    shift = draw.normal(0, 0.12, (2, count, 1, 1))
    y, x = axis[None, :, None] - shift[0], axis[None, None, :] - shift[1]
    angle, radius = np.arctan2(y, x), np.hypot(y, x)
    waves = draw.integers(3, 7, (count, 1, 1))
    wobble = (0.04 + 0.22 * kind + draw.normal(0, 0.05, count)).clip(0)[:, None, None]
    border = draw.normal(0.58, 0.1, (count, 1, 1)) * (1 + wobble * np.sin(waves * angle + _phase(draw, count)))
    inside = 1 / (1 + np.exp((radius - border) * (18 - 8 * kind[:, None, None])))
    grain = np.sin((4 + 5 * np.cos(3 * np.pi * kind))[:, None, None] * x * 2 + _phase(draw, count))
    grain = grain * np.sin((4 + 5 * np.sin(3 * np.pi * kind))[:, None, None] * y * 2 + _phase(draw, count))
    dark = (0.45 + 0.12 * np.sin(5 * kind) + draw.normal(0, 0.07, count))[:, None, None]
    depth = inside * (dark + 0.16 * grain)
    tint = np.stack([0.55 + 0.25 * np.cos(2.5 * kind), 0.9 + 0 * kind, 1.0 - 0.3 * np.sin(2.5 * kind)], axis=-1)
    tint = tint + draw.normal(0, 0.08, tint.shape)
    skin = np.array([0.86, 0.68, 0.60]) + draw.normal(0, 0.04, (count, 1, 1, 3))
    seen: Floats = (skin - depth[..., None] * tint[:, None, None, :]).astype(np.float32)
    return seen


def _photographed(lesions: Floats, shift: float, camera: np.random.Generator, draw: np.random.Generator) -> Floats:
    """Apply one hospital's camera of a given strength, and sensor noise."""
    size = lesions.shape[1]
    cast = 1 + shift * camera.normal(0, 0.18, 3)
    contrast = np.exp(shift * camera.normal(0, 0.35))
    slope = shift * camera.normal(0, 0.12, 2)
    blur = shift * camera.uniform(0, 0.8)
    axis = np.linspace(-1, 1, size)
    light = slope[0] * axis[:, None, None] + slope[1] * axis[None, :, None]
    soft = (np.roll(lesions, 1, 1) + np.roll(lesions, -1, 1) + np.roll(lesions, 1, 2) + np.roll(lesions, -1, 2)) / 4
    mixed = (lesions + blur * soft) / (1 + blur)
    seen = ((mixed - 0.6) * contrast + 0.6) * cast + light
    noisy: Floats = (seen + draw.normal(0, 0.05, seen.shape)).astype(np.float32)
    return noisy


def _phase(draw: np.random.Generator, count: int) -> NDArray[np.float64]:
    return draw.uniform(0, 2 * np.pi, (count, 1, 1))
