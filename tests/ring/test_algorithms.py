"""The other algorithms on the same ring: each equals a loop that knows nothing of ring or
transport, wherever it runs.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from loops import (
    BATCH,
    EPOCHS,
    FEDAVG,
    TRAVELLER_FIRST,
    Loops,
    Weights,
    files,
    final,
    same,
    saved,
    text,
)
from safetensors.torch import load_file

from fedskd_sim.errors import ArchitecturesDiffer, InvalidValue
from fedskd_sim.learning.data import batches
from fedskd_sim.learning.networks.models import ImageShape, build
from fedskd_sim.learning.task import ONE_LABEL
from fedskd_sim.records import Record
from fedskd_sim.records.files import read_records
from fedskd_sim.results.memory import assess_memory, remembered
from fedskd_sim.results.tables import summarise
from fedskd_sim.scenario import load as load_scenario


def stepped(averaged: Weights, current: Weights, count: int, weight: float) -> Weights:
    share = max(weight, 1 / (count + 1))
    return {
        key: averaged[key] + share * (value - averaged[key]) if value.is_floating_point() else value
        for key, value in current.items()
    }


def cyclic(
    loops: Loops, rounds: int, averaging_weight: float
) -> tuple[dict[str, Weights], dict[str, Weights]]:
    """Cyclic weight transfer: each model visits the hospitals in order and trains; last models
    and averaged weights.
    """
    names, last, averaged = "abc", {}, {}
    for start, name in enumerate(names):
        model = loops.first(name, loops.seed("initial weights", name))
        loops.train(model, name, loops.seed("warm-up", name), 1)
        averaged[name] = saved(model)
        for round_ in range(1, rounds + 1):
            for hop in range(1, 4):
                host = names[(start + hop) % 3]
                if host == name:  # as it comes home, and as it is left there
                    averaged[name] = stepped(
                        averaged[name], saved(model), 2 * round_ - 1, averaging_weight
                    )
                loops.train(model, host, loops.seed("session", host, name, round_, hop), EPOCHS)
            averaged[name] = stepped(averaged[name], saved(model), 2 * round_, averaging_weight)
        last[name] = saved(model)
    return last, averaged


def test_cyclic_equals_cyclic_weight_transfer_bit_for_bit(
    scenario_file: Callable, run: Callable
) -> None:
    """A loop in which every model trains alone at each hospital in order ends with the very same
    weights, averaged ones too.
    """
    path = scenario_file(text("{name: cyclic, rounds: 2}"))
    last, averaged = cyclic(Loops(path), 2, 0.5)
    assert all(same(weights, last[name]) for name, weights in final(run(path, "processes")).items())
    path = scenario_file(text("{name: cyclic, rounds: 2}", "{model: averaged}"))
    assert all(same(weights, averaged[name]) for name, weights in final(run(path)).items())
    assert not same(last["a"], averaged["a"])


def test_traveller_first_with_all_weights_0_is_cyclic_weight_transfer(
    scenario_file: Callable, run: Callable
) -> None:
    """The control of every claim about similarity: with no weight left a frozen resident changes
    nothing.
    """
    off = TRAVELLER_FIRST.replace(
        "rounds", "self_distillation: {kl: 0}, similarity: {batch: 0, pixel: 0, region: 0}, rounds"
    )
    found, wanted = (
        run(scenario_file(text(off))),
        run(scenario_file(text("{name: cyclic, rounds: 2}"))),
    )
    assert files(found) == files(wanted)
    assert files(run(scenario_file(text(TRAVELLER_FIRST)))) != files(wanted)


def test_circulation_is_fedskd_with_all_weights_0(scenario_file: Callable, run: Callable) -> None:
    """The algorithm `circulation` gives the records and weights of `fedskd` without similarity,
    byte for byte.
    """
    off = "{name: fedskd, rounds: 2, similarity: {batch: 0, pixel: 0, region: 0}}"
    plain = files(run(scenario_file(text("{name: circulation, rounds: 2}"))))
    assert plain == files(run(scenario_file(text(off))))
    assert plain == files(run(scenario_file(text("{name: mutual, weight: 0, rounds: 2}"))))
    assert plain != files(run(scenario_file(text("{name: mutual, rounds: 2}"))))


def test_sequential_circulation_equals_one_tour_after_the_other(
    scenario_file: Callable, run: Callable
) -> None:
    """A loop in which one model at a time tours the others' homes, where nothing is copied, ends
    with the very same weights.
    """
    path = scenario_file(text("{name: circulation, rounds: 2, schedule: {mode: sequential}}"))
    loops, names = Loops(path), "abc"
    models = {name: loops.first(name, loops.seed("initial weights", name)) for name in names}
    for name, model in models.items():
        loops.train(model, name, loops.seed("warm-up", name), 1)
    for round_ in (1, 2):
        for start, name in enumerate(names):
            for hop in (1, 2):
                host = names[(start + hop) % 3]
                session = loops.seed("session", host, name, round_, hop)
                loops.train(models[name], host, session, EPOCHS)
                loops.train(models[host], host, session, EPOCHS)
    folder = run(path, "processes")
    assert all(same(weights, saved(models[name])) for name, weights in final(folder).items())
    records = [record for record in read_records(folder) if record.kind in ("visit", "homecoming")]
    assert sum(record.kind == "visit" for record in records) == 2 * 3 * 2
    assert {record.outcome for record in records if record.kind == "homecoming"} == {"passed"}


def test_local_is_training_alone(scenario_file: Callable, run: Callable) -> None:
    """A loop over sessions on the own data ends with the very same weights; nothing travels but
    to the evaluation.
    """
    path = scenario_file(text("{name: local, rounds: 3}"))
    loops, folder = Loops(path), run(path, "processes")
    for name, weights in final(folder).items():
        model = loops.first(name, loops.seed("initial weights", name))
        loops.train(model, name, loops.seed("warm-up", name), 1)
        for round_ in range(1, 4):
            loops.train(model, name, loops.seed("session", name, name, round_, 0), EPOCHS)
        assert same(weights, saved(model))
    kinds = [record.kind for record in read_records(folder)]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "warm_up": 3,
        "alone": 9,
        "evaluation": 9,
    }


def test_pooled_trains_on_everybodys_data_in_one_process_only(
    scenario_file: Callable, run: Callable, inside: Callable
) -> None:
    """Every session sees the training samples of all hospitals; between processes it is refused
    with code, key and fix.
    """
    path = scenario_file(text("{name: pooled, rounds: 1}"))
    records = read_records(run(path))
    assert {record.samples for record in records if record.kind == "alone"} == {
        EPOCHS * (36 + 30 + 36)
    }
    done = inside("launch", path)
    assert done.returncode == InvalidValue.exit_code
    assert "algorithm.name: 'pooled' puts all hospitals' data into one place" in done.stderr
    with pytest.raises(InvalidValue, match="hospitals are apart"):
        run(path, "processes")


@pytest.mark.parametrize(
    "algorithm", [FEDAVG, FEDAVG.replace("fedavg,", "fedprox, mu: 0.5,")], ids=["fedavg", "fedprox"]
)
def test_ring_all_reduce_gives_the_servers_mean(
    algorithm: str, scenario_file: Callable, run: Callable
) -> None:
    """A loop with a server in the middle ends with the same weights to rounding, and all
    hospitals with the same bytes.
    """
    path = scenario_file(text(algorithm))
    loops = Loops(path)
    common = saved(loops.first("a", loops.seed("initial weights")))
    counters = dict.fromkeys("abc", torch.tensor(0))
    sizes = {name: len(loops.data[name].train.labels) for name in "abc"}
    for round_ in (1, 2):
        models = {name: loops.copied("a", common) for name in "abc"}
        for name, model in models.items():
            anchors = [parameter.detach().clone() for parameter in model.parameters()]
            pull = lambda model=model, anchors=anchors: sum(  # noqa: E731 - it is the formula
                0.25 * (now - then).square().sum()
                for now, then in zip(model.parameters(), anchors, strict=True)
            )
            loops.train(
                model,
                name,
                loops.seed("session", name, round_),
                EPOCHS,
                pull if "fedprox" in algorithm else lambda: 0.0,
            )
            counters[name] = (
                counters[name]
                + sum(1 for _ in batches(loops.data[name].train, BATCH, torch.Generator())) * EPOCHS
            )
        for key, value in common.items():
            if value.is_floating_point():
                common[key] = sum(
                    models[name].state_dict()[key] * sizes[name] for name in "abc"
                ) / sum(sizes.values())
    found = final(run(path, "processes"))
    for name in "abc":
        for key, value in common.items():
            if value.is_floating_point():
                assert torch.allclose(found[name][key], value, rtol=1e-4, atol=1e-6), key
                assert torch.equal(found[name][key], found["a"][key])
            else:
                assert int(found[name][key]) == int(counters[name])


def test_an_all_reduce_sends_two_times_k_minus_1_kths_of_the_model(
    scenario_file: Callable, run: Callable
) -> None:
    """Every hospital sends 2 (K - 1) chunks a round, together 2 (K - 1) / K of the float
    weights, and no whole model.
    """
    records = [
        record
        for record in read_records(run(scenario_file(text(FEDAVG))))
        if record.kind in ("reduce", "gather")
    ]
    assert len(records) == 3 * 4 * 2
    whole = sum(value.numel() * 4 for value in build_floats())
    assert sum(record.bytes - 8 for record in records) == 2 * (3 - 1) * whole * 2


def build_floats() -> list[torch.Tensor]:
    architecture = load_architecture()
    return [
        value
        for value in build(architecture, ImageShape(3, 16, 3), 0).state_dict().values()
        if value.is_floating_point()
    ]


def load_architecture() -> object:
    from fedskd_sim.scenario import Architecture

    return Architecture(name="cnn-plain", options={"width": 8, "norm": "batch"})


def test_averaging_refuses_different_architectures(
    scenario_file: Callable, inside: Callable
) -> None:
    """FedAvg without an architecture of its own names the two hospitals that differ, and what to
    make equal.
    """
    done = inside("validate", scenario_file(text("{name: fedavg}")))
    assert done.returncode == ArchitecturesDiffer.exit_code
    assert (
        "hospitals.1.architecture: 'b' has cnn-residual (width 8), 'a' has cnn-plain (width 8, "
        "norm none)" in done.stderr
    )
    assert "make them equal, or set algorithm.architecture" in done.stderr


@pytest.mark.parametrize(
    ("algorithm", "prediction"),
    [
        (TRAVELLER_FIRST, "{model: averaged, ensemble: true, logit_adjustment: 0.5}"),
        ("{name: mutual, rounds: 2, schedule: {order: shuffled, visits: 1}}", "{model: mix}"),
        ("{name: local, rounds: 2}", "{model: averaged, ensemble: true}"),
        (FEDAVG, "{model: averaged}"),
        (
            TRAVELLER_FIRST.replace(
                "rounds", "schedule: {mode: sequential, order: shuffled}, rounds"
            ),
            "{model: averaged, ensemble: true}",
        ),
        (
            "{name: fedskd, rounds: 1, resident_every: 3, traveller_start: own, stop_work: 1.5}",
            "{model: last, ensemble: true}",
        ),
    ],
)
def test_memory_and_processes_give_identical_records_and_weights(
    algorithm: str, prediction: str, scenario_file: Callable, run: Callable
) -> None:
    """Every algorithm with what prediction adds gives the same bytes in memory and as processes."""
    path = scenario_file(text(algorithm, prediction, norm="batch"))
    assert files(run(path, "memory")) == files(run(path, "processes"))


def test_averaged_weights_never_travel_and_the_budget_holds(
    scenario_file: Callable, run: Callable
) -> None:
    """What goes from hospital to hospital in training rounds is the same model, bit for bit, with
    averaged weights and without; sessions spend what the stops may, to within a batch.
    """
    plain = read_records(run(scenario_file(text(TRAVELLER_FIRST))))
    averaged = read_records(run(scenario_file(text(TRAVELLER_FIRST, "{model: averaged}"))))
    trained = [
        [(one.bytes, one.digest_in, one.digest_out) for one in records if one.kind != "evaluation"]
        for records in (plain, averaged)
    ]
    assert trained[0] == trained[1]
    for work, every in ((1.0, 0), (1.5, 3), (2.0, 1)):
        algorithm = f"{{name: fedskd, rounds: 1, resident_every: {every}, stop_work: {work}}}"
        spent: dict[str, int] = {}
        for record in read_records(run(scenario_file(text(algorithm)))):
            if record.kind in ("visit", "homecoming"):
                spent[record.host] = spent.get(record.host, 0) + record.samples
        for host, size in (("a", 36), ("b", 30), ("c", 36)):
            assert 0 <= 3 * work * EPOCHS * size - spent[host] <= 2 * BATCH


def ensemble_of(records: list[Record]) -> list[Record]:
    return [record for record in records if record.kind == "ensemble"]


def test_an_ensemble_averages_the_finished_models_of_all(
    scenario_file: Callable, run: Callable
) -> None:
    """Every hospital keeps all last models; its ensemble is the mean of their probabilities, and
    its cost is on record.
    """
    folder = run(scenario_file(text(TRAVELLER_FIRST, "{model: averaged, ensemble: true}")))
    loops = Loops(folder / "scenario.yaml")
    last = final(run(scenario_file(text(TRAVELLER_FIRST, "{model: last}"))))
    for record in ensemble_of(read_records(folder)):
        kept = {
            name: load_file(folder / "weights" / f"{record.host}.ensemble.{name}.safetensors")
            for name in "abc"
        }
        assert all(same(kept[name], last[name]) for name in "abc")
        test = loops.data[record.host].test
        with torch.no_grad():
            models = [loops.copied(name, weights).eval() for name, weights in kept.items()]
            mean = torch.stack(
                [model(test.images)[0].double().softmax(1) for model in models]
            ).mean(0)
        wanted = ONE_LABEL.measure(mean.log(), test.labels)
        for name in ("accuracy", "balanced_accuracy", "auc"):
            assert record.measures[name].mean == pytest.approx(wanted[name].mean)
        assert record.measures["models"].mean == 3
        assert record.measures["kept_bytes"].mean == sum(
            value.nbytes for weights in kept.values() for value in weights.values()
        )
    assert len(ensemble_of(read_records(folder))) == 3


@pytest.mark.parametrize("reconcile", ["average", "two_track"])
def test_a_traveller_of_its_own_is_measured_as_it_sets_out(
    reconcile: str, scenario_file: Callable, run: Callable
) -> None:
    """Where home keeps two models, records have what the one that sets out is worth, which is not
    what home tests; in the evaluation the home's model is tested everywhere, unless both are kept
    for good.
    """
    algorithm = f"{{name: fedskd, rounds: 1, traveller_start: own, reconcile: {reconcile}}}"
    records = read_records(run(scenario_file(text(algorithm) + "instruments: {probe: true}\n")))
    homes = {one.host: one for one in records if one.kind == "homecoming"}
    assert len(homes) == 3
    for name, home in homes.items():
        assert home.measures["leaving_balanced_accuracy"] == home.measures[f"leaving/{name}"]
        tested = {
            one.digest_in for one in records if (one.kind, one.model) == ("evaluation", name)
        } - {""}
        assert (tested == {home.digest_out}) == (reconcile == "average")
    assert any(
        home.measures["leaving_accuracy"] != home.measures["accuracy"] for home in homes.values()
    )


def test_instruments_measure_and_change_nothing(scenario_file: Callable, run: Callable) -> None:
    """With all instruments on, weights stay byte for byte what they were; records have churn,
    drifts and all hospitals' probes, at home of the model that sets out next.
    """
    plain = run(scenario_file(text("{name: fedskd, rounds: 2}")))
    path = scenario_file(
        text("{name: fedskd, rounds: 2}") + "instruments: {changes: true, probe: true}\n"
    )
    full = run(path)
    assert {name: data for name, data in files(full).items() if "tensors" in name} == {
        name: data for name, data in files(plain).items() if "tensors" in name
    }
    records = read_records(full)
    for record in (record for record in records if record.kind in ("visit", "homecoming")):
        assert 0 < record.measures["drift"].mean < 1
        assert 0 <= record.measures["churn"].mean <= 1
        assert 0 < record.measures["representation_drift"].mean < 2
        what = "probe" if record.kind == "visit" else "leaving"
        assert {f"{what}/{name}" for name in "abc"} <= record.measures.keys()
        assert record.measures[f"{what}/{record.host}"] == record.measures["balanced_accuracy"]
        assert (
            record.kind == "visit"
            or {"net_drift", "returned_balanced_accuracy"} <= record.measures.keys()
        )
    forgotten = {part[2] for part in remembered(records) if part[0] == "forgetting"}
    assert forgotten == {1, 2}
    assert assess_memory(read_records(plain)).forgetting is None
    assert files(run(path, "processes")) == files(full)


def test_a_hospital_that_is_held_out_changes_nothing_and_tests_all_models(
    scenario_file: Callable, run: Callable
) -> None:
    """With a fourth hospital held out the others learn the very same weights; every finished
    model is tested there, and told.
    """
    plain = text(TRAVELLER_FIRST, "{model: averaged, ensemble: true}")
    strange = (
        "  - {name: d, architecture: cnn-plain, held_out: true, data: {site_shift: "
        "1.0}}\nalgorithm:"
    )
    path = scenario_file(plain.replace("algorithm:", strange, 1))
    folder = run(path, "processes")
    assert files(folder) == files(run(path))
    wanted = final(run(scenario_file(plain, "plain.yaml")))
    assert all(same(weights, wanted[name]) for name, weights in final(folder).items())
    records = [record for record in read_records(folder) if record.host == "d"]
    assert sorted((record.kind, record.model) for record in records) == [
        ("ensemble", "d"), ("evaluation", "a"), ("evaluation", "b"), ("evaluation", "c"),
    ]  # fmt: skip
    assert not list((folder / "weights").glob("d*"))
    scenario = load_scenario(path).scenario
    summary = summarise(read_records(folder), scenario.members, scenario.held_out)
    assert summary.complete
    assert summary.unseen["auc"] == pytest.approx(
        sum(r.measures["auc"].mean for r in records if r.kind == "evaluation") / 3
    )
    assert any("On d, held out, the models score" in note for note in summary.notes)


@pytest.mark.parametrize(
    "algorithm",
    [
        "{name: local, rounds: 1}",
        FEDAVG,
        "{name: fml, rounds: 1}",
        "{name: fedproto, rounds: 1}",
        "{name: circulation, rounds: 1}",
    ],
)
def test_every_algorithm_can_have_a_hospital_held_out(
    algorithm: str, scenario_file: Callable, run: Callable
) -> None:
    """Alone, averaged or circulating, the run ends and all models are tested there."""
    strange = "  - {name: d, architecture: cnn-plain, held_out: true}\nalgorithm:"
    records = read_records(run(scenario_file(text(algorithm).replace("algorithm:", strange, 1))))
    assert len([record for record in records if record.host == "d"]) == 3
    assert not [record for record in records if record.model == "d"]
