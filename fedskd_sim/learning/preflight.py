"""What can be known to be wrong before anything starts: architectures, grids, label spaces,
data, devices.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np

from fedskd_sim.errors import (
    ArchitecturesDiffer,
    DataMissing,
    FedskdError,
    InvalidValue,
    Key,
    NoTrainingSamples,
    OneClassOnly,
    ScenarioError,
)
from fedskd_sim.learning.comparable import compare, inputs_of, no_data, shape_of
from fedskd_sim.learning.data import facts
from fedskd_sim.learning.devices import find_missing_devices
from fedskd_sim.learning.networks.buildable import (
    Contracts,
    check_architecture,
    images_as_volumes,
    itself,
)
from fedskd_sim.learning.networks.models import blueprint, kind_of, names
from fedskd_sim.learning.networks.shapes import ImageShape
from fedskd_sim.learning.networks.trainable import part_of
from fedskd_sim.learning.samples import Facts
from fedskd_sim.learning.sessions.own import find_wrong_loss, needs_one_label
from fedskd_sim.learning.task import count_labels
from fedskd_sim.scenario import (
    Architecture,
    FedSKD,
    Hospital,
    Scenario,
    Schedule,
)

COMMON: tuple[Key, ...] = ("algorithm", "architecture")


def find_problems(
    scenario: Scenario,
    folder: Path | None,
    seen: Callable[[Facts], None] = lambda _: None,
    doubtful: Collection[int] = (),
    *,
    tell: Callable[[str], None] = lambda _: None,
) -> Iterator[FedskdError]:
    """Find everything wrong with a scenario that takes its models and its data to find out.

    Args:
        scenario: the scenario.
        folder: where data files are; None looks at the environment.
        seen: is told what is known of every hospital's data.
        doubtful: hospitals, counted from 0, in which something is known to be wrong: of these only
            what does not depend on it is told, and nothing that compares hospitals.
        tell: is told the name of every hospital before its data is read, which may take long.

    Yields:
        Errors with the scenario key they belong to.

    """
    if not scenario.learns:
        return
    known, held = list[tuple[str, Facts]](), Contracts()
    for index, hospital in enumerate(scenario.hospitals):
        chosen, place = _architecture_of(scenario, index)
        yield from (wrong := [*itself(chosen, place)])
        found = _facts(scenario, index, folder, tell, doubtful=index in doubtful)
        if isinstance(found, FedskdError):
            yield found
        elif found is not None:
            known.append((hospital.name, found))
            seen(found)
            yield from () if hospital.held_out else _samples(index, hospital, found)
            yield from () if wrong else _architecture(scenario, chosen, place, found, held)
            yield from () if doubtful else compare(index, hospital, found, known)
    yield from _algorithm(scenario, known[0][1] if known else None, held)
    yield from () if doubtful else _together(scenario, [one for _, one in known])
    yield from find_missing_devices(scenario)


def _together(scenario: Scenario, known: list[Facts]) -> Iterator[FedskdError]:
    """Check what takes all hospitals to know, and what private ones ask for."""
    yield from _common(scenario)
    if scenario.algorithm.alike and known:
        yield from _alike(scenario, shape_of(known[0]))
    if any(one.privacy for one in scenario.hospitals):
        from fedskd_sim.learning.guarded import find_leaks  # noqa: PLC0415 - only privacy pays for it

        yield from find_leaks(scenario, known)


def _facts(
    scenario: Scenario,
    index: int,
    folder: Path | None,
    tell: Callable[[str], None],
    *,
    doubtful: bool,
) -> Facts | ScenarioError | None:
    """Return what is known of a hospital's data, or what is wrong with it; None where that may be
    so only because something else is.
    """
    hospital = scenario.hospitals[index]
    tell(hospital.name)
    try:
        found = facts(hospital.data, hospital.name, scenario.seed, folder)
    except ScenarioError as error:
        error.key = ("hospitals", index, *error.key)
        return error if isinstance(error, DataMissing) or not doubtful else None
    if doubtful:
        return None
    return no_data(hospital.name, ("hospitals", index)) if found is None else found


def _algorithm(scenario: Scenario, found: Facts | None, held: Contracts) -> Iterator[FedskdError]:
    """Check what the algorithm itself asks for."""
    algorithm = scenario.algorithm
    yield from find_wrong_loss(algorithm)
    yield from _one_label(scenario) if found and found.multi_label else ()
    if algorithm.pattern != "circulation" and scenario.schedule != Schedule():
        text = f"with {algorithm.name!r} nothing travels by a schedule: it is {algorithm.pattern}"
        fix = "leave it out; only where models circulate there is an order of hospitals"
        yield InvalidValue(text, key=("algorithm", "schedule"), fix=fix)
    beside = getattr(algorithm, "architecture", None)  # of a common model that is not the only one
    if beside and not algorithm.averages:
        wrong = [*itself(beside, COMMON)]
        yield from wrong
        yield from (
            () if wrong or found is None else _architecture(scenario, beside, COMMON, found, held)
        )
    if found and found.kind == "table" and scenario.circulating:
        yield from _pixels_of_rows(scenario.circulating)
    if (
        found
        and found.kind == "roi"
        and scenario.circulating
        and scenario.circulating.similarity.pixel_grid
    ):
        text = "connectivity has no grid: every region of the atlas is an item"
        yield InvalidValue(
            text, key=("algorithm", "similarity", "pixel_grid"), fix="leave pixel_grid out"
        )


def _one_label(scenario: Scenario) -> Iterator[FedskdError]:
    """Refuse what takes one class for each sample, where samples have several labels."""
    algorithm, adjusted = scenario.algorithm, scenario.prediction.logit_adjustment
    why = "needs one class for each sample, and the data have several labels per sample"
    if algorithm.one_label:
        fix = "choose another algorithm, such as fedskd, fedavg or local, or data with one label"
        yield InvalidValue(f"{algorithm.name!r} {why}", key=("algorithm", "name"), fix=fix)
    if needs_one_label(algorithm):
        fix = "choose another loss, or data with one label"
        yield InvalidValue(f"the loss {algorithm.loss!r} {why}", key=("algorithm", "loss"), fix=fix)
    if adjusted:
        text, key = f"{adjusted:g} cannot be used: logit adjustment {why}", "logit_adjustment"
        fix = "leave it out; thresholds are chosen on validation data instead"
        yield InvalidValue(text, key=("prediction", key), fix=fix)
    if scenario.audit:
        fix = "leave audit out, or choose data with one label"
        yield InvalidValue(f"an audit {why}", key=("audit",), fix=fix)


def _pixels_of_rows(how: FedSKD) -> Iterator[FedskdError]:
    """Refuse the level of places where samples are rows of a table."""
    for name, levels in (
        ("similarity", how.similarity),
        ("self_distillation", how.self_distillation),
    ):
        if levels.pixel:
            text = f"rows of a table have no places, and pixel is {levels.pixel:g}"
            fix = f"set algorithm.{name}.pixel to 0; batch compares patients, region columns"
            yield InvalidValue(text, key=("algorithm", name, "pixel"), fix=fix)


def _samples(index: int, hospital: Hospital, found: Facts) -> Iterator[FedskdError]:
    """Check that a hospital has something to learn."""
    key: tuple[Key, ...] = ("hospitals", index, "data")
    present = np.unique(found.train_labels)
    if not len(present):
        yield NoTrainingSamples(
            f"{hospital.name!r} has no training samples",
            key=key,
            fix="give it data, or leave it out",
        )
    elif len(present) == 1:
        several = found.multi_label
        counted = count_labels(present, found.classes, multi_label=several)
        text = (
            f"all {len(found.train_labels)} training samples of {hospital.name!r} "
            f"{'have the same labels' if several else 'are'} {next(iter(counted))!r}"
        )
        cut = (
            ", or cut the data set with a larger alpha or another seed"
            if getattr(hospital.data, "partition", None)
            else ""
        )
        yield OneClassOnly(text, key=key, fix="give it a second class, or leave it out" + cut)


def _common(scenario: Scenario) -> Iterator[FedskdError]:
    """Refuse different architectures where models are averaged."""
    if not scenario.averages or scenario.common_architecture:
        return
    first = scenario.hospital(scenario.members[0])
    for index, hospital in enumerate(scenario.hospitals):
        if not hospital.held_out and hospital.architecture != first.architecture:
            text = (
                f"{hospital.name!r} has {_describe(hospital.architecture)}, {first.name!r} has "
                f"{_describe(first.architecture)}"
            )
            fix = (
                f"{scenario.algorithm.name} averages models of one architecture: make them equal, "
                "or set algorithm.architecture"
            )
            yield ArchitecturesDiffer(text, key=("hospitals", index, "architecture"), fix=fix)


def _alike(scenario: Scenario, shape: ImageShape) -> Iterator[FedskdError]:
    """Refuse networks whose part has not the form that it has at the first hospital; who lacks it,
    or cannot be built, is told of elsewhere.
    """
    name, forms = scenario.algorithm.alike, dict[str, tuple[str, ...]]()
    for index, hospital in enumerate(scenario.hospitals):
        chosen, key = _architecture_of(scenario, index)
        try:
            network = blueprint(chosen, shape)
        except Exception:  # noqa: BLE001, S112 - a stranger's code may raise anything
            continue
        part = part_of(network, name, shape.classes) if name else frozenset()
        if hospital.held_out or not part:
            continue
        tensors = network.state_dict()
        forms[hospital.name] = tuple(
            " x ".join(map(str, tensors[one].shape)) for one in sorted(part)
        )
        first, *_ = forms
        if forms[hospital.name] != forms[first]:
            own, other = (" and ".join(reversed(forms[one])) for one in (hospital.name, first))
            text = f"the {name} of {hospital.name!r} has {own} numbers, that of {first!r} {other}"
            fix = (
                f"{scenario.algorithm.name} needs one form of {name}: choose networks, or options "
                "such as width, with as many features before it"
            )
            yield ArchitecturesDiffer(text, key=key, fix=fix)


def _describe(architecture: Architecture) -> str:
    chosen = ", ".join(f"{name} {value}" for name, value in architecture.options.items())
    return architecture.name + (f" ({chosen})" if chosen else "")


def _architecture_of(scenario: Scenario, index: int) -> tuple[Architecture, tuple[Key, ...]]:
    """Return the architecture of a hospital's model and say where it is written; two hospitals may
    still have one name.
    """
    common = scenario.common_architecture
    return (
        (common, COMMON)
        if common
        else (scenario.hospitals[index].architecture, ("hospitals", index, "architecture"))
    )


def _architecture(
    scenario: Scenario, chosen: Architecture, key: tuple[Key, ...], found: Facts, held: Contracts
) -> Iterator[FedskdError]:
    shape = shape_of(found)
    if chosen.takes != found.kind:
        fitting = [name for name in names() if kind_of(name) == found.kind]
        text = f"{chosen.name} cannot take {inputs_of(found)}"
        fix = f"{images_as_volumes(shape)}choose one of {', '.join(fitting)}, or other data"
        if chosen.is_class:
            fix = f"say 'input: {found.kind}' if it takes them; else {fix}"
        yield InvalidValue(text, key=key, fix=fix)
        return
    try:
        yield from check_architecture(
            chosen, shape, key, scenario.algorithm, atlas=found.atlas is not None, held=held
        )
    except FedskdError as error:
        error.key = (*key, *error.key)
        yield error
