"""Privacy of hospitals as a scenario gives it, and what would undo it: refused with key and fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedskd_sim.errors import FedskdError, InvalidValue
from fedskd_sim.operate.checks import load_and_check
from fedskd_sim.scenario import Scenario, load

TEXT = """\
name: kept
data: {name: synthetic-roi, samples: 60, regions: 12}
hospitals:
  - {name: a, architecture: roi-mlp}
  - {name: b, architecture: roi-mlp, privacy: {noise: 4, clip: 0.5}}
  - {name: c, architecture: roi-mlp, privacy: null}
algorithm: {name: fedskd, similarity: {batch: 0}}
training: {class_weights: none, batch_size: 16}
privacy: {unit: sample, target: {epsilon: 8}, spent: stop, key: scenario}
"""


def written(tmp_path: Path) -> Path:
    path = tmp_path / "kept.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def loaded(tmp_path: Path, *changes: str) -> Scenario:
    return load(written(tmp_path), changes).scenario


def test_a_hospitals_own_keys_override_those_of_all(tmp_path: Path) -> None:
    """Key by key; how much noise there is comes from one of the two alone, and null is none."""
    found = loaded(tmp_path)
    usual, own = found.hospital("a").privacy, found.hospital("b").privacy
    assert usual is not None
    assert own is not None
    assert (usual.target.epsilon, usual.spent, usual.clip) == (8, "stop", 1)  # type: ignore[union-attr]
    assert (own.noise, own.target, own.clip, own.unit) == (4, None, 0.5, "sample")
    assert found.hospital("c").privacy is None


WRONG = {
    "privacy.noise=1": ("privacy.noise", "1 cannot be used beside a target", "remove"),
    "privacy.target=null": (
        "privacy",
        "neither noise nor target is set",
        "set target: {epsilon: 8}, or noise",
    ),
    "privacy.budget=2": ("budget", "2 cannot be used beside a target", "remove budget"),
    "hospitals.b.privacy={noise: 0, budget: 2}": (
        "hospitals.1.privacy.budget",
        "without noise every step spends all",
        "set a noise",
    ),
    "privacy.unit=lesion": ("unit", '"lesion" cannot be used', "patient"),
    "privacy.clip=0": ("clip", "0 cannot be used", "more than 0"),
    "privacy.delta=1": ("delta", "1 cannot be used", ""),
    "privacy.target={epsilon: 0}": ("epsilon", "0 cannot be used", ""),
    "privacy.kind=gauss": ("privacy.kind", "unknown key", "known here"),
    "algorithm.similarity.batch=0.1": (
        "algorithm.similarity.batch",
        "it compares patients with each other",
        "set algorithm.similarity.batch to 0",
    ),
    "algorithm.self_distillation={batch: 0.2}": (
        "algorithm.self_distillation.batch",
        "0.2 cannot be used where 'a' is private",
        "set algorithm.self_distillation.batch to 0",
    ),
    "algorithm={name: fedproto}": ("algorithm.name", "'fedproto' cannot be used", "choose one of"),
    "algorithm={name: pooled}": (
        "algorithm.name",
        "everything is trained on in one place",
        "local",
    ),
    "algorithm={name: placebo}": ("algorithm.name", "'placebo' cannot be used", "choose one of"),
    "algorithm.loss=mine": ("algorithm.loss", "may keep what it saw of patients", "remove it"),
    "training.class_weights=sqrt_inverse": (
        "training.class_weights",
        "from the labels of all patients",
        "set training.class_weights: none",
    ),
    "training.precision=bf16": ("training.precision", "'bf16' cannot be used", "fp32"),
    "hospitals.a.precision=bf16": ("hospitals.0.precision", "'bf16' cannot be used", "fp32"),
    "training.compile=true": ("training.compile", "true cannot be used", "compile: false"),
    "hospitals.a.device=cuda": (
        "training.recorded_steps",
        "true cannot be used where 'a' is private",
        "set training.recorded_steps: false",
    ),
    "training.accumulate=2": ("training.accumulate", "2 cannot be used", "privacy.batch"),
    "training.patience=3": ("training.patience", "3 cannot be used", "remove"),
    "variants={other: {training: {class_weights: sqrt_inverse}}}": (
        "variants.other.training.class_weights",
        "from the labels of all patients",
        "none",
    ),
}


@pytest.mark.parametrize("change", WRONG)
def test_what_would_undo_privacy_is_refused(change: str, tmp_path: Path) -> None:
    """With key, value and fix, in the scenario and in a variant."""
    key, said, fix = WRONG[change]
    with pytest.raises(FedskdError) as caught:
        loaded(tmp_path, change)
    told = [caught.value, *caught.value.others]
    assert any(key in str(one) and said in str(one) and fix in str(one.fix) for one in told), [
        str(one) for one in told
    ]


def test_an_audit_of_a_secret_key_is_refused(tmp_path: Path) -> None:
    """Its losses have no noise. With a known key, or at a hospital that trains not, it may be."""
    audit, secret = "audit={canaries: 0}", "hospitals.b.privacy.key=secret"
    with pytest.raises(InvalidValue, match="'b' has a secret key") as caught:
        loaded(tmp_path, audit, secret)
    assert caught.value.key == ("audit",)
    assert "set privacy.key: scenario" in caught.value.fix
    loaded(tmp_path, audit)
    loaded(tmp_path, audit, secret, "hospitals.b.held_out=true")


def test_hospitals_without_privacy_may_do_all_that(tmp_path: Path) -> None:
    """Nothing is refused where nobody is private, and a hospital that is held out trains not."""
    free = ["privacy=null", "hospitals.b.privacy=null", "training.class_weights=sqrt_inverse"]
    loaded(tmp_path, *free, "algorithm.similarity.batch=0.1", "training.patience=2")


ONLY_DATA_TELLS = {
    "privacy.unit=patient": ("privacy.unit", "does not say whose its samples are"),
    "privacy.batch=37": ("batch", "37 samples cannot be expected in a step: 'a' trains with 36"),
    "privacy.target.epsilon=1.0e-4": ("target.epsilon", "cannot be reached"),
    "hospitals.b.privacy={noise: 1, budget: 0.01}": ("budget", "is spent before the first round"),
}


@pytest.mark.parametrize("change", ONLY_DATA_TELLS)
def test_what_only_data_tells_is_refused_before_a_run(change: str, tmp_path: Path) -> None:
    """With the key in the file, by whatever checks a scenario before it starts."""
    pytest.importorskip("dp_accounting")
    key, said = ONLY_DATA_TELLS[change]
    with pytest.raises(InvalidValue) as caught:
        load_and_check(written(tmp_path), None, changes=[change])
    told = [str(one) for one in (caught.value, *caught.value.others)]
    assert any(key in one and said in one for one in told), told


def test_a_layer_that_computes_from_the_batch_is_named(tmp_path: Path) -> None:
    """Of every architecture that visits, also of a hospital that is not private itself."""
    path = tmp_path / "norms.yaml"
    text = TEXT.replace("synthetic-roi, samples: 60, regions: 12", "synthetic-skin, samples: 60")
    text = text.replace("architecture: roi-mlp", "architecture: cnn-plain").replace(
        "c, architecture: cnn-plain", "c, architecture: {name: cnn-plain, options: {norm: batch}}"
    )
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InvalidValue, match="BatchNorm2d") as caught:
        load_and_check(path, None)
    assert caught.value.key == ("hospitals", 2, "architecture")
