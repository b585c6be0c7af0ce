"""The formulas of the manual, written out in NumPy and fp64, are what is computed; its defaults are
the program's.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from fedskd_sim.learning.data import Samples
from fedskd_sim.learning.distillation.distill import SimilarityLoss, Taps
from fedskd_sim.learning.distillation.similarity import distance
from fedskd_sim.learning.sessions.steps import Exchange, Moment, Output, TrainingStep
from fedskd_sim.learning.task import ONE_LABEL, class_weights
from fedskd_sim.scenario import BUILT_IN

PAGE = Path(__file__).parents[3] / "docs" / "algorithm-reference.md"


def unit(x):
    squares = (x**2).sum(1)
    return x / np.sqrt(squares + 1e-6 * squares.mean())[:, None]


def corr(x, y):
    off = ~np.eye(len(x), dtype=bool)
    g, h = ((unit(side) @ unit(side).T)[off] for side in (x, y))
    covariance = ((g - g.mean()) * (h - h.mean())).mean()
    return 1 - covariance / np.sqrt(max(g.var(), 1e-6) * max(h.var(), 1e-6))


def mse(x, y):
    off = ~np.eye(len(x), dtype=bool)
    return ((unit(x) @ unit(x).T - unit(y) @ unit(y).T)[off] ** 2).mean()


def row(x, y):
    rows = []
    for side in (x, y):
        scaled = side / np.sqrt((side**2).sum(1).mean())
        gram = scaled @ scaled.T
        squares = (gram**2).sum(1)
        rows.append(gram / np.sqrt(squares + 1e-8 * squares.mean())[:, None])
    return ((rows[0] - rows[1]) ** 2).sum() / len(x) ** 2


def cka(x, y):
    parts = []
    for side in (x, y):
        centred = unit(side) - unit(side).mean(0)
        gram = centred @ centred.T
        parts.append(gram / max(np.linalg.norm(gram), 1e-3 * len(x)))
    return ((parts[0] - parts[1]) ** 2).sum()


@pytest.mark.parametrize("formula", [corr, mse, row, cka])
@pytest.mark.parametrize("constant", [False, True])
def test_the_distances_are_those_of_the_manual(formula, constant):
    """Each equals its formula for items as ReLU leaves them, and for items that are all alike."""
    draw = np.random.default_rng(1)
    x, y = draw.normal(size=(7, 5)).clip(0), draw.normal(size=(7, 9)).clip(0)
    x = np.ones_like(x) if constant else x
    found = distance(torch.tensor(x), torch.tensor(y), formula.__name__)
    assert float(found) == pytest.approx(formula(x, y), abs=1e-12)


def kl(q, p):
    return (q * (np.log(q) - np.log(p))).sum() / len(q)


def items(maps, cells):
    """Average maps (B, C, H, W) over cells x cells places: a list of (places, C), one a patient."""
    size = maps.shape[2] // cells
    pooled = maps.reshape(*maps.shape[:2], cells, size, cells, size).mean((3, 5))
    return pooled.reshape(*maps.shape[:2], -1).transpose(0, 2, 1)


def levels(one, other):
    """Write out what visitor and resident are compared by: batch, pixel and region level."""
    return [
        corr(*(taps.deep.reshape(len(taps.deep), -1) for taps in (one, other))),
        np.mean([*map(corr, items(one.mid, 4), items(other.mid, 4))]),
        np.mean([*map(corr, items(one.deep, 2), items(other.deep, 2))]),
    ]


def test_a_step_adds_what_the_manual_adds():
    """The whole of similarity, predictions and the visitor's past, on their way up the ramp."""
    torch.manual_seed(0)
    past = torch.nn.Module()

    def output(middle, deep):
        maps = torch.randn(5, middle, 8, 8), torch.randn(5, deep, 4, 4)
        logits = torch.randn(5, 3).double()
        return Output(logits, Taps(*(one.double() for one in maps)), ONE_LABEL)

    visitor, resident, before = output(4, 6), output(3, 7), output(4, 6)
    resident.logits.requires_grad_()  # it trains
    past.forward = lambda _: before[:2]
    terms = SimilarityLoss(batch=0.1, pixel=0.2, region=0.3, pixel_grid=(4, 4), region_grid=(2, 2))
    held = SimilarityLoss(batch=0.4, pixel=0.5, region=0.6, pixel_grid=(4, 4), region_grid=(2, 2))
    samples = Samples(torch.zeros(5, 1), torch.zeros(5).long())
    outputs = {"visitor": visitor, "resident": resident}
    step = TrainingStep(samples, outputs, Moment(3, 20, dict.fromkeys(outputs, True)))
    found = Exchange(terms, 0.7, 0.3, past, held, 0.8)(step).total
    v, l, o = (  # noqa: E741 - as the manual has them
        (one.logits.detach().softmax(1).numpy(), Taps(*(tap.numpy() for tap in one.taps)))
        for one in (visitor, resident, before)
    )
    exchanged = np.dot([0.1, 0.2, 0.3], levels(v[1], l[1])) + 0.7 * (
        kl(l[0], v[0]) + kl(v[0], l[0])
    )
    own = np.dot([0.4, 0.5, 0.6], levels(v[1], o[1])) + 0.8 * kl(o[0], v[0])
    assert float(found.detach()) == pytest.approx(
        min(1, 3 / (0.3 * 20)) * exchanged + own, abs=1e-12
    )


def test_class_weights_are_those_of_the_manual():
    """The cross-entropy weighs a class by one over the root of its number of training samples."""
    labels, logits = torch.tensor([0, 0, 0, 0, 2]), torch.randn(5, 3).double()
    weights = class_weights(labels, 3, "sqrt_inverse").double()
    found = torch.nn.functional.cross_entropy(logits, labels, weights)
    w = np.array([0.5, 0, 1])[labels]
    losses = -logits.log_softmax(1).numpy()[range(5), labels]
    assert float(found) == pytest.approx((w * losses).sum() / w.sum(), rel=1e-6)


def number(cell: str) -> float:
    """Read a cell of the table: "never", a number, or a key with the number that it has."""
    return 0.0 if cell == "never" else float(cell.rsplit(maxsplit=1)[-1])


def test_the_weights_in_the_manual_are_the_defaults() -> None:
    """The table of a session's weights has what the algorithms are made with."""
    table = PAGE.read_text(encoding="utf-8").partition("| | key of ")[2].partition("\n\n")[0]
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()
    ]
    names = [name.strip("`") for name in head[1:]]
    assert names == ["fedskd", "traveller-first", "circulation", "mutual", "cyclic"]
    assert len(rows) == 7
    for _, keys, *cells in rows:
        first, *others = re.findall(r"`([a-z_.]+)`", keys)
        outer = first.rpartition(".")[0]
        for name, cell in zip(names, cells, strict=True):
            for path in [first, *(f"{outer}.{other}" for other in others)] if cell else []:
                value = BUILT_IN[name].circulating
                for part in path.split("."):
                    value = getattr(value, part)
                assert value == number(cell), (name, path)
