"""Variants that change hospitals: all but their data, privacy and who trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedskd_sim import load
from fedskd_sim.errors import FedskdError, UnknownArchitecture, UnknownKey
from fedskd_sim.operate.comparison import CompareRequest, plan
from fedskd_sim.results.comparison.planning import describe, methods
from fedskd_sim.scenario import Hospital, HospitalChange

TEXT = """\
name: tiny
data: {name: synthetic-skin, samples: 30, image_size: 16, classes: 2}
hospitals:
  - {name: a, architecture: cnn-plain}
  - {name: b, architecture: cnn-plain}
  - {name: c, architecture: cnn-residual}
algorithm: {name: circulation, rounds: 1}
variants:
  turned: {order: [c, b, a]}
  other:
    order: [b, a, c]
    hospitals:
      b: {architecture: cnn-depthwise, resources: {cpu: 2}}
      c: {precision: bf16, memory_format: channels_last}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(TEXT, encoding="utf-8")
    return file


def test_hospitals_and_their_order_are_a_variants(path: Path) -> None:
    """Data, seed and who trains stay, so that runs pair; the table says what differs."""
    scenario = load(path).scenario
    usual, turned, other = methods(scenario, ["circulation", "turned", "other"])
    assert turned.scenario.names == ("c", "b", "a")
    assert {one.name: one for one in turned.scenario.hospitals} == {
        one.name: one for one in scenario.hospitals
    }
    assert other.scenario.hospital("b").architecture.name == "cnn-depthwise"
    assert other.scenario.hospital("b").resources.cpu == 2
    assert other.scenario.hospital("b").data == scenario.hospital("b").data
    trained = other.scenario.training_of("c")
    assert (trained.precision, trained.memory_format) == ("bf16", "channels_last")
    assert other.scenario.training_of("b") == scenario.training
    assert "order" not in describe(usual)
    assert describe(turned).endswith("; order: c, b, a")
    assert describe(other).endswith(
        '; hospitals: b {"name":"cnn-depthwise"} {"cpu":2}, c bf16 channels_last; order: b, a, c'
    )


def test_what_a_variant_may_change_of_a_hospital_a_hospital_has() -> None:
    """All but what must stay for runs to pair, and what privacy promised."""
    stays = {"name", "data", "held_out", "privacy"}
    assert HospitalChange.model_fields.keys() == Hospital.model_fields.keys() - stays
    for key, changed in HospitalChange.model_fields.items():
        assert changed.default is None, key


@pytest.mark.parametrize(
    ("change", "key", "fix"),
    [
        ("variants.turned.order=[c, b]", "order", "name every hospital once"),
        ("variants.turned.order=[c, b, b]", "order", "name every hospital once"),
        ("variants.other.hospitals={bb: {device: cpu}}", "bb", "did you mean 'b'?"),
    ],
)
def test_what_cannot_be_paired_is_refused(path: Path, change: str, key: str, fix: str) -> None:
    """Hospitals that there are not, and an order that leaves one out."""
    with pytest.raises(FedskdError) as caught:
        load(path, change)
    assert caught.value.key[-1] == key
    assert caught.value.fix.startswith(fix)


def test_data_of_a_variant_are_unknown(path: Path) -> None:
    """Other data would be another question."""
    with pytest.raises(UnknownKey):
        load(path, "variants.other.hospitals.b.data={site_shift: 0.1}")


def test_a_wrong_architecture_is_told_where_the_variant_says_it(path: Path) -> None:
    """And not at the hospital of the scenario, which is right."""
    text = TEXT.replace("cnn-depthwise", "cnn-depth")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UnknownArchitecture) as caught:
        plan(path, CompareRequest(("circulation", "other"), 2))
    line = text.splitlines().index("      b: {architecture: cnn-depth, resources: {cpu: 2}}") + 1
    assert str(caught.value).startswith(f"{path}:{line}: variants.other.hospitals.b.architecture")
