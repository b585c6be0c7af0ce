"""What a private hospital spends: against independent values, and against what runs really ask."""

from __future__ import annotations

import builtins
import math
import re
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import norm

from fedskd_sim.errors import InvalidValue, LibraryMissing
from fedskd_sim.privacy import accountant
from fedskd_sim.privacy.accountant import epsilon, noise_for, plan, session
from fedskd_sim.ring.topology import Topology
from fedskd_sim.scenario import Privacy, Scenario, load, scenarios

dp_accounting = pytest.importorskip("dp_accounting")
TEXT = """
name: spends
data: {name: synthetic-roi, samples: 100, regions: 12}
hospitals: [{name: a, architecture: roi-mlp}, {name: b, architecture: roi-mlp}]
algorithm: {name: local, rounds: 3}
training: {warmup_epochs: 2, epochs: 1, batch_size: 16, class_weights: none}
privacy: {unit: sample, noise: 2}
"""


def scenario(tmp_path: Path, *changes: str) -> Scenario:
    path = tmp_path / "spends.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return load(path, changes).scenario


def planned(tmp_path: Path, *changes: str, units: int = 60) -> accountant.SpendingPlan:
    found = scenario(tmp_path, *changes)
    return plan(found, Topology.of(found), "a", units, units)


def test_one_query_of_all_is_the_gaussian_mechanism() -> None:
    """Without sampling many queries are one with less noise, whose epsilon has a closed form (Balle
    and Wang 2018): ours is not below it, and within 0.1 %.
    """
    for noise, queries in ((2.0, 1), (2.0, 16), (8.0, 100)):
        mu = math.sqrt(queries) / noise
        found = epsilon(1.0, noise, queries, 1e-3)
        assert found is not None
        spent = norm.cdf(mu / 2 - found / mu) - math.exp(found) * norm.cdf(-mu / 2 - found / mu)
        less = found * 0.999
        more = norm.cdf(mu / 2 - less / mu) - math.exp(less) * norm.cdf(-mu / 2 - less / mu)
        assert spent <= 1e-3 <= more


@pytest.mark.parametrize(
    ("rate", "noise", "queries", "delta"),
    [(16 / 105, 2.0, 490, 0.1 / 105), (0.08, 1.0, 585, 0.1 / 400), (0.5, 8.0, 44, 0.1 / 43)],
)
def test_epsilon_is_below_that_of_moments(
    rate: float, noise: float, queries: int, delta: float
) -> None:
    """Rényi accounting is an upper bound that is looser, by 25 % at most in runs of this size."""
    from dp_accounting.rdp import RdpAccountant

    step = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    other = RdpAccountant().compose(dp_accounting.SelfComposedDpEvent(step, queries))
    loose, found = other.get_epsilon(delta), epsilon(rate, noise, queries, delta)
    assert found is not None
    assert 0.75 * loose < found < loose


OPACUS = {
    (16, 105, 459): {0.7: 42.8721, 1.0: 20.2428, 2.0: 6.4223, 4.0: 2.534, 8.0: 1.0808},
    (16, 43, 188): {0.7: 64.7289, 1.0: 32.7358, 2.0: 10.5394, 4.0: 4.0059, 8.0: 1.6482},
    (32, 400, 562): {0.7: 24.4807, 1.0: 11.2971, 2.0: 3.695, 4.0: 1.5241, 8.0: 0.6734},
    (32, 2372, 3334): {0.7: 10.0668, 1.0: 4.3336, 2.0: 1.4962, 4.0: 0.6491},
    (32, 264, 371): {0.7: 29.7502, 1.0: 14.1014, 2.0: 4.599, 4.0: 1.8695, 8.0: 0.8168},
    (16, 182, 796): {0.7: 32.7761, 1.0: 14.9436, 2.0: 4.7689, 4.0: 1.9261, 8.0: 0.8368},
    (52, 105, 44): {0.7: 33.434, 1.0: 18.1629, 2.0: 6.4041, 4.0: 2.5656, 8.0: 1.0934},
}
"""Epsilon by batch, units and queries, and by noise, at delta 0.1 / units: Opacus 1.6.0 (PRV: Gopi
et al. 2021), ``PRVAccountant.get_epsilon(delta, eps_error=0.002)`` of a history of such steps."""


@pytest.mark.parametrize("run", OPACUS)
def test_epsilon_is_what_another_library_says(run: tuple[int, int, int]) -> None:
    """Within 1 %, of runs of the manual's table and of shorter ones."""
    batch, units, queries = run
    for noise, other in OPACUS[run].items():
        assert epsilon(batch / units, noise, queries, 0.1 / units) == pytest.approx(other, rel=0.01)


def test_small_epsilons_of_many_queries_are_never_too_low() -> None:
    """Losses are counted in steps, rounded up: of 3,334 queries at noise 8 epsilon is 0.304, where
    Opacus says 0.297.
    """
    found = epsilon(32 / 2372, 8.0, 3334, 0.1 / 2372)
    assert found is not None
    assert 0.297 < found < 1.03 * 0.297


def test_nothing_is_spent_without_a_query_and_all_without_noise() -> None:
    """None stands for no bound at all."""
    assert epsilon(0.1, 1.0, 0, 1e-3) == 0.0
    assert epsilon(0.1, 0.0, 1, 1e-3) is None


def test_the_noise_of_a_target_spends_no_more_and_hardly_less() -> None:
    """The least noise that suffices, within 0.1 %."""
    for target in (1.0, 8.0):
        noise = noise_for(target, 0.25, 100, 1e-3)
        spent, more = epsilon(0.25, noise, 100, 1e-3), epsilon(0.25, 0.998 * noise, 100, 1e-3)
        assert spent is not None
        assert more is not None
        assert spent <= target < more


def test_an_epsilon_out_of_reach_says_the_least(tmp_path: Path) -> None:
    """With the keys that would lower it."""
    with pytest.raises(InvalidValue, match=r"0\.001 cannot be reached: 16 queries spend") as caught:
        planned(tmp_path, "privacy={unit: sample, target: {epsilon: 0.001}}")
    assert "privacy.batch" in caught.value.fix
    assert caught.value.key == ("hospitals", 0, "privacy", "target", "epsilon")


def test_a_session_stops_before_it_overdraws() -> None:
    """With a second model in every n-th step it counts two queries there."""
    assert session(100, 10) == (10, 10)
    assert session(99.9, 10) == (9, 9)
    assert session(100, 10, every=1) == (5, 10)
    assert session(100, 10, every=3) == (8, 10)
    assert session(0, 10) == (0, 0)


def test_a_plan_tells_what_a_run_will_spend(tmp_path: Path) -> None:
    """Warm-up and sessions, in words; the unit, a simulated key and clipping alone are named."""
    found = planned(tmp_path)
    assert found.queries == 7 + 3 * 3  # 2 passes and 3 times 1, each of 60 / 16 steps
    assert "60 samples" in str(found)
    assert f"{found.queries} queries spend epsilon" in str(found)
    assert "simulated, no guarantee" in str(planned(tmp_path, "privacy.key=scenario"))
    assert "clipped alone, no guarantee" in str(planned(tmp_path, "privacy.noise=0"))
    assert planned(tmp_path, "privacy.delta=1e-9").epsilon > found.epsilon  # type: ignore[operator]


@pytest.mark.parametrize(
    ("change", "said", "key"),
    [
        ("privacy.batch=61", "61 samples cannot be expected in a step", "batch"),
        ("privacy.budget=0.1", "is spent before the first round", "budget"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(change: str, said: str, key: str, tmp_path: Path) -> None:
    """Fewer units than a step expects, and a budget that the first session would overdraw."""
    with pytest.raises(InvalidValue, match=said) as caught:
        planned(tmp_path, change)
    assert caught.value.key == ("hospitals", 0, "privacy", key)


def test_shorter_passes_spend_less(tmp_path: Path) -> None:
    """``training.batches`` steps are a pass at most."""
    assert planned(tmp_path, "training.batches=1").queries == 2 + 3


def test_without_the_accountant_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is noise; clipping alone needs none."""
    real = builtins.__import__

    def lacking(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("dp_accounting"):
            raise ModuleNotFoundError(name, name="dp_accounting")
        return real(name, *rest, **more)

    accountant._losses.cache_clear()
    accountant._composed.cache_clear()
    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(LibraryMissing, match="dp_accounting is not installed") as caught:
        epsilon(0.1, 1.0, 10, 1e-3)
    assert "fedskd-sim[privacy]" in caught.value.fix
    assert epsilon(0.1, 0.0, 10, 1e-3) is None


def test_the_manuals_table_is_computed() -> None:
    """Every figure of the table of epsilons in docs/privacy.md, of shipped scenarios with as many
    units as it says.
    """
    page = (Path(__file__).parents[3] / "docs" / "privacy.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (fed\S+|heart) \| (\S+) \| (\d+) \| (.*) \|$", page, re.MULTILINE)
    assert len(rows) == 6
    for name, host, units, figures in rows:
        found = load(scenarios()[name]).scenario
        guarded = tuple(
            one.model_copy(update={"privacy": Privacy(unit="sample", noise=1.0)})
            if one.name == host
            else one
            for one in found.hospitals
        )
        private = found.model_copy(update={"hospitals": guarded})
        due = plan(private, Topology.of(private), host, int(units), int(units))
        queries, *told = figures.split(" | ")
        assert int(queries) == due.queries
        rate, delta = due.rule.rate, due.rule.delta
        computed = [epsilon(rate, noise, due.queries, delta) for noise in (0.5, 1, 2, 4, 8)]
        computed += [noise_for(target, rate, due.queries, delta) for target in (1, 3, 8)]
        assert [f"{one:.2g}" for one in computed if one] == [f"{float(one):.2g}" for one in told]
