"""Similarity distances equal values computed independently, in plain NumPy with direct N x N
matrices in fp64.

``image_*`` (6, C, H, W), ``volume_*``, ``atlas`` and ``roi_*`` hold two models' maps of the same
patients. Pixel, voxel and region values are means over patients; ``row`` has no per-item norm and
counts a row of zeros as zero.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fedskd_sim.learning.distillation.arrangements import (
    atlas_items,
    atlas_pooling,
    batch_items,
    position_items,
    region_items,
    roi_items,
)
from fedskd_sim.learning.distillation.similarity import distance

VECTORS = Path(__file__).parents[1] / "vectors"
GOLDEN = json.loads((VECTORS / "similarity.json").read_text())


def golden_items():
    with np.load(VECTORS / "similarity.npz") as file:
        a = {key: torch.from_numpy(file[key]) for key in file}
    images, volumes = (a["image_u"], a["image_v"]), (a["volume_u"], a["volume_v"])
    u, v = (atlas_pooling(a["atlas"], volume.shape[2:]) for volume in volumes)
    return {
        "batch, whole map flattened": [batch_items(f) for f in images],
        "batch, global average pool": [batch_items(f, "gap") for f in images],
        "pixel, canonical grid 4x4": [position_items(f, (4, 4)) for f in images],
        "region, grid 2x2": [region_items(f, (2, 2)) for f in images],
        "pixel, grid 3x3 (uneven cells)": [position_items(f, (3, 3)) for f in images],
        "voxel, canonical grid 3x3x3": [position_items(f, (3, 3, 3)) for f in volumes],
        "region, atlas with labels 1-4, background 0": [
            atlas_items(volumes[0], u, v),
            atlas_items(volumes[1], v, u),
        ],
        "region, ROI vectors": [roi_items(a["roi_u"]), roi_items(a["roi_v"])],
    }


@pytest.mark.parametrize("form", ["direct", "factored"])
@pytest.mark.parametrize("name", ["corr", "mse", "row", "cka"])
@pytest.mark.parametrize("arrangement", GOLDEN)
def test_golden_values(arrangement, name, form):
    """Every distance of every arrangement equals an independent computation to 1e-6 relative."""
    value = float(distance(*golden_items()[arrangement], name, form=form))
    assert value == pytest.approx(GOLDEN[arrangement][name], rel=1e-6)


@pytest.mark.parametrize("form", ["direct", "factored"])
def test_cka_identity(form):
    """The cka distance is 2 - 2 CKA, computed here with centring matrices."""
    draw = torch.Generator().manual_seed(3)
    maps = (torch.rand(3, 9, c, generator=draw, dtype=torch.float64) for c in (7, 4))
    x, y = (torch.nn.functional.normalize(side, dim=2) for side in maps)
    centring = torch.eye(9, dtype=torch.float64) - 1 / 9
    g, h = (centring @ side @ side.transpose(1, 2) @ centring for side in (x, y))
    cka = (g * h).sum((1, 2)) / (g.square().sum((1, 2)) * h.square().sum((1, 2))).sqrt()
    torch.testing.assert_close(
        distance(x, y, "cka", form=form), (2 - 2 * cka).mean(), rtol=1e-5, atol=0
    )
