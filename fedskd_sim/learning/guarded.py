"""What of a scenario would undo the privacy of a hospital's patients, and what its run will spend,
as far as it takes models and data to know it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from fedskd_sim.errors import FedskdError, InvalidValue, Key
from fedskd_sim.learning.comparable import shape_of
from fedskd_sim.learning.networks.contract import draw_samples
from fedskd_sim.learning.networks.models import build
from fedskd_sim.learning.networks.shapes import ImageShape, one_thread
from fedskd_sim.learning.samples import Facts
from fedskd_sim.learning.sessions.private import refuse_batch_statistics, refuse_mixing
from fedskd_sim.learning.spending import no_subjects
from fedskd_sim.privacy.accountant import SpendingPlan, plan
from fedskd_sim.ring.topology import Topology
from fedskd_sim.scenario import Architecture, Scenario


def find_leaks(scenario: Scenario, known: Sequence[Facts]) -> Iterator[FedskdError]:
    """Find what is wrong with the privacy of hospitals.

    Args:
        scenario: the scenario.
        known: what is known of hospitals' data.

    Yields:
        Errors with the scenario key they belong to.

    """
    facts = {found.counts.host: found for found in known}
    private = [
        one.name for one in scenario.hospitals
        if one.privacy and not one.held_out and one.name in facts
    ]  # fmt: skip
    for name in private:
        try:
            planned(scenario, facts[name])
        except FedskdError as error:
            yield error
    tried = set[str]()
    for name in private:
        for key, chosen in _visiting(scenario, name):
            form = chosen.model_dump_json()
            if form not in tried:
                tried.add(form)
                yield from _try(scenario, chosen, facts[name], key)


def planned(scenario: Scenario, found: Facts) -> SpendingPlan:
    """Plan what a private hospital will spend, by what is known of its data.

    Raises:
        InvalidValue: nobody knows whose its samples are, or as `plan` of the accountant.
        LibraryMissing: there is noise, and no accountant.

    """
    host, samples = found.counts.host, len(found.train_labels)
    privacy = scenario.hospital(host).privacy
    units = samples if privacy and privacy.unit == "sample" else found.patients
    if units is None:
        raise no_subjects(scenario, host)
    return plan(scenario, Topology.of(scenario), host, units, samples)


def lines(scenario: Scenario, known: Sequence[Facts]) -> Iterator[str]:
    """Describe what every hospital's run will spend, and who has no privacy; nothing where no
    hospital has any.
    """
    trains = [one for one in known if one.counts.host in scenario.members]
    private = [one for one in trains if scenario.hospital(one.counts.host).privacy]
    if not private:
        return
    yield "Privacy of training patients, over the whole run (validation and test are not covered):"
    yield from (f"  {planned(scenario, found)}" for found in private)
    others = [name for name in scenario.members if not scenario.hospital(name).privacy]
    if others:
        yield f"  none: {', '.join(others)}"


def _visiting(scenario: Scenario, host: str) -> Iterator[tuple[tuple[Key, ...], Architecture]]:
    """Yield the architectures that train at a hospital, and where they are written."""
    if scenario.common_architecture:
        yield ("algorithm", "architecture"), scenario.common_architecture
        return
    for index, hospital in enumerate(scenario.hospitals):
        travels = scenario.algorithm.pattern == "circulation" and not hospital.held_out
        if hospital.name == host or travels:
            yield ("hospitals", index, "architecture"), hospital.architecture


def _try(
    scenario: Scenario, chosen: Architecture, found: Facts, key: tuple[Key, ...]
) -> Iterator[FedskdError]:
    """Build a network, and refuse it where one patient's answer or gradient is not its own."""
    shape, renewed = shape_of(found), scenario.prediction.keeps_averaged
    try:
        with one_thread():
            if (network := _built(chosen, shape)) is not None:
                refuse_batch_statistics(network, renewed=renewed)
                refuse_mixing(network, draw_samples(shape))
    except InvalidValue as error:
        error.message, error.key = f"{chosen.name}: {error.message}", key
        yield error


def _built(chosen: Architecture, shape: ImageShape) -> nn.Module | None:
    """Build a network that can be asked; None where other checks say what is wrong with it."""
    try:
        network = build(chosen, shape, 0)
        network(draw_samples(shape))
    except Exception:  # noqa: BLE001 - a stranger's code may raise anything
        return None
    return network
