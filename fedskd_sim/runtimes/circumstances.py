"""What a hospital computes with and for: what its lives, and as far as it is code all hospitals of
a run, must have in common.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from fedskd_sim import __version__
from fedskd_sim.runtimes.member import MemberOrder
from fedskd_sim.scenario import Loaded, Scenario

MEANS_NOTHING = frozenset({"description", "timeouts"})
"""Keys that change nothing of what is computed: who waited in vain may wait longer next time."""


def code_of(scenario: Scenario, name: str) -> Mapping[str, str]:
    """Name the code with which the hospital computes."""
    if not scenario.learns:
        return {}
    from fedskd_sim.learning.sources import sources  # noqa: PLC0415 - the placebo runs without PyTorch

    return sources(scenario, name)


def meaning(scenario: Scenario) -> str:
    """Say as JSON what a scenario means, however it is written: all keys that have not their
    default, in an order of their own.
    """
    said = scenario.model_dump(
        mode="json", by_alias=True, exclude_defaults=True, exclude={*MEANS_NOTHING}
    )
    return json.dumps(said, sort_keys=True)


def identity_of(order: MemberOrder, loaded: Loaded, code: Mapping[str, str]) -> Mapping[str, str]:
    """Say what two lives must have in common to compute the same bytes."""
    scenario = loaded.scenario
    found = {
        "run": order.run,
        "hospital": order.name,
        "scenario": meaning(scenario),
        "fedskd_sim": __version__,
    }
    if not scenario.learns:
        return found
    from fedskd_sim.learning.arithmetic import arithmetic  # noqa: PLC0415 - the placebo runs without PyTorch

    return {**found, **arithmetic(scenario.hospital(order.name)), **code}
