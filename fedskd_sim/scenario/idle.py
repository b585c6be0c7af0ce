"""Keys of a scenario that are there in vain: beside the others, no value of theirs changes what
the run does.

What depends on the data, such as more ``training.batches`` than there are, is not known here. A key
that a scenario must have is no such key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

from fedskd_sim.errors import Key
from fedskd_sim.scenario.algorithms import TRAVELLER_FIRST, FedSKD
from fedskd_sim.scenario.datasets import (
    Nifti,
    NoData,
    SyntheticRoi,
    SyntheticSkin,
    SyntheticVolumes,
)
from fedskd_sim.scenario.schema import Hospital, Scenario
from fedskd_sim.scenario.training import Prediction

SIMILARITY = "algorithm.similarity"
NO_CARD = "all hospitals compute on CPUs"
MADE_UP = (NoData, SyntheticSkin, SyntheticRoi, SyntheticVolumes)
GATHERED = "steps with training.accumulate"
REPLACEABLE = ("algorithm", "training", "prediction", "faults", "links")
"""What a variant may have of its own."""


class Idle(NamedTuple):
    """A key that has no effect, and why."""

    key: tuple[Key, ...]
    why: str


Found = Iterator[tuple[str, str]]
"""Keys with dots, and why they have no effect."""


def find_idle(scenario: Scenario) -> Iterator[Idle]:
    """Find the keys of a scenario and its variants that are given and have no effect."""
    yield from _written(scenario, scenario, ())
    for label, variant in scenario.variants.items():
        own = {name: part for name in REPLACEABLE if (part := getattr(variant, name)) is not None}
        under = ("variants", label)
        if variant.algorithm and "rounds" in variant.algorithm.model_fields_set:
            yield Idle((*under, "algorithm", "rounds"), "its budget says how many rounds there are")
        hospitals = variant.of(scenario.hospitals)
        changed = scenario.model_copy(update={**own, "hospitals": hospitals})
        yield from (one for one in _written(changed, variant, under) if one.key[2] in own)


def _written(scenario: Scenario, text: BaseModel, under: tuple[Key, ...]) -> Iterator[Idle]:
    """Find the idle keys of a scenario that are given in a part of its text."""
    found = (
        _of_placebo, _of_loss, _of_training, _of_devices, _of_algorithm, _of_measuring,
        _of_similarity, _of_circulation, _of_disturbances, _of_survival, _of_data,
    )  # fmt: skip
    told: set[tuple[Key, ...]] = set()
    for find in found:
        for dotted, why in find(scenario):
            key = tuple(int(part) if part.isdigit() else part for part in dotted.split("."))
            known = any(key[:size] in told for size in range(1, len(key) + 1))
            if not known and _given(text, key):
                told.add(key)
                yield Idle((*under, *key), why)


def _given(part: Any, key: Sequence[Key]) -> bool:
    """Return whether a key stands in the text from which a part was made."""
    for name in key:
        if isinstance(name, int):
            if isinstance(part, Mapping):  # hospitals of a variant, by name: each key is a change
                return False
            part = part[name]
            continue
        if not isinstance(part, BaseModel) or name not in part.model_fields_set:
            return False
        value = getattr(part, name)
        preset = isinstance(part, FedSKD) and part.preset == "traveller-first"
        if preset and name in TRAVELLER_FIRST and value == TRAVELLER_FIRST[name]:
            return False
        part = value
    return True


def _of_placebo(scenario: Scenario) -> Found:
    if scenario.learns:
        return
    for key in ("training", "instruments", "data"):
        yield key, f"{scenario.algorithm.name!r} learns nothing"
    for index, hospital in enumerate(scenario.hospitals):
        for key in ("device", "precision", "memory_format"):
            yield f"hospitals.{index}.{key}", f"{scenario.algorithm.name!r} computes nothing"
        yield f"hospitals.{index}.architecture.options", f"{scenario.algorithm.name!r} has no model"
        if hospital.data != scenario.data:
            yield f"hospitals.{index}.data", f"{scenario.algorithm.name!r} learns nothing"


def _of_loss(scenario: Scenario) -> Found:
    if not scenario.learns:
        yield "algorithm.loss", f"{scenario.algorithm.name!r} learns nothing"
    if not scenario.algorithm.loss:
        yield "algorithm.options", "they are those of a loss of your own, and there is none"


def _of_training(scenario: Scenario) -> Found:
    algorithm = scenario.algorithm
    if not algorithm.warms_up:
        yield "training.warmup_epochs", f"{algorithm.name!r} has no warm-up"
    if not algorithm.averages and algorithm.pattern != "circulation":
        for index, _ in enumerate(scenario.hospitals):
            why = f"with {algorithm.name!r} every model trains at one hospital"
            yield f"hospitals.{index}.architecture.buffers", why
    kinds = {scenario.architecture(one.name).takes for one in scenario.hospitals}
    if not kinds & {"image"}:
        yield "training.augment", "only images are flipped and transposed"
    if kinds <= {"roi", "table"}:
        yield "training.memory_format", "it is for images and volumes"
    yield from _of_own_arithmetic(scenario, grids=not kinds <= {"roi", "table"})
    if scenario.common_architecture:
        for index, _ in enumerate(scenario.hospitals):
            why = "algorithm.architecture is what all train"
            yield f"hospitals.{index}.architecture.options", why


def _of_own_arithmetic(scenario: Scenario, *, grids: bool) -> Found:
    """Find precisions and memory formats of hospitals that change nothing there; ``grids``: models
    take images or volumes.
    """
    for index, one in enumerate(scenario.hospitals):
        under = f"hospitals.{index}"
        if one.held_out:
            yield f"{under}.precision", "it is held out and trains on nothing"
        if not grids:
            yield f"{under}.memory_format", "it is for images and volumes"
        for key in one.own_arithmetic.keys() - one.other_arithmetic(scenario.training).keys():
            yield f"{under}.{key}", f"it computes here as training.{key} says anyway"


def _of_devices(scenario: Scenario) -> Found:
    training = scenario.training
    cards = any(one.device != "cpu" for one in scenario.hospitals)
    if not cards:
        yield "training.recorded_steps", f"{NO_CARD}, and steps are recorded on CUDA"
        yield "training.deterministic", f"{NO_CARD}, which always compute so"
        if training.precision == "tf32":
            yield "training.precision", f"{NO_CARD}, and there tf32 is fp32"
        if training.memory_format == "auto":
            yield "training.memory_format", f"{NO_CARD}, and there auto is contiguous"
    gathers = cards and training.recorded_steps and training.accumulate > 1
    if gathers:
        yield "training.recorded_steps", f"{GATHERED} are not recorded"
    if gathers or not (cards and training.recorded_steps):
        why = "training.recorded_steps is false" if cards else NO_CARD
        why = f"{GATHERED} are not recorded" if gathers else why
        if training.compile:
            yield "training.compile", f"only recorded steps are compiled, on CUDA: {why}"
        yield "training.recorded_gib", f"no steps are recorded: {why}"


def _of_algorithm(scenario: Scenario) -> Found:
    for key, why in scenario.algorithm.idle.items():
        yield f"algorithm.{key}", why


def _of_measuring(scenario: Scenario) -> Found:
    algorithm, prediction = scenario.algorithm, scenario.prediction
    how = scenario.circulating
    circulates = algorithm.pattern == "circulation"
    travels = scenario.learns and circulates
    if not travels:
        for key in ("changes", "probe"):
            why = f"it is measured where models circulate, and with {algorithm.name!r} none does"
            yield f"instruments.{key}", why
    if not scenario.instruments.probe_similarity:
        yield "instruments.pictures", "they are those of probe_similarity, which is false"
    if prediction.model == "last" and (
        not travels
        or (how and how.reconcile == "replace")
        or scenario.schedule.mode == "sequential"
    ):
        yield "prediction.model", "the home model is the last one here: last is reconciled"
    if not prediction.keeps_averaged:
        why = f"no weights are averaged with prediction.model {prediction.model}"
        yield "prediction.averaging_weight", why
    elif (fewest := _smallest_share(scenario)) >= max(
        prediction.least_weight(circulating=circulates),
        Prediction().least_weight(circulating=circulates),
    ):
        why = f"in so few rounds the newest snapshot has {fewest:.2g} or more"
        yield "prediction.averaging_weight", why


def _smallest_share(scenario: Scenario) -> float:
    """Return the smallest weight that a snapshot has if nothing but their number says it."""
    algorithm, snapshots = scenario.algorithm, 1
    if scenario.learns and algorithm.pattern == "circulation":
        snapshots += scenario.schedule.mode == "parallel"
    return 1 / (algorithm.rounds * snapshots + 1)


def _of_similarity(scenario: Scenario) -> Found:
    algorithm = scenario.algorithm
    if not isinstance(algorithm, FedSKD):
        return
    similarity, trains = algorithm.similarity, algorithm.resident_every > 0
    taught = similarity.to_visitor > 0 or (trains and similarity.to_resident > 0)
    yield from _of_levels(algorithm, taught=taught)
    if similarity.off:
        for name in ("to_visitor", "to_resident"):
            yield f"{SIMILARITY}.{name}", "all weights of levels are 0"
    elif not trains:
        yield f"{SIMILARITY}.to_resident", "the resident never trains: resident_every is 0"
    if not algorithm.mutual_kl and (similarity.off or not taught):
        yield f"{SIMILARITY}.ramp", "nothing is exchanged whose weight could rise"
    training = [one for one in scenario.hospitals if not one.held_out]
    taken = {one.architecture.takes for one in training}
    if taken == {"table"}:
        yield f"{SIMILARITY}.region_grid", "regions are the columns of the table"
    elif taken == {"roi"} or all(_has_atlas(one.data) for one in training):
        yield f"{SIMILARITY}.region_grid", "regions are those of the atlas"


def _of_levels(algorithm: FedSKD, *, taught: bool) -> Found:
    """Find what says how maps are compared that nobody compares."""
    similarity, own = algorithm.similarity, algorithm.self_distillation
    compared = False
    for level in ("batch", "pixel", "region"):
        if not taught:
            yield f"{SIMILARITY}.{level}", "nobody is taught: to_visitor or to_resident is 0"
        if (taught and getattr(similarity, level)) or getattr(own, level):
            compared = True
            continue
        for name in ("tap", "grid"):
            yield f"{SIMILARITY}.{level}_{name}", f"nothing has a weight for the {level} level"
    if not compared:
        yield f"{SIMILARITY}.distance", "nothing has a weight for any level"


def _has_atlas(data: Any) -> bool:
    return isinstance(data, SyntheticVolumes) or (isinstance(data, Nifti) and bool(data.atlas))


def _of_circulation(scenario: Scenario) -> Found:
    algorithm = scenario.algorithm
    if algorithm.pattern != "circulation":
        return
    how, schedule, others = scenario.circulating, scenario.schedule, len(scenario.members) - 1
    if schedule.mode == "sequential":
        for key in ("reconcile", "traveller_start"):
            why = "one model at a time travels, and comes home to no other"
            yield f"algorithm.{key}", f"schedule.mode is sequential: {why}"
    elif how and how.reconcile in ("replace", "two_track"):
        why = f"with reconcile {how.reconcile} the traveller sets out anyway"
        yield "algorithm.traveller_start", why
    if schedule.visits and schedule.visits >= others:
        why = f"a model visits all {others} others" if others > 1 else "there is one other"
        yield "algorithm.schedule.visits", why
    if others == 1 and schedule.mode == "parallel":
        yield "algorithm.schedule.order", "of two hospitals each visits the other"


def _of_disturbances(scenario: Scenario) -> Found:
    for index, fault in enumerate(scenario.faults):
        if fault.round is not None or fault.after is not None or fault.what == "late":
            yield f"faults.{index}.seed", "nothing is drawn: it is said when it happens"
    for index, rule in enumerate(scenario.links):
        asked = rule.conditions
        if not (asked.jitter or asked.loss or asked.repeat or asked.reorder or asked.corrupt):
            yield f"links.{index}.seed", "nothing is drawn: no jitter, loss or the like"


def _of_survival(scenario: Scenario) -> Found:
    custody, policy = scenario.custody, scenario.on_loss
    if not custody.enabled:
        for key in ("folder", "keep", "restarts"):
            yield f"custody.{key}", "custody.enabled is false"
    elif policy.name == "abort":
        yield "custody.restarts", "with on_loss abort nobody is started again"
    if policy.name == "wait":
        yield "on_loss.after", "with wait nobody watches for signs of life"
    if not policy.heals:
        yield "on_loss.model", f"with {policy.name} the ring never goes on without a hospital"
    if scenario.network.transport == "ipc":
        yield "network.port", "ipc has no ports"


def _of_data(scenario: Scenario) -> Found:
    for index, one in enumerate(scenario.hospitals):
        if why := _why_in_memory(scenario, one):
            yield f"hospitals.{index}.resources.samples", f"{why} are in memory"
    shared = scenario.data
    if not scenario.learns or isinstance(shared, NoData):
        return
    used = [one.data for one in scenario.hospitals if isinstance(one.data, type(shared))]
    if not used:
        yield "data", "every hospital names other data"
        return
    for name in shared.model_fields_set - {"name", "partition"}:
        if all(getattr(one, name) != getattr(shared, name) for one in used):
            yield f"data.{name}", "every hospital has its own"
    for index, one in enumerate(scenario.hospitals):
        limit = getattr(one.data, "limit", None)
        if one.held_out and limit and limit != getattr(shared, "limit", None):
            yield f"hospitals.{index}.data.limit", "it is held out and trains on nothing"


def _why_in_memory(scenario: Scenario, hospital: Hospital) -> str:
    """Name the samples of a hospital that are in memory whatever it asks for; empty for others."""
    if isinstance(hospital.data, MADE_UP):
        return "samples that are made up"
    if scenario.pools:
        return "pooled samples"
    return "training samples with canaries" if scenario.audit and scenario.audit.canaries else ""
