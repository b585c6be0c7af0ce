"""What an item is: grids, atlases and their errors."""

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


@pytest.fixture
def draw():
    return torch.Generator().manual_seed(3)


def items(draw, *shape):
    return (torch.randn(shape, generator=draw, dtype=torch.float64) + 0.5).relu()


def test_canonical_grid_from_two_resolutions(draw):
    """One smooth field seen at 28 and at 14 cells gives the same items on a 7 x 7 grid, to the
    error of sampling.
    """
    sides = []
    for size in (28, 14):
        axis = (torch.arange(size, dtype=torch.float64) + 0.5) / size
        waves = [
            torch.sin(3 * axis[:, None] + k) + torch.cos((2 + k) * axis[None, :]) for k in range(5)
        ]
        sides.append(position_items(torch.stack(waves).unsqueeze(0), (7, 7)))
    torch.testing.assert_close(*sides, rtol=0, atol=1e-2)
    assert float(distance(*sides)) < 1e-4
    assert float(distance(sides[0], sides[1][:, torch.randperm(49, generator=draw)])) > 0.5


def test_pooling_means_equal_the_library_kernels(draw):
    """Area averages equal those of PyTorch, for even and uneven cells of images and volumes."""
    image, volume = items(draw, 2, 3, 12, 8), items(draw, 2, 3, 6, 4, 8)
    for grid in ((4, 4), (12, 2), (5, 3), (1, 1)):
        expected = torch.nn.functional.adaptive_avg_pool2d(image, grid).flatten(2).transpose(1, 2)
        torch.testing.assert_close(position_items(image, grid), expected)
    for grid in ((3, 2, 2), (6, 3, 8)):
        expected = torch.nn.functional.adaptive_avg_pool3d(volume, grid).flatten(2).transpose(1, 2)
        torch.testing.assert_close(region_items(volume, grid), expected)


def test_atlas_pooling_is_the_mean_over_voxels(draw):
    """Regional means equal those over the voxels of the map repeated to the atlas grid, without
    the background.
    """
    labels = torch.randint(0, 5, (8, 6, 4), generator=draw)
    features = items(draw, 2, 3, 4, 3, 2)
    pooling = atlas_pooling(labels, (4, 3, 2))
    repeated = torch.nn.functional.interpolate(features, scale_factor=2, mode="nearest")
    expected = torch.stack(
        [repeated[:, :, labels == region].mean(2) for region in range(1, 5)], dim=1
    )
    torch.testing.assert_close(atlas_items(features, pooling, pooling), expected)


def test_small_regions_are_left_out_of_both_models(draw):
    """A region that is empty, or under half a feature cell in either model, is an item of
    neither.
    """
    labels = torch.zeros(8, 8, dtype=torch.int64)
    labels[:4], labels[4:, :4], labels[7, 7], labels[4, 4:7] = (
        1,
        2,
        5,
        4,
    )  # 3 is empty, 5 a single input cell
    fine, coarse = atlas_pooling(labels, (8, 8)), atlas_pooling(labels, (2, 2))
    assert fine.mass.tolist() == [32, 16, 0, 3, 1]
    x = atlas_items(items(draw, 2, 3, 8, 8), fine, coarse)
    y = atlas_items(items(draw, 2, 6, 2, 2), coarse, fine)
    assert x.shape == (2, 2, 3)
    assert y.shape == (2, 2, 6)
    assert atlas_items(items(draw, 2, 3, 8, 8), fine, fine).shape == (2, 4, 3)


@pytest.mark.parametrize("name", ["corr", "mse", "row", "cka"])
def test_same_items_from_any_kind_of_map(name, draw):
    """Images, volumes and regions of interest that hold the same items are at the same distance."""
    x, y = items(draw, 2, 5, 24), items(draw, 2, 3, 24)
    value = distance(roi_items(x), roi_items(y), name)
    for space in ((6, 4), (2, 3, 4)):
        shaped = [position_items(side.unflatten(2, space), space) for side in (x, y)]
        torch.testing.assert_close(distance(*shaped, name), value)
    timed = [side.unsqueeze(3).expand(-1, -1, -1, 7) for side in (x, y)]
    torch.testing.assert_close(distance(*map(roi_items, timed), name), value)
    kept = [roi_items(side, keep_time=True) for side in timed]
    assert kept[0].shape == (2, 24, 35)
    torch.testing.assert_close(distance(*kept, name), value)


LABELS = torch.ones(4, 4, dtype=torch.int64)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda maps: batch_items(maps, "max"),
        lambda maps: position_items(maps[0], (4, 4)),
        lambda maps: position_items(maps, (10, 4)),
        lambda maps: position_items(maps, (0, 4)),
        lambda maps: roi_items(maps[0, 0]),
        lambda maps: atlas_pooling(LABELS * 0, maps.shape[2:]),
        lambda maps: atlas_pooling(LABELS, maps.shape[2:]),
        lambda maps: atlas_items(maps, *[atlas_pooling(LABELS, (2, 2))] * 2),
        lambda maps: atlas_items(
            maps[..., :2, :2], atlas_pooling(LABELS, (2, 2)), atlas_pooling(LABELS * 2, (2, 2))
        ),
    ],
)
def test_misuse_is_an_error(wrong, draw):
    """Unknown reductions, grids that do not fit or are finer than the map, and atlases that do
    not match are refused.
    """
    with pytest.raises(ValueError):  # noqa: PT011 - the kind is the claim
        wrong(items(draw, 1, 3, 9, 7))
