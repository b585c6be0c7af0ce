"""What of a scenario's faults cannot be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType

from fedskd_sim.errors import FedskdError, InvalidValue, Key
from fedskd_sim.scenario.explain import nearest
from fedskd_sim.scenario.faults import COMES_BACK, Fault
from fedskd_sim.scenario.schema import Scenario

TAKES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "restart": ("lasts",),
        "stop": ("lasts",),
        "late": ("lasts",),
        "slow": ("factor", "lasts"),
        "poison": ("factor",),
    }
)
"""The keys, besides when and where, that a kind of fault has."""
NEEDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"restart": ("lasts",), "late": ("lasts",), "slow": ("factor",)}
)
SLOWEST = 10_000
Problem = tuple[str, str, str]
"""The key of a fault, what is wrong with it, and the fix."""


def faulty(
    scenario: Scenario, names: Sequence[str], under: tuple[Key, ...] = ()
) -> Iterator[FedskdError]:
    """Find what is wrong with the faults of a scenario.

    Args:
        scenario: the scenario.
        names: the hospitals as they stand in the file, also those that are wrong otherwise.
        under: the key under which the faults stand, where it is not the top level.

    Yields:
        Errors with their keys.

    """
    for index, fault in enumerate(scenario.faults):
        for key, text, fix in (
            *_unknown(fault, scenario, names, variant=bool(under)),
            *_keys(fault),
            *_impossible(fault, scenario),
            *_impatient(fault, scenario),
        ):
            yield InvalidValue(text, key=(*under, "faults", index, key), fix=fix)
    yield from _late_twice(scenario, under)
    yield from _too_often(scenario, under)
    lost = {fault.hospital for fault in scenario.faults if fault.for_ever}
    left = len({*scenario.members} - lost)
    if scenario.members and (not left or (scenario.on_loss.heals and left == 1)):
        whom = "all hospitals" if not left else "all but one of the hospitals"
        yield InvalidValue(
            f"{whom} that train are stopped for good",
            key=(*under, "faults"),
            fix="leave one of them going, or say how long a stop lasts"
            if not left
            else "leave two of them going: a ring of one is none",
        )


def _unknown(
    fault: Fault, scenario: Scenario, names: Collection[str], *, variant: bool
) -> Iterator[Problem]:
    """Find hospitals, rounds and hops that are not in the scenario."""
    if fault.hospital not in names:
        text = f"{fault.hospital!r} is not a hospital of this scenario"
        yield (
            "hospital",
            text,
            nearest(fault.hospital, [*names], f"choose one of {', '.join(names)}"),
        )
    if variant:  # a comparison gives its method the rounds that equal work takes, and looks then
        return
    last = scenario.algorithm.rounds + 1
    if fault.round and fault.round > last:
        text = f"there is no round {fault.round}: the evaluation is round {last}"
        yield "round", text, f"give {last} or less"
    training = fault.round and fault.round < last
    if training and any(one.name == fault.hospital and one.held_out for one in scenario.hospitals):
        yield "round", f"{fault.hospital!r} is held out and hosts nothing then", f"say {last}"
    most = max(2 * len(scenario.members) - 2, len(scenario.hospitals))
    if fault.hop and fault.hop > most:
        yield "hop", f"no round has a hop {fault.hop}", f"give {most} or less"


def _keys(fault: Fault) -> Iterator[Problem]:
    """Find keys that are missing, or that this kind of fault does not have."""
    given = [key for key in ("lasts", "factor") if getattr(fault, key) is not None]
    for key in given:
        if key not in TAKES.get(fault.what, ()):
            yield key, f"{fault.what!r} has no {key}", "remove it"
    if fault.what == "slow" and fault.factor and not 1 <= fault.factor <= SLOWEST:
        yield "factor", f"steps cannot take {fault.factor:g} times as long", f"say 1 to {SLOWEST}"
    for key in NEEDS.get(fault.what, ()):
        if key not in given:
            yield "what", f"{fault.what!r} without {key}", f"add '{key}: ...' here"
    if fault.hop and not fault.round:
        yield "hop", f"hop {fault.hop} of no round", "add 'round: ...' here"
    if fault.after is not None and fault.round:
        yield "after", "both a round and a time", "give one of the two"
    if fault.what == "late" and (fault.round or fault.after is not None):
        yield "what", "'late' is about the beginning", "remove round, hop and after"


def _impossible(fault: Fault, scenario: Scenario) -> Iterator[Problem]:
    """Find a fault that the scenario's other keys rule out: coming back without custody, poisoned
    weights where there are none.
    """
    if fault.what in (*COMES_BACK, "full_disk") and not scenario.custody.enabled:
        text = f"{fault.what!r} without custody ends the run"
        yield "what", text, "say leave, or remove 'enabled: false' from custody"
    if fault.what == "poison" and not scenario.learns:
        yield "what", "the placebo's models have no weights", "choose another fault or algorithm"


def _impatient(fault: Fault, scenario: Scenario) -> Iterator[Problem]:
    """Find a fault that lasts so long that a time-out would end the run first."""
    waits = scenario.timeouts
    limits = {
        "late": {"register": waits.register_},
        "stop": {"acknowledgement": waits.acknowledgement, "hop": waits.hop},
        "restart": {"acknowledgement": waits.acknowledgement, "hop": waits.hop},
    }
    for name, seconds in limits.get(fault.what, {}).items():
        if fault.lasts is not None and fault.lasts >= seconds:
            text = f"{fault.lasts:g} s, and timeouts.{name} is {seconds:g}"
            yield "lasts", text, f"raise timeouts.{name} above {fault.lasts:g}, or say less"


def _late_twice(scenario: Scenario, under: tuple[Key, ...]) -> Iterator[FedskdError]:
    """Find hospitals that come up late more than once."""
    late = set()
    for index, fault in enumerate(scenario.faults):
        if fault.what == "late" and fault.hospital in late:
            key = (*under, "faults", index, "what")
            yield InvalidValue(
                f"{fault.hospital!r} is late already", key=key, fix="say it once, with one 'lasts'"
            )
        late |= {fault.hospital} if fault.what == "late" else set()


def _too_often(scenario: Scenario, under: tuple[Key, ...]) -> Iterator[FedskdError]:
    """Find deaths at one place that are more than the launcher starts a hospital again from."""
    most, deaths = scenario.custody.restarts, Counter[tuple[str, int | None, int | None]]()
    for index, fault in enumerate(scenario.faults):
        if fault.what in COMES_BACK and scenario.custody.enabled:
            place = fault.hospital, fault.round, fault.hop
            deaths[place] += fault.after is None and fault.round is not None
            if deaths[place] > most or not most:
                text = f"{fault.hospital!r} dies there more often than it is started again ({most})"
                key = (*under, "faults", index, "what")
                yield InvalidValue(text, key=key, fix="raise custody.restarts, or say leave")
