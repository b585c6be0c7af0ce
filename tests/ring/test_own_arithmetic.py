"""Precision and memory format of one hospital: its sessions', and nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from loops import files
from safetensors.torch import load_file

from fedskd_sim.custody.archive import FOLDER
from fedskd_sim.custody.verify import verify
from fedskd_sim.operate.replay import replay
from fedskd_sim.records.files import read_records
from fedskd_sim.scenario import load

TEXT = """
name: own-arithmetic
data: {{name: synthetic-skin, samples: 40, image_size: 16, classes: 2}}
hospitals:
  - {{name: a, architecture: {{name: cnn-residual, options: {{width: 4}}}}}}
  - {{name: b, architecture: {{name: cnn-plain, options: {{width: 4}}}}, {own}}}
algorithm: {{name: {algorithm}, rounds: 2}}
training: {{warmup_epochs: 1, batch_size: 12}}
instruments: {{keep_hops: 0.1}}
{more}
"""
OWN = "precision: bf16, memory_format: channels_last"
SAID = "here with training.precision bf16 and training.memory_format channels_last"


def text(own: str, more: str = "", algorithm: str = "fedskd") -> str:
    return TEXT.format(own=own, more=more, algorithm=algorithm)


def test_it_holds_for_all_who_train_there_and_outlives_a_death(
    scenario_file: Callable[[str], Path], run: Callable[..., Path]
) -> None:
    """The visitor too computes so while it is there, the other hospital does not; what travels is
    fp32. A hospital that is killed goes on with the same bytes, and its kept sessions can be
    executed again.
    """
    plain, own = (run(scenario_file(text(keys))) for keys in ("precision: fp32", OWN))
    kill = "faults: [{hospital: b, what: kill, round: 2, hop: 1}]"
    killed = run(scenario_file(text(OWN, kill)), "processes")
    assert files(own) == files(killed)
    assert verify(own, None, {}, "abc").broken is None
    kept = len([*own.glob(f"{FOLDER}/*/*.json")])
    found = replay(own, kept)
    assert (found.executed, found.differences, found.apart) == (kept, (), ())
    assert kept >= 8
    before, after = (
        {(x.host, x.model, x.kind): x for x in read_records(one)} for one in (plain, own)
    )
    warmed = [
        name for name in "ab" if before[name, name, "warm_up"] != after[name, name, "warm_up"]
    ]
    assert warmed == ["b"]
    assert SAID in after["b", "b", "warm_up"].reason
    assert before["b", "a", "visit"].digest_out != after["b", "a", "visit"].digest_out
    for file in own.glob("weights/*.safetensors"):
        assert {str(one.dtype) for one in load_file(file).values()} <= {
            "torch.float32",
            "torch.int64",
        }


@pytest.mark.parametrize("algorithm", ["{name: local}", "{name: placebo}"])
def test_a_key_in_vain_is_listed(algorithm: str, scenario_file: Callable[[str], Path]) -> None:
    """One that says what ``training`` says, or on a CPU means the same, has no effect; nor has any
    where nothing is computed.
    """
    given = text("precision: tf32, memory_format: contiguous").replace(
        "{name: fedskd, rounds: 2}", algorithm
    )
    idle = {one.partition(" has no effect")[0] for one in load(scenario_file(given)).idle}
    assert {"hospitals.1.precision", "hospitals.1.memory_format"} <= idle
    idle = {one.partition(" has no effect")[0] for one in load(scenario_file(text(OWN))).idle}
    assert not {one for one in idle if one.startswith("hospitals.1")}
