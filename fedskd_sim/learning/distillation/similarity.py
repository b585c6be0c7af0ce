"""Distances between two models' feature maps that need no common channels, only common items.

Channels of different architectures have nothing to do with each other, but items do: the same
patient, the same place, the same region. Each model's items are compared with each other, and the
two item-by-item similarity matrices are compared. What an item is says
`fedskd_sim.learning.distillation.arrangements`.
"""

from __future__ import annotations

import math
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Distance = Literal["corr", "mse", "row", "cka"]
GramForm = Literal["auto", "direct", "factored"]
TensorPair = tuple[Tensor, Tensor]

BUDGET_BYTES = 64 * 2**20
"""Storage of the direct form above which a smaller factored form is preferred."""
FACTORED_OVERHEAD = 1.5
"""Time of the factored form over that of the direct one at equal arithmetic, measured for corr on
one core."""
NORM_EPS2 = 1e-6
"""Square of the softening of item norms, in units of the items' root mean square norm."""
ROW_EPS2 = 1e-8
"""The same for the norms of the rows of a similarity matrix."""
VARIANCE_FLOOR = 1e-6
"""Similarities that spread less than the root of this carry no structure; also bounds the
gradient."""
TINY = 1e-24
"""Keeps reciprocals of all-zero features finite in fp32."""


def distance(
    x: Tensor,
    y: Tensor,
    name: Distance = "corr",
    *,
    form: GramForm = "auto",
    across: bool = False,
    budget_bytes: int = BUDGET_BYTES,
) -> Tensor:
    """Compare the similarity structure of the same N items in two models; 0 means the same,
    whatever the channels.

    ``corr`` (0..2) is one minus the Pearson correlation of the off-diagonal similarities
    (representational similarity analysis, Kriegeskorte et al. 2008); ``mse`` (0..4) their mean
    squared difference; ``row`` (0..4/N) compares normalised rows (Tung & Mori 2019); ``cka`` (0..2)
    is 2 - 2 CKA (Kornblith et al. 2019). Too few items to compare give 0.

    Args:
        x: (..., N, C1).
        y: (..., N, C2), the same items.
        name: the distance.
        form: ``direct`` makes the N x N matrices, ``factored`` works in channel space; both give
            the same value.
        across: swap the axes of (B, N, C): compare B patients with each other at each of N places.
        budget_bytes: storage of the direct form above which ``auto`` prefers the factored form
            where that is smaller.

    Returns:
        The mean over the leading axes, a scalar in fp32 (fp64 for fp64 inputs); never clamped,
        rough if tiny and factored.

    Raises:
        ValueError: different items, or an unknown name or form.

    """
    _check(x, y, name, form, axes=3 if across else 2)
    if across:
        x, y = x.transpose(-3, -2), y.transpose(-3, -2)
    with torch.autocast(x.device.type, enabled=False):
        return _mean(x, y, name, form, budget_bytes)


def cosines(items: Tensor) -> Tensor:
    """Return the similarity matrices (..., N, N) of items (..., N, C), as `distance` compares them:
    cosines, softened so that an all-zero item is like none.
    """
    with torch.autocast(items.device.type, enabled=False):
        flat = _flat(items, torch.promote_types(items.dtype, torch.float32))
        scaled = _normalise(flat)
        found = scaled @ scaled.transpose(1, 2)
        return found.reshape(*items.shape[:-1], items.shape[-2])


def _check(x: Tensor, y: Tensor, name: str, form: str, *, axes: int) -> None:
    if name not in get_args(Distance) or form not in get_args(GramForm):
        raise ValueError(f"no distance {name!r} in form {form!r}")
    if x.shape[:-1] != y.shape[:-1] or x.ndim < axes:
        raise ValueError(f"items do not match: {tuple(x.shape)} and {tuple(y.shape)}")


def _flat(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Join all leading axes: (L, N, C)."""
    return x.to(dtype).reshape(math.prod(x.shape[:-2]), *x.shape[-2:])


def _mean(x: Tensor, y: Tensor, name: Distance, form: GramForm, budget_bytes: int) -> Tensor:
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    x, y = _flat(x, dtype), _flat(y, dtype)
    if x.shape[1] < (3 if name == "corr" else 2) or not (x.numel() and y.numel()):
        return x.sum() * 0 + y.sum() * 0
    direct = form == "direct" or (form == "auto" and not _prefers_factored(x, y, budget_bytes))
    return _values((x, y), name, direct=direct).mean().to(dtype)


def _values(pair: TensorPair, name: Distance, *, direct: bool) -> Tensor:
    """Return the distance of each leading index, (L,)."""
    if name == "row":
        return (_row_direct if direct else _row_factored)(*pair)
    if name == "corr" and direct:
        return cast("Tensor", _Corr.apply(*pair)[0])
    items = pair[0].shape[1]
    x, y = _normalise(pair[0]), _normalise(pair[1])
    if name == "mse":
        return (_mse_direct if direct else _mse_factored)(x, y) / (items * (items - 1))
    x, mean_x = _centre(x)
    y, mean_y = _centre(y)
    if name == "corr":
        return _corr_factored((x, y), (x @ mean_x, y @ mean_y))
    return _cka((x, y), direct=direct)


def _prefers_factored(x: Tensor, y: Tensor, budget_bytes: int) -> bool:
    count, items, a = x.shape
    b = y.shape[2]
    factors = a * a + b * b + a * b
    storage = 3 * items * items
    over_budget = x.element_size() * count * storage > budget_bytes
    return items * (a + b) > FACTORED_OVERHEAD * factors or (over_budget and factors < storage)


def _normalise(x: Tensor) -> Tensor:
    """Scale items (L, N, C) to unit length, softened so that an all-zero item has a bounded
    gradient.
    """
    squares = x.square().sum(2, keepdim=True)
    return x * (squares + NORM_EPS2 * squares.detach().mean(1, keepdim=True) + TINY).rsqrt()


def _centre(x: Tensor) -> TensorPair:
    """Subtract the mean item; give it as well, (L, C, 1)."""
    mean = x.mean(1, keepdim=True)
    return x - mean, mean.transpose(1, 2)


def _total(x: Tensor) -> Tensor:
    """Sum (L, ...) over all but the first axis in fp64."""
    return x.flatten(1).sum(1, dtype=torch.float64)


def _squares(x: Tensor, y: Tensor) -> Tensor:
    """Return the squared Frobenius norm of x' y, equal to the inner product of x x' and y y'."""
    return _total((x.transpose(1, 2) @ y).square())


def _mse_direct(x: Tensor, y: Tensor) -> Tensor:
    off_diagonal = 1 - torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    gap = (x @ x.transpose(1, 2) - y @ y.transpose(1, 2)) * off_diagonal
    return gap.square().sum((1, 2))


def _mse_factored(x: Tensor, y: Tensor) -> Tensor:
    diagonal = x.square().sum(2) - y.square().sum(2)
    return _squares(x, x) + _squares(y, y) - 2 * _squares(x, y) - _total(diagonal.square())


def _row_direct(x: Tensor, y: Tensor) -> Tensor:
    rows = []
    for side in (_rescale(x), _rescale(y)):
        gram = side @ side.transpose(1, 2)
        rows.append(gram * _reciprocal_norm(gram.square().sum(2, keepdim=True)))
    return (rows[0] - rows[1]).square().sum((1, 2)) / x.shape[1] ** 2


def _row_factored(x: Tensor, y: Tensor) -> Tensor:
    x, y = _rescale(x), _rescale(y)
    xx, yy, xy = (
        ((a @ (a.transpose(1, 2) @ b)) * b).sum(2, dtype=torch.float64)
        for a, b in ((x, x), (y, y), (x, y))
    )
    r, s = _reciprocal_norm(xx), _reciprocal_norm(yy)
    return (xx * r * r + yy * s * s - 2 * xy * r * s).sum(1) / x.shape[1] ** 2


def _rescale(x: Tensor) -> Tensor:
    """Divide items (L, N, C) by their root mean square norm; no item is normalised by itself."""
    return x * (x.detach().square().sum(2, keepdim=True).mean(1, keepdim=True) + TINY).rsqrt()


def _reciprocal_norm(squares: Tensor) -> Tensor:
    return (squares + ROW_EPS2 * squares.detach().mean(1, keepdim=True) + TINY).rsqrt()


def _cka(pair: TensorPair, *, direct: bool) -> Tensor:
    """Return || G/|G| - H/|H| ||^2 for the centred matrices G and H of centred items."""
    x, y = pair
    floor = VARIANCE_FLOOR * x.shape[1] ** 2
    if direct:
        grams = [side @ side.transpose(1, 2) for side in pair]
        x, y = (
            gram * gram.square().sum((1, 2), keepdim=True).clamp_min(floor).rsqrt()
            for gram in grams
        )
        return (x - y).square().sum((1, 2))
    xx, yy, xy = _squares(x, x), _squares(y, y), _squares(x, y)
    r, s = xx.clamp_min(floor).rsqrt(), yy.clamp_min(floor).rsqrt()
    return xx * r * r + yy * s * s - 2 * xy * r * s


def _corr_factored(pair: TensorPair, offsets: TensorPair) -> Tensor:
    """Return the correlation distance from centred items and their products with the mean item, (L,
    N, 1).

    With x_i = a_i + m and p_i = a_i m, the similarity less the constant m m is a_i a_j + p_i + p_j.
    Its sum over all pairs, the diagonal included, is 0, and so nothing large is ever subtracted.
    """
    (a, b), (p, q) = pair, (offsets[0].squeeze(2), offsets[1].squeeze(2))
    items = a.shape[1]
    pairs = items * (items - 1)
    d, e = a.square().sum(2) + 2 * p, b.square().sum(2) + 2 * q

    def moment(gram: Tensor, edges: Tensor, diagonals: TensorPair) -> Tensor:
        inner = gram + 2 * items * _total(edges) - _total(diagonals[0] * diagonals[1])
        return inner / pairs - _total(diagonals[0]) * _total(diagonals[1]) / pairs**2

    var_g, var_h = moment(_squares(a, a), p * p, (d, d)), moment(_squares(b, b), q * q, (e, e))
    covariance = moment(_squares(a, b), p * q, (d, e))
    return (
        1 - covariance * (var_g.clamp_min(VARIANCE_FLOOR) * var_h.clamp_min(VARIANCE_FLOOR)).rsqrt()
    )


PAIR_AXES = (0, 1, 1, 1, 0)
"""Which axis of what `_Corr` gives counts the pairs of models' maps."""


class _Corr(torch.autograd.Function):
    """The direct correlation distance with its gradient written out: few passes over the N x N
    matrices.

    Similarities are centred before they are multiplied. Each variance is floored by itself, so that
    by Cauchy and Schwarz the value stays in 0..2, and is 0 for equal inputs, as long as the
    similarities spread at all.
    """

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """Map items (L, N, C1) and (L, N, C2) to distances (L,), and what their gradients take."""
        count, items = x.shape[:2]
        pairs = items * (items - 1)
        grams = x.new_empty(2, count, items, items)
        torch.bmm(x, x.transpose(1, 2), out=grams[0])
        torch.bmm(y, y.transpose(1, 2), out=grams[1])
        diagonal = grams.diagonal(dim1=2, dim2=3)
        scale = (diagonal + NORM_EPS2 * diagonal.mean(2, keepdim=True) + TINY).rsqrt()
        grams.mul_(scale.unsqueeze(3)).mul_(scale.unsqueeze(2))
        diagonal.zero_()
        mean = grams.sum((2, 3), keepdim=True) / pairs
        grams.sub_(mean)
        diagonal.zero_()
        flat = grams.flatten(2).transpose(0, 1)
        moments = flat @ flat.transpose(1, 2) / pairs
        floored = moments.diagonal(dim1=1, dim2=2).clamp_min(VARIANCE_FLOOR)
        return 1 - moments[:, 0, 1] * floored.prod(1).rsqrt(), grams, scale, mean, moments

    @staticmethod
    def setup_context(ctx: Any, inputs: TensorPair, output: tuple[Tensor, ...]) -> None:
        """Keep what the gradients take."""
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, int | None], *pair: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Compute the distances of many pairs at once, of each patient its own."""
        many: int = info.batch_size
        sides = [
            side.expand(many, *side.shape) if place is None else side.movedim(place, 0)
            for side, place in zip(pair, in_dims, strict=True)
        ]
        found = _Corr.apply(*(side.flatten(0, 1) for side in sides))
        parted = zip(found, PAIR_AXES, strict=True)
        return tuple(one.unflatten(axis, (many, -1)) for one, axis in parted), PAIR_AXES

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, Tensor | None]:
        """Map gradients (L,) to those of the items."""
        if grad is None:
            return None, None
        with torch.autocast(grad.device.type, enabled=False):
            return _corr_gradients(ctx, grad)


def _corr_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return 2 S x for each side, S the slope in its raw similarities; the diagonal of S carries
    the norms' share.
    """
    x, y, grams, scale, mean, moments = ctx.saved_tensors
    items = x.shape[1]
    variances = moments.diagonal(dim1=1, dim2=2)
    floored = variances.clamp_min(VARIANCE_FLOOR)
    own = moments[:, :1, 1] / floored * (variances > VARIANCE_FLOOR)
    mix = torch.diag_embed(own) - (1 - torch.eye(2, dtype=x.dtype, device=x.device))
    mix *= (2 / (items * (items - 1)) * grad * floored.prod(1).rsqrt()).reshape(-1, 1, 1)
    slopes = (mix @ grams.flatten(2).transpose(0, 1)).transpose(0, 1).unflatten(2, (items, items))
    lengthening = (slopes * grams).sum(3) + slopes.sum(3) * mean.squeeze(3)
    slopes.mul_(scale.unsqueeze(3)).mul_(scale.unsqueeze(2))
    slopes.diagonal(dim1=2, dim2=3).copy_(-lengthening * scale.square())
    return (
        _product(slopes[0], x) if ctx.needs_input_grad[0] else None,
        _product(slopes[1], y) if ctx.needs_input_grad[1] else None,
    )


def _product(matrix: Tensor, items: Tensor) -> Tensor:
    """Multiply a symmetric matrix with items, in the items' own memory layout: most are
    transposed maps.
    """
    if items.is_contiguous():
        return matrix @ items
    return (items.transpose(1, 2) @ matrix).transpose(1, 2)
