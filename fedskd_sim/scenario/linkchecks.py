"""What of a scenario's links cannot be, or no run would survive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations

from fedskd_sim.errors import FedskdError, InvalidValue, Key
from fedskd_sim.scenario.explain import nearest
from fedskd_sim.scenario.links import Link, rule_of
from fedskd_sim.scenario.schema import Scenario, Timeouts

CONTROLLER = "controller"
OFTEN = 0.01
"""The largest chance that a model is never confirmed which is taken: a run has many models."""
LOSING = ("loss", "corrupt", "reorder", "partition")
Problem = tuple[Key, str, str]
"""The key of a rule, what is wrong with it, and the fix."""


def tries(timeouts: Timeouts) -> list[float]:
    """Say after how many seconds a model that nobody confirms is sent, the first time after 0.

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
    counts = {id(rule_of(scenario.links, *pair)) for pair in permutations(names, 2)}
    for index, rule in enumerate(scenario.links):
        found = [*_ends(rule, names)]
        if counts and not found and id(rule) not in counts:
            text = "later rules are for all of its links, and the last one counts"
            found.append(("preset" if rule.preset else "", text, "put it behind them"))
        found += [*_values(rule), *_mortal(rule, scenario.timeouts)]
        for key, text, fix in found:
            place = (*under, "links", index, *([key] if key else []))
            yield InvalidValue(text, key=place, fix=fix)


def _ends(rule: Link, names: Sequence[str]) -> Iterator[Problem]:
    """Find hospitals that are not in the scenario, and links that are none."""
    given = [
        ("from", rule.from_),
        ("to", rule.to),
        *(("between", one) for one in rule.between or ()),
    ]
    for key, name in given:
        if name == CONTROLLER:
            text = "the controller's words pass undisturbed: rules are for links between hospitals"
            yield key, text, "name a hospital"
        elif name is not None and name not in names:
            fix = nearest(name, [*names], f"choose one of {', '.join(names)}")
            yield key, f"{name!r} is not a hospital of this scenario", fix
    if rule.between and (rule.from_ or rule.to):
        yield "between", "both 'between' and 'from' or 'to'", "give one of the two"
    if rule.between and len({*rule.between}) == 1:
        yield "between", f"no link leads from {rule.between[0]!r} to itself", "name two hospitals"
    if rule.from_ and rule.from_ == rule.to:
        yield "to", f"no link leads from {rule.to!r} to itself", "name another hospital"


def _values(rule: Link) -> Iterator[Problem]:
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


def _mortal(rule: Link, waits: Timeouts) -> Iterator[Problem]:
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
