"""What of a scenario's policy for losses cannot be."""

from __future__ import annotations

from collections.abc import Iterator

from fedskd_sim.errors import FedskdError, InvalidValue
from fedskd_sim.scenario.schema import Scenario

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
