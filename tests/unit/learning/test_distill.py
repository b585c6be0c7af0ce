"""The similarity term of a session: levels, directions, weights and ramp."""

import pytest
import torch
from torch import nn

from fedskd_sim.learning.distillation.arrangements import batch_items, position_items, roi_items
from fedskd_sim.learning.distillation.distill import SimilarityLoss, Taps, ramp
from fedskd_sim.learning.distillation.similarity import distance
from fedskd_sim.scenario import SelfDistillation, Similarity

LEVELS = ("batch", "pixel", "region")
OFF = dict.fromkeys(LEVELS, 0.0)


class Small(nn.Module):
    """Two layers whose maps are the taps."""

    def __init__(self, width, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Conv2d(3, width, 3, 2, 1), nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.double()

    def forward(self, images):
        mid = self.first(images).relu()
        return Taps(mid, self.second(mid).relu())


@pytest.fixture(autouse=True)
def _one_thread():
    """Small tensors: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def images():
    return torch.randn(
        6, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )


@pytest.fixture
def models():
    return Small(5, 1), Small(8, 2)


def gradients(models, images, loss, **keywords):
    """The gradients of both models' parameters from one backward pass of the term."""
    total = loss(*(model(images) for model in models), **keywords).total
    return [
        torch.autograd.grad(total, list(m.parameters()), retain_graph=True, allow_unused=True)
        for m in models
    ]


def test_total_is_the_weighted_sum_of_levels(models, images):
    """The total is the ramp times the sum of weights times distances, and the log holds the
    plain distances.
    """
    v, r = (model(images) for model in models)
    term = SimilarityLoss(batch=0.1, pixel=0.2, region=0.4, weight_v=2, weight_l=2)(v, r, 0.5)
    expected = {
        "batch": distance(batch_items(v.deep), batch_items(r.deep)),
        "pixel": distance(position_items(v.mid, (8, 8)), position_items(r.mid, (8, 8))),
        "region": distance(position_items(v.deep, (4, 4)), position_items(r.deep, (4, 4))),
    }
    torch.testing.assert_close(
        dict(term.levels), {name: value.detach() for name, value in expected.items()}
    )
    torch.testing.assert_close(
        term.total, 0.1 * expected["batch"] + 0.2 * expected["pixel"] + 0.4 * expected["region"]
    )
    assert not any(value.requires_grad for value in term.levels.values())


@pytest.mark.parametrize("settings", [OFF, {"weight_v": 0, "weight_l": 0}, {"ramp": 0.0}])
def test_no_weight_means_no_graph(settings, models, images):
    """With all weights, both directions or the ramp at 0 nothing is computed and there is
    nothing to add.
    """
    strength = settings.get("ramp", 1.0)
    loss = SimilarityLoss(**{key: value for key, value in settings.items() if key != "ramp"})
    assert loss(*(model(images) for model in models), strength) == (None, {})


@pytest.mark.parametrize("level", LEVELS)
def test_levels_of_weight_zero_are_never_touched(level, models, images):
    """A level without weight is not even arranged: taps only it would need may be missing."""
    v, r = (model(images) for model in models)
    needed = "mid" if level == "pixel" else "deep"
    missing = {"mid", "deep"} - {needed}
    v, r = (taps._replace(**dict.fromkeys(missing)) for taps in (v, r))
    assert list(SimilarityLoss(**{**OFF, level: 1.0})(v, r).levels) == [level]


def test_shared_path_equals_two_detached_paths(models, images):
    """One distance with both gradients gives both models the gradients of the two one-sided
    distances.
    """
    shared = gradients(models, images, SimilarityLoss())
    to_visitor = gradients(models, images, SimilarityLoss(weight_l=0))
    to_resident = gradients(models, images, SimilarityLoss(weight_v=0))
    torch.testing.assert_close(shared, [to_visitor[0], to_resident[1]], rtol=0, atol=1e-15)
    assert set(to_visitor[1]) == set(to_resident[0]) == {None}


def test_unequal_directions_scale_each_models_gradient(models, images):
    """Each direction's factor scales the gradient of the model that learns, and of no other."""
    shared = gradients(models, images, SimilarityLoss())
    unequal = gradients(models, images, SimilarityLoss(weight_v=3, weight_l=0.5))
    expected = [[factor * g for g in side] for factor, side in zip((3, 0.5), shared, strict=True)]
    torch.testing.assert_close([list(side) for side in unequal], expected)


def test_frozen_resident_teaches(models, images):
    """A resident without a graph is left alone, and the visitor learns from it as from a
    training one.
    """
    visitor, resident = models
    with torch.no_grad():
        frozen = resident(images)
    total = SimilarityLoss()(visitor(images), frozen).total
    got = torch.autograd.grad(total, list(visitor.parameters()))
    torch.testing.assert_close(got, gradients(models, images, SimilarityLoss())[0])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["corr", "mse", "row", "cka"])
def test_gradient_steps_bring_models_together(level, name, images):
    """Following the term brings the two models' similarities closer, at every level and for
    every distance.
    """
    models = Small(5, 1), Small(8, 2)
    loss = SimilarityLoss(**{**OFF, level: 1.0}, distance=name)
    optimiser = torch.optim.Adam([p for model in models for p in model.parameters()], lr=5e-3)
    values = []
    for _ in range(12):
        term = loss(*(model(images) for model in models))
        optimiser.zero_grad()
        term.total.backward()
        optimiser.step()
        values.append(float(term.levels[level]))
    assert values[-1] < 0.8 * values[0]


def test_maps_by_region_need_no_grid():
    """Without grids, maps of regions of interest are compared region by region."""
    draw = torch.Generator().manual_seed(2)
    v, r = (Taps(*(torch.randn(4, c, 12, generator=draw) for _ in range(2))) for c in (6, 9))
    levels = SimilarityLoss(pixel_grid=None, region_grid=None)(v, r).levels
    torch.testing.assert_close(levels["pixel"], distance(roi_items(v.mid), roi_items(r.mid)))
    torch.testing.assert_close(levels["region"], distance(roi_items(v.deep), roi_items(r.deep)))


def test_across_compares_patients_at_each_place(models, images):
    """Across changes what the pixel and region levels compare, and leaves the batch level alone."""
    v, r = (model(images) for model in models)
    plain, across = (SimilarityLoss(across=flag)(v, r).levels for flag in (False, True))
    places = [position_items(taps.mid, (8, 8)) for taps in (v, r)]
    torch.testing.assert_close(across["pixel"], distance(*places, across=True).detach())
    assert plain["batch"] == across["batch"]
    assert plain["region"] != across["region"]


@pytest.mark.parametrize("tap", ["mid", "deep"])
def test_each_level_compares_the_map_that_it_is_told(models, images, tap):
    """Every level can be put on either map, whatever the others compare."""
    v, r = (model(images) for model in models)
    maps = [getattr(taps, tap) for taps in (v, r)]
    expected = {
        "batch": distance(*(batch_items(features) for features in maps)),
        "pixel": distance(*(position_items(features, (8, 8)) for features in maps)),
        "region": distance(*(position_items(features, (4, 4)) for features in maps)),
    }
    for level in LEVELS:
        levels = SimilarityLoss(**{f"{level}_tap": tap})(v, r).levels
        torch.testing.assert_close(levels[level], expected[level].detach())
        unmoved = SimilarityLoss()(v, r).levels
        assert all(levels[other] == unmoved[other] for other in LEVELS if other != level)


def test_settings_of_a_scenario():
    """A scenario's similarity settings arrive in the term one by one."""
    settings = Similarity(
        distance="mse",
        batch=0.1,
        pixel=0.2,
        region=0.3,
        region_grid=2,
        to_visitor=0.4,
        to_resident=0.5,
    )
    taps = {"batch_tap": "mid", "pixel_tap": "deep", "region_tap": "mid"}
    settings = settings.model_copy(update=taps)
    assert SimilarityLoss.of(settings, (6, 5)) == SimilarityLoss(
        distance="mse",
        batch=0.1,
        pixel=0.2,
        region=0.3,
        pixel_grid=(6, 5),
        region_grid=(2, 2),
        weight_v=0.4,
        weight_l=0.5,
        **taps,
    )


def test_the_past_is_held_on_the_same_maps():
    """What holds a visitor has weights of its own; distance, maps and grids are those of the
    exchange, and no direction is off.
    """
    shared = {"distance": "mse", "pixel_grid": 3, "region_grid": 2, "pixel_tap": "deep"}
    settings = Similarity(
        batch=0.1, pixel=0.2, region=0.3, to_visitor=0.0, to_resident=0.5, **shared
    )
    assert settings.with_weights(SelfDistillation(kl=1, region=0.7)) == Similarity(
        batch=0.0, pixel=0.0, region=0.7, **shared
    )


@pytest.mark.parametrize("weight", ["batch", "pixel", "region", "weight_v", "weight_l"])
@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_weights_are_not_negative(weight, value):
    """A negative weight would push models apart and is refused."""
    with pytest.raises(ValueError, match=weight):
        SimilarityLoss(**{weight: value})


def test_ramp():
    """The ramp rises in a line from 0 over the first share of a session and stays at 1."""
    assert [ramp(step, 10, 0.4) for step in (0, 1, 2, 4, 9)] == [0, 0.25, 0.5, 1, 1]
    assert ramp(0, 10, 0.0) == 1
    for wrong in ((-1, 10, 0.3), (0, 0, 0.3), (0, 10, 1.1)):
        with pytest.raises(ValueError, match="no ramp"):
            ramp(*wrong)
