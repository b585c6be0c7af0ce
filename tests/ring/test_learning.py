"""Learning around the ring: the same answer everywhere, and the plain circulation when
similarity is off.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from fedskd_sim.errors import NonFiniteLoss
from fedskd_sim.learning.base import Measures
from fedskd_sim.learning.data import augment, batches, load
from fedskd_sim.learning.evaluate import evaluate
from fedskd_sim.learning.networks.models import ImageShape, build
from fedskd_sim.learning.task import class_weights
from fedskd_sim.records import Record
from fedskd_sim.records.files import read_records
from fedskd_sim.scenario import Scenario
from fedskd_sim.scenario import load as load_scenario
from fedskd_sim.seeds import seed

TEXT = """
name: small
seed: {seed}
data: {{name: synthetic-skin, samples: 60, image_size: 16, classes: 3}}
hospitals:
  - {{name: a, architecture: {{name: cnn-plain, options: {{width: 8, norm: batch}}}}}}
  - {{name: b, architecture: {{name: cnn-residual, options: {{width: 8, norm: group}}}},
     data: {{samples: 50}}}}
  - {{name: c, architecture: {{name: vit-tiny, options: {{width: 16, depth: 2}}}}}}
algorithm:
  name: fedskd
  rounds: {rounds}
  reconcile: {reconcile}
  similarity: {{batch: {weight}, pixel: {weight}, region: {weight}}}
training:
  warmup_epochs: 1
  batch_size: 16
  {extra}
"""


def text(
    weight: float = 0.1,
    reconcile: str = "average",
    rounds: int = 2,
    number: int = 3,
    extra: str = "",
) -> str:
    return TEXT.format(weight=weight, reconcile=reconcile, rounds=rounds, seed=number, extra=extra)


def lines(folder: Path) -> dict[str, bytes]:
    kept = [*(folder / "records").iterdir(), *(folder / "weights").iterdir()]
    return {path.name: path.read_bytes() for path in sorted(kept)}


def test_memory_processes_and_links_give_identical_records_and_weights(
    scenario_file: Callable, run: Callable
) -> None:
    """The same scenario gives the same bytes in memory and, as often as it is run, as processes,
    over Unix sockets and over encrypted TCP.
    """
    path = scenario_file(text())
    first = lines(run(path, "memory"))
    assert len(first) == 6
    for transport in ("ipc", "tcp"):
        linked = scenario_file(text() + f"network: {{transport: {transport}}}\n")
        assert lines(run(linked, "processes")) == first


def test_another_seed_gives_other_records(scenario_file: Callable, run: Callable) -> None:
    """The test above can fail: a different seed changes records and weights."""
    first = lines(run(scenario_file(text())))
    second = lines(run(scenario_file(text(number=4))))
    assert all(first[name] != second[name] for name in first)


def circulation(scenario: Scenario) -> dict[str, dict[str, torch.Tensor]]:
    """Plain circulation, written down directly: no similarity, no ring code, no transport;
    returns the final weights.
    """
    config, names = scenario.algorithm, scenario.names
    data = {name: load(scenario, name, None, "cpu") for name in names}

    def made(name: str) -> torch.nn.Module:
        shape = ImageShape(3, 16, 3)
        return build(
            scenario.hospital(name).architecture,
            shape,
            seed(scenario.seed, "initial weights", name),
        )

    def copied(name: str, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
        model = made(name)
        model.load_state_dict(weights)
        return model

    def saved(model: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {key: value.clone() for key, value in model.state_dict().items()}

    def trained(host: str, session: int, epochs: int, *models: torch.nn.Module) -> None:
        draw = torch.Generator().manual_seed(session)
        optimisers = [
            torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2) for model in models
        ]
        steps = [batch for _ in range(epochs) for batch in with_augmentation(host, draw)]
        weights = class_weights(data[host].train.labels, 3, "sqrt_inverse")
        for model, optimiser in zip(models, optimisers, strict=True):
            model.train()
            for number, (images, labels) in enumerate(steps):
                optimiser.zero_grad()
                cross_entropy(model(images)[0], labels, weights).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
                optimiser.param_groups[0]["lr"] = 2e-3 * min(1.0, (number + 1) / (0.2 * len(steps)))
                optimiser.step()

    def with_augmentation(
        host: str, draw: torch.Generator
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [
            (augment(batch.images, draw), batch.labels)
            for batch in batches(data[host].train, 16, draw)
        ]

    def key(purpose: str, *parts: str | int) -> int:
        return seed(scenario.seed, purpose, *parts)

    home = {name: made(name) for name in names}
    for name in names:
        trained(name, key("warm-up", name), 1, home[name])
    for round_ in range(1, config.rounds + 1):
        travelling = {name: copied(name, saved(home[name])) for name in names}
        for hop in range(1, len(names) + 1):
            for index, name in enumerate(names):
                host = names[(index + hop) % len(names)]
                trained(
                    host, key("session", host, name, round_, hop), 1, travelling[name], home[host]
                )
        if config.reconcile == "replace":
            home = travelling
        if config.reconcile == "average":
            for name in names:
                home[name] = joined(
                    home[name], travelling[name], copied, name, data[name].validation
                )
    return {name: saved(model) for name, model in home.items()}


def joined(
    one: torch.nn.Module, other: torch.nn.Module, copied: Callable, name: str, validation: object
) -> torch.nn.Module:
    parents, middle = [one.state_dict(), other.state_dict()], {}
    for key, value in parents[0].items():
        middle[key] = (value + parents[1][key]) * 0.5 if value.is_floating_point() else value
    candidates = [copied(name, weights) for weights in (middle, *parents)]
    scores = [evaluate(model, validation)["balanced_accuracy"].mean for model in candidates]
    margin = max(0.01, 0.5 / len(validation.labels) ** 0.5)
    if max(scores[1:]) - scores[0] <= margin:
        return candidates[0]
    return candidates[2] if scores[2] > scores[1] else candidates[1]


@pytest.mark.parametrize("reconcile", ["replace", "average"])
def test_with_all_similarity_weights_0_the_run_is_plain_circulation_bit_for_bit(
    reconcile: str, scenario_file: Callable, run: Callable
) -> None:
    """A loop that knows nothing of similarity, ring or transport ends with the very same
    weights.
    """
    path = scenario_file(text(0, reconcile))
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    expected = circulation(load_scenario(path).scenario)
    folder = run(path, "processes")
    for name, weights in expected.items():
        found = load_file(folder / "weights" / f"{name}.safetensors")
        assert all(torch.equal(found[key], value) for key, value in weights.items())
        assert found.keys() == weights.keys()


def test_similarity_changes_the_run(scenario_file: Callable, run: Callable) -> None:
    """The test above can fail: with weights above 0 the weights differ, and the distances are in
    the records.
    """
    with_similarity = run(scenario_file(text(0.1)))
    assert lines(with_similarity) != lines(run(scenario_file(text(0.0))))
    visits = [
        record for record in read_records(with_similarity) if record.kind in ("visit", "homecoming")
    ]
    for record in visits:
        for level in ("batch", "pixel", "region"):
            assert 0 <= record.measures[f"similarity_{level}"].mean <= 2


@pytest.mark.parametrize("reconcile", ["average", "two_track", "replace", "select"])
def test_every_reconciliation_runs_and_leaves_its_models(
    reconcile: str, scenario_file: Callable, run: Callable
) -> None:
    """All modes run to the end; two_track keeps a traveller beside each home model, and the two
    differ.
    """
    folder = run(scenario_file(text(reconcile=reconcile)))
    assert len([record for record in read_records(folder) if record.kind == "evaluation"]) == 9
    files = {path.name for path in (folder / "weights").iterdir()}
    twins = (
        {f"{name}.traveller.safetensors" for name in "abc"} if reconcile == "two_track" else set()
    )
    assert files == {f"{name}.safetensors" for name in "abc"} | twins
    for twin in twins:
        assert (folder / "weights" / twin).read_bytes() != (
            folder / "weights" / twin.replace(".traveller", "")
        ).read_bytes()


def test_replace_takes_the_traveller_as_it_came_out_of_the_homecoming_session(
    scenario_file: Callable, run: Callable
) -> None:
    """With `replace` the model that sets out next is the one the last homecoming left."""
    records = read_records(run(scenario_file(text(reconcile="replace"))))
    home = {
        (record.model, record.round): record.digest_out
        for record in records
        if record.kind == "homecoming"
    }
    first = {
        (record.model, record.round): record.digest_in for record in records if record.hop == 1
    }
    assert {model: home[model, 1] for model in "abc"} == {model: first[model, 2] for model in "abc"}


@pytest.mark.parametrize("runtime", ["memory", "processes"])
def test_sessions_with_a_non_finite_loss_are_rolled_back_and_end_the_run(
    runtime: str, scenario_file: Callable, run: Callable, tmp_path: Path
) -> None:
    """An absurd learning rate: weights stay what they were, the records say so, and after the
    set number in a row it ends.
    """
    path = scenario_file(text(extra="optimiser: {learning_rate: 1.0e+30}\n  max_rollbacks: 2"))
    with pytest.raises(NonFiniteLoss, match="rolled back 2 sessions in a row") as caught:
        run(path, runtime)
    assert str(caught.value.where).startswith(f"{path}:")
    records = read_records(tmp_path / "run-0")  # others may have come to none
    assert {record.outcome for record in records} == {"rolled_back"}
    assert all(
        any(word in record.reason for word in ("step", "gradient", "weight")) for record in records
    )


def test_a_rolled_back_visitor_travels_on_as_it_came(
    scenario_file: Callable, run: Callable
) -> None:
    """When every session fails but none ends the run, each model comes home with the weights it
    left with.
    """
    path = scenario_file(
        text(rounds=1, extra="optimiser: {learning_rate: 1.0e+30}\n  max_rollbacks: 1000")
    )
    records = read_records(run(path))
    visits = [record for record in records if record.kind == "visit"]
    assert len(visits) == 6
    assert all(
        record.outcome == "rolled_back" and record.digest_in == record.digest_out
        for record in visits
    )


def test_every_record_has_its_measures(scenario_file: Callable, run: Callable) -> None:
    """Sessions record accuracy of both models, losses, samples, steps and drift; evaluations
    record test accuracy.
    """
    for record in read_records(run(scenario_file(text()))):
        assert {"accuracy", "balanced_accuracy", "auc"} <= record.measures.keys()
        if record.kind == "visit":
            assert {"loss", "resident_loss", "resident_accuracy", "drift"} <= record.measures.keys()
            assert record.measures["drift"].mean > 0
            assert record.samples == 2 * (36 if record.host != "b" else 30)
            assert record.steps in (2, 3)


def test_the_graph_of_two_hospitals_works(scenario_file: Callable, run: Callable) -> None:
    """K = 2: one visit, one homecoming, one evaluation per model and round."""
    two = "\n".join(line for line in text().splitlines() if "- {name: c," not in line)
    records = read_records(run(scenario_file(two)))
    assert len(records) == 2 * (1 + 2 * 2 + 2)


@pytest.mark.parametrize(
    ("setting", "tolerance"), [("precision: bf16", 0.03), ("memory_format: channels_last", 1e-4)]
)
def test_faster_arithmetic_stays_close(
    setting: str, tolerance: float, scenario_file: Callable, run: Callable
) -> None:
    """What travels is fp32 in the usual order, and losses and similarities of the first sessions
    are within the tolerance.
    """
    algorithm = (
        "algorithm: {name: fedskd, rounds: 1, self_distillation: {batch: 0.1, kl: 0.1}}\ntraining: "
        "{%s, epochs: 1}\n"
    )
    text = (
        "name: precise\ndata: {name: synthetic-skin, samples: 64, image_size: 16, classes: 2}\n"
        "hospitals:\n  - {name: a, architecture: cnn-plain}\n  - {name: b, architecture: "
        "vit-tiny}\n"
    )
    exact, rough = (
        run(scenario_file(text + algorithm % given)) for given in ("precision: fp32", setting)
    )
    pairs = [*zip(read_records(exact), read_records(rough), strict=True)]
    assert any(one.digest_out != other.digest_out for one, other in pairs)
    for one, other in pairs:
        if one.kind in ("warm_up", "visit"):
            shown = [
                name
                for name in one.measures
                if "loss" in name or "similarity" in name or "kl" in name
            ]
            assert one.kind == "warm_up" or len(shown) > 4
            for name in shown:
                assert other.measures[name].mean == pytest.approx(
                    one.measures[name].mean, rel=tolerance, abs=tolerance / 3
                ), name
    found = load_file(rough / "weights" / "a.safetensors")
    assert {str(value.dtype) for value in found.values() if value.is_floating_point()} == {
        "torch.float32"
    }


def at_home(records: list[Record]) -> dict[str, Measures]:
    return {
        record.model: record.measures
        for record in records
        if record.kind == "evaluation" and record.host == record.model
    }


def test_settings_can_be_chosen_without_a_look_at_the_test_data(
    scenario_file: Callable, run: Callable
) -> None:
    """With evaluate_on: validation the home model's evaluation is what it scored on validation
    data; nothing else is changed.
    """
    usual = read_records(run(scenario_file(text())))
    records = read_records(run(scenario_file(text() + "instruments: {evaluate_on: validation}\n")))
    homecomings = {
        record.model: record.measures
        for record in records
        if record.kind == "homecoming" and record.round == 2
    }
    evaluations = at_home(records)
    for model, measures in evaluations.items():
        assert all(homecomings[model][name] == measure for name, measure in measures.items())
    assert [record for record in records if record.kind == "visit"] == [
        record for record in usual if record.kind == "visit"
    ]
    assert evaluations != at_home(usual)
    assert all("validation data" in record.reason for record in records if record.kind == "warm_up")
