"""What of a scenario's faults, links and policy for losses cannot be, or no run would survive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import permutations
from types import MappingProxyType

from fedskd_sim.errors import FedskdError, InvalidValue, Key
from fedskd_sim.scenario.explain import nearest
from fedskd_sim.scenario.faults import (
    COMES_BACK,
    CONTROLLER,
    Fault,
    Link,
    OnLoss,
    rule_of,
)
from fedskd_sim.scenario.schema import Scenario, Timeouts

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


OFTEN = 0.01
"""The largest chance that a model is never confirmed which is taken: a run has many models."""
ASKED = 3
"""So many words in a row without an answer, and a hospital that is done takes the controller for
gone; a test compares it with the protocol's."""
LOSING = ("loss", "corrupt", "reorder", "partition")
SAID_ONCE = ("loss", "reorder", "partition")
"""What words do not survive that are said only once."""
LinkProblem = tuple[Key, str, str]
"""The key of a rule, what is wrong with it, and the fix."""


def tries(timeouts: Timeouts) -> list[float]:
    """List the seconds after which a model that nobody confirms is sent, the first time after 0.

    The same waits as in `fedskd_sim.protocol.delivery`, which a test compares.
    """
    found, silent = [0.0], 0.0
    while True:
        left = max(0.0, timeouts.acknowledgement - silent)
        silent += min(silent + timeouts.retry, left)
        if silent >= timeouts.acknowledgement:
            return found
        found.append(silent)


def find_bad_links(
    scenario: Scenario, names: Sequence[str], under: tuple[Key, ...] = ()
) -> Iterator[FedskdError]:
    """Find what is wrong with the links of a scenario.

    Args:
        scenario: the scenario.
        names: the hospitals as they stand in the file, also those that are wrong otherwise.
        under: the key under which the links stand, where it is not the top level.

    """
    if not scenario.links:
        return
    pairs = permutations([*names, CONTROLLER], 2)
    counts = {id(rule_of(scenario.links, *pair)) for pair in pairs}
    for index, rule in enumerate(scenario.links):
        found = [*_ends(rule, names)]
        if counts and not found and id(rule) not in counts:
            text = "later rules are for all of its links, and the last one counts"
            found.append(("preset" if rule.preset else "", text, "put it behind them"))
        found += _values(rule)
        if rule.of_controller:
            found += _unheard(rule, scenario.timeouts, scenario.on_loss)
        else:
            found += _mortal(rule, scenario.timeouts)
        for key, text, fix in found:
            place = (*under, "links", index, *([key] if key else []))
            yield InvalidValue(text, key=place, fix=fix)


def _ends(rule: Link, names: Sequence[str]) -> Iterator[LinkProblem]:
    """Find hospitals that are not in the scenario, and links that are none."""
    given = [
        ("from", rule.from_),
        ("to", rule.to),
        *(("between", one) for one in rule.between or ()),
    ]
    for key, name in given:
        if name is not None and name not in (CONTROLLER, *names):
            fix = nearest(name, [*names, CONTROLLER], f"choose one of {', '.join(names)}")
            yield key, f"{name!r} is not a hospital of this scenario", fix
    if rule.between and (rule.from_ or rule.to):
        yield "between", "both 'between' and 'from' or 'to'", "give one of the two"
    if rule.between and len({*rule.between}) == 1:
        yield "between", f"no link leads from {rule.between[0]!r} to itself", "name two hospitals"
    if rule.from_ and rule.from_ == rule.to:
        yield "to", f"no link leads from {rule.to!r} to itself", "name another hospital"


def _values(rule: Link) -> Iterator[LinkProblem]:
    """Find values that mean nothing."""
    asked = rule.conditions
    if asked.bandwidth and not asked.rate:
        text = f"nothing passes at {asked.bandwidth} bytes/s"
        yield "bandwidth", text, "give more, or say 'partition' with the times in which it is so"
    if asked.jitter > asked.delay:
        key = "delay" if rule.jitter is None else "jitter"
        text = f"a jitter of {asked.jitter:g} s, and a delay of {asked.delay:g}"
        yield key, text, "nothing arrives before it leaves: a jitter is the delay or less"
    for outage in asked.partition:
        if outage.every and outage.every <= outage.lasts:
            text = f"{outage.words}: it never ends"
            yield "partition", text, f"say 'every' with more than {outage.lasts:g}"


def _mortal(rule: Link, waits: Timeouts) -> Iterator[LinkProblem]:
    """Find what models do not survive: they are sent again only so often, to who is still there."""
    asked, times = rule.conditions, tries(waits)
    cause = next((one for one in LOSING if getattr(rule, one)), "preset")
    ways = 1 if rule.from_ or rule.to else 2
    if (late := ways * (asked.delay + asked.jitter)) >= waits.acknowledgement:
        text = f"a model or its answer is {late:g} s under way, and nobody waits so long for it"
        yield "delay", text, f"raise timeouts.acknowledgement above {late:g}, or say less"
    for outage in asked.partition:
        if outage.lasts >= min(times[-1], waits.hop):
            name = "hop" if waits.hop <= times[-1] else "acknowledgement"
            text = (
                f"{outage.words}: a model that was sent just before is sent for the last time "
                f"{times[-1]:g} s after that, and waited for {waits.hop:g} s"
            )
            yield "partition", text, f"raise timeouts.{name}, or say less"
    left = len(times) - (2 if asked.reorder else 0)  # model and answer may both be held back once
    chance = asked.fails**left if left > 0 else 1.0
    if chance > OFTEN:
        text = (
            f"a model is sent {len(times)} times at most, and {100 * chance:.2g} in 100 may "
            "never be confirmed, which ends the run"
        )
        yield cause, text, "lower timeouts.retry, raise timeouts.acknowledgement, or say less"


def _unheard(rule: Link, waits: Timeouts, policy: OnLoss) -> Iterator[LinkProblem]:
    """Find what a run does not survive of what happens to words from and to the controller, or what
    never happens to them.
    """
    asked, ways = rule.conditions, 2 if rule.between else 1
    if asked.corrupt:
        yield "corrupt", "words are never changed: they have no digest", "remove it"
    limits = {"timeouts.register": waits.register_, "timeouts.goodbye": ASKED * waits.goodbye}
    if policy.beat:
        limits["on_loss.after"] = policy.after
    name = min(limits, key=lambda one: limits[one])
    if (late := ways * (asked.delay + asked.jitter)) >= limits[name]:
        text = f"a word or its answer is {late:g} s under way, and after {limits[name]:g} s without"
        yield "delay", f"{text} the other is taken for gone", f"raise {name}, or say less"
    lossy = next((one for one in SAID_ONCE if getattr(asked, one)), None)
    cause = "preset" if lossy and not getattr(rule, lossy) else lossy or ""
    if lossy and not policy.beat:
        text = "some words from and to the controller are said only once, and none may get lost"
        fix = (
            "say 'on_loss: {name: skip}' or abort, with which hospitals give signs of life and are "
            "told again, or leave the rule with delay, bandwidth and repeat"
        )
        yield cause, text, fix
        return
    if (chance := asked.loss**ASKED) > OFTEN:
        text = f"{ASKED} words in a row are lost {100 * chance:.2g} times in 100"
        yield cause, f"{text}, and then the other is taken for gone", "say less"
    for outage in asked.partition:
        if outage.lasts >= ASKED * waits.goodbye:
            text = f"{outage.words}: who is done then asks {ASKED} times in vain, and leaves"
            yield cause, text, f"raise timeouts.goodbye above {outage.lasts / ASKED:g}, or say less"


FEWEST = 3
"""Of so many hospitals that train one can be lost, and two are left, which is a ring."""


def unbearable(scenario: Scenario) -> Iterator[FedskdError]:
    """Find what is wrong with ``on_loss``; yields errors with their keys."""
    policy, waits = scenario.on_loss, scenario.timeouts
    if policy.heals and scenario.algorithm.pattern == "all_reduce":
        text = f"{scenario.algorithm.name!r} sums over all: without a hospital its share is missing"
        fix = "say wait, or choose an algorithm in which models travel, as fedskd"
        yield InvalidValue(text, key=("on_loss", "name"), fix=fix)
    if policy.heals and len(scenario.members) < FEWEST:
        text = f"with {len(scenario.members)} hospitals that train, nobody is left to go on"
        fix = f"add hospitals, {FEWEST} at least train, or say wait"
        yield InvalidValue(text, key=("on_loss", "name"), fix=fix)
    for name, seconds in (("hop", waits.hop), ("acknowledgement", waits.acknowledgement)):
        if policy.beat and policy.after >= seconds:
            text = f"{policy.after:g} s, but after {seconds:g} (timeouts.{name}) the others give up"
            fix = f"say less, or raise timeouts.{name} above {policy.after:g}"
            yield InvalidValue(text, key=("on_loss", "after"), fix=fix)
            return
