"""What attackers can tell, against values that were computed otherwise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import beta, binom
from sklearn.metrics import roc_auc_score

from fedskd_sim.privacy.attacks import (
    LEFT_OUT,
    MEMBER,
    OUTSIDER,
    PUT_IN,
    Guesses,
    SeenLosses,
    attacks,
    auc,
    chance,
    guess,
    lower_bound,
    pooled,
    rate_at,
    scaled,
    tell,
)
from fedskd_sim.privacy.sites import probe

RUNS = 400


@pytest.mark.parametrize("right", [15, 30, 60, 120, 500])
def test_a_bound_of_right_guesses_alone_is_known_in_closed_form(right: int) -> None:
    """Were all r guesses right, q^r = 5 % gives epsilon = log(q / (1 - q)); that is the ceiling."""
    share = 0.05 ** (1 / right)
    found = Guesses(2 * right, right, right)
    assert lower_bound(found) == pytest.approx(math.log(share / (1 - share)), abs=1e-9)
    assert found.ceiling() == lower_bound(found)
    assert found._replace(right=right - 1).ceiling() == lower_bound(found)


@pytest.mark.parametrize(
    ("right", "bound"),
    [(120, 3.7), (119, 3.2), (117, 2.7), (115, 2.4), (96, 1.0), (75, 0.2), (70, 0)],
)
def test_bounds_are_those_of_the_published_analysis(right: int, bound: float) -> None:
    """Of 240 canaries 120 are guessed; values of an implementation with SciPy's binomials."""
    assert lower_bound(Guesses(240, 120, right)) == pytest.approx(bound, abs=0.051)


@pytest.mark.parametrize("delta", [0.0, 1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize(("canaries", "right"), [(60, 22), (240, 110), (240, 61), (1000, 0)])
def test_the_chance_of_right_guesses_is_theorem_5_2(
    delta: float, canaries: int, right: int
) -> None:
    """SciPy's binomials, summed term by term, give the same chance."""
    for epsilon in (0.0, 0.5, 1.0, 3.0):
        guessed, share = canaries // 2, math.exp(epsilon) / (1 + math.exp(epsilon))
        wanted = binom.sf(right - 1, guessed, share)
        slack = [
            sum(binom.pmf(right - j, guessed, share) for j in range(1, i + 1)) / i
            for i in range(1, right + 1)
        ]
        wanted += 2 * canaries * delta * max(slack, default=0.0)
        assert chance(Guesses(canaries, guessed, right), epsilon, delta) == pytest.approx(
            min(1.0, wanted), abs=1e-9
        )


def test_with_a_delta_more_canaries_show_no_more() -> None:
    """At a delta of 1e-3 the ceiling saturates: 120 canaries 3.3, 240 3.6, 1000 3.5."""
    found = [Guesses(count, count, count).ceiling(1e-3) for count in (120, 240, 1000)]
    assert [round(value, 1) for value in found] == [3.3, 3.6, 3.5]


def test_coins_that_nobody_saw_are_bounded_as_rarely_as_is_said() -> None:
    """Scores that know nothing of the coins give a bound above 0 in at most 5 % of runs, also where
    all scores are the same.
    """
    draw = np.random.default_rng(0)
    wrong = 0
    for _ in range(RUNS):
        coins = draw.random(120) < 0.5
        wrong += guess(draw.normal(size=120), coins).epsilon() > 0
        wrong += guess(np.zeros(120), coins).epsilon() > 0
    assert wrong <= 0.05 * 2 * RUNS


def test_guesses_are_the_highest_and_the_lowest_scores() -> None:
    """Of eight canaries two are guessed as in and two as out."""
    coins = np.array([True, False, True, True, False, False, True, False])
    scores = np.array([9.0, 0, 8, 3, 4, 5, 1, 2])
    assert guess(scores, coins) == Guesses(8, 4, 3)


def test_areas_and_intervals_are_those_of_other_programs() -> None:
    """The AUC, with equal scores, is scikit-learn's; intervals of shares are SciPy's."""
    draw = np.random.default_rng(1)
    members, outsiders = draw.integers(0, 9, 120) + 1.0, draw.integers(0, 9, 80) * 1.0
    truth, scores = np.repeat([1, 0], [120, 80]), np.concatenate((members, outsiders))
    area, width = auc(members, outsiders)
    assert area == pytest.approx(roc_auc_score(truth, scores))
    assert 0.05 < width < 0.12
    members, outsiders = draw.normal(1, 1, 120), draw.normal(0, 1, 80)
    found = rate_at(members, outsiders, 0.05)
    assert found is not None
    cut = np.sort(outsiders)[-5]
    right = int((members > cut).sum())
    assert found.found == right / 120
    assert found.low == pytest.approx(beta.ppf(0.025, right, 121 - right), abs=1e-6)
    assert found.high == pytest.approx(beta.ppf(0.975, right + 1, 120 - right), abs=1e-6)


def test_no_rate_is_told_below_one_outsider() -> None:
    """With 80 outsiders, 1 % of them is nobody; with 100 it is one."""
    members = np.arange(10.0)
    assert rate_at(members, np.zeros(80), 0.01) is None
    none, all_ = (
        rate_at(members, np.full(100, 20.0), 0.01),
        rate_at(members, -np.arange(100.0) - 1, 0.01),
    )
    assert none is not None
    assert all_ is not None
    assert (none.found, none.low, all_.found, all_.high) == (0.0, 0.0, 1.0, 1.0)


def seen(**other: object) -> SeenLosses:
    """Return the losses of two visitors and of the home model, of six samples."""
    draw, nothing = np.random.default_rng(2), np.full(6, np.nan)
    before = np.stack([nothing, *draw.random((3, 6))])
    after = np.stack([*draw.random((3, 6)), nothing])
    given: dict[str, object] = {
        "groups": np.array([OUTSIDER, MEMBER, MEMBER, OUTSIDER, LEFT_OUT, PUT_IN]),
        "before": before, "after": after, "visits": np.array([False, True, True, False]),
        "shown": True, "finals": draw.random((2, 6)), "own": 1,
    }  # fmt: skip
    return SeenLosses(**{**given, **other})  # type: ignore[arg-type]


def test_every_attacker_uses_what_it_sees() -> None:
    """The next hospital knows what leaves, two neighbours what came as well, everybody the end."""
    given = seen()
    found = attacks(given)
    logs = -np.log(given.after + 1e-3)
    assert (found["next hospital, last visitor"] == logs[2]).all()
    assert found["next hospital, all models"] == pytest.approx(sum(map(scaled, logs[:3])))
    moved = given.before - given.after
    assert (found["two neighbours, last visitor"] == moved[2]).all()
    assert found["two neighbours, all models"] == pytest.approx(scaled(moved[1]) + scaled(moved[2]))
    assert (found["everybody, its final model"] == -given.finals[1]).all()
    assert found["everybody, mean of finals"] == pytest.approx(-given.finals.mean(0))


def test_where_models_are_added_up_the_next_hospital_sees_none() -> None:
    """Then two neighbours are needed, who subtract what they have; where nothing travels, only the
    final models are seen.
    """
    hidden = attacks(seen(shown=False))
    assert not [who for who in hidden if who.startswith("next")]
    assert "two neighbours, last visitor" in hidden
    alone = attacks(seen(before=np.zeros((0, 6)), after=np.zeros((0, 6)), visits=np.zeros(0, bool)))
    assert [*alone] == ["everybody, its final model", "everybody, mean of finals"]


def test_hospitals_are_pooled_on_one_scale() -> None:
    """Scores of a hospital whose losses are ten times as large count as any other's; nothing is
    told without outsiders, and no guesses without canaries.
    """
    draw, groups = np.random.default_rng(3), np.repeat([OUTSIDER, MEMBER, LEFT_OUT, PUT_IN], 30)
    one = draw.normal(size=120) + (groups == MEMBER) + (groups == PUT_IN)
    scores, of = pooled([(one, groups), (10 * one + 3, groups)])
    assert scores[:120] == pytest.approx(scores[120:])
    found = tell(scores, of)
    assert found is not None
    assert found.guesses is not None
    assert (found.guesses.canaries, found.guesses.guessed) == (120, 60)
    assert 0.6 < found.auc < 0.9
    assert tell(one[30:], groups[30:]) is None
    bare = tell(one[:60], groups[:60])
    assert bare is not None
    assert bare.guesses is None


def test_answers_name_a_hospital_only_where_they_tell_it() -> None:
    """Answers that lean to their hospital name it; those that do not are named as by chance."""
    draw = np.random.default_rng(4)
    homes = np.repeat(np.arange(3), [90, 40, 20])
    noise = draw.normal(size=(150, 4))
    told, blind = probe(noise + 2.0 * homes[:, None], homes), probe(noise, homes)
    assert told is not None
    assert blind is not None
    assert told.right > 0.8
    assert told.p == pytest.approx(1 / 201)
    assert abs(blind.right - 1 / 3) < 0.12
    assert blind.p > 0.05
    assert abs(told.by_chance - 1 / 3) < 0.05
    assert told == probe(noise + 2.0 * homes[:, None], homes)
    assert probe(noise[:30], homes[:30]) is None
    assert probe(noise[:90], homes[:90]) is None
