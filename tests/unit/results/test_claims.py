"""An audit tests what private hospitals claim: with the noise that they claim no attacker refutes
it, without it one does.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest
import torch

from fedskd_sim.errors import BoundExceeded
from fedskd_sim.learning.sessions import private
from fedskd_sim.results.audit import audit
from fedskd_sim.scenario import load

pytest.importorskip("dp_accounting")
Called = Callable[..., "subprocess.CompletedProcess[str]"]
ALONE = """
name: claims
seed: 1
data: {name: synthetic-roi, samples: 60, regions: 100}
hospitals:
  - {name: a, architecture: {name: roi-mlp, options: {width: 64}}}
  - name: b
    architecture: {name: roi-mlp, options: {width: 64}}
    privacy: null
    data: {samples: 20}
algorithm: {name: local, rounds: 1}
training:
  epochs: 32
  warmup_epochs: 32
  batch_size: 60
  class_weights: none
  optimiser: {learning_rate: 3.0e-3, weight_decay: 0}
privacy: {unit: sample, target: {epsilon: 2}, key: scenario, delta: 1.0e-6}
audit: {canaries: 400}
"""
"""A network that learns two hundred canaries of one hospital by heart."""
TOGETHER = """
name: claims
seed: 1
data: {name: synthetic-roi, samples: 60, regions: 40}
hospitals:
  - {name: a, architecture: {name: roi-mlp, options: {width: 32}}}
  - {name: b, architecture: {name: roi-mlp, options: {width: 32}}}
algorithm: {name: fedskd, preset: traveller-first, rounds: 2, similarity: {batch: 0}}
training:
  epochs: 10
  warmup_epochs: 10
  batch_size: 50
  class_weights: none
  optimiser: {learning_rate: 3.0e-3, weight_decay: 0}
privacy: {unit: sample, target: {epsilon: 1}, key: scenario}
prediction: {ensemble: true}
audit: {canaries: 200}
"""


def test_forgotten_noise_under_a_claim_of_2_is_refuted(
    scenario_file: Callable, run: Callable, inside: Called, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records claim an epsilon of 2, and steps add no noise: the audit ends with its own code."""
    monkeypatch.setattr(
        private.Draws, "normal", lambda _, count: torch.zeros(count, dtype=torch.float64)
    )
    done = inside("audit", run(scenario_file(ALONE)))
    assert done.returncode == BoundExceeded.exit_code
    assert "a claims an epsilon of 2.00 at delta 1e-06, and it is at least " in done.stderr
    assert "its final model' guesses" in done.stderr


def test_with_its_noise_the_same_claim_stands(
    scenario_file: Callable, run: Callable, inside: Called
) -> None:
    """Nothing else differs."""
    done = inside("audit", run(scenario_file(ALONE)))
    assert done.returncode == 0, done.stderr
    assert "claimed" in done.stdout


def test_no_attacker_finds_more_than_an_epsilon_of_1(
    scenario_file: Callable, run: Callable
) -> None:
    """Of visitors, of what two neighbours see, and of the final models; one seed of the ten of
    docs/audit.md.
    """
    folder = run(scenario_file(TOGETHER))
    found = audit(folder, load(folder / "scenario.yaml").scenario)
    assert {one.epsilon <= 1 for one in found.claims.values()} == {True}
    assert len({one.attacker for one in found.pooled}) == 6
    for one in (*found.pooled, *found.single):
        assert one.epsilon is not None
        assert one.ceiling is not None
        assert one.epsilon <= 1 < one.ceiling
