"""The colours of pictures, for eyes of every kind, by computation."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from fedskd_sim.results.svg import SERIES

# Machado, Oliveira and Fernandes 2009, severity 1, for linear RGB
EYES = {
    "all cones": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
WHITE = np.array([0.95047, 1.0, 1.08883])
LEAST_APART = 25.0  # CIE 1976 colour difference; about 2 can just be seen side by side
LEAST_CONTRAST = 3.0  # WCAG 2.2, success criterion 1.4.11
Floats = NDArray[np.float64]


def linear(colour: str) -> Floats:
    """Decode #rrggbb to linear RGB in [0, 1]."""
    shares = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


def lab(rgb: Floats) -> Floats:
    """Give CIE L*a*b* of linear RGB, D65."""
    xyz = TO_XYZ @ np.clip(rgb, 0, 1) / WHITE
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("page", ["light", "dark"])
@pytest.mark.parametrize("eyes", EYES)
def test_series_stay_apart_for_every_eye(eyes: str, page: str) -> None:
    """Any two colours of a picture's lines differ plainly with all cones, without red ones and
    without green ones.
    """
    seen = {
        colour.name: lab(np.array(EYES[eyes]) @ linear(getattr(colour, page))) for colour in SERIES
    }
    apart = {
        pair: float(np.linalg.norm(seen[pair[0]] - seen[pair[1]])) for pair in combinations(seen, 2)
    }
    assert min(apart.values()) > LEAST_APART, min(apart, key=lambda pair: apart[pair])


@pytest.mark.parametrize(("page", "ground"), [("light", "#ffffff"), ("dark", "#1b2029")])
def test_series_stand_out_from_the_page(page: str, ground: str) -> None:
    """Every line has the contrast to its card that guidelines ask of graphics."""
    below = TO_XYZ[1] @ linear(ground)
    for colour in SERIES:
        own = TO_XYZ[1] @ linear(getattr(colour, page))
        assert (max(own, below) + 0.05) / (min(own, below) + 0.05) >= LEAST_CONTRAST, colour
