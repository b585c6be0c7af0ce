"""Canaries among the training samples, and the losses that an audited run keeps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from fedskd_sim.errors import InvalidValue
from fedskd_sim.learning.base import LearnerContext
from fedskd_sim.learning.canaries import make, toss
from fedskd_sim.learning.data import HospitalData, load
from fedskd_sim.learning.networks.models import build
from fedskd_sim.learning.site import Site
from fedskd_sim.privacy.attacks import LEFT_OUT, MEMBER, OUTSIDER, PUT_IN
from fedskd_sim.privacy.losses import read_kept
from fedskd_sim.records.files import read_records
from fedskd_sim.scenario import Scenario
from fedskd_sim.scenario import load as load_scenario

TEXT = """
name: audited
seed: 2
data: {{name: {data}, samples: 60}}
hospitals: [{{name: a, architecture: {net}}},
            {{name: b, architecture: {net}, data: {{samples: 45}}}},
            {{name: out, architecture: {net}, held_out: true}}]
algorithm: {{name: {algorithm}, rounds: 2}}
training: {{epochs: 1, warmup_epochs: 1, batch_size: 16}}
{more}
"""
AUDIT = "audit: {canaries: 20}"
KINDS = {
    "synthetic-skin": "cnn-plain",
    "synthetic-roi": "roi-mlp",
    "synthetic-volumes": "vol-plain",
}


def text(data: str = "synthetic-roi", algorithm: str = "circulation", more: str = AUDIT) -> str:
    return TEXT.format(data=data, net=KINDS[data], algorithm=algorithm, more=more)


def data_of(scenario: Scenario, name: str) -> HospitalData:
    return Site(LearnerContext(scenario, name)).data


@pytest.mark.parametrize("kind", KINDS)
def test_canaries_that_the_coin_chose_train_behind_all_others(
    kind: str, scenario_file: Callable
) -> None:
    """A hospital's own samples are as without an audit. Behind them train the canaries whose coin
    said so: as many as the counts tell, each with the entries of a sample in another order.
    """
    scenario = load_scenario(scenario_file(text(kind))).scenario
    for name in scenario.members:
        plain, site = load(scenario, name, None, "cpu"), Site(LearnerContext(scenario, name))
        coins, found = toss(scenario, name, len(plain.classes)), site.data
        count, added = len(plain.train.labels), int(coins.put_in.sum())
        assert len(coins.put_in) == 20
        assert 2 < added < 18
        assert torch.equal(found.train.images[:count], plain.train.images)
        assert torch.equal(found.train.labels[:count], plain.train.labels)
        assert found.train.labels[count:].tolist() == coins.labels[coins.put_in].tolist()
        assert len(found.train.ids) == len({*found.train.ids}) == count + added
        assert all(torch.equal(x, y) for x, y in zip(found.test[:2], plain.test[:2], strict=True))
        canaries = make(plain, coins, scenario, name)
        assert torch.equal(
            found.train.images[count:], canaries.images[torch.from_numpy(coins.put_in)]
        )
        sources = plain.train.images.flatten(1).sort().values
        for one in canaries.images:
            entries = one.flatten().sort().values
            assert any(torch.equal(entries, source) for source in sources)
            assert not any(torch.equal(one, source) for source in plain.train.images)
            assert kind != "synthetic-roi" or torch.equal(one, one.T)
        read = site._known.counts
        assert sum(read.used["train"].values()) == len(found.train.labels)
        assert sum(read.found.values()) == sum(sum(one.values()) for one in read.used.values())
        assert found.remark == f"{added} of 20 canaries train here"
    assert torch.equal(
        data_of(scenario, "out").test.images, load(scenario, "out", None, "cpu").test.images
    )


def test_coins_are_a_function_of_seed_and_hospital(scenario_file: Callable) -> None:
    """The same ones in every life, others at every hospital and with every seed, as often heads as
    tails; without canaries nothing is changed.
    """
    scenario = load_scenario(scenario_file(text(more="audit: {canaries: 4000}"))).scenario
    one, again, other = (toss(scenario, name, 3) for name in ("a", "a", "b"))
    assert (one.put_in == again.put_in).all()
    assert (one.put_in != other.put_in).any()
    assert (one.put_in != toss(scenario.model_copy(update={"seed": 9}), "a", 3).put_in).any()
    assert abs(one.put_in.mean() - 0.5) < 0.03
    assert abs(one.labels.mean() - 1) < 0.05
    assert not len(toss(scenario, "out", 3).labels)
    bare = load_scenario(scenario_file(text(more="audit: {canaries: 0}"))).scenario
    found, plain = data_of(bare, "a"), load(bare, "a", None, "cpu")
    assert torch.equal(found.train.images, plain.train.images)
    assert found.remark == plain.remark


@pytest.mark.parametrize("algorithm", ["circulation", "fedavg", "local"])
def test_losses_are_those_of_the_weights_that_were_kept(
    algorithm: str, scenario_file: Callable, run: Callable
) -> None:
    """The finished model's losses follow from the file of its weights. Stops are those at which
    models with the whole network come and leave.
    """
    path = scenario_file(text(algorithm=algorithm))
    folder, scenario = run(path), load_scenario(path).scenario
    assert {file.stem for file in (folder / "audit").iterdir()} == {"a", "b"}
    assert (folder / "audit").stat().st_mode & 0o077 == 0
    for name in scenario.members:
        kept, plain = read_kept(folder / "audit" / f"{name}.npz"), load(scenario, name, None, "cpu")
        site = Site(LearnerContext(scenario, name))
        coins = toss(scenario, name, len(plain.classes))
        parts = [plain.train, plain.validation, plain.test, make(plain, coins, scenario, name)]
        model = build(scenario.architecture(name), site.shape, 0).eval()
        model.load_state_dict(load_file(folder / "weights" / f"{name}.safetensors"))
        with torch.no_grad():
            wanted = torch.cat(
                [cross_entropy(model(one.images)[0], one.labels, reduction="none") for one in parts]
            )
        own = kept.losses.finals[kept.losses.own]
        assert own == pytest.approx(wanted.numpy().astype(np.float64), rel=1e-4, abs=1e-5)
        assert [int((kept.losses.groups == group).sum()) for group in (MEMBER, OUTSIDER)] == [
            len(plain.train.labels),
            len(plain.validation.labels) + len(plain.test.labels),
        ]
        canaries = kept.losses.groups[kept.losses.groups >= LEFT_OUT]
        assert ((canaries == PUT_IN) == coins.put_in).all()
        other = "b" if name == "a" else "a"
        assert kept.stops == {
            "circulation": (
                (1, 0, name, "departure"), (1, 1, other, "visit"), (1, 2, name, "home"),
                (2, 1, other, "visit"), (2, 2, name, "home"),
            ),
            "fedavg": ((1, 0, name, "alone"), (2, 0, name, "alone")),
            "local": (),
        }[algorithm]  # fmt: skip
        assert kept.losses.shown == (algorithm != "fedavg")
        known = ~np.isnan(kept.losses.before).any(1)
        assert known.tolist() == [kind != "departure" for *_, kind in kept.stops]
        assert not np.isnan(kept.losses.after).any()


def test_an_audit_without_canaries_changes_nothing_else(
    scenario_file: Callable, run: Callable
) -> None:
    """Records and weights are those of the same run without an audit; processes keep the bytes that
    memory keeps.
    """
    path = scenario_file(text(more="prediction: {ensemble: true}"))
    audited = path.with_name("more.yaml")
    audited.write_text(path.read_text() + "audit: {canaries: 0}\n")
    one, other, plain = run(audited), run(audited, "processes"), run(path)
    for folder in ("records", "weights", "predictions"):
        for file in (plain / folder).iterdir():
            assert file.read_bytes() == (one / folder / file.name).read_bytes()
    assert not (plain / "audit").exists()
    for file in (one / "audit").iterdir():
        assert file.read_bytes() == (other / "audit" / file.name).read_bytes()


def test_canaries_are_told_of_in_the_records(scenario_file: Callable, run: Callable) -> None:
    """The record of the warm-up says how many train, and that of a pooled run is refused."""
    told = {
        one.host: one.reason
        for one in read_records(run(scenario_file(text())))
        if one.kind == "warm_up"
    }
    assert all("of 20 canaries train here" in reason for reason in told.values())
    for algorithm, why in (("pooled", "one place"), ("placebo", "learns nothing")):
        with pytest.raises(InvalidValue, match=why):
            load_scenario(scenario_file(text(algorithm=algorithm)))


def test_validation_data_are_outsiders_once(scenario_file: Callable, run: Callable) -> None:
    """With `evaluate_on: validation` test and validation data are the same samples."""
    path = scenario_file(text(more=f"{AUDIT}\ninstruments: {{evaluate_on: validation}}"))
    kept = read_kept(run(path) / "audit" / "a.npz")
    plain = load(load_scenario(path).scenario, "a", None, "cpu")
    assert int((kept.losses.groups == OUTSIDER).sum()) == len(plain.validation.labels)
