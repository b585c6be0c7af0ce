"""Similarity distances: values, invariances, gradients, memory."""

import itertools

import pytest
import torch

from fedskd_sim.learning.distillation.similarity import distance

NAMES = ("corr", "mse", "row", "cka")
FORMS = ("direct", "factored")

every_name = pytest.mark.parametrize("name", NAMES)
every_form = pytest.mark.parametrize("form", FORMS)


@pytest.fixture
def draw():
    return torch.Generator().manual_seed(3)


def items(draw, *shape, dtype=torch.float64):
    """Features of structured items: a shared part, as after a ReLU, and differences."""
    return (torch.randn(shape, generator=draw, dtype=torch.float64) + 0.5).relu().to(dtype)


def pair(draw, items_=9, channels=(7, 4)):
    return tuple(items(draw, 3, items_, c) for c in channels)


@every_form
@every_name
def test_equal_features_are_at_distance_zero(name, form, draw):
    """A model is at distance 0 from itself."""
    x, _ = pair(draw)
    assert abs(float(distance(x, x.clone(), name, form=form))) < 1e-13


@every_name
@pytest.mark.parametrize("shape", [(2, 4, 30, 11), (1, 3, 5, 40), (5, 16, 6, 6)])
def test_direct_and_factored_agree(name, shape, draw):
    """Both forms give the same value and the same gradients."""
    count, number, *channels = shape
    x, y = (items(draw, count, number, c).requires_grad_() for c in channels)
    values = [distance(x, y, name, form=form) for form in FORMS]
    torch.testing.assert_close(*values, rtol=0, atol=1e-10)
    for direct, factored in zip(
        *(torch.autograd.grad(value, (x, y)) for value in values), strict=True
    ):
        torch.testing.assert_close(direct, factored, rtol=1e-8, atol=1e-10)


@every_form
@every_name
def test_channel_permutation_and_rotation_change_nothing(name, form, draw):
    """Channels have no meaning of their own: any orthogonal change of them is invisible."""
    x, y = pair(draw)
    value = distance(x, y, name, form=form)
    rotation = torch.linalg.qr(torch.randn(7, 7, generator=draw, dtype=torch.float64))[0]
    for changed in (x.flip(2), x @ rotation):
        torch.testing.assert_close(
            distance(changed, y, name, form=form), value, rtol=1e-10, atol=1e-12
        )


@every_form
@every_name
def test_zero_channels_change_nothing(name, form, draw):
    """Channels that are always 0 are invisible."""
    x, y = pair(draw)
    padded = torch.nn.functional.pad(x, (0, 5))
    torch.testing.assert_close(
        distance(padded, y, name, form=form), distance(x, y, name, form=form)
    )


@every_form
@every_name
def test_symmetry(name, form, draw):
    """It does not matter which model comes first."""
    x, y = pair(draw)
    torch.testing.assert_close(
        distance(x, y, name, form=form), distance(y, x, name, form=form), rtol=1e-12, atol=0
    )


@every_form
@every_name
@pytest.mark.parametrize("factor", [1e-4, 37.0])
def test_scaling_changes_nothing(name, form, factor, draw):
    """The scale of either model's features is invisible."""
    x, y = pair(draw)
    value = distance(x, y, name, form=form)
    torch.testing.assert_close(distance(x * factor, y, name, form=form), value, rtol=1e-10, atol=0)
    torch.testing.assert_close(distance(x, y * factor, name, form=form), value, rtol=1e-10, atol=0)


@every_form
@every_name
def test_item_order_matters_only_on_one_side(name, form, draw):
    """The same reordering of both models' items changes nothing; of one model's items it does."""
    x, y = pair(draw)
    order = torch.randperm(9, generator=draw)
    value = distance(x, y, name, form=form)
    torch.testing.assert_close(
        distance(x[:, order], y[:, order], name, form=form), value, rtol=1e-10, atol=0
    )
    assert float((distance(x[:, order], y, name, form=form) - value).abs()) > 1e-4


@every_name
@pytest.mark.parametrize("channels", list(itertools.product((1, 3, 64), (2, 50))))
def test_any_channel_counts_go_together(name, channels, draw):
    """Models of any two channel counts can be compared, in the form that is chosen for them."""
    x, y = pair(draw, channels=channels)
    assert 0 < float(distance(x, y, name)) < 4


@every_form
@every_name
def test_gradient_reaches_only_the_attached_side(name, form, draw):
    """A detached side gets no gradient, and the other side gets the same as when both are
    attached.
    """
    x, y = (side.requires_grad_() for side in pair(draw))
    both = torch.autograd.grad(distance(x, y, name, form=form), (x, y))
    for side, alone in (
        (0, distance(x, y.detach(), name, form=form)),
        (1, distance(x.detach(), y, name, form=form)),
    ):
        got = torch.autograd.grad(alone, (x, y), allow_unused=True)
        assert got[1 - side] is None
        torch.testing.assert_close(got[side], both[side], rtol=0, atol=1e-15)


@every_form
@every_name
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_zero_item_has_a_bounded_gradient(name, form, dtype, draw):
    """An item that is all 0, as after a ReLU, gets a gradient of moderate size."""
    x, y = (side.to(dtype) for side in pair(draw))
    x[:, 2] = 0
    x, y = x.requires_grad_(), y.requires_grad_()
    for gradient in torch.autograd.grad(distance(x, y, name, form=form), (x, y)):
        assert gradient.isfinite().all()
        assert float(gradient.abs().max()) < 2e3


@every_form
@every_name
@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_few_items_stay_connected(name, form, number, draw):
    """Too few items to compare give 0, and any number gives a finite value with finite
    gradients.
    """
    x, y = (side.requires_grad_() for side in pair(draw, items_=number))
    value = distance(x, y, name, form=form)
    if number < (3 if name == "corr" else 2):
        assert float(value.detach()) == 0
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, (x, y)))


@every_form
@every_name
def test_no_leading_entries_give_zero(name, form, draw):
    """An empty batch gives 0 and not the mean of nothing."""
    x, y = items(draw, 0, 5, 3).requires_grad_(), items(draw, 0, 5, 4)
    value = distance(x, y, name, form=form)
    value.backward()
    assert float(value.detach()) == 0


@every_form
@every_name
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("constant", [0.0, 1.0, 1e-20])
def test_constant_features_are_finite(name, form, dtype, constant, draw):
    """Items that are all alike, or all 0, in one model or both give a finite value and finite
    gradients.
    """
    _, y = pair(draw)
    flat = torch.full((3, 9, 7), constant, dtype=dtype, requires_grad=True)
    for other in (
        y.to(dtype).requires_grad_(),
        torch.ones(3, 9, 4, dtype=dtype, requires_grad=True),
    ):
        value = distance(flat, other, name, form=form)
        assert value.isfinite()
        assert all(
            gradient.isfinite().all() for gradient in torch.autograd.grad(value, (flat, other))
        )


@every_form
@every_name
@pytest.mark.parametrize("transposed", [False, True])
def test_gradcheck(name, form, transposed, draw):
    """Gradients equal finite differences, for both memory layouts of items, where no item is
    close to 0.
    """
    x, y = ((items(draw, 2, 6, c) + 0.2).requires_grad_() for c in (5, 3))

    def value(x, y):
        if transposed:
            x, y = (side.transpose(1, 2).contiguous().transpose(1, 2) for side in (x, y))
        return distance(x, y, name, form=form)

    assert torch.autograd.gradcheck(value, (x, y))


@every_form
@every_name
def test_autocast_computes_in_single_precision(name, form, draw):
    """Half-precision features under autocast give the single-precision value and gradients of
    the same features.
    """
    half = [
        side.to(torch.bfloat16).requires_grad_()
        for side in pair(draw, items_=20, channels=(16, 12))
    ]
    full = [side.detach().float().requires_grad_() for side in half]
    expected = distance(*full, name, form=form)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = distance(*half, name, form=form)
        gradients = torch.autograd.grad(value, half) if (name, form) == ("corr", "direct") else None
    torch.testing.assert_close(value, expected)
    for got, wanted in zip(
        gradients or torch.autograd.grad(value, half),
        torch.autograd.grad(expected, full),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted.to(torch.bfloat16))


def test_forms_agree_on_the_gradient_below_the_variance_floor(draw):
    """Where similarities hardly spread, the written-out gradient is still that of the floored
    formula.
    """
    x, y = (
        (1 + 0.01 * torch.randn(4, 9, c, generator=draw, dtype=torch.float64)).requires_grad_()
        for c in (6, 5)
    )
    gradients = [torch.autograd.grad(distance(x, y, form=form), (x, y)) for form in FORMS]
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)


@every_form
@pytest.mark.parametrize("spread", [1e-1, 1e-2, 1e-3, 1e-4])
def test_nearly_equal_similarities_keep_corr_in_range(form, spread, draw):
    """Where all items are nearly alike, single precision still gives the double-precision value,
    and 0 for equal inputs.
    """
    x, y = (
        1 + spread * torch.randn(4, 40, c, generator=draw, dtype=torch.float64) for c in (12, 8)
    )
    exact = float(distance(x, y, form="direct"))
    value = float(distance(x.float(), y.float(), form=form))
    assert -1e-6 < value < 2
    assert value == pytest.approx(exact, abs=2e-2)
    if spread > 1e-2:
        assert float(distance(x.float(), x.float(), form=form)) == pytest.approx(0, abs=1e-5)


def saved_bytes(number, name, form):
    """Count what a distance of ``number`` items keeps for its backward pass."""
    total = 0

    def pack(tensor):
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    draw = torch.Generator().manual_seed(0)
    x, y = (items(draw, 2, number, c, dtype=torch.float32).requires_grad_() for c in (6, 4))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        distance(x, y, name, form=form)
    return total


@every_name
def test_factored_memory_grows_linearly(name):
    """Four times the items take four times the memory in the factored form, sixteen times in the
    direct form.
    """
    assert saved_bytes(1024, name, "factored") < 4.1 * saved_bytes(256, name, "factored")
    assert saved_bytes(1024, name, "direct") > 12 * saved_bytes(256, name, "direct")


@pytest.mark.parametrize(("number", "channels", "budget", "form"), [
    (16, (50, 30), 2**26, "direct"),
    (400, (16, 8), 2**26, "factored"),
    (100, (80, 60), 2**26, "direct"),
    (100, (80, 60), 2**10, "factored"),
    (16, (80, 60), 2**10, "direct"),
])  # fmt: skip
def test_automatic_form(number, channels, budget, form, draw):
    """The factored form is taken where it needs less arithmetic, or less memory than a direct
    form over budget.
    """
    x, y = (items(draw, 2, number, c) for c in channels)
    chosen, other = (
        float(distance(x, y, "mse", form=f)) for f in sorted(FORMS, key=lambda f: f != form)
    )
    assert chosen != other
    assert float(distance(x, y, "mse", budget_bytes=budget)) == chosen


@every_form
@every_name
def test_batch_is_the_mean_over_patients(name, form, draw):
    """The distance of a batch is the mean of its patients' distances."""
    x, y = pair(draw)
    alone = torch.stack([distance(a, b, name, form=form) for a, b in zip(x, y, strict=True)])
    torch.testing.assert_close(distance(x, y, name, form=form), alone.mean())


@every_form
@every_name
def test_across_swaps_patients_and_places(name, form, draw):
    """Across, the distance is the mean over places of the distance between patients at that
    place.
    """
    x, y = (items(draw, 8, 3, c) for c in (5, 4))
    alone = torch.stack([distance(x[:, i], y[:, i], name, form=form) for i in range(3)])
    torch.testing.assert_close(distance(x, y, name, form=form, across=True), alone.mean())


def test_corr_of_unrelated_features_is_one(draw):
    """Independent features are at a corr distance of about 1."""
    x, y = (torch.randn(8, 40, c, generator=draw) for c in (64, 32))
    assert float(distance(x, y)) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("wrong", [
    lambda x: distance(x, x[:, 1:]),
    lambda x: distance(x, x, "cosine"),
    lambda x: distance(x, x, form="fast"),
    lambda x: distance(x[0], x[0], across=True),
])  # fmt: skip
def test_misuse_is_an_error(wrong, draw):
    """Unknown names and forms, and items that do not match, are refused."""
    with pytest.raises(ValueError, match=r"items do not match|no distance"):
        wrong(items(draw, 3, 9, 7))
