"""What models remember, against numbers worked out by hand, and CKA against its definition."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from fedskd_sim.learning.similarities import cka
from fedskd_sim.records import Measure, Record, RecordKind
from fedskd_sim.results.memory import assess_memory, average, remembered
from fedskd_sim.results.pictures import dilution
from fedskd_sim.results.tables import as_json, summarise


def record(kind: RecordKind, round_: int, hop: int, host: str, **measures: float) -> Record:
    names = {
        name: name.replace("_of_", "/")
        .replace("returned", "returned_balanced_accuracy")
        .replace("apart", "leaving_balanced_accuracy")
        for name in measures
    }
    values = {names[name]: Measure(value * 10, 10.0) for name, value in measures.items()}
    return Record("s", 1, kind, round_, hop, host, "a", "net", "trained", measures=values)


TOUR = [
    record("warm_up", 0, 0, "a", balanced_accuracy=0.7),
    record("visit", 1, 1, "b", probe_of_a=0.7, probe_of_b=0.6, probe_of_c=0.5),
    record("visit", 1, 2, "c", probe_of_a=0.6, probe_of_b=0.5, probe_of_c=0.8),
    record(
        "homecoming",
        1,
        3,
        "a",
        leaving_of_a=0.8,
        leaving_of_b=0.4,
        leaving_of_c=0.6,
        balanced_accuracy=0.8,
        returned=0.6,
    ),
    record("visit", 2, 1, "b", probe_of_a=0.7, probe_of_b=0.8, probe_of_c=0.5),
    record("visit", 2, 2, "c", probe_of_a=0.6, probe_of_b=0.7, probe_of_c=0.7),
    record(
        "homecoming",
        2,
        3,
        "a",
        leaving_of_a=0.9,
        leaving_of_b=0.5,
        leaving_of_c=0.5,
        balanced_accuracy=0.9,
        returned=0.65,
    ),
]


DROPS = ((2, "b", 0.1), (3, "b", 0.2), (3, "c", 0.4))
"""After how many visits, where, and how much."""


def test_memory_is_what_its_formulas_say() -> None:
    """A tour of two hospitals: drop from the best value so far, retention at home, backward
    transfer, kept share of a gain.
    """
    found = assess_memory(TOUR)
    assert found.forgetting == pytest.approx(0.8 - 0.7)
    assert found.retention == pytest.approx(((0.6 - 0.7) + (0.65 - 0.8)) / 2)
    assert found.backward == pytest.approx(0.7 - 0.8)
    gain_b, gain_c = 0.8 - 0.4, 0.7 - 0.5
    assert found.kept == pytest.approx(
        {0: (gain_b / gain_b + gain_c / gain_c) / 2, 1: (0.7 - 0.4) / gain_b}
    )


def test_what_a_model_remembers_is_made_of_parts() -> None:
    """Each tells of one model, round, number of visits and hospital, and some can be averaged
    without the others.
    """
    parts = remembered(TOUR)
    assert parts == pytest.approx(
        {
            ("forgetting", "a", 2, 2, "b"): 0.8 - 0.7,
            ("retention", "a", 1, 3, "a"): 0.6 - 0.7,
            ("retention", "a", 2, 3, "a"): 0.65 - 0.8,
        }
    )
    last = {part: value for part, value in parts.items() if part[2] == 2}
    assert average(last, "retention") == pytest.approx(0.65 - 0.8)
    assert average({("forgetting", "a", 1, hop, host): value for hop, host, value in DROPS},
                   "forgetting") == pytest.approx((0.1 + (0.2 + 0.4) / 2) / 2)  # fmt: skip
    assert average({}, "forgetting") is None


def test_the_first_round_begins_with_the_model_after_its_warm_up() -> None:
    """With probes of the warm-up a single round tells what was forgotten, and what was gained."""
    start = record("warm_up", 0, 0, "a", leaving_of_a=0.7, leaving_of_b=0.2, leaving_of_c=0.4)
    found = assess_memory([start, *TOUR[1:3]])
    assert found.forgetting == pytest.approx(0.6 - 0.5)
    assert found.backward == pytest.approx(0.5 - 0.6)
    assert found.kept == pytest.approx({0: 1.0, 1: (0.5 - 0.2) / (0.6 - 0.2)})
    assert assess_memory(TOUR[:3]).forgetting is None


def test_memory_begins_with_the_model_that_sets_out() -> None:
    """Where home keeps two models, or has made another one of two, what set out counts and neither
    what home tests nor what came home.
    """
    left = replace(
        TOUR[3],
        measures=TOUR[3].measures
        | {"leaving_balanced_accuracy": Measure(5.0, 10.0), "probe/b": Measure(9.9, 10.0)},
    )
    found = remembered([left, *TOUR[4:]])
    assert found["retention", "a", 2, 3, "a"] == pytest.approx(0.65 - 0.5)
    assert found["forgetting", "a", 2, 2, "b"] == pytest.approx(0.8 - 0.7)


def test_the_report_shows_what_is_remembered_only_where_it_was_measured() -> None:
    """With probes a note, a picture of dilution and JSON values; without them neither note nor
    picture.
    """
    hospitals = ("a", "b", "c")
    summary = summarise(TOUR, hospitals)
    assert any(
        "later has 10.0 points" in note and "changes by -10.0" in note for note in summary.notes
    )
    assert as_json(summary)["memory"]["kept"] == summary.memory.kept
    plot = dilution(summary)
    assert plot
    drawn = plot.embedded()
    assert "Of what a visit taught a model 75.0 percent is left 1 hops later" in drawn
    bare = summarise([record for record in TOUR if record.kind == "warm_up"], hospitals)
    assert dilution(bare) is None
    assert not any("forgetting" in note for note in bare.notes)


def test_without_probes_only_retention_is_known() -> None:
    """Records of a real federation tell what came home, and nothing of what other hospitals
    would have seen.
    """
    bare = [
        record(
            r.kind,
            r.round,
            r.hop,
            r.host,
            **{
                n.removesuffix("_balanced_accuracy"): m.mean
                for n, m in r.measures.items()
                if "/" not in n
            },
        )
        for r in TOUR
    ]
    found = assess_memory(bare)
    assert (found.forgetting, found.backward, found.kept) == (None, None, {})
    assert found.retention == pytest.approx(-0.125)
    assert assess_memory([]).retention is None


def slowly(x: torch.Tensor, y: torch.Tensor) -> float:
    """Unbiased HSIC as the mean over quadruples of distinct samples, the definition it stands
    for.
    """
    k, l = x @ x.T, y @ y.T  # noqa: E741
    n, total, count = len(x), 0.0, 0
    for i in range(n):
        for j in range(n):
            for q in range(n):
                for r in range(n):
                    if len({i, j, q, r}) == 4:
                        total += float(k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]))
                        count += 1
    return total / count


def test_unbiased_cka_equals_its_definition() -> None:
    """CKA of features of different width equals the mean over quadruples; equal features give 1,
    unrelated ones about 0.
    """
    draw = torch.Generator().manual_seed(0)
    x, y = (
        torch.randn(7, 3, generator=draw, dtype=torch.float64),
        torch.randn(7, 5, generator=draw, dtype=torch.float64),
    )
    y[:, :3] += x
    wanted = slowly(x, y) / (slowly(x, x) * slowly(y, y)) ** 0.5
    assert cka(x, y) == pytest.approx(wanted, abs=1e-10)
    assert cka(x, x) == pytest.approx(1.0)
    wide = torch.randn(64, 512, generator=draw), torch.randn(64, 512, generator=draw)
    assert abs(cka(*wide)) < 0.05


@pytest.mark.parametrize("level", [0.0, 0.3, 1234.567])
def test_features_that_say_nothing_have_no_cka(level: float) -> None:
    """A model that has come to give the same features for all samples is not one that has not
    changed: there is no value, with any rounding of sums, and no record of one.
    """
    some = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    nothing = torch.full((20, 5), level)
    vector = (level * torch.rand(1, 5)).expand(20, 5)
    for flat in (nothing, vector, vector + level * 1e-7 * torch.rand(20, 5)):
        assert math.isnan(cka(some, flat))
        assert math.isnan(cka(flat, some))
    weak = 1 + 0.01 * some
    assert cka(some, weak) == pytest.approx(1.0, abs=1e-3)
